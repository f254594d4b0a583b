"""Where uploads come from: a door that counts, and a producer that writes uploads, noise and duplicates into the topic.

What comes, and what is wrong with it, follows from the seed; only when it comes depends on the machine.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from confluent_kafka import KafkaError, Message, Producer

from dcalqr.testing import samples
from dcalqr.testing.connection import PLAY_DEAD_SECONDS, HangUp
from dcalqr.testing.door import Door, Fault, Request, StoredFile
from dcalqr.testing.pki import Pki
from dcalqr.testing.pools import Mover
from tests.ledger.books import Books, Other, Record, Version

ROOT = "/pnfs/example.org/data/lsst"
FOLDER = "/lsst/user/j/jane.doe"
PARTITIONS = 4
# In one step: few enough that kills and audits come between, enough that a step is worth a flush.
UPLOADS_PER_STEP = 6
NOISE_PER_UPLOAD = 2.5
DIRECTORIES = 12
FLUSH_SECONDS = 30.0
REFUSED = "refused"

# Shares of the uploads. Wrong digests cost a second body each, and so does an overwrite whose event another instance
# reads than the one before: both fetch what the path holds by then. Hence so few.
OVERWRITES, STAGED, DUPLICATED, BROKEN_RECORDS = 0.06, 0.15, 0.12, 0.01
REFUSALS, DOOR_ERRORS, SHORT_BODIES, WRONG_DIGESTS = 0.02, 0.06, 0.04, 0.006
LATELY = 0.4  # of the overwrites: to paths whose last upload is still on its way
LATE_BODIES, LARGE_BODIES, SLOW_BODIES = 0.05, 0.02, 0.03
# A duplicate may come on another partition, hence to another instance: then only after a while, as from a producer
# that was restarted. Otherwise it is what a retry of the producer makes.
ELSEWHERE = 0.2
ELSEWHERE_SECONDS = 5.0
LONGEST_STAGED_SECONDS = 4.0
SMALLEST_BYTES, LARGEST_BYTES = 100, 120_000
LARGE_BYTES = 3_000_000  # of several blocks
# Two seconds, so that kills find parts; far above the rate that counts as a stall.
SLOW_BYTES, SLOW_BYTES_PER_SECOND = 300_000, 150_000
# A pool takes so long to begin, and meanwhile, often, another upload to the path comes, and goes to another instance.
LATE_SECONDS, OVERTAKEN = 2.5, 0.5

Claim: TypeAlias = AbstractContextManager[Mover | None]


class CountingDoor(Door):
    """Counts the bodies that it gave out whole, by pnfsid."""

    def __init__(self, pki: Pki) -> None:
        super().__init__(pki)
        self.bodies: collections.Counter[str] = collections.Counter()
        self._slow: set[str] = set()
        self._counting = threading.Lock()
        self._pools.claimed = self._counted(self._pools.claimed)  # type: ignore[method-assign,assignment]

    def _counted(self, claimed: Callable[[Request], Claim]) -> Callable[[Request], Claim]:
        @contextlib.contextmanager
        def counted(request: Request) -> Iterator[Mover | None]:
            with claimed(request) as mover:
                began_at = time.monotonic()
                try:
                    yield mover
                except HangUp:
                    if mover is None or time.monotonic() - began_at < self._whole_after_seconds(mover.file):
                        raise
                if mover is not None:  # not reached when the connection was cut
                    with self._counting:
                        self.bodies[mover.file.pnfsid] += 1

        return counted

    def slow_down(self, file: StoredFile) -> None:
        """Trickle the first bodies of this path."""
        self._slow.add(file.path)
        self.faults.add(Fault("pool", file.path, times=2, bytes_per_second=SLOW_BYTES_PER_SECOND))

    def _whole_after_seconds(self, file: StoredFile) -> float:
        """Say from when on a client that leaves has the whole body: a trickle ends with a pause after its last byte."""
        slow = file.path in self._slow
        return file.size_bytes / SLOW_BYTES_PER_SECOND - PLAY_DEAD_SECONDS if slow else float("inf")

    def forget_played(self) -> None:
        """Drop the faults that will not be played again: each request looks at all of them."""
        with self.faults._lock:
            self.faults._left[:] = [(fault, left) for fault, left in self.faults._left if left[0] != 0]


class Source:
    """Uploads, and tells.

    Parameters
    ----------
    seed
        Of all that is decided here.
    door
        Where the files are put.
    servers, topic
        Where the events go.
    books
        Where all of it is entered.
    """

    def __init__(self, seed: int, door: CountingDoor, servers: str, topic: str, books: Books) -> None:
        self._random = random.Random(seed)
        self._door, self._topic, self._books = door, topic, books
        self._producer = Producer(
            {"bootstrap.servers": servers, "linger.ms": 0, "enable.idempotence": True, "log_level": 0}
        )
        self._numbers = itertools.count()
        self._tie = itertools.count()
        # What is to happen later: time (monotonic seconds), and what; the middle only breaks ties.
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._batch: list[tuple[int, Record, bytes | None]] = []
        self._staged: set[str] = set()
        door.make_folder(FOLDER)
        door.faults.add(Fault("door", f"{FOLDER}/*/{REFUSED}*", status=403))

    def step(self, uploads: int = UPLOADS_PER_STEP) -> None:
        """Do what is due, upload so many files, and publish all of it."""
        self._door.forget_played()
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        for _ in range(uploads):
            self._upload(self._overwrite() if self._random.random() < OVERWRITES else self._new())
        self._make_noise(uploads)
        self._random.shuffle(self._batch)
        self._flush()

    @property
    def pending(self) -> bool:
        """Whether something announced has still to happen: commits of staged uploads, duplicates."""
        return bool(self._later)

    # --- uploads ----------------------------------------------------------------------------------------------

    def _upload(self, version: Version) -> None:
        """Announce a file that was put."""
        roll = self._random
        upload = f"/upload/1/{version.file.pnfsid}/x" if version.name in self._staged else None
        path = f"{ROOT}{FOLDER}/{version.name}"
        value = samples.upload(path, version.file.size_bytes, version.file.pnfsid, transfer_path=upload)
        partition = self._publish(version, value)
        if roll.random() < DUPLICATED:
            self._duplicate(version, value, partition)

    def _new(self) -> Version:
        number = next(self._numbers)
        refused = self._random.random() < REFUSALS
        word = REFUSED if refused else "fits"
        return self._put(f"{self._random.randrange(DIRECTORIES):05d}/{word}_{number:06d}.tar", refused=refused)

    def _overwrite(self) -> Version:
        """Upload anew to a path: often to one whose last upload is still on its way."""
        names = [name for name in self._books.versions if self._may_overwrite(name)]
        lately = names[-2 * UPLOADS_PER_STEP :] if self._random.random() < LATELY else names
        return self._put(self._random.choice(lately)) if lately else self._new()

    def _may_overwrite(self, name: str) -> bool:
        # Not if its last upload was staged: that one's event, when it comes late or again, finds another file at the
        # path and cannot know whether it is the old one or the next one. Then a row is right, and nothing to count on.
        return name not in self._staged and REFUSED not in name

    def _overtake(self, name: str) -> None:
        if self._may_overwrite(name):
            self._upload(self._put(name))

    def _put(self, name: str, *, refused: bool = False) -> Version:
        roll = self._random
        before = self._books.versions.get(name, [])
        size = roll.randrange(SMALLEST_BYTES, LARGEST_BYTES)
        shape = roll.random()
        slow = shape < SLOW_BODIES
        if shape < SLOW_BODIES + LARGE_BODIES:
            size = SLOW_BYTES if slow else LARGE_BYTES
        elif before and roll.random() < 0.5:
            size = before[-1].file.size_bytes  # raw images have constant sizes
        # The first bytes make every upload's sum its own; few, because the door keeps them all.
        content = samples.Content(roll.randbytes(min(size, 997)), size)
        staged = not refused and roll.random() < STAGED
        path = f"{FOLDER}/{name}"
        file = self._door.put(path, content, pnfsid=samples.new_pnfsid(roll), staged=staged)
        version = Version(name, len(before), file, refused)
        self._books.enter(version)
        if not refused:
            if slow:
                self._door.slow_down(file)
            else:
                self._delay(version)
            self._spoil(file)
        if staged:
            self._staged.add(name)
            commit_event = roll.random() < 0.5  # dCache before 10.1 says nothing
            self._in(roll.uniform(0.0, LONGEST_STAGED_SECONDS), lambda: self._commit(version, tell=commit_event))
        return version

    def _spoil(self, file: StoredFile) -> None:
        """Let something be wrong with this file, once or twice."""
        roll, path = self._random.random, file.path
        if roll() < DOOR_ERRORS:
            status = self._random.choice((500, 502, 503))
            self._door.faults.add(Fault("door", path, "GET", times=self._random.choice((1, 2)), status=status))
        if roll() < SHORT_BODIES:
            cut = self._random.randrange(SMALLEST_BYTES)  # short for the next upload to this path too
            self._door.faults.add(Fault("pool", path, times=1, cut_after=cut, reset=roll() < 0.5))
        if roll() < WRONG_DIGESTS:
            self._door.faults.add(Fault("pool", path, times=1, digest=f"adler32={self._random.getrandbits(32):08x}"))

    def _delay(self, version: Version) -> None:
        """Let this file's body come late, and perhaps be overtaken by the next upload to its path."""
        roll = self._random
        if roll.random() < LATE_BODIES:
            seconds = roll.uniform(0, LATE_SECONDS)
            self._door.faults.add(Fault("pool", version.file.path, times=1, delay_seconds=seconds))
            if roll.random() < OVERTAKEN:
                self._in(roll.uniform(0, LATE_SECONDS), lambda: self._overtake(version.name))

    def _commit(self, version: Version, *, tell: bool) -> None:
        file = version.file
        self._door.commit(file.path)
        if tell:
            upload = f"/upload/1/{file.pnfsid}/x"
            event = samples.srm_commit(f"{ROOT}{FOLDER}/{version.name}", file.size_bytes, file.pnfsid, upload)
            self._publish(Other.NOISE, event)

    def _duplicate(self, version: Version, value: bytes, partition: int) -> None:
        roll = self._random
        if roll.random() < ELSEWHERE:
            partition = roll.randrange(PARTITIONS)
            self._in(ELSEWHERE_SECONDS * roll.uniform(1, 2), lambda: self._publish(version, value, partition))
        elif roll.random() < 0.5:
            self._publish(version, value, partition)
        else:
            self._in(roll.uniform(0, ELSEWHERE_SECONDS), lambda: self._publish(version, value, partition))

    def _in(self, seconds: float, what: Callable[[], Any]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._tie), what))

    # --- records ----------------------------------------------------------------------------------------------

    def _make_noise(self, uploads: int) -> None:
        for _ in range(round(uploads * NOISE_PER_UPLOAD)):
            self._publish(Other.NOISE, samples.noise(self._random, ROOT, FOLDER))
            if self._random.random() < BROKEN_RECORDS:
                whole = samples.upload(f"{ROOT}{FOLDER}/broken.tar", 1, samples.new_pnfsid(self._random))
                self._publish(Other.BROKEN, whole[: len(whole) // 2])

    def _publish(self, record: Record, value: bytes, partition: int | None = None) -> int:
        where = self._random.randrange(PARTITIONS) if partition is None else partition
        self._batch.append((where, record, value))
        return where

    def _flush(self) -> None:
        """Write the batch to the topic and enter it in the books, before anything else can happen."""
        places: dict[int, int] = {}
        failures: list[KafkaError] = []
        for number, (partition, _, value) in enumerate(self._batch):

            def delivered(error: KafkaError | None, message: Message, number: int = number) -> None:
                if error is not None:
                    failures.append(error)
                places[number] = message.offset() or 0

            self._producer.produce(self._topic, value, partition=partition, on_delivery=delivered)
        self._producer.flush(FLUSH_SECONDS)
        assert not failures, failures
        assert len(places) == len(self._batch), "the broker did not take all records"
        batch, self._batch = self._batch, []
        for number, (partition, record, _) in enumerate(batch):
            self._books.publish(partition, places[number], record)
