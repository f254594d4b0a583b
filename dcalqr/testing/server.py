"""A little server: a port of localhost that the kernel chooses, a thread that accepts, one for each connection."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from dcalqr.testing.connection import Connection, HangUp
from dcalqr.testing.faults import Faults, Where

# Stopping waits so long for a thread: far above what any needs, and a test sees the failure.
JOIN_SECONDS = 20
# Waiting connections: above any number that a test opens at once.
BACKLOG = 1024


class Server:
    """One port: a thread accepts, one more for each connection. Keeps its port while it is stopped."""

    def __init__(
        self, where: Where, context: ssl.SSLContext | None, faults: Faults, serve: Callable[[Connection], None]
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
        self._connections: set[Connection] = set()

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
        """Stop for ever; the port is free."""
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
                connection = Connection(sock, self.where, self.port)
                with self._lock:
                    if self._listening is not listening:
                        sock.close()
                        return
                    self._connections.add(connection)
                    self._begin(functools.partial(self._run, connection), "connection")

    def _run(self, connection: Connection) -> None:
        try:
            self._play_accept(connection)
            if self.context is not None:
                connection.secure(self.context)
            self._serve(connection)
        except (OSError, HangUp):
            pass  # the client left, refused our certificate, has none, or we hang up: all of it is in the script
        finally:
            with self._lock:
                self._connections.discard(connection)
                connection.close()

    def _play_accept(self, connection: Connection) -> None:
        fault, calm = self._faults.take(lambda fault: fault.accept is not None and fault.where == self.where)
        if fault.accept == "silent":
            connection.play_dead(calm)
        if fault.accept == "garbage":
            connection.send(b"SSH-2.0-OpenSSH_9.9\r\n")
        if fault.accept == "reset":
            connection.reset_on_close()
        if fault.accept in ("garbage", "reset"):
            raise HangUp


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # The reservation and the listening socket share the port.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def server_context(pem: Path) -> ssl.SSLContext:
    """Make what a server needs to show a certificate; certificate and key are in one file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pem)
    return context
