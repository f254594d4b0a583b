from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dcalqr.attempt import StopFlag
from dcalqr.dcache import connections as module
from dcalqr.dcache.channel import NOTHING_YET, Channel
from dcalqr.dcache.connections import HEADER_BYTES, Connections, Limits, Response, Unconnected
from dcalqr.dcache.http1 import BadHead, Origin, parse_head
from dcalqr.dcache.secure import TlsClient, TlsFailed
from dcalqr.testing.pki import Pki
from tests.support.attempts import SOON_SECONDS, RawServer, connections_to, server_context, trust_of
from tests.support.process import wait_until
from tests.support.tlsserver import TlsServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
SOON = Limits(SOON_SECONDS, SOON_SECONDS, SOON_SECONDS)


@pytest.fixture
def kept(pki: Pki) -> Iterator[Connections]:
    made = Connections(TlsClient(trust_of(pki), with_proxy=False), keep=True)
    yield made
    made.close()


@pytest.fixture
def unkept(pki: Pki) -> Connections:
    return Connections(TlsClient(trust_of(pki), with_proxy=False), keep=False)


def get(
    connections: Connections,
    port: int,
    target: str = "/",
    *,
    scheme: str = "http",
    stop: StopFlag | None = None,
    limits: Limits = SOON,
) -> Response:
    host = "localhost" if scheme == "https" else "127.0.0.1"
    return connections.get(Origin(scheme, host, port), target, limits, stop or StopFlag(), lambda: None)


def body(response: Response, most: int = 1 << 20) -> bytes:
    block = memoryview(bytearray(most))
    try:
        return bytes(block[: response.fill(block, lambda _: None)])
    finally:
        response.close()


# --- requests and kept connections -----------------------------------------------------------------------------


def test_the_target_goes_out_as_it_is_and_the_host_with_its_port(unkept: Connections) -> None:
    with RawServer(OK) as server:
        assert body(get(unkept, server.port, "/a/../b;?%zz")) == b"hello"
    sent = server.requests[0]
    assert sent.startswith(b"GET /a/../b;?%%zz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.port)
    assert b"\r\nWant-Digest: adler32\r\n" in sent
    assert b"\r\nAccept-Encoding: identity\r\n" in sent


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_read_body_leaves_the_connection_for_the_next_request(kept: Connections, pki: Pki, scheme: str) -> None:
    context = server_context(pki.host) if scheme == "https" else None
    with RawServer(OK, context=context, keep=3) as server:
        for _ in range(3):
            assert body(get(kept, server.port, scheme=scheme)) == b"hello"
    assert server.connections == 1


def test_who_does_not_keep_closes_after_each(unkept: Connections) -> None:
    with RawServer(OK, keep=3) as server:
        for _ in range(3):
            assert body(get(unkept, server.port)) == b"hello"
            assert connections_to(server.port) == 0
    assert (server.connections, unkept.idle) == (3, 0)


def test_an_unread_body_closes_the_connection(kept: Connections) -> None:
    with RawServer(OK, keep=3) as server:
        get(kept, server.port).close()
        assert connections_to(server.port) == 0
        block = memoryview(bytearray(4))
        response = get(kept, server.port)
        assert response.fill(block, lambda _: None) == 4
        response.close()
        assert connections_to(server.port) == 0
    assert kept.idle == 0


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"1.1", b"1.0"),
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"200", b"401"),
        OK.replace(b"200", b"500"),
        OK.replace(b"Content", b"Transfer-Encoding: chunked\r\nContent"),
        OK.replace(b"Content", b"Content-Length: 6\r\nContent"),
        OK + b"x",
    ],
)
def test_a_connection_is_not_kept_after_what_is_doubtful(kept: Connections, answer: bytes) -> None:
    with RawServer(answer, keep=9) as server:
        body(get(kept, server.port), 5)
        assert (kept.idle, connections_to(server.port)) == (0, 0)


