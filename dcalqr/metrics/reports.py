"""One TransferReport per settled matched delivery, for any number of sinks. Nothing here can slow or stop a copy."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec

from dcalqr.errors import Fact

# About 10 MB of reports: an hour's outage of a sink at 3 files/s, and a bounded loss behind it.
QUEUE_REPORTS = 10_000
# A sink in error is left alone for a while, or its time-outs would be all that the drain waits for: at first for a
# second, since a server that restarts is soon back; then twice as long after each failure, up to the longest.
FIRST_MUTED_SECONDS = 1.0
MUTED_SECONDS = 30.0
BATCH_REPORTS = 500
# Why a report can be lost whatever its sink is; a sink has words of its own for what it is refused for good.
LOST = ("error", "overflow", "stop")
# A sink that does not even let itself be cancelled is left behind.
CANCEL_SECONDS = 1.0


class TransferReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one delivery ended. Times are seconds since the epoch, sizes bytes.

    Durations are seconds, rates decimal Mbit/s. `rate_mbit_per_s` is that of the body; the phases are those of the last
    attempt. `replay` is the replay's id, empty for a delivery from Kafka. `extra` holds what a Task reported that has
    no field here.
    """

    time: float
    instance: str
    task: str
    identity: str
    topic: str
    partition: int
    offset: int
    replay: str
    outcome: str
    error_class: str = ""
    message: str = ""
    http_status: int | None = None
    path: str
    pnfsid: str
    event_date: float | None
    received_at: float
    attempts: int
    size_bytes: int | None = None
    adler32: str = ""
    verified: bool | None = None
    pool: str = ""
    rate_mbit_per_s: float | None = None
    door_wait_seconds: float | None = None
    connect_seconds: float | None = None
    first_byte_seconds: float | None = None
    body_seconds: float | None = None
    sync_seconds: float | None = None
    publish_seconds: float | None = None
    total_seconds: float
    extra: dict[str, Fact] = {}


class Sink(Protocol):
    """Takes reports somewhere. It may be slow, and it may raise: neither reaches the copies.

    `write` raises Undelivered when some reports are worth another try; after any other error all of them are lost.
    `gather_seconds`: after a write reports wait so long for more of them, unless a full batch is there already; for
    a sink whose writes cost as much as many reports. 0: they do not wait.
    """

    name: str
    gather_seconds: float

    async def write(self, reports: Sequence[TransferReport]) -> None: ...

    async def aclose(self) -> None: ...


