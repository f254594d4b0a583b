"""The contracts that a site's own filter and task keep; the built-in ones use the same door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dcalqr.errors import Fact
from dcalqr.model import Origin, Outcome, StorageEvent, Verdict, Version


@dataclass
class TaskContext:
    """What a try of a Task is told, and where it leaves what it learned.

    Parameters
    ----------
    identity
        The job's uuid; every log line bears it.
    origin
        Of the delivery that is tried.
    try_number
        Counts from 1, all tries of this version together.
    looks
        How many tries of this version came too early in a row (count); a hold or a failure between them breaks the row.
    versions
        All versions that wait for this key: several of them must be judged by the source.
    removed
        A remove event of this pnfsid came by.
    memory
        Kept from try to try of one version; flat values.
    say
        Writes one log line: an event name in capitals and its fields; `level` is debug, info, warning, error or
        critical, "info" by default.
    """

    identity: str
    origin: Origin
    try_number: int
    looks: int
    versions: frozenset[Version]
    removed: bool
    memory: dict[str, Fact]
    say: Callable[..., None]
    facts: dict[str, Fact] = field(default_factory=dict)
    found: Version | None = None

    def report(self, **facts: Fact) -> None:
        """Add facts to this delivery's TransferReport."""
        self.facts.update(facts)

    def source_holds(self, version: Version) -> None:
        """Say which version the source holds now, if it is not the event's."""
        self.found = version


class Filter(Protocol):
    """Judges an event: pure and fast, for it sees every record of the topic."""

    def judge(self, event: StorageEvent) -> Verdict | bool: ...


class Task(Protocol):
    """What runs for each event that is ours."""

    name: str

    def key(self, event: StorageEvent) -> str:
        """Return what must not be worked on twice at once: one running job per key."""

    async def run(self, event: StorageEvent, context: TaskContext) -> Outcome:
        """Try once.

        Raises
        ------
        dcalqr.errors.TryError
            Its class decides what happens next.
        """

    async def probe(self, domain: str) -> None:
        """Look whether a held domain ("door" or "destination") works again.

        Raises
        ------
        dcalqr.errors.HeldError
            It does not.
        """
