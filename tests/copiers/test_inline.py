from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcalqr import errors
from dcalqr.copiers import inline
from dcalqr.copiers.contract import Slots
from dcalqr.copiers.inline import InlineCopier
from dcalqr.orders import CopyOrder, Landed, Phases, Stop
from dcalqr.testing.pki import Pki
from tests.contract.copier import SLOTS, CopierContract, MakeCopier, Watch, World, until
from tests.support.attempts import SOON_SECONDS, connections_to, order_of, trust_of


class TestInlineCopier(CopierContract):
    @pytest.fixture
    def make(self) -> MakeCopier:
        return InlineCopier

    async def test_connections_of_an_old_generation_are_closed_when_nobody_uses_them(self, world: World) -> None:
        port = int(world.door.url.rpartition(":")[2])
        await world.copier.copy(world.order(), Watch())
        assert connections_to(port) == 1
        async with self.hanging(world, 1) as tasks:
            world.generation = 2
            await world.copier.copy(world.order(), Watch())
            assert connections_to(port) == 2, "the running order keeps its generation"
            world.door.calm()
            await tasks[0]
            assert connections_to(port) == 1
        await world.copier.aclose(SOON_SECONDS)
        assert connections_to(port) == 0

    async def test_a_late_order_of_an_old_generation_uses_the_new_one(self, world: World) -> None:
        copier = world.copier
        assert isinstance(copier, InlineCopier)
        world.generation = 2
        await copier.copy(world.order(), Watch())
        world.generation = 1
        await copier.copy(world.order(), Watch())
        assert copier._clients._doors is not None
        assert copier._clients._doors.trust.generation == 2

    async def test_two_hundred_orders_leave_no_descriptor_and_no_thread(self, world: World) -> None:
        async def storm(count: int) -> None:
            tasks = [world.start() for _ in range(count)]
            for task in tasks[::2]:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        def descriptors() -> int:
            gc.collect()
            return len(os.listdir("/proc/self/fd"))

        await storm(SLOTS)
        before = descriptors()
        await storm(200)
        await until(lambda: descriptors() <= before + 2 * SLOTS, "descriptors are closed")
        await until(lambda: not order_threads(), "threads end")


def order_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("order-")]


