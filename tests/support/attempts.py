"""What a test of one attempt needs: clients, a download folder, orders, and a look at what was left behind."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import psutil
import pytest

from dcalqr import errors
from dcalqr.attempt import StopFlag, copy_once
from dcalqr.dcache import tls
from dcalqr.dcache.fetch import Doors
from dcalqr.local import paths
from dcalqr.orders import CopyOrder, Deadlines, Landed, Stop
from dcalqr.testing.door import Door
from dcalqr.testing.pki import Pki
from tests.support.process import wait_until

PNFSID = "0000A1B2C3D4E5F60718293A4B5C6D7E8F90"
OURS = paths.instance8("one")
# A dead man's limit for what ought to happen at once.
SOON_SECONDS = 30.0
# So long that no test ends by them; who tests a limit sets it.
LONG = Deadlines(door_seconds=600, connect_seconds=600, stall_seconds=600, timeout_seconds=600, min_rate=0)


def trust_of(pki: Pki, generation: int = 1, *, proxy: Path | None = None, crl_check: bool = False) -> tls.Trust:
    path = str(proxy or pki.proxy)
    return tls.Trust(generation, path, str(pki.certificates), crl_check, tls.proxy_expiry(path))


def order_of(url: str, name: bytes = b"f.fits", **changes: Any) -> CopyOrder:
    """Order a file into the folder `run`; `changes` are fields of the order, or of its deadlines."""
    order_id = uuid.uuid4().hex
    limits = {field: changes.pop(field) for field in Deadlines.__struct_fields__ if field in changes}
    fields: dict[str, Any] = {
        "order_id": order_id,
        "url": url,
        "directory": (b"run",),
        "final_name": name,
        "part_name": paths.part_name(name, OURS, order_id[:8]),
        "size_bytes": None,
        "adler32": None,
        "pnfsid": PNFSID,
        "seen": None,
        "directory_mode": 0o755,
        "file_mode": 0o644,
        "require_checksum": True,
        "allow_http": False,
        "redirect_hosts": frozenset(),
        "deadlines": msgspec.structs.replace(LONG, **limits),
    }
    return CopyOrder(**(fields | changes))


class Notes:
    """A Progress that writes everything down."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.received_bytes = 0

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def received(self, total_bytes: int) -> None:
        self.received_bytes = total_bytes


def connections_to(*ports: int) -> int:
    """How many sockets of this process are the client's end of a connection to one of the ports."""
    found = psutil.Process().net_connections("tcp")
    return sum(1 for each in found if each.raddr and each.raddr.port in ports and each.laddr.port not in ports)


class Bench:
    """Attempts against one door.

    Parameters
    ----------
    folder
        Becomes the download folder.
    door
        A fake one.
    trust
        The credential.
    """

    def __init__(self, folder: Path, door: Door, trust: tls.Trust) -> None:
        self.folder = folder
        folder.mkdir()
        self.door = door
        self.doors = Doors(trust)
        self.root_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    @property
    def door_port(self) -> int:
        return int(self.door.url.rpartition(":")[2])

    def order(self, path: str = "/lsst/f.fits", **changes: Any) -> CopyOrder:
        *_, name = parts = tuple(os.fsencode(part) for part in path.split("/")[1:])
        return order_of(paths.source_target(self.door.url, parts), name, **changes)

    def copy(self, order: CopyOrder, stop: Stop | None = None, notes: Notes | None = None) -> Landed:
        landed = copy_once(order, self.doors, self.root_fd, stop or StopFlag(), notes or Notes())
        self.assert_nothing_open()
        return landed

    def refused(self, order: CopyOrder, kind: type[errors.DcalqrError], notes: Notes | None = None) -> Any:
        """Try an order that must end with an error of exactly this class, and leave nothing; returns the error."""
        with pytest.raises(errors.DcalqrError) as caught:
            copy_once(order, self.doors, self.root_fd, StopFlag(), notes or Notes())
        assert type(caught.value) is kind, repr(caught.value)
        self.assert_nothing_left()
        return caught.value

    def files(self) -> dict[str, bytes]:
        """Everything below the download folder, parts too."""
        found = (path for path in self.folder.rglob("*") if not path.is_dir())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def assert_nothing_left(self) -> None:
        assert self.files() == {}
        self.assert_nothing_open()

    def assert_nothing_open(self) -> None:
        """No connection to any pool, and to the door only those that are kept for the next request."""
        assert connections_to(*self.door.pool_ports) == 0
        assert connections_to(self.door_port) == self.doors.door.idle

    def close(self) -> None:
        self.doors.close()
        assert connections_to(self.door_port, *self.door.pool_ports) == 0
        os.close(self.root_fd)


class Running:
    """An attempt in a thread of its own, to be stopped at a certain moment."""

    def __init__(self, bench: Bench, order: CopyOrder) -> None:
        self.notes = Notes()
        self.stop = StopFlag()
        self.end: Landed | BaseException | None = None

        def run() -> None:
            try:
                self.end = copy_once(order, bench.doors, bench.root_fd, self.stop, self.notes)
            except BaseException as error:  # noqa: BLE001 - the test judges it
                self.end = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def wait_phase(self, name: str) -> None:
        wait_until(lambda: name in self.notes.phases, SOON_SECONDS, f"phase {name}")

    def join(self) -> Landed | BaseException | None:
        self._thread.join(SOON_SECONDS)
        assert not self._thread.is_alive(), f"still in phase {self.notes.phases[-1:]}"
        return self.end


class RawServer:
    """A server that sends to each connection what it is told, whatever is asked. A context manager.

    Parameters
    ----------
    answers
        For the first request of each connection in turn, the last one for all further ones; None: close without one.
    context
        For TLS; None: plain.
    keep
        Answer so many requests on one connection, then close it.
    """

    def __init__(self, *answers: bytes | None, context: ssl.SSLContext | None = None, keep: int = 1) -> None:
        self._answers = list(answers)
        self._context = context
        self._keep = keep
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.requests: list[bytes] = []
        self.certificates: list[object] = []
        self.connections = 0
        self._serving: socket.socket | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            if self._ended:
                sock.close()
                return
            self.connections += 1
            try:
                self._serve(sock)
            except OSError:
                sock.close()  # the client left or refused us: the test knows

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(SOON_SECONDS)
        sock = self._context.wrap_socket(plain, server_side=True) if self._context else plain
        self._serving = sock
        with sock:
            if isinstance(sock, ssl.SSLSocket):
                self.certificates.append(sock.getpeercert())
            for _ in range(self._keep):
                head = self._head(sock)
                if not head:
                    return
                self.requests.append(head)
                answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
                if answer is None:
                    return
                sock.sendall(answer)

    @staticmethod
    def _head(sock: socket.socket) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head and (block := sock.recv(65536)):
            head += block
        return head

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        socket.create_connection(("127.0.0.1", self.port)).close()  # wakes `accept`
        if self._serving is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                socket.socket.shutdown(self._serving, socket.SHUT_RDWR)
        self._thread.join(SOON_SECONDS)
        assert not self._thread.is_alive()
        self._listening.close()


def server_context(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """Yield a port that takes connections, and on which nobody ever speaks."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        yield deaf.getsockname()[1]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port of the loopback interface on which connecting never ends."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for filler in fillers:
                filler.close()
