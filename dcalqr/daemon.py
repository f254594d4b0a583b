"""The daemon: builds every part once, keeps them running, drains on SIGTERM, and stops when a part of it has died.

systemd restarts a dead process, not a half-dead one: so a side task that ends is the end of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dcalqr import __version__, log
from dcalqr.config import Config
from dcalqr.config.warnings import warnings_of
from dcalqr.dcache.events import EventReader
from dcalqr.dcache.uploads import UploadFilter
from dcalqr.delivery.intake import Gate, Intake
from dcalqr.kafka.consumer import Consumer
from dcalqr.kafka.membership import SILENCE_SECONDS
from dcalqr.local.failures import FailedTasksFile, UnreadableFile
from dcalqr.local.state import State
from dcalqr.log.file import LogFile
from dcalqr.looking import status
from dcalqr.service import rowfiles, stalls
from dcalqr.service.assembly import Assembly, assembled
from dcalqr.service.board import Board
from dcalqr.service.notify import Notifier
from dcalqr.service.reload import Reloader
from dcalqr.service.sweeping import sweep

STATUS_SECONDS = 2.0  # `dcalqr top` shows it; some milliseconds each
SUMMARY_SECONDS = 60.0
# An answer that does not come in this time after the grace period never will: a dead disk.
STOP_SECONDS = 5.0
# All limits together of what comes after the grace period: answers, files, the last commit, worker processes.
LAST_SECONDS = 45.0
_ROWS_THREADS = 3
# Above this, a slot could starve for descriptors: an attempt needs six of them, at most.
_FILES_PER_SLOT = 8
_FILES_BASE = 200


class Daemon:
    """One running instance.

    Parameters
    ----------
    config, path
        The configuration, and the file it came from: HUP reads that again.
    session_seconds
        Kafka's session time-out; None: the default.
    log_file
        Where the log goes, if not to standard error: HUP reopens it.
    """

    def __init__(
        self, config: Config, path: Path, session_seconds: float | None = None, log_file: LogFile | None = None
    ) -> None:
        self._config, self._path, self._log_file = config, path, log_file
        self._session = {} if session_seconds is None else {"session_seconds": session_seconds}
        self._notifier = Notifier()
        self._log = log.get()
        self._terms = 0
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._started_at = time.time()
        self._warned = 0

    async def run(self) -> None:
        """Work until told to stop.

        Raises
        ------
        StartError
            It cannot start.
        FatalError
            It cannot go on.
        """
        self._start_signals()
        local = self._config.local
        with contextlib.ExitStack() as stack:
            rows_threads = ThreadPoolExecutor(_ROWS_THREADS, thread_name_prefix="rows")
            stack.callback(rows_threads.shutdown, wait=False, cancel_futures=True)
            state = State(str(local.statefolder))
            state.open()
            stack.callback(state.close)
            rows = FailedTasksFile(str(local.failedtasksfile), rows_threads)
            unreadable = UnreadableFile(str(local.failedtasksfile), rows_threads)
            async with contextlib.AsyncExitStack() as files:
                for file in (rows, unreadable):
                    await file.open()
                    files.push_async_callback(file.close)
                assembly = await files.enter_async_context(
                    assembled(
                        self._config,
                        instance=self._config.daemon.instance,
                        state=state,
                        rows=rows,
                        rows_threads=rows_threads,
                    )
                )
                await self._serve(assembly, rows, unreadable)

    # --- serving --------------------------------------------------------------------------------------------------

    async def _serve(self, assembly: Assembly, rows: FailedTasksFile, unreadable: UnreadableFile) -> None:
        self._say_start(assembly)
        folder = self._config.dcache.folder_path
        reader = EventReader(folder)
        intake = Intake(reader, UploadFilter(folder), assembly.dispatcher, unreadable, assembly.counters)
        consumer = Consumer(
            self._config.kafka, Gate(intake, assembly.dispatcher.window), assembly.state, **self._session
        )
        board = Board(assembly, consumer, self._path, self._started_at, self._stop.is_set)
        reloader = Reloader(self._config, self._path, assembly, consumer.renew, self._notifier, self._log_file)
        reloader.obey_hup()
        consuming = asyncio.create_task(consumer.run(), name="consumer")
        work = self._side_work(assembly, consumer, board)
        work["rowfiles"] = rowfiles.watch((rows, unreadable), assembly.counters)
        side = {asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()}
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        dead: list[asyncio.Task[None]] = []
        stalls.spare_what_is_loaded()
        self._notifier.ready()
        try:
            ends: set[asyncio.Future[Any]] = {consuming, stop, *side, assembly.dispatcher.runs.fatal}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            dead = [task for task in (consuming, *side) if task.done()]
            if dead or not self._stop.is_set():
                consumer.freeze()  # something is broken that we do not understand: nothing further is committed
        finally:
            await self._drain(assembly, intake, consumer, consuming)
            for task in (*side, stop):
                task.cancel()
            await asyncio.wait({*side, stop})
        for end in (assembly.dispatcher.runs.fatal, *dead):
            if end.done() and not end.cancelled():
                end.result()
        if dead:
            raise RuntimeError(f"{', '.join(task.get_name() for task in dead)} ended although nobody asked for it")

    def _side_work(self, assembly: Assembly, consumer: Consumer, board: Board) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "credentials": assembly.watch_credentials(),
            "status": self._tell_status(assembly, board),
            "summary": self._summarise(board),
            "board": board.run(),
            "stalls": stalls.measure(assembly.counters.loop_stall),
            "watchdog": self._feed_watchdog(consumer),
            "sweep": sweep(assembly),
        }

    async def _drain(
        self, assembly: Assembly, intake: Intake, consumer: Consumer, consuming: asyncio.Task[None]
    ) -> None:
        """Take nothing more, let the work end, commit, leave the group."""
        seconds = self._config.daemon.drainseconds
        self._notifier.stopping()
        self._notifier.needs(seconds + LAST_SECONDS)
        self._log.info("DRAIN", open=assembly.dispatcher.window.open, running=assembly.copier.running, seconds=seconds)
        consumer.quiesce()
        draining = asyncio.create_task(assembly.dispatcher.drain(seconds), name="drain")
        at_once = asyncio.create_task(self._stop_now.wait(), name="stop-now")
        await asyncio.wait({draining, at_once}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            # Its grace is over, or nobody wants to wait for it: attempts are told to stop, their answers awaited.
            await assembly.dispatcher.cancel()
            await asyncio.wait({draining}, timeout=STOP_SECONDS)
        at_once.cancel()
        await intake.drain(STOP_SECONDS)
        marks = consumer.membership.marks() if consumer.membership else {}
        await consumer.aclose()
        await asyncio.wait({consuming}, timeout=STOP_SECONDS)
        consuming.cancel()
        self._log.info(
            "STOPPED",
            settled=dict(assembly.counters.settled),
            marks={str(number): mark for number, mark in sorted(marks.items())},
        )

    # --- side work ------------------------------------------------------------------------------------------------

    async def _tell_status(self, assembly: Assembly, board: Board) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = board.snapshot()
            self._notifier.status(status.in_words(now))
            try:
                await loop.run_in_executor(assembly.rows_threads, assembly.state.write_status, now)
            except OSError as error:
                assembly.state.warn(f"the status file cannot be written: {error.strerror}")
            for warning in self._new_warnings(assembly):
                self._log.warning("STATE", message=warning)
            await asyncio.sleep(STATUS_SECONDS)

    def _new_warnings(self, assembly: Assembly) -> list[str]:
        fresh = assembly.state.warnings[self._warned :]
        self._warned = len(assembly.state.warnings)
        return fresh

    async def _summarise(self, board: Board) -> None:
        while True:
            await asyncio.sleep(SUMMARY_SECONDS)
            now = board.snapshot()
            self._log.info(
                "SUMMARY",
                matched=now["matched"],
                landed=now["settled"].get("landed", 0),
                failed=now["settled"].get("failed", 0),
                running=now["slots"]["taken"],
                open=now["open"],
                held=[hold["reason"] for hold in now["holds"]],
                lag=sum(now["kafka"]["lag_records"].values()),
                complaints=status.complaints(now) or None,
            )

    async def _feed_watchdog(self, consumer: Consumer) -> None:
        """Tell systemd that we are well: from the loop that does the work, and only while the consumer's loop turns.

        A consumer that Kafka keeps waiting is rebuilt by itself; only if even that stopped is the process beyond help.
        """
        seconds = self._notifier.watchdog_seconds
        while seconds is not None:
            turns = time.monotonic() - consumer.turned_at < 2 * SILENCE_SECONDS
            if turns or self._stop.is_set():  # a drain has limits of its own, and its consumer need not turn
                self._notifier.alive()
            await asyncio.sleep(seconds / 4)
        await asyncio.Event().wait()

    # --- signals --------------------------------------------------------------------------------------------------

    def _start_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)

    def _terminate(self) -> None:
        self._terms += 1
        self._stop.set()
        if self._terms > 1:
            self._stop_now.set()

    def _say_start(self, assembly: Assembly) -> None:
        self._log.info(
            "START", version=__version__, pid=os.getpid(), instance=assembly.instance, config=str(self._path)
        )
        for warning in warnings_of(self._config):
            self._log.warning("CONFIG", message=warning)
        needed = _FILES_BASE + _FILES_PER_SLOT * self._config.dcache.maxdownloads
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit < needed:
            self._log.warning("CONFIG", message=f"only {limit} open files are allowed, {needed} may be needed")
