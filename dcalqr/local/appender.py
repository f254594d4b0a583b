"""A file that only grows, by whole lines: one writer, and durable when `append` returns."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import aiofiles

from dcalqr import errors

_TAIL_BYTES = 64 * 1024  # how much is read at a time when the last newline is sought
_REOPENINGS = 3  # who moves the file away more often during one append does it on purpose

_T = TypeVar("_T")


class Appender:
    """One file that only grows, by whole lines, locked for as long as it is open; appends share an fsync.

    Every blocking call runs in the given executor, never in the loop's own.

    Parameters
    ----------
    header
        The first line that the file must have, newline included, and gets if it is new; empty: none.
    """

    def __init__(self, path: str, executor: Executor, header: bytes = b"") -> None:
        self.path = path
        self._executor = executor
        self._header = header
        self._file: Any = None
        self._good_bytes = 0
        self._torn = False
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def _run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def open(self) -> None:
        """Lock the file, make it with its header if it is missing, cut a torn last line.

        Raises
        ------
        CannotCreate
            It cannot be made, another process has it, or its first line is not the header.
        NoPermission
            It may not be written.
        """
        try:
            await self._open()
        except OSError as error:
            raise _start_error(self.path, error) from error

    async def _open(self) -> None:
        # Unbuffered: a write is a system call, and what it returns is what is in the file.
        self._file = await aiofiles.open(self.path, "a+b", buffering=0, opener=_opener, executor=self._executor)
        try:
            await self._run(fcntl.flock, self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            await self._prepare()
        except BaseException:
            await self._close_file()
            raise

    async def _prepare(self) -> None:
        self._good_bytes = await self._run(_cut_tail, self._file.fileno(), self.path, self._header)
        self._torn = False
        if self._good_bytes == 0:
            await self._write_all(self._header)
            await self._run(_sync_made, self._file.fileno(), self.path)
            self._good_bytes = len(self._header)

    async def append(self, line: bytes) -> None:
        """Write a line, newline included; durable on return.

        A caller who is cancelled meanwhile cannot tell whether the line is in.

        Raises
        ------
        NoSpace, WriteFailed
            The line is not in the file.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await asyncio.shield(future)

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure = await self._failure_of(self._store(b"".join(line for line, _ in batch)))
            for _, future in batch:
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)

    async def _failure_of(self, work: Awaitable[None]) -> Exception | None:
        try:
            await work
        except OSError as error:
            return _refusal(self.path, error)
        except errors.StartError as error:  # the path has become another's file
            return errors.WriteFailed(operation="append", why=str(error))
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            return error
        return None

    async def _store(self, lines: bytes) -> None:
        for _ in range(_REOPENINGS):
            if self._file is None:
                await self._open()
            await self._mend()
            await self._write_durably(lines)
            if await self._run(_is_at, self._file.fileno(), self.path):
                return
            await self._close_file()  # moved away under our hands: the lines belong to the path, not to the inode
        raise errors.WriteFailed(operation="append", why=f"{self.path} is moved away again and again")

    async def _mend(self) -> None:
        size = (await self._run(os.fstat, self._file.fileno())).st_size
        if self._torn and size >= self._good_bytes:
            await self._file.truncate(self._good_bytes)
            self._torn = False
        elif size != self._good_bytes:
            await self._prepare()  # somebody cut it, or wrote into it

    async def _write_durably(self, lines: bytes) -> None:
        self._torn = True
        try:
            await self._write_all(lines)
            await self._run(os.fsync, self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                await self._mend()  # if this fails too, the next append begins with it
            raise
        self._good_bytes += len(lines)
        self._torn = False

    async def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[await self._file.write(rest) :]

    async def close(self) -> None:
        """Wait for appends under way, close and unlock; may be called again."""
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait([self._flushing])
        await self._close_file()

    async def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await file.close()


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o640)  # paths and names of persons: not for everybody


def _cut_tail(fd: int, path: str, header: bytes) -> int:
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


def _sync_made(fd: int, path: str) -> None:
    os.fsync(fd)
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _start_error(path: str, error: OSError) -> errors.StartError:
    if isinstance(error, BlockingIOError):
        return errors.CannotCreate(path=path, why="another dcalqr writes it; put {instance} into the path")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return errors.NoPermission(path=path, why=error.strerror)
    return errors.CannotCreate(path=path, why=error.strerror)


def _refusal(path: str, error: OSError) -> errors.TryError:
    why = f"{path}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return errors.NoSpace(why=why)
    return errors.WriteFailed(operation="append", why=why)
