from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, NoOffsetForPartitionError

from dcalqr.kafka import consumer, membership
from dcalqr.kafka.contract import Broken
from dcalqr.kafka.groups import Group
from dcalqr.kafka.membership import Membership
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.kafka.silence import Silence
from tests.kafka.reading import (
    SESSION_SECONDS,
    Memory,
    Reader,
    numbers,
    running,
    section,
    until,
    until_all_committed,
    until_committed,
)
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.usefixtures("nothing_left", "quick")

ZERO, ONE = TopicPartition("billing", 0), TopicPartition("billing", 1)


# --- batches of an older assignment (rule 7) ----------------------------------------------------------------------


class Positions:
    """An aiokafka consumer, as far as tracking needs it; a position may be an exception, or None: not valid yet."""

    def __init__(self, **positions: int | Exception | None) -> None:
        self.positions = {TopicPartition("billing", int(name[1:])): value for name, value in positions.items()}

    async def position(self, partition: TopicPartition) -> int:
        position = self.positions[partition]
        if isinstance(position, Exception):
            raise position
        if position is None:
            await asyncio.sleep(0)
            raise AssertionError("nobody waits for it")
        return position


async def member(trackers: dict[TopicPartition, OffsetTracker], **positions: int | Exception | None) -> Any:
    """A membership between two polls."""
    kafka = SimpleNamespace(bootstrap="127.0.0.1:1")
    made: Any = Membership(section(kafka, "billing", "group"), Reader(closes=False), Memory(), SESSION_SECONDS)  # type: ignore[arg-type]
    await made.aclose()
    made._consumer, made._trackers = Positions(**positions), trackers
    return made


def batch(*offsets: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(partition=0, offset=offset, value=b"") for offset in offsets]


async def hand_on(made: Any, batches: dict[TopicPartition, list[SimpleNamespace]]) -> None:
    """Do with batches what a poll does with what it got."""
    for records, tracker in made._track(batches):
        await made._receiver.receive(records, tracker)


@pytest.mark.parametrize("position", [500, 999, 0, None, IllegalStateError("not assigned")])
async def test_the_tail_of_an_older_batch_is_dropped_whole(position: int | Exception | None) -> None:
    """The new assignment reads from 0 or 500 on; what comes is 501..999 of the older one."""
    tracker = OffsetTracker("billing", 0, 500 if isinstance(position, int) and position else 0)
    made = await member({ZERO: tracker}, p0=position)
    await hand_on(made, {ZERO: batch(*range(501, 1000))})
    assert made._receiver.received == []
    assert (len(tracker), tracker.mark(), made.stale_batches) == (0, tracker.position, 1)


async def test_a_batch_of_a_partition_that_is_no_longer_ours_is_dropped() -> None:
    made = await member({}, p0=IllegalStateError("not assigned"))
    await hand_on(made, {ZERO: batch(1, 2)})
    assert (made._receiver.received, made.stale_batches) == ([], 1)


async def test_a_batch_that_goes_back_ends_the_membership() -> None:
    made = await member({ZERO: OffsetTracker("billing", 0, 500)}, p0=800)
    with pytest.raises(Broken):
        await hand_on(made, {ZERO: batch(499, 500)})
    assert made._receiver.received == []


async def test_a_stale_batch_does_not_stop_another_partition() -> None:
    good = OffsetTracker("billing", 1, 0)
    made = await member({ZERO: OffsetTracker("billing", 0, 0), ONE: good}, p0=0, p1=3)
    await hand_on(made, {ZERO: batch(7), ONE: batch(0, 2)})
    assert [offset for _, offset in made._receiver.received] == [0, 2]
    assert (good.mark(), good.position) == (0, 3)


async def test_all_batches_of_a_poll_are_tracked_before_the_first_is_judged() -> None:
    """Judging may let others work, a rebalance among them: what is tracked then would be of another assignment."""
    zero, one = OffsetTracker("billing", 0, 0), OffsetTracker("billing", 1, 0)
    made = await member({ZERO: zero, ONE: one}, p0=2, p1=3)
    made._track({ZERO: batch(0, 1), ONE: batch(0, 2)})
    assert (len(zero), len(one)) == (2, 2)
    assert made._receiver.received == []


