"""Dates of billing messages, in the two forms that dCache has written them. Pure.

Dates before dCache 5.0 bear a zone abbreviation; only UTC, GMT and the European ones are unambiguous. Others give none.
"""

from __future__ import annotations

import datetime as dt
import re

# This century only: dCache began in 2000, and a clock gone mad must neither hold a file back nor pass for knowledge.
_ISO_DATE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d(?::\d\d)?)", re.ASCII)
_OLD_DATE = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d\d):(\d\d):(\d\d) ([A-Z]{3,4}) (20\d\d)", re.ASCII)
# Java writes them in English whatever the locale; strptime would read them in ours.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ZONE_HOURS = {"UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3}


def parse_date(value: object) -> float | None:
    """Read a message's date.

    Parameters
    ----------
    value
        ISO 8601 with an offset and 0 to 9 fraction digits, or the form before dCache 5.0
        (`Mon Oct 01 13:49:00 CEST 2018`).

    Returns
    -------
    float or None
        Seconds since the epoch, UTC; None for anything else, ambiguous zones, and other centuries.
    """
    if not isinstance(value, str):
        return None
    try:
        moment = _iso_date(value) or _old_date(value)
    except ValueError:
        return None
    return None if moment is None else moment.timestamp()


def _iso_date(text: str) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if _ISO_DATE.fullmatch(text) else None


def _old_date(text: str) -> dt.datetime | None:
    found = _OLD_DATE.fullmatch(text)
    if found is None:
        return None
    month, day, hour, minute, second, zone, year = found.groups()
    if month not in _MONTHS or zone not in _ZONE_HOURS:
        return None
    offset = dt.timezone(dt.timedelta(hours=_ZONE_HOURS[zone]))
    number = _MONTHS.index(month) + 1
    return dt.datetime(int(year), number, int(day), int(hour), int(minute), int(second), tzinfo=offset)
