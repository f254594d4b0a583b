"""One instance as a crash finds it: consumer, dispatcher and copy task, played in the order that design.md demands.

`OffsetTracker`, `Delivery` and `Inflight` are the real ones. The few decisions that stand round them and keep the
promise are an `Implementation`, so that a mutant can get one of them wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from dcalqr.inflight import Inflight, Job
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.model import Delivery, Origin, Outcome, Settled, Version
from tests.kafka.world import Fell, File, Lost, Record, Upload, World, WronglySettled, event_of


class Tracker(Protocol):
    position: int

    def track(self, offsets: Collection[int], position: int) -> None: ...
    def close(self, offset: int) -> None: ...
    def mark(self) -> int: ...
    def __len__(self) -> int: ...


class Implementation:
    """dcalqr's own ways; a mutant overrides one of them."""

    acks_before_durable = False
    publishes_over_anything = False

    def jobs(self) -> Inflight:
        """Return the jobs of an instance that starts; it remembers so little that versions are forgotten too."""
        return Inflight(remember=3)

    def assigned(self, previous: Tracker | None, position: int) -> Tracker:
        """Return the tracker of a new assignment; `previous` is what this instance had for the partition before."""
        return OffsetTracker("billing", 0, position)

    def closes(self, own: Tracker, present: Tracker | None) -> Tracker:
        """Return the tracker in which an ack closes its offset: the delivery's own, or that of the assignment now."""
        return own

    def belongs(self, offsets: Collection[int], position: int | None) -> bool:
        """Whether a batch is of the present assignment, whose consumer stands at `position` (None: not valid)."""
        return position is not None and all(offset < position for offset in offsets)


@dataclass
class Try:
    """One running try: what its plan saw, and what was decided once the door had answered."""

    job: Job
    tried: Delivery
    seen: File | None
    versions: frozenset[Version]
    sequence: int | None = None
    upload: Upload | None = None
    outcome: Outcome | None = None
    found: Version | None = None
    failed: bool = False
    ends: list[tuple[Delivery, Settled]] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        return self.failed or self.outcome is not None


@dataclass
class Taken:
    """A delivery, the tracker of the assignment that brought it, and how often its ack was called."""

    delivery: Delivery
    tracker: Tracker
    acks: int = 0


