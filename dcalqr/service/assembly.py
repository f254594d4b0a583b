"""Everything but Kafka, built once and taken down in the opposite order: what daemon and replay have in common."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcalqr import errors, log
from dcalqr.config import Config
from dcalqr.copiers.workers import WorkersCopier
from dcalqr.dcache.door import Door
from dcalqr.dcache.tls import Credentials
from dcalqr.delivery.openparts import OpenParts
from dcalqr.delivery.rows import RowWriter
from dcalqr.dispatcher import Dispatcher
from dcalqr.local.destination import Destination
from dcalqr.local.state import State
from dcalqr.metrics.counters import Counters
from dcalqr.metrics.reports import Reports, TransferReport
from dcalqr.model import Delivery, Settled
from dcalqr.plugins import TaskContext
from dcalqr.retry import RetryPolicy
from dcalqr.service import sinks
from dcalqr.transfer import Transfer

if TYPE_CHECKING:
    from dcalqr.copiers.inline import InlineCopier

# A hung mount keeps a thread for ever; a few of them leave room for look-ups on the part that works.
DESTINATION_THREADS = 8
CREDENTIALS_SECONDS = 30.0
# For a last word on a disk that may hang.
SAY_SECONDS = 2.0
# The fields of a report that are the Task's to fill.
_TOLD_BY_TASKS = frozenset(
    {
        *("size_bytes", "adler32", "verified", "pool", "rate_mbit_per_s", "door_wait_seconds", "connect_seconds"),
        *("first_byte_seconds", "body_seconds", "sync_seconds", "publish_seconds"),
    }
)


@dataclass
class Assembly:
    """The parts that copy."""

    config: Config
    instance: str
    state: State
    credentials: Credentials
    destination: Destination
    door: Door
    copier: InlineCopier | WorkersCopier
    transfer: Transfer
    dispatcher: Dispatcher
    rows: RowWriter
    rows_threads: ThreadPoolExecutor
    reports: Reports
    counters: Counters
    _said: str = ""

    async def watch_credentials(self) -> None:
        """Renew proxy and CA directory from disk as they change, for ever."""
        while True:
            await asyncio.sleep(CREDENTIALS_SECONDS)
            await self.refresh_credentials()

    async def refresh_credentials(self) -> None:
        """Look at proxy and CA directory, and say what is new: another generation, or trouble."""
        renewed = await asyncio.get_running_loop().run_in_executor(self.rows_threads, self.credentials.refresh)
        trouble = self.credentials.trouble
        if renewed is not None:
            expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(renewed.expires_at))
            log.get().info("CREDENTIAL", proxy=renewed.proxy, expires=expires)
        if trouble is not None and str(trouble) != self._said:
            log.get().error("CREDENTIAL", error=trouble)
        self._said = str(trouble or "")


class Reporter:
    """Makes a TransferReport and a COPY_REPORT line of each settled delivery."""

    def __init__(self, reports: Reports, counters: Counters, task: str, instance: str) -> None:
        self._reports, self._counters, self._task, self._instance = reports, counters, task, instance
        self._log = log.get()

    def __call__(
        self,
        delivery: Delivery,
        how: Settled,
        context: TaskContext | None,
        error: errors.TryError | None,
        seconds: float,
    ) -> None:
        event, where, now = delivery.event, delivery.origin, time.time()
        facts = dict(context.facts) if context else {}
        known = {name: facts.pop(name) for name in facts.keys() & _TOLD_BY_TASKS}
        report = TransferReport(
            time=now,
            instance=self._instance,
            task=self._task,
            identity=delivery.identity,
            topic=where.topic,
            partition=where.partition,
            offset=where.offset,
            replay=where.replay,
            outcome=how.value,
            error_class=error.error_class if error else "",
            message=str(error) if error else "",
            http_status=error.http_status if error else None,
            path=event.path,
            pnfsid=event.pnfsid,
            event_date=event.date,
            received_at=now - seconds,
            attempts=context.try_number if context else 0,
            total_seconds=round(seconds, 6),
            extra=facts,
            **({"size_bytes": event.size_bytes} | known),  # type: ignore[arg-type]  # a fact may be of any flat type
        )
        self._counters.note(report)
        self._reports.put(report)
        self._log.info(
            "COPY_REPORT",
            path=event.path,
            outcome=how.value,
            size=report.size_bytes,
            seconds=round(seconds, 3),
            mbit_per_s=report.rate_mbit_per_s,
            attempts=report.attempts,
            pool=report.pool or None,
            uuid=delivery.identity,
            partition=where.partition,
            offset=where.offset,
        )


@contextlib.asynccontextmanager
async def assembled(
    config: Config, *, instance: str, state: State, rows: RowWriter, rows_threads: ThreadPoolExecutor
) -> AsyncIterator[Assembly]:
    """Build the parts; on exit whatever still copies is told to stop, and its answer awaited.

    Parameters
    ----------
    config
        The whole configuration.
    instance
        The name in part files and reports; a replay has one of its own.
    state
        Open and locked.
    rows, rows_threads
        The failed-tasks file, open, and the threads it works in.

    Raises
    ------
    StartError
        Something that the configuration asks for cannot be had.
    """
    local, dcache = config.local, config.dcache
    reports = sinks.start(config)
    counters = Counters()
    threads = ThreadPoolExecutor(DESTINATION_THREADS, thread_name_prefix="destination")
    credentials = Credentials(str(local.proxy), str(local.capath), crl_check=dcache.crlcheck)
    destination = Destination(
        str(local.downloadfolder), minfree_percent=local.minfree, requiremount=local.requiremount, state=state
    )
    door = Door(dcache.url, credentials.current)
    copier = _copier(config, credentials, destination, state)
    transfer = Transfer(config, door, copier, destination, state, threads, instance)
    dispatcher = Dispatcher(
        task=transfer,
        policy=RetryPolicy(dcache.retryseconds, dcache.retrytimes),
        rows=rows,
        counters=counters,
        report=Reporter(reports, counters, transfer.name, instance),
        delay_seconds=dcache.delayseconds,
        window=config.kafka.window,
    )
    try:
        made = Assembly(
            config, instance, state, credentials, destination, door, copier, transfer, dispatcher, rows, rows_threads,
            reports, counters,
        )  # fmt: skip
        await made.refresh_credentials()
        yield made
    finally:
        await dispatcher.drain(0.0)
        await copier.aclose(grace=5.0)
        await door.aclose()
        await sinks.stop(reports)
        threads.shutdown(wait=False, cancel_futures=True)
        saying = asyncio.get_running_loop().run_in_executor(rows_threads, _say_stopped, state, transfer.parts)
        await asyncio.wait({saying}, timeout=SAY_SECONDS)


def _copier(
    config: Config, credentials: Credentials, destination: Destination, state: State
) -> InlineCopier | WorkersCopier:
    slots, workers = config.dcache.maxdownloads, config.dcache.workers
    if not workers:
        # Only here: attempts bring a TLS library, 60 ms and 10 MB, which is for the process that runs them to pay.
        from dcalqr.copiers.inline import InlineCopier

        return InlineCopier(slots, credentials.current, lambda: destination.root_fd)
    return WorkersCopier(
        workers, slots, credentials.current, lambda: destination.root_fd, lambda: destination.root_generation, state
    )


def _say_stopped(state: State, parts: OpenParts) -> None:
    """Mark the last status as that of an instance that ended; else it would look well until it is old."""
    parts.flush()
    found = State.read_status(state.folder)
    if found is not None:
        with contextlib.suppress(OSError):
            state.write_status({**found, "stopped": True, "time": time.time()})
