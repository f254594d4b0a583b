"""A partition, two instances of one consumer group, a door and a disk, worked by Hypothesis in any order."""

from __future__ import annotations

import sys

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.kafka.instance import Implementation, Instance, Tracker, Try
from tests.kafka.world import PATHS, SIZE_BYTES, Miscounted, Record, Stale, Stuck, Upload, World, WronglySettled

INSTANCES = 2
# No history of 100 steps needs as many rounds to come to rest.
ROUNDS_TO_REST = 500
# More than a poll of the machine ever leaves unread.
EVERYTHING = 1_000

picks = st.integers(0, 7)
instances = st.integers(0, INSTANCES - 1)
# Mostly one path: versions must meet.
paths = st.sampled_from((PATHS[0], PATHS[0], *PATHS))


class PartitionMachine(RuleBasedStateMachine):
    """Everything that may happen to one partition, in any order.

    Parameters
    ----------
    ways
        What works; None: dcalqr's own.
    counted
        Compare the trackers' open offsets with the unfinished deliveries. Without it a mutant must do visible harm.
    """

    def __init__(self, ways: Implementation | None = None, *, counted: bool = True) -> None:
        super().__init__()
        self.counted = counted
        self._handled = sys.exception()
        self.world = World()
        self.instances = [Instance(self.world, ways or Implementation()) for _ in range(INSTANCES)]
        self.owner = self.instances[0]
        self.owner.assign(0)

    # the source and the topic

    @rule(
        path=paths,
        kind=st.sampled_from(["plain", "staged", "nameless", "more"]),
        reaches=st.sampled_from(["nobody", "topic", "job", "job"]),
    )
    def an_upload(self, path: str, kind: str, reaches: str) -> None:
        """`nameless`: the message has no pnfsid. `more`: the same file grew, as NFS may report it."""
        _, held = self.world.source.now(path)
        pnfsid, size_bytes = "" if kind == "nameless" else None, SIZE_BYTES
        if kind == "more" and held is not None:
            pnfsid, size_bytes = held.version.pnfsid, SIZE_BYTES + (held.version.size_bytes or 0)
        upload = self.world.source.upload(path, pnfsid, size_bytes, staged=kind == "staged")
        self._announce(upload, reaches)

    def _announce(self, upload: Upload, reaches: str) -> None:
        if reaches == "nobody":
            self.world.unsent.append(upload)
            return
        self.world.send(upload)
        if reaches == "job":
            self.owner.poll(EVERYTHING, over_markers=True)
            self.owner.judge(EVERYTHING)

    @precondition(lambda self: self.world.unsent or self.world.sent)
    @rule(pick=picks, reaches=st.sampled_from(["topic", "job"]))
    def a_message_comes_late_or_twice(self, pick: int, reaches: str) -> None:
        late = self.world.unsent
        upload = late.pop(pick % len(late)) if late else self.world.sent[-1 - pick % len(self.world.sent)]
        self._announce(upload, reaches)

    @rule(path=paths, change=st.sampled_from(["commit", "commit", "abort", "remove"]), pick=picks)
    def a_change_at_the_source(self, path: str, change: str, pick: int) -> None:
        source = self.world.source
        if change == "remove" and source.now(path)[1] is not None:
            source.history[path].append(None)
        elif change != "remove" and source.hidden:
            upload = source.hidden.pop(pick % len(source.hidden))
            if change == "commit":
                source.show(upload)
            else:
                source.aborted.add(upload.number)

    @rule(what=st.sampled_from([None, Record(), Record(unreadable=True)]), count=st.integers(1, 3))
    def gaps_markers_and_foreign_records(self, what: Record | None, count: int) -> None:
        self.world.log.extend([what] * count)

    # Kafka

    @rule(count=st.integers(0, 6), over_markers=st.booleans(), by=instances, judged=st.integers(0, 6))
    def a_poll(self, count: int, over_markers: bool, by: int, judged: int) -> None:
        if count:
            self.owner.poll(count, over_markers=over_markers)
        self.instances[by].judge(judged)

    @rule()
    def a_commit(self) -> None:
        self.owner.commit()

    @rule(
        kind=st.sampled_from(["rebalance", "cut batch", "crash", "topic made anew"]),
        owner=instances,
        commits=st.booleans(),
        count=st.integers(1, 6),
    )
    def trouble(self, kind: str, owner: int, commits: bool, count: int) -> None:
        former = self.owner
        tail = former.fetch(count, over_markers=False)[0] if kind == "cut batch" else []
        if kind == "crash":
            former.crash()
        elif kind == "topic made anew" and self.world.incarnation == 0:
            self.world.begin_anew()
        elif commits:
            former.commit()
        self._hand_over(owner)
        if tail:
            # The old assignment's batch reaches the tracking step after the new one's first poll, if there was one.
            if not commits:
                self.owner.poll(count - 1, over_markers=False)
            former.track(tail)

    def _hand_over(self, owner: int) -> None:
        self.owner.position = None
        self.owner = self.instances[owner]
        self.owner.assign(self.world.committed)

    # the work

    def _idle(self) -> list[tuple[Instance, str]]:
        return [(instance, key) for instance in self.instances for key in instance.idle()]

    def _running(self, *, decided: bool) -> list[tuple[Instance, Try]]:
        tries = [(instance, attempt) for instance in self.instances for attempt in instance.tries.values()]
        return [(instance, attempt) for instance, attempt in tries if attempt.decided is decided]

    @precondition(lambda self: self._idle())
    @rule(pick=picks, goes=st.sampled_from(["begins", "begins and is answered", "all the way"]))
    def a_try(self, pick: int, goes: str) -> None:
        idle = self._idle()
        instance, key = idle[pick % len(idle)]
        attempt = instance.begin(key)
        if goes != "begins":
            instance.ask(attempt, deadline=False, learns=True)
        if goes == "all the way" and attempt.decided:
            instance.finish(attempt)

    @precondition(lambda self: self._running(decided=False))
    @rule(pick=picks, answer=st.sampled_from(["good", "good at the deadline", "vague", "transient", "permanent"]))
    def an_answer(self, pick: int, answer: str) -> None:
        running = self._running(decided=False)
        instance, attempt = running[pick % len(running)]
        if answer == "transient":
            instance.give_up(attempt)
        elif answer == "permanent":
            instance.fail(attempt)
        else:
            instance.ask(attempt, deadline=answer == "good at the deadline", learns=answer != "vague")

    @precondition(lambda self: self._running(decided=True))
    @rule(pick=picks)
    def a_durable_end(self, pick: int) -> None:
        running = self._running(decided=True)
        instance, attempt = running[pick % len(running)]
        instance.finish(attempt)

    # what must hold after every step

    @invariant()
    def deliveries_and_trackers_agree(self) -> None:
        """An offset is open as long as its own delivery is unfinished, and every ack is one settling."""
        for instance in self.instances:
            unfinished: dict[int, tuple[Tracker, set[int]]] = {}
            for taken in instance.taken:
                _, offsets = unfinished.setdefault(id(taken.tracker), (taken.tracker, set()))
                if taken.delivery.settled is None:
                    offsets.add(taken.delivery.origin.offset)
                if taken.acks != (taken.delivery.settled is not None):
                    raise WronglySettled(f"{taken.delivery} was acked {taken.acks} times")
            for tracker, offsets in unfinished.values():
                if self.counted and len(tracker) != len(offsets):
                    raise Miscounted(f"{tracker!r} has {len(tracker)} open, unfinished are {sorted(offsets)}")

    # what must hold at rest

    def teardown(self) -> None:
        if sys.exception() is not self._handled:
            return  # a step has failed: a second failure would hide it
        for upload in self.world.unsent:
            self.world.send(upload)
        self._come_to_rest()
        self.deliveries_and_trackers_agree()
        self._check_the_mark()
        self._check_the_disk()

    def _come_to_rest(self) -> None:
        for _ in range(ROUNDS_TO_REST):
            self.owner.poll(6, over_markers=True)
            for instance in self.instances:
                instance.judge(EVERYTHING)
                for attempt in [*instance.tries.values(), *map(instance.begin, instance.idle())]:
                    if not attempt.decided:
                        instance.ask(attempt, deadline=True, learns=True)
                    if attempt.decided:
                        instance.finish(attempt)
            if self.owner.position == len(self.world.log) and not any(each.inflight.jobs for each in self.instances):
                return
        raise Stuck(f"the work never ends: {[instance.inflight for instance in self.instances]}")

    def _check_the_mark(self) -> None:
        for taken in (taken for instance in self.instances for taken in instance.taken):
            if taken.delivery.settled is None:
                raise WronglySettled(f"{taken.delivery} was never settled")
        self.owner.commit()
        if self.world.committed != len(self.world.log):
            raise Stuck(f"all is done, the mark is {self.world.committed}, the position {len(self.world.log)}")

    def _check_the_disk(self) -> None:
        for path in PATHS:
            _, held = self.world.source.now(path)
            offsets = [at for at, record in enumerate(self.world.log) if record and held and record.upload == held]
            file = self.world.disk.get(path)
            if not offsets or any(self.world.bytes_at(offset) in self.world.rows for offset in offsets):
                continue
            if file is None or file.upload != held:
                raise Stale(f"the source holds {held}, the disk {file}")
