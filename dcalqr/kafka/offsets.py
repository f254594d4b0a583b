"""Which offset may be committed: the lowest seen unfinished one, or the position when nothing is open. Pure.

Not "highest done" (a crash loses what was below it) and not "last + 1" or a count (compaction and transaction markers
leave gaps: the mark would lag for ever, or point where no record is).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise
from operator import lt
from typing import NamedTuple


class Progress(NamedTuple):
    """How far one partition has come, all but the count `open` are offsets.

    `mark` is what would be committed now, `committed` what was in this assignment, `position` what is read next,
    `end` what is written next; None: not known yet.
    """

    mark: int
    position: int
    open: int
    committed: int | None
    end: int | None

    @property
    def lag(self) -> int | None:
        """Records behind the mark (count)."""
        return None if self.end is None else max(0, self.end - self.mark)

    @property
    def unread(self) -> int | None:
        """Records that were not even read (count)."""
        return None if self.end is None else max(0, self.end - self.position)


class OffsetTracker:
    """The unfinished offsets of one partition during one assignment.

    A new assignment makes a new tracker, and the ack of a delivery holds its own: a late end of an older assignment
    closes an offset here that nobody commits any more.

    Parameters
    ----------
    topic, partition
        Whose offsets these are.
    position
        The offset from which this assignment starts to read.
    """

    __slots__ = ("_open", "partition", "position", "topic")

    def __init__(self, topic: str, partition: int, position: int) -> None:
        self.topic = topic
        self.partition = partition
        self.position = position
        # Insertion order is offset order, so the first key is the lowest. Only what is open is kept: one upload that
        # waits for hours must not cost memory for all the records behind it.
        self._open: dict[int, None] = {}

    def track(self, offsets: Collection[int], position: int) -> None:
        """Open all offsets of a batch, in one step, and note the position behind it.

        Parameters
        ----------
        offsets
            Ascending, none below the position before.
        position
            The consumer's position after the batch; may lie beyond the last offset + 1 (gaps, transaction markers).

        Raises
        ------
        ValueError
            The batch does not continue where the last one ended; nothing was tracked.
        """
        ordered = [self.position - 1, *offsets, position]
        if not all(map(lt, ordered, ordered[1:])):
            before, after = next(pair for pair in pairwise(ordered) if pair[0] >= pair[1])
            raise ValueError(f"offset {after} of {self.topic}:{self.partition} does not come after {before}")
        self._open.update(dict.fromkeys(offsets))
        self.position = position

    def close(self, offset: int) -> None:
        """Finish one offset.

        Raises
        ------
        KeyError
            It is not open: it was finished before, or never tracked.
        """
        del self._open[offset]

    def close_all(self, offsets: Iterable[int]) -> None:
        """Finish many offsets; raises as `close` does, those before the culprit are finished then."""
        still_open = self._open
        for offset in offsets:
            del still_open[offset]

    def mark(self) -> int:
        """Return the offset to commit: where a successor has to start reading."""
        return next(iter(self._open), self.position)

    def progress(self, committed: int | None, end: int | None) -> Progress:
        """Return how far this is, with what only Kafka's client knows."""
        return Progress(self.mark(), self.position, len(self._open), committed, end)

    def __len__(self) -> int:
        """Count the open offsets."""
        return len(self._open)

    def __repr__(self) -> str:
        state = f"mark={self.mark()} position={self.position} open={len(self)}"
        return f"<OffsetTracker {self.topic}:{self.partition} {state}>"
