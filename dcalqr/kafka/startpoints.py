"""Where a group without offsets starts: resolved once and committed, for every partition, before the first join.

Kafka takes the commit of somebody who is no member only while the group has none. So when several instances start at
once, one of them decides for all, and from then on a partition without an offset is a new partition: it did not exist
when the group started, and is read from its beginning whatever `startfrom` says.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata

from dcalqr import log
from dcalqr.config import Kafka
from dcalqr.kafka import settings
from dcalqr.kafka.ending import stop
from dcalqr.kafka.topics import partitions_of


class OffsetsLost(Exception):
    """The group had offsets once, has none now, and `onoffsetloss` says halt."""

    def __init__(self) -> None:
        super().__init__(
            "the committed offsets of this group are gone (idle beyond the broker's retention, or the topic was made "
            "anew); choose for each partition: dcalqr offsets --config FILE --partition N "
            "--to earliest|latest|TIME|OFFSET --yes"
        )


async def commit_start_points(kafka: Kafka, *, group_seen: bool, for_all: bool = False) -> None:
    """Commit start points if the group has no offset in the topic.

    Parameters
    ----------
    kafka
        Says `startfrom` and `onoffsetloss`.
    group_seen
        Whether this instance knows that the group had offsets before.
    for_all
        Whether a person is choosing: one partition after another gets its offset, and none may be taken for a new one
        meanwhile.

    Raises
    ------
    OffsetsLost
        They are gone, and a person has to choose.
    KafkaError
        Kafka cannot say, or the topic does not exist.
    """
    connection = settings.connection(kafka)
    partitions = await partitions_of(kafka.topic, connection)
    consumer = AIOKafkaConsumer(
        **connection, group_id=kafka.consumergroup, enable_auto_commit=False, auto_offset_reset="none"
    )
    enough = all if for_all else any
    try:
        await consumer.start()
        if enough(await _known(consumer, partitions)):
            return
        if group_seen and kafka.onoffsetloss == "halt":
            raise OffsetsLost
        await _commit(consumer, partitions, "earliest" if group_seen else kafka.startfrom, lost=group_seen)
    finally:
        await stop(consumer)


async def _known(consumer: Any, partitions: list[TopicPartition]) -> list[bool]:
    """Return for each partition whether the group has an offset there."""
    return [await consumer.committed(partition) is not None for partition in partitions]


async def _commit(consumer: Any, partitions: list[TopicPartition], start: str | dt.datetime, *, lost: bool) -> None:
    # Before the question where the log begins and ends: of a topic that is not its own aiokafka first has to learn who
    # leads its partitions, and then waits 0.1 s for that.
    consumer.assign(partitions)
    points = await _resolved(consumer, partitions, start)
    # Asked again, because resolving took time: what another instance has committed stands. Ours, resolved before we
    # saw that there was nothing, can thus never lie behind a record that was produced after the first commit.
    if any(await _known(consumer, partitions)):
        return
    try:
        await consumer.commit({partition: OffsetAndMetadata(offset, "") for partition, offset in points.items()})
    except CommitFailedError:
        if any(await _known(consumer, partitions)):
            return  # the group has members meanwhile: one of them decided
        raise
    log.get().warning("LOST_RANGE" if lost else "START_POINTS", startfrom=str(start), offsets=by_number(points))


async def _resolved(consumer: Any, partitions: list[TopicPartition], start: str | dt.datetime) -> dict[Any, int]:
    ends: dict[Any, int] = await consumer.end_offsets(partitions)
    if start == "latest":
        return ends
    if not isinstance(start, dt.datetime):
        beginnings: dict[Any, int] = await consumer.beginning_offsets(partitions)
        return beginnings
    milliseconds = max(0, int(start.timestamp() * 1000))  # before the epoch Kafka's numbers have other meanings
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds))
    # No record is younger than the time: start at the end.
    return {partition: ends[partition] if found[partition] is None else found[partition].offset for partition in ends}


async def assigned_points(
    consumer: Any, kafka: Kafka, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, int]:
    """Return where a member starts to read its partitions: at the committed offset, and in a new one at the beginning.

    Raises
    ------
    OffsetsLost
        The group has no offset in the topic any more, so it is the topic that is new.
    KafkaError
        Kafka cannot say.
    """
    committed = {partition: await consumer.committed(partition) for partition in partitions}
    new = [partition for partition, offset in committed.items() if offset is None]
    if not new:
        return committed
    begins: dict[TopicPartition, int] = await consumer.beginning_offsets(new)
    everywhere = [TopicPartition(kafka.topic, number) for number in consumer.partitions_for_topic(kafka.topic) or ()]
    if not any(await _known(consumer, everywhere)):
        if kafka.onoffsetloss == "halt":
            raise OffsetsLost
        log.get().error("LOST_RANGE", message="the topic was made anew", offsets=by_number(begins), halted=False)
    return committed | begins


def by_number(offsets: Mapping[TopicPartition, int]) -> dict[str, int]:
    """Return offsets by partition number, as log lines show them."""
    return {str(partition.partition): offset for partition, offset in sorted(offsets.items())}


def lost_range(wanted: int, first: int) -> str:
    """Say what it means that the offset we want is not in the log, which begins at `first`."""
    if wanted < first:
        return f"offset {wanted} is gone, the log begins at {first}: {first - wanted} records were deleted unread"
    return f"offset {wanted} lies beyond the end of the log: the topic was made anew, or its end was lost"
