"""A dCache of three little servers with a fault switch: a WebDAV door that redirects to pools, over TLS.

What it does when nothing is wrong is what dCache does: the door wants a client certificate (proxies too) and answers a
GET with 302 to a pool and a uuid that is good for one request; the pool asks for no certificate. What can be wrong is
a `Fault`. One thread for each connection; `Door.stop` leaves none.
"""

from __future__ import annotations

import collections
import contextlib
import fnmatch
import functools
import select
import socket
import ssl
import struct
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from xml.sax.saxutils import escape

from dcalqr.testing.samples import Content

if TYPE_CHECKING:
    from dcalqr.testing.pki import Pki

Where: TypeAlias = Literal["door", "pool"]
Headers: TypeAlias = tuple[tuple[str, str], ...]

# Characters that Java's URI leaves alone in a path, and Python's quote does not: a client that quotes the Location
# again, or normalises it, does not get past the pool.
JAVA_SAFE = "/:@!$&'()*+,;=~"
# How often a thread that plays dead looks whether it may live again.
PLAY_DEAD_SECONDS = 0.05
# A body up to this size leaves in one write with its head, as a real server's would.
JOIN_BYTES = 65536
# No request comes near; a client that sends more is broken.
MOST_HEAD_BYTES = 1 << 20
# Stopping waits so long for a thread: far above what any needs, and a test sees the failure.
JOIN_SECONDS = 20
# Waiting connections: above any number that a test opens at once.
BACKLOG = 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
WORDS = {200: "OK", 204: "No Content", 206: "Partial Content", 207: "Multi-Status", 302: "Found", 304: "Not Modified"}
WITHOUT_BODY = (204, 304)


@dataclass(frozen=True)
class StoredFile:
    """One upload: what the door holds, or is about to hold, at a path. `mtime` is in seconds since the epoch."""

    path: str
    content: Content
    pnfsid: str
    mtime: float

    @property
    def size_bytes(self) -> int:
        return self.content.size_bytes

    @property
    def adler32(self) -> int:
        return self.content.adler32

    @property
    def digest(self) -> str:
        """The value of the header Digest."""
        return f"adler32={self.adler32:08x}"

    @property
    def etag(self) -> str:
        """The value of the header ETag, as Milton makes it: the pnfsid, and a hash of the time."""
        milliseconds = int(self.mtime * 1000)
        return f'"{self.pnfsid}_{(milliseconds ^ milliseconds >> 32) & 0xFFFFFFFF}"'


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


@dataclass(frozen=True)
class Fault:
    """One way to misbehave; the fields combine. The first fault that matches a request is played.

    Parameters
    ----------
    where
        At the door, or at the pools.
    path, method
        Exact, or a pattern with `*`, `?`, `[...]`.
    times
        So often, then never again; None: until `Faults.calm`.
    delay_seconds
        Wait before the answer; at the door a client that leaves meanwhile is not noticed, as in dCache.
    status
        Answer with it: 401, 429, 503 ... 200 and 206 bring the file itself, 204 and 304 no body.
    headers
        Further ones (Set-Cookie, Retry-After, ones of absurd size).
    digest
        Text of the Digest header instead of the true one, if one was wanted; empty: none.
    lengths
        Texts of the Content-Length headers instead of the true one: two of them, a negative one, none.
    chunked
        Send the body in chunks, without Content-Length (unless `lengths` gives some).
    cut_after, reset
        End the connection after so many bytes of the body; with RST instead of FIN.
    stall_after
        Send nothing more after so many bytes of the body; goes on at `Faults.calm`.
    bytes_per_second
        Trickle the body.
    redirect
        The Location of a GET at the door: "loop" (itself), "http" (a pool without TLS), "other-host" (127.0.0.1
        instead of localhost), "wrong-name", "revoked", "expired", "unknown-ca" (a pool with such a certificate), or
        any text, sent as it is.
    informational
        So many "100 Continue" before the answer.
    endless_headers
        The headers never end and come at so many bytes per second.
    accept
        Each new connection is: "reset"; answered with "garbage" instead of TLS; left "silent". `path` and `method`
        mean nothing then.
    """

    where: Where
    path: str = "*"
    method: str = "*"
    times: int | None = None
    delay_seconds: float = 0
    status: int | None = None
    headers: Headers = ()
    digest: str | None = None
    lengths: tuple[str, ...] | None = None
    chunked: bool = False
    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    bytes_per_second: int | None = None
    redirect: str | None = None
    informational: int = 0
    endless_headers: int | None = None
    accept: Literal["reset", "garbage", "silent"] | None = None

    def matches(self, where: Where, method: str, path: str) -> bool:
        """Whether this fault is for such a request."""
        here = self.where == where and self.accept is None
        return here and _fits(method, self.method) and _fits(path, self.path)


