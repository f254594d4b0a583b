"""What is known of one file, and what that means for who asks: the answer of `dcalqr where`. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dcalqr import errors
from dcalqr.metrics.wording import Behind

HERE = 0
NOT_HERE = 1
OTHER = 3

SHOWN = "shown"
GONE = "gone"
REFUSED_FILE = "refused_file"
REFUSED_ALL = "refused_all"
NO_ANSWER = "none"
NOT_ASKED = "not_asked"


@dataclass
class OnDisk:
    """The file here. `adler32` is None where the file does not vouch for one; `read` says that it was read for it."""

    size_bytes: int
    written_at: float
    pnfsid: str | None
    adler32: str | None
    read: bool = False


@dataclass
class Row:
    """One row of a failed-tasks file about this file; `done`: a replay is done with it."""

    file: str
    at: float
    error_class: str
    message: str
    attempts: int
    done: bool


@dataclass
class AtDoor:
    """What the door says: the file's size, sum and pnfsid, or in `trouble` why it shows none.

    `answer` is one word: shown; gone (there is no such file); refused_file (this one, while it serves the folder);
    refused_all (whatever we ask); none (no answer); not_asked (there is no credential to ask with).
    """

    size_bytes: int | None = None
    adler32: str | None = None
    pnfsid: str | None = None
    trouble: str = ""
    answer: str = SHOWN


@dataclass
class Found:
    """All that is known of one file; times in seconds since the epoch.

    Parameters
    ----------
    path, local_path
        In dCache and here.
    refused
        Why a file of this path can never land; empty: it can.
    unknown, may_not_look
        Why it cannot be said whether the file is here, empty: it can; and whether only because of this user.
    disk, door
        None: nothing stands here; nobody asked the door.
    in_place
        What stands under the name and is no file; empty: a file or nothing.
    unreadable
        Lines of the unreadable file whose record names this path: topic, partition, offset, time, reason.
    instance_trouble
        Why the running instance could not be asked; empty: it was.
    running, waiting
        What the instance says of this file, as in its status.
    unlisted
        Jobs that the instance's status does not list (count): it may be among them.
    holds
        Reasons for which the instance tries nothing now.
    lag
        What the instance has still to read or to settle; None: it does not say.
    complaints
        What is not well with the instance.
    troubles
        What could not be looked at.
    """

    path: str
    local_path: str
    refused: str = ""
    unknown: str = ""
    may_not_look: bool = False
    disk: OnDisk | None = None
    in_place: str = ""
    rows: list[Row] = field(default_factory=list)
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    instance_trouble: str = ""
    running: dict[str, Any] | None = None
    waiting: dict[str, Any] | None = None
    unlisted: int = 0
    holds: list[str] = field(default_factory=list)
    lag: Behind | None = None
    complaints: list[str] = field(default_factory=list)
    door: AtDoor | None = None
    troubles: list[str] = field(default_factory=list)

    @property
    def open_rows(self) -> list[Row]:
        return [row for row in self.rows if not row.done]

    @property
    def is_same(self) -> bool | None:
        """Whether the file here is the door's; None: nobody asked, or it cannot be said."""
        if self.disk is None or self.door is None or self.door.answer not in (SHOWN, GONE):
            return None
        if self.door.answer == GONE or self.door.size_bytes != self.disk.size_bytes:
            return False
        if self.door.adler32 is None or self.disk.adler32 is None:
            return None
        return self.door.adler32 == self.disk.adler32

    @property
    def is_newest(self) -> bool:
        """Whether nothing speaks of a later upload to this path than the file here."""
        newer = any(row.at > self.disk.written_at for row in self.open_rows) if self.disk else True
        return not (newer or self.running or self.waiting)

    @property
    def exit_code(self) -> int:
        """0: here (asked: and the door's); 1: not here; 3: here, but perhaps not the newest.

        69: the folder or the door cannot be asked; 77: they do not let us.
        """
        door = SHOWN if self.door is None else self.door.answer
        if self.may_not_look or door in (REFUSED_FILE, REFUSED_ALL, NOT_ASKED):
            return errors.EXIT_NO_PERMISSION
        if self.unknown or door == NO_ANSWER:
            return errors.EXIT_UNAVAILABLE
        if self.disk is None:
            return NOT_HERE
        return HERE if self.is_same or (self.door is None and self.is_newest) else OTHER

    def as_json(self) -> dict[str, Any]:
        found = asdict(self) | {"lag": None if self.lag is None else self.lag._asdict()}
        return {"here": None if self.unknown else self.disk is not None, "same": self.is_same, **found}