class Instance:
    def __init__(self, world: World, ways: Implementation) -> None:
        self.world = world
        self.ways = ways
        self.crash()

    def crash(self) -> None:
        """Lose the memory, as at SIGKILL or a power cut, and with it whatever was not yet durable."""
        self.inflight = self.ways.jobs()
        self.position: int | None = None
        self.tracker: Tracker | None = None
        self.taken: list[Taken] = []
        self.unjudged: list[tuple[Delivery, Record]] = []
        self.tries: dict[str, Try] = {}

    # consumer

    def assign(self, position: int) -> None:
        self.position = position
        self.tracker = self.ways.assigned(self.tracker, position)

    def commit(self) -> None:
        assert self.tracker is not None
        mark = self.tracker.mark()
        if mark < self.world.committed:
            raise Fell(f"from {self.world.committed} to {mark}")
        if mark > len(self.world.log):
            raise Lost(f"committed {mark}, the log ends at {len(self.world.log)}")
        for offset in range(self.world.committed, mark):
            if not self.world.safe(offset):
                raise Lost(f"committed {mark}, but {offset} is nowhere: {self.world.log[offset]}")
        self.world.committed = mark

    def fetch(self, count: int, *, over_markers: bool) -> tuple[list[int], int]:
        """Return up to `count` records' offsets, and the position behind them or behind what follows them."""
        assert self.position is not None
        batch = [at for at in range(self.position, len(self.world.log)) if self.world.log[at] is not None][:count]
        after = batch[-1] + 1 if batch else self.position
        while over_markers and after < len(self.world.log) and self.world.log[after] is None:
            after += 1
        return batch, after

    def poll(self, count: int, *, over_markers: bool) -> None:
        batch, self.position = self.fetch(count, over_markers=over_markers)
        self.track(batch)

    def track(self, batch: list[int]) -> None:
        if self.tracker is None or not self.ways.belongs(batch, self.position):
            return
        try:
            self.tracker.track(batch, max(self.position or 0, *[offset + 1 for offset in batch], 0))
        except ValueError:
            return  # the tail of an older assignment, below the present position
        for offset in batch:
            record = self.world.log[offset]
            assert record is not None
            self._take(offset, record, self.tracker)

    def _take(self, offset: int, record: Record, tracker: Tracker) -> None:
        event = record.upload.event if record.upload else event_of("/elsewhere", Version("", None), staged=False)
        delivery = Delivery(event, Origin("billing", 0, offset), self.world.bytes_at(offset), lambda how: ack())
        taken = Taken(delivery, tracker)

        def ack() -> None:
            taken.acks += 1
            self.ways.closes(tracker, self.tracker).close(offset)

        self.taken.append(taken)
        self.unjudged.append((delivery, record))

    # dispatcher

    def judge(self, count: int) -> None:
        batch, self.unjudged = self.unjudged[:count], self.unjudged[count:]
        for delivery, record in batch:
            if record.unreadable:
                self.world.unreadable.add(delivery.record)
                delivery.settle(Settled.UNREADABLE)
            elif record.upload is None:
                delivery.settle(Settled.GONE)
            elif self.inflight.landed_before(delivery.event.path, delivery.event):
                delivery.settle(Settled.ALREADY)
            else:
                self.inflight.join(delivery.event.path, delivery)

    def idle(self) -> list[str]:
        return [key for key in self.inflight.jobs if key not in self.tries]

    def begin(self, key: str) -> Try:
        job = self.inflight.jobs[key]
        tried = job.begin()
        attempt = Try(job, tried, self.world.disk.get(job.key), job.versions)
        self.tries[job.key] = attempt
        return attempt

    def give_up(self, attempt: Try) -> None:
        """End a try that settles nothing: transient, not yet, held, plan again."""
        del self.tries[attempt.job.key]

    def fail(self, attempt: Try) -> None:
        attempt.failed = True
        self._written(attempt)

    def _written(self, attempt: Try) -> None:
        """The file or the row is written, but not yet durable."""
        if self.ways.acks_before_durable:
            attempt.ends = self._ends(attempt)
            self._settle(attempt, attempt.ends)

    def finish(self, attempt: Try) -> None:
        """Make durable what the try brought, publish it over what the plan saw, settle."""
        del self.tries[attempt.job.key]
        copied = attempt.upload if attempt.outcome in (Outcome.LANDED, Outcome.REPLACED, None) else None
        unchanged = self.world.disk.get(attempt.job.key) == attempt.seen
        if copied is not None and not unchanged and not self.ways.publishes_over_anything:
            return  # FinalNameChanged: plan again
        if copied is not None:
            own = attempt.tried.event.version
            self.world.publish(copied, own if attempt.outcome is Outcome.LANDED else copied.version)
        if attempt.sequence is not None:
            self.world.prove(attempt.job.key, attempt.sequence)
        ends = attempt.ends or self._ends(attempt)
        self.world.rows.update(delivery.record for delivery, how in ends if how is Settled.FAILED)
        if not attempt.ends:
            self._settle(attempt, ends)

    def _ends(self, attempt: Try) -> list[tuple[Delivery, Settled]]:
        if attempt.failed:
            return [(delivery, Settled.FAILED) for delivery in attempt.job.covered()]
        assert attempt.outcome is not None
        ends = self.inflight.verdicts(attempt.job, attempt.outcome, attempt.found)
        _check_landed(attempt, ends)
        return ends

    def _settle(self, attempt: Try, ends: list[tuple[Delivery, Settled]]) -> None:
        for delivery, how in ends:
            delivery.settle(how)
        self.inflight.end(attempt.job, ends)

    # transfer

    def ask(self, attempt: Try, *, deadline: bool, learns: bool) -> None:
        """Decide one try as the copy task does; `learns`: it hears which version the door holds."""
        event, file = attempt.tried.event, attempt.seen
        if len(attempt.versions) == 1 and event.pnfsid and file is not None and file.version == event.version:
            attempt.outcome = Outcome.ALREADY
        else:
            attempt.sequence, attempt.upload = self.world.source.now(event.path)
            self._compare(attempt, deadline=deadline, learns=learns)
        if attempt.decided:
            self._written(attempt)
        else:
            self.give_up(attempt)

    def _compare(self, attempt: Try, *, deadline: bool, learns: bool) -> None:
        event, held = attempt.tried.event, attempt.upload
        if event.staged and (held is None or held.version.pnfsid != event.pnfsid):
            if held is None and self.world.source.removed(event):
                attempt.outcome = Outcome.GONE
            attempt.failed = deadline and attempt.outcome is None
            if attempt.seen is not None and held == attempt.seen.upload:
                attempt.upload = None  # the row alone: what the path holds is here already
            return
        if held is None:
            attempt.outcome = Outcome.GONE
            return
        asked = attempt.seen is not None or len(attempt.versions) > 1
        same_length = held.version.size_bytes == event.size_bytes
        other = held.version != event.version and (not same_length or (asked and event.pnfsid != ""))
        here = attempt.seen is not None and attempt.seen.upload == held
        copied = Outcome.REPLACED if other else Outcome.LANDED
        attempt.outcome = Outcome.ALREADY if here else copied
        attempt.found = held.version if other and (learns or here) else None


def _check_landed(attempt: Try, ends: list[tuple[Delivery, Settled]]) -> None:
    """One file, at most one LANDED, and none for a version that the door did not give."""
    landed = [delivery for delivery, how in ends if how is Settled.LANDED]
    if len(landed) > 1:
        raise WronglySettled(f"{len(landed)} deliveries landed by one try")
    if (
        attempt.outcome is Outcome.LANDED
        and landed != [attempt.tried]
        and not any(delivery.event.version == attempt.tried.event.version for delivery in landed)
    ):
        raise WronglySettled(f"{attempt.tried} landed and is settled otherwise: {ends}")
    if attempt.outcome is Outcome.REPLACED:
        assert attempt.upload is not None
        if any(delivery.event.version != attempt.upload.version for delivery in landed):
            raise WronglySettled(f"landed, although the door held {attempt.upload.version}: {landed}")
