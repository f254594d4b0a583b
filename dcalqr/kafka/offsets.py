"""Which offset may be committed: the lowest seen unfinished one, or the position when nothing is open. Pure.

Not "highest done" (a crash loses what was below it) and not "last + 1" or a count (compaction and transaction markers
leave gaps: the mark would lag for ever, or point where no record is).
"""

from __future__ import annotations

from collections.abc import Collection


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
        ordered = list(offsets)
        below = self.position - 1
        for offset in ordered:
            if offset <= below:
                raise ValueError(f"offset {offset} of {self.topic}:{self.partition} comes after {below}")
            below = offset
        if position <= below:
            raise ValueError(f"position {position} of {self.topic}:{self.partition} is not beyond offset {below}")
        self._open.update(dict.fromkeys(ordered))
        self.position = position

    def close(self, offset: int) -> None:
        """Finish one offset.

        Raises
        ------
        KeyError
            It is not open: it was finished before, or never tracked.
        """
        del self._open[offset]

    def mark(self) -> int:
        """Return the offset to commit: where a successor has to start reading."""
        return next(iter(self._open), self.position)

    def __len__(self) -> int:
        """Count the open offsets."""
        return len(self._open)

    def __repr__(self) -> str:
        state = f"mark={self.mark()} position={self.position} open={len(self)}"
        return f"<OffsetTracker {self.topic}:{self.partition} {state}>"
