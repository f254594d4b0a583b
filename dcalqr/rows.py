"""Rows of the failed-tasks file: made from what was given up, and written, however long that takes."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from dcalqr import errors, log
from dcalqr.inflight import Effort
from dcalqr.local.failedtask import FailedTask
from dcalqr.model import Delivery, new_identity

# A full disk is emptied by people.
ROW_RETRY_SECONDS = 10.0


class RowWriter(Protocol):
    """Where rows go; durable on return."""

    async def append(self, row: FailedTask) -> None: ...


async def write_row(rows: RowWriter, row: FailedTask) -> None:
    """Write a row; returns only when it is durable, because without it nothing may be settled."""
    while True:
        try:
            await rows.append(row)
        except errors.TryError as error:
            log.get().error("ROW_NOT_WRITTEN", error=error, wait_seconds=ROW_RETRY_SECONDS, row=row.id)
            await asyncio.sleep(ROW_RETRY_SECONDS)
        else:
            return


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
