"""Running failed tasks again from the CSV, beside the running daemon or without it.

Takes the file's length at the start, so that a daemon may go on appending; writes the ids of rows that are done to
`<file>.done` and its own failures to `<stem>.replay-<utc>.csv`; has `maxdownloads` slots of its own; never commits
offsets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dcalqr import errors, log
from dcalqr.assembly import Assembly, assembled
from dcalqr.config import Config
from dcalqr.dcache.events import EventReader
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.failures import DoneFile, FailedTasksFile, complete_length, read_rows
from dcalqr.local.state import HELD_BY_REPLAY, State
from dcalqr.model import Delivery, Origin, Settled, StorageEvent
from dcalqr.sweeping import sweep_known

_ROWS_THREADS = 3
# How soon a person at a terminal sees that a hold stands in the way.
LOOK_SECONDS = 0.5
SWEEP_RETRY_SECONDS = 5.0


@dataclass
class Result:
    """What a replay did: rows in the file, rows done by former replays, and how each delivery ended (counts).

    `failures` is the file of what failed again; `held` says why nothing is tried now.
    """

    rows: int = 0
    done_before: int = 0
    settled: Counter[str] = field(default_factory=Counter)
    failures: Path | None = None
    held: str = ""

    @property
    def failed(self) -> int:
        return self.settled[Settled.FAILED.value]

    @property
    def unsettled(self) -> int:
        """Rows that were not reached, because the replay was stopped."""
        return self.rows - self.done_before - sum(self.settled.values())


def to_do(path: Path) -> list[FailedTask]:
    """Read all whole rows that are in the file now.

    Raises
    ------
    BadData
        The file is missing, is no failed-tasks file, or a row of it is broken.
    """
    try:
        return list(read_rows(str(path), complete_length(str(path))))
    except OSError as error:
        raise errors.BadData(path=str(path), why=f"cannot be read: {error.strerror}") from error


def done_ids(path: Path) -> set[str]:
    """Return the ids that former replays of this file are done with; for looking only, takes no lock."""
    try:
        lines = Path(f"{path}.done").read_text(encoding="ascii").split("\n")[1:-1]
    except (OSError, UnicodeDecodeError):
        return set()
    return {unquote(line, errors="surrogatepass") for line in lines}


class Replay:
    """One replay of one file.

    Parameters
    ----------
    config
        As the daemon's.
    path
        The CSV.
    progress
        Called with the result so far, after each settled row and while a hold stands in the way.
    """

    def __init__(self, config: Config, path: Path, progress: Callable[[Result], None]) -> None:
        self._config, self._path, self._progress = config, path, progress
        self.result = Result()
        self._identity = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._dones: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(config.kafka.window)

    async def run(self) -> Result:
        """Run all rows that no former replay is done with.

        Raises
        ------
        StartError
            A file cannot be read, made or locked; another replay of this file is running.
        FatalError
            It cannot go on.
        """
        rows = to_do(self._path)
        self.result.rows = len(rows)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._terminate)
        async with contextlib.AsyncExitStack() as stack:
            threads = ThreadPoolExecutor(_ROWS_THREADS, thread_name_prefix="rows")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            done = DoneFile(str(self._path), threads)
            await done.open()
            stack.push_async_callback(done.close)
            self.result.done_before = sum(row.id in done.done for row in rows)
            rows = [row for row in rows if row.id not in done.done]
            if rows:
                await self._replay(rows, done, threads, stack)
        return self.result

    def _terminate(self) -> None:
        """The first signal lets running copies end, the second one does not wait for them."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def _replay(
        self, rows: list[FailedTask], done: DoneFile, threads: ThreadPoolExecutor, stack: contextlib.AsyncExitStack
    ) -> None:
        failures = _Failures(self._path.with_name(f"{self._path.stem}.replay-{self._identity}.csv"), threads)
        stack.push_async_callback(failures.close)
        # Names of its own for part files and state: a running daemon sweeps what bears its own.
        instance = f"{self._config.daemon.instance}.replay"
        state = State(os.path.join(str(self._config.local.statefolder), "replay"), HELD_BY_REPLAY)
        state.open()
        stack.callback(state.close)
        assembly = await stack.enter_async_context(
            assembled(self._config, instance=instance, state=state, rows=failures, rows_threads=threads)
        )
        await self._serve(assembly, rows, done)
        self.result.failures = failures.made

    async def _serve(self, assembly: Assembly, rows: list[FailedTask], done: DoneFile) -> None:
        side = {
            asyncio.create_task(work)
            for work in (self._stop.wait(), assembly.watch_credentials(), self._watch_holds(assembly))
        }
        working = asyncio.create_task(self._work(assembly, rows, done))
        ends: set[asyncio.Future[Any]] = {working, *side, assembly.dispatcher.runs.fatal}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        failed = [end for end in ends if end.done() and end.exception() is not None]
        for task in (working, *side):
            task.cancel()
        await self._drain(assembly)
        if self._dones:
            await asyncio.wait(self._dones)
        for end in failed:
            end.result()

    async def _work(self, assembly: Assembly, rows: list[FailedTask], done: DoneFile) -> None:
        await self._sweep(assembly)
        await self._feed(rows, done, assembly.dispatcher.submit)
        await assembly.dispatcher.runs.ended()

    async def _sweep(self, assembly: Assembly) -> None:
        """Remove what a killed replay left, before the first part of this one is made."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(assembly.rows_threads, sweep_known, assembly)
            except errors.TryError as error:
                log.get().warning("SWEEP", error=error, wait_seconds=SWEEP_RETRY_SECONDS)
                await asyncio.sleep(SWEEP_RETRY_SECONDS)
            else:
                return

    async def _watch_holds(self, assembly: Assembly) -> None:
        while True:
            holds = assembly.dispatcher.holding.holds.active.values()
            self.result.held = ", ".join(f"{hold.reason}: {hold.message}" for hold in holds)
            self._progress(self.result)
            await asyncio.sleep(LOOK_SECONDS)

    async def _drain(self, assembly: Assembly) -> None:
        """Let running copies end if a signal asked for it; without one nothing runs any more."""
        seconds = 0.0
        if self._stop.is_set():
            seconds = self._config.daemon.drainseconds
            log.get().warning("DRAIN", open=assembly.dispatcher.window.open, seconds=seconds)
        draining = asyncio.create_task(assembly.dispatcher.drain(seconds))
        at_once = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({draining, at_once}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            await assembly.dispatcher.cancel()
        await draining
        at_once.cancel()

    async def _feed(self, rows: list[FailedTask], done: DoneFile, submit: Callable[[Delivery], None]) -> None:
        """Submit the rows, never more at once than the window."""
        for row in rows:
            await self._room.acquire()
            submit(self._delivery(row, done))

    def _delivery(self, row: FailedTask, done: DoneFile) -> Delivery:
        def ack(how: Settled) -> None:
            self._room.release()
            self.result.settled[how.value] += 1
            self._progress(self.result)
            # A row that failed again is in the new file; this one is done with either way.
            task = asyncio.create_task(self._note(row, done))
            self._dones.add(task)
            task.add_done_callback(self._dones.discard)

        origin = Origin(row.topic, row.partition, row.offset, self._identity)
        return Delivery(self._event(row), origin, row.event, ack)

    async def _note(self, row: FailedTask, done: DoneFile) -> None:
        try:
            await done.add(row.id)
        except errors.TryError as error:
            # It runs once more in the next replay, which finds the file in place.
            log.get().error("DONE_NOT_WRITTEN", error=error, row=row.id)

    def _event(self, row: FailedTask) -> StorageEvent:
        """Read the record again if the row has it, else rebuild the event from the columns."""
        if row.event:
            with contextlib.suppress(errors.Unreadable):
                event = EventReader(self._config.dcache.folder_path).read(row.event)
                if isinstance(event, StorageEvent):
                    return event
        return row.to_event()


class _Failures:
    """The replay's own failed-tasks file, made with its first row."""

    def __init__(self, path: Path, threads: ThreadPoolExecutor) -> None:
        self._path, self._threads = path, threads
        self._file: FailedTasksFile | None = None
        self._making = asyncio.Lock()

    @property
    def made(self) -> Path | None:
        return self._path if self._file is not None else None

    async def append(self, row: FailedTask) -> None:
        async with self._making:
            if self._file is None:
                file = FailedTasksFile(str(self._path), self._threads)
                try:
                    await file.open()
                except errors.StartError as error:
                    raise errors.WriteFailed(operation="append", why=str(error)) from error
                self._file = file
        await self._file.append(row)

    async def close(self) -> None:
        if self._file is not None:
            await self._file.close()
