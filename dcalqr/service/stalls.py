"""How late the event loop is. What blocks it delays each file, each heartbeat and each answer of the whole daemon."""

from __future__ import annotations

import asyncio
import gc
import time

from dcalqr.metrics.histogram import Histogram

# Stalls count from 50 ms on; one is seen but for the part of it that this sleeps. Looking costs 0.1 % of a core.
PERIOD_SECONDS = 0.02


def spare_what_is_loaded() -> None:
    """Let the garbage collector forget all there is now; to be called once, when all parts are made.

    Modules, classes and parts live as long as the process. Looking through them for garbage took 40 ms of the event
    loop each time, and found none.
    """
    gc.collect()
    gc.freeze()


async def measure(lateness: Histogram) -> None:
    """Observe by how much (seconds) the loop comes too late to a sleeper, for ever."""
    while True:
        due_at = time.monotonic() + PERIOD_SECONDS
        await asyncio.sleep(PERIOD_SECONDS)
        lateness.observe(max(0.0, time.monotonic() - due_at))
