"""How long nothing has been heard. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any


class Silence:
    """Watches stamps that change with every sign of life.

    What is not asked about - a paused partition - may be silent: its silence counts from when it is asked about again.
    """

    def __init__(self) -> None:
        self._heard: dict[Hashable, tuple[object, float]] = {}

    def longest(self, stamps: Mapping[Any, object], now: float) -> float:
        """Return for how long (seconds) the stamp has been the same that has not changed for the longest time.

        Parameters
        ----------
        stamps
            By what they belong to. How far off they are does not matter, so no clock that jumps does.
        now
            Monotonic seconds.
        """
        before = self._heard
        self._heard = {
            key: before[key] if key in before and before[key][0] == stamp else (stamp, now)
            for key, stamp in stamps.items()
        }
        return max((now - since for _, since in self._heard.values()), default=0.0)
