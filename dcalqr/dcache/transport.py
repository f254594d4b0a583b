"""The engine under httpx: the standard library's `http.client`, read by `readinto` in large blocks.

httpx's stock transport costs 4 to 10 times the CPU of a plain socket for large bodies, and its pool loses slots when
requests are cancelled (httpcore#1093). This one has no pool to lose: a connection belongs to one request at a time, and
only those to the door are kept for the next.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import httpx

from dcalqr.orders import Stop

# What reliability asks of a server's header, status line included.
HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 60.0
# The door's server (Jetty) closes idle connections after 30 s when it is busy.
IDLE_SECONDS = 20.0
_READ_BUFFER_BYTES = 64 * 1024


class HeaderTooLong(http.client.HTTPException):
    """The header goes on beyond 64 KiB, or for more than 60 s."""


class _LimitedSocket(io.RawIOBase):
    """A socket's raw stream that bounds the header in bytes and, from its first byte, in seconds."""

    def __init__(self, sock: socket.socket, answer_seconds: float, body_seconds: float) -> None:
        self._sock = sock
        self._raw = cast(io.RawIOBase, sock.makefile("rb", buffering=0))
        self._in_header = True
        self._header_bytes = 0
        self._deadline = 0.0
        self._body_seconds = body_seconds
        sock.settimeout(answer_seconds)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        if not self._in_header:
            return self._raw.readinto(buffer)
        if self._deadline:
            left = self._deadline - time.monotonic()
            if left <= 0 or self._header_bytes > HEADER_BYTES:
                raise HeaderTooLong("the header does not end")
            self._sock.settimeout(left)
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError as error:
            if self._deadline:
                raise HeaderTooLong("the header does not end") from error
            raise
        self._header_bytes += count or 0
        self._deadline = self._deadline or time.monotonic() + HEADER_SECONDS
        return count

    def body(self) -> None:
        """The header has ended; from now on a read may take as long as the body's limit says."""
        self._in_header = False
        self._sock.settimeout(self._body_seconds)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Connection(http.client.HTTPConnection):
    """One connection, TCP or TLS, whose socket can be shut down by another thread at any moment."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port)
        self._tls = context
        self.used_at = 0.0

    def open(self, seconds: float, stop: Stop | None) -> None:
        """Connect and shake hands, each within `seconds`; a stop ends either at once."""
        self._reach(seconds, stop)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            # Wrapping takes the descriptor away from the socket attached so far, and loses one that is shut down
            # meanwhile: so it is out of the stop's reach for that moment, and within it for the handshake.
            if stop is not None:
                stop.attach(None)
                _end_if(stop)
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.attach(stop)
            self.sock.do_handshake()

    def _reach(self, seconds: float, stop: Stop | None) -> None:
        """As `socket.create_connection`, whose socket nobody could shut down before it is connected."""
        trouble: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            if stop is not None:
                _end_if(stop)
            self.sock = socket.socket(family, kind, protocol)
            self.attach(stop)
            try:
                self.sock.settimeout(seconds)
                self.sock.connect(address)
            except OSError as error:
                self.sock.close()
                trouble = error
            else:
                return
        raise trouble or OSError("the name has no address")

    def is_quiet(self) -> bool:
        """Whether the server has said nothing since its last answer: one that did has closed, or sent too much."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def attach(self, stop: Stop | None) -> None:
        """Tell the stop flag which socket it must shut down."""
        if stop is None:
            return
        sock = self.sock

        def shut_down() -> None:
            # The plain socket's shutdown: SSLSocket's own would take the TLS object away under the reading thread.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

        stop.attach(shut_down)


def _end_if(stop: Stop) -> None:
    if stop.is_set():
        raise ConnectionAbortedError("told to stop")


class _Body(httpx.SyncByteStream):
    """The body's owner: gives the connection back when the body was read to its end, closes it otherwise."""

    def __init__(self, response: http.client.HTTPResponse, give_back: Callable[[bool], None]) -> None:
        self._response = response
        self._give_back = give_back
        self._left = response.length

    def readinto(self, view: memoryview) -> int:
        """Fill a buffer with what one read of the socket gives; 0 at the end of body or connection."""
        if self._left is not None:
            view = view[: self._left]
        count: int = self._response.fp.readinto1(view) if len(view) else 0
        if self._left is not None:
            self._left -= count
        return count

    def __iter__(self) -> Iterator[bytes]:
        while block := self._response.read1(_READ_BUFFER_BYTES):
            self._left = self._response.length
            yield block
        self._left = self._response.length or 0

    def close(self) -> None:
        whole = self._left == 0 and not self._response.will_close
        self._response.close()
        self._give_back(whole)


