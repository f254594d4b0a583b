"""One GET at a time on one connection; those to the door are kept for the next one, those to pools never.

Up to dCache 7.2 a connection that is kept open after the file holds a mover of the pool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from dcalqr.dcache.channel import NOTHING_YET, Channel
from dcalqr.dcache.http1 import HEAD_END, BadHead, Head, Origin, length_of, lengths_of, parse_head, request
from dcalqr.dcache.secure import TlsClient
from dcalqr.orders import Stop

# What reliability asks of a server's header, status line included.
HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 60.0
# The door's server (Jetty) closes idle connections after 30 s when it is busy.
IDLE_SECONDS = 20.0
# A header and what comes with it in one TLS record.
_FIRST_BYTES = 16 * 1024
# More than a redirect's page of text; a larger one is cheaper to cut off.
_MOST_DRAINED_BYTES = 64 * 1024
_WITHOUT_BODY = (204, 304)
_CONTINUE = 100  # the one interim answer that servers send unasked


class Unconnected(Exception):
    """No connection came about; its cause says why."""


class Limits(NamedTuple):
    """Seconds: for each of TCP connection and TLS handshake; for the answer's first byte; of silence in the body."""

    connect: float
    answer: float
    silence: float


class Response:
    """An answer whose header has come; its connection belongs to it until `close`."""

    def __init__(
        self, channel: Channel, head: Head, rest: bytes, silence_seconds: float, give_back: Callable[[bool], None]
    ) -> None:
        """`head.keeps` says too whether we would keep the connection."""
        self.status = head.status
        self.head = head
        self._channel = channel
        self._rest = memoryview(rest)
        self._silence_seconds = silence_seconds
        self._give_back = give_back
        lengths = {"0"} if head.status in _WITHOUT_BODY else lengths_of(head)
        self._left = length_of(lengths.pop()) if len(lengths) == 1 and "transfer-encoding" not in head.fields else None

    def fill(self, view: memoryview, waiting: Callable[[int], None]) -> int:
        """Read the body until the view is full; returns how much of it is, less only where body or connection end.

        Parameters
        ----------
        waiting
            Is told before each wait for the server how much of the view is filled.

        Raises
        ------
        TimeoutError
            Silence beyond its limit.
        OSError
            The connection broke.
        """
        if self._left is not None:
            view = view[: self._left]
        filled = min(len(self._rest), len(view))
        view[:filled] = self._rest[:filled]
        self._rest = self._rest[filled:]
        receive = self._channel.receive
        heard_at = 0.0
        while filled < len(view):
            count = receive(view[filled:])
            if count > 0:
                filled += count
                heard_at = 0.0
            elif count == NOTHING_YET:
                waiting(filled)
                heard_at = heard_at or time.monotonic()  # records of TLS's own are silence too
                self._channel.wait(heard_at + self._silence_seconds - time.monotonic())
            else:
                break
        if self._left is not None:
            self._left -= filled
        return filled

    def drain(self) -> None:
        """Read a short body to its end, so that the connection can be kept; never raises."""
        if not self._left or self._left > _MOST_DRAINED_BYTES or not self.head.keeps:
            return
        until = time.monotonic() + self._silence_seconds

        def waiting(_: int) -> None:
            if time.monotonic() > until:
                raise TimeoutError

        try:
            self.fill(memoryview(bytearray(self._left)), waiting)
        except OSError:
            return

    def close(self) -> None:
        """Give the connection back if the body was read to its end; else close it."""
        self._give_back(self._left == 0 and not self._rest and self.head.keeps)


