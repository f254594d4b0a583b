"""A file that only grows, by whole lines: one writer, and durable when `append` returns.

Whatever others do to the file while it is open (move, remove, replace, empty, edit) is noticed, and no line that was
durable is missing afterwards: neither in the file nor in the one that it was moved to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

import aiofiles

from dcalqr import errors
from dcalqr.local import handover, lines

_REOPENINGS = 3  # who moves the file away more often during one append does it on purpose
# A compaction of a hundred thousand rows takes a second.
HANDOVER_SECONDS = 20.0
# From the rename of a compaction to the end of its locks, an fsync of the folder; nobody can see that it is one.
_TAIL_SECONDS = 2.0
_HANDOVER_LOOK_SECONDS = 0.05

_T = TypeVar("_T")


class Touched(NamedTuple):
    """What others did to the file: how, in words, and how many lines were put back; `to` is where it is now."""

    how: str
    put_back: int
    to: str = ""


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
        self._looking: asyncio.Task[Exception | None] | None = None
        self._closing = False
        self._turn = asyncio.Lock()
        self._newest = lines.Newest()
        # Files that lost their path: descriptor, good bytes, what happened. Open until their lines are in place.
        self._orphans: list[tuple[int, int, str]] = []
        self._touched: list[Touched] = []

    async def _run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    # --- opening --------------------------------------------------------------------------------------------------

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
            await self._open_when_free()
        except OSError as error:
            raise lines.start_error(self.path, error) from error

    async def _open_when_free(self) -> None:
        """Open the file as soon as no compaction works on it."""
        limit = time.monotonic() + HANDOVER_SECONDS
        while await self._run(handover.is_asked_for, self.path) and time.monotonic() < limit and not self._closing:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(_HANDOVER_LOOK_SECONDS)
        limit = time.monotonic() + _TAIL_SECONDS
        while True:
            try:
                return await self._open()
            except BlockingIOError:  # between its rename and its end a compaction asks no more
                if time.monotonic() >= limit or self._closing:
                    raise
            await asyncio.sleep(_HANDOVER_LOOK_SECONDS)

    async def _open(self) -> None:
        # Unbuffered: a write is a system call, and what it returns is what is in the file.
        self._file = await aiofiles.open(self.path, "a+b", buffering=0, opener=_opener, executor=self._executor)
        try:
            await self._run(fcntl.flock, self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            await self._prepare()
            # Whoever put it here may have been killed before its name was durable.
            await self._run(lines.sync_folder, self.path)
        except BaseException:
            await self._close_file()
            raise

    async def _prepare(self) -> None:
        self._good_bytes = await self._run(lines.cut_tail, self._file.fileno(), self.path, self._header)
        self._torn = False
        if self._good_bytes == 0:
            await self._write_all(self._header)
            await self._run(lines.sync_made, self._file.fileno(), self.path)
            self._good_bytes = len(self._header)

    # --- appending ------------------------------------------------------------------------------------------------

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
            async with self._turn:
                batch, self._waiting = self._waiting, []
                failure = await self._failure_of(self._store([line for line, _ in batch]))
            for _, future in batch:
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)

    async def _failure_of(self, work: Awaitable[None]) -> Exception | None:
        try:
            await work
        except OSError as error:
            return lines.refusal(self.path, error)
        except errors.StartError as error:  # the path has become another's file
            return errors.WriteFailed(operation="append", why=str(error))
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            return error
        return None

    async def _store(self, batch: list[bytes]) -> None:
        for _ in range(_REOPENINGS):
            await self._make_whole()
            await self._write_durably(batch)
            if await self._run(lines.is_at, self._file.fileno(), self.path):
                self._newest.add(batch)
                return
            # Moved away under our hands: the lines belong to the path, not to the inode.
            self._good_bytes -= sum(map(len, batch))
        raise errors.WriteFailed(operation="append", why=f"{self.path} is moved away again and again")

    async def _write_durably(self, batch: list[bytes]) -> None:
        self._torn = True
        try:
            await self._write_all(b"".join(batch))
            await self._run(os.fsync, self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                await self._cut_torn()  # if this fails too, the next append begins with it
            raise
        self._good_bytes += sum(map(len, batch))
        self._torn = False

    async def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[await self._file.write(rest) :]

    # --- what others do to the file -------------------------------------------------------------------------------

    async def look(self) -> list[Touched]:
        """Give the file to a compaction that asks for it, mend what others did to it, and tell what they did.

        To be called every few seconds. Raises as `append` does, when what was done cannot be mended yet.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._failure_of(self._look()))
        # A thread that works with the file's number must not be left alone with it: somebody else may get the number.
        failure = await asyncio.shield(self._looking)
        if failure is not None:
            raise failure
        touched, self._touched = self._touched, []
        return touched

    async def _look(self) -> None:
        async with self._turn:
            await self._make_whole()
            if await self._run(handover.is_asked_for, self.path):
                await self._close_file()
                await self._open_when_free()

    async def _make_whole(self) -> None:
        """Have the file at the path open, with all lines that were ever durable in it."""
        if self._file is not None and not await self._run(lines.is_at, self._file.fileno(), self.path):
            await self._leave()
        if self._file is None:
            await self._open()
        await self._mend()
        while self._orphans:
            orphan, good_bytes, how = self._orphans[0]
            self._torn = True
            count = await self._run(lines.put_back, orphan, good_bytes, self._file.fileno())
            self._good_bytes = (await self._run(os.fstat, self._file.fileno())).st_size
            self._torn = False
            del self._orphans[0]
            self._touched.append(Touched(how, count))
            await self._run(os.close, orphan)

    async def _leave(self) -> None:
        """The path names another file, or none; what was in ours must not be lost with it."""
        fd = self._file.fileno()
        try:
            how = await self._run(lines.what_happened, fd, self.path, self._header)
            if how == lines.MOVED:
                self._touched.append(Touched(how, 0, await self._run(lines.name_of, fd)))
            else:
                self._orphans.append((os.dup(fd), self._good_bytes, how))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            # Removed by another host: nothing can be read of it any more.
            self._orphans.append((*await self._run(lines.in_memory, self._newest.all()), lines.REMOVED))
        await self._close_file()

    async def _mend(self) -> None:
        size = (await self._run(os.fstat, self._file.fileno())).st_size
        if self._torn and size >= self._good_bytes:
            await self._cut_torn()
        elif size != self._good_bytes:  # somebody cut it, or wrote into it
            await self._prepare()
            missing = await self._run(lines.lacking, self._newest.all(), self._file.fileno())
            try:
                await self._write_durably(missing)
            except OSError:
                self._good_bytes, self._torn = -1, False  # look again, and not only at the end
                raise
            self._touched.append(Touched("changed" if size else "emptied", len(missing)))

    async def _cut_torn(self) -> None:
        await self._file.truncate(self._good_bytes)
        self._torn = False

    # --- closing --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wait for appends under way, close and unlock; may be called again."""
        self._closing = True
        while working := [task for task in (self._flushing, self._looking) if task is not None and not task.done()]:
            await asyncio.wait(working)
        await self._close_file()
        for orphan, _, _ in self._orphans:
            await self._run(os.close, orphan)
        self._orphans = []

    async def _close_file(self) -> None:
        file, self._file = self._file, None
        self._newest.clear()
        if file is not None:
            await file.close()


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o640)  # paths and names of persons: not for everybody
