"""What is asked of the door beside bodies: HEAD. Asynchronous; never holds a slot, starts no mover.

HEAD tells whether a path is visible, its size, its Adler32 and, by the ETag's prefix, which upload it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple

import httpcore
import httpx

from dcalqr import checksum, errors
from dcalqr.dcache import tls
from dcalqr.dcache.http1 import Origin, length_of
from dcalqr.dcache.statuses import door_refusal, server_error

# Doors since 11.2 allow one client about 250 requests a second, and the GETs need their share.
HEADS_PER_SECOND = 100.0
# The name look-up behind a HEAD is quick or the name space is in trouble; PnfsManager's own limit is 120 s.
HEAD_SECONDS = 60.0
CONNECT_SECONDS = 30.0
_CONNECTIONS = 8


class DoorFile(NamedTuple):
    """What the door shows under a path now. `pnfsid` is empty where the server's ETag has another form."""

    size_bytes: int | None
    adler32: int | None
    pnfsid: str


class _Client:
    """An httpx client of one credential generation, and how many requests use it."""

    def __init__(self, http: httpx.AsyncClient, trust: tls.Trust) -> None:
        self.http = http
        self.trust = trust
        self.users = 0


class _Handshake:
    """Follows a request to where its TLS handshake ends: httpcore closes what fails there, but not what is cancelled.

    Such a connection would stay open until the server tires of it. Called by httpx's extension `trace`.
    """

    def __init__(self) -> None:
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.complete":
            self._stream = None

    async def cancelled(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()


class Door:
    """The door, as seen by planning and probing.

    Parameters
    ----------
    url
        Of the configured door and folder root, https.
    trust
        Gives the present credential generation; raises `CredentialRefused`.
    transport
        Makes the transport from an SSL context, for tests.
    """

    def __init__(
        self,
        url: str,
        trust: Callable[[], tls.Trust],
        transport: Callable[[ssl.SSLContext], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._origin = Origin.of(url)
        self._trust = trust
        self._transport = transport or _stock_transport
        self._client: _Client | None = None
        self._old: list[_Client] = []
        self._next_at = 0.0

    async def head(self, url: str, *, wants_sum: bool = True) -> DoorFile:
        """Look at a path, given as its percent-encoded URL.

        Parameters
        ----------
        url
            The path's.
        wants_sum
            False for a folder, which has no sum: XRootD before 5.9.2 often never answers who asks for it.

        Raises
        ------
        NotFound, Forbidden, CredentialRefused, Unreachable, DoorTimeout, ServerError, ConnectionLost, ProtocolBroken
            As the door answered.
        """
        response = await self._send(url, {"Want-Digest": "adler32"} if wants_sum else {})
        host = f"{self._origin.host}:{self._origin.port}"
        status = response.status_code
        if status == 200:
            return _shown(response)
        if status in (401, 403, 404):
            raise door_refusal(status, host)
        if status < 400:
            raise errors.ProtocolBroken(host=host, why=f"HTTP {status} to HEAD", http_status=status)
        raise server_error(status, host, response.headers.get("retry-after", ""))

    async def _send(self, url: str, headers: dict[str, str]) -> httpx.Response:
        await self._pace()
        host = f"{self._origin.host}:{self._origin.port}"
        target = url.split("://", 1)[1].partition("/")[2]
        handshake = _Handshake()
        try:
            async with self._lent() as client:
                return await client.http.request(
                    "HEAD",
                    f"https://{self._origin.netloc}/",
                    headers=headers,
                    extensions={"target": f"/{target}".encode("ascii"), "trace": handshake},
                )
        except asyncio.CancelledError:
            await handshake.cancelled()
            raise
        except httpx.PoolTimeout as error:
            raise errors.DoorTimeout(seconds=HEAD_SECONDS) from error
        except (httpx.ConnectError, UnicodeError) as error:  # UnicodeError: a host name that cannot be encoded
            raise self._connect_trouble(error, host) from error
        except httpx.ConnectTimeout as error:
            raise errors.Unreachable(host=host, why=f"no connection within {CONNECT_SECONDS:g} s") from error
        except httpx.TimeoutException as error:
            raise errors.DoorTimeout(seconds=HEAD_SECONDS) from error
        except (httpx.HTTPError, OSError) as error:
            cause = _tls_cause(error)
            if cause is not None and tls.blames_us(cause):
                raise errors.CredentialRefused(why=f"TLS alert {cause.reason} from {host}") from error
            raise errors.ConnectionLost(host=host, phase="head", why=str(error) or type(error).__name__) from error

    def _connect_trouble(self, error: Exception, host: str) -> errors.TryError:
        cause = _tls_cause(error)
        if cause is None:
            return errors.Unreachable(host=host, why=str(error))
        if tls.blames_us(cause):
            return errors.CredentialRefused(why=f"TLS alert {cause.reason} from {host}")
        return errors.Unreachable(host=host, why=tls.handshake_trouble(cause, self._trust().capath))

    @contextlib.asynccontextmanager
    async def _lent(self) -> AsyncIterator[_Client]:
        """Lend the present client; afterwards those of older generations are closed that nobody uses any more."""
        client = self._present_client()
        client.users += 1
        try:
            yield client
        except httpx.PoolTimeout:
            # The pool may be out of order (httpcore#1093): the next request gets a new one.
            if client is self._client:
                self._client = None
                self._old.append(client)
            raise
        finally:
            client.users -= 1
            for old in [old for old in self._old if not old.users]:
                self._old.remove(old)
                await old.http.aclose()

    def _present_client(self) -> _Client:
        trust, old = self._trust(), self._client
        if old is not None and old.trust.generation == trust.generation:
            return old
        try:
            fresh = self._made(trust)
        except errors.CredentialRefused:
            if old is None:
                raise
            return old  # a failed load keeps the old generation
        self._client = fresh
        if old is not None:
            self._old.append(old)
        return fresh

    def _made(self, trust: tls.Trust) -> _Client:
        http = httpx.AsyncClient(
            transport=self._transport(tls.door_context(trust)),
            timeout=httpx.Timeout(HEAD_SECONDS, connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity", "User-Agent": "dcalqr"},
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
        )
        return _Client(http, trust)

    async def _pace(self) -> None:
        now = time.monotonic()
        at = max(now, self._next_at)
        self._next_at = at + 1.0 / HEADS_PER_SECOND
        if at > now:
            await asyncio.sleep(at - now)

    async def aclose(self) -> None:
        """Close all connections; requests under way end as `ConnectionLost`."""
        clients = [*self._old, *([self._client] if self._client else [])]
        self._old, self._client = [], None
        for client in clients:
            await client.http.aclose()


def _stock_transport(context: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=20.0)
    return httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)


def _tls_cause(error: BaseException) -> ssl.SSLError | None:
    """Find the SSLError behind an exception of httpx."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _shown(response: httpx.Response) -> DoorFile:
    digest = checksum.parse_digest(response.headers.get("digest", ""))
    return DoorFile(
        size_bytes=length_of(response.headers.get("content-length", "")),
        adler32=digest,
        pnfsid=pnfsid_of(response.headers.get("etag", "")),
    )


def pnfsid_of(etag: str) -> str:
    """Return the pnfsid with which dCache's ETags begin (`"<pnfsid>_<hash>"`); empty for other forms."""
    pnfsid, separator, _ = etag.removeprefix("W/").strip('"').partition("_")
    is_one = bool(separator) and len(pnfsid) in (24, 36) and all(digit in "0123456789ABCDEF" for digit in pnfsid)
    return pnfsid if is_one else ""
