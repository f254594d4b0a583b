"""The world round the instances, which outlives every crash: the door, the topic, the disk, the failed-tasks file.

It is the oracle too. Each change of a path at the source has a sequence number. A try that ends durably *proves* the
number it saw at the door. A record is safe when the number at which its upload appeared is proved, when its row is in
the failed-tasks file, or when it is not ours, unreadable and kept, or an upload that was aborted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from dcalqr.model import StorageEvent, Version

# Raw images have constant sizes, so equal sizes must be the rule here.
SIZE_BYTES = 100
# Two paths make jobs meet and part; more would only thin out the meetings.
PATHS = ("/a", "/b")


class Violation(AssertionError):
    """A promise is broken; the subclasses say which."""


class Lost(Violation):
    """A record below the committed offset is accounted for nowhere."""


class Fell(Violation):
    """The committed offset went back."""


class Miscounted(Violation):
    """A tracker's open offsets are not those of its own unfinished deliveries."""


class Stuck(Violation):
    """All work is done and the mark is not the position, or the work never ends."""


class Stale(Violation):
    """At rest the disk does not hold what the source holds, and no row says so."""


class WronglySettled(Violation):
    """A delivery was settled never, twice, or as landed where nothing landed."""


class Upload(NamedTuple):
    """One upload; `number` stands for its content."""

    number: int
    path: str
    version: Version
    event: StorageEvent


class Record(NamedTuple):
    """What stands at one offset; both None: somebody else's event."""

    upload: Upload | None = None
    unreadable: bool = False


@dataclass
class Source:
    """What the door holds: per path its whole history, the last entry being now."""

    history: dict[str, list[Upload | None]] = field(default_factory=lambda: {path: [None] for path in PATHS})
    visible_since: dict[int, int] = field(default_factory=dict)
    hidden: list[Upload] = field(default_factory=list)
    aborted: set[int] = field(default_factory=set)
    uploads: list[Upload] = field(default_factory=list)

    def upload(self, path: str, pnfsid: str | None, size_bytes: int, *, staged: bool) -> Upload:
        """Take an upload; `pnfsid` None makes a new one, which the event does not lack."""
        number = len(self.uploads)
        version = Version(f"P{number}" if pnfsid is None else pnfsid, size_bytes)
        upload = Upload(number, path, version, event_of(path, version, staged=staged))
        self.uploads.append(upload)
        if staged:
            self.hidden.append(upload)
        else:
            self.show(upload)
        return upload

    def show(self, upload: Upload) -> None:
        self.history[upload.path].append(upload)
        self.visible_since[upload.number] = len(self.history[upload.path]) - 1

    def now(self, path: str) -> tuple[int, Upload | None]:
        return len(self.history[path]) - 1, self.history[path][-1]

    def removed(self, event: StorageEvent) -> bool:
        """Whether a remove event of this staged upload came by: it was aborted, or committed and then removed."""
        upload = next(upload for upload in self.uploads if upload.event == event)
        past = self.history[upload.path]
        return upload.number in self.aborted or (upload, None) in pairwise(past)


def event_of(path: str, version: Version, *, staged: bool) -> StorageEvent:
    return StorageEvent(
        kind="transfer", cell_type="pool", cell="pool1", path=path, transfer_path=f"/upload{path}" if staged else path,
        pnfsid=version.pnfsid, size_bytes=version.size_bytes, date=None, code=0, write=True, p2p=False,
    )  # fmt: skip


class File(NamedTuple):
    """What stands under a final name. `inode` differs after every publication; `version` is the xattrs' word."""

    inode: int
    upload: Upload
    version: Version


@dataclass
class World:
    source: Source = field(default_factory=Source)
    log: list[Record | None] = field(default_factory=list)
    incarnation: int = 0
    committed: int = 0
    unsent: list[Upload] = field(default_factory=list)
    sent: list[Upload] = field(default_factory=list)
    disk: dict[str, File] = field(default_factory=dict)
    inodes: int = 0
    rows: set[bytes] = field(default_factory=set)
    unreadable: set[bytes] = field(default_factory=set)
    proved: dict[str, int] = field(default_factory=dict)

    def begin_anew(self) -> None:
        """Delete and create the topic; the group starts at its first record (`onoffsetloss = "earliest"`)."""
        self.log.clear()
        self.sent.clear()
        self.incarnation += 1
        self.committed = 0

    def bytes_at(self, offset: int) -> bytes:
        """The record's bytes: no two records are alike, not even those of one offset in two lives of the topic."""
        return b"%d:%d" % (self.incarnation, offset)

    def send(self, upload: Upload) -> None:
        self.log.append(Record(upload))
        self.sent.append(upload)

    def prove(self, path: str, sequence: int) -> None:
        self.proved[path] = max(self.proved.get(path, 0), sequence)

    def publish(self, upload: Upload, version: Version) -> None:
        self.inodes += 1
        self.disk[upload.path] = File(self.inodes, upload, version)

    def safe(self, offset: int) -> bool:
        """Whether nothing is lost if this record is never read again."""
        record = self.log[offset]
        if record is None or self.bytes_at(offset) in self.rows or self.bytes_at(offset) in self.unreadable:
            return True
        if record.upload is None:
            return not record.unreadable
        since = self.source.visible_since.get(record.upload.number)
        proved = self.proved.get(record.upload.path, 0)
        return record.upload.number in self.source.aborted or (since is not None and proved >= since)
