"""What aiokafka calls in a rebalance."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from aiokafka import ConsumerRebalanceListener, TopicPartition


class Member(Protocol):
    """Whose partitions change; `listening` keeps what the other two raise, for aiokafka would only log it."""

    async def revoked(self) -> None: ...
    async def assigned(self, partitions: set[TopicPartition]) -> None: ...
    async def listening(self, change: Awaitable[None]) -> None: ...


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Tells a member of its group's rebalances."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._member.listening(self._member.revoked())

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._member.listening(self._member.assigned(assigned))