class Stuck:
    """Takes the place of `copy_once`: hangs as on a dead mount, deaf to the stop flag, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.entered = 0
        monkeypatch.setattr(inline, "copy_once", self)

    def __call__(self, order: CopyOrder, doors: object, root_fd: int, stop: Stop, progress: object) -> Landed:
        self.entered += 1
        assert self.go.wait(SOON_SECONDS)
        os.fstat(root_fd)
        return Landed(size_bytes=1, adler32=1, verified=True, pool="", phases=Phases())


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Stuck:
    monkeypatch.setattr(inline, "ANSWER_SECONDS", 0.2)
    return Stuck(monkeypatch)


@pytest.fixture
def copier(pki: Pki, tmp_path: Path) -> Any:
    root_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield InlineCopier(1, lambda: trust_of(pki), lambda: root_fd)
    os.close(root_fd)


def order() -> CopyOrder:
    return order_of("https://door.example/f")


async def test_a_silent_thread_is_written_off_and_counted_and_its_slot_serves_another(
    copier: InlineCopier, stuck: Stuck
) -> None:
    first = asyncio.ensure_future(copier.copy(order(), Watch()))
    await until(lambda: stuck.entered == 1, "the attempt hangs")
    second = asyncio.ensure_future(copier.copy(order(), Watch()))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert copier.stuck == 1
    await until(lambda: stuck.entered == 2, "the next order begins")
    assert copier.running == 1
    stuck.go.set()
    assert (await second).size_bytes == 1
    await until(lambda: copier.stuck == 0, "the thread comes back after all")
    assert repr(copier.slots) == "<Slots 0/1 waiting=0>"


async def test_impatient_cancels_do_not_lose_the_slot_of_a_silent_thread(copier: InlineCopier, stuck: Stuck) -> None:
    task = asyncio.ensure_future(copier.copy(order(), Watch()))
    await until(lambda: stuck.entered == 1, "the attempt hangs")
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (copier.stuck, copier.running) == (1, 0)
    stuck.go.set()
    await until(lambda: copier.stuck == 0, "the thread comes back")


async def test_closing_gives_up_a_silent_thread_after_the_grace_period(copier: InlineCopier, stuck: Stuck) -> None:
    task = asyncio.ensure_future(copier.copy(order(), Watch()))
    await until(lambda: stuck.entered == 1, "the attempt hangs")
    await copier.aclose(0.05)
    assert (copier.stuck, copier.running) == (1, 0)
    with pytest.raises(errors.Cancelled):
        await task
    stuck.go.set()
    await until(lambda: copier.stuck == 0, "the thread comes back")


async def test_a_silent_thread_does_not_keep_the_loop_from_ending(copier: InlineCopier, stuck: Stuck) -> None:
    task = asyncio.ensure_future(copier.copy(order(), Watch()))
    await until(lambda: stuck.entered == 1, "the attempt hangs")
    assert all(thread.daemon for thread in order_threads())
    stuck.go.set()
    await task


async def test_an_answer_and_a_cancel_in_the_same_moment_keep_the_answer(copier: InlineCopier, stuck: Stuck) -> None:
    task = asyncio.ensure_future(copier.copy(order(), Watch()))
    await until(lambda: stuck.entered == 1, "the attempt begins")
    _, answer = next(iter(copier._running.values()))
    answer.add_done_callback(lambda _: task.cancel())
    stuck.go.set()
    assert (await task).size_bytes == 1


@pytest.mark.parametrize("cause", ["thread", "descriptor"])
async def test_what_the_system_refuses_is_one_of_our_errors_and_takes_no_slot(
    copier: InlineCopier, stuck: Stuck, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    def refuse(*_: object) -> Any:
        raise RuntimeError("can't start new thread") if cause == "thread" else OSError(24, "Too many open files")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse) if cause == "thread" else patch.setattr(os, "dup", refuse)
        for _ in range(3):
            with pytest.raises(errors.TransientError):
                await copier.copy(order(), Watch())
    assert len(os.listdir("/proc/self/fd")) == before
    stuck.go.set()
    await copier.copy(order(), Watch())


async def test_a_folder_that_cannot_be_closed_keeps_no_answer_back(
    copier: InlineCopier, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_close = os.close

    def close(fd: int) -> None:
        real_close(fd)
        if threading.current_thread() in order_threads():
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "close", close)
    stuck.go.set()
    for _ in range(2):
        async with asyncio.timeout(SOON_SECONDS):
            assert (await copier.copy(order(), Watch())).size_bytes == 1
    assert (copier.running, repr(copier.slots)) == (0, "<Slots 0/1 waiting=0>")


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
async def test_what_ends_a_thread_ends_only_its_order(
    copier: InlineCopier, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    def ending(*_: object) -> Landed:
        raise end

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(inline, "copy_once", ending)
    for _ in range(2):
        async with asyncio.timeout(SOON_SECONDS):
            with pytest.raises(errors.WorkerLost, match=end.__name__):
                await copier.copy(order(), Watch())
    assert (copier.running, repr(copier.slots)) == (0, "<Slots 0/1 waiting=0>")
    assert len(os.listdir("/proc/self/fd")) == before


# --- slots -----------------------------------------------------------------------------------------------------


def waiting(slots: Slots, count: int) -> list[asyncio.Task[None]]:
    return [asyncio.ensure_future(slots.take()) for _ in range(count)]


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_slot_freed_in_the_moment_of_a_cancel_goes_to_the_next() -> None:
    slots = Slots(1)
    await slots.take()
    first, second = waiting(slots, 2)
    await turn()
    slots.give_back()
    first.cancel()
    await turn()
    assert first.cancelled()
    assert second.done()
    assert repr(slots) == "<Slots 1/1 waiting=0>"


async def test_a_cancel_followed_by_a_freed_slot_is_a_cancel_and_nothing_else() -> None:
    slots = Slots(1)
    await slots.take()
    first, second = waiting(slots, 2)
    await turn()
    first.cancel()
    slots.give_back()
    await turn()
    assert first.cancelled()
    assert second.done()
    assert not second.cancelled()
    assert repr(slots) == "<Slots 1/1 waiting=0>"


async def test_nobody_overtakes_who_waits() -> None:
    slots = Slots(1)
    await slots.take()
    first = waiting(slots, 1)[0]
    await turn()
    slots.give_back()
    late = waiting(slots, 1)[0]
    await turn()
    assert first.done()
    assert not late.done()
    slots.resize(2)
    await turn()
    assert late.done()


async def test_slots_survive_any_order_of_taking_giving_cancelling_and_resizing() -> None:
    dice = random.Random(3)
    slots, held, tasks = Slots(3), 0, list[asyncio.Task[None]]()

    def cancel_one() -> None:
        if tasks:
            dice.choice(tasks).cancel()

    acts: list[Callable[[], None]] = [
        lambda: tasks.append(asyncio.ensure_future(slots.take())),
        cancel_one,
        lambda: slots.resize(dice.randint(1, 5)),
    ]
    for _ in range(20_000):
        if held and dice.random() < 0.4:
            held -= 1
            slots.give_back()
        dice.choice(acts)()
        if dice.random() < 0.5:
            await asyncio.sleep(0)
        ended = [task for task in tasks if task.done()]
        held += sum(1 for task in ended if not task.cancelled() and task.result() is None)
        tasks = [task for task in tasks if not task.done()]
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    held += sum(1 for end in ends if end is None)
    assert slots.taken == held
    for _ in range(held):
        slots.give_back()
    assert slots.taken == 0
