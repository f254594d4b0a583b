"""What the daemon and a worker process say to each other: msgpack, each message behind its length. Both ends.

The two are of one version, so nothing here is kept compatible. A worker is started from the files that are on the disk
then, and those may have been upgraded under a running daemon: it is told the daemon's version, and refuses another one.
"""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

import msgspec

from dcalqr.dcache.tls import Trust
from dcalqr.orders import CopyOrder, Landed, Refused

_LENGTH_BYTES = 4
# An order with the longest path takes some 20 kB; more than this is no message of ours.
MOST_BYTES = 1024 * 1024
# How a worker ends that is of another version than the daemon; beyond sysexits.h, so that nothing else ends like that.
# All versions have this number and hand the version over alike: as the worker's second argument.
EXIT_OTHER_VERSION = 79


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


class Root(_Message, frozen=True):
    """The download folder from here on, for the orders that follow.

    Its descriptor travels with the first byte of this message. The kernel never joins bytes beyond a message that
    bears one to it, so descriptors and messages of this kind come in the same order; `number` counts them, from 1.
    """

    number: int


class Do(_Message, frozen=True):
    """An order. `trust` is there if its generation is newer than what this worker has had."""

    order: CopyOrder
    trust: Trust | None


class End(_Message, frozen=True):
    """Tell the attempt of this order to stop."""

    order_id: str


class Ready(_Message, frozen=True):
    """The worker takes orders."""


class Report(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an order's watcher has not been told yet: phases begun, and the bytes received so far."""

    order_id: str
    phases: tuple[str, ...]
    received_bytes: int


class Told(_Message, frozen=True):
    """Where running orders are; without any, a sign of life."""

    reports: tuple[Report, ...]


class Answer(_Message, frozen=True):
    """The end of an order: one of the two is there."""

    report: Report
    landed: Landed | None
    refused: Refused | None


Down: TypeAlias = Root | Do | End
Up: TypeAlias = Ready | Told | Answer

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


class Broken(Exception):
    """What came is no message of ours: the other side is out of its mind, and nothing further from it is believed."""


def encode(message: Down | Up) -> bytes:
    """Return a message as it goes out.

    Raises
    ------
    ValueError
        It is too long, or its text is no Unicode (UnicodeEncodeError).
    """
    body = _encode(message)
    if len(body) > MOST_BYTES:
        raise ValueError(f"a message of {len(body)} bytes")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class Messages(Generic[T]):
    """Makes messages of the bytes that come in, wherever those were cut.

    Parameters
    ----------
    kind
        `Down` or `Up`.
    """

    def __init__(self, kind: object) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._rest = b""

    def feed(self, data: bytes) -> list[T]:
        """Take bytes, return what is complete with them.

        Raises
        ------
        Broken
            They are no message of ours.
        """
        if self._rest:
            data = self._rest + data
        view, begin, found = memoryview(data), 0, []
        while len(data) - begin >= _LENGTH_BYTES:
            body = begin + _LENGTH_BYTES
            size = int.from_bytes(view[begin:body], "big")
            if size > MOST_BYTES:
                raise Broken(f"a message of {size} bytes")
            if len(data) < body + size:
                break
            begin = body + size
            try:
                found.append(self._decode(view[body:begin]))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Broken(str(error)) from error
        self._rest = data[begin:]
        return found
