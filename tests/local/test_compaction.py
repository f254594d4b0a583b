# ruff: noqa: ASYNC240 - the files of these tests are small and on no hung disk
"""Compaction of the failed-tasks file: alone, beside one who appends, and killed at each of its steps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcalqr import errors
from dcalqr.local import appender, compaction, failures, handover
from dcalqr.local.compaction import compact
from dcalqr.local.failedtask import HEADER, encode_row
from dcalqr.local.failures import DoneFile, FailedTasksFile
from tests.local.test_failures import numbered

REPOSITORY = Path(__file__).parents[2]
# Kills itself before the call of that number among all that touch the file system.
KILLED_AT = """
import asyncio, fcntl, os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from dcalqr.local import compaction

left = int(sys.argv[2])

def counted(real):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)
    return call

for module, names in ((os, "open close rename fsync ftruncate fchmod fstat dup"), (fcntl, "flock")):
    for name in names.split():
        setattr(module, name, counted(getattr(module, name)))
asyncio.run(compaction.compact(sys.argv[1], ThreadPoolExecutor(1)))
"""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "failed.csv"


def write(path: Path, rows: range, done: range) -> None:
    path.write_bytes(HEADER + b"".join(encode_row(numbered(number)) for number in rows))
    Path(f"{path}.done").write_text("id\n" + "".join(f"{number}\n" for number in done))


def offsets(path: Path) -> list[int]:
    return [row.offset for row in failures.read_rows(str(path), failures.complete_length(str(path)))]


@contextlib.asynccontextmanager
async def appending(path: Path, threads: ThreadPoolExecutor) -> AsyncIterator[list[int]]:
    """A daemon's part in it: append rows from 1000 on as fast as the disk allows, look often; gives what is durable."""
    file = FailedTasksFile(str(path), threads)
    await file.open()
    durable: list[int] = []
    ended: list[bool] = []

    async def append() -> None:
        number = 1000
        while not ended:
            try:
                await file.append(numbered(number))
            except errors.WriteFailed:
                await asyncio.sleep(0.01)
                continue
            durable.append(number)
            number += 1

    async def look() -> None:
        while True:
            with contextlib.suppress(errors.WriteFailed):
                await file.look()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(append()), asyncio.create_task(look())]
    try:
        yield durable
    finally:
        ended.append(True)  # not cancelled: then nobody knows whether the last row is in
        await tasks[0]
        tasks[1].cancel()
        await asyncio.wait(tasks[1:])
        await file.close()


async def until(durable: list[int], count: int) -> None:
    while len(durable) < count:  # noqa: ASYNC110 - a list sets no event
        await asyncio.sleep(0.005)


async def test_rows_that_are_done_go_and_the_others_stay_as_they_are(path: Path, threads: ThreadPoolExecutor) -> None:
    write(path, range(10), done=range(3, 9))
    path.chmod(0o660)
    before = path.read_bytes().splitlines()
    result = await compact(str(path), threads)
    assert (result.kept, result.gone) == (4, 6)
    assert path.read_bytes().splitlines() == [before[0], *before[1:4], before[10]]
    assert result.bytes_after == path.stat().st_size < result.bytes_before
    assert Path(f"{path}.done").read_text() == "id\n"
    assert path.stat().st_mode & 0o777 == 0o660
    assert not Path(handover.request_path(str(path))).exists()


async def test_a_row_that_stands_there_twice_stays_once(path: Path, threads: ThreadPoolExecutor) -> None:
    path.write_bytes(HEADER + encode_row(numbered(1)) * 2 + encode_row(numbered(2)))
    await compact(str(path), threads)
    assert offsets(path) == [1, 2]


async def test_a_torn_tail_and_a_leftover_of_a_killed_compaction_do_not_matter(
    path: Path, threads: ThreadPoolExecutor
) -> None:
    write(path, range(4), done=range(2))
    with path.open("ab") as file:
        file.write(encode_row(numbered(9))[:30])
    Path(handover.request_path(str(path))).write_bytes(b"x" * 100_000)
    await compact(str(path), threads)
    assert offsets(path) == [2, 3]
    assert path.stat().st_size == len(HEADER) + 2 * len(encode_row(numbered(2)))


async def test_a_link_stays_a_link(path: Path, threads: ThreadPoolExecutor) -> None:
    write(path, range(2), done=range(1))
    real = path.with_name("real.csv")
    path.rename(real)
    path.symlink_to(real)
    await compact(str(path), threads)
    assert path.is_symlink()
    assert offsets(real) == [1]


async def test_the_owner_stays_the_owner(path: Path, threads: ThreadPoolExecutor) -> None:
    assert os.geteuid() == 0, "this test gives a file to another user: run it as root"
    write(path, range(2), done=range(1))
    os.chown(path, 65534, 65533)
    await compact(str(path), threads)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


async def test_while_a_replay_runs_nothing_is_compacted(path: Path, threads: ThreadPoolExecutor) -> None:
    write(path, range(4), done=range(2))
    replay = DoneFile(str(path), threads)
    await replay.open()
    with pytest.raises(errors.CannotCreate, match="a replay or a compaction of this file is running"):
        await compact(str(path), threads)
    await replay.close()
    assert offsets(path) == [0, 1, 2, 3]


