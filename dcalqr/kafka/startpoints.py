"""Where a group without offsets starts: resolved once and committed, for every partition, before the first join.

Kafka takes the commit of somebody who is no member only while the group has none. So when several instances start at
once, one of them decides for all, and from then on a partition without an offset is a new partition: it did not exist
when the group started, and is read from its beginning whatever `startfrom` says.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata

from dcalqr import log
from dcalqr.config import Kafka
from dcalqr.kafka import settings
from dcalqr.kafka.topics import partitions_of


class OffsetsLost(Exception):
    """The group had offsets once, has none now, and `onoffsetloss` says halt."""

    def __init__(self) -> None:
        super().__init__(
            "the committed offsets of this group are gone (idle beyond the broker's retention, or the topic was made "
            "anew); choose for each partition: dcalqr offsets --partition N --to earliest|latest|TIME|OFFSET --yes"
        )


async def commit_start_points(kafka: Kafka, *, group_seen: bool) -> None:
    """Commit start points if the group has no offset in the topic.

    Parameters
    ----------
    kafka
        Says `startfrom` and `onoffsetloss`.
    group_seen
        Whether this instance knows that the group had offsets before.

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
    try:
        await consumer.start()
        consumer.assign(partitions)
        if any([await consumer.committed(partition) is not None for partition in partitions]):
            return
        if group_seen and kafka.onoffsetloss == "halt":
            raise OffsetsLost
        await _commit(consumer, partitions, "earliest" if group_seen else kafka.startfrom, lost=group_seen)
    finally:
        await consumer.stop()


async def _commit(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], start: str | dt.datetime, *, lost: bool
) -> None:
    points = await _resolved(consumer, partitions, start)
    try:
        await consumer.commit({partition: OffsetAndMetadata(offset, "") for partition, offset in points.items()})
    except UnknownMemberIdError:
        return  # the group has members meanwhile: one of them decided
    shown = {str(partition.partition): offset for partition, offset in sorted(points.items())}
    log.get().warning("LOST_RANGE" if lost else "START_POINTS", startfrom=str(start), offsets=shown)


async def _resolved(consumer: Any, partitions: list[TopicPartition], start: str | dt.datetime) -> dict[Any, int]:
    ends: dict[Any, int] = await consumer.end_offsets(partitions)
    if start == "latest":
        return ends
    if not isinstance(start, dt.datetime):
        beginnings: dict[Any, int] = await consumer.beginning_offsets(partitions)
        return beginnings
    milliseconds = int(start.timestamp() * 1000)
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds))
    # No record is younger than the time: start at the end.
    return {partition: ends[partition] if found[partition] is None else found[partition].offset for partition in ends}
