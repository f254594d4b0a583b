"""Where an instance shows how it is: one snapshot for status file, STATUS line, summary, metrics and status page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcalqr import log
from dcalqr.kafka.consumer import Consumer
from dcalqr.kafka.membership import SILENCE_SECONDS
from dcalqr.looking import status
from dcalqr.metrics.pace import Pace
from dcalqr.metrics.web import Answer, Pages, WebServer
from dcalqr.service.assembly import Assembly
from dcalqr.service.surroundings import Surroundings

# However often somebody asks: looking over ten thousand open deliveries is some milliseconds of the event loop.
SNAPSHOT_SECONDS = 1.0
PACE_SECONDS = 5.0
# Six times as long as the board's own turn takes: the event loop hardly gets to anything.
LATE_SECONDS = 30.0
# The port may be that of a former run which still drains.
PORT_SECONDS = 30.0
FAILURE_LINE_SECONDS = 60.0


class Board:
    """What is shown of one running instance.

    Parameters
    ----------
    assembly, consumer
        The parts that are shown.
    config_path, started_at
        The configuration's file, and the start in seconds since the epoch.
    is_draining
        Whether the instance ends.
    """

    def __init__(
        self,
        assembly: Assembly,
        consumer: Consumer,
        config_path: Path,
        started_at: float,
        is_draining: Callable[[], bool],
    ) -> None:
        self._assembly, self._consumer = assembly, consumer
        self._config_path, self._started_at, self._is_draining = config_path, started_at, is_draining
        self._surroundings = Surroundings(assembly.config, assembly.destination)
        self._pace = Pace()
        self._snapshot: dict[str, Any] = {}
        self._taken_at = self._said_at = float("-inf")
        self._turned_at = time.monotonic()
        self._log = log.get()

    def snapshot(self) -> dict[str, Any]:
        """Return all that is told of the instance, at most a second old; nobody may change it."""
        now = time.monotonic()
        if now - self._taken_at >= SNAPSHOT_SECONDS:
            about = status.About(str(self._config_path), self._started_at, self._is_draining())
            self._snapshot = status.snapshot(self._assembly, self._consumer, self._surroundings, self._pace, about)
            self._taken_at = now
        return self._snapshot

    async def run(self) -> None:
        """Follow pace and surroundings and serve the pages, for ever."""
        await asyncio.gather(self._watch(), self._serve())

    async def _watch(self) -> None:
        self._surroundings.start()
        try:
            while True:
                self._turned_at = time.monotonic()
                self._pace.note(status.sample(self._assembly, self._consumer, self._turned_at))
                await asyncio.sleep(PACE_SECONDS)
        finally:
            self._surroundings.stop()

    # --- by HTTP --------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Serve the pages if a port is configured.

        A port that cannot be had is said and tried again: metrics may fail, the work may not.
        """
        where = self._assembly.config.prometheus
        if where.port is None:
            await asyncio.Event().wait()
            return
        server = WebServer(self._pages(), self._page_failed)
        try:
            await self._listen(server, where.address, where.port)
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _listen(self, server: WebServer, address: str, port: int) -> None:
        while True:
            try:
                await server.start(address, port)
            except OSError as error:
                why = f"cannot listen: {error.strerror}"
                self._log.error("WEB", address=address, port=port, message=why, wait_seconds=PORT_SECONDS)
                await asyncio.sleep(PORT_SECONDS)
            else:
                self._log.info("WEB", address=address, port=port, pages=sorted(self._pages()))
                return

    def _pages(self) -> Pages:
        # Loaded here, for many instances have nobody who asks.
        from dcalqr.metrics.page import render
        from dcalqr.metrics.prometheus import Metrics

        return {
            "/": lambda: render(self.snapshot(), status.complaints(self.snapshot())),
            "/metrics": Metrics(self.snapshot),
            "/healthz": self.health,
            "/readyz": self.readiness,
        }

    def _page_failed(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._said_at >= FAILURE_LINE_SECONDS:
            self._said_at = now
            self._log.error("WEB", exc_info=error)

    def health(self) -> Answer:
        """Whether the process should live on: the event loop turns, and so does the consumer's, as for the watchdog.

        A broker, a door or a disk that is away is no reason to be restarted.
        """
        now = time.monotonic()
        if now - self._turned_at > LATE_SECONDS:
            return _answer(f"the event loop is {now - self._turned_at:.0f} s late")
        if now - self._consumer.turned_at > 2 * SILENCE_SECONDS:
            return _answer(f"the consumer has not turned for {now - self._consumer.turned_at:.0f} s")
        return _answer()

    def readiness(self) -> Answer:
        """Whether an upload would be copied now: partitions are assigned, nothing is held, all is well."""
        now = self.snapshot()
        found = status.complaints(now)
        if now["draining"]:
            found.append("it is draining")
        if not now["kafka"]["partitions"] and not now["kafka"]["trouble"]:
            found.append("no partition is assigned")
        return _answer(*found)


def _answer(*complaints: str) -> Answer:
    lines = complaints or ("ok",)
    return Answer(503 if complaints else 200, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
