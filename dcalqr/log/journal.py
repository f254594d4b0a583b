"""Log lines for systemd's journal, their fields as fields of it: `journalctl DCALQR_UUID=...` finds a file.

The message is the line as it would stand anywhere else. The journal's native protocol is one datagram per line; what
does not go that way is written to standard error, which leads to the journal too.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol

import orjson

SOCKET = "/run/systemd/journal/socket"
# What syslog calls emergency and alert is not ours to say.
PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
# A journal that hangs must not stop the copying for longer; its own limit of waiting lines is beyond us.
SEND_SECONDS = 1.0
# A traceback of ours has some kB; the kernel's usual limit is enough for it, this one for any line.
_BUFFER_BYTES = 8 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_]{1,50}")  # the journal allows 64 characters, our prefix included


class Sink(Protocol):
    """Takes finished lines, each with the fields that it was made of."""

    def write(self, text: bytes, line: Mapping[str, Any]) -> None: ...


def leads_there(stream: BinaryIO) -> bool:
    """Whether systemd has connected this stream with its journal, as $JOURNAL_STREAM (device:inode) tells."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def new_socket() -> socket.socket:
    """Return what lines can be sent with."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    made.settimeout(SEND_SECONDS)
    return made


class JournalLines:
    """Where the chain ends under systemd.

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

    def write(self, text: bytes, line: Mapping[str, Any]) -> None:
        try:
            self._sender.sendto(datagram(text, line), self._address)
        except OSError:
            self._otherwise.write(text, line)


def datagram(text: bytes, line: Mapping[str, Any]) -> bytes:
    """Return what the journal wants to hear of one line."""
    priority = PRIORITIES.get(line.get("level", ""), PRIORITIES["info"])
    told = [_field(b"MESSAGE", text), b"PRIORITY=%d\nSYSLOG_IDENTIFIER=dcalqr\n" % priority]
    for key, value in line.items():
        if value is not None and (name := _name(key)):
            told.append(_field(name, value.encode() if isinstance(value, str) else orjson.dumps(value)))
    return b"".join(told)


@functools.lru_cache(maxsize=1000)  # the names of fields are few
def _name(key: str) -> bytes:
    """The journal's name of a field; empty: it can have none."""
    return f"DCALQR_{key.upper()}".encode() if _NAME.fullmatch(key) else b""


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:  # only a traceback has lines
        return b"%s\n%s%s\n" % (name, len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name, value)
