"""What replays have in common: parts of their own beside a running daemon's, signals, holds, and where failures go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcalqr import errors, log
from dcalqr.config import Config
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.failures import FailedTasksFile
from dcalqr.local.state import HELD_BY_REPLAY, State
from dcalqr.model import Settled
from dcalqr.service.assembly import Assembly, assembled
from dcalqr.service.sweeping import sweep_known

_ROWS_THREADS = 3
# How soon a person at a terminal sees that a hold stands in the way.
LOOK_SECONDS = 0.5
SWEEP_RETRY_SECONDS = 5.0


@dataclass
class Progress:
    """How far a replay has come: how each delivery ended (counts), and what its bar shows.

    `failures` is the file of what failed again; `held` says why nothing is tried now.
    """

    settled: Counter[str] = field(default_factory=Counter)
    failures: Path | None = None
    held: str = ""

    @property
    def failed(self) -> int:
        return self.settled[Settled.FAILED.value]

    @property
    def total(self) -> int:
        """All that is to be done (count)."""
        raise NotImplementedError

    @property
    def completed(self) -> int:
        """What of it is done (count)."""
        raise NotImplementedError


class Run:
    """One run of a replay.

    Parameters
    ----------
    config
        As the daemon's.
    beside
        The failed-tasks file whose name and folder the file of new failures gets.
    progress, show
        What is shown, and by what: called while a hold stands in the way, and whenever the replay likes.
    """

    def __init__(self, config: Config, beside: Path, progress: Progress, show: Callable[[], None]) -> None:
        self.config, self.progress, self.show = config, progress, show
        self.identity = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.own_csv = beside.with_name(f"{beside.stem}.replay-{self.identity}.csv")
        self.threads = ThreadPoolExecutor(_ROWS_THREADS, thread_name_prefix="rows")
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()

    def obey_signals(self) -> None:
        """From now on TERM and INT end the run."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._terminate)

    def _terminate(self) -> None:
        """The first signal lets running copies end, the second one does not wait for them."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def perform(self, work: Callable[[Assembly], Coroutine[Any, Any, None]]) -> None:
        """Build the parts, sweep what a killed replay left, and do the work; what runs at the end is let end.

        Raises
        ------
        StartError
            A file or lock cannot be had; another replay of this instance is running.
        FatalError
            It cannot go on.
        """
        async with contextlib.AsyncExitStack() as stack:
            failures = _Failures(self.own_csv, self.threads)
            stack.push_async_callback(failures.close)
            # Names of its own for part files and state: a running daemon sweeps what bears its own.
            instance = f"{self.config.daemon.instance}.replay"
            state = State(os.path.join(str(self.config.local.statefolder), "replay"), HELD_BY_REPLAY)
            state.open()
            stack.callback(state.close)
            assembly = await stack.enter_async_context(
                assembled(self.config, instance=instance, state=state, rows=failures, rows_threads=self.threads)
            )
            try:
                await self._serve(assembly, work)
            finally:
                self.progress.failures = failures.made

    async def _serve(self, assembly: Assembly, work: Callable[[Assembly], Coroutine[Any, Any, None]]) -> None:
        side = {
            asyncio.create_task(each)
            for each in (self._stop.wait(), assembly.watch_credentials(), self._watch_holds(assembly))
        }
        working = asyncio.create_task(self._swept(assembly, work))
        ends: set[asyncio.Future[Any]] = {working, *side, assembly.dispatcher.runs.fatal}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        failed = [end for end in ends if end.done() and end.exception() is not None]
        for task in (working, *side):
            task.cancel()
        await self._drain(assembly)
        await asyncio.wait({working, *side})
        for end in failed:
            end.result()

    async def _swept(self, assembly: Assembly, work: Callable[[Assembly], Coroutine[Any, Any, None]]) -> None:
        """Remove what a killed replay left, before the first part of this one is made."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(assembly.rows_threads, sweep_known, assembly)
                break
            except errors.TryError as error:
                log.get().warning("SWEEP", error=error, wait_seconds=SWEEP_RETRY_SECONDS)
                await asyncio.sleep(SWEEP_RETRY_SECONDS)
        await work(assembly)
        await assembly.dispatcher.runs.ended()

    async def _watch_holds(self, assembly: Assembly) -> None:
        while True:
            holds = assembly.dispatcher.holding.holds.active.values()
            self.progress.held = ", ".join(f"{hold.reason}: {hold.message}" for hold in holds)
            self.show()
            await asyncio.sleep(LOOK_SECONDS)

    async def _drain(self, assembly: Assembly) -> None:
        """Let running copies end if a signal asked for it; without one nothing runs any more."""
        seconds = 0.0
        if self._stop.is_set():
            seconds = self.config.daemon.drainseconds
            log.get().warning("DRAIN", open=assembly.dispatcher.window.open, seconds=seconds)
        draining = asyncio.create_task(assembly.dispatcher.drain(seconds))
        at_once = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({draining, at_once}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            await assembly.dispatcher.cancel()
        await draining
        at_once.cancel()


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