NO_FAULT = Fault("door")


def _fits(text: str, pattern: str) -> bool:
    return text == pattern or fnmatch.fnmatchcase(text, pattern)


class Faults:
    """The fault switch. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: list[tuple[Fault, list[int | None]]] = []
        self._calm = threading.Event()

    def add(self, *faults: Fault) -> None:
        """Play these from now on, after the ones there are."""
        with self._lock:
            self._left += [(fault, [fault.times]) for fault in faults]

    def calm(self) -> None:
        """Remove all faults; whatever waits or is stalled because of one goes on."""
        with self._lock:
            self._left.clear()
            self._calm.set()
            self._calm = threading.Event()

    def take(self, chosen: Callable[[Fault], bool]) -> tuple[Fault, threading.Event]:
        """Give the fault to play (`NO_FAULT`: none), counted as played, and the event of its being called off."""
        with self._lock:
            for fault, left in self._left:
                if left[0] != 0 and chosen(fault):
                    left[0] = None if left[0] is None else left[0] - 1
                    return fault, self._calm
            return NO_FAULT, self._calm


class _HangUp(Exception):
    """The server ends this connection now."""


class _Connection:
    """One client's connection, from the server's side."""

    def __init__(self, server: _Server, sock: socket.socket) -> None:
        self.server = server
        self._sock = sock
        self._unread = bytearray()
        self._ending = False
        self._subject = ""
        self._serial = 0

    def secure(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake."""
        secured = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self._sock = secured
        if self._ending:
            raise _HangUp
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
        where, port = self.server.where, self.server.port
        request = Request(where, port, method.decode(), path, target, headers, self._subject, self._serial)
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
        _HangUp
            The client left, or the server stops.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not until.is_set() and (left := PLAY_DEAD_SECONDS if end is None else end - time.monotonic()) > 0:
            nap = min(left, PLAY_DEAD_SECONDS)
            if notice and self.gone(nap):
                raise _HangUp
            if not notice:
                until.wait(nap)
            if self._ending:
                raise _HangUp

    def reset_on_close(self) -> None:
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


class _Server:
    """One port: a thread accepts, one more for each connection. Keeps its port while it is stopped."""

    def __init__(
        self, where: Where, context: ssl.SSLContext | None, faults: Faults, serve: Callable[[_Connection], None]
    ) -> None:
        self.where = where
        self.context = context
        self._faults = faults
        self._serve = serve
        # Bound and never listening: refuses connections, and nobody else is given the port meanwhile.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self._listening: socket.socket | None = None
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._connections: set[_Connection] = set()

    def start(self) -> None:
        """Listen; no effect when it does already."""
        with self._lock:
            if self._listening is None:
                self._listening = _bound(self.port)
                self._listening.listen(BACKLOG)
                self._begin(functools.partial(self._accept, self._listening), "accept")

    def stop(self) -> None:
        """Refuse connections and end those there are; every thread has ended when this returns."""
        with self._lock:
            listening, self._listening = self._listening, None
            if listening is not None:
                listening.shutdown(socket.SHUT_RDWR)
            for connection in self._connections:
                connection.shut()
            threads = list(self._threads)
        for thread in threads:
            thread.join(JOIN_SECONDS)
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} does not end")

    def close(self) -> None:
        self.stop()
        self._reserved.close()

    def _begin(self, work: Callable[[], None], name: str) -> None:
        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=f"{self.where}:{self.port} {name}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(self, sock)
                with self._lock:
                    if self._listening is not listening:
                        sock.close()
                        return
                    self._connections.add(connection)
                    self._begin(functools.partial(self._run, connection), "connection")

    def _run(self, connection: _Connection) -> None:
        try:
            self._play_accept(connection)
            if self.context is not None:
                connection.secure(self.context)
            self._serve(connection)
        except (OSError, _HangUp):
            pass  # the client left, refused our certificate, has none, or we hang up: all of it is in the script
        finally:
            with self._lock:
                self._connections.discard(connection)
                connection.close()

    def _play_accept(self, connection: _Connection) -> None:
        fault, calm = self._faults.take(lambda fault: fault.accept is not None and fault.where == self.where)
        if fault.accept == "silent":
            connection.play_dead(calm)
        if fault.accept == "garbage":
            connection.send(b"SSH-2.0-OpenSSH_9.9\r\n")
        if fault.accept == "reset":
            connection.reset_on_close()
        if fault.accept in ("garbage", "reset"):
            raise _HangUp


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # The reservation and the listening socket share the port.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: Headers = ()
    content: Content | None = None


