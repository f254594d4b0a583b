"""The pools behind a door: good ones and odd ones, and the movers that a door has promised there."""

from __future__ import annotations

import contextlib
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcalqr.testing.connection import Connection, Request
from dcalqr.testing.faults import Fault, Faults
from dcalqr.testing.namespace import StoredFile
from dcalqr.testing.replies import Reply, refusal, whole
from dcalqr.testing.server import Server, server_context

if TYPE_CHECKING:
    from dcalqr.testing.pki import Pki

# Redirects of a fault that lead to a pool all the same; any other text is sent as it is.
ODD_POOLS = ("http", "other-host", "wrong-name", "revoked", "expired", "unknown-ca")


@dataclass
class Mover:
    """A transfer that the door has promised: known to the pool by its uuid, and to nobody twice."""

    file: StoredFile
    with_digest: bool
    used: bool = False


class Pools:
    """The pools of one door. Safe to use from any thread.

    Parameters
    ----------
    pki, count, plain
        As `Door`'s `pki`, `pools` and `http_pools`.
    serve
        Answers what comes on a connection.
    """

    def __init__(
        self, pki: Pki, count: int, faults: Faults, serve: Callable[[Connection], None], *, plain: bool
    ) -> None:
        self._pki = pki
        self._faults = faults
        self._serve = serve
        self._lock = threading.Lock()
        self._movers: dict[str, Mover] = {}
        self._turn = 0
        context = None if plain else server_context(pki.host)
        self._pools = [Server("pool", context, faults, serve) for _ in range(count)]
        self._odd_pools: dict[str, Server] = {}

    @property
    def ports(self) -> tuple[int, ...]:
        """As `Door.pool_ports`."""
        return tuple(pool.port for pool in self._pools)

    @property
    def servers(self) -> list[Server]:
        """All of them, those that a fault's redirect led to included."""
        with self._lock:
            return [*self._pools, *self._odd_pools.values()]

    @property
    def movers(self) -> int:
        """As `Door.movers`."""
        with self._lock:
            return len(self._movers)

    def forget_movers(self) -> None:
        """What pools do when they are started anew: no former uuid is good for anything."""
        with self._lock:
            self._movers.clear()

    def use_certificate(self, pem: Path) -> None:
        """As `Door.use_certificate`."""
        context = server_context(pem)
        # Not the pools that a fault's redirect leads to: their certificates are the fault.
        for server in self._pools:
            server.context = context

    def promise(self, file: StoredFile, *, with_digest: bool) -> str:
        """Make a mover; returns its uuid."""
        ticket = str(uuid.uuid4())
        with self._lock:
            self._movers[ticket] = Mover(file, with_digest)
        return ticket

    @contextlib.contextmanager
    def claimed(self, request: Request) -> Iterator[Mover | None]:
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

    def base(self, oddity: str | None) -> str:
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

    def _start_odd_pool(self, oddity: str) -> Server:
        pki = self._pki
        pems = {
            "wrong-name": pki.host_wrong_name,
            "revoked": pki.host_revoked,
            "expired": pki.host_expired,
            "unknown-ca": pki.host_unknown_ca,
        }
        context = None if oddity == "http" else server_context(pems[oddity])
        server = self._odd_pools[oddity] = Server("pool", context, self._faults, self._serve)
        server.start()
        return server


def pool_reply(request: Request, fault: Fault, mover: Mover | None) -> Reply:
    """Answer a request at a pool; `mover` is what `Pools.claimed` gave."""
    if mover is None:
        return refusal(400, "Request is no longer valid")
    if mover.file.path != request.path:
        return refusal(400, "The request is for another file")
    if fault.status is not None and fault.status not in (200, 206):
        return refusal(fault.status)
    return whole(request, mover.file, fault, wanted=mover.with_digest and request.wants_digest)