class Connections:
    """Connections of one credential generation, to the door or to pools; safe to share between threads.

    Parameters
    ----------
    tls
        Makes them.
    keep
        Whether a connection is kept for the next request.
    """

    def __init__(self, tls: TlsClient, *, keep: bool) -> None:
        self._tls = tls
        self._keep = keep
        self._idle: list[tuple[Origin, Channel, float]] = []  # the one used last at the end
        self._lock = threading.Lock()

    @property
    def idle(self) -> int:
        """Connections that wait for the next request (count)."""
        return len(self._idle)

    def get(self, origin: Origin, target: str, limits: Limits, stop: Stop, connected: Callable[[], None]) -> Response:
        """Ask for a target, and wait for the header of the answer.

        Parameters
        ----------
        stop
            Is told of the connection, and can end it at any moment.
        connected
            Called when the connection stands.

        Raises
        ------
        Unconnected
            No connection came about.
        BadHead
            What was answered is not HTTP.
        OSError
            The connection broke, or a limit has passed (TimeoutError).
        """
        kept = self._take(origin)
        if kept is not None:
            stop.attach(kept.shut_down)
            try:
                return self._exchange(kept, origin, target, limits, stop, connected)
            except ConnectionError:
                # The server closed an idle connection as we sent: not its answer to this request.
                if stop.is_set():
                    raise
        try:
            channel = self._tls.connect(origin, limits.connect, stop)
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be encoded
            raise Unconnected from error
        try:
            response = self._exchange(channel, origin, target, limits, stop, connected)
        except OSError:
            channel.distrust()
            raise
        if response.status == 401:  # it may have forgotten whose certificate it was
            channel.distrust()
        channel.remember()
        return response

    def _take(self, origin: Origin) -> Channel | None:
        while True:
            with self._lock:
                self._close_old()
                found = next((idle for idle in reversed(self._idle) if idle[0] == origin), None)
                if found is None:
                    return None
                self._idle.remove(found)
            if found[1].is_quiet:
                return found[1]
            found[1].close()

    def _close_old(self) -> None:
        """Close those that were used least lately, or they would lie there half closed for ever."""
        oldest = time.monotonic() - IDLE_SECONDS
        while self._idle and self._idle[0][2] <= oldest:
            self._idle.pop(0)[1].close()

    def _exchange(
        self,
        channel: Channel,
        origin: Origin,
        target: str,
        limits: Limits,
        stop: Stop,
        connected: Callable[[], None],
    ) -> Response:
        def give_back(whole: bool) -> None:  # noqa: FBT001 - a callback of one flag
            stop.attach(None)  # a late stop must not hit the order that takes this connection next
            if whole and not stop.is_set():
                with self._lock:
                    self._idle.append((origin, channel, time.monotonic()))
            else:
                channel.close()

        connected()
        try:
            channel.send(request(origin, target), limits.silence)
            head, rest = _receive_head(channel, limits.answer)
            keeps = self._keep and head.keeps and head.status < 400  # after a refusal a fresh one may know us better
            return Response(channel, head._replace(keeps=keeps), rest, limits.silence, give_back)
        except BaseException:
            give_back(False)  # noqa: FBT003
            raise

    def close(self) -> None:
        with self._lock:
            for _, channel, _ in self._idle:
                channel.close()
            self._idle.clear()


def _receive_head(channel: Channel, answer_seconds: float) -> tuple[Head, bytes]:
    """Read headers until one is final; returns it, and what came after it."""
    head, received = b"", 0
    until = time.monotonic() + answer_seconds
    view = memoryview(bytearray(_FIRST_BYTES))
    while True:
        _wait_for_head(channel, until, begun=received > 0)  # first: it never is there yet, and asking in vain costs
        while (count := channel.receive(view)) > 0:
            if not received:
                until = time.monotonic() + HEADER_SECONDS
            received += count
            head += view[:count]
            while (end := head.find(HEAD_END, 0, HEADER_BYTES)) >= 0:
                parsed, head = parse_head(head[:end]), head[end + len(HEAD_END) :]
                if parsed.status != _CONTINUE:
                    return parsed, head
            if received > HEADER_BYTES:
                raise BadHead("the header does not end")
        if count != NOTHING_YET:
            raise ConnectionResetError("closed in the middle of a header" if received else "closed without an answer")


def _wait_for_head(channel: Channel, until: float, *, begun: bool) -> None:
    try:
        channel.wait(max(0.0, until - time.monotonic()))
    except TimeoutError as error:
        if begun:
            raise BadHead("the header does not end") from error
        raise
