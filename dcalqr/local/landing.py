"""One file's way onto the disk: part, write, fsync, publish. Blocking.

Every path is walked below a descriptor of the download folder, and no symbolic link leads out of it (`directories`).
Every OSError leaves here as one of `errors` (`oserrors`).
"""

from __future__ import annotations

import contextlib
import os
from typing import Self

from dcalqr import errors
from dcalqr.local import attributes, publish
from dcalqr.local.directories import DIRECTORY, make_directory, unlinked
from dcalqr.local.oserrors import NO_FILE_HANDLES, border, translated
from dcalqr.local.standing import seen_of, what_stands
from dcalqr.orders import CopyOrder, Seen

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_root(path: str) -> int:
    """Open the download folder and return its descriptor.

    Raises
    ------
    MountMissing
        It is not there, is no directory, or may not be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NO_FILE_HANDLES:
            raise translated("open", error) from error
        raise errors.MountMissing(why=f"{path}: {error.strerror}") from error


class Part:
    """A part file while it is written, until it is published or discarded; a context manager that discards.

    Attributes
    ----------
    setgid_dropped
        A directory that was made lost its setgid bit: the service user is not in the directory's group.
    size_bytes
        What was written so far.
    """

    def __init__(self, root_fd: int, order: CopyOrder) -> None:
        self.setgid_dropped = False
        self.size_bytes = 0
        self._root_fd = root_fd
        self._order = order
        self._directory_fd: int | None = None
        self._fd: int | None = None
        self._created = False
        self._file: Seen | None = None

    @classmethod
    def create(cls, root_fd: int, order: CopyOrder) -> Part:
        """Make the missing directories and the part file.

        Raises
        ------
        NoSpace, MountMissing, NameTooLong, NotAFile, PermanentError, TransientError
            As the operating system answered; nothing but directories is left behind.
        """
        part = cls(root_fd, order)
        try:
            with border(root_fd, "create"):
                part._open()
        except errors.DcalqrError:
            part.discard()
            raise
        return part

    def _open(self) -> None:
        for name in self._order.directory or (b".",):
            parent = self._directory_fd
            self._directory_fd = self._below(self._root_fd if parent is None else parent, name)
            if parent is not None:
                os.close(parent)
        self._fd = os.open(self._order.part_name, _CREATE, 0o600, dir_fd=self._directory_fd)
        self._created = True

    def _below(self, fd: int, name: bytes) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, DIRECTORY, dir_fd=fd)
        self.setgid_dropped |= make_directory(fd, name, self._order.directory_mode)
        return os.open(name, DIRECTORY, dir_fd=fd)

    def write(self, block: memoryview) -> None:
        """Append a block, whole.

        Raises
        ------
        NoSpace, MountMissing, WriteFailed
            The part is of no further use.
        """
        assert self._fd is not None
        with border(self._root_fd, "write"):
            while block:
                written = os.write(self._fd, block)
                self.size_bytes += written
                block = block[written:]

    def finish(self, pnfsid: str, adler32: int | None) -> None:
        """Write the attributes, the mode, everything to the disk, and close.

        An empty `pnfsid` and an `adler32` of None are not recorded. A failed fsync is never tried again.

        Raises
        ------
        WriteFailed
            Also when the part is longer or shorter than what was written: somebody else has had it in hand.
        NoSpace, MountMissing, PermanentError, TransientError
            As the operating system answered.
        """
        assert self._fd is not None
        with border(self._root_fd, "fstat"):
            found = os.fstat(self._fd)
        if found.st_size != self.size_bytes:
            why = f"the part has {found.st_size} bytes, {self.size_bytes} were written"
            raise errors.WriteFailed(operation="write", why=why)
        with border(self._root_fd, "xattr"):
            # Before fchmod: a read-only mode forbids it to the owner.
            attributes.write(self._fd, found, pnfsid, adler32)
        with border(self._root_fd, "fchmod"):
            os.fchmod(self._fd, self._order.file_mode)
        with border(self._root_fd, "fsync"):
            os.fsync(self._fd)
            self._file = seen_of(os.fstat(self._fd))
        with border(self._root_fd, "close"):
            fd, self._fd = self._fd, None
            os.close(fd)

    def publish(self) -> None:
        """Give the finished part its final name, but only over what the plan saw; durable on return.

        Raises
        ------
        FinalNameChanged
            Something else stands there now: plan again.
        NotAFile
            What stands there is no regular file.
        """
        assert self._fd is None
        assert self._directory_fd is not None
        with border(self._root_fd, "publish"):
            publish.rename(self._directory_fd, self._order)
        self._created = False  # it bears its final name now
        with border(self._root_fd, "fsync of the directory"):
            self._sync(self._directory_fd)

    def _sync(self, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError:
            # What may vanish at a power cut must not be taken for landed by the next try.
            with contextlib.suppress(OSError, errors.NotAFile):
                if what_stands(fd, self._order.final_name) == self._file:
                    os.unlink(self._order.final_name, dir_fd=fd)
            raise

    def discard(self) -> bool:
        """Close everything and remove the part if it is still there; never raises, and may be called again.

        Returns
        -------
        bool
            False: the part could not be removed and is left to the sweep.
        """
        gone = True
        with contextlib.suppress(OSError):
            if self._fd is not None:
                os.close(self._fd)
        self._fd = None
        if self._directory_fd is not None:
            gone = not self._created or unlinked(self._directory_fd, self._order.part_name)
            os.close(self._directory_fd)
            self._directory_fd = None
        return gone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def __repr__(self) -> str:
        state = "gone" if self._directory_fd is None else "finished" if self._fd is None else "open"
        return f"<Part {self._order.part_name!r} {state}, {self.size_bytes} bytes>"
