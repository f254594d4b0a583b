from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
import pytest

from dcalqr.attempt import StopFlag
from dcalqr.dcache import transport
from dcalqr.dcache.transport import HeaderTooLong, HttpClientTransport
from dcalqr.testing.pki import Pki
from tests.support.attempts import SOON_SECONDS, RawServer, connections_to, server_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def context(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(capath=pki.certificates)
    return context


@pytest.fixture
def client(context: ssl.SSLContext) -> Iterator[httpx.Client]:
    with httpx.Client(
        transport=HttpClientTransport(context, keep_alive=True), trust_env=False, timeout=SOON_SECONDS
    ) as client:
        yield client


def idle(client: httpx.Client) -> int:
    return len(client._transport._idle)  # type: ignore[attr-defined]


def test_it_is_a_transport_for_any_request(client: httpx.Client) -> None:
    with RawServer(OK) as server:
        answer = client.post(f"http://127.0.0.1:{server.port}/a?b=c", content=b"")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert server.requests[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")


def test_the_raw_target_goes_out_as_it_is(client: httpx.Client) -> None:
    with RawServer(OK) as server:
        client.get(f"http://127.0.0.1:{server.port}/", extensions={"target": b"/a/../b;?%zz"})
    assert server.requests[0].startswith(b"GET /a/../b;?%zz HTTP/1.1\r\n")


def test_a_read_body_leaves_the_connection_for_the_next_request(client: httpx.Client, pki: Pki) -> None:
    with RawServer(OK, context=server_context(pki.host), keep=3) as server:
        for _ in range(3):
            assert client.get(f"https://localhost:{server.port}/").text == "hello"
    assert server.connections == 1


def test_an_unread_body_closes_the_connection(client: httpx.Client) -> None:
    with RawServer(OK, keep=3) as server:
        with client.stream("GET", f"http://127.0.0.1:{server.port}/"):
            pass
        assert connections_to(server.port) == 0
    assert idle(client) == 0


def test_a_connection_that_the_server_closed_is_not_used_again(client: httpx.Client) -> None:
    with RawServer(OK) as server:
        for _ in range(3):
            assert client.get(f"http://127.0.0.1:{server.port}/").text == "hello"


def test_a_connection_on_which_the_server_says_more_is_not_used_again(client: httpx.Client) -> None:
    with RawServer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", keep=9) as server:
        texts = [client.get(f"http://127.0.0.1:{server.port}/").text for _ in range(2)]
    assert texts == ["hello", "hello"]


def test_connections_that_nobody_needs_any_more_are_closed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(OK, keep=9) as one, RawServer(OK, keep=9) as other:
        client.get(f"http://127.0.0.1:{one.port}/")
        assert connections_to(one.port) == 1
        monkeypatch.setattr(transport, "IDLE_SECONDS", 0.0)
        client.get(f"http://127.0.0.1:{other.port}/")
        assert connections_to(one.port) == 0
        client.close()
        assert connections_to(other.port) == 0


def test_a_server_that_closes_without_an_answer_is_asked_once_on_a_fresh_connection(client: httpx.Client) -> None:
    with RawServer(None) as server:
        with pytest.raises(ConnectionError):
            client.get(f"http://127.0.0.1:{server.port}/")
        assert len(server.requests) == 1


def test_a_kept_connection_that_dies_with_the_request_costs_one_more_and_no_error(client: httpx.Client) -> None:
    with RawServer(OK, None, OK, keep=2) as server:
        assert client.get(f"http://127.0.0.1:{server.port}/").text == "hello"
        assert client.get(f"http://127.0.0.1:{server.port}/").text == "hello"
    assert len(server.requests) == 3


def test_whatever_prevents_a_connection_is_a_connect_error(client: httpx.Client, pki: Pki) -> None:
    with pytest.raises(httpx.ConnectError) as caught:
        client.get("http://127.0.0.1:1/")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    with (
        RawServer(OK, context=server_context(pki.host_unknown_ca)) as server,
        pytest.raises(httpx.ConnectError) as caught,
    ):
        client.get(f"https://localhost:{server.port}/")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert connections_to(server.port) == 0


def test_a_stop_that_was_set_before_connects_to_nobody(client: httpx.Client) -> None:
    stop = StopFlag()
    stop.set()
    with RawServer(OK) as server:
        with pytest.raises(httpx.ConnectError):
            client.get(f"http://127.0.0.1:{server.port}/", extensions={"stop": stop})
        assert server.connections == 0


def test_a_stopped_connection_is_not_kept(client: httpx.Client) -> None:
    stop = StopFlag()
    with RawServer(OK, keep=9) as server:
        with client.stream("GET", f"http://127.0.0.1:{server.port}/", extensions={"stop": stop}) as answer:
            answer.read()
            assert idle(client) == 1
        with client.stream("GET", f"http://127.0.0.1:{server.port}/", extensions={"stop": stop}) as answer:
            body = bytearray(5)
            assert answer.extensions["readinto"](memoryview(body)) == 5
            stop.set()
        assert idle(client) == 0
        assert connections_to(server.port) == 0


def test_readinto_never_reads_past_the_body(client: httpx.Client) -> None:
    with RawServer(OK + b"more") as server, client.stream("GET", f"http://127.0.0.1:{server.port}/") as answer:
        block = memoryview(bytearray(100))
        assert [answer.extensions["readinto"](block) for _ in range(2)] == [5, 0]
    assert bytes(block[:6]) == b"hello\0"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(client: httpx.Client, status: int) -> None:
    with RawServer(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\nhello" % status) as server:
        answer = client.get(f"http://127.0.0.1:{server.port}/")
    assert (answer.status_code, answer.content) == (status, b"")


def test_a_header_without_end_is_cut_at_its_limit(client: httpx.Client) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000
    with RawServer(interim + OK) as server, pytest.raises(HeaderTooLong):
        client.get(f"http://127.0.0.1:{server.port}/")


def test_a_stop_after_the_answer_does_not_cut_the_connection_that_is_kept(client: httpx.Client) -> None:
    late = StopFlag()
    with RawServer(OK, keep=9) as server:
        assert client.get(f"http://127.0.0.1:{server.port}/", extensions={"stop": late}).text == "hello"
        late.set()
        assert client.get(f"http://127.0.0.1:{server.port}/").text == "hello"
        assert server.connections == 1