def test_a_connection_is_for_its_origin_only(kept: Connections, pki: Pki) -> None:
    with RawServer(OK, keep=9) as one, RawServer(OK, keep=9) as other:
        for server in (one, other, one):
            assert body(get(kept, server.port)) == b"hello"
        assert (one.connections, other.connections, kept.idle) == (1, 1, 2)


def test_a_connection_that_the_server_closed_is_not_used_again(kept: Connections) -> None:
    with RawServer(OK) as server:
        for _ in range(3):
            assert body(get(kept, server.port)) == b"hello"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_on_which_the_server_says_more_is_not_used_again(kept: Connections, pki: Pki, scheme: str) -> None:
    context = server_context(pki.host) if scheme == "https" else None
    evil = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with RawServer(evil, context=context, keep=9) as server:
        assert [body(get(kept, server.port, scheme=scheme)) for _ in range(2)] == [b"hello", b"hello"]
        assert kept.idle == 0


def test_what_a_server_says_between_two_requests_is_no_answer(kept: Connections, pki: Pki) -> None:
    context, evil = server_context(pki.host), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    said, go = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(2):
                sock, _ = listening.accept()
                with sock, context.wrap_socket(sock, server_side=True) as secured:
                    secured.recv(65536)
                    secured.sendall(OK)
                    go.wait(SOON_SECONDS)
                    if not said.is_set():
                        secured.sendall(evil)
                        said.set()
                        assert secured.recv(1) == b""

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        assert body(get(kept, port, scheme="https")) == b"hello"
        go.set()
        said.wait(SOON_SECONDS)
        wait_until(lambda: not kept._idle[0][1].is_quiet, SOON_SECONDS, "what was said")
        assert body(get(kept, port, scheme="https")) == b"hello"
        thread.join(SOON_SECONDS)