class Undelivered(Exception):
    """Not all reports of a batch were written.

    Parameters
    ----------
    problems
        What is wrong: by one word each (a label of log lines and metrics), a sentence.
    unsent
        Nothing is known of these: they are the first to be tried again.
    later
        Refused for now: tried again after all others, which may be luckier.
    refused
        How many were refused for good and are lost (count), by reason.
    """

    def __init__(
        self,
        problems: Mapping[str, str],
        *,
        unsent: Sequence[TransferReport] = (),
        later: Sequence[TransferReport] = (),
        refused: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems
        self.unsent, self.later = unsent, later
        self.refused: Mapping[str, int] = refused or {}


class JsonLinesSink:
    """Appends reports to a file, one JSON object a line; the file is opened for each batch, so it may be rotated."""

    name = "file"
    gather_seconds = 0.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        # Not the loop's own threads: a hung disk there would stop name resolution.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reports")

    async def write(self, reports: Sequence[TransferReport]) -> None:
        lines = b"".join(self._encoder.encode(report) + b"\n" for report in reports)
        await asyncio.get_running_loop().run_in_executor(self._thread, _append, self._path, lines)

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _append(path: Path, lines: bytes) -> None:
    # Unbuffered: what a write returns is in the file, and a replay beside the daemon appends to the same one.
    with path.open("a+b", buffering=0) as file:
        rest = memoryview(b"\n" + lines if _is_torn(file) else lines)
        while rest:
            rest = rest[file.write(rest) :]


def _is_torn(file: io.FileIO) -> bool:
    """Whether the last line has no end: a full disk or a kill cut it, and the next one must not be lost with it."""
    end = file.seek(0, os.SEEK_END)
    return end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"


class _Channel:
    """The bounded queue before one sink, and the asyncio.Task that empties it."""

    def __init__(self, sink: Sink, complain: Callable[[str, Exception], None]) -> None:
        self.sink = sink
        self.lost: Counter[str] = Counter()
        self._queue: deque[TransferReport] = deque()
        self._more = asyncio.Event()
        self._closing = asyncio.Event()
        self._failures = 0  # in a row
        self._complain = complain
        self._pump = asyncio.create_task(self._run(), name=f"sink-{sink.name}")

    def put(self, report: TransferReport) -> None:
        self._queue.append(report)
        self._bound()
        self._more.set()

    @property
    def queued(self) -> int:
        return len(self._queue)

    def _bound(self) -> None:
        over = len(self._queue) - QUEUE_REPORTS
        for _ in range(over):
            self._queue.popleft()
        self._lose("overflow", over, f"{QUEUE_REPORTS} reports wait already")

    def _lose(self, reason: str, count: int, why: str) -> None:
        if count > 0:
            self.lost[reason] += count
            self._complain(self.sink.name, Undelivered({reason: why}))

    async def _run(self) -> None:
        while self._queue or not self._closing.is_set():
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            await self._deliver([self._queue.popleft() for _ in range(min(BATCH_REPORTS, len(self._queue)))])
            if len(self._queue) < BATCH_REPORTS and not self._failures:
                await self._rest(self.sink.gather_seconds)

    async def _deliver(self, batch: list[TransferReport]) -> None:
        try:
            await self.sink.write(batch)
            self._failures = 0
        except asyncio.CancelledError:
            self.lost["stop"] += len(batch)
            raise
        except Undelivered as error:
            self.lost.update(error.refused)
            self._complain(self.sink.name, error)
            self._take_back(error)
            idle = len(error.unsent) + len(error.later) == len(batch)
            self._failures = self._failures + 1 if idle else 0
            if error.unsent or idle:
                await self._rest(_muted_seconds(self._failures, random.random()))  # noqa: S311 - jitter, not a secret
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the work goes on
            self.lost["error"] += len(batch)
            self._complain(self.sink.name, error)
            await self._rest(MUTED_SECONDS)

    def _take_back(self, error: Undelivered) -> None:
        if self._closing.is_set():  # each gets one last try: who is in error now will not be well in a moment
            self._lose("stop", len(error.unsent) + len(error.later), "the last try failed")
            return
        self._queue.extendleft(reversed(error.unsent))
        self._queue.extend(error.later)
        self._bound()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def aclose(self, grace: float) -> None:
        self._closing.set()
        self._more.set()
        _, late = await asyncio.wait({self._pump}, timeout=grace)
        if late:
            self._pump.cancel()
            await asyncio.wait({self._pump}, timeout=CANCEL_SECONDS)
            self.lost["stop"] += len(self._queue)
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self.sink.aclose()
        except Exception as error:  # noqa: BLE001 - as above
            self._complain(self.sink.name, error)


def _muted_seconds(failures: int, draw: float) -> float:
    """Return the wait after so many failures in a row (count); `draw`, in [0, 1), parts instances from each other."""
    longest = min(MUTED_SECONDS, FIRST_MUTED_SECONDS * 2.0 ** min(max(0, failures - 1), 30))
    return longest * (1.0 + draw) / 2.0


class Reports:
    """Hands each report to every sink.

    Parameters
    ----------
    sinks
        Where reports go.
    complain
        Called with a sink's name and its error, at most once per failed batch.
    """

    def __init__(self, sinks: Sequence[Sink], complain: Callable[[str, Exception], None]) -> None:
        self._channels = [_Channel(sink, complain) for sink in sinks]

    def put(self, report: TransferReport) -> None:
        """Queue a report; never waits, never raises; the oldest goes when a queue is full."""
        for channel in self._channels:
            channel.put(report)

    @property
    def lost(self) -> dict[str, dict[str, int]]:
        """Reports lost so far (count), by sink and reason.

        Reasons are overflow (too many waited), stop (not written when the instance ended), error (what a sink raised
        left no other choice), and those that a sink gives to what it is refused for good.
        """
        return {channel.sink.name: dict(channel.lost) for channel in self._channels}

    @property
    def queued(self) -> dict[str, int]:
        """Reports that wait for their sink (count), by sink."""
        return {channel.sink.name: channel.queued for channel in self._channels}

    async def aclose(self, grace: float = 5.0) -> None:
        """Deliver what is queued, within `grace` seconds; the rest is dropped and counted."""
        await asyncio.gather(*(channel.aclose(grace) for channel in self._channels))
