"""How fast an instance works, and how long it takes to catch up with its topic. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

# Long enough for large files to even out, short enough to show within minutes that a cure has helped.
WINDOW_SECONDS = 300.0
# A shorter stretch says nothing: one batch more or less would be all the difference.
LEAST_SECONDS = 10.0


class Sample(NamedTuple):
    """What was counted at one moment.

    `at` is monotonic seconds; `positions` and `ends` are offsets by partition (read next, written next); `files` and
    `received_bytes` have landed or arrived since the start.
    """

    at: float
    positions: Mapping[int, int]
    ends: Mapping[int, int]
    files: int
    received_bytes: int


class Pace:
    """Rates over the last five minutes.

    Attributes
    ----------
    files_per_second, bytes_per_second
        What landed, and what arrived of files under way.
    read_per_second, written_per_second
        Records (count) that this instance read, and that others wrote to its partitions.
    catch_up
        "done" (all is read), "closing", "growing" (more is written than read), or "unknown".
    catch_up_seconds
        When all will be read if it goes on like this; None unless done or closing.
    """

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self.files_per_second = self.bytes_per_second = 0.0
        self.read_per_second = self.written_per_second = 0.0
        self.catch_up = "unknown"
        self.catch_up_seconds: float | None = None

    def note(self, sample: Sample) -> None:
        """Take a sample; they come in the order of their times."""
        self._samples.append(sample)
        while sample.at - self._samples[0].at > WINDOW_SECONDS:
            self._samples.popleft()
        first = self._samples[0]
        seconds = sample.at - first.at
        if seconds >= LEAST_SECONDS:
            self.files_per_second = max(0, sample.files - first.files) / seconds
            self.bytes_per_second = max(0, sample.received_bytes - first.received_bytes) / seconds
        # Before the first assignment no partition is known, and nothing could be compared with that.
        first = next(each for each in self._samples if each.positions or each is sample)
        seconds = sample.at - first.at
        if seconds >= LEAST_SECONDS:
            self.read_per_second = _moved(first.positions, sample.positions) / seconds
            self.written_per_second = _moved(first.ends, sample.ends) / seconds
        self._judge(sample, seconds)

    def _judge(self, sample: Sample, seconds: float) -> None:
        unread = sum(max(0, end - sample.positions[number]) for number, end in sample.ends.items())
        gain = self.read_per_second - self.written_per_second
        self.catch_up_seconds = None
        if unread == 0 and sample.ends:
            self.catch_up, self.catch_up_seconds = "done", 0.0
        elif seconds < LEAST_SECONDS or not sample.ends:
            self.catch_up = "unknown"
        elif gain > 0:
            self.catch_up, self.catch_up_seconds = "closing", unread / gain
        else:
            self.catch_up = "growing"


def _moved(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """Count what the offsets advanced by; a partition that came meanwhile, or went back, does not count."""
    return sum(max(0, after[number] - before[number]) for number in before.keys() & after.keys())
