"""The log as a file, for those without a journal: reopened under its path when it was rotated."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dcalqr import errors

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE = 0o640  # paths and names of persons: not for everybody


class LogFile:
    """A log file. `stream` is what `log.configure` takes; it stays the same when the file is reopened.

    Raises
    ------
    CannotCreate, NoPermission
        It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Unbuffered: a line is one system call, whole whatever other threads and processes write.
            self.stream = open(path, "ab", buffering=0, opener=lambda name, _: os.open(name, _FLAGS, _MODE))  # noqa: SIM115
        except OSError as error:
            refused = error.errno in {errno.EACCES, errno.EPERM}
            kind = errors.NoPermission if refused else errors.CannotCreate
            raise kind(path=str(path), why=error.strerror) from error

    def reopen(self) -> None:
        """Go on in the file that the path names now, and make it if need be; raises OSError, then the old one stays."""
        fresh = os.open(self.path, _FLAGS, _MODE)
        try:
            os.dup2(fresh, self.stream.fileno(), inheritable=False)  # at one stroke: no line of a thread is lost
        finally:
            os.close(fresh)
