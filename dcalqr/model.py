"""What everyone speaks of: events, verdicts, outcomes, deliveries. Pure: no clock, no loop, no input or output."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import msgspec

# The only `VERSION` that dCache has written since 2018.
KNOWN_FORM = "1.0"


class StorageEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What dCache published about one operation on one file.

    Parameters
    ----------
    kind
        dCache's `msgType`: transfer, request, remove.
    cell_type, cell
        Who sent it: "pool" or "door", and its name; of a transfer, the pool that holds the file.
    path
        `billingPath`, raw, with repeated slashes made one: where the file is meant to end up.
    transfer_path
        Where the bytes were written; differs from `path` for a staged upload.
    pnfsid
        New for every upload; empty when the message had none.
    size_bytes
        `fileSize`; None when the message does not know it (absent or 0).
    date
        Seconds since the epoch (UTC) at which the message was made; None when absent or not to be understood.
    code
        `status.code`; 0 is success.
    write, p2p
        Of a transfer: towards the pool; between pools.
    form
        dCache's `VERSION` of the message; "1.0" since 2018.
    """

    kind: str
    cell_type: str
    cell: str
    path: str
    transfer_path: str
    pnfsid: str
    size_bytes: int | None
    date: float | None
    code: int
    write: bool
    p2p: bool
    form: str = KNOWN_FORM

    @property
    def staged(self) -> bool:
        """Whether the bytes were written elsewhere and appear at `path` only when the upload is committed."""
        return self.transfer_path != self.path

    @property
    def version(self) -> Version:
        """What tells one upload to a path from another."""
        return Version(self.pnfsid, self.size_bytes)


class Version(NamedTuple):
    """One upload: (pnfsid, size in bytes). NFS may report one pnfsid with several sizes."""

    pnfsid: str
    size_bytes: int | None


class Skip(NamedTuple):
    """Not ours, and why, in one word: the label of the metric."""

    reason: str


class Decision(enum.Enum):
    """The verdicts without a reason."""

    MATCH = "match"
    LOOK_NOW = "look_now"


MATCH = Decision.MATCH
LOOK_NOW = Decision.LOOK_NOW
Verdict: TypeAlias = Decision | Skip


class Outcome(enum.Enum):
    """How one try of a Task ended well."""

    LANDED = "landed"
    ALREADY = "already"
    GONE = "gone"
    REPLACED = "replaced"
    DONE = "done"


class Settled(enum.Enum):
    """A delivery's end, and how."""

    LANDED = "landed"
    ALREADY = "already"
    GONE = "gone"
    REPLACED = "replaced"
    DONE = "done"
    FAILED = "failed"
    UNREADABLE = "unreadable"


class Origin(NamedTuple):
    """Where a delivery came from: a Kafka record, or the replay of one."""

    topic: str
    partition: int
    offset: int
    replay: str = ""


class Delivery:
    """A StorageEvent and the ack that is called exactly once, when the delivery is settled.

    Parameters
    ----------
    event
        What is to be worked on.
    origin
        Where it came from.
    record
        The record's bytes as received; they go into the failed-tasks file.
    ack
        Closes the offset; carries its own tracker, so that a late call can never touch a newer assignment.
    """

    __slots__ = ("_ack", "event", "identity", "origin", "record", "settled")

    def __init__(self, event: StorageEvent, origin: Origin, record: bytes, ack: Callable[[Settled], None]) -> None:
        self.event = event
        self.origin = origin
        self.record = record
        self.settled: Settled | None = None
        self._ack = ack
        self.identity = ""

    def settle(self, how: Settled) -> None:
        """End this delivery.

        Raises
        ------
        RuntimeError
            It was settled before: somebody would commit what he does not own.
        """
        if self.settled is not None:
            raise RuntimeError(f"delivery {self.origin} was settled already as {self.settled.value}")
        self.settled = how
        self._ack(how)

    def __repr__(self) -> str:
        state = self.settled.value if self.settled else "open"
        return f"<Delivery {self.origin.topic}:{self.origin.partition}:{self.origin.offset} {state}>"


def new_identity() -> str:
    """A job's uuid, as the first dcalqr's log lines bore it."""
    return str(uuid.uuid4())
