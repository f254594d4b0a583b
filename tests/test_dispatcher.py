from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from dcalqr import dispatcher as module
from dcalqr import errors
from dcalqr.delivery import rows
from dcalqr.dispatcher import FREE_LOSSES, FREE_REPLANS, Dispatcher
from dcalqr.local.failedtask import FailedTask
from dcalqr.metrics.counters import Counters
from dcalqr.model import Delivery, Origin, Outcome, Settled, StorageEvent
from dcalqr.plugins import TaskContext
from dcalqr.retry import RetryPolicy
from tests.support.rig import until

Step = errors.DcalqrError | Exception | Outcome | Callable[[], Awaitable[Outcome]]


def event(path: str = "/a/file", pnfsid: str = "A", *, staged: bool = False, **more: Any) -> StorageEvent:
    known: dict[str, Any] = {
        "kind": "transfer", "cell_type": "pool", "cell": "pool-1", "path": path, "pnfsid": pnfsid, "size_bytes": 1,
        "transfer_path": "/upload/1/file" if staged else path, "date": time.time(), "code": 0, "write": True,
        "p2p": False,
    }  # fmt: skip
    return StorageEvent(**known | more)


class FakeTask:
    """Plays its steps, one a try; the last one for ever."""

    name = "fake"

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps) or [Outcome.DONE]
        self.tries: list[TaskContext] = []
        self.tried: list[StorageEvent] = []
        self.running = 0
        self.probes: list[str] = []
        self.probe_error: Exception | None = None

    def key(self, event: StorageEvent) -> str:
        return event.path

    async def run(self, event: StorageEvent, context: TaskContext) -> Outcome:
        self.tries.append(context)
        self.tried.append(event)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        self.running += 1
        try:
            if isinstance(step, BaseException):
                raise step
            return step if isinstance(step, Outcome) else await step()
        finally:
            self.running -= 1

    async def probe(self, domain: str) -> None:
        self.probes.append(domain)
        if self.probe_error is not None:
            raise self.probe_error


class FakeRows:
    """A failed-tasks file that can be full."""

    def __init__(self) -> None:
        self.rows: list[FailedTask] = []
        self.full = False
        self.refused = 0

    async def append(self, row: FailedTask) -> None:
        await asyncio.sleep(0)
        if self.full:
            self.refused += 1
            raise errors.NoSpace(why="full")
        self.rows.append(row)


class Desk:
    """A dispatcher over a fake task."""

    def __init__(self, task: FakeTask, retry_times: int = 2, retry_seconds: float = 0.0, delay: float = 0.0) -> None:
        self.task, self.rows, self.reports = task, FakeRows(), list[tuple[Settled, errors.TryError | None]]()
        self.offset = 0
        self.dispatcher = Dispatcher(
            task=task,
            policy=RetryPolicy(retry_seconds, retry_times),
            rows=self.rows,
            counters=Counters(),
            report=lambda delivery, how, context, error, seconds: self.reports.append((how, error)),
            delay_seconds=delay,
            window=10,
        )

    def submit(self, event: StorageEvent) -> Delivery:
        self.offset += 1
        delivery = Delivery(event, Origin("billing", 0, self.offset), b"record", lambda _: None)
        self.dispatcher.submit(delivery)
        return delivery

    async def end(self, *deliveries: Delivery) -> list[str]:
        """Wait until all are settled; then nothing may be left of them."""
        await until(lambda: all(delivery.settled for delivery in deliveries), f"an end of {deliveries}")
        await until(lambda: not self.dispatcher.runs._tasks, "the jobs' end")
        window = self.dispatcher.window
        assert (window.open, window.invisible) == (0, 0)
        assert not self.dispatcher.inflight.jobs
        assert not self.dispatcher._received_at
        assert len(self.reports) >= len(deliveries)
        return [delivery.settled.value for delivery in deliveries if delivery.settled]


