"""What an appender asks of the file system: where the whole lines end, whose file this is, which lines are missing.

Blocking.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b

from dcalqr import errors

_TAIL_BYTES = 64 * 1024  # how much is read at a time when the last newline is sought
_WRITE_BYTES = 1024 * 1024  # how much is written at a time when lines are put back
# Of the newest lines, in case somebody writes an older state into the file: rows have 1 to 3 KiB.
_NEWEST_BYTES = 1024 * 1024

MOVED = "moved away"
REMOVED = "removed"
REPLACED = "replaced"


class Newest:
    """The newest lines of a file, a mebibyte of them."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0

    def add(self, batch: list[bytes]) -> None:
        self._lines += batch
        self._bytes += sum(map(len, batch))
        while self._bytes > _NEWEST_BYTES:
            self._bytes -= len(self._lines.popleft())

    def clear(self) -> None:
        self._lines.clear()
        self._bytes = 0

    def all(self) -> list[bytes]:
        return list(self._lines)


def cut_tail(fd: int, path: str, header: bytes) -> int:
    """Cut what a kill left behind the last newline, if the file is ours; returns its length."""
    size = os.fstat(fd).st_size
    begin = os.pread(fd, len(header), 0)
    torn_header = size < len(header) and header.startswith(begin)
    if begin != header and not torn_header:
        raise errors.CannotCreate(path=path, why="its first line is not the header of this dcalqr; move the file away")
    good = last_newline(fd, size)
    if good < size:
        os.ftruncate(fd, good)
    return good


def last_newline(fd: int, end: int) -> int:
    """Bytes up to and including the last newline before `end`."""
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def sync_made(fd: int, path: str) -> None:
    """Make a file and its name durable."""
    os.fsync(fd)
    sync_folder(path)


def sync_folder(path: str) -> None:
    """Make the names beside a path durable."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_at(fd: int, path: str) -> bool:
    """Whether the path still names this open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ESTALE:  # removed by another host
            return False
        raise


def what_happened(fd: int, path: str, header: bytes) -> str:
    """Say what became of an open file that the path does not name any more.

    A file that lives on under another name, with nothing in its place, was moved away as a whole. Whatever stands in
    its place with content was made from it: an editor keeps the old one as a backup, and writes what it had read.
    """
    # NFS keeps a removed file that is open under such a name, and removes it when it is closed.
    lives_on = os.fstat(fd).st_nlink > 0 and not os.path.basename(name_of(fd)).startswith(".nfs")
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return MOVED if lives_on else REMOVED
    return MOVED if lives_on and size <= len(header) else REPLACED


def name_of(fd: int) -> str:
    """The path under which an open file is now."""
    return os.readlink(f"/proc/self/fd/{fd}")


def in_memory(lines: list[bytes]) -> tuple[int, int]:
    """Return an open file of these lines that is nowhere but in memory, and its length."""
    content = bytearray(b"".join(lines))
    fd = os.memfd_create("rows", os.MFD_CLOEXEC)
    _write_all(fd, content)
    return fd, len(content)


def put_back(old_fd: int, old_length: int, fd: int) -> int:
    """Append to a file the whole lines in the first bytes of another that it lacks; durable; returns how many."""
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        present = {_digest(line) for line in file}
    count, waiting = 0, bytearray()
    for line in _lines(old_fd, old_length):
        if _digest(line) not in present:
            count += 1
            waiting += line
        if len(waiting) >= _WRITE_BYTES:
            _write_all(fd, waiting)
            waiting = bytearray()
    _write_all(fd, waiting)
    if count:
        os.fsync(fd)
    return count


def lacking(lines: list[bytes], fd: int) -> list[bytes]:
    """Return those of the lines that are not in an open file."""
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        present = {_digest(line) for line in file}
    return [line for line in lines if _digest(line) not in present]


def start_error(path: str, error: OSError) -> errors.StartError:
    """Say why a file cannot be opened for appending."""
    if isinstance(error, BlockingIOError):
        return errors.CannotCreate(path=path, why="another dcalqr writes it; put {instance} into the path")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return errors.NoPermission(path=path, why=error.strerror)
    return errors.CannotCreate(path=path, why=error.strerror)


def refusal(path: str, error: OSError) -> errors.TryError:
    """Say why lines cannot be appended."""
    locked = isinstance(error, BlockingIOError)
    why = f"{path}: {'another process has it locked' if locked else error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return errors.NoSpace(why=why)
    return errors.WriteFailed(operation="append", why=why)


def _digest(line: bytes) -> bytes:
    # A row may have 64 KiB, a file a hundred thousand of them.
    return blake2b(line, digest_size=16).digest()


def _lines(fd: int, length: int) -> Iterator[bytes]:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        while file.tell() < length:
            yield file.readline(length - file.tell())


def _write_all(fd: int, data: bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
