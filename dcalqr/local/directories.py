"""Directories below the download folder, reached by `dir_fd` and `O_NOFOLLOW`, one component after another.

No symbolic link leads out of the folder that way. Every OSError leaves here as it is: see `oserrors.border`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _walk(root_fd: int, directory: tuple[bytes, ...]) -> int:
    """Open a directory below the root that exists; the caller closes it."""
    first, *rest = directory or (b".",)
    fd = os.open(first, DIRECTORY, dir_fd=root_fd)
    for name in rest:
        fd = _step(fd, name)
    return fd


def _step(fd: int, name: bytes) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(root_fd: int, directory: tuple[bytes, ...]) -> Iterator[int]:
    """Open a directory below the root that exists, for as long as the context lasts."""
    fd = _walk(root_fd, directory)
    try:
        yield fd
    finally:
        os.close(fd)


def make_directory(fd: int, name: bytes, mode: int) -> bool:
    """Make a directory unless it is there; returns whether its setgid bit was dropped.

    Durable on return if it was made here. One that was found may not be yet: its maker is about to sync it, or was
    killed before. What is published below it brings it along (seen on ext4, xfs and btrfs: the fsync of a file or
    directory writes the new directories above it, too).
    """
    try:
        os.mkdir(name, mode & 0o777, dir_fd=fd)
    except FileExistsError:
        return False  # another instance's, or another order's: normal
    try:
        made = os.open(name, DIRECTORY, dir_fd=fd)
        try:
            os.fchmod(made, mode)  # the umask has no say
            dropped = bool(mode & stat.S_ISGID) and not os.fstat(made).st_mode & stat.S_ISGID
        finally:
            os.close(made)
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=fd)  # so that the next try makes it anew, wholly
        raise
    return dropped


def unlinked(fd: int, name: bytes) -> bool:
    """Remove a file from a directory; returns whether it is gone, and never raises."""
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
