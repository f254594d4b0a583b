"""A stall is missing progress, not total time. Pure: time is an argument."""

from __future__ import annotations

from collections import deque

# The window slides in steps of a tenth: fine enough to say "in the last `timeout` seconds", and ten numbers of memory.
_STEPS = 10


class StallWatch:
    """Says whether fewer than `min_rate` x `timeout_seconds` bytes came in the last `timeout_seconds`.

    Parameters
    ----------
    min_rate
        Bytes per second.
    timeout_seconds
        The window.
    now
        Monotonic seconds.
    """

    def __init__(self, min_rate: float, timeout_seconds: float, now: float) -> None:
        self._least_bytes = min_rate * timeout_seconds
        self._step = timeout_seconds / _STEPS
        self._next = now + self._step
        self._total_bytes = 0
        self._samples: deque[int] = deque([0], maxlen=_STEPS + 1)

    def stalled(self, total_bytes: int, now: float) -> bool:
        """Take note of the bytes received so far; call it at every read."""
        before, self._total_bytes = self._total_bytes, total_bytes
        if now < self._next:
            return False
        while now >= self._next:
            self._samples.append(before)  # what came in this read came after the marks that it has passed
            self._next += self._step
        return len(self._samples) > _STEPS and total_bytes - self._samples[0] < self._least_bytes
