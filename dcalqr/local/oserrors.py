"""What the operating system refused on the way of a file, said as one of `errors`: by what happens next."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from dcalqr import errors

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_MOUNT = {errno.EROFS, errno.ESTALE, errno.ENOTCONN}
_NO_PERMISSION = {errno.EACCES, errno.EPERM}
NO_FILE_HANDLES = {errno.EMFILE, errno.ENFILE}


def translated(operation: str, error: OSError) -> errors.TryError:
    """Say as one of `errors` what the operating system refused.

    Permission is not judged here, for want of the folder it concerns: see `_permission`.
    """
    why = error.strerror or str(error)
    if error.errno in NO_SPACE:
        return errors.NoSpace(why=f"{operation}: {why}")
    if error.errno in _NO_MOUNT:
        return errors.MountMissing(why=f"{operation}: {why}")
    if error.errno == errno.ENAMETOOLONG:
        return errors.NameTooLong(why=why)
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return errors.NotAFile(what="has a symbolic link or a file where a directory is meant to be")
    if error.errno in NO_FILE_HANDLES:
        return errors.TransientError(why=f"{operation}: {why}")
    return errors.WriteFailed(operation=operation, why=why)


@contextlib.contextmanager
def translating(operation: str) -> Iterator[None]:
    """Let no OSError out, as `border` does, where no open download folder tells whom a permission concerns."""
    try:
        yield
    except OSError as error:
        raise translated(operation, error) from error


def _permission(root_fd: int, operation: str, error: OSError) -> errors.TryError:
    """A download folder we may not write into holds everything; a place inside it concerns this file only."""
    why = f"{operation}: {error.strerror}"
    if os.access(".", os.W_OK | os.X_OK, dir_fd=root_fd, effective_ids=True):
        return errors.PermanentError(why=why)
    return errors.MountMissing(why=why)


class border:  # noqa: N801 - reads as a statement; a class, because a generator costs five times as much per use
    """Let no OSError out: each leaves as one of `errors`; `root_fd` is the download folder's."""

    __slots__ = ("_operation", "_root_fd")

    def __init__(self, root_fd: int, operation: str) -> None:
        self._root_fd = root_fd
        self._operation = operation

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in _NO_PERMISSION:
            raise _permission(self._root_fd, self._operation, error) from error
        raise translated(self._operation, error) from error
