from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError

from dcalqr.config import Kafka
from dcalqr.kafka import membership, startpoints
from dcalqr.kafka.groups import Group
from dcalqr.kafka.startpoints import OffsetsLost, commit_start_points
from tests.kafka.reading import Memory, in_order, numbers, running, section, until, until_all_committed, until_committed
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.usefixtures("nothing_left", "quick")

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
# 2020-01-01T00:00:00Z
MOMENT_MS = 1_577_836_800_000


def four(offset: int) -> dict[int, int]:
    return dict.fromkeys(range(4), offset)


# --- startfrom ----------------------------------------------------------------------------------------------------


async def test_earliest_is_the_first_record_that_is_still_there(kafka: KafkaBroker, topic: str, group: str) -> None:
    kafka.produce(topic, numbers(40))
    kafka.delete_records(topic, {1: 4})
    await commit_start_points(section(kafka, topic, group), group_seen=False)
    assert kafka.committed(group, topic) == {0: 0, 1: 4, 2: 0, 3: 0}


async def test_latest_skips_what_is_there_and_nothing_that_comes(kafka: KafkaBroker, topic: str, group: str) -> None:
    kafka.produce(topic, numbers(40))
    async with running(section(kafka, topic, group, startfrom="latest")) as run:
        await run.reads(4)
        kafka.produce(topic, numbers(8, 40))
        await until_all_committed(kafka, group, topic)
    assert in_order(run.reader.values) == numbers(8, 40)


async def test_latest_is_committed_before_the_first_poll_so_nothing_between_two_starts_is_skipped(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    kafka.produce(topic, numbers(40))
    latest = section(kafka, topic, group, startfrom="latest", commitseconds=600)
    await commit_start_points(latest, group_seen=False)  # and dies before it joins
    kafka.produce(topic, numbers(8, 40))
    async with running(latest) as run:
        await until(lambda: len(run.reader.values) == 8, "what came between two starts")


@pytest.mark.parametrize(
    ("startfrom", "expected"),
    [
        ("2020-01-01T00:00:00Z", 10),
        ("2020-01-01T00:00:01Z", 20),
        ("2020-01-01T01:00:00+01:00", 10),
        ("2019-01-01T00:00:00Z", 0),
        ("1960-01-01T00:00:00Z", 0),
        ("2020-03-01T00:00:00Z", 30),
    ],
)
async def test_a_time_is_the_first_record_that_is_not_older_or_the_end(
    kafka: KafkaBroker, topic: str, group: str, startfrom: str, expected: int
) -> None:
    for days in (-1, 0, 1):
        kafka.produce(topic, numbers(40), timestamp_ms=MOMENT_MS + days * DAY_MS)
    await commit_start_points(section(kafka, topic, group, startfrom=startfrom), group_seen=False)
    assert kafka.committed(group, topic) == four(expected)


async def test_a_group_with_offsets_is_left_alone(kafka: KafkaBroker, topic: str, group: str) -> None:
    kafka.produce(topic, numbers(40))
    kafka.set_committed(group, topic, {2: 7})
    await commit_start_points(section(kafka, topic, group, startfrom="latest"), group_seen=True)
    assert kafka.committed(group, topic) == {2: 7}


# --- several instances --------------------------------------------------------------------------------------------


class Gate:
    """Stops the first one that calls, at its beginning or at its end, until it is opened."""

    def __init__(self, called: Callable[..., Coroutine[Any, Any, Any]], *, at_end: bool) -> None:
        self.called, self.at_end = called, at_end
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, *arguments: Any) -> Any:
        first = not self.reached.is_set()
        result = await self.called(*arguments) if self.at_end else None
        if first:
            self.reached.set()
            await self.open.wait()
        return result if self.at_end else await self.called(*arguments)


