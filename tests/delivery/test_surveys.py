from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from dcalqr import errors
from dcalqr.delivery import surveys
from dcalqr.delivery.surveys import Surveys
from tests.support.rig import until

DEAD_MAN_SECONDS = 30.0


class Looks:
    """Answers a number by its double, and an odd one by an error; holds the first look if told to."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.mistake: Exception | None = None

    def look(self, asked: Sequence[int]) -> list[int | Exception]:
        self.seen.append(list(asked))
        if len(self.seen) == 1:
            assert self.go_on.wait(DEAD_MAN_SECONDS)
        if self.mistake is not None:
            raise self.mistake
        return [errors.NoPermission(path=str(number)) if number % 2 else 2 * number for number in asked]


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


async def all_of(asked: Surveys[int, int], *numbers: int) -> list[int | BaseException]:
    return await asyncio.gather(*(asked.ask(number) for number in numbers), return_exceptions=True)


async def test_who_asks_at_once_shares_a_look_and_each_gets_his_own_answer(threads: ThreadPoolExecutor) -> None:
    looks = Looks()
    two, three, four = await all_of(Surveys(looks.look, threads), 2, 3, 4)
    assert (two, four) == (4, 8)
    assert isinstance(three, errors.NoPermission)
    assert looks.seen == [[2, 3, 4]]


async def test_who_asks_during_a_look_gets_the_answer_of_the_next_one(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "SLOW_SECONDS", DEAD_MAN_SECONDS)
    looks = Looks()
    looks.go_on.clear()
    asked = Surveys(looks.look, threads)
    first = asyncio.create_task(asked.ask(2))
    await until(lambda: bool(looks.seen), "the look")
    later = asyncio.gather(asked.ask(4), asked.ask(6))
    await asyncio.sleep(0.01)
    assert looks.seen == [[2]]
    looks.go_on.set()
    assert [await first, *await later] == [4, 8, 12]
    assert looks.seen == [[2], [4, 6]]


async def test_a_look_that_hangs_keeps_only_those_who_asked_for_it(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "SLOW_SECONDS", 0.01)
    looks = Looks()
    looks.go_on.clear()
    asked = Surveys(looks.look, threads)
    hung = asyncio.create_task(asked.ask(2))
    async with asyncio.timeout(DEAD_MAN_SECONDS):
        await until(lambda: bool(looks.seen), "the look")
        assert await asked.ask(4) == 8
    assert not hung.done()
    looks.go_on.set()
    assert await hung == 4


async def test_no_look_serves_more_than_so_many(threads: ThreadPoolExecutor) -> None:
    looks = Looks()
    numbers = [2 * number for number in range(surveys.MOST + 1)]
    assert await all_of(Surveys(looks.look, threads), *numbers) == [2 * number for number in numbers]
    assert [len(each) for each in looks.seen] == [surveys.MOST, 1]


async def test_who_waits_no_more_disturbs_nobody(threads: ThreadPoolExecutor) -> None:
    looks = Looks()
    looks.go_on.clear()
    asked = Surveys(looks.look, threads)
    gone, stays = asyncio.create_task(asked.ask(2)), asyncio.create_task(asked.ask(4))
    await until(lambda: bool(looks.seen), "the look")
    gone.cancel()
    looks.go_on.set()
    assert await stays == 8


async def test_a_mistake_in_a_look_reaches_everybody_and_the_next_one_is_asked(threads: ThreadPoolExecutor) -> None:
    looks = Looks()
    looks.mistake = ValueError("ours")
    asked = Surveys(looks.look, threads)
    assert [type(each) for each in await all_of(asked, 2, 4)] == [ValueError, ValueError]
    looks.mistake = None
    assert await asked.ask(2) == 4


async def test_threads_that_have_ended_are_said_and_nobody_waits_for_ever(threads: ThreadPoolExecutor) -> None:
    asked = Surveys(Looks().look, threads)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        await asked.ask(2)


async def test_a_great_many_who_wait_when_the_threads_end_are_told_one_look_after_the_other() -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    told = await all_of(Surveys(Looks().look, threads), *range(30_000))
    assert {type(each) for each in told} == {RuntimeError}


async def test_a_look_that_never_began_when_the_threads_ended_leaves_nobody_waiting() -> None:
    looks = Looks()
    looks.go_on.clear()
    with ThreadPoolExecutor(1) as single:
        busy = single.submit(looks.go_on.wait, DEAD_MAN_SECONDS)
        waiting = asyncio.create_task(Surveys(looks.look, single).ask(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        single.shutdown(wait=False, cancel_futures=True)
        looks.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert busy.result()
    assert looks.seen == []
