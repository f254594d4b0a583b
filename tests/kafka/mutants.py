"""Ways to lose files that others went (reliability.md, section 1), kept so that the machine stays able to find them."""

from __future__ import annotations

from collections.abc import Collection

from dcalqr.inflight import Inflight, Job
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.model import Delivery
from tests.kafka.instance import Implementation, Tracker


class HighestDoneTracker(OffsetTracker):
    def __init__(self, topic: str, partition: int, position: int) -> None:
        super().__init__(topic, partition, position)
        self.highest = position

    def close(self, offset: int) -> None:
        super().close(offset)
        self.highest = max(self.highest, offset + 1)

    def mark(self) -> int:
        if not len(self):
            self.highest = self.position  # right so far: the mutant is wrong about what is open only
        return self.highest


class HighestDone(Implementation):
    """Commits what was finished last, and with it what is still running below (faust#312)."""

    def assigned(self, previous: Tracker | None, position: int) -> Tracker:
        return HighestDoneTracker("billing", 0, position)


class CountingTracker(OffsetTracker):
    def __init__(self, topic: str, partition: int, position: int) -> None:
        super().__init__(topic, partition, position)
        self.start = position
        self.tracked: list[int] = []

    def track(self, offsets: Collection[int], position: int) -> None:
        super().track(offsets, position)
        self.tracked.extend(offsets)

    def mark(self) -> int:
        done = next((count for count, offset in enumerate(self.tracked) if offset in self._open), len(self.tracked))
        return self.start + done


class CountPlusOne(Implementation):
    """Counts records where offsets have gaps (spring-kafka#4258, faust-streaming#401)."""

    def assigned(self, previous: Tracker | None, position: int) -> Tracker:
        return CountingTracker("billing", 0, position)


class DoneBeforeFsync(Implementation):
    """Acks when the file or the row is written, not when it is durable."""

    acks_before_durable = True


class RewoundTracker(OffsetTracker):
    """Bears offsets that come again, so that the mutant is found by its harm and not by an exception."""

    def track(self, offsets: Collection[int], position: int) -> None:
        self._open.update(dict.fromkeys(offsets))
        self.position = max(self.position, position)

    def close(self, offset: int) -> None:
        self._open.pop(offset, None)


class NoEpoch(Implementation):
    """One tracker per partition, whatever the assignment (redpanda-data/connect#4009)."""

    def assigned(self, previous: Tracker | None, position: int) -> Tracker:
        return RewoundTracker("billing", 0, position) if previous is None else previous


class ForgivingTracker(OffsetTracker):
    """Bears that an offset is closed twice or before it is tracked, for the same reason."""

    def close(self, offset: int) -> None:
        self._open.pop(offset, None)


class LookedUpAtAck(Implementation):
    """A late ack of an older assignment closes the offset in the tracker of the present one."""

    def assigned(self, previous: Tracker | None, position: int) -> Tracker:
        return ForgivingTracker("billing", 0, position)

    def closes(self, own: Tracker, present: Tracker | None) -> Tracker:
        return own if present is None else present


class OldBatchTracked(Implementation):
    """Takes the tail of a batch that a rebalance cut for a batch of the new assignment."""

    def belongs(self, offsets: Collection[int], position: int | None) -> bool:
        return True


class PublishedBlindly(Implementation):
    """Renames over whatever stands under the final name, also over what came after the plan."""

    publishes_over_anything = True


class EverythingCovered(Job):
    def covered(self) -> list[Delivery]:
        return list(self.deliveries)


class CoveringInflight(Inflight):
    def join(self, key: str, delivery: Delivery) -> tuple[Job, bool]:
        self.jobs.setdefault(key, EverythingCovered(key))
        return super().join(key, delivery)


class LateVersionsCovered(Implementation):
    """Settles with a running try what joined after it had begun, whatever version it names."""

    def jobs(self) -> Inflight:
        return CoveringInflight()