async def test_a_poll_that_comes_before_the_start_points_is_dropped_and_read_again(
    kafka: KafkaBroker, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching begins at the committed offsets as soon as there is an assignment, before the listener has ended."""
    kafka.produce(topic, numbers(1200))
    kafka.set_committed(group, topic, dict.fromkeys(range(4), 0))
    gate, assigned = asyncio.Event(), Membership.assigned

    async def late(self: Membership, partitions: set[TopicPartition]) -> None:
        await gate.wait()
        await assigned(self, partitions)

    monkeypatch.setattr(Membership, "assigned", late)
    async with running(section(kafka, topic, group)) as run:
        await until(lambda: run.consumer.membership is not None and run.consumer.membership.stale_batches > 0, "one")
        assert run.reader.received == []
        assert kafka.committed(group, topic) == dict.fromkeys(range(4), 0)
        gate.set()
        await until_all_committed(kafka, group, topic)
        assert run.consumer.rebuilds == 0
    assert Counter(run.reader.values) == Counter(numbers(1200))


async def test_a_batch_cut_by_a_rebalance_is_read_again_from_the_committed_offset(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    """One fetch brings 1200 records, a poll takes 500 of them; then the assignment is made anew."""
    reader = Reader(closes=False)
    kafka.produce(topic, numbers(1200), partition=0)

    async with running(section(kafka, topic, group), reader) as run:
        await run.reads(4)
        await until(lambda: len(reader.received) >= 500, "the first batch")
        assert run.consumer.membership is not None
        run.consumer.membership._consumer._coordinator.request_rejoin()
        before = run.consumer.membership.rebalances
        await until(lambda: run.consumer.membership.rebalances > before, "the rebalance")  # type: ignore[union-attr]
        again = len(reader.received)
        await until(lambda: len(reader.received) == again + 1200, "all of it again")
        assert [offset for _, offset in reader.received[again:]] == list(range(1200))
        reader.close(again)
        await run.consumer.membership.commit()
        assert kafka.committed(group, topic)[0] == 0
        reader.close()
        await until_all_committed(kafka, group, topic)


# --- errors of a poll ---------------------------------------------------------------------------------------------


async def test_what_the_listener_raised_is_told_even_when_polls_only_find_no_offsets() -> None:
    class NoOffsets(Positions):
        def assignment(self) -> set[TopicPartition]:
            return set()

        async def getmany(self, **_: object) -> None:
            raise NoOffsetForPartitionError(ZERO)

    made = await member({})
    made._consumer = NoOffsets(p0=IllegalStateError("not assigned"))

    async def fails() -> None:
        raise LookupError("no such thing")

    await made.listening(fails())
    with pytest.raises(Broken, match="no such thing"):
        await made.poll()


# --- commits ------------------------------------------------------------------------------------------------------


async def test_a_commit_of_an_illegal_generation_is_dropped_counted_and_forgotten(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    reader = Reader(closes=False)
    async with running(section(kafka, topic, group, commitseconds=600), reader) as run:
        await run.reads(4)
        kafka.produce(topic, numbers(40))
        await until(lambda: len(reader.open) == 40, "all records")
        reader.close()
        assert run.consumer.membership is not None
        run.consumer.membership._consumer._coordinator.generation += 7
        await run.consumer.membership.commit()
        assert run.consumer.membership.commit_failures == 1
        reader.closes = True
        await until(lambda: len(reader.received) == 80, "the records again, by a new assignment")
        await run.consumer.membership.commit()
        assert kafka.committed(group, topic) == kafka.end_offsets(topic)
        assert run.consumer.rebuilds == 0


# --- offsets that are gone ----------------------------------------------------------------------------------------


async def test_a_commit_that_the_client_cancels_by_itself_is_dropped_and_counted() -> None:
    membership = await member({ZERO: OffsetTracker("billing", 0, 5)}, p0=5)

    async def cancels_itself(_: object) -> None:
        raise asyncio.CancelledError

    membership._consumer.commit = cancels_itself
    await membership.commit()
    assert membership.commit_failures == 1


async def test_a_commit_that_we_cancel_ends() -> None:
    membership = await member({ZERO: OffsetTracker("billing", 0, 5)}, p0=5)
    began = asyncio.Event()

    async def hangs(_: object) -> None:
        began.set()
        await asyncio.Event().wait()

    membership._consumer.commit = hangs
    commit = asyncio.create_task(membership.commit(60.0))
    await began.wait()
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit


async def left_behind(kafka: KafkaBroker, topic: str, group: str) -> None:
    """Commit 10 everywhere, produce up to 100, and let what is below 50 go in partition 0."""
    kafka.produce(topic, numbers(400))
    kafka.set_committed(group, topic, dict.fromkeys(range(4), 10))
    kafka.delete_records(topic, {0: 50})


async def test_a_partition_whose_offset_is_gone_is_halted_and_named_and_the_others_go_on(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    await left_behind(kafka, topic, group)
    kafka_section = section(kafka, topic, group)
    with structlog.testing.capture_logs() as logs:
        async with running(kafka_section) as run:
            await until_committed(kafka, group, topic, {0: 10, 1: 100, 2: 100, 3: 100})
            assert run.consumer.membership is not None
            assert list(run.consumer.membership.halted) == [0]
            assert "40 records were deleted unread" in run.consumer.membership.halted[0]
            kafka.produce(topic, numbers(8))
            async with running(kafka_section):  # a rebalance forgets neither the halt nor the offset
                await run.reads(2)
            await run.reads(4)
            await until_committed(kafka, group, topic, {0: 10, 1: 102, 2: 102, 3: 102})
            await until(lambda: [*run.consumer.membership.halted] == [0], "the halt")  # type: ignore[union-attr]
    assert {partition for partition, _ in run.reader.received} == {1, 2, 3}
    lost = [line for line in logs if line["event"] == "LOST_RANGE"]
    assert {line["partition"] for line in lost} == {0}
    assert "dcalqr offsets --config FILE --partition 0" in lost[0]["hint"]
    async with Group(kafka_section) as outside:
        assert await outside.members() == 0
        await outside.commit(0, await outside.resolve(0, "earliest"))
    async with running(kafka_section) as run:
        await until_all_committed(kafka, group, topic)
    assert [offset for partition, offset in run.reader.received if partition == 0] == list(range(50, 102))


async def test_with_earliest_the_gap_is_logged_and_reading_goes_on_behind_it(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    await left_behind(kafka, topic, group)
    with structlog.testing.capture_logs() as logs:
        async with running(section(kafka, topic, group, onoffsetloss="earliest")) as run:
            await until_all_committed(kafka, group, topic)
            assert run.consumer.membership is not None
            assert run.consumer.membership.halted == {}
    assert [offset for partition, offset in run.reader.received if partition == 0] == list(range(50, 100))
    assert [line["halted"] for line in logs if line["event"] == "LOST_RANGE"] == [False]


async def test_an_offset_beyond_the_end_halts_too(kafka: KafkaBroker, topic: str, group: str) -> None:
    kafka.produce(topic, numbers(40))
    kafka.set_committed(group, topic, {0: 5000, 1: 0, 2: 0, 3: 0})
    async with running(section(kafka, topic, group)) as run:
        await until_committed(kafka, group, topic, {0: 5000, 1: 10, 2: 10, 3: 10})
        assert run.consumer.membership is not None
        await until(lambda: 0 in run.consumer.membership.halted, "the halt")  # type: ignore[union-attr]
        assert "beyond the end" in run.consumer.membership.halted[0]


async def test_the_search_for_a_bad_batch_takes_nothing_beyond_a_full_window() -> None:
    made = await member({}, p0=0)
    made._receiver.full = True
    assert not await made._alone(ZERO)


# --- silence ------------------------------------------------------------------------------------------------------


def test_a_stamp_that_changes_is_a_sign_of_life() -> None:
    silence = Silence()
    assert silence.longest({ZERO: 1, ONE: 1}, 0) == 0
    assert silence.longest({ZERO: 2, ONE: 1}, 10) == 10
    assert silence.longest({ZERO: 3, ONE: 2}, 20) == 0
    assert silence.longest({ZERO: 3, ONE: 2}, 500) == 480


def test_the_silence_of_a_paused_partition_counts_from_its_return() -> None:
    silence = Silence()
    silence.longest({ZERO: 1}, 0)
    assert silence.longest({}, 1000) == 0
    assert silence.longest({ZERO: 1}, 1001) == 0
    assert silence.longest({ZERO: 1}, 1003) == 2


def test_a_new_assignment_begins_its_silence_anew() -> None:
    silence = Silence()
    silence.longest({ZERO: 1}, 0)
    assert silence.longest({ZERO: None}, 1000) == 0
    assert silence.longest({ZERO: None}, 1301) == 301


async def test_neither_a_rebalance_nor_a_long_pause_nor_having_no_partition_counts_as_silence(
    kafka: KafkaBroker, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (membership, consumer):
        monkeypatch.setattr(module, "SILENCE_SECONDS", 2.5)
    monkeypatch.setattr(consumer, "WATCH_SECONDS", 0.05)
    kafka.create_topic(group, 1)
    kafka_section = section(kafka, group, group)
    async with running(kafka_section) as run:
        await run.reads(1)
        run.reader.full = True
        await asyncio.sleep(3)
        run.reader.full = False
        async with running(kafka_section) as other:
            await until(lambda: (len(run.partitions), len(other.partitions)) in ((0, 1), (1, 0)), "one of them spare")
            await asyncio.sleep(3)
            assert other.consumer.rebuilds == 0
        await run.reads(1)
        assert run.consumer.rebuilds == 0


async def test_fetches_that_are_not_answered_end_the_membership(
    kafka: KafkaBroker, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "SILENCE_SECONDS", 1.5)
    async with running(section(kafka, topic, group)) as run:
        await run.reads(4)
        assert run.consumer.membership is not None
        run.consumer.membership._consumer._fetcher._fetch_task.cancel()
        kafka.produce(topic, numbers(8))
        await until_all_committed(kafka, group, topic)
        assert run.consumer.rebuilds == 1
