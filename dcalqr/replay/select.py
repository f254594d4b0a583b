"""Which rows a replay takes: by class, words of the message, path and time. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from dcalqr.config.values import start_point
from dcalqr.local.failedtask import FailedTask

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)([smhdw])")


class Selection(NamedTuple):
    """What is asked of a row; what is empty or None asks nothing.

    Parameters
    ----------
    classes
        It has one of them.
    reasons
        Each is in its message, upper or lower case.
    path
        It is this file, or one below this folder.
    since, until
        It was written then or later, and before then (seconds since the epoch).
    """

    classes: frozenset[str] = frozenset()
    reasons: tuple[str, ...] = ()
    path: str = ""
    since: float | None = None
    until: float | None = None

    def takes(self, row: FailedTask) -> bool:
        message = row.message.lower()
        return (
            (not self.classes or row.error_class in self.classes)
            and all(reason.lower() in message for reason in self.reasons)
            and (not self.path or f"{row.path}/".startswith(f"{self.path.rstrip('/')}/"))
            and (self.since is None or row.time >= self.since)
            and (self.until is None or row.time < self.until)
        )


EVERYTHING = Selection()


def moment(text: str, now: float) -> float:
    """Return the time, in seconds since the epoch, that a text means.

    It is an RFC 3339 time, a date (its begin in UTC), "now", or a duration until now.

    Raises
    ------
    ValueError
        It is none of these.
    """
    if text == "now":
        return now
    if found := _DURATION.fullmatch(text):
        return now - float(found[1]) * _UNITS[found[2]]
    try:
        meant = start_point(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except ValueError as error:
        words = "is neither a time, nor a date such as 2026-01-31 (UTC), nor a duration such as 90s, 30m, 2h, 7d"
        raise ValueError(f"{text!r} {words}: {error}") from error
    if isinstance(meant, str):  # earliest, latest
        raise ValueError(f"{text!r} is no time")  # noqa: TRY004 - of a wrong value, not of a wrong type
    return meant.timestamp()
