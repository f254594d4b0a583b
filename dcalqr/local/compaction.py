"""Compaction: the failed-tasks file without the rows that a replay is done with.

Safe beside the daemon that appends, and killed at any step. The daemon lets go of the file when it is asked to
(`handover`); until then nothing is changed. Everything up to the rename happens in another file; that one is complete
and durable before it bears the name, and locked until the name is durable too. Only then are the ids forgotten: an id
without a row does no harm, a row without its id would run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from dcalqr import errors
from dcalqr.local.failedtask import HEADER
from dcalqr.local.failures import NOT_OURS, DoneFile
from dcalqr.local.handover import request_path
from dcalqr.local.lines import is_at, last_newline, sync_folder

# The daemon looks every other second, and may wait for a slow disk.
ASK_SECONDS = 30.0
_LOOK_SECONDS = 0.05


class Compacted(NamedTuple):
    """Rows that stay and rows that went (counts), and the file's size in bytes before and after."""

    kept: int
    gone: int
    bytes_before: int
    bytes_after: int


async def compact(path: str, executor: Executor) -> Compacted:
    """Take the rows that are done out of a failed-tasks file.

    Raises
    ------
    BadData
        The file is missing or is no failed-tasks file of this dcalqr.
    CannotCreate
        A replay or a compaction of this file is running, its daemon does not let go of it, or the disk refuses.
    NoPermission
        The file belongs to another user, or the folder may not be written.
    """
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(executor, _look, path)
    done = DoneFile(path, executor)
    try:
        await done.open()
    except errors.CannotCreate as error:
        why = "a replay or a compaction of this file is running; wait for its end"
        raise errors.CannotCreate(path=path, why=why) from error
    try:
        compacted = await loop.run_in_executor(executor, _compact, path, done.done)
        await done.clear()
    except PermissionError as error:
        raise errors.NoPermission(path=path, why=error.strerror) from error
    except OSError as error:
        raise errors.CannotCreate(path=path, why=error.strerror or str(error)) from error
    finally:
        await done.close()
    return compacted


def _look(path: str) -> None:
    try:
        with open(path, "rb") as file:
            begin = file.read(len(HEADER))
    except OSError as error:
        raise errors.BadData(path=path, why=f"cannot be read: {error.strerror}") from error
    if begin != HEADER:
        raise errors.BadData(path=path, why=NOT_OURS)


def _compact(path: str, done: set[str]) -> Compacted:
    path = os.path.realpath(path)  # a link stays a link
    with contextlib.ExitStack() as locks:
        fresh = _locked(locks, request_path(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, "another compaction has it")
        why = "the daemon that writes it does not let go of it: does it hang, or is it of an older version?"
        old = _locked(locks, path, os.O_RDWR, why)
        os.ftruncate(fresh, 0)  # a compaction that was killed may have left something
        compacted = _copy(old, fresh, done)
        _own_alike(old, fresh, path)
        os.fsync(fresh)
        os.rename(request_path(path), path)
        # Before the locks go: a row that the daemon appends from now on must not depend on a name that is not durable.
        sync_folder(path)
    return compacted


def _locked(locks: contextlib.ExitStack, path: str, flags: int, why: str) -> int:
    """Open and lock the file that the path names at the moment of the lock; unlocked with the stack."""
    limit = time.monotonic() + ASK_SECONDS
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(fd, path):
                locks.callback(os.close, fd)
                return fd
        except BlockingIOError:
            if time.monotonic() >= limit:
                os.close(fd)
                raise errors.CannotCreate(path=path, why=why) from None
        os.close(fd)
        time.sleep(_LOOK_SECONDS)


def _copy(old: int, fresh: int, done: set[str]) -> Compacted:
    """Copy the rows that are not done; each once, for a replaced file may have given some of them twice."""
    kept = gone = 0
    seen: set[bytes] = set()
    size = os.fstat(old).st_size
    with os.fdopen(os.dup(fresh), "wb") as out:
        out.write(HEADER)
        for line in _rows(old):
            row_id = line.partition(b",")[0]
            if row_id in seen or unquote_to_bytes(row_id).decode("utf-8", "surrogatepass") in done:
                gone += 1
                continue
            seen.add(row_id)
            kept += 1
            out.write(line)
        bytes_after = out.tell()
    return Compacted(kept, gone, size, bytes_after)


def _rows(fd: int) -> Iterator[bytes]:
    length = last_newline(fd, os.fstat(fd).st_size)
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(len(HEADER))
        while file.tell() < length:
            yield file.readline(length - file.tell())


def _own_alike(old: int, fresh: int, path: str) -> None:
    """Give the new file to whom the old one belongs: the daemon must be able to go on."""
    found, now = os.fstat(old), os.fstat(fresh)
    if (found.st_uid, found.st_gid) != (now.st_uid, now.st_gid):
        try:
            os.fchown(fresh, found.st_uid, found.st_gid)
        except PermissionError as error:
            why = "it belongs to another user or group: compact as the user of the daemon, or as root"
            raise errors.NoPermission(path=path, why=why) from error
    os.fchmod(fresh, found.st_mode & 0o7777)
