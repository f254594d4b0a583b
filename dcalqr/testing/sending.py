"""How an answer goes out: whole and at once, or as a fault will have it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from dcalqr.testing.connection import JOIN_BYTES, PLAY_DEAD_SECONDS, Connection, HangUp, Request
from dcalqr.testing.faults import Fault
from dcalqr.testing.replies import WORDS, Reply
from dcalqr.testing.samples import Content

WITHOUT_BODY = (204, 304)


def send(connection: Connection, request: Request, reply: Reply, fault: Fault, calm: threading.Event) -> None:
    """Send an answer, with what the fault makes of it; `calm` is set when the fault is called off."""
    if fault.informational:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * fault.informational)
    head = _head(request, reply, fault)
    if fault.endless_headers:
        connection.send(head[:-2])
        _trickle(connection, _forever(b"X-Filler: 0123456789abcdef\r\n" * 1000), fault.endless_headers, calm)
        raise HangUp
    content = None if request.method == "HEAD" or reply.status in WITHOUT_BODY else reply.content
    plain = fault.cut_after is None and fault.stall_after is None and not fault.bytes_per_second and not fault.chunked
    if content is None:
        connection.send(head)
    elif plain and content.size_bytes <= JOIN_BYTES:
        connection.send(head + bytes(content))
    else:
        connection.send(head)
        _send_body(connection, content, fault, calm)


def _head(request: Request, reply: Reply, fault: Fault) -> bytes:
    size_bytes = reply.content.size_bytes if reply.content else 0
    true_lengths = () if fault.chunked or reply.status in WITHOUT_BODY else (str(size_bytes),)
    headers = [("Server", "dCache/12.1.0"), *reply.headers]
    headers += [("Content-Length", text) for text in (true_lengths if fault.lengths is None else fault.lengths)]
    headers += [("Transfer-Encoding", "chunked")] if fault.chunked else []
    headers += [("Connection", "close")] if request.header("connection").lower() == "close" else []
    lines = [f"HTTP/1.1 {reply.status} {WORDS.get(reply.status, 'Refused')}"]
    lines += [f"{name}: {value}" for name, value in (*headers, *fault.headers)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def _send_body(connection: Connection, content: Content, fault: Fault, calm: threading.Event) -> None:
    send = _chunk if fault.chunked else Connection.send
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
        raise HangUp
    for piece in content.pieces(first):
        send(connection, piece)
    if fault.chunked:
        connection.send(b"0\r\n\r\n")


def _chunk(connection: Connection, piece: bytes | memoryview) -> None:
    connection.send(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))


def _trickle(
    connection: Connection, pieces: Iterator[memoryview], bytes_per_second: int, calm: threading.Event
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
