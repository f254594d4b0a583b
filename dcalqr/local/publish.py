"""A part gets its final name: only over the file that the plan saw, or over nothing if it saw none."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from dcalqr import errors
from dcalqr.local.directories import unlinked
from dcalqr.local.standing import what_stands
from dcalqr.orders import CopyOrder

_NO_NOREPLACE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}  # NFS says EINVAL
_NO_LINK = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # FAT says EPERM
_RENAME_NOREPLACE = 1  # <linux/fs.h>


def rename(fd: int, order: CopyOrder) -> None:
    """Rename the order's part, which lies in the directory `fd`; not yet durable.

    Raises
    ------
    FinalNameChanged
        Something else than the plan saw stands there now.
    NotAFile
        What stands there is no regular file.
    OSError
        As the operating system answered.
    """
    if order.seen is None:
        _rename_to_new(fd, order.part_name, order.final_name)
        return
    if what_stands(fd, order.final_name) != order.seen:
        raise errors.FinalNameChanged
    os.rename(order.part_name, order.final_name, src_dir_fd=fd, dst_dir_fd=fd)


def _load_renameat2() -> Callable[..., int] | None:
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return found  # None: a C library older than glibc 2.28


_renameat2 = _load_renameat2()


def _rename_to_new(fd: int, part: bytes, final: bytes) -> None:
    """Rename where nothing stands: by renameat2, else by link and unlink, else check and rename."""
    try:
        _rename_noreplace(fd, part, final)
    except FileExistsError:
        _refuse(fd, final)
    except OSError as error:
        if error.errno not in _NO_NOREPLACE:
            raise
        _link(fd, part, final)


def _rename_noreplace(fd: int, part: bytes, final: bytes) -> None:
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _renameat2(fd, part, fd, final, _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _link(fd: int, part: bytes, final: bytes) -> None:
    try:
        os.link(part, final, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
    except FileExistsError:
        if what_stands(fd, final) != what_stands(fd, part):  # equal: NFS sent our own LINK twice
            _refuse(fd, final)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if what_stands(fd, final) is not None:
            raise errors.FinalNameChanged from None
        os.rename(part, final, src_dir_fd=fd, dst_dir_fd=fd)
        return
    unlinked(fd, part)  # if it stays, the file is published all the same, and the sweep takes the second name


def _refuse(fd: int, final: bytes) -> None:
    """Raise what fits the thing that stands under the final name."""
    what_stands(fd, final)
    raise errors.FinalNameChanged
