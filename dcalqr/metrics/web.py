"""A small HTTP server for a few pages that are made on request: GET and HEAD, one request a connection, all bounded.

h11 reads the requests. Nothing of a request but its method and its path is used: no host, no query, no body.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import h11

# Prometheus sends 300 bytes, a browser with its cookies for this host a few thousand.
REQUEST_BYTES = 16 * 1024
# Who has not asked by then never will; who has not taken the answer either.
REQUEST_SECONDS = 5.0
ANSWER_SECONDS = 10.0
# A few Prometheus servers, a few browsers, a load balancer; more is a mistake or an attack.
CONNECTIONS = 32

_TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """What a page says; `headers` are its own, beside those that every answer bears."""

    status: int
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()


Pages = Mapping[str, Callable[[], Answer]]

# For every answer: nothing of it is kept, guessed at, framed or fetched by another site.
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Connection", "close"),
)
# A page that shows more than text says so itself.
_POLICY = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")


class WebServer:
    """Serves the pages until it is closed.

    Parameters
    ----------
    pages
        By path, compared byte by byte. A page is made on the event loop: it must neither wait nor block.
    failed
        Told what a page raised; whoever asked gets 500 and nothing else.

    Attributes
    ----------
    connections
        Open just now (count).
    """

    def __init__(self, pages: Pages, failed: Callable[[Exception], None]) -> None:
        self._pages, self._failed = pages, failed
        self._server: asyncio.Server | None = None
        self.connections = 0

    async def start(self, address: str, port: int) -> None:
        """Listen; raises OSError when that address and port cannot be had."""
        self._server = await asyncio.start_server(self._serve, address, port, limit=REQUEST_BYTES, reuse_address=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None, "not started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Listen no more; answers under way end by themselves or with their limits."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.connections <= CONNECTIONS:
                await self._converse(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # whoever asked is gone, too slow, or speaks no HTTP any more
        finally:
            self.connections -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await _request(connection, reader)
        except h11.RemoteProtocolError as error:
            answer, head = Answer(error.error_status_hint, b"this is no request that is answered here\n"), False
        else:
            if request is None:
                return
            answer, head = self._answer(request), request.method == b"HEAD"
        for event in _events(answer, head=head):
            writer.write(connection.send(event) or b"")
        async with asyncio.timeout(ANSWER_SECONDS):
            await writer.drain()
            writer.write_eof()
            # What it still sends is read, or the reset that follows a close would overtake the answer.
            with contextlib.suppress(asyncio.LimitOverrunError):
                while await reader.read(REQUEST_BYTES):
                    pass

    def _answer(self, request: h11.Request) -> Answer:
        page = self._pages.get(request.target.partition(b"?")[0].decode("latin-1"))
        if page is None:
            return Answer(404, b"there is no such page\n")
        if request.method not in (b"GET", b"HEAD"):
            return Answer(405, b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),))
        try:
            return page()
        except Exception as error:  # noqa: BLE001 - a mistake in a page must not end what it tells of
            self._failed(error)
            return Answer(500, b"this page could not be made; see the log\n")


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Read the head of a request; None: whoever connected said nothing."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(REQUEST_BYTES))


def _events(answer: Answer, *, head: bool) -> list[h11.Event]:
    own = {name.lower() for name, _ in answer.headers}
    policy = () if _POLICY[0].lower() in own else (_POLICY,)
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        *_HEADERS,
        *policy,
        *answer.headers,
    ]
    body = [] if head else [h11.Data(data=answer.body)]
    return [h11.Response(status_code=answer.status, headers=headers), *body, h11.EndOfMessage()]
