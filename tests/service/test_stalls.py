from __future__ import annotations

import asyncio
import gc
import time

from dcalqr.metrics.histogram import STALL_BOUNDS, Histogram
from dcalqr.service.stalls import measure, spare_what_is_loaded
from tests.support.rig import until


def over(lateness: Histogram, seconds: float) -> int:
    """Count what was later than one of the bounds."""
    return sum(lateness.counts[STALL_BOUNDS.index(seconds) + 1 :])


async def test_a_blocked_loop_is_counted_by_how_long_it_was_blocked() -> None:
    lateness = Histogram(STALL_BOUNDS)
    measuring = asyncio.create_task(measure(lateness))
    await until(lambda: sum(lateness.counts) >= 3, "the first looks")
    before, end = over(lateness, 0.05), time.monotonic() + 0.09
    while time.monotonic() < end:
        pass
    await until(lambda: over(lateness, 0.05) > before, "the stall")
    assert lateness.sum_seconds > 0.05
    measuring.cancel()


def test_what_is_loaded_is_never_looked_through_again() -> None:
    loaded = len(gc.get_objects())
    spare_what_is_loaded()
    try:
        assert len(gc.get_objects()) < loaded / 2
    finally:
        gc.unfreeze()
