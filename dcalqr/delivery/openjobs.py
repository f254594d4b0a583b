"""The jobs that wait, as the status shows them: what each waits for, since when, and what went wrong last. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from dcalqr.inflight import Effort, Job

# The window's default: usually all of them; with more, some 200 kB of status file.
LISTED = 1000
# Enough to recognise a cause by.
_MESSAGE_CHARACTERS = 200


def waiting(
    jobs: Collection[Job], running: Collection[str], *, held: bool, seconds_open: Callable[[Job], float]
) -> dict[str, Any]:
    """Tell of the jobs that have no order under way: how many there are, and each of the first thousand.

    Parameters
    ----------
    jobs, running
        All that are open, and the keys of those whose order is under way.
    held
        Whether a hold stands in the way.
    seconds_open
        How long a job is open.
    """
    idle = [job for job in jobs if job.key not in running]
    return {"total": len(idle), "listed": [_shown(job, seconds_open(job), held=held) for job in idle[:LISTED]]}


def _shown(job: Job, seconds: float, *, held: bool) -> dict[str, Any]:
    efforts = list(job.efforts.values())
    return {
        "path": job.key,
        "waits_for": "a hold" if held else _reason(efforts),
        "seconds": round(seconds, 1),
        "tries": sum(effort.tries for effort in efforts),
        "message": next((effort.trouble for effort in efforts if effort.trouble), "")[:_MESSAGE_CHARACTERS],
    }


def _reason(efforts: list[Effort]) -> str:
    if any(effort.looks for effort in efforts):
        return "visibility"
    return "another try" if any(effort.failures for effort in efforts) else "its turn"
