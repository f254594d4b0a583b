"""How the demo speaks: a line for whatever is worth one, a moving line of counts on a terminal, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from dcalqr.demo.broker import PARTITIONS, Broker
from dcalqr.demo.site import Site
from dcalqr.demo.storage import Storage
from dcalqr.demo.verdict import Check
from dcalqr.logtext import show

# Without a terminal the counts come as lines: often enough to see it move.
COUNTS_SECONDS = 2.0
COLOURS = {"daemon": "cyan", "fault": "yellow", "wrong": "bold red"}


class Story:
    """Writes to standard output. A context manager: the moving line ends with it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._begin = self._counted_at = time.monotonic()
        self._moving: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.still()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begin

    def say(self, who: str, text: str) -> None:
        """Tell what `who` (Kafka, dCache, daemon, fault ...) does now."""
        line = Text(f"{self.seconds:5.1f} s  ", "dim")
        line.append(f"{who:<8}", COLOURS.get(who, "bold")).append(show(text))
        self._print(line)

    def plain(self, text: str = "", style: str = "") -> None:
        """Write a line without time."""
        self._print(Text(text, style))

    def surroundings(self, broker: Broker, storage: Storage) -> None:
        """Tell which Kafka and which dCache there are."""
        kind = f"an embedded broker with {PARTITIONS} partitions" if broker.embedded else "your broker"
        self.say("Kafka", f"{kind} at {','.join(broker.servers)}, topic {broker.topic}")
        self.say("dCache", f"a door at {storage.door.url} and two pools, all by TLS with throw-away certificates")

    def folder(self, site: Site) -> None:
        """Tell where everything lies."""
        self.plain(f"In {site.folder}:")
        for name, what in site.in_words():
            self.plain(f"  {name:<15}{what}")

    def counts(self, text: str) -> None:
        """Show how far it is."""
        if self._console.is_terminal:
            if self._moving is None:
                self._moving = self._console.status("")
                self._moving.start()
            self._moving.update(Text(text))
        elif time.monotonic() - self._counted_at >= COUNTS_SECONDS:
            self._counted_at = time.monotonic()
            self.say("so far", text)

    def still(self) -> None:
        """End the moving line."""
        if self._moving is not None:
            self._moving.stop()
            self._moving = None

    def table(self, checks: Sequence[Check]) -> None:
        """Show what was checked."""
        table = Table("", "expected", "found", "", box=None, padding=(0, 2, 0, 0))
        for column in table.columns[1:3]:
            column.justify = "right"
        for check in checks:
            verdict = Text("ok", "green") if check.good else Text("WRONG", COLOURS["wrong"])
            table.add_row(Text(check.what), Text(check.expected), Text(check.found), verdict)
        self._console.print(table)

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)
