"""One connection to a little server: the handshake, the requests that come, and how long it plays dead."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

from dcalqr.testing.faults import Headers, Where

# How often a thread that plays dead looks whether it may live again.
PLAY_DEAD_SECONDS = 0.05
# Read at a time; and a body up to this size leaves in one write with its head, as a real server's would.
JOIN_BYTES = 65536
# No request comes near; a client that sends more is broken.
MOST_HEAD_BYTES = 1 << 20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Request:
    """What a client sent.

    Parameters
    ----------
    where, port
        Which server received it.
    method, path
        The path is decoded (UTF-8, surrogates for what is not) and without the query.
    target
        The request's target, byte for byte.
    headers
        In order, names in lower case.
    certificate
        Subject of the client's certificate, "/DC=org/CN=..."; empty: none came.
    serial
        That certificate's serial number; 0: none came.
    """

    where: Where
    port: int
    method: str
    path: str
    target: bytes
    headers: Headers
    certificate: str
    serial: int

    def header(self, name: str) -> str:
        """Give the value of a header by its name in lower case; empty when it did not come."""
        return dict(self.headers).get(name, "")

    @property
    def wants_digest(self) -> bool:
        return "adler32" in self.header("want-digest").lower()

    @property
    def secrets(self) -> bool:
        """Whether anything came that proves who the client is."""
        return bool(self.certificate or self.header("authorization") or self.header("cookie"))


class HangUp(Exception):
    """The server ends this connection now."""


class Connection:
    """One client's connection, from the server's side; `where` and `port` say which server's."""

    def __init__(self, sock: socket.socket, where: Where, port: int) -> None:
        self._sock = sock
        self._where: Where = where
        self._port = port
        self._unread = bytearray()
        self._ending = False
        self._subject = ""
        self._serial = 0

    def secure(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake."""
        secured = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self._sock = secured
        if self._ending:
            raise HangUp
        secured.do_handshake()
        peer = secured.getpeercert() or {}
        self._subject = _subject(peer.get("subject", ()))
        self._serial = int(str(peer.get("serialNumber", "0")), 16)

    def read_request(self) -> Request | None:
        """Give the next request, its body read and dropped; None: the client left."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            block = self._sock.recv(JOIN_BYTES)
            if not block or len(self._unread) > MOST_HEAD_BYTES:
                return None
            self._unread += block
        first, *lines = bytes(self._unread[:end]).split(b"\r\n")
        del self._unread[: end + 4]
        method, target, _ = first.split(b" ")
        pairs = (line.decode("latin-1").partition(":") for line in lines)
        headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
        path = urllib.parse.unquote_to_bytes(target.partition(b"?")[0]).decode("utf-8", "surrogateescape")
        request = Request(self._where, self._port, method.decode(), path, target, headers, self._subject, self._serial)
        return request if self._drop_body(int(request.header("content-length") or 0)) else None

    def _drop_body(self, size_bytes: int) -> bool:
        while len(self._unread) < size_bytes:
            block = self._sock.recv(JOIN_BYTES)
            if not block:
                return False
            self._unread += block
        del self._unread[:size_bytes]
        return True

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        self._sock.sendall(data)

    def gone(self, wait_seconds: float = 0) -> bool:
        """Whether the client has left, or asked for something before the answer to its last request came."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(wait_seconds * 1000))

    def play_dead(self, until: threading.Event, seconds: float | None = None, *, notice: bool = True) -> None:
        """Do nothing until the event, the time, the client's leaving (if it is to be noticed), or the server's end.

        Raises
        ------
        HangUp
            The client left, or the server stops.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not until.is_set() and (left := PLAY_DEAD_SECONDS if end is None else end - time.monotonic()) > 0:
            nap = min(left, PLAY_DEAD_SECONDS)
            if notice and self.gone(nap):
                raise HangUp
            if not notice:
                until.wait(nap)
            if self._ending:
                raise HangUp

    def reset_on_close(self) -> None:
        """Make the end of this connection an RST instead of a FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    def shut(self) -> None:
        """From another thread: make whatever this connection waits for end."""
        self._ending = True
        with contextlib.suppress(OSError):  # it has ended by itself
            # Not SSLSocket's own: that one drops the TLS state under the feet of the connection's thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()


def _subject(names: Any) -> str:
    """Write a subject as the grid does; `names` is what `ssl` makes of it: a tuple for each RDN, of (type, value)."""
    short = {"domainComponent": "DC", "commonName": "CN"}
    return "".join(f"/{short.get(kind, kind)}={value}" for part in names for kind, value in part)
