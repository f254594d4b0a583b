"""What worker processes use, read from /proc by their parent: they tell nobody, and need not."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from typing import Any

# proc(5), counted from behind the name: user and system time in ticks, resident pages.
_UTIME, _STIME, _RSS = 11, 12, 21


def usage(pids: Iterable[int]) -> dict[str, Any]:
    """Return count, resident_bytes and cpu_seconds of child processes; the time is also that of all ended ones."""
    ticks, page_bytes = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = [fields for pid in pids if (fields := _stat(pid)) is not None]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living_ticks = sum(fields[_UTIME] + fields[_STIME] for fields in found)
    return {
        "count": len(found),
        "resident_bytes": sum(fields[_RSS] for fields in found) * page_bytes,
        "cpu_seconds": round(living_ticks / ticks + ended.ru_utime + ended.ru_stime, 2),
    }


def _stat(pid: int) -> list[int] | None:
    """Return the numbers behind name and state; None: there is no such process any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return [0, *map(int, fields[1:])]
