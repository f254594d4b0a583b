"""What crosses the seam between the asyncio side and one attempt. Pure; every type crosses a process boundary."""

from __future__ import annotations

from typing import Protocol

import msgspec

from dcalqr import errors


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What stood under the final name when the order was planned; publishing replaces only this."""

    device: int
    inode: int
    mtime_ns: int


class Deadlines(msgspec.Struct, frozen=True, gc=False):
    """Limits of one attempt, in seconds and bytes per second.

    `door_seconds` bounds the door's answer, `connect_seconds` each TCP and TLS handshake, `stall_seconds` silence in
    the body; fewer than `min_rate` x `timeout_seconds` bytes within `timeout_seconds` is a stall too.
    """

    door_seconds: float
    connect_seconds: float
    stall_seconds: float
    timeout_seconds: float
    min_rate: float


class CopyOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The immutable instruction for one attempt.

    Parameters
    ----------
    order_id
        Unique within the instance; its first 8 characters are part of the part file's name.
    url
        The source at the door, percent-encoded, exactly as it goes out.
    directory
        Components of the final directory, relative to the download folder.
    final_name, part_name
        File names in that directory.
    size_bytes
        What the body must have; None: what Content-Length says.
    adler32
        What the door's HEAD promised, as a number; None: what the GET's Digest says.
    pnfsid
        Goes into the xattr; empty: none is written.
    seen
        What the plan saw under the final name; None: nothing.
    directory_mode, file_mode
        Permission bits of directories that are made, and of the file.
    require_checksum
        Fail with `DigestMissing` rather than accept by size.
    allow_http, redirect_hosts
        What a redirect may name; no hosts: any whose certificate verifies.
    """

    order_id: str
    url: str
    directory: tuple[bytes, ...]
    final_name: bytes
    part_name: bytes
    size_bytes: int | None
    adler32: int | None
    pnfsid: str
    seen: Seen | None
    directory_mode: int
    file_mode: int
    require_checksum: bool
    allow_http: bool
    redirect_hosts: frozenset[str]
    deadlines: Deadlines


class Phases(msgspec.Struct, frozen=True, gc=False):
    """Where an attempt's time went, in seconds."""

    door_wait: float = 0.0
    connect: float = 0.0
    first_byte: float = 0.0
    body: float = 0.0
    sync: float = 0.0
    publish: float = 0.0


class Landed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A file under its final name, complete and synced.

    Parameters
    ----------
    size_bytes, adler32
        Of the bytes that were written.
    verified
        Whether a promised Adler32 was there to compare with; else the file was accepted by its size.
    pool
        The host that sent the body.
    phases
        Where the time went.
    setgid_dropped
        A directory that was made lost its setgid bit.
    """

    size_bytes: int
    adler32: int
    verified: bool
    pool: str
    phases: Phases
    setgid_dropped: bool = False


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The wire form of an error: the name of its class in `errors`, and its facts."""

    error: str
    facts: dict[str, errors.Fact]

    def to_error(self) -> errors.DcalqrError:
        """The error again; a worker's parent raises it."""
        return errors.by_name(self.error, self.facts)


class Stop(Protocol):
    """The asyncio side's word to a running attempt that it should end."""

    def is_set(self) -> bool: ...

    def attach(self, shutdown: SocketShutdown | None) -> None:
        """Name the socket that `set` must shut down so that a blocked read returns; None: none."""


class SocketShutdown(Protocol):
    def __call__(self) -> None: ...


class Progress(Protocol):
    """How an attempt says where it is. Called from the attempt's thread; must not block."""

    def phase(self, name: str) -> None:
        """A phase begins: door_wait, connect, first_byte, body, sync, publish."""

    def received(self, total_bytes: int) -> None:
        """So many bytes of the body have arrived."""
