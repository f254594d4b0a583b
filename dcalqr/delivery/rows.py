"""What must be on disk before anything is settled: rows of the failed-tasks file, records of the unreadable file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from dcalqr import errors, log
from dcalqr.inflight import Effort
from dcalqr.local.failedtask import FailedTask
from dcalqr.metrics.counters import Counters
from dcalqr.model import Delivery, new_identity

# A full disk is emptied by people.
ROW_RETRY_SECONDS = 10.0


class RowWriter(Protocol):
    """Where rows go; durable on return."""

    async def append(self, row: FailedTask) -> None: ...


async def until_durable(append: Callable[[], Awaitable[None]], counters: Counters) -> None:
    """Append, again and again, until it is durable: without it nothing may be settled.

    While it cannot be written it counts as `counters.unwritten`, which makes the status "not well".
    """
    failures = 0
    try:
        while True:
            try:
                return await append()
            except errors.TryError as error:
                counters.unwritten += not failures
                failures += 1
                log.get().error("ROW_NOT_WRITTEN", error=error, failures=failures, wait_seconds=ROW_RETRY_SECONDS)
            await asyncio.sleep(ROW_RETRY_SECONDS)
    finally:
        counters.unwritten -= failures > 0


async def write_row(rows: RowWriter, row: FailedTask, counters: Counters) -> None:
    """Write a row, however long it takes."""
    await until_durable(partial(rows.append, row), counters)


def failed_row(delivery: Delivery, task: str, effort: Effort | None, error: errors.TryError) -> FailedTask:
    """Make the row of a delivery that is given up."""
    event, where = delivery.event, delivery.origin
    return FailedTask(
        id=new_identity(),
        time=time.time(),
        task=task,
        topic=where.topic,
        partition=where.partition,
        offset=where.offset,
        date=event.date,
        pnfsid=event.pnfsid,
        path=event.path,
        transferpath=event.transfer_path,
        size=event.size_bytes,
        attempts=effort.tries if effort else 0,
        error_class=error.error_class,
        http_status=error.http_status,
        message=str(error),
        event=delivery.record,
    )
