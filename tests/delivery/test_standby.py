from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

import pytest

from dcalqr.delivery import standby
from dcalqr.delivery.standby import Standby

P = ParamSpec("P")
T = TypeVar("T")

DEAD_MAN_SECONDS = 30.0


class Pool(ThreadPoolExecutor):
    """Counts how often a thread was called."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.called = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.called += 1
        return super().submit(fn, *args, **kwargs)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(2) as made:
        yield made


class Done:
    """Work that says who did it."""

    def __init__(self) -> None:
        self._by: SimpleQueue[str] = SimpleQueue()

    def work(self) -> None:
        self._by.put(threading.current_thread().name)

    def undone(self) -> None:
        self._by.put("nobody")

    @property
    def by(self) -> str:
        return self._by.get(timeout=DEAD_MAN_SECONDS)


def test_the_thread_that_is_here_does_the_next_piece_too(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "STAY_SECONDS", 1.0)
    thread, done = Standby(pool), Done()
    names = set()
    for _ in range(5):
        thread.do(done.work, done.undone)
        names.add(done.by)
    assert (len(names), pool.called) == (1, 1)


def test_work_that_comes_when_the_thread_is_just_leaving_is_done(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "STAY_SECONDS", 0.0)
    thread, done = Standby(pool), Done()
    for _ in range(3000):
        thread.do(done.work, done.undone)
        assert done.by != "nobody"
    assert pool.called > 1


def test_the_thread_goes_back_to_the_pool(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "STAY_SECONDS", 0.01)
    many, done = [Standby(pool) for _ in range(6)], Done()  # three times as many as there are threads
    for thread in many:
        thread.do(done.work, done.undone)
    assert "nobody" not in [done.by for _ in many]


def test_who_comes_when_the_pool_has_ended_is_told_each_time(pool: Pool) -> None:
    thread, done = Standby(pool), Done()
    pool.shutdown()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shutdown"):
            thread.do(done.work, done.undone)


def test_what_never_began_when_the_pool_ended_is_said_and_the_next_is_refused() -> None:
    go_on, done = threading.Event(), Done()
    with ThreadPoolExecutor(1) as single:
        single.submit(go_on.wait, DEAD_MAN_SECONDS)
        thread = Standby(single)
        thread.do(done.work, done.undone)
        single.shutdown(wait=False, cancel_futures=True)
        assert done.by == "nobody"
        with pytest.raises(RuntimeError, match="shutdown"):
            thread.do(done.work, done.undone)
        go_on.set()
