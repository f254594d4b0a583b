"""Log lines for systemd's journal, their fields as fields of it: `journalctl DCALQR_UUID=...` finds a file.

The message is the line as it would stand anywhere else. The journal's native protocol is one datagram per line; what
does not go that way is written to standard error, which leads to the journal too.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol, TypeAlias

import orjson

SOCKET = "/run/systemd/journal/socket"
# What syslog calls emergency and alert is not ours to say.
PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
# A journal that hangs must not stop the copying for longer; its own limit of waiting lines is beyond us.
SEND_SECONDS = 1.0
# A traceback of ours has some kB; the kernel's usual limit is enough for it, this one for any line.
_BUFFER_BYTES = 8 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_]{1,50}")  # the journal allows 64 characters, our prefix included


Render: TypeAlias = Callable[[object, str, dict[str, Any]], bytes]
Handed: TypeAlias = tuple[tuple[bytes, dict[str, Any]], dict[str, Any]]  # what structlog calls a logger with


class Sink(Protocol):
    """Takes finished lines."""

    def msg(self, line: bytes) -> None: ...


def leads_there(stream: BinaryIO) -> bool:
    """Whether systemd has connected this stream with its journal, as $JOURNAL_STREAM (device:inode) tells."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def keeping_fields(render: Render) -> Callable[[object, str, dict[str, Any]], Handed]:
    """Make of a renderer one that hands the fields on beside the line, to `JournalLines.msg`."""

    def process(logger: object, method: str, line: dict[str, Any]) -> Handed:
        fields = dict(line)  # a renderer may take it apart
        return (render(logger, method, line), fields), {}

    return process


def new_socket() -> socket.socket:
    """Return what lines can be sent with."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    made.settimeout(SEND_SECONDS)
    return made


class JournalLines:
    """Where structlog's chain ends under systemd. One for all loggers, as its own factory.

    Parameters
    ----------
    sender
        Of `new_socket`; not connected, because the journal may be restarted.
    otherwise
        Gets a line that the journal does not take.
    address
        The journal's socket.
    """

    def __init__(self, sender: socket.socket, otherwise: Sink, address: str = SOCKET) -> None:
        self._sender, self._otherwise, self._address = sender, otherwise, address

    def __call__(self, *_: object) -> JournalLines:
        return self

    def msg(self, line: bytes, fields: Mapping[str, Any]) -> None:
        try:
            self._sender.sendto(datagram(line, fields), self._address)
        except OSError:
            self._otherwise.msg(line)

    debug = info = warning = error = critical = msg


def datagram(line: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return what the journal wants to hear of one line."""
    told = {
        "MESSAGE": line,
        "PRIORITY": b"%d" % PRIORITIES.get(fields.get("level", ""), PRIORITIES["info"]),
        "SYSLOG_IDENTIFIER": b"dcalqr",
    }
    for name, value in fields.items():
        if value is not None and _NAME.fullmatch(name):
            told[f"DCALQR_{name.upper()}"] = value.encode() if isinstance(value, str) else orjson.dumps(value)
    return b"".join(_field(name, value) for name, value in told.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:  # only a traceback has lines
        return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name.encode(), value)