class HttpClientTransport(httpx.BaseTransport):
    """A transport for blocking `httpx.Client`s, safe to share between threads.

    A request may carry the extensions `target` (the raw request target, sent untouched), `timeout` (httpx's own:
    connect, read = the answer's first byte, pool = silence in the body; seconds), `stop` (whom to tell the socket) and
    `connected` (called when the connection stands). A response carries `readinto`: fills a buffer with what one read of
    the socket gives, returns the count, 0 at the end of the connection.

    Whatever prevents a connection is raised as `httpx.ConnectError`, with its cause; all else as it comes from the
    standard library.

    Parameters
    ----------
    context
        For https; plain http needs none.
    keep_alive
        Whether connections are kept for the next request. Never for pools: a parked connection holds a mover there.
    """

    def __init__(self, context: ssl.SSLContext, *, keep_alive: bool) -> None:
        self._context = context
        self._keep_alive = keep_alive
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        stop: Stop | None = request.extensions.get("stop")
        connection = self._take(request)
        if connection is not None:
            connection.attach(stop)
            try:
                return self._exchange(connection, request)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                # The server closed an idle connection as we sent: not its answer to this request.
                if stop is not None and stop.is_set():
                    raise
        connection = self._open(request, stop)
        return self._exchange(connection, request)

    def _open(self, request: httpx.Request, stop: Stop | None) -> _Connection:
        url = request.url
        secure = url.scheme == "https"
        connection = _Connection(url.host, url.port or (443 if secure else 80), self._context if secure else None)
        try:
            connection.open(request.extensions["timeout"]["connect"], stop)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            connection.close()
            raise httpx.ConnectError(str(error), request=request) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _take(self, request: httpx.Request) -> _Connection | None:
        origin = (request.url.host, request.url.port or 443)
        with self._lock:
            self._close_stale()
            for connection in reversed(self._idle):
                if (connection.host, connection.port) == origin:
                    self._idle.remove(connection)
                    return connection
        return None

    def _close_stale(self) -> None:
        """Close what is not worth keeping, all of it: those used least would else lie there half closed for ever."""
        now = time.monotonic()
        stale = [idle for idle in self._idle if now - idle.used_at >= IDLE_SECONDS or not idle.is_quiet()]
        for connection in stale:
            self._idle.remove(connection)
            connection.close()

    def _exchange(self, connection: _Connection, request: httpx.Request) -> httpx.Response:
        if connected := request.extensions.get("connected"):
            connected()
        limits = request.extensions["timeout"]
        wire: list[_LimitedSocket] = []

        def make_response(sock: socket.socket, **_: object) -> http.client.HTTPResponse:
            response = http.client.HTTPResponse(sock, method=request.method)
            response.fp.close()
            wire.append(_LimitedSocket(sock, limits["read"], limits["pool"]))
            response.fp = io.BufferedReader(wire[0], _READ_BUFFER_BYTES)
            return response

        connection.response_class = make_response  # type: ignore[assignment]
        try:
            target = request.extensions.get("target") or request.url.raw_path
            connection.putrequest(request.method, target.decode("ascii"), skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.raw:
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        wire[0].body()
        return self._wrap(connection, response, request.extensions.get("stop"))

    def _wrap(self, connection: _Connection, response: http.client.HTTPResponse, stop: Stop | None) -> httpx.Response:
        def give_back(whole: bool) -> None:  # noqa: FBT001 - a callback of one flag
            if stop is not None:
                stop.attach(None)  # a late stop must not hit the order that takes this connection next
            stopped = stop is not None and stop.is_set()
            if whole and self._keep_alive and not stopped:
                connection.used_at = time.monotonic()
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()

        body = _Body(response, give_back)
        return httpx.Response(
            response.status,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()],
            stream=body,
            extensions={"readinto": body.readinto},
        )

    def close(self) -> None:
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()
