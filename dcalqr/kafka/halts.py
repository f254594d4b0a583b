"""Partitions that cannot be read on: named, and left alone until somebody decides. The others go on.

Either the next offset is not in the log any more, or the batch there cannot be decoded. aiokafka raises the latter out
of a poll of all partitions, does not say which it was, and drops what that poll had taken of the others. So all go back
to what was tracked, and each is read by itself, record by record: what stands before the batch is taken, and no more.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    RecordTooLargeError,
    UnsupportedCodecError,
)

from dcalqr import log
from dcalqr.kafka.contract import Broken
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.kafka.startpoints import lost_range

# Of each partition, in one go. If the batch is further away, the next poll raises again, and so many were taken.
ALONE_RECORDS = 500
# Nor longer than this: partitions whose brokers do not answer would keep the others waiting.
TURN_SECONDS = 30.0
_WAY_OUT = "stop all instances, then: dcalqr offsets --config FILE --partition {} --to {} --yes"


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
    halts_on_loss
        Whether a partition is halted when its offset is gone; else it is read on from what is left.

    Attributes
    ----------
    why
        By number of the partition, in words.
    """

    def __init__(self, consumer: Any, trackers: dict[TopicPartition, OffsetTracker], *, halts_on_loss: bool) -> None:
        self._consumer, self._trackers, self._halts_on_loss = consumer, trackers, halts_on_loss
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
            hint = _WAY_OUT.format(number, "earliest|latest|TIME|OFFSET") if self._halts_on_loss else None
            self._log.error("LOST_RANGE", partition=number, message=why, halted=self._halts_on_loss, hint=hint)
            self._trackers.pop(partition, None)
            self._consumer.seek(partition, first)
            if self._halts_on_loss:
                self._halt(partition, why)
            else:
                self._trackers[partition] = OffsetTracker(partition.topic, number, first)

    # --- the batch cannot be decoded ------------------------------------------------------------------------------

    async def single_out(self, error: Exception, alone: Alone) -> None:
        """Read the partitions by turns, each by itself, until one is halted or a turn's worth has been read.

        Raises
        ------
        Broken
            Nothing could be read, so another membership has to try.
        """
        self._rewind()
        reading, came = {*self._consumer.assignment()} - self._consumer.paused(), False
        until = time.monotonic() + TURN_SECONDS
        for _ in range(ALONE_RECORDS):
            for partition in sorted(reading):
                if self._is_read(partition) or time.monotonic() > until or not await alone(partition):
                    reading.remove(partition)
                else:
                    came = True
                if partition.partition in self.why:
                    return
        if not came:
            raise Broken(f"a batch cannot be decoded, nor any other be read: {error!r}") from error

    def _rewind(self) -> None:
        """Go back to what was tracked: a poll that raised has dropped what it had taken of other partitions."""
        for partition, tracker in self._trackers.items():
            if position_of(self._consumer, partition) is not None:
                self._consumer.seek(partition, tracker.position)

    def _is_read(self, partition: TopicPartition) -> bool:
        """Whether all is read that was there at the last answer: nothing of it can have been in the poll."""
        tracker = self._trackers.get(partition)
        if tracker is None or partition not in self._consumer.assignment():
            return True  # meanwhile it is somebody else's
        # Beyond the last stable offset nothing comes, as long as a producer's transaction is open.
        end = self._consumer.last_stable_offset(partition)
        return end is None or tracker.position >= end

    def undecodable(self, partition: TopicPartition, error: Exception) -> None:
        """Halt a partition that raised when it was read alone; it stands where the batch begins."""
        tracker = self._trackers.get(partition)
        if tracker is None:
            return  # meanwhile it is somebody else's
        number, offset = partition.partition, tracker.position
        why = f"the batch at offset {offset} cannot be decoded: {str(error) or type(error).__name__}"
        hint = (
            "mend it at the brokers; if it halts here again after a restart, and only then, "
            f"{_WAY_OUT.format(number, 'OFFSET')}, with an offset behind the batch"
        )
        self._log.error("CORRUPT_BATCH", partition=number, offset=offset, message=why, hint=hint)
        self._consumer.seek(partition, offset)
        self._halt(partition, why)


def is_undecodable(error: Exception) -> bool:
    """Whether this is what a poll raises that met a corrupt batch, or one in a form that we do not know.

    A wrong checksum, length or codec are errors of Kafka's; what is wrong under a good checksum makes a decompressor or
    the parser of records raise nearly anything. Not the system's errors, nor those of a mistake in the client.
    """
    if isinstance(error, KafkaError):
        return isinstance(error, (CorruptRecordException, RecordTooLargeError, UnsupportedCodecError))
    if isinstance(error, OSError):
        return isinstance(error, gzip.BadGzipFile)
    return not isinstance(error, (ConsumerStoppedError, MemoryError, AssertionError))


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
