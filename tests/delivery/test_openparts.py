from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcalqr.delivery import openparts as module
from dcalqr.delivery.openparts import OpenParts
from dcalqr.local.state import PARTS, State
from tests.support.rig import until

A, B = (b"a",), (b"b",)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(str(tmp_path))
    made.open()
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
def parts(state: State, threads: ThreadPoolExecutor) -> OpenParts:
    return OpenParts(state, threads)


def written(state: State) -> bytes:
    return (Path(state.folder) / PARTS).read_bytes()


async def test_a_directory_is_known_before_its_first_part_is_made(parts: OpenParts, state: State) -> None:
    await parts.open(A)
    assert written(state) == b"+a\n"


async def test_the_event_loop_never_writes(parts: OpenParts, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.01)
    real_write, writers = os.write, set[int]()

    def watched(fd: int, line: bytes) -> int:
        if line in (b"+a\n", b"+b\n", b"-a\n", b"-b\n"):
            writers.add(threading.get_ident())
        return real_write(fd, line)

    monkeypatch.setattr(os, "write", watched)
    for directory in (A, B, A):
        await parts.open(directory)
        parts.close(directory)
    await until(lambda: written(state).count(b"-") == 2, "both ends")
    assert writers
    assert threading.get_ident() not in writers


async def test_file_after_file_in_one_directory_is_written_once(parts: OpenParts, state: State) -> None:
    for _ in range(10):
        await parts.open(A)
        parts.close(A)
    assert written(state) == b"+a\n"
    parts.flush()
    assert written(state) == b"+a\n-a\n"


async def test_a_directory_stays_open_while_one_of_its_orders_runs(parts: OpenParts, state: State) -> None:
    await parts.open(A)
    await parts.open(A)
    parts.close(A)
    parts.flush()
    assert written(state) == b"+a\n"


async def test_a_disk_that_hangs_never_holds_up_the_event_loop(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    real_write = os.write

    def hanging(fd: int, line: bytes) -> int:
        if line == b"+b\n":
            hangs.set()
            goes_on.wait(10)  # an event loop that waits for it gets here, and then finds A opened too early
        return real_write(fd, line)

    monkeypatch.setattr(os, "write", hanging)
    with ThreadPoolExecutor(2) as two:
        parts = OpenParts(state, two)
        await parts.open(A)
        first = asyncio.create_task(parts.open(B))
        await until(hangs.is_set, "the hanging disk")
        second = asyncio.create_task(parts.open(A))
        await asyncio.sleep(0)
        assert not second.done()
        goes_on.set()
        await asyncio.gather(first, second)
    parts.close(A)
    parts.flush()
    assert written(state) == b"+a\n+b\n"
    parts.close(A)
    parts.flush()
    assert written(state) == b"+a\n+b\n-a\n"


async def test_an_end_after_the_threads_have_gone_is_told_by_the_flush(
    parts: OpenParts, state: State, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.0)
    await parts.open(A)
    threads.shutdown()
    parts.close(A)
    await until(lambda: not parts._is_due, "the telling")
    assert written(state) == b"+a\n"
    parts.flush()
    assert written(state) == b"+a\n-a\n"
