"""Blocking TCP channels to a door or a pool: every wait has a limit, and every end can be forced by another thread."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import Self

from dcalqr.dcache.http1 import Origin
from dcalqr.orders import Stop

# `receive` found nothing to read yet.
NOTHING_YET = -1
# A name with more addresses would take too long to be found unreachable: each may cost the whole limit.
_MOST_ADDRESSES = 8


class Channel:
    """A connected TCP socket, non-blocking beneath."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._poll = select.poll()

    def receive(self, view: memoryview) -> int:
        """Read what is there: its size in bytes, 0 at the end of the connection, NOTHING_YET.

        Raises
        ------
        OSError
            The connection broke; `TlsFailed` is one.
        """
        try:
            return self.sock.recv_into(view)
        except BlockingIOError:
            return NOTHING_YET

    def send(self, data: bytes, seconds: float) -> None:
        """Send everything within so many seconds; raises as `receive`, and TimeoutError."""
        until = time.monotonic() + seconds
        left = memoryview(data)
        while left:
            sent = self._send_some(left)
            if sent == NOTHING_YET:
                self._wait(select.POLLOUT, until)
            else:
                left = left[sent:]

    def _send_some(self, data: memoryview) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return NOTHING_YET

    def wait(self, seconds: float) -> None:
        """Wait until there is something to read; raises TimeoutError."""
        self._wait(select.POLLIN, time.monotonic() + seconds)

    def _wait(self, event: int, until: float) -> None:
        self._poll.register(self.sock, event)
        seconds = until - time.monotonic()
        # Past the limit it counts for nothing that there is something: a server could go on for ever.
        if seconds < 0 or not self._poll.poll(seconds * 1000):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    @property
    def is_quiet(self) -> bool:
        """Whether the server has said nothing since its last answer: one that did has closed, or sent too much."""
        self._poll.register(self.sock, select.POLLIN)
        return not self._poll.poll(0)

    def shut_down(self) -> None:
        """End the connection from any thread: whoever waits for it wakes up."""
        self.sock.shutdown(socket.SHUT_RDWR)

    def remember(self) -> None:
        """Keep what makes the next connection to this peer cheaper; of use once an answer has begun."""

    def distrust(self) -> None:
        """Make the next connection to this peer without what was kept of an earlier one, if this one used it."""

    def close(self) -> None:
        self.sock.close()

    # --- how it comes about ---------------------------------------------------------------------------------------

    @classmethod
    def reach(cls, origin: Origin, seconds: float, stop: Stop) -> Self:
        """As `socket.create_connection`, whose socket nobody could shut down before it is connected.

        Raises
        ------
        OSError
            The last address's; TimeoutError is one.
        """
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)[:_MOST_ADDRESSES]
        trouble = OSError("the name has no address")
        try:
            for family, kind, protocol, _, address in found:
                if stop.is_set():
                    raise ConnectionAbortedError("told to stop")
                channel = cls(socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol))
                stop.attach(channel.shut_down)
                try:
                    channel._connect(address, time.monotonic() + seconds)
                    if stop.is_set():  # what was shut down before it began to connect looks connected, and is not
                        raise ConnectionAbortedError("told to stop")
                except OSError as error:
                    stop.attach(None)
                    channel.close()
                    trouble = error
                else:
                    return channel
            raise trouble
        finally:
            del trouble  # its traceback holds this frame, which would hold it: only the garbage collector ends that

    def _connect(self, address: object, until: float) -> None:
        code = self.sock.connect_ex(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
        if code == errno.EINPROGRESS:
            self._wait(select.POLLOUT, until)
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
