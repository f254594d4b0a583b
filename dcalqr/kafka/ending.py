"""Giving up what aiokafka does: within a limit, and so that nothing of it lives on.

`stop` of aiokafka waits for the group's coordinator, in a rebalance or while a broker hangs without a limit, and after
an outage it raises a CancelledError that nobody sent. Either way it is left half done: with connections that stay open,
or even with a heart that beats, a member that holds its partitions and reads nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

# A clean end takes milliseconds; what takes longer waits for a broker that does not answer.
STOP_SECONDS = 5.0
# For the rest of one that was given up: it only closes connections.
REST_SECONDS = 1.0


async def stop(consumer: Any) -> None:
    """Stop a consumer, started or not; whatever aiokafka raises meanwhile is of no interest."""
    if not await _done(consumer.stop(), STOP_SECONDS):
        for task in _tasks(consumer):
            task.cancel()
        # The fetcher's own tasks end with it, and no connection is left for any that does not.
        if consumer._fetcher is not None:  # noqa: SLF001 - aiokafka offers no other way
            await _done(consumer._fetcher.close(), REST_SECONDS)  # noqa: SLF001
        await _done(consumer._client.close(), REST_SECONDS)  # noqa: SLF001


async def _done(work: Coroutine[Any, Any, None], seconds: float) -> bool:
    """Run to the end, or give up after the limit; returns whether it came to its end, without an exception."""
    task = asyncio.create_task(work)
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        return not task.cancelled() and task.exception() is None
    task.add_done_callback(_look)
    task.cancel()
    return False


def _tasks(consumer: Any) -> list[asyncio.Task[None]]:
    """Return what the coordinator has running."""
    coordinator = consumer._coordinator  # noqa: SLF001
    names = ("_heartbeat_task", "_commit_refresh_task", "_coordination_task")
    tasks = [getattr(coordinator, name, None) for name in names]
    return [task for task in tasks if task is not None]


def forget_commits() -> None:
    """Look at the end of commits that were given up: aiokafka shields their requests, and nobody else will look."""
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__qualname__", "").endswith("._do_commit_offsets"):
            task.add_done_callback(_look)


def _look(task: asyncio.Task[Any]) -> None:
    """Take the exception, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        task.exception()