def _refusal(status: int, why: str = "") -> _Reply:
    text = f"{status} {why or WORDS.get(status, 'Refused')}\n".encode()
    return _Reply(status, (("Content-Type", "text/plain"),), Content(text, len(text)))


def _page(status: int, text: str, kind: str) -> _Reply:
    return _Reply(status, (("Content-Type", kind),), Content(text.encode(), len(text.encode())))


@dataclass
class _Mover:
    """A transfer that the door has promised: known to the pool by its uuid, and to nobody twice."""

    file: StoredFile
    with_digest: bool
    used: bool = False


@dataclass
class _Namespace:
    """What is where; every method under the lock of the door."""

    files: dict[str, StoredFile] = field(default_factory=dict)
    pending: dict[str, StoredFile] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"/"})

    def make_folder(self, path: str) -> None:
        while path not in self.folders and path:
            self.folders.add(path)
            path = path.rpartition("/")[0]

    def children(self, path: str) -> list[str]:
        names = {*self.files, *self.folders} - {"/"}
        return sorted(name for name in names if (name.rpartition("/")[0] or "/") == path)


class Door:
    """A WebDAV door and its pools on ports of localhost that the kernel chooses. A context manager: starts, closes.

    Safe to use from any thread.

    Parameters
    ----------
    pki
        Certificates of both; the door trusts `pki.ca` and heeds `pki.crl`.
    pools
        How many; the door takes them in turn.
    http_pools
        The pools speak plain HTTP, and the door names them by address: dCache up to 8.0.

    Attributes
    ----------
    faults : Faults
        The fault switch.
    gets : collections.Counter[str]
        How many GETs each path had at the door.
    """

    def __init__(self, pki: Pki, pools: int = 2, *, http_pools: bool = False) -> None:
        self.faults = Faults()
        self.gets: collections.Counter[str] = collections.Counter()
        self._pki = pki
        self._lock = threading.Lock()
        self._names = _Namespace()
        self._movers: dict[str, _Mover] = {}
        self._requests: list[Request] = []
        self._running: set[_Connection] = set()
        self._running_max = 0
        self._least_serial = 0
        self._turn = 0
        self._door = _Server("door", self._door_context(pki.host), self.faults, self._serve)
        context = None if http_pools else _context(pki.host)
        self._pools = [_Server("pool", context, self.faults, self._serve) for _ in range(pools)]
        self._odd_pools: dict[str, _Server] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- running it -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The door's base, without a slash at its end; the same after `stop` and `start`."""
        return f"https://localhost:{self._door.port}"

    @property
    def pool_ports(self) -> tuple[int, ...]:
        return tuple(pool.port for pool in self._pools)

    def start(self, where: Where | None = None) -> None:
        """Serve; on the same ports as before. None: the door and the pools."""
        for server in self._servers(where):
            server.start()

    def stop(self, where: Where | None = None) -> None:
        """Refuse connections and cut those there are; no thread is left. None: the door and the pools."""
        for server in self._servers(where):
            server.stop()
        if where != "door":
            with self._lock:
                self._movers.clear()

    def close(self) -> None:
        """Stop for ever; the ports are free."""
        self._door.close()  # first: it may be starting a pool
        for pool in self._servers("pool"):
            pool.close()

    def calm(self) -> None:
        """Remove all faults; whatever is stalled goes on."""
        self.faults.calm()

    def use_certificate(self, pem: Path, where: Where = "door") -> None:
        """Show this host certificate (certificate and key in one file) to whoever connects from now on."""
        context = self._door_context(pem) if where == "door" else _context(pem)
        # Not the pools that a fault's redirect leads to: their certificates are the fault.
        for server in [self._door] if where == "door" else self._pools:
            server.context = context

    def accept_only_after(self, time_ns: int) -> None:
        """Answer 401 to proxies of `Pki` made before that time (nanoseconds since the epoch); 0: accept all again."""
        self._least_serial = time_ns

    def _servers(self, where: Where | None) -> list[_Server]:
        with self._lock:
            pools = [*self._pools, *self._odd_pools.values()]
        return ([self._door] if where != "pool" else []) + (pools if where != "door" else [])

    # --- what it holds ----------------------------------------------------------------------------------------

    def put(
        self,
        path: str,
        data: bytes | Content,
        *,
        pnfsid: str | None = None,
        visible: bool = True,
        staged: bool = False,
    ) -> StoredFile:
        """Upload a file; one that is there already is overwritten, which makes a new pnfsid.

        Parameters
        ----------
        path
            Decoded, from the door's root, beginning with a slash. Folders come by themselves.
        data
            Its bytes, or `samples.content` of any size.
        pnfsid
            None: a new one.
        visible
            False: the path answers 404, whatever was there before, until `commit`.
        staged
            An upload by SRM: the path answers as before (404, or the old file) until `commit`.
        """
        stored = Content(data, len(data)) if isinstance(data, bytes) else data
        file = StoredFile(path, stored, pnfsid or f"0000{uuid.uuid4().hex.upper()}", time.time())
        with self._lock:
            self._names.make_folder(path.rpartition("/")[0])
            if staged or not visible:
                self._names.pending[path] = file
                if not staged:
                    self._names.files.pop(path, None)
            else:
                self._names.files[path] = file
        return file

    def commit(self, path: str) -> None:
        """Make a staged or invisible upload visible.

        Raises
        ------
        KeyError
            There is none.
        """
        with self._lock:
            self._names.files[path] = self._names.pending.pop(path)

    def remove(self, path: str) -> None:
        """Delete a file; what is staged for its path stays.

        Raises
        ------
        KeyError
            There is none, or none that is visible.
        """
        with self._lock:
            del self._names.files[path]

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it."""
        with self._lock:
            self._names.make_folder(path)

    def holds(self, path: str) -> bool:
        """Whether a visible file is there."""
        with self._lock:
            return path in self._names.files

    # --- what it saw ------------------------------------------------------------------------------------------

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests until now, in order of arrival, of the door and of the pools."""
        with self._lock:
            return tuple(self._requests)

    @property
    def running_max(self) -> int:
        """The most GETs that were outstanding at one time, at the door and the pools together.

        One whose client has closed the connection counts no more, even if its thread has not noticed yet.
        """
        with self._lock:
            return self._running_max

    @property
    def running(self) -> int:
        """GETs outstanding now."""
        with self._lock:
            return sum(not connection.gone() for connection in self._running)

    @property
    def movers(self) -> int:
        """Transfers that the door has promised and that no pool has ended: running ones, and orphans."""
        with self._lock:
            return len(self._movers)

    # --- serving ----------------------------------------------------------------------------------------------

    def _serve(self, connection: _Connection) -> None:
        while (request := connection.read_request()) is not None:
            with self._outstanding(connection, request):
                self._answer(connection, request)
            if request.header("connection").lower() == "close":
                return

    @contextlib.contextmanager
    def _outstanding(self, connection: _Connection, request: Request) -> Iterator[None]:
        with self._lock:
            self._requests.append(request)
            if request.method == "GET":
                self._running.add(connection)
                others = sum(not other.gone() for other in self._running if other is not connection)
                self._running_max = max(self._running_max, others + 1)
                self.gets[request.path] += request.where == "door"
        try:
            yield
        finally:
            self._ended(connection)

    def _ended(self, connection: _Connection) -> None:
        with self._lock:
            self._running.discard(connection)

    def _answer(self, connection: _Connection, request: Request) -> None:
        fault, calm = self.faults.take(lambda fault: fault.matches(request.where, request.method, request.path))
        at_door = request.where == "door"
        if fault.delay_seconds:
            connection.play_dead(calm, fault.delay_seconds, notice=not at_door)
        if at_door:
            reply = self._door_reply(request, fault)
            if reply.status not in (200, 206):
                self._ended(connection)  # before the client knows: its next GET must not be counted beside this one
            _send(connection, request, reply, fault, calm)
            return
        with self._claimed(request) as mover:
            _send(connection, request, _pool_reply(request, fault, mover), fault, calm)

    @contextlib.contextmanager
    def _claimed(self, request: Request) -> Iterator[_Mover | None]:
        """Give the mover of this request to it alone; it ends with the request."""
        query = urllib.parse.parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
        ticket = query.get("dcache-http-uuid", [""])[0]
        with self._lock:
            mover = self._movers.get(ticket)
            if mover is not None and mover.used:
                mover = None
            if mover is not None:
                mover.used = True
        try:
            yield mover
        finally:
            if mover is not None:
                with self._lock:
                    self._movers.pop(ticket, None)

    def _door_reply(self, request: Request, fault: Fault) -> _Reply:
        if request.serial < self._least_serial:
            return _refusal(401)
        with self._lock:
            file = self._names.files.get(request.path)
            folder = request.path.rstrip("/") or "/"
            is_folder = folder in self._names.folders
        if fault.status is not None and fault.status not in (200, 206):
            return _refusal(fault.status)
        if request.method == "PROPFIND" and (file or is_folder):
            return self._listing(folder, file, request.header("depth"))
        if request.method in ("GET", "HEAD") and is_folder:
            return _page(200, "<html><body>a folder</body></html>\n", "text/html")
        if file is None:
            return _refusal(404)
        if request.method == "HEAD" or fault.status is not None:
            return _whole(request, file, fault, wanted=request.wants_digest)
        if request.method == "GET":
            return self._redirect(request, file, fault)
        return self._delete(request.path) if request.method == "DELETE" else _refusal(405)

    def _delete(self, path: str) -> _Reply:
        with self._lock:
            return _Reply(204) if self._names.files.pop(path, None) else _refusal(404)

    def _listing(self, path: str, file: StoredFile | None, depth: str) -> _Reply:
        with self._lock:
            paths = [path, *(self._names.children(path) if file is None and depth == "1" else [])]
            entries = [_entry(name, self._names.files.get(name)) for name in paths]
        body = "".join(entries)
        text = f'<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">{body}</D:multistatus>\n'
        return _page(207, text, "application/xml; charset=utf-8")

    def _redirect(self, request: Request, file: StoredFile, fault: Fault) -> _Reply:
        known = ("http", "other-host", "wrong-name", "revoked", "expired", "unknown-ca")
        if fault.redirect == "loop":
            return _Reply(302, (("Location", self.url + request.target.decode("latin-1")),))
        if fault.redirect is not None and fault.redirect not in known:
            return _Reply(302, (("Location", fault.redirect),))
        ticket = str(uuid.uuid4())
        with self._lock:
            self._movers[ticket] = _Mover(file, request.wants_digest)
        base = self._pool_base(fault.redirect)
        path = urllib.parse.quote(request.path.encode("utf-8", "surrogateescape"), safe=JAVA_SAFE)
        back = urllib.parse.quote(self.url, safe="")
        return _Reply(302, (("Location", f"{base}{path}?dcache-http-uuid={ticket}&dcache-http-ref={back}"),))

    def _pool_base(self, oddity: str | None) -> str:
        """Give the URL of the pool whose turn it is, or of one with an oddity, which is started when first needed."""
        with self._lock:
            if oddity in (None, "other-host"):
                self._turn += 1
                server = self._pools[self._turn % len(self._pools)]
            else:
                assert oddity is not None
                server = self._odd_pools.get(oddity) or self._start_odd_pool(oddity)
        host = "localhost" if server.context and oddity != "other-host" else "127.0.0.1"
        return f"http{'s' if server.context else ''}://{host}:{server.port}"

    def _start_odd_pool(self, oddity: str) -> _Server:
        pki = self._pki
        pems = {
            "wrong-name": pki.host_wrong_name,
            "revoked": pki.host_revoked,
            "expired": pki.host_expired,
            "unknown-ca": pki.host_unknown_ca,
        }
        context = None if oddity == "http" else _context(pems[oddity])
        server = self._odd_pools[oddity] = _Server("pool", context, self.faults, self._serve)
        server.start()
        return server

    def _door_context(self, pem: Path) -> ssl.SSLContext:
        context = _context(pem)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self._pki.ca)
        context.load_verify_locations(self._pki.crl)
        context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS | ssl.VERIFY_CRL_CHECK_CHAIN
        return context


