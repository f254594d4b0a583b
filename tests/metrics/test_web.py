"""The web server, asked by plain sockets: what a browser would never send must not harm it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from dcalqr.metrics import web
from dcalqr.metrics.web import CONNECTIONS, REQUEST_BYTES, Answer, WebServer

SECONDS = 20.0


def broken() -> Answer:
    raise ValueError("secret")


class Served:
    """A server with three pages, and what its pages raised."""

    def __init__(self) -> None:
        self.raised: list[Exception] = []
        self.server = WebServer(
            {"/": lambda: Answer(200, b"hello\n"), "/large": lambda: Answer(200, b"x" * 3_000_000), "/broken": broken},
            self.raised.append,
        )

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Send bytes as they are; returns head and body of the answer, empty if there is none."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(SECONDS):
                answer = await reader.read(-1)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body

    async def until_open(self, count: int) -> None:
        """Wait until so many connections are open."""
        async with asyncio.timeout(SECONDS):
            while self.server.connections != count:  # noqa: ASYNC110 - a number sets no event
                await asyncio.sleep(0.02)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.server.port)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    await made.server.start("127.0.0.1", 0)
    yield made
    made.server.close()


def get(target: str = "/", method: str = "GET", headers: str = "Host: x\r\n") -> bytes:
    return f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode("latin-1")


async def test_a_page_is_served_with_the_headers_that_keep_it_safe(served: Served) -> None:
    head, body = await served.ask(get())
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 200 ")
    assert body == b"hello\n"
    for line in (
        b"Content-Length: 6",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"X-Frame-Options: DENY",
        b"Referrer-Policy: no-referrer",
        b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
        b"Connection: close",
    ):
        assert line in lines


async def test_head_gives_the_length_and_no_body(served: Served) -> None:
    head, body = await served.ask(get(method="HEAD"))
    assert b"Content-Length: 6" in head
    assert body == b""


async def test_a_query_and_any_host_change_nothing(served: Served) -> None:
    assert (await served.ask(get("/?x=/../y", headers="Host: evil.example.org\r\nX-Forwarded-Host: e\r\n")))[1]
    head, body = await served.ask(get(headers="Host: evil.example.org\r\n"))
    assert b"evil" not in head + body


async def test_http_1_0_is_answered(served: Served) -> None:
    assert (await served.ask(b"GET / HTTP/1.0\r\n\r\n"))[1] == b"hello\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"])
async def test_other_methods_are_not_allowed(served: Served, method: str) -> None:
    head, _ = await served.ask(get(method=method))
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET, HEAD" in head


@pytest.mark.parametrize(
    "target",
    [
        "/../../etc/passwd",
        "//",
        "/.",
        "/etc/passwd",
        "/%2e%2e/",
        "/large/..",
        "http://x/",
        "*",
        "/favicon.ico",
        "/\xe9",
    ],
)
async def test_only_the_very_paths_are_pages(served: Served, target: str) -> None:
    head, body = await served.ask(get(target))
    assert head.split(b" ")[1] in {b"404", b"400"}
    assert body in {b"there is no such page\n", b"this is no request that is answered here\n"}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\n\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad name: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(served: Served, request_bytes: bytes) -> None:
    head, _ = await served.ask(request_bytes)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert (await served.ask(get()))[1] == b"hello\n"


async def test_a_head_without_end_is_refused(served: Served) -> None:
    head, _ = await served.ask(b"GET / HTTP/1.1\r\nX: " + b"a" * 4 * REQUEST_BYTES)
    assert head.startswith(b"HTTP/1.1 431 ") or not head  # a reset may overtake the answer


async def test_a_body_is_not_read_as_another_request(served: Served) -> None:
    smuggled = get("/broken")
    request = get(headers=f"Host: x\r\nContent-Length: {len(smuggled)}\r\n") + smuggled + get("/broken")
    head, body = await served.ask(request)
    assert (head[:15], body) == (b"HTTP/1.1 200 \r\n", b"hello\n")
    assert not served.raised


async def test_who_says_nothing_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "REQUEST_SECONDS", 0.2)
    assert await served.ask(b"GET / HT") == (b"", b"")


async def test_who_takes_no_answer_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ANSWER_SECONDS", 0.2)
    reader, writer = await served.connect()
    writer.write(get("/large"))
    await writer.drain()
    await served.until_open(0)
    writer.close()
    assert not reader.at_eof()


async def test_connections_are_bounded_and_come_back(served: Served) -> None:
    idle = [await served.connect() for _ in range(CONNECTIONS)]
    await served.until_open(CONNECTIONS)
    assert await served.ask(get()) == (b"", b"")
    for _, writer in idle:
        writer.close()
    await served.until_open(0)
    assert (await served.ask(get()))[1] == b"hello\n"


async def test_a_page_that_raises_is_said_here_and_not_there(served: Served) -> None:
    head, body = await served.ask(get("/broken"))
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in head + body
    assert [str(error) for error in served.raised] == ["secret"]


async def test_a_port_that_is_taken_is_an_oserror(served: Served) -> None:
    other = WebServer({}, served.raised.append)
    with pytest.raises(OSError, match="address"):
        await other.start("127.0.0.1", served.server.port)
    other.close()
