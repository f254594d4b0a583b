"""Partitions that cannot be read on: named, and left alone until somebody decides. The others go on.

Either the next offset is not in the log any more, or the batch there cannot be decoded. aiokafka raises the latter out
of a poll of all partitions, does not say which it was, and drops what that poll had taken of the others. So all go back
to what was tracked, and each is read by itself, record by record: what stands before the batch is taken, and no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    UnsupportedCodecError,
)

from dcalqr import log
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.kafka.startpoints import lost_range

# Of each partition, in one go. If the batch is further away, the next poll raises again, and so many were taken.
ALONE_RECORDS = 500
_WAY_OUT = "stop all instances, then: dcalqr offsets --partition {} --to {}"


class Alone(Protocol):
    """Fetches one record of a partition and hands it on; returns whether one came. Calls `Halts.undecodable`."""

    def __call__(self, partition: TopicPartition) -> Awaitable[bool]: ...


class Halts:
    """The halted partitions of one assignment.

    Parameters
    ----------
    consumer
        aiokafka's.
    trackers
        Those of the present assignment, always.
    lost_too
        Whether a partition is halted when its offset is gone; else it is read on from what is left.

    Attributes
    ----------
    why
        By number of the partition, in words.
    """

    def __init__(self, consumer: Any, trackers: dict[TopicPartition, OffsetTracker], *, lost_too: bool) -> None:
        self._consumer, self._trackers, self._lost_too = consumer, trackers, lost_too
        self._log = log.get()
        self.why: dict[int, str] = {}

    def _halt(self, partition: TopicPartition, why: str) -> None:
        self._consumer.pause(partition)
        self.why[partition.partition] = why

    # --- the offset is gone ---------------------------------------------------------------------------------------

    async def out_of_range(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The offset we want is not in the log: deleted by retention, or the topic was made anew."""
        for partition, wanted in offsets.items():
            first = (await self._consumer.beginning_offsets([partition]))[partition]
            if partition not in self._trackers:
                continue  # meanwhile it is somebody else's, or will be read from the committed offset again
            why, number = lost_range(wanted, first), partition.partition
            hint = _WAY_OUT.format(number, "earliest|latest|TIME|OFFSET") if self._lost_too else None
            self._log.error("LOST_RANGE", partition=number, message=why, halted=self._lost_too, hint=hint)
            self._trackers.pop(partition, None)
            self._consumer.seek(partition, first)
            if self._lost_too:
                self._halt(partition, why)
            else:
                self._trackers[partition] = OffsetTracker(partition.topic, number, first)

    # --- the batch cannot be decoded ------------------------------------------------------------------------------

    async def single_out(self, error: Exception, alone: Alone) -> None:
        """Read the partitions by turns, each by itself, until one is halted or a turn's worth has been read.

        Raises
        ------
        Exception
            The given one: nothing could be read, so another membership has to try.
        """
        self._rewind()
        reading, came = {*self._consumer.assignment()} - self._consumer.paused(), False
        for _ in range(ALONE_RECORDS):
            for partition in sorted(reading):
                if self._is_read(partition) or not await alone(partition):
                    reading.remove(partition)
                else:
                    came = True
                if partition.partition in self.why:
                    return
        if not came:
            raise error

    def _rewind(self) -> None:
        """Go back to what was tracked: a poll that raised has dropped what it had taken of other partitions."""
        for partition, tracker in self._trackers.items():
            if position_of(self._consumer, partition) is not None:
                self._consumer.seek(partition, tracker.position)

    def _is_read(self, partition: TopicPartition) -> bool:
        """Whether all is read that was there at the last answer: nothing of it can have been in the poll."""
        tracker, end = self._trackers.get(partition), self._consumer.highwater(partition)
        return tracker is None or (end is not None and tracker.position >= end)

    def undecodable(self, partition: TopicPartition, error: Exception) -> None:
        """Halt a partition that raised when it was read alone; it stands where the batch begins."""
        tracker = self._trackers.get(partition)
        if tracker is None:
            return  # meanwhile it is somebody else's
        number, offset = partition.partition, tracker.position
        why = f"the batch at offset {offset} cannot be decoded: {str(error) or type(error).__name__}"
        hint = f"mend it at the brokers, or {_WAY_OUT.format(number, 'OFFSET')}, with an offset behind it"
        self._log.error("CORRUPT_BATCH", partition=number, offset=offset, message=why, hint=hint)
        self._consumer.seek(partition, offset)
        self._halt(partition, why)


def is_undecodable(error: Exception) -> bool:
    """Whether this is what a poll raises that met a corrupt batch, or one in a form that we do not know.

    A wrong checksum and an unknown codec are errors of Kafka's; what is wrong under a good checksum makes a
    decompressor or the parser of records raise anything at all.
    """
    if isinstance(error, KafkaError):
        return isinstance(error, (CorruptRecordException, UnsupportedCodecError))
    return not isinstance(error, ConsumerStoppedError)


def position_of(consumer: Any, partition: TopicPartition) -> int | None:
    """Read a position without suspending; None when the assignment is not valid just now."""
    asking = consumer.position(partition)
    try:
        asking.send(None)
    except StopIteration as answer:
        position: int = answer.value
        return position
    except IllegalStateError:
        return None
    asking.close()
    return None
