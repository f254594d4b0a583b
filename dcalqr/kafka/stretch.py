"""Reading a stretch of the topic once more, beside everybody else.

Without a consumer group: partitions are assigned by hand and nothing is ever committed, so no group is left behind, no
rebalance touches the daemon, and its offsets cannot be moved by mistake. Where the stretch ends is settled at the
start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from dcalqr import errors
from dcalqr.config import Kafka
from dcalqr.kafka import settings
from dcalqr.kafka.groups import ANSWER_SECONDS
from dcalqr.kafka.topics import partitions_of

POLL_SECONDS = 1.0
# Time to fetch from any broker that lives; more is worth a word.
SILENCE_SECONDS = 30.0


@dataclass
class Part:
    """The stretch in one partition: offsets, and whether it begins where the log does, so that more may be deleted."""

    partition: int
    begin: int
    end: int
    position: int
    at_log_begin: bool
    lost: int = 0


class Stretch:
    """Records from the first one at or after `since` up to, and without, the first one at or after `until`.

    An async context manager. Times are those of the records, in seconds since the epoch.

    Raises
    ------
    ServiceUnavailable
        Kafka does not answer, or refuses us; or the topic does not exist.
    """

    def __init__(self, kafka: Kafka, since: float, until: float) -> None:
        self._kafka, self._since, self._until = kafka, since, until
        self.parts: dict[int, Part] = {}
        self._heard_at = time.monotonic()
        self._complaint = settings.LastComplaint()

    @property
    def records(self) -> int:
        """All offsets of the stretch (count)."""
        return sum(part.end - part.begin for part in self.parts.values())

    @property
    def passed(self) -> int:
        """Offsets that were read, or are known to be lost (count)."""
        return sum(part.position - part.begin for part in self.parts.values())

    @property
    def lost(self) -> int:
        """Records that retention deleted before they were read (count)."""
        return sum(part.lost for part in self.parts.values())

    @property
    def trouble(self) -> str:
        """Why nothing comes; empty: all is well."""
        silent = time.monotonic() - self._heard_at
        if silent < SILENCE_SECONDS or self.passed == self.records:
            return ""
        why = f" ({self._complaint.text})" if self._complaint.text else ""
        return f"Kafka has been silent for {silent:.0f} s{why}"

    async def __aenter__(self) -> Self:
        arguments = settings.connection(self._kafka)
        self._complaint.__enter__()
        # Any: aiokafka has no types
        self._consumer: Any = AIOKafkaConsumer(
            **arguments,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_bytes=settings.FETCH_BYTES,
            max_partition_fetch_bytes=settings.PARTITION_FETCH_BYTES,
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._consumer.start()
                await self._find(await partitions_of(self._kafka.topic, arguments))
        except (KafkaError, TimeoutError, OSError) as error:
            await self.__aexit__()
            raise errors.ServiceUnavailable(service="Kafka", why=self._complaint.explain(error)) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        self._complaint.__exit__()
        await self._consumer.stop()

    async def _find(self, partitions: list[TopicPartition]) -> None:
        begins = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        since = await self._offsets_at(partitions, self._since)
        until = await self._offsets_at(partitions, self._until)
        for each in partitions:
            end = ends[each] if until[each] is None else min(until[each], ends[each])
            begin = end if since[each] is None else min(since[each], end)
            at_log_begin = begin == begins[each] > 0
            self.parts[each.partition] = Part(each.partition, begin, end, begin, at_log_begin)
        wanted = [each for each in partitions if self.parts[each.partition].begin < self.parts[each.partition].end]
        self._consumer.assign(wanted)
        for each in wanted:
            self._consumer.seek(each, self.parts[each.partition].begin)

    async def _offsets_at(self, partitions: list[TopicPartition], moment: float) -> dict[TopicPartition, int | None]:
        # Before the epoch Kafka's numbers have other meanings.
        found = await self._consumer.offsets_for_times({each: max(0, int(moment * 1000)) for each in partitions})
        return {each: None if found[each] is None else int(found[each].offset) for each in partitions}

    async def batches(self) -> AsyncIterator[tuple[Part, Sequence[ConsumerRecord]]]:
        """Yield the records of the stretch, of one partition at a time; `position` is behind them already.

        Raises
        ------
        ServiceUnavailable
            Kafka refuses us.
        """
        while self.passed < self.records:
            try:
                found = await self._consumer.getmany(timeout_ms=int(POLL_SECONDS * 1000))
            except OffsetOutOfRangeError as error:
                await self._skip_deleted(error)
                continue
            except KafkaError as error:
                raise errors.ServiceUnavailable(service="Kafka", why=self._complaint.explain(error)) from error
            for each in self._consumer.assignment():
                part, records = self.parts[each.partition], found.get(each, [])
                before = part.position
                part.position = max(before, min(await self._consumer.position(each), part.end))
                if part.position > before:
                    self._heard_at = time.monotonic()
                if part.position == part.end:
                    self._consumer.pause(each)
                if wanted := [record for record in records if record.offset < part.end]:
                    yield part, wanted

    async def _skip_deleted(self, error: OffsetOutOfRangeError) -> None:
        """Retention was faster: go on where the log begins now, and count what is gone."""
        partitions = list(error.args[0])
        begins = await self._consumer.beginning_offsets(partitions)
        for each in partitions:
            part = self.parts[each.partition]
            begin = min(max(begins[each], part.position), part.end)
            part.lost += begin - part.position
            part.position = begin
            self._consumer.seek(each, begin)
            if begin == part.end:
                self._consumer.pause(each)
