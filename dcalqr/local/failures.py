"""The failed-tasks file (CSV) and its neighbours: append-only, one writer, durable when `append` returns.

Beside ``failed.csv`` stand ``failed.unreadable`` (one JSON object a line: topic, partition, offset, time, reason, and
the record's bytes percent-encoded) and, after a replay, ``failed.csv.done`` (row ids that are done with).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from dcalqr import errors
from dcalqr.local.appender import Appender, Touched
from dcalqr.local.failedtask import HEADER, FailedTask, decode_row, encode_row, percent_encode, utc
from dcalqr.local.lines import last_newline

NOT_OURS = (
    "line 1 is not the header of a failed-tasks file of this dcalqr. If the first dcalqr wrote it: move it away, its "
    "rows cannot be read here, but `dcalqr replay --from-topic T1 T2` runs the uploads between two times again"
)


class FailedTasksFile:
    """The CSV.

    Parameters
    ----------
    path
        `local.failedtasksfile`, with `{instance}` filled in.
    executor
        Threads of its own: a hung disk must not stop name resolution.
    """

    def __init__(self, path: str, executor: Executor) -> None:
        self.path = path
        self._appender = Appender(path, executor, HEADER)

    async def open(self) -> None:
        """Lock the file, make it with its header if it is missing, cut a torn last line.

        Raises
        ------
        CannotCreate
            It cannot be made, another instance has it, or its first line is not our header.
        NoPermission
            It may not be written.
        """
        await self._appender.open()

    async def append(self, row: FailedTask) -> None:
        """Write a row; on the disk when this returns.

        Raises
        ------
        NoSpace, WriteFailed
            The row is not in the file: hold, do not ack, try again.
        """
        await self._appender.append(encode_row(row))

    async def look(self) -> list[Touched]:
        """Let a compaction have the file, mend what others did to it, and tell what; raises as `append`."""
        return await self._appender.look()

    async def close(self) -> None:
        """Wait for appends under way, close and unlock; may be called again."""
        await self._appender.close()


class UnreadableFile:
    """Records that could have been ours and cannot be understood, one JSON object a line."""

    def __init__(self, failedtasksfile: str, executor: Executor) -> None:
        self.path = os.path.splitext(failedtasksfile)[0] + ".unreadable"
        self._executor = executor
        self._appender = Appender(self.path, executor)

    async def open(self) -> None:
        """As `FailedTasksFile.open`, but there is no header."""
        await self._appender.open()

    async def append(self, *, topic: str, partition: int, offset: int, time: float, reason: str, record: bytes) -> None:
        """Keep a record; `time` in seconds since the epoch. Raises as `FailedTasksFile.append`."""
        loop = asyncio.get_running_loop()
        line: dict[str, Any] = {"topic": topic, "partition": partition, "offset": offset, "time": utc(time)}
        line["reason"] = reason
        # In a thread: a record may have megabytes.
        line["record"] = (await loop.run_in_executor(self._executor, percent_encode, record)).decode("ascii")
        await self._appender.append(msgspec.json.encode(line) + b"\n")

    async def look(self) -> list[Touched]:
        """As `FailedTasksFile.look`."""
        return await self._appender.look()

    async def close(self) -> None:
        """As `FailedTasksFile.close`."""
        await self._appender.close()


class DoneFile:
    """Ids of rows that a replay is done with; `<failedtasksfile>.done`.

    Attributes
    ----------
    done
        All of them, former replays' included.
    """

    _HEADER = b"id\n"

    def __init__(self, failedtasksfile: str, executor: Executor) -> None:
        self.path = failedtasksfile + ".done"
        self.done: set[str] = set()
        self._executor = executor
        self._appender = Appender(self.path, executor, self._HEADER)

    async def open(self) -> None:
        """As `FailedTasksFile.open`; then `done` is filled."""
        await self._appender.open()
        content = await asyncio.get_running_loop().run_in_executor(self._executor, _content, self.path)
        ids = content.removeprefix(self._HEADER).splitlines()
        self.done = {unquote_to_bytes(line).decode("utf-8", "surrogatepass") for line in ids}

    async def add(self, row_id: str) -> None:
        """Take note that a row is done with. Raises as `FailedTasksFile.append`."""
        await self._appender.append(percent_encode(row_id.encode("utf-8", "surrogatepass")) + b"\n")
        self.done.add(row_id)

    async def clear(self) -> None:
        """Forget all ids: a compaction has taken their rows out of the file. Raises OSError."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, _cut, self.path, len(self._HEADER))
        self.done.clear()

    async def close(self) -> None:
        """As `FailedTasksFile.close`."""
        await self._appender.close()


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _cut(path: str, length: int) -> None:
    with open(path, "r+b") as file:
        os.ftruncate(file.fileno(), length)
        os.fsync(file.fileno())


def complete_length(path: str) -> int:
    """Bytes up to and including the last newline now: what a replay reads while a daemon goes on appending."""
    with open(path, "rb", buffering=0) as file:
        return last_newline(file.fileno(), os.fstat(file.fileno()).st_size)


def read_rows(path: str, length: int) -> Iterator[FailedTask]:
    """Read the rows in the first `length` bytes; what follows is not looked at.

    Raises
    ------
    BadData
        The header is not ours or a line is no row; names the line.
    """
    with open(path, "rb") as file:
        number = 0
        while file.tell() < length:
            line = file.readline(length - file.tell())
            number += 1
            if number == 1 and line != HEADER:
                raise errors.BadData(path=path, why=NOT_OURS)
            if number > 1:
                yield _row(path, number, line)


def _row(path: str, number: int, line: bytes) -> FailedTask:
    if not line.endswith(b"\n"):
        raise errors.BadData(path=path, why=f"line {number}: it has no end")
    try:
        return decode_row(line[:-1])
    except (ValueError, msgspec.ValidationError) as error:
        raise errors.BadData(path=path, why=f"line {number}: {error}") from error
