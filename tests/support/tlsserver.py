"""A TLS server that serves many at once and knows who resumed, and who showed a certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Self

from tests.support.attempts import SOON_SECONDS
from tests.support.process import wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class TlsServer:
    """Answers each request of any connection alike, and one request on each. A context manager.

    Parameters
    ----------
    context
        May be exchanged between connections: a server that forgot the tickets it gave.
    address
        Of the loopback interface.
    answer
        What is sent.
    """

    def __init__(self, context: ssl.SSLContext, address: str = "127.0.0.1", answer: bytes = OK) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.context = context
        self.answer = answer
        self._listening = socket.create_server((address, 0), family=family, backlog=256)
        self.port: int = self._listening.getsockname()[1]
        self.resumed: list[bool] = []
        self.versions: list[str | None] = []
        self.names: list[object] = []
        self.shown: list[bool] = []
        self.requests: list[bytes] = []
        self._running: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def full_handshakes(self) -> int:
        return self.resumed.count(False)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._running.add(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(SOON_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or tickets hold the answer up for 40 ms
        try:
            # ConnectionError, ssl.SSLError: the client left or refused us, the test knows
            with contextlib.suppress(OSError), plain, self.context.wrap_socket(plain, server_side=True) as sock:
                self.resumed.append(bool(sock.session_reused))
                self.versions.append(sock.version())
                self.shown.append(bool(sock.getpeercert()))
                head = b""
                while b"\r\n\r\n" not in head and (block := sock.recv(65536)):
                    head += block
                if head:
                    self.requests.append(head)
                    sock.sendall(self.answer)
                    if self.answer == OK:
                        sock.recv(1)  # the client closes first, as after any whole file
        finally:
            self._running.discard(threading.current_thread())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(SOON_SECONDS)
        self._listening.close()
        wait_until(lambda: not self._running, SOON_SECONDS, "the end of all connections")