@pytest.fixture
async def desk_of() -> AsyncIterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(*steps: Step, **how: Any) -> Desk:
        made.append(Desk(FakeTask(*steps), **how))
        return made[-1]

    yield make
    for desk in made:
        await desk.dispatcher.cancel()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, in seconds; none of them is waited for."""
    slept: list[float] = []
    wait_seconds = RetryPolicy.wait_seconds

    def noted(policy: RetryPolicy, failures: int, error: errors.TransientError, draw: float) -> float:
        slept.append(wait_seconds(policy, failures, error, draw))
        return 0.0

    monkeypatch.setattr(RetryPolicy, "wait_seconds", noted)
    return slept


# --- the budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_times", [0, 1, 10])
async def test_the_budget_is_one_try_and_retrytimes_more(desk_of: Callable[..., Desk], retry_times: int) -> None:
    desk = desk_of(errors.TransientError(why="broken", http_status=500), retry_times=retry_times)
    assert await desk.end(desk.submit(event())) == ["failed"]
    assert len(desk.task.tries) == retry_times + 1
    (row,) = desk.rows.rows
    assert (row.attempts, row.error_class, row.http_status) == (retry_times + 1, "transient", 500)
    assert (row.offset, row.path, row.pnfsid, row.event, row.task) == (1, "/a/file", "A", b"record", "fake")
    assert "broken" in row.message


async def test_a_try_within_the_budget_may_still_end_well(desk_of: Callable[..., Desk]) -> None:
    broken = errors.TransientError(why="broken")
    desk = desk_of(broken, broken, Outcome.LANDED)
    assert await desk.end(desk.submit(event())) == ["landed"]
    assert not desk.rows.rows
    assert desk.dispatcher.counters.retries == {"TransientError": 2}
    assert [context.try_number for context in desk.task.tries] == [1, 2, 3]


async def test_a_retry_waits_as_long_as_the_server_asks(desk_of: Callable[..., Desk], waits: list[float]) -> None:
    desk = desk_of(errors.ServerError(host="door", http_status=503, retry_after_seconds=77.0), Outcome.LANDED)
    await desk.end(desk.submit(event()))
    assert waits == [77.0]


async def test_a_permanent_error_costs_one_try_and_is_a_row(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(errors.ReservedName())
    assert await desk.end(desk.submit(event())) == ["failed"]
    assert [row.error_class for row in desk.rows.rows] == ["reserved_name"]
    assert desk.dispatcher.counters.failed == {"reserved_name": 1}
    assert len(desk.task.tries) == 1


@pytest.mark.parametrize(
    "nonsense", [ValueError("what?"), KeyError(), errors.Cancelled(), asyncio.CancelledError(), TimeoutError()]
)
async def test_a_task_that_raises_nonsense_ends_in_a_row_and_harms_no_other(
    desk_of: Callable[..., Desk], nonsense: BaseException
) -> None:
    desk = desk_of(nonsense)
    assert await desk.end(desk.submit(event())) == ["failed"]
    assert len(desk.task.tries) == 3
    assert [row.error_class for row in desk.rows.rows] == ["transient"]
    assert type(nonsense).__name__ in desk.rows.rows[0].message
    desk.task.steps = [Outcome.LANDED]
    assert await desk.end(desk.submit(event("/another"))) == ["landed"]
    assert not desk.dispatcher.runs.fatal.done()


async def test_a_worker_that_was_lost_costs_nothing(desk_of: Callable[..., Desk], monkeypatch: Any) -> None:
    async def at_once(*_: object, **__: object) -> None:
        await asyncio.sleep(0)

    lost = errors.WorkerLost(why="killed")
    desk = desk_of(*[lost] * 5, Outcome.LANDED, retry_times=0)
    monkeypatch.setattr(desk.dispatcher.runs, "sleep", at_once)
    assert await desk.end(desk.submit(event())) == ["landed"]
    assert desk.task.tries[-1].try_number == 1


async def test_an_order_whose_workers_die_again_and_again_spends_its_budget_and_ends_in_a_row(
    desk_of: Callable[..., Desk], monkeypatch: Any
) -> None:
    async def at_once(*_: object, **__: object) -> None:
        await asyncio.sleep(0)

    desk = desk_of(errors.WorkerLost(why="killed"), retry_times=2)
    monkeypatch.setattr(desk.dispatcher.runs, "sleep", at_once)
    assert await desk.end(desk.submit(event())) == ["failed"]
    assert len(desk.task.tries) == FREE_LOSSES + 3
    assert "killed" in desk.rows.rows[0].message


async def test_a_new_plan_is_free_but_not_for_ever(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(errors.FinalNameChanged(), retry_times=1)
    assert await desk.end(desk.submit(event())) == ["failed"]
    assert len(desk.task.tries) == FREE_REPLANS + 2


async def test_an_upload_that_is_not_visible_costs_nothing(desk_of: Callable[..., Desk], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "look_wait_seconds", lambda _: 0.0)
    desk = desk_of(*[errors.NotYet(why="404")] * 20, Outcome.LANDED, retry_times=0)
    assert await desk.end(desk.submit(event(staged=True))) == ["landed"]
    assert desk.task.tries[-1].try_number == 1


async def test_each_version_has_a_budget_of_its_own(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(errors.TransientError(why="broken"), retry_times=1)
    later = asyncio.Event()

    async def meanwhile() -> Outcome:
        await later.wait()
        raise errors.TransientError(why="broken")

    desk.task.steps.insert(0, meanwhile)
    first = desk.submit(event(pnfsid="A"))
    await until(lambda: desk.task.running, "the first try")
    second = desk.submit(event(pnfsid="B"))
    later.set()
    assert await desk.end(first, second) == ["failed", "failed"]
    assert sorted(row.pnfsid for row in desk.rows.rows) == ["A", "B"]
    assert {row.pnfsid: row.attempts for row in desk.rows.rows} == {"A": 1, "B": 2}


async def test_a_version_that_comes_again_after_its_row_has_a_whole_budget(desk_of: Callable[..., Desk]) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def held_up() -> Outcome:
        started.set()
        await go_on.wait()
        raise errors.TransientError(why="x")

    # The job lives on because of another version that joins meanwhile; the first one fails, and comes again.
    desk = desk_of(
        held_up, errors.TransientError(why="x"), Outcome.LANDED, errors.TransientError(why="x"), Outcome.LANDED
    )
    desk.dispatcher.policy = RetryPolicy(0.0, 1)
    first = desk.submit(event(pnfsid="A"))
    await started.wait()
    other = desk.submit(event(pnfsid="B", staged=True))
    go_on.set()
    await until(lambda: first.settled, "the first one's end")
    again = desk.submit(event(pnfsid="A"))
    ends = await desk.end(first, other, again)
    assert ends[0] == "failed"
    assert ends[2] == "landed"
    assert [context.try_number for context, tried in zip(desk.task.tries, desk.task.tried, strict=True)
            if tried.pnfsid == "A"] == [1, 2, 1, 2]  # fmt: skip


async def test_a_task_that_says_no_outcome_ends_in_a_row_and_harms_no_other(desk_of: Callable[..., Desk]) -> None:
    async def nothing() -> Any:
        return None

    desk = desk_of(nothing)
    assert await desk.end(desk.submit(event())) == ["failed"]
    assert "None" in desk.rows.rows[0].message


async def test_an_answer_of_the_door_breaks_the_row_of_unreachable_tries(
    desk_of: Callable[..., Desk], soon: None
) -> None:
    away: Step = errors.Unreachable(host="door", why="refused")
    desk = desk_of(*[away] * 9, errors.ServerError(host="door", http_status=500), *[away] * 9, Outcome.LANDED)
    assert await desk.end(desk.submit(event())) == ["landed"]
    assert not desk.dispatcher.counters.holds


async def test_what_happens_here_does_not_break_the_row_of_unreachable_tries(
    desk_of: Callable[..., Desk], soon: None
) -> None:
    away: Step = errors.Unreachable(host="door", why="refused")
    desk = desk_of(*[away] * 5, errors.WriteFailed(operation="fsync", why="EIO"), *[away] * 5, Outcome.LANDED)
    assert await desk.end(desk.submit(event())) == ["landed"]
    assert desk.dispatcher.counters.holds == {"unreachable": 1}


async def test_memory_is_kept_from_try_to_try(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()

    async def noting() -> Outcome:
        memory = desk.task.tries[-1].memory
        memory["tries"] = int(str(memory.get("tries", 0))) + 1
        if memory["tries"] != 3:
            raise errors.TransientError(why="again")
        return Outcome.DONE

    desk.task.steps = [noting]
    assert await desk.end(desk.submit(event())) == ["done"]


# --- waiting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age_seconds", "waits"), [(0.0, True), (60.0, False), (None, True), (-3600.0, True)])
async def test_a_young_event_waits_and_a_backlog_does_not(
    desk_of: Callable[..., Desk], age_seconds: float | None, *, waits: bool
) -> None:
    desk = desk_of(delay=0.2)
    began = time.monotonic()
    date = None if age_seconds is None else time.time() - age_seconds
    await desk.end(desk.submit(event(date=date)))
    assert (time.monotonic() - began >= 0.15) is waits


async def test_a_wake_during_a_try_is_not_lost(desk_of: Callable[..., Desk], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "look_wait_seconds", lambda _: 3600.0)
    go_on = asyncio.Event()

    async def looking() -> Outcome:
        await go_on.wait()
        raise errors.NotYet(why="404")

    desk = desk_of(looking, Outcome.LANDED)
    delivery = desk.submit(event(staged=True))
    await until(lambda: desk.task.running, "the first look")
    desk.dispatcher.look_now(event(kind="request", staged=True))
    go_on.set()
    assert await desk.end(delivery) == ["landed"]


async def test_a_remove_is_told_to_the_next_try_of_its_version_alone(
    desk_of: Callable[..., Desk], monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "look_wait_seconds", lambda _: 3600.0)
    desk = desk_of(errors.NotYet(why="404"), Outcome.GONE, Outcome.LANDED)
    first = desk.submit(event(pnfsid="A", staged=True))
    other = desk.submit(event(pnfsid="B", staged=True))
    await until(lambda: desk.dispatcher.window.invisible, "the wait")
    desk.dispatcher.look_now(event(kind="remove", pnfsid="A"))
    assert await desk.end(first, other) == ["gone", "landed"]
    assert [context.removed for context in desk.task.tries] == [False, True, False]


async def test_a_hint_about_nobody_wakes_nobody(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()
    desk.dispatcher.look_now(event(kind="remove", pnfsid="A"))
    assert not desk.task.tries


async def test_who_waits_to_be_visible_leaves_room_for_others(desk_of: Callable[..., Desk], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "look_wait_seconds", lambda _: 3600.0)
    desk = desk_of(errors.NotYet(why="404"))
    window = desk.dispatcher.window
    for number in range(99):
        desk.submit(event(f"/{number}", str(number), staged=True))
    await until(lambda: window.invisible == 99, "all to wait")
    assert (window.open, window.is_full, window.has_room) == (99, False, False)
    desk.submit(event("/99", "99", staged=True))
    await until(lambda: window.invisible == 100, "one more")
    assert window.is_full


# --- holds --------------------------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes come at once."""
    for name in ("FIRST_PROBE_SECONDS", "LONGEST_PROBE_SECONDS"):
        monkeypatch.setattr(f"dcalqr.holds.{name}", 0.01)
    monkeypatch.setattr(module, "UNREACHABLE_WAIT_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("error", "domain"),
    [
        (errors.CredentialRefused(why="401"), "door"),
        (errors.NoSpace(why="full"), "destination"),
        (errors.MountMissing(why="gone"), "destination"),
    ],
)
async def test_a_hold_stops_every_job_until_the_probe_succeeds(
    desk_of: Callable[..., Desk], soon: None, error: errors.HeldError, domain: str
) -> None:
    desk = desk_of(error, Outcome.LANDED, retry_times=0)
    desk.task.probe_error = error
    first = desk.submit(event("/1", "A"))
    await until(lambda: len(desk.task.probes) >= 3, "three probes")
    others = [desk.submit(event(f"/{number}", "A")) for number in range(2, 5)]
    before = len(desk.task.probes)
    await until(lambda: len(desk.task.probes) > before + 2, "more probes")
    assert len(desk.task.tries) == 1
    assert set(desk.task.probes) == {domain}
    desk.task.probe_error = None
    assert await desk.end(first, *others) == ["landed"] * 4
    assert desk.dispatcher.counters.holds == {error.hold: 1}
    assert desk.task.tries[-1].try_number == 1


