"""Numbers, sizes and times in words, for the status page. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Behind(NamedTuple):
    """How far an instance is behind its partitions, in records: `lag` not done with, `unread` of them not even read."""

    lag: int
    unread: int


def behind(kafka: Mapping[str, Any]) -> Behind | None:
    """Sum up a snapshot's section `kafka`; None: no end of a partition is known."""
    unread = [each["unread"] for each in kafka["partitions"].values() if each["unread"] is not None]
    return Behind(sum(kafka["lag_records"].values()), sum(unread)) if unread else None


def lag(kafka: Mapping[str, Any], shown: Callable[[int], str]) -> str:
    """The same in the words of `dcalqr status`: lag 173 (0 unread)."""
    if not kafka["partitions"]:
        return "no partition assigned"
    found = behind(kafka)
    return f"lag {shown(found.lag)} ({shown(found.unread)} unread)" if found else "lag not known yet"


def count(number: float) -> str:
    """A count with thin spaces between the thousands."""
    return f"{number:,.0f}".replace(",", "\u2009")


def size(number: float | None) -> str:
    """A size in bytes, decimal, as sizes on disks are sold."""
    if number is None:
        return "unknown"
    for unit, name in _SIZES:
        if number >= unit:
            return f"{number / unit:.3g}\u00a0{name}" if number < 1000 * unit else f"{count(number / unit)}\u00a0{name}"
    return f"{number:.0f}\u00a0B"


def rate(bytes_per_second: float) -> str:
    return f"{size(bytes_per_second)}/s"


def span(seconds: float) -> str:
    """A duration by its two largest units: 3 h 20 min."""
    left = max(0, round(seconds))
    for place, (unit, name) in enumerate(_SPANS):
        if left >= unit:
            words = f"{count(left // unit)}\u00a0{name}"
            rest = _SPANS[place + 1 : place + 2]
            if rest and (more := left % unit // rest[0][0]):
                words += f" {more}\u00a0{rest[0][1]}"
            return words
    return "0\u00a0s"


def clock(at: float) -> str:
    """A moment (seconds since the epoch) in UTC, for people: 2026-01-31 12:00:00."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
