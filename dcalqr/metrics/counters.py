"""What was counted since the start. Pure; Prometheus, status file and summary line read it, none of them writes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Counts of one instance.

    Parameters
    ----------
    events
        Records by (decision, reason): ("match", ""), ("skip", "direction"), ("unreadable", "json"), ("look_now", "");
        ("undated", "") counts matches without a date.
    settled
        Matched deliveries by how they ended.
    failed
        Rows by error class.
    retries
        Tries that cost budget, by the error's name.
    holds
        Holds begun, by reason.
    unwritten
        Rows and unreadable records that cannot be written just now (count): their offsets wait.
    last_event_at
        Date of the last event that matched, seconds since the epoch.
    landed_bytes, unverified
        Bytes and files (count) that landed; files that were accepted by size alone.
    """

    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    holds: Counter[str] = field(default_factory=Counter)
    unwritten: int = 0
    last_event_at: float | None = None
    landed_bytes: int = 0
    unverified: int = 0

    @property
    def matched(self) -> int:
        return self.events["match", ""]

    @property
    def unreadable(self) -> int:
        return sum(count for (decision, _), count in self.events.items() if decision == "unreadable")