async def test_unreachable_ten_times_in_a_row_is_a_hold_and_nine_are_not(
    desk_of: Callable[..., Desk], soon: None
) -> None:
    away = errors.Unreachable(host="door", why="refused")
    desk = desk_of(*[away] * 9, Outcome.LANDED, *[away] * 10, Outcome.LANDED, retry_times=0)
    assert await desk.end(desk.submit(event("/1"))) == ["landed"]
    assert not desk.dispatcher.counters.holds
    assert await desk.end(desk.submit(event("/2"))) == ["landed"]
    assert desk.dispatcher.counters.holds == {"unreachable": 1}
    assert desk.task.probes == ["door"]


@pytest.mark.parametrize("answer", [errors.ServerError(host="door", http_status=500), ValueError("what?")])
async def test_a_probe_that_gets_any_other_answer_releases(
    desk_of: Callable[..., Desk], soon: None, answer: Exception
) -> None:
    desk = desk_of(errors.CredentialRefused(why="401"), Outcome.LANDED)
    desk.task.probe_error = answer
    assert await desk.end(desk.submit(event())) == ["landed"]
    assert desk.task.probes == ["door"]


async def test_both_sides_must_be_well_before_anything_goes_on(desk_of: Callable[..., Desk], soon: None) -> None:
    door, disk = errors.CredentialRefused(why="401"), errors.NoSpace(why="full")
    both = asyncio.Event()

    async def full() -> Outcome:
        await both.wait()
        raise disk

    desk = desk_of(full, door, Outcome.LANDED)
    desk.task.probe_error = door
    first, second = desk.submit(event("/1")), desk.submit(event("/2"))
    await until(lambda: desk.dispatcher.holding.holds, "the first hold")
    both.set()
    await until(lambda: len(desk.dispatcher.holding.holds.active) == 2 or "destination" in desk.task.probes, "both")
    await until(lambda: list(desk.dispatcher.holding.holds.active) == ["door"], "the destination to be well")
    assert not desk.dispatcher.holding.is_free
    assert len(desk.task.tries) == 2
    desk.task.probe_error = None
    assert await desk.end(first, second) == ["landed"] * 2


