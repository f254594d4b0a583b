"""What the consumer needs of others, and how a membership ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aiokafka.structs import ConsumerRecord

from dcalqr.kafka.offsets import OffsetTracker


class Broken(Exception):
    """A membership does not work any more, and why; another one may."""


class Receiver(Protocol):
    """Takes tracked batches and says whether there is room for more."""

    async def receive(self, records: Sequence[ConsumerRecord], tracker: OffsetTracker) -> None: ...
    def is_full(self) -> bool: ...
    def has_room(self) -> bool: ...


class Groups(Protocol):
    """Remembers which groups had offsets."""

    def group_seen(self, group: str, topic: str) -> bool: ...
    def remember_group(self, group: str, topic: str) -> None: ...
