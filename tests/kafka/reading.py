"""What the tests of the consumer share: a receiver of their own, a memory of groups, and consumers that run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiokafka.structs import ConsumerRecord

from dcalqr.config import Kafka
from dcalqr.kafka.consumer import Consumer
from dcalqr.kafka.offsets import OffsetTracker
from tests.support.kafka import KafkaBroker

# Long enough for a busy machine's heartbeats, short enough to wait for.
SESSION_SECONDS = 3.0
# Generous: two busy cores are slow, and no promise is about speed.
LIMIT_SECONDS = 60.0


class Reader:
    """Collects what it receives; closes offsets at once, or when told."""

    def __init__(self, *, closes: bool = True) -> None:
        self.closes, self.full = closes, False
        self.raises: Exception | None = None
        self.received: list[tuple[int, int]] = []
        self.values: list[bytes | None] = []
        self.open: list[tuple[OffsetTracker, int]] = []

    async def receive(self, records: Sequence[ConsumerRecord], tracker: OffsetTracker) -> None:
        if self.raises is not None:
            raise self.raises
        for record in records:
            self.received.append((record.partition, record.offset))
            self.values.append(record.value)
            self.open.append((tracker, record.offset))
        if self.closes:
            self.close()

    def close(self, count: int | None = None) -> None:
        """Finish what was received first, or all of it."""
        ready, self.open = self.open[:count], [] if count is None else self.open[count:]
        for tracker, offset in ready:
            tracker.close(offset)

    def is_full(self) -> bool:
        return self.full

    def has_room(self) -> bool:
        return not self.full


class Memory(dict[tuple[str, str], bool]):
    """Remembers groups as the state folder does."""

    def group_seen(self, group: str, topic: str) -> bool:
        return self.get((group, topic), False)

    def remember_group(self, group: str, topic: str) -> None:
        self[group, topic] = True


def section(broker: KafkaBroker, topic: str, group: str, **changes: Any) -> Kafka:
    """The section kafka of a configuration."""
    keys = {"topic": topic, "servers": [broker.bootstrap], "consumergroup": group, "commitseconds": 0.1}
    return Kafka.model_validate({**keys, **changes}, context={"instance": "one"})


class Running:
    """A consumer with its task."""

    def __init__(self, kafka: Kafka, reader: Reader | None = None, memory: Memory | None = None) -> None:
        self.reader, self.memory = reader or Reader(), Memory() if memory is None else memory
        self.consumer = Consumer(kafka, self.reader, self.memory, SESSION_SECONDS)
        self.task = asyncio.create_task(self.consumer.run())

    @property
    def partitions(self) -> set[int]:
        membership = self.consumer.membership
        return set() if membership is None else {*membership.marks(), *membership.halted}

    async def reads(self, partitions: int | None = None) -> None:
        """Wait until it reads so many partitions, or any."""
        await until(
            lambda: not self.consumer.trouble and len(self.partitions) == (partitions or len(self.partitions) or -1),
            f"{partitions} partitions; {self.consumer.trouble!r}, has {self.partitions}",
        )

    async def end(self) -> None:
        await self.consumer.aclose()
        await asyncio.wait({self.task}, timeout=LIMIT_SECONDS)
        self.task.result()


@contextlib.asynccontextmanager
async def running(kafka: Kafka, reader: Reader | None = None, memory: Memory | None = None) -> AsyncIterator[Running]:
    """Run a consumer; in the end it makes its final commit and leaves."""
    run = Running(kafka, reader, memory)
    try:
        yield run
    finally:
        await run.end()


async def until(condition: Callable[[], bool], what: str, seconds: float = LIMIT_SECONDS) -> None:
    """Wait for a condition of this process."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


async def until_committed(broker: KafkaBroker, group: str, topic: str, offsets: dict[int, int]) -> None:
    """Wait until the group's offsets are these."""
    limit = time.monotonic() + LIMIT_SECONDS
    while (found := await asyncio.to_thread(broker.committed, group, topic)) != offsets:
        assert time.monotonic() < limit, f"committed {found}, not {offsets}"
        await asyncio.sleep(0.05)


async def until_all_committed(broker: KafkaBroker, group: str, topic: str) -> None:
    """Wait until the group has committed the end of every partition."""
    await until_committed(broker, group, topic, await asyncio.to_thread(broker.end_offsets, topic))


def in_order(values: list[bytes | None]) -> list[bytes]:
    """Sort values of `numbers`."""
    return sorted((value for value in values if value is not None), key=int)


def numbers(count: int, first: int = 0) -> list[bytes]:
    """Values that tell records apart."""
    return [b"%d" % number for number in range(first, first + count)]