async def test_a_row_that_cannot_be_written_holds_its_delivery(
    desk_of: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROW_RETRY_SECONDS", 0.01)
    desk = desk_of(errors.ReservedName())
    desk.rows.full = True
    delivery = desk.submit(event())
    await until(lambda: desk.rows.refused >= 3, "three refusals")
    assert delivery.settled is None
    assert desk.dispatcher.window.open == 1
    assert desk.dispatcher.counters.unwritten == 1
    desk.rows.full = False
    assert await desk.end(delivery) == ["failed"]
    assert len(desk.rows.rows) == 1
    assert desk.dispatcher.counters.unwritten == 0


# --- the deliveries of one job ------------------------------------------------------------------------------------


async def test_what_landed_is_settled_at_once_when_it_comes_again(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(Outcome.LANDED)
    await desk.end(desk.submit(event()))
    again = desk.submit(event())
    assert again.settled is Settled.ALREADY
    assert await desk.end(again) == ["already"]
    assert len(desk.task.tries) == 1
    assert desk.reports[-1] == (Settled.ALREADY, None)


async def test_deliveries_of_one_upload_share_one_try_and_one_row(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(errors.ReservedName(), Outcome.DONE)
    ends = await desk.end(*[desk.submit(event()) for _ in range(5)])
    assert ends == ["failed"] * 5
    assert len(desk.rows.rows) == len(desk.task.tries) == 1


async def test_one_job_at_a_time_has_a_key(desk_of: Callable[..., Desk]) -> None:
    running: list[int] = []

    async def counted() -> Outcome:
        running.append(desk.task.running)
        await asyncio.sleep(random.random() / 100)
        return Outcome.LANDED

    desk = desk_of(counted)
    deliveries = []
    for number in range(30):
        deliveries.append(desk.submit(event(pnfsid=str(number))))
        await asyncio.sleep(0.002)
    await desk.end(*deliveries)
    assert set(running) == {1}


# --- the end ------------------------------------------------------------------------------------------------------


async def test_a_drain_lets_go_who_waits_and_waits_for_who_works(
    desk_of: Callable[..., Desk], monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "look_wait_seconds", lambda _: 3600.0)
    go_on = asyncio.Event()

    async def working() -> Outcome:
        await go_on.wait()
        return Outcome.LANDED

    desk = desk_of(errors.NotYet(why="404"), errors.DoorTimeout(seconds=1), working, retry_seconds=300.0)
    invisible = desk.submit(event("/1", staged=True))
    await until(lambda: len(desk.task.tries) == 1, "the first")
    retrying = desk.submit(event("/2"))
    await until(lambda: len(desk.task.tries) == 2, "the second")
    works = desk.submit(event("/3"))
    await until(lambda: desk.task.running, "the third")
    draining = asyncio.create_task(desk.dispatcher.drain(60.0))
    await until(lambda: len(desk.dispatcher.runs._tasks) == 1, "the others to be let go")
    assert not draining.done()
    go_on.set()
    await draining
    assert works.settled is Settled.LANDED
    assert (invisible.settled, retrying.settled) == (None, None)
    assert not desk.rows.rows


async def test_nothing_new_begins_in_a_drain(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(Outcome.LANDED)
    await desk.dispatcher.drain(0.0)
    first, second = desk.submit(event()), desk.submit(event())
    desk.dispatcher.look_now(event(kind="remove"))
    await until(lambda: not desk.dispatcher.runs._tasks, "the jobs' end")
    third = desk.submit(event())
    await desk.dispatcher.cancel()
    assert {first.settled, second.settled, third.settled} == {None}
    assert not desk.task.tries


async def test_who_is_told_to_stop_may_still_have_landed(desk_of: Callable[..., Desk]) -> None:
    """Past the last verification an attempt finishes instead."""

    async def finishing() -> Outcome:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(0.01)
        return Outcome.LANDED

    desk = desk_of(finishing)
    delivery = desk.submit(event())
    await until(lambda: desk.task.running, "the try")
    await desk.dispatcher.drain(0.0)
    assert delivery.settled is Settled.LANDED


async def test_who_is_told_to_stop_and_does_is_neither_settled_nor_a_row(desk_of: Callable[..., Desk]) -> None:
    async def stopping() -> Outcome:
        await asyncio.sleep(3600)
        return Outcome.LANDED

    desk = desk_of(stopping)
    delivery = desk.submit(event())
    await until(lambda: desk.task.running, "the try")
    await desk.dispatcher.cancel()
    assert delivery.settled is None
    assert not desk.rows.rows
    assert not desk.dispatcher.runs.fatal.done()


async def test_a_drain_ends_a_hold_and_its_probe(desk_of: Callable[..., Desk], soon: None) -> None:
    held = errors.CredentialRefused(why="401")
    desk = desk_of(held)
    desk.task.probe_error = held
    delivery = desk.submit(event())
    await until(lambda: desk.task.probes, "a probe")
    await desk.dispatcher.drain(60.0)
    assert delivery.settled is None
    assert not desk.dispatcher.holding._probing


async def test_a_mistake_of_ours_is_fatal_and_not_silent(
    desk_of: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(Outcome.LANDED)

    def broken(*_: object) -> Sequence[object]:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(desk.dispatcher.inflight, "verdicts", broken)
    desk.submit(event())
    with pytest.raises(RuntimeError, match="a mistake"):
        await asyncio.wait_for(desk.dispatcher.runs.fatal, 30)