@pytest.mark.parametrize("at_end", [False, True], ids=["before it resolves", "after it resolved"])
async def test_of_two_instances_that_start_at_once_the_first_commit_stands(
    kafka: KafkaBroker, topic: str, group: str, monkeypatch: pytest.MonkeyPatch, *, at_end: bool
) -> None:
    kafka.produce(topic, numbers(40))
    latest = section(kafka, topic, group, startfrom="latest")
    gate = Gate(startpoints._resolved, at_end=at_end)
    monkeypatch.setattr(startpoints, "_resolved", gate)
    slow = asyncio.create_task(commit_start_points(latest, group_seen=False))
    await gate.reached.wait()
    await commit_start_points(latest, group_seen=False)
    kafka.produce(topic, numbers(4))
    gate.open.set()
    await slow
    assert kafka.committed(group, topic) == four(10)


async def test_an_instance_that_is_late_follows_the_members(
    kafka: KafkaBroker, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka refuses the commit of somebody who is no member while there are members."""
    kafka.produce(topic, numbers(40))
    latest = section(kafka, topic, group, startfrom="latest")
    known = startpoints._known
    answers = iter([[False], [False]])

    async def blind(*arguments: Any) -> list[bool]:
        return next(answers, None) or await known(*arguments)

    async with running(latest) as run:
        await run.reads(4)
        monkeypatch.setattr(startpoints, "_known", blind)
        kafka.produce(topic, numbers(4))
        await until_all_committed(kafka, group, topic)
        await commit_start_points(latest, group_seen=False)
        assert list(answers) == []
    assert kafka.committed(group, topic) == four(11)


async def test_two_instances_started_at_once_share_the_topic(kafka: KafkaBroker, topic: str, group: str) -> None:
    kafka.produce(topic, numbers(40))
    latest = section(kafka, topic, group, startfrom="latest")
    async with running(latest) as one, running(latest) as two:
        await one.reads(2)
        await two.reads(2)
        kafka.produce(topic, numbers(40, 40))
        await until_all_committed(kafka, group, topic)
    assert {*one.reader.values, *two.reader.values} == set(numbers(40, 40))


async def test_members_without_offsets_are_waited_for(kafka: KafkaBroker, topic: str, group: str) -> None:
    """They are not ours: ours commit before they join."""
    stranger = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    await stranger.start()
    try:
        with pytest.raises(CommitFailedError):
            await commit_start_points(section(kafka, topic, group), group_seen=False)
        assert kafka.committed(group, topic) == {}
    finally:
        await stranger.stop()


# --- new partitions -----------------------------------------------------------------------------------------------


async def test_new_partitions_are_read_from_their_beginning_whatever_startfrom_says(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    kafka.produce(topic, numbers(40))
    latest = section(kafka, topic, group, startfrom="latest")
    async with running(latest) as run:
        await run.reads(4)
        kafka.grow_topic(topic, 5)
        kafka.produce(topic, [b"new"], partition=4)
        await until_committed(kafka, group, topic, {**four(10), 4: 1})
    kafka.grow_topic(topic, 6)  # while nobody runs
    kafka.produce(topic, [b"newer"], partition=5)
    async with running(latest, run.reader) as run:
        await until_all_committed(kafka, group, topic)
    assert run.reader.values == [b"new", b"newer"]


# --- offsets that existed and are gone ----------------------------------------------------------------------------


async def forgotten(kafka: KafkaBroker, topic: str, group: str) -> Memory:
    """Let a group work, then delete it, as retention does; returns what the instance knows."""
    kafka.produce(topic, numbers(40))
    memory = Memory()
    async with running(section(kafka, topic, group), memory=memory):
        await until_all_committed(kafka, group, topic)
    admin = kafka.new_admin()
    for future in admin.delete_consumer_groups([group]).values():
        future.result(30)
    assert kafka.committed(group, topic) == {}
    return memory


async def choose(kafka: Kafka, partitions: list[int], to: str) -> None:
    """Do what `dcalqr offsets` does."""
    async with Group(kafka) as group:
        for partition in partitions:
            assert await group.members() == 0
            await group.commit(partition, await group.resolve(partition, to))


async def test_a_group_that_never_had_offsets_follows_startfrom(kafka: KafkaBroker, topic: str, group: str) -> None:
    await forgotten(kafka, topic, group)
    await commit_start_points(section(kafka, topic, group, startfrom="latest"), group_seen=False)
    assert kafka.committed(group, topic) == four(10)


async def test_a_group_that_had_offsets_halts_although_startfrom_says_latest(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    await forgotten(kafka, topic, group)
    with pytest.raises(OffsetsLost):
        await commit_start_points(section(kafka, topic, group, startfrom="latest"), group_seen=True)
    assert kafka.committed(group, topic) == {}


async def test_with_earliest_a_group_that_had_offsets_begins_anew_and_says_so(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    memory = await forgotten(kafka, topic, group)
    with structlog.testing.capture_logs() as logs:
        async with running(
            section(kafka, topic, group, startfrom="latest", onoffsetloss="earliest"), memory=memory
        ) as run:
            await until_all_committed(kafka, group, topic)
    assert len(run.reader.values) == 40
    assert [line["event"] for line in logs].count("LOST_RANGE") == 1


async def test_offsets_set_while_instances_wait_are_taken_up_without_a_restart(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    memory = await forgotten(kafka, topic, group)
    kafka_section = section(kafka, topic, group)
    async with running(kafka_section, memory=memory) as one, running(kafka_section, memory=memory) as two:
        for run in (one, two):
            await until(lambda run=run: "are gone" in run.consumer.trouble, "it says so")  # type: ignore[misc]
            assert "dcalqr offsets --config FILE --partition N" in run.consumer.trouble
        await choose(kafka_section, [0, 1, 2], "latest")
        before = one.consumer.rebuilds
        await until(lambda: one.consumer.rebuilds >= before + 2, "it looks again")
        assert "are gone" in one.consumer.trouble  # a person chooses partition by partition
        await choose(kafka_section, [3], "7")
        await one.reads(2)
        await two.reads(2)
        await until_all_committed(kafka, group, topic)
    assert sorted(one.reader.received + two.reader.received) == [(3, 7), (3, 8), (3, 9)]


async def test_offsets_set_while_all_are_stopped_are_taken_up(kafka: KafkaBroker, topic: str, group: str) -> None:
    memory = await forgotten(kafka, topic, group)
    kafka_section = section(kafka, topic, group)
    await choose(kafka_section, [0, 1, 2, 3], "latest")
    async with running(kafka_section, memory=memory) as run:
        await run.reads(4)
        kafka.produce(topic, numbers(4))
        await until_all_committed(kafka, group, topic)
    assert len(run.reader.values) == 4


async def test_a_topic_that_was_made_anew_while_all_are_stopped_halts(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    kafka.produce(topic, numbers(40))
    memory = Memory()
    kafka_section = section(kafka, topic, group)
    async with running(kafka_section, memory=memory):
        await until_all_committed(kafka, group, topic)
    kafka.delete_topic(topic)
    kafka.create_topic(topic, 4)
    kafka.produce(topic, numbers(8))
    async with running(kafka_section, memory=memory) as run:
        await until(lambda: "gone" in halts(run.consumer), "the halt")
        assert run.reader.values == []


async def test_a_topic_that_is_made_anew_while_it_is_read_halts_until_somebody_chooses(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    kafka.produce(topic, numbers(40))
    kafka_section = section(kafka, topic, group)
    async with running(kafka_section) as run:
        await until_all_committed(kafka, group, topic)
        kafka.delete_topic(topic)
        await until(lambda: not run.partitions or run.consumer.trouble != "", "nothing left to read")
        kafka.create_topic(topic, 4)
        kafka.produce(topic, numbers(8))
        await until(lambda: "are gone" in run.consumer.trouble, "the halt")
        assert len(run.reader.values) == 40
        await choose(kafka_section, [0, 1, 2, 3], "earliest")
        await until_all_committed(kafka, group, topic)
    assert len(run.reader.values) == 48


def halts(consumer: Any) -> str:
    """All that it complains of."""
    now: membership.Membership | None = consumer.membership
    return " ".join([consumer.trouble, *(now.halted.values() if now else ())])