def test_connections_that_nobody_needs_any_more_are_closed(kept: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(OK, keep=9) as one, RawServer(OK, keep=9) as other:
        body(get(kept, one.port))
        assert connections_to(one.port) == 1
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
        body(get(kept, other.port))
        assert connections_to(one.port) == 0
        kept.close()
        assert connections_to(other.port) == 0


def test_a_server_that_closes_without_an_answer_is_asked_once_on_a_fresh_connection(kept: Connections) -> None:
    with RawServer(None) as server:
        with pytest.raises(ConnectionError):
            get(kept, server.port)
        assert len(server.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_kept_connection_that_dies_with_the_request_costs_one_more_and_no_error(
    kept: Connections, pki: Pki, scheme: str
) -> None:
    context = server_context(pki.host) if scheme == "https" else None
    with RawServer(OK, None, OK, context=context, keep=2) as server:
        assert [body(get(kept, server.port, scheme=scheme)) for _ in range(2)] == [b"hello", b"hello"]
    assert len(server.requests) == 3


def test_whatever_prevents_a_connection_says_so_and_leaves_nothing_open(unkept: Connections, pki: Pki) -> None:
    with pytest.raises(Unconnected) as caught:
        get(unkept, 1)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    with RawServer(OK, context=server_context(pki.host_unknown_ca)) as server:
        with pytest.raises(Unconnected) as caught:
            get(unkept, server.port, scheme="https")
        assert isinstance(caught.value.__cause__, TlsFailed)
        assert connections_to(server.port) == 0
    with pytest.raises(Unconnected) as caught:
        unkept.get(Origin("http", "x" * 70 + ".example", 1), "/", SOON, StopFlag(), lambda: None)
    assert isinstance(caught.value.__cause__, UnicodeError)


# --- sessions --------------------------------------------------------------------------------------------------


def test_an_answer_leaves_what_makes_the_next_handshake_cheap(unkept: Connections, pki: Pki) -> None:
    with TlsServer(server_context(pki.host)) as server:
        for _ in range(3):
            assert body(get(unkept, server.port, scheme="https")) == b"hello"
        assert server.resumed == [False, True, True]


@pytest.mark.parametrize("answer", [OK.replace(b"200", b"401"), b"", b"HTTP/1.1 200 O"])
def test_with_who_forgets_us_when_we_resume_nothing_is_resumed_any_more(
    unkept: Connections, pki: Pki, answer: bytes
) -> None:
    with TlsServer(server_context(pki.host)) as server:
        body(get(unkept, server.port, scheme="https"))
        server.answer = answer
        if answer.endswith(b"hello"):
            assert body(get(unkept, server.port, scheme="https")) == b"hello"
        else:
            with pytest.raises(ConnectionError):
                get(unkept, server.port, scheme="https")
        server.answer = OK
        for _ in range(2):
            assert body(get(unkept, server.port, scheme="https")) == b"hello"
        assert server.resumed == [False, True, False, False]


# --- stops -----------------------------------------------------------------------------------------------------


def test_a_stop_that_was_set_before_connects_to_nobody(kept: Connections) -> None:
    stop = StopFlag()
    stop.set()
    with RawServer(OK) as server:
        with pytest.raises(Unconnected):
            get(kept, server.port, stop=stop)
        assert server.connections == 0


def test_a_stopped_connection_is_not_kept(kept: Connections) -> None:
    stop = StopFlag()
    with RawServer(OK, keep=9) as server:
        response = get(kept, server.port, stop=stop)
        assert response.fill(memoryview(bytearray(5)), lambda _: None) == 5
        stop.set()
        response.close()
        assert (kept.idle, connections_to(server.port)) == (0, 0)


def test_a_stop_after_the_answer_does_not_cut_the_connection_that_is_kept(kept: Connections) -> None:
    late = StopFlag()
    with RawServer(OK, keep=9) as server:
        assert body(get(kept, server.port, stop=late)) == b"hello"
        late.set()
        assert body(get(kept, server.port)) == b"hello"
        assert server.connections == 1


def test_a_stop_on_a_kept_connection_asks_nobody_again(kept: Connections) -> None:
    stop = StopFlag()

    def stopping() -> None:
        stop.set()

    with RawServer(OK, keep=9) as server:
        body(get(kept, server.port))
        with pytest.raises(ConnectionError):
            kept.get(Origin("http", "127.0.0.1", server.port), "/", SOON, stop, stopping)
        assert server.connections == 1
        assert connections_to(server.port) == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-", OK[:-2]], ids=["silent", "head", "body"])
def test_a_stop_wakes_any_wait_and_leaves_nothing_open(
    unkept: Connections, pki: Pki, scheme: str, answer: bytes
) -> None:
    context = server_context(pki.host) if scheme == "https" else None
    stop, ends = StopFlag(), list[object]()
    with RawServer(answer, context=context, keep=2) as server:

        def run() -> None:
            try:
                ends.append(body(get(unkept, server.port, scheme=scheme, stop=stop)))
            except OSError as error:
                ends.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: len(server.requests) == 1, SOON_SECONDS, "the request")
        stop.set()
        thread.join(SOON_SECONDS)
        assert not thread.is_alive()
        assert connections_to(server.port) == 0
    assert len(ends) == 1


# --- headers ---------------------------------------------------------------------------------------------------


def padded(size_bytes: int) -> bytes:
    """A header of exactly this size, its empty line included."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: %s\r\n\r\n"
    return head.replace(b"%s", b"x" * (size_bytes - len(head) + 2))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("size", [60, 16383, 16384, 16385, 32768, HEADER_BYTES - 1, HEADER_BYTES])
def test_a_header_up_to_its_limit_is_read_wherever_its_records_end(
    unkept: Connections, pki: Pki, scheme: str, size: int
) -> None:
    assert len(padded(size)) == size
    context = server_context(pki.host) if scheme == "https" else None
    with RawServer(padded(size) + b"hello", context=context) as server:
        assert body(get(unkept, server.port, scheme=scheme)) == b"hello"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "answer",
    [
        padded(HEADER_BYTES + 1) + b"hello",
        padded(HEADER_BYTES + 4) + b"hello",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000 + OK,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"x" * 200_000,
    ],
    ids=["one byte", "four bytes", "interim", "endless", "no HTTP"],
)
def test_a_header_beyond_its_limit_is_refused(unkept: Connections, pki: Pki, scheme: str, answer: bytes) -> None:
    context = server_context(pki.host) if scheme == "https" else None
    with RawServer(answer, context=context) as server:
        with pytest.raises(BadHead):
            get(unkept, server.port, scheme=scheme)
        assert connections_to(server.port) == 0


def serve_slowly(pieces: list[bytes]) -> tuple[socket.socket, threading.Thread]:
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listening.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock:
            sock.recv(65536)
            try:
                for piece in pieces:
                    sock.sendall(piece)
                    time.sleep(0.001)
                sock.recv(1)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    return listening, thread


def test_a_header_may_come_byte_by_byte(unkept: Connections) -> None:
    whole = b"HTTP/1.1 100 Continue\r\n\r\n" + OK
    listening, thread = serve_slowly([whole[at : at + 1] for at in range(len(whole))])
    with listening:
        assert body(get(unkept, listening.getsockname()[1])) == b"hello"
        thread.join(SOON_SECONDS)


def test_a_header_that_only_trickles_is_cut_by_its_own_limit(
    unkept: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEADER_SECONDS", 0.05)
    listening, thread = serve_slowly([b"HTTP/1.1 200 OK\r\nX: "] + [b"x"] * 20_000)
    with listening:
        with pytest.raises(BadHead, match="does not end"):
            get(unkept, listening.getsockname()[1])
        thread.join(SOON_SECONDS)


def test_a_server_that_does_not_begin_is_a_time_out_and_not_a_bad_header(unkept: Connections, pki: Pki) -> None:
    for context, scheme in ((None, "http"), (server_context(pki.host), "https")):
        with RawServer(b"", context=context, keep=2) as server:
            with pytest.raises(TimeoutError):
                get(unkept, server.port, scheme=scheme, limits=Limits(SOON_SECONDS, 0.1, SOON_SECONDS))
            assert connections_to(server.port) == 0


def test_records_that_bear_no_answer_do_not_put_off_its_limit(unkept: Connections, pki: Pki) -> None:
    context = server_context(pki.host)
    context.num_tickets = 20_000
    with TlsServer(context, answer=b"") as server, pytest.raises(TimeoutError):
        get(unkept, server.port, scheme="https", limits=Limits(SOON_SECONDS, 0.05, SOON_SECONDS))


@pytest.mark.parametrize("status", [101, 102, 103, 199])
def test_an_interim_answer_but_100_is_taken_for_the_answer(unkept: Connections, status: int) -> None:
    with RawServer(b"HTTP/1.1 %d X\r\n\r\n" % status + OK) as server:
        response = get(unkept, server.port)
        assert response.status == status
        response.close()


def test_lengths_of_an_interim_answer_count_for_nothing(unkept: Connections) -> None:
    with RawServer(b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\nDigest: adler32=1\r\n\r\n" + OK) as server:
        response = get(unkept, server.port)
        assert response.head.value("digest") == ""
        assert body(response) == b"hello"


# --- bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_past_the_body_is_read(unkept: Connections, pki: Pki, scheme: str) -> None:
    context = server_context(pki.host) if scheme == "https" else None
    with RawServer(OK + b"more", context=context) as server:
        response = get(unkept, server.port, scheme=scheme)
        block = memoryview(bytearray(100))
        assert [response.fill(block[:3], lambda _: None), response.fill(block[3:], lambda _: None)] == [3, 2]
        assert response.fill(block[5:], lambda _: None) == 0
        response.close()
    assert bytes(block[:6]) == b"hello\0"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_body_that_ends_early_is_filled_as_far_as_it_goes(unkept: Connections, pki: Pki, scheme: str) -> None:
    context = server_context(pki.host) if scheme == "https" else None
    with RawServer(OK[:-2], context=context) as server:
        response = get(unkept, server.port, scheme=scheme)
        block = memoryview(bytearray(100))
        assert response.fill(block, lambda _: None) == 3
        response.close()


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(kept: Connections, status: int) -> None:
    with RawServer(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\nhello" % status) as server:
        response = get(kept, server.port)
        assert (response.status, body(response)) == (status, b"")
    assert kept.idle == 0


def test_silence_in_the_body_is_a_time_out_and_who_waits_is_told(unkept: Connections) -> None:
    told: list[int] = []
    with RawServer(OK[:-2], keep=2) as server:
        response = get(unkept, server.port, limits=Limits(SOON_SECONDS, SOON_SECONDS, 0.05))
        with pytest.raises(TimeoutError):
            response.fill(memoryview(bytearray(5)), told.append)
        response.close()
        assert connections_to(server.port) == 0
    assert told[-1] == 3


class Busy(Channel):
    """Always has something to read, and never a byte of the body in it."""

    def receive(self, view: memoryview) -> int:
        return NOTHING_YET


def test_records_that_bear_no_body_are_silence() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x")
        response = Response(Busy(ours), parse_head(OK.partition(b"\r\n\r\n")[0]), b"", 0.05, lambda _: None)
        with pytest.raises(TimeoutError):
            response.fill(memoryview(bytearray(5)), lambda _: None)


# --- the bodies of redirects -----------------------------------------------------------------------------------


def drained(connections: Connections, answer: bytes) -> tuple[int, int]:
    """Drain an answer; returns the connections left idle and open (counts)."""
    with RawServer(answer, keep=9) as server:
        response = get(connections, server.port, limits=Limits(SOON_SECONDS, SOON_SECONDS, 0.05))
        response.drain()
        response.close()
        return connections.idle, connections_to(server.port)


def test_a_short_body_is_drained_and_the_connection_kept(kept: Connections) -> None:
    assert drained(kept, OK) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        OK[:-2],
        OK.replace(b"5", b"99999999999"),
        OK.replace(b"Content-Length: 5", b"Content-Length: x"),
        OK.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        OK + b"more",
    ],
    ids=["silent", "long", "odd", "chunked", "more"],
)
def test_a_body_that_is_not_short_and_there_costs_the_connection_and_no_error(kept: Connections, answer: bytes) -> None:
    assert drained(kept, answer) == (0, 0)


def test_a_body_is_not_waited_for_where_the_connection_is_closed_anyway(unkept: Connections) -> None:
    class Asked(Channel):
        def receive(self, view: memoryview) -> int:
            raise AssertionError("it was read")

    assert drained(unkept, OK) == (0, 0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        head = parse_head(OK.partition(b"\r\n\r\n")[0])._replace(keeps=False)
        Response(Asked(ours), head, b"", 9.0, lambda _: None).drain()


# --- many ------------------------------------------------------------------------------------------------------


def test_twenty_threads_share_kept_connections_and_none_gets_anothers_answer(kept: Connections, pki: Pki) -> None:
    wrong: list[object] = []

    def numbered(secured: ssl.SSLSocket) -> None:
        while head := secured.recv(65536):
            number = head.split(b" ")[1].strip(b"/")
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(number), number))

    with serving(pki, numbered) as port:

        def run(number: int) -> None:
            for turn in range(15):
                text = f"{number * 1000 + turn}"
                try:
                    if (got := body(get(kept, port, f"/{text}", scheme="https")).decode()) != text:
                        wrong.append((text, got))
                except BaseException as error:  # noqa: BLE001 - the test judges it
                    wrong.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert 1 <= kept.idle <= 20
        assert connections_to(port) == kept.idle
        kept.close()


class serving:  # noqa: N801 - reads as a statement
    """Serve each TLS connection by a function, in a thread of its own; gives the port."""

    def __init__(self, pki: Pki, serve: Callable[[ssl.SSLSocket], None]) -> None:
        self._context = server_context(pki.host)
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._one, args=(sock,)))
            self._threads[-1].start()

    def _one(self, sock: socket.socket) -> None:
        sock.settimeout(SOON_SECONDS)
        with sock, self._context.wrap_socket(sock, server_side=True) as secured:
            self._serve(secured)

    def __enter__(self) -> int:
        self._accepting.start()
        return int(self._listening.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join(SOON_SECONDS)
        self._listening.close()
        for thread in self._threads:
            thread.join(SOON_SECONDS)
