"""Looking at a consumer group's offsets, and setting them by hand while nobody is a member."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from typing import NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.structs import OffsetAndMetadata

from dcalqr import errors
from dcalqr.config import Kafka
from dcalqr.config.values import start_point
from dcalqr.kafka import settings
from dcalqr.kafka.topics import partitions_of

ANSWER_SECONDS = 60.0
_NO_MEMBERS = ("Empty", "Dead", "")
_OFFSET_DIGITS = 19  # of the largest that Kafka can name, 2^63 - 1


class PartitionOffsets(NamedTuple):
    """Of one partition: where the log begins and ends, and what the group committed (None: nothing)."""

    partition: int
    begin: int
    end: int
    committed: int | None

    @property
    def lag(self) -> int | None:
        """Records behind the committed offset; None: nothing is committed."""
        return None if self.committed is None else max(0, self.end - max(self.committed, self.begin))

    @property
    def gap(self) -> int:
        """Records that were deleted unread."""
        return 0 if self.committed is None else max(0, self.begin - self.committed)


class Group:
    """A consumer group and its topic, seen from outside. An async context manager.

    Raises
    ------
    ServiceUnavailable
        Kafka does not answer, or refuses us; or the topic does not exist.
    """

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka

    async def __aenter__(self) -> Self:
        arguments = settings.connection(self._kafka)
        self._admin = AIOKafkaAdminClient(**arguments)
        self._consumer = AIOKafkaConsumer(
            **arguments, group_id=self._kafka.consumergroup, enable_auto_commit=False, auto_offset_reset="none"
        )
        with settings.LastComplaint() as complaint:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._admin.start()
                    await self._consumer.start()
                    self._partitions = await partitions_of(self._kafka.topic, arguments)
            except (KafkaError, TimeoutError, OSError) as error:
                await self.__aexit__()
                raise errors.ServiceUnavailable(service="Kafka", why=complaint.explain(error)) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def offsets(self) -> list[PartitionOffsets]:
        """Return the offsets of all partitions, by number."""
        partitions = self._partitions
        async with _answering():
            begins = await self._consumer.beginning_offsets(partitions)
            ends = await self._consumer.end_offsets(partitions)
            self._consumer.assign(partitions)
            committed = {partition: await self._consumer.committed(partition) for partition in partitions}
        return [PartitionOffsets(p.partition, begins[p], ends[p], committed[p]) for p in partitions]

    async def members(self) -> int:
        """Return how many members are active (count)."""
        async with _answering():
            [response] = await self._admin.describe_consumer_groups([self._kafka.consumergroup])
            [group] = response.groups
            error_code, _, state, _, _, members, *_ = group
            if error_code:
                raise for_code(error_code)
        return 0 if state in _NO_MEMBERS else max(1, len(members))

    async def resolve(self, partition: int, to: str) -> int:
        """Return the offset that `earliest`, `latest`, an RFC 3339 time or a number means.

        Raises
        ------
        ValueError
            It is none of these.
        """
        ours = next((each for each in await self.offsets() if each.partition == partition), None)
        if ours is None:
            raise ValueError(f"the topic has no partition {partition}")
        if to in ("earliest", "latest"):
            return ours.begin if to == "earliest" else ours.end
        if to.isascii() and to.isdigit():
            return _within(to, ours)
        where = TopicPartition(self._kafka.topic, partition)
        async with _answering():
            found = await self._consumer.offsets_for_times({where: _milliseconds(to)})
        return ours.end if found[where] is None else int(found[where].offset)

    async def commit(self, partition: int, offset: int) -> None:
        """Set the group's offset; the group must have no active members."""
        where = TopicPartition(self._kafka.topic, partition)
        async with _answering():
            await self._consumer.commit({where: OffsetAndMetadata(offset, "")})


@contextlib.asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """Translate what Kafka refuses, or does not answer in time."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError as error:
        raise errors.ServiceUnavailable(service="Kafka", why=f"no answer within {ANSWER_SECONDS:g} s") from error
    except KafkaError as error:
        raise errors.ServiceUnavailable(service="Kafka", why=str(error) or type(error).__name__) from error


def _within(digits: str, ours: PartitionOffsets) -> int:
    # Compared by length first: Python refuses to read a number of thousands of digits.
    offset = int(digits) if len(digits) <= _OFFSET_DIGITS else -1
    if not ours.begin <= offset <= ours.end:
        raise ValueError(f"offset {digits} is not between {ours.begin} and {ours.end}, where the log begins and ends")
    return offset


def _milliseconds(to: str) -> int:
    try:
        moment = start_point(to)
    except ValueError as error:
        raise ValueError(f"{to!r} is neither earliest, latest, an offset nor a time: {error}") from error
    assert isinstance(moment, dt.datetime)
    # Before the epoch Kafka's numbers have other meanings.
    return max(0, int(moment.timestamp() * 1000))
