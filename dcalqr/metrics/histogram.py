"""How long something took, by classes of length. Pure."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

# A small file takes some 10 ms, a wait for visibility up to an hour: thirds of a decade show where it is slow.
COPY_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
# A loop that is well is late by less than a millisecond; from 50 ms on it is held up by somebody.
STALL_BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0)


class Histogram:
    """Counts of durations, by upper bound.

    Parameters
    ----------
    bounds
        Ascending, in seconds; what is longer than the last one is counted beyond it.
    """

    __slots__ = ("bounds", "counts", "sum_seconds")

    def __init__(self, bounds: tuple[float, ...] = COPY_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_seconds += seconds

    def as_json(self) -> dict[str, Any]:
        """Bounds and sum in seconds, counts by class; the last count is of what is beyond all bounds."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": round(self.sum_seconds, 6)}

    def __repr__(self) -> str:
        return f"<Histogram {sum(self.counts)} in {self.sum_seconds:.3f} s>"
