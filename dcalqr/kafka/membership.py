"""One membership in the consumer group: from joining until the aiokafka consumer behind it is stopped.

Polls, tracks each batch in one synchronous step, pauses, commits; it ends by an exception, and `consumer` starts anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata

from dcalqr import log
from dcalqr.cancels import was_asked_to_end
from dcalqr.config import Kafka
from dcalqr.kafka import settings
from dcalqr.kafka.contract import Broken, Groups, Receiver
from dcalqr.kafka.ending import forget_commits, stop
from dcalqr.kafka.halts import Halts, is_undecodable, position_of
from dcalqr.kafka.listener import Listener
from dcalqr.kafka.offsets import OffsetTracker, Progress
from dcalqr.kafka.silence import Silence
from dcalqr.kafka.startpoints import OffsetsLost, assigned_points, by_number

POLL_SECONDS = 0.2
# Decoding and judging them takes 3 ms, in which nothing else is done; the window overflows by as many, at most.
BATCH_RECORDS = 500
# A poll of one partition that has something to read: what comes over the slowest line that is of any use.
ALONE_SECONDS = 5.0
REVOCATION_SECONDS = 1.0
COMMIT_SECONDS = 10.0
# Commits fail again and again during an outage; one line says so.
COMMIT_LINE_SECONDS = 60.0
SILENCE_SECONDS = 300.0  # without an answer to a fetch


class Membership:
    """One aiokafka consumer.

    Parameters
    ----------
    kafka
        Section kafka of the configuration.
    receiver
        Takes the batches.
    groups
        The state folder's memory.
    session_seconds
        After a kill -9 the whole group stands still until it has passed.
    """

    def __init__(self, kafka: Kafka, receiver: Receiver, groups: Groups, session_seconds: float) -> None:
        self._kafka, self._receiver, self._groups = kafka, receiver, groups
        self._log = log.get()
        self._consumer: Any = AIOKafkaConsumer(  # Any: aiokafka has no types
            **settings.connection(kafka),
            group_id=kafka.consumergroup,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            session_timeout_ms=int(session_seconds * 1000),
            heartbeat_interval_ms=int(min(settings.HEARTBEAT_SECONDS, session_seconds / 3) * 1000),
            rebalance_timeout_ms=int(settings.REBALANCE_SECONDS * 1000),
            max_poll_interval_ms=int(settings.POLL_INTERVAL_SECONDS * 1000),
            fetch_max_bytes=settings.FETCH_BYTES,
            max_partition_fetch_bytes=settings.PARTITION_FETCH_BYTES,
            # One only: aiokafka 0.14 sends a JoinGroup for each assignor, so two of them mean two rebalances.
            partition_assignment_strategy=(StickyPartitionAssignor,),
        )
        self._trackers: dict[TopicPartition, OffsetTracker] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._changing = True  # the start points of the coming assignment are not set yet
        self._full = False
        self._trouble: Exception | None = None
        self._silence = Silence()
        self._said_at = float("-inf")
        self.quiet = False  # the instance drains: what is polled is not taken, and so never committed
        self.frozen = False  # something is broken that nobody understands: nothing is committed
        self._halts = Halts(self._consumer, self._trackers, halts_on_loss=kafka.onoffsetloss == "halt")
        self.halted = self._halts.why
        self.rebalances = self.commit_failures = self.stale_batches = 0
        self.last_commit_at: float | None = None

    async def start(self) -> None:
        """Connect and ask to join.

        Raises
        ------
        KafkaError
            The brokers do not answer or refuse us, or the topic does not exist.
        """
        self._consumer.subscribe([self._kafka.topic], listener=Listener(self))
        await self._consumer.start()

    # --- polling --------------------------------------------------------------------------------------------------

    async def poll(self) -> None:
        """Fetch once and hand on what came; blocks for as long as a rebalance takes.

        Raises
        ------
        Broken, KafkaError
            This membership is of no further use.
        FatalError
            The receiver cannot go on.
        """
        self._apply_pause()
        if self._trouble is not None:
            raise self._trouble
        await self._fetch(POLL_SECONDS, BATCH_RECORDS)

    async def _alone(self, partition: TopicPartition) -> bool:
        return not self.quiet and not self._receiver.is_full() and await self._fetch(ALONE_SECONDS, 1, partition)

    async def _fetch(self, seconds: float, most: int, *only: TopicPartition) -> bool:
        """Fetch at most so many records (count), of all partitions or of one only; returns whether some came."""
        try:
            batches = await self._consumer.getmany(*only, timeout_ms=int(seconds * 1000), max_records=most)
        except OffsetOutOfRangeError as error:
            await self._halts.out_of_range(error.args[0])
            return False
        except NoOffsetForPartitionError as error:
            # It can be raised once although the listener has sought meanwhile, or is about to.
            if self._position(error.args[0]) is None and not self._changing:
                raise
            await asyncio.sleep(0)
            return False
        except Exception as error:
            if not is_undecodable(error):
                raise
            if self._changing:
                await asyncio.sleep(POLL_SECONDS)  # where to begin is not known yet: aiokafka was ahead of us
            elif only:
                self._halts.undecodable(only[0], error)
            else:
                await self._halts.single_out(error, self._alone)
            return False
        if self._trouble is not None:
            raise self._trouble
        for records, tracker in [] if self.quiet else self._track(batches):
            await self._receiver.receive(records, tracker)
        # With records at hand `getmany` answers at once: without this nobody else would get a turn in a backlog.
        await asyncio.sleep(0)
        return bool(batches)

    def _track(
        self, batches: Mapping[TopicPartition, list[ConsumerRecord]]
    ) -> list[tuple[list[ConsumerRecord], OffsetTracker]]:
        """Open the offsets of all that was polled, in one step; returns what is to be handed on."""
        taken = []
        for partition, records in batches.items():
            tracker, position = self._trackers.get(partition), self._position(partition)
            if tracker is None or position is None or records[-1].offset >= position:
                # Of an older assignment: whoever has the partition now reads it again from the committed offset.
                self.stale_batches += 1
                continue
            if records[0].offset < tracker.position:
                raise Broken(f"{partition} went back from {tracker.position} to {records[0].offset}")
            tracker.track([record.offset for record in records], position)
            taken.append((records, tracker))
        self._pass_gaps(batches.keys())
        return taken

    def _pass_gaps(self, taken: Collection[TopicPartition]) -> None:
        """Follow positions that moved without records: over transaction markers and aborted records at the end."""
        for partition, tracker in self._trackers.items():
            position = self._position(partition) if partition not in taken else None
            if position is not None and position > tracker.position:
                tracker.track((), position)

    def _position(self, partition: TopicPartition) -> int | None:
        return position_of(self._consumer, partition)

    def _apply_pause(self) -> None:
        """Pause and resume from our own state, again and again: a rebalance forgets what was paused."""
        if self._full and self._receiver.has_room():
            self._full = False
        elif not self._full and self._receiver.is_full():
            self._full = True
        for partition in self._consumer.assignment():
            if self._full or self.quiet or partition.partition in self.halted:
                self._consumer.pause(partition)
            else:
                self._consumer.resume(partition)

    # --- assignments ----------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[TopicPartition]) -> None:
        """Set the start points of a new assignment; called in the rebalance."""
        self.rebalances += 1
        self._trackers.clear()
        self._committed.clear()
        self.halted.clear()
        points = await assigned_points(self._consumer, self._kafka, partitions)
        for partition, offset in points.items():
            self._consumer.seek(partition, offset)
            self._trackers[partition] = OffsetTracker(partition.topic, partition.partition, offset)
        self._changing = False
        self._apply_pause()  # a poll that waited for this assignment goes on with it
        self._log.info("REBALANCE", partitions=sorted(p.partition for p in partitions), offsets=by_number(points))
        if partitions:
            self._remember_group()

    def _remember_group(self) -> None:
        try:
            self._groups.remember_group(self._kafka.consumergroup, self._kafka.topic)
        except OSError as error:  # a hint for later; consuming does not depend on it
            self._log.warning("STATE", message=f"the state folder cannot take note of the group: {error}")

    async def revoked(self) -> None:
        """Commit the marks, within a second; called before joining anew. Running copies go on."""
        self._changing = True
        await self.commit(REVOCATION_SECONDS)
        self._trackers.clear()

    async def listening(self, change: Awaitable[None]) -> None:
        """Keep what a listener raises: aiokafka only logs it."""
        try:
            await change
        except OffsetsLost as error:
            self._trouble = error
        except Exception as error:  # noqa: BLE001 - the poll raises it again
            self._trouble = Broken(f"rebalance: {error!r}")

    # --- commits --------------------------------------------------------------------------------------------------

    async def commit(self, seconds: float = COMMIT_SECONDS) -> None:
        """Commit the marks that changed, within a limit; what fails is dropped, the next one says more anyway."""
        marks = {partition: tracker.mark() for partition, tracker in self._trackers.items()}
        changed = {partition: mark for partition, mark in marks.items() if self._committed.get(partition) != mark}
        if not changed or self.frozen:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._consumer.commit({p: OffsetAndMetadata(mark, "") for p, mark in changed.items()})
        except (KafkaError, TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and was_asked_to_end():
                raise
            self.commit_failures += 1
            forget_commits()
            if time.monotonic() - self._said_at >= COMMIT_LINE_SECONDS:
                self._said_at = time.monotonic()
                self._log.warning("COMMIT_FAILED", message=str(error) or type(error).__name__)
            return
        self._committed.update(changed)
        self.last_commit_at = time.time()
        self._log.debug("COMMIT", offsets=by_number(changed))

    # --- looking --------------------------------------------------------------------------------------------------

    def is_silent(self) -> bool:
        """Whether no fetch was answered for long for some partition that is not paused; to be asked regularly."""
        stamps = self._stamps()
        if not self._consumer.assignment() and not self._consumer.partitions_for_topic(self._kafka.topic):
            stamps[None] = None  # not a spare member: there is nothing any more to be assigned
        return self._silence.longest(stamps, time.monotonic()) > SILENCE_SECONDS

    def is_reading(self) -> bool:
        """Whether an assignment is there, and what is to be read of it is fetched."""
        return not self._changing and None not in self._stamps().values()

    def _stamps(self) -> dict[TopicPartition | None, int | None]:
        """Return when the last fetch was answered (ms since the epoch; None: never), for what is not paused."""
        reading = self._consumer.assignment() - self._consumer.paused()
        return {partition: self._consumer.last_poll_timestamp(partition) for partition in reading}

    def progress(self) -> dict[int, Progress]:
        """Return how far each partition has come."""
        committed, end = self._committed.get, self._consumer.highwater
        return {p.partition: tracker.progress(committed(p), end(p)) for p, tracker in self._trackers.items()}

    def marks(self) -> dict[int, int]:
        """Return what would be committed now, by partition."""
        return {partition.partition: tracker.mark() for partition, tracker in self._trackers.items()}

    async def aclose(self) -> None:
        """Leave the group, within a few seconds."""
        await stop(self._consumer)
