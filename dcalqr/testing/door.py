"""A dCache of three little servers with a fault switch: a WebDAV door that redirects to pools, over TLS.

What it does when nothing is wrong is what dCache does: the door wants a client certificate (proxies too) and answers a
GET with 302 to a pool and a uuid that is good for one request; the pool asks for no certificate. What can be wrong is
a `Fault`. One thread for each connection; `Door.stop` leaves none.
"""

from __future__ import annotations

import ssl
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dcalqr.testing.connection import Connection, Request
from dcalqr.testing.faults import Fault, Faults, Where
from dcalqr.testing.namespace import Namespace, StoredFile
from dcalqr.testing.pools import ODD_POOLS, Pools, pool_reply
from dcalqr.testing.replies import Reply, listing, page, quoted, refusal, whole
from dcalqr.testing.samples import Content
from dcalqr.testing.sending import send
from dcalqr.testing.server import Server, server_context
from dcalqr.testing.traffic import Traffic

if TYPE_CHECKING:
    from dcalqr.testing.pki import Pki

__all__ = ["Door", "Fault", "Faults", "Request", "StoredFile"]


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
        self._pki = pki
        self._names = Namespace()
        self._traffic = Traffic()
        self.gets = self._traffic.gets
        self._least_serial = 0
        self._door = Server("door", self._door_context(pki.host), self.faults, self._serve)
        self._pools = Pools(pki, pools, self.faults, self._serve, plain=http_pools)

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
        return self._pools.ports

    def start(self, where: Where | None = None) -> None:
        """Serve; on the same ports as before. None: the door and the pools."""
        for server in self._servers(where):
            server.start()

    def stop(self, where: Where | None = None) -> None:
        """Refuse connections and cut those there are; no thread is left. None: the door and the pools."""
        for server in self._servers(where):
            server.stop()
        if where != "door":
            self._pools.forget_movers()

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
        if where == "door":
            self._door.context = self._door_context(pem)
        else:
            self._pools.use_certificate(pem)

    def accept_only_after(self, time_ns: int) -> None:
        """Answer 401 to proxies of `Pki` made before that time (nanoseconds since the epoch); 0: accept all again."""
        self._least_serial = time_ns

    def _servers(self, where: Where | None) -> list[Server]:
        return ([self._door] if where != "pool" else []) + (self._pools.servers if where != "door" else [])

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
        return self._names.put(path, stored, pnfsid, visible=visible, staged=staged)

    def commit(self, path: str) -> None:
        """Make a staged or invisible upload visible.

        Raises
        ------
        KeyError
            There is none.
        """
        self._names.commit(path)

    def remove(self, path: str) -> None:
        """Delete a file; what is staged for its path stays.

        Raises
        ------
        KeyError
            There is none, or none that is visible.
        """
        self._names.remove(path)

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it."""
        self._names.make_folder(path)

    def holds(self, path: str) -> bool:
        """Whether a visible file is there."""
        return self._names.file(path) is not None

    # --- what it saw ------------------------------------------------------------------------------------------

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests until now, in order of arrival, of the door and of the pools."""
        return self._traffic.requests

    @property
    def running_max(self) -> int:
        """The most GETs that were outstanding at one time, at the door and the pools together.

        One whose client has closed the connection counts no more, even if its thread has not noticed yet.
        """
        return self._traffic.running_max

    @property
    def running(self) -> int:
        """GETs outstanding now."""
        return self._traffic.running

    @property
    def movers(self) -> int:
        """Transfers that the door has promised and that no pool has ended: running ones, and orphans."""
        return self._pools.movers

    # --- serving ----------------------------------------------------------------------------------------------

    def _serve(self, connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            with self._traffic.outstanding(connection, request):
                self._answer(connection, request)
            if request.header("connection").lower() == "close":
                return

    def _answer(self, connection: Connection, request: Request) -> None:
        fault, calm = self.faults.take(lambda fault: fault.matches(request.where, request.method, request.path))
        at_door = request.where == "door"
        if fault.delay_seconds:
            connection.play_dead(calm, fault.delay_seconds, notice=not at_door)
        if at_door:
            reply = self._door_reply(request, fault)
            if reply.status not in (200, 206):
                # Before the client knows: its next GET must not be counted beside this one.
                self._traffic.ended(connection)
            send(connection, request, reply, fault, calm)
            return
        with self._pools.claimed(request) as mover:
            send(connection, request, pool_reply(request, fault, mover), fault, calm)

    def _door_reply(self, request: Request, fault: Fault) -> Reply:
        if request.serial < self._least_serial:
            return refusal(401)
        file, is_folder = self._names.look(request.path)
        if fault.status is not None and fault.status not in (200, 206):
            return refusal(fault.status)
        if request.method == "PROPFIND" and (file or is_folder):
            return self._listing(request.path.rstrip("/") or "/", file, request.header("depth"))
        if request.method in ("GET", "HEAD") and is_folder:
            return page(200, "<html><body>a folder</body></html>\n", "text/html")
        if file is None:
            return refusal(404)
        if request.method == "HEAD" or fault.status is not None:
            return whole(request, file, fault, wanted=request.wants_digest)
        if request.method == "GET":
            return self._redirect(request, file, fault)
        return self._delete(request.path) if request.method == "DELETE" else refusal(405)

    def _delete(self, path: str) -> Reply:
        try:
            self._names.remove(path)
        except KeyError:
            return refusal(404)
        return Reply(204)

    def _listing(self, path: str, file: StoredFile | None, depth: str) -> Reply:
        with_content = file is None and depth == "1"
        return listing(self._names.below(path) if with_content else [(path, self._names.file(path))])

    def _redirect(self, request: Request, file: StoredFile, fault: Fault) -> Reply:
        if fault.redirect == "loop":
            return Reply(302, (("Location", self.url + request.target.decode("latin-1")),))
        if fault.redirect is not None and fault.redirect not in ODD_POOLS:
            return Reply(302, (("Location", fault.redirect),))
        ticket = self._pools.promise(file, with_digest=request.wants_digest)
        base = self._pools.base(fault.redirect)
        path = quoted(request.path)
        back = urllib.parse.quote(self.url, safe="")
        return Reply(302, (("Location", f"{base}{path}?dcache-http-uuid={ticket}&dcache-http-ref={back}"),))

    def _door_context(self, pem: Path) -> ssl.SSLContext:
        context = server_context(pem)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self._pki.ca)
        context.load_verify_locations(self._pki.crl)
        context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS | ssl.VERIFY_CRL_CHECK_CHAIN
        return context
