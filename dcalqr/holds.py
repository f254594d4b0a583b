"""Holds: while one is set nothing is tried and nothing is lost; a probe releases it. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

from dcalqr.errors import DestinationHeld, HeldError, Unreachable

# Ten in a row: fewer are a door that restarts or a resolver that hiccups.
TOLERATED_UNREACHABLE = 10
FIRST_PROBE_SECONDS = 1.0
# Thirty seconds is the time within which work must go on after a cure.
LONGEST_PROBE_SECONDS = 30.0
# A hold that returns this soon after its release was never cured (a quota, which no free-space figure shows).
RELAPSE_SECONDS = 60.0

DOOR = "door"
DESTINATION = "destination"


def domain_of(error: HeldError) -> str:
    """Return what an error holds: the door or the destination."""
    return DESTINATION if isinstance(error, DestinationHeld) else DOOR


@dataclass
class Hold:
    """One hold. `since` and `probe_at` are monotonic seconds; `probe_seconds` is the present wait between probes."""

    domain: str
    reason: str
    message: str
    since: float
    probe_at: float
    probe_seconds: float


class Holds:
    """Which domains (door, destination) are held, why, and when to look again."""

    def __init__(self) -> None:
        self.active: dict[str, Hold] = {}
        self._unreachable = 0
        self._released: dict[str, tuple[float, float]] = {}

    def failed(self, error: HeldError, now: float) -> Hold | None:
        """Take note of a try that met a hold; returns the Hold if this began one.

        Single `Unreachable` errors are bad luck: only `TOLERATED_UNREACHABLE` in a row begin a hold.
        """
        if isinstance(error, Unreachable):
            self._unreachable += 1
            if self._unreachable < TOLERATED_UNREACHABLE:
                return None
        domain = domain_of(error)
        if domain in self.active:
            return None
        return self._begin(domain, error, now)

    def _begin(self, domain: str, error: HeldError, now: float) -> Hold:
        wait = FIRST_PROBE_SECONDS
        released_at, last_wait = self._released.get(domain, (float("-inf"), 0.0))
        if now - released_at < RELAPSE_SECONDS:
            wait = min(LONGEST_PROBE_SECONDS, max(wait, 2 * last_wait))
        hold = Hold(domain, error.hold, str(error), now, now + wait, wait)
        self.active[domain] = hold
        return hold

    def door_reached(self) -> None:
        """The door answered something: the row of unreachable tries is broken."""
        self._unreachable = 0

    def probe_failed(self, domain: str, error: HeldError, now: float) -> None:
        """Note that a probe met the same trouble; the next comes later, at most 30 s."""
        hold = self.active[domain]
        hold.reason, hold.message = error.hold, str(error)
        hold.probe_seconds = min(LONGEST_PROBE_SECONDS, 2 * hold.probe_seconds)
        hold.probe_at = now + hold.probe_seconds

    def release(self, domain: str, now: float) -> Hold:
        """End a hold; tries go on."""
        hold = self.active.pop(domain)
        self._released[domain] = (now, hold.probe_seconds)
        if domain == DOOR:
            self._unreachable = 0
        return hold

    def __bool__(self) -> bool:
        return bool(self.active)

    def __repr__(self) -> str:
        return f"<Holds {' '.join(f'{hold.domain}:{hold.reason}' for hold in self.active.values()) or 'none'}>"