async def test_a_daemon_that_does_not_let_go_is_said_and_nothing_is_changed(
    path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ASK_SECONDS", 0.3)
    write(path, range(4), done=range(2))
    daemon = FailedTasksFile(str(path), threads)
    await daemon.open()
    with pytest.raises(errors.CannotCreate, match="does not let go"):
        await compact(str(path), threads)
    assert offsets(path) == [0, 1, 2, 3]
    await daemon.append(numbered(4))
    await daemon.close()
    assert offsets(path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("content", [None, b"", b"path,reason\n/a,b\n"])
async def test_what_is_no_file_of_ours_is_refused_and_left_alone(
    path: Path, threads: ThreadPoolExecutor, content: bytes | None
) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.BadData):
        await compact(str(path), threads)
    assert [each.name for each in path.parent.iterdir()] == ([] if content is None else ["failed.csv"])


async def test_beside_one_who_appends_no_row_is_lost_and_none_comes_twice(
    path: Path, threads: ThreadPoolExecutor
) -> None:
    write(path, range(500), done=range(500))
    async with appending(path, threads) as durable:
        for turn in range(10):
            await until(durable, 20 * (turn + 1))
            result = await compact(str(path), threads)
            assert result.gone == (500 if turn == 0 else 0)
    assert offsets(path) == durable


async def test_a_daemon_that_starts_meanwhile_waits_for_the_end(path: Path, threads: ThreadPoolExecutor) -> None:
    write(path, range(20_000), done=range(19_999))
    compacting = asyncio.create_task(compact(str(path), threads))
    while not await asyncio.to_thread(handover.is_asked_for, str(path)):  # noqa: ASYNC110 - a lock sets no event
        await asyncio.sleep(0)
    daemon = FailedTasksFile(str(path), threads)
    await daemon.open()
    assert (await compacting).gone == 19_999
    await daemon.append(numbered(7))
    await daemon.close()
    assert offsets(path) == [19_999, 7]


async def test_a_request_of_one_who_was_killed_asks_no_more(path: Path, threads: ThreadPoolExecutor) -> None:
    Path(handover.request_path(str(path))).write_bytes(b"")
    daemon = FailedTasksFile(str(path), threads)
    await daemon.open()
    assert await asyncio.wait_for(daemon.look(), appender.HANDOVER_SECONDS / 2) == []
    await daemon.close()


def killed_at(path: Path, step: int) -> int:
    return subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(path), str(step)], cwd=REPOSITORY, check=False, timeout=60
    ).returncode


async def test_killed_at_any_step_nothing_is_lost_and_the_next_one_ends_it(
    path: Path, threads: ThreadPoolExecutor
) -> None:
    write(path, range(20), done=range(10))
    kills = 0
    async with appending(path, threads) as durable:
        while True:
            await until(durable, len(durable) + 3)
            code = await asyncio.to_thread(killed_at, path, kills + 1)
            if code != -signal.SIGKILL:
                break
            kills += 1
            assert set(range(10, 20)) <= set(offsets(path)), kills
        await until(durable, len(durable) + 3)
    assert code == 0
    assert kills > 20
    assert offsets(path) == [*range(10, 20), *durable]


APPENDING = """
import asyncio, contextlib, sys
from concurrent.futures import ThreadPoolExecutor
from dcalqr import errors
from dcalqr.local.failures import FailedTasksFile
from tests.local.test_failures import numbered

async def main():
    file = FailedTasksFile(sys.argv[1], ThreadPoolExecutor(2))
    await file.open()

    async def look():
        while True:
            with contextlib.suppress(errors.WriteFailed):
                await file.look()
            await asyncio.sleep(0.005)

    looking = asyncio.create_task(look())
    number = int(sys.argv[2])
    while True:
        try:
            await file.append(numbered(number))
        except errors.WriteFailed:
            await asyncio.sleep(0.005)
            continue
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_a_daemon_that_is_killed_again_and_again_beside_compactions_loses_no_row(
    path: Path, threads: ThreadPoolExecutor
) -> None:
    path.write_bytes(HEADER)
    durable: set[int] = set()
    ended: list[bool] = []

    async def compact_again_and_again() -> int:
        turns = 0
        while not ended:
            turns += 1
            await compact(str(path), threads)
        return turns

    compacting = asyncio.create_task(compact_again_and_again())
    for life in range(6):
        first = 1000 * life
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", APPENDING, str(path), str(first)), stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
        )
        assert child.stdout is not None
        for _ in range(10 + 3 * life):
            durable.add(int(await asyncio.wait_for(child.stdout.readline(), 60)))
        child.kill()
        durable |= {int(line) for line in (await child.stdout.read()).split(b"\n")[:-1]}
        await child.wait()
    ended.append(True)
    assert await compacting > 6
    found = offsets(path)
    assert durable <= set(found)
    assert len(found) == len(set(found)) <= len(durable) + 6  # of each life, one that it did not live to tell