def _context(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pem)
    return context


def _pool_reply(request: Request, fault: Fault, mover: _Mover | None) -> _Reply:
    if mover is None:
        return _refusal(400, "Request is no longer valid")
    if mover.file.path != request.path:
        return _refusal(400, "The request is for another file")
    if fault.status is not None and fault.status not in (200, 206):
        return _refusal(fault.status)
    return _whole(request, mover.file, fault, wanted=mover.with_digest and request.wants_digest)


def _whole(request: Request, file: StoredFile, fault: Fault, *, wanted: bool) -> _Reply:
    """Answer with the file itself; pools give neither ETag nor Last-Modified."""
    headers: list[tuple[str, str]] = [("Accept-Ranges", "bytes")]
    if request.where == "door":
        headers += [("ETag", file.etag), ("Last-Modified", formatdate(file.mtime, usegmt=True))]
    digest = file.digest if fault.digest is None else fault.digest
    if wanted and digest:
        headers.append(("Digest", digest))
    if fault.status == 206:
        headers.append(("Content-Range", f"bytes 0-{file.size_bytes - 1}/{file.size_bytes}"))
    return _Reply(fault.status or 200, tuple(headers), file.content)


def _entry(path: str, file: StoredFile | None) -> str:
    href = escape(urllib.parse.quote(path.encode("utf-8", "surrogateescape"), safe=JAVA_SAFE))
    if file is None:
        properties = "<D:resourcetype><D:collection/></D:resourcetype>"
    else:
        when = formatdate(file.mtime, usegmt=True)
        properties = (
            f"<D:resourcetype/><D:getcontentlength>{file.size_bytes}</D:getcontentlength>"
            f"<D:getlastmodified>{when}</D:getlastmodified><D:getetag>{escape(file.etag)}</D:getetag>"
        )
    status = "<D:status>HTTP/1.1 200 OK</D:status>"
    found = f"<D:propstat><D:prop>{properties}</D:prop>{status}</D:propstat>"
    return f"<D:response><D:href>{href}{'' if file or path == '/' else '/'}</D:href>{found}</D:response>"


