"""One TransferReport per settled matched delivery, for any number of sinks. Nothing here can slow or stop a copy."""

from __future__ import annotations

import asyncio
import io
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec

from dcalqr.errors import Fact

# About 10 MB of reports: an hour's outage of a sink at 3 files/s, and a bounded loss behind it.
QUEUE_REPORTS = 10_000
# A sink in error is left alone for a while, or its time-outs would be all that the drain waits for.
MUTED_SECONDS = 30.0
BATCH_REPORTS = 500
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
    """Takes reports somewhere. It may be slow, and it may raise: neither reaches the copies."""

    name: str

    async def write(self, reports: Sequence[TransferReport]) -> None: ...

    async def aclose(self) -> None: ...


class JsonLinesSink:
    """Appends reports to a file, one JSON object a line; the file is opened for each batch, so it may be rotated."""

    name = "file"

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
        self.dropped = 0
        self._queue: deque[TransferReport] = deque()
        self._more = asyncio.Event()
        self._closing = asyncio.Event()
        self._complain = complain
        self._pump = asyncio.create_task(self._run(), name=f"sink-{sink.name}")

    def put(self, report: TransferReport) -> None:
        if len(self._queue) >= QUEUE_REPORTS:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(report)
        self._more.set()

    async def _run(self) -> None:
        while self._queue or not self._closing.is_set():
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            await self._deliver([self._queue.popleft() for _ in range(min(BATCH_REPORTS, len(self._queue)))])

    async def _deliver(self, batch: list[TransferReport]) -> None:
        try:
            await self.sink.write(batch)
        except asyncio.CancelledError:
            self.dropped += len(batch)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the work goes on
            self.dropped += len(batch)
            self._complain(self.sink.name, error)
            await asyncio.wait({asyncio.ensure_future(self._closing.wait())}, timeout=MUTED_SECONDS)

    async def aclose(self, grace: float) -> None:
        self._closing.set()
        self._more.set()
        _, late = await asyncio.wait({self._pump}, timeout=grace)
        if late:
            self._pump.cancel()
            await asyncio.wait({self._pump}, timeout=CANCEL_SECONDS)
            self.dropped += len(self._queue)
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self.sink.aclose()
        except Exception as error:  # noqa: BLE001 - as above
            self._complain(self.sink.name, error)


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
    def dropped(self) -> dict[str, int]:
        """Reports lost so far (count), by sink."""
        return {channel.sink.name: channel.dropped for channel in self._channels}

    async def aclose(self, grace: float = 5.0) -> None:
        """Deliver what is queued, within `grace` seconds; the rest is dropped and counted."""
        await asyncio.gather(*(channel.aclose(grace) for channel in self._channels))
