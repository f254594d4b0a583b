from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from dcalqr import errors
from dcalqr.dcache.events import EventReader
from dcalqr.dcache.uploads import UploadFilter
from dcalqr.delivery import rows
from dcalqr.delivery.intake import BROKEN_IN_A_ROW, SLICE_UPLOADS, WATCHED_UPLOADS, Intake
from dcalqr.dispatcher import Dispatcher
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.local.failures import UnreadableFile
from dcalqr.metrics.counters import Counters
from dcalqr.model import MATCH, Skip, StorageEvent, Verdict
from dcalqr.retry import RetryPolicy
from dcalqr.testing import samples
from tests.support.rig import until
from tests.support.site import FOLDER, ROOT
from tests.test_dispatcher import FakeRows, FakeTask

UPLOAD = samples.upload(f"{ROOT}{FOLDER}/file", 10, "A" * 36)
BAD = b'{"msgType": "transfer", "isWrite": "write", "billingPath": 7'


@dataclass
class Record:
    offset: int
    value: bytes | None
    topic: str = "billing"
    partition: int = 0


class Desk:
    """An intake with its dispatcher, and one partition to read from."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor, judge: Callable[[StorageEvent], Any] | None) -> None:
        self.task, self.rows, self.counters = FakeTask(), FakeRows(), Counters()
        self.tracker = OffsetTracker("billing", 0, 0)
        self.unreadable = UnreadableFile(str(folder / "failed.csv"), threads)
        self.dispatcher = Dispatcher(
            task=self.task,
            policy=RetryPolicy(0.0, 0),
            rows=self.rows,
            counters=self.counters,
            report=lambda *_: None,
            delay_seconds=0.0,
            window=10,
        )
        self.filter: Any = UploadFilter(ROOT + FOLDER) if judge is None else SimpleNamespace(judge=judge)
        reader = EventReader(ROOT + FOLDER)
        self.intake = Intake(reader, self.filter, self.dispatcher, self.unreadable, self.counters)

    async def receive(self, *values: bytes | None) -> None:
        first = self.tracker.position
        batch = [Record(first + place, value) for place, value in enumerate(values)]
        self.tracker.track([record.offset for record in batch], first + len(batch))
        await self.intake.receive(batch, self.tracker)

    async def finished(self) -> None:
        """Wait until every offset is closed."""
        await until(lambda: not len(self.tracker), f"the end of {self.tracker}")

    def kept(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(self.unreadable.path).read_text().splitlines()]


@pytest.fixture
async def desk_of(tmp_path: Path) -> AsyncIterator[Callable[..., Desk]]:
    made: list[Desk] = []
    with ThreadPoolExecutor(2) as threads:

        def make(judge: Callable[[StorageEvent], Any] | None = None) -> Desk:
            made.append(Desk(tmp_path, threads, judge))
            return made[-1]

        yield make
        for desk in made:
            await desk.intake.drain(0.0)
            await desk.dispatcher.cancel()
            await desk.unreadable.close()


async def test_what_is_not_ours_is_finished_in_the_same_step_and_counted_by_reason(
    desk_of: Callable[..., Desk],
) -> None:
    desk = desk_of()
    rng = random.Random(3)
    await desk.receive(*(samples.noise(rng, ROOT, FOLDER) for _ in range(500)))
    assert len(desk.tracker) == 0
    assert desk.tracker.mark() == 500
    assert sum(desk.counters.events.values()) == 500
    assert desk.counters.events["skip", "direction"] > 0
    assert desk.counters.matched == 0


async def test_what_is_not_ours_leaves_no_line_in_the_log(
    desk_of: Callable[..., Desk], capsys: pytest.CaptureFixture[str]
) -> None:
    desk = desk_of()
    rng = random.Random(3)
    await desk.receive(*(samples.noise(rng, ROOT, FOLDER) for _ in range(200)))
    assert capsys.readouterr() == ("", "")
    await desk.receive(UPLOAD)
    assert "UPLOAD" in capsys.readouterr().out


async def test_an_upload_is_open_until_its_task_has_ended(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()
    rng = random.Random(3)
    await desk.receive(UPLOAD, samples.noise(rng, ROOT, FOLDER))
    assert desk.tracker.mark() == 0
    await desk.finished()
    assert desk.tracker.mark() == 2
    assert desk.counters.matched == 1
    assert desk.counters.last_event_at is not None


async def test_many_uploads_at_once_let_others_work_in_between(desk_of: Callable[..., Desk]) -> None:
    desk, turns = desk_of(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(others())
    await desk.receive(
        *[samples.upload(f"{ROOT}{FOLDER}/{number}", 10, "A" * 36) for number in range(8 * SLICE_UPLOADS)]
    )
    assert turns >= 7
    other.cancel()
    await desk.finished()


async def test_what_was_not_judged_when_the_work_ended_stays_open(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()
    rng = random.Random(3)
    noise = [samples.noise(rng, ROOT, FOLDER) for _ in range(100)]
    receiving = asyncio.create_task(desk.receive(*noise, *[UPLOAD] * 4 * SLICE_UPLOADS, *noise))
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait({receiving})
    judged = desk.counters.matched
    assert 0 < judged <= SLICE_UPLOADS
    assert desk.tracker.mark() <= len(noise) + judged
    assert len(desk.tracker) >= 4 * SLICE_UPLOADS - judged


async def test_a_hint_is_finished_at_once(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()
    await desk.receive(samples.remove(f"{ROOT}{FOLDER}/file", 10, "A" * 36))
    assert len(desk.tracker) == 0
    assert desk.counters.events["look_now", ""] == 1


# --- unreadable records -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"", b"\xff\xfe", BAD, b"[" * 100_000, b"\x00" * 3_000_000])
async def test_an_unreadable_record_is_kept_durably_before_its_offset_is_finished(
    desk_of: Callable[..., Desk], value: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of()
    await desk.unreadable.open()
    append, durable = desk.unreadable.append, list[int]()

    async def watched(**record: Any) -> None:
        await append(**record)
        durable.append(desk.tracker.mark())

    monkeypatch.setattr(desk.unreadable, "append", watched)
    await desk.receive(value)
    assert desk.tracker.mark() == 0
    assert desk.intake.appending == 1
    await desk.finished()
    assert durable == [0]
    (line,) = desk.kept()
    assert (line["topic"], line["partition"], line["offset"]) == ("billing", 0, 0)
    assert unquote_to_bytes(line["record"]) == (value or b"")
    assert desk.counters.unreadable == 1
    assert desk.counters.settled == {"unreadable": 1}


async def test_an_unreadable_record_that_cannot_be_kept_stays_open(
    desk_of: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROW_RETRY_SECONDS", 0.01)
    desk = desk_of()
    await desk.unreadable.open()
    append, refused = desk.unreadable.append, list[int]()

    async def full(**record: Any) -> None:
        refused.append(1)
        if len(refused) < 4:
            raise errors.NoSpace(why="full")
        assert desk.tracker.mark() == 0
        await append(**record)

    monkeypatch.setattr(desk.unreadable, "append", full)
    await desk.receive(BAD)
    await desk.finished()
    assert len(refused) == 4


async def test_an_unreadable_record_stops_no_other(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()
    await desk.unreadable.open()
    await desk.receive(BAD, UPLOAD, BAD)
    await desk.finished()
    assert len(desk.kept()) == 2
    assert len(desk.task.tries) == 1


async def test_more_than_half_of_the_last_thousand_unreadable_is_fatal(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()
    await desk.unreadable.open()
    half = WATCHED_UPLOADS // 2
    await desk.receive(*[UPLOAD, BAD] * half)
    with pytest.raises(errors.FatalError, match="message format"):
        await desk.receive(BAD, BAD)
    await until(lambda: not desk.intake.appending, "the appends")
    assert len(desk.kept()) <= half + 1
    assert desk.tracker.mark() < WATCHED_UPLOADS + 2


async def test_the_bad_ones_are_forgotten_with_the_window(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of()
    await desk.unreadable.open()
    half = WATCHED_UPLOADS // 2
    for _ in range(3):
        await desk.receive(*[BAD] * (half - 1))
        await desk.receive(*[UPLOAD] * (half + 1))
    await desk.finished()
    assert desk.counters.unreadable == 3 * (half - 1)


# --- filters that are wrong ---------------------------------------------------------------------------------------


def broken(_: StorageEvent) -> Verdict:
    raise ValueError("what?")


async def test_a_filter_that_raises_costs_a_row_for_each_record(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(broken)
    await desk.receive(*[UPLOAD] * (BROKEN_IN_A_ROW - 1))
    assert len(desk.tracker) == BROKEN_IN_A_ROW - 1
    await desk.finished()
    assert [(row.offset, row.error_class) for row in desk.rows.rows] == [
        (offset, "permanent") for offset in range(BROKEN_IN_A_ROW - 1)
    ]
    assert "what?" in desk.rows.rows[0].message
    assert desk.rows.rows[0].event == UPLOAD
    assert desk.counters.failed == {"permanent": BROKEN_IN_A_ROW - 1}
    assert desk.counters.settled == {"failed": BROKEN_IN_A_ROW - 1}


async def test_a_filter_that_raises_ten_times_in_a_row_is_fatal(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(broken)
    with pytest.raises(errors.FatalError, match="in a row: what"):
        await desk.receive(*[UPLOAD] * BROKEN_IN_A_ROW)


async def test_a_filter_that_raises_now_and_then_is_not_fatal(desk_of: Callable[..., Desk]) -> None:
    seen: list[StorageEvent] = []

    def shaky(event: StorageEvent) -> Verdict:
        seen.append(event)
        return MATCH if len(seen) % BROKEN_IN_A_ROW == 0 else broken(event)

    desk = desk_of(shaky)
    await desk.receive(*[UPLOAD] * 2 * BROKEN_IN_A_ROW)
    await desk.finished()
    assert len(desk.rows.rows) == 2 * (BROKEN_IN_A_ROW - 1)


async def test_a_row_of_a_broken_filter_is_durable_before_its_offset_is_finished(
    desk_of: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROW_RETRY_SECONDS", 0.01)
    desk = desk_of(broken)
    desk.rows.full = True
    await desk.receive(UPLOAD)
    await until(lambda: desk.rows.refused >= 3, "refusals")
    assert desk.tracker.mark() == 0
    desk.rows.full = False
    await desk.finished()


@pytest.mark.parametrize(("verdict", "matched"), [(True, 1), (False, 0), (Skip("mine"), 0), (MATCH, 1)])
async def test_a_filter_may_answer_yes_or_no(desk_of: Callable[..., Desk], verdict: object, matched: int) -> None:
    desk = desk_of(lambda _: verdict)
    await desk.receive(UPLOAD)
    await desk.finished()
    assert desk.counters.matched == matched == len(desk.task.tries)


@pytest.mark.parametrize("verdict", [None, "yes", 1])
async def test_a_verdict_that_is_none_leaves_no_offset_open(desk_of: Callable[..., Desk], verdict: object) -> None:
    desk = desk_of(lambda _: verdict)
    await desk.receive(UPLOAD)
    await desk.finished()
    assert len(desk.rows.rows) == 1
    assert not desk.task.tries


async def test_a_drain_leaves_open_what_is_not_durable(
    desk_of: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of()
    never = asyncio.Event()

    async def hanging(**_: Any) -> None:
        await never.wait()

    monkeypatch.setattr(desk.unreadable, "append", hanging)
    await desk.receive(BAD)
    await asyncio.sleep(0)
    await desk.intake.drain(0.01)
    await until(lambda: not desk.intake.appending, "the end of the append")
    assert desk.tracker.mark() == 0
