"""Jobs: all deliveries of one key, and which of them a try settles. Pure.

The door decides between versions, not dates (pool clocks differ) and not pnfsids (they have no order). So a try of a
*plain* upload settles every plain delivery that was there when it began: each of them was visible before its message,
hence what the path holds now is it or its successor. A *staged* upload appears later, when it is committed, so it is
settled by a try of its own version only. A delivery that comes while a try runs is settled by that try only if its
version is the one that is being copied; otherwise the Task runs once more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from dcalqr.errors import Fact
from dcalqr.model import Delivery, Outcome, Settled, StorageEvent, Version, new_identity

# Redeliveries after a rebalance or a restart of a neighbour come within the window (1 000) of each of a few
# partitions; a remembered version costs about 200 bytes.
REMEMBERED_VERSIONS = 10_000


@dataclass
class Effort:
    """What was spent on one version (counts): tries, failures that cost budget, looks too early, plans made anew.

    `losses` counts the workers that died with it, `looks` those in a row; `memory` is what the Task wants to know at
    its next try; `trouble` is what ended the last one.
    """

    tries: int = 0
    failures: int = 0
    looks: int = 0
    replans: int = 0
    losses: int = 0
    removed: bool = False
    trouble: str = ""
    memory: dict[str, Fact] = field(default_factory=dict)


class Job:
    """The deliveries of one key and the one running Task that will settle them. Lives while one of them lives."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.identity = new_identity()
        self.deliveries: list[Delivery] = []
        self.efforts: dict[Version, Effort] = {}
        self._tried: Delivery | None = None
        self._began_with = 0

    @property
    def versions(self) -> frozenset[Version]:
        """The versions that the open deliveries name; several of them must be judged by the door."""
        return frozenset(delivery.event.version for delivery in self.deliveries)

    def join(self, delivery: Delivery) -> None:
        delivery.identity = self.identity
        self.deliveries.append(delivery)
        self.efforts.setdefault(delivery.event.version, Effort())

    def begin(self) -> Delivery:
        """Choose what the next try is about: the newest plain delivery, else the oldest staged one.

        Raises
        ------
        LookupError
            No delivery is open; the job should have ended.
        """
        plain = [delivery for delivery in self.deliveries if not delivery.event.staged]
        if not self.deliveries:
            raise LookupError(f"job {self.key!r} has no open delivery")
        self._tried = plain[-1] if plain else self.deliveries[0]
        self._began_with = len(self.deliveries)
        effort = self.effort
        effort.tries += 1
        return self._tried

    @property
    def tried(self) -> Delivery:
        """The delivery that the running or last try is about."""
        if self._tried is None:
            raise LookupError(f"job {self.key!r} has not begun")
        return self._tried

    @property
    def effort(self) -> Effort:
        """What was spent on the version that is tried."""
        return self.efforts[self.tried.event.version]

    def covered(self) -> list[Delivery]:
        """Return the deliveries that the end of the running try settles."""
        version = self.tried.event.version
        return [
            delivery
            for place, delivery in enumerate(self.deliveries)
            # Without a pnfsid versions cannot be told apart: raw images have constant sizes.
            if delivery is self.tried
            or (delivery.event.version == version and version.pnfsid)
            or (place < self._began_with and not delivery.event.staged and not self.tried.event.staged)
        ]

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Forget deliveries that were settled."""
        ended = {id(delivery) for delivery in deliveries}
        # A try may be running: of those it began with, at the front, some may stay.
        self._began_with = sum(id(delivery) not in ended for delivery in self.deliveries[: self._began_with])
        self.deliveries = [delivery for delivery in self.deliveries if id(delivery) not in ended]
        # A version that comes again after its end begins anew, with a whole budget.
        self.efforts = {version: self.efforts[version] for version in self.versions}

    def look_anew(self) -> None:
        """Forget how long was looked: the door may have been away meanwhile."""
        for effort in self.efforts.values():
            effort.looks = 0

    def __repr__(self) -> str:
        return f"<Job {self.key!r} deliveries={len(self.deliveries)} versions={len(self.versions)}>"


class Inflight:
    """All jobs by key, who waits for which pnfsid, and what landed lately.

    Parameters
    ----------
    remember
        How many landed versions are kept (count); a redelivery of one is settled without a request.
    """

    def __init__(self, remember: int = REMEMBERED_VERSIONS) -> None:
        self.jobs: dict[str, Job] = {}
        self._landed: OrderedDict[tuple[str, Version], None] = OrderedDict()
        self._by_pnfsid: dict[str, list[Job]] = {}
        self._remember = remember

    def landed_before(self, key: str, event: StorageEvent) -> bool:
        """Whether this very version landed under this key; events without a pnfsid are never remembered."""
        return (key, event.version) in self._landed

    def join(self, key: str, delivery: Delivery) -> tuple[Job, bool]:
        """Add a delivery to the job of its key; the flag says whether the job is new."""
        job = self.jobs.get(key)
        new = job is None
        if job is None:
            job = self.jobs[key] = Job(key)
        job.join(delivery)
        if delivery.event.pnfsid:
            self._by_pnfsid.setdefault(delivery.event.pnfsid, []).append(job)
        return job, new

    def waiting_for(self, event: StorageEvent) -> list[Job]:
        """Return the jobs that want to look now, because this event is about an upload of theirs."""
        return list(dict.fromkeys(self._by_pnfsid.get(event.pnfsid, ())))

    def verdicts(self, job: Job, outcome: Outcome, found: Version | None) -> list[tuple[Delivery, Settled]]:
        """Say how each delivery ends that the running try settles.

        Parameters
        ----------
        job
            Whose try ended well.
        outcome
            How it ended.
        found
            The version that the source holds, if the Task learned that it is not the tried event's.
        """
        # Replaced by what, the Task may not have learned; it is not what was tried.
        present = found if found or outcome is Outcome.REPLACED else job.tried.event.version
        settled = Settled(outcome.value)
        good = outcome in (Outcome.LANDED, Outcome.ALREADY, Outcome.DONE)
        ends: list[tuple[Delivery, Settled]] = []
        for delivery in job.covered():
            version = delivery.event.version
            if not good and not (outcome is Outcome.REPLACED and version == present):
                ends.append((delivery, settled))
            elif version != present:
                ends.append((delivery, Settled.REPLACED))
            else:
                first = all(how is not Settled.LANDED for _, how in ends)
                how = Settled.LANDED if outcome is Outcome.REPLACED else settled
                ends.append((delivery, how if first or how is not Settled.LANDED else Settled.ALREADY))
        return ends

    def end(self, job: Job, ends: Iterable[tuple[Delivery, Settled]]) -> bool:
        """Note that these deliveries are settled; returns whether the job has ended and is forgotten."""
        ended = list(ends)
        for delivery, how in ended:
            if how in (Settled.LANDED, Settled.ALREADY, Settled.DONE) and delivery.event.pnfsid:
                self._landed[job.key, delivery.event.version] = None
                self._landed.move_to_end((job.key, delivery.event.version))
        while len(self._landed) > self._remember:
            self._landed.popitem(last=False)
        for delivery, _ in ended:
            self._forget(delivery.event.pnfsid, job)
        job.release(delivery for delivery, _ in ended)
        if job.deliveries:
            return False
        del self.jobs[job.key]
        return True

    def _forget(self, pnfsid: str, job: Job) -> None:
        waiting = self._by_pnfsid.get(pnfsid, [])
        if job in waiting:
            waiting.remove(job)
        if not waiting:
            self._by_pnfsid.pop(pnfsid, None)

    def __repr__(self) -> str:
        return f"<Inflight jobs={len(self.jobs)} landed={len(self._landed)}>"