def _send(connection: _Connection, request: Request, reply: _Reply, fault: Fault, calm: threading.Event) -> None:
    """Send an answer, with what the fault makes of it."""
    if fault.informational:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * fault.informational)
    head = _head(request, reply, fault)
    if fault.endless_headers:
        connection.send(head[:-2])
        _trickle(connection, _forever(b"X-Filler: 0123456789abcdef\r\n" * 1000), fault.endless_headers, calm)
        raise _HangUp
    content = None if request.method == "HEAD" or reply.status in WITHOUT_BODY else reply.content
    plain = fault.cut_after is None and fault.stall_after is None and not fault.bytes_per_second and not fault.chunked
    if content is None:
        connection.send(head)
    elif plain and content.size_bytes <= JOIN_BYTES:
        connection.send(head + bytes(content))
    else:
        connection.send(head)
        _send_body(connection, content, fault, calm)


def _head(request: Request, reply: _Reply, fault: Fault) -> bytes:
    size_bytes = reply.content.size_bytes if reply.content else 0
    true_lengths = () if fault.chunked or reply.status in WITHOUT_BODY else (str(size_bytes),)
    headers = [("Server", "dCache/12.1.0"), *reply.headers]
    headers += [("Content-Length", text) for text in (true_lengths if fault.lengths is None else fault.lengths)]
    headers += [("Transfer-Encoding", "chunked")] if fault.chunked else []
    headers += [("Connection", "close")] if request.header("connection").lower() == "close" else []
    lines = [f"HTTP/1.1 {reply.status} {WORDS.get(reply.status, 'Refused')}"]
    lines += [f"{name}: {value}" for name, value in (*headers, *fault.headers)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def _send_body(connection: _Connection, content: Content, fault: Fault, calm: threading.Event) -> None:
    send = _chunk if fault.chunked else _Connection.send
    stops = [stop for stop in (fault.cut_after, fault.stall_after) if stop is not None]
    first = min(stops, default=content.size_bytes)
    if fault.bytes_per_second:
        _trickle(connection, content.pieces(0, first), fault.bytes_per_second, calm)
    else:
        for piece in content.pieces(0, first):
            send(connection, piece)
    if fault.stall_after is not None:
        connection.play_dead(calm)
    if fault.cut_after is not None:
        if fault.reset:
            connection.reset_on_close()
        raise _HangUp
    for piece in content.pieces(first):
        send(connection, piece)
    if fault.chunked:
        connection.send(b"0\r\n\r\n")


def _chunk(connection: _Connection, piece: bytes | memoryview) -> None:
    connection.send(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))


def _trickle(
    connection: _Connection, pieces: Iterator[memoryview], bytes_per_second: int, calm: threading.Event
) -> None:
    """Send slowly: as much as is due at each look at the clock; called off, the rest goes at once."""
    step = max(1, int(bytes_per_second * PLAY_DEAD_SECONDS))
    for piece in pieces:
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            connection.send(part)
            connection.play_dead(calm, len(part) / bytes_per_second)


def _forever(lines: bytes) -> Iterator[memoryview]:
    while True:
        yield memoryview(lines)
