"""What was counted since the start. Pure; Prometheus, status file and summary line read it, none of them writes it."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from dcalqr import logtext
from dcalqr.metrics.histogram import STALL_BOUNDS, Histogram
from dcalqr.metrics.reports import TransferReport
from dcalqr.model import Settled

# As many as fit on a page; the failed-tasks file has them all.
LAST_FAILURES = 20
# Enough to recognise a cause by.
MESSAGE_CHARACTERS = 500
PHASES = ("door_wait", "connect", "first_byte", "body", "sync", "publish")


class Failure(NamedTuple):
    """A delivery that was given up: `at` in seconds since the epoch, the rest as in its row, fit to be shown."""

    at: float
    path: str
    error_class: str
    message: str
    attempts: int


class Reload(NamedTuple):
    """What became of the last reload, and when; `succeeded_at` is that of the last good one (seconds since the epoch).

    `message` says why it was refused, or what waits for a restart.
    """

    ok: bool
    succeeded_at: float | None
    at: float
    message: str = ""


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
    copying, waiting
        Of what landed: the time of the last attempt, and what came before it (not before, visibility, slot, retries,
        holds).
    phase_seconds
        Of what landed: where the time of the last attempts went, by phase.
    last_failures
        The last deliveries that were given up, oldest first.
    reload
        None: nobody asked for one.
    touched
        What others did to the files of rows, by what it was ("removed", "emptied").
    file_trouble
        Why a file of rows cannot be used just now, by its path.
    loop_stall
        How late the event loop was, at each look.
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
    copying: Histogram = field(default_factory=Histogram)
    waiting: Histogram = field(default_factory=Histogram)
    phase_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    last_failures: deque[Failure] = field(default_factory=lambda: deque(maxlen=LAST_FAILURES))
    reload: Reload | None = None
    touched: Counter[str] = field(default_factory=Counter)
    file_trouble: dict[str, str] = field(default_factory=dict)
    loop_stall: Histogram = field(default_factory=lambda: Histogram(STALL_BOUNDS))

    def note(self, report: TransferReport) -> None:
        """Take from a settled delivery's report what only that knows."""
        if report.error_class:
            message = logtext.show(report.message, MESSAGE_CHARACTERS)
            path = logtext.show(report.path)
            self.last_failures.append(Failure(report.time, path, report.error_class, message, report.attempts))
        if report.outcome != Settled.LANDED.value:
            return  # of the deliveries that one copy settles, only the first is "landed"
        spent = {name: getattr(report, f"{name}_seconds") or 0.0 for name in PHASES}
        copied_seconds = sum(spent.values())
        self.copying.observe(copied_seconds)
        self.waiting.observe(max(0.0, report.total_seconds - copied_seconds))
        for name, seconds in spent.items():
            self.phase_seconds[name] += seconds

    def reloaded(self, now: float, *, ok: bool, message: str = "") -> None:
        """Take note of a reload; `now` in seconds since the epoch."""
        before = self.reload.succeeded_at if self.reload else None
        self.reload = Reload(ok, now if ok else before, now, message)

    @property
    def matched(self) -> int:
        return self.events["match", ""]

    @property
    def unreadable(self) -> int:
        return sum(count for (decision, _), count in self.events.items() if decision == "unreadable")
