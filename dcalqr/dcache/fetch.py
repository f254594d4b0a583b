"""The blocking GET of one file: door, redirect, pool, and the header that must hold before the first byte is read.

The door answers only when a mover has started, so its wait is long and is bounded by a limit of its own. The pool's URL
goes out untouched, without credential; its connection is closed after the file, because up to dCache 7.2 a parked one
holds a mover.
"""

from __future__ import annotations

import errno
import http.client
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from dcalqr import checksum, errors
from dcalqr.dcache import tls
from dcalqr.dcache.transport import HttpClientTransport
from dcalqr.orders import CopyOrder, Progress, Stop

MOST_REDIRECTS = 5
# More than a redirect's page of text; a larger one is cheaper to cut off.
MOST_DRAINED_BYTES = 64 * 1024
# Larger than any file, and short enough for `int` whatever a server writes.
_MOST_DIGITS = 18
_NO_FILE_HANDLES = {errno.EMFILE, errno.ENFILE}
# Of a server's words, enough to tell what went wrong.
_MOST_QUOTED = 200
_PRINTABLE = re.compile(r"[!-~]+")
_REDIRECTS = {301, 302, 303, 307, 308}
_HEADERS = {"Want-Digest": "adler32", "Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "dcalqr"}


class Origin(NamedTuple):
    """Scheme, host and port: who gets a request."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Raises ValueError for a URL that is not printable ASCII, or without a usable host or port."""
        if not _PRINTABLE.fullmatch(url):
            raise ValueError("not a URL: empty, or not printable ASCII")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"not an http(s) URL of a plain host: {parts.scheme}://{parts.hostname}")
        try:
            httpx.URL(f"{parts.scheme}://{parts.netloc}/")
        except httpx.InvalidURL as error:
            raise ValueError(str(error)) from error
        return cls(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))


class Answer(NamedTuple):
    """A GET whose header holds: the body may be read.

    `readinto` fills a buffer with what one read of the socket gives, and returns the count (bytes), 0 at the end.
    """

    host: str
    size_bytes: int
    adler32: int | None
    readinto: Callable[[memoryview], int]


class Doors:
    """The httpx clients of one credential generation: the door's with the proxy, the pools' without.

    Parameters
    ----------
    trust
        The generation.
    transport
        Takes the place of both transports, for tests.
    """

    def __init__(self, trust: tls.Trust, transport: httpx.BaseTransport | None = None) -> None:
        self.trust = trust
        self.door = _client(transport or HttpClientTransport(tls.door_context(trust), keep_alive=True))
        self.pools = _client(transport or HttpClientTransport(tls.pools_context(trust), keep_alive=False))

    def close(self) -> None:
        self.door.close()
        self.pools.close()


def _client(transport: httpx.BaseTransport) -> httpx.Client:
    no_cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    return httpx.Client(
        transport=transport, headers=_HEADERS, cookies=no_cookies, trust_env=False, follow_redirects=False
    )


@contextmanager
def get(doors: Doors, order: CopyOrder, stop: Stop, progress: Progress) -> Iterator[Answer]:
    """Ask the door for a file, follow to the pool, check the header; the connection is closed or kept on exit.

    Raises
    ------
    dcalqr.errors.TryError, dcalqr.errors.Cancelled
        As the class says; nothing of httpx or ssl comes through.
    """
    response = _follow(doors, order, stop, progress)
    try:
        yield _checked(response, order)
    finally:
        response.close()


def _follow(doors: Doors, order: CopyOrder, stop: Stop, progress: Progress) -> httpx.Response:
    door = Origin.of(order.url)
    url = order.url
    for _ in range(MOST_REDIRECTS + 1):
        origin = Origin.of(url)
        response = _send(doors, order, url, stop, progress, at_door=origin == door)
        if response.status_code not in _REDIRECTS:
            _check_status(response, origin, at_door=origin == door)
            return response
        try:
            url = _redirected(url, response, order)
            _drain(response, order.deadlines.stall_seconds)
        finally:
            response.close()
    raise errors.RedirectRefused(target=Origin.of(url).host, why=f"more than {MOST_REDIRECTS} redirects")


def _drain(response: httpx.Response, seconds: float) -> None:
    """Read a redirect's short body, for a while, so that the connection to the door can be kept."""
    size_bytes = length_of(response.headers.get("content-length", ""))
    if size_bytes is None or size_bytes > MOST_DRAINED_BYTES:
        return
    until = time.monotonic() + seconds
    with suppress(OSError, http.client.HTTPException, httpx.HTTPError, ValueError):
        for _ in response.iter_raw():
            if time.monotonic() > until:
                return


def _redirected(url: str, response: httpx.Response, order: CopyOrder) -> str:
    location: str = response.headers.get("location", "")
    try:
        # Not even `urljoin` may touch an absolute one: it drops a `;` at the end of the path.
        target = location if location.lower().startswith(("http://", "https://")) else urljoin(url, location)
        origin = Origin.of(target if location else "")
    except ValueError as error:
        named = location.rpartition("@")[2][:100]  # whatever stands before may be somebody's password
        raise errors.RedirectRefused(target=named, why=str(error)) from error
    if origin.scheme == "http" and not order.allow_http:
        raise errors.RedirectRefused(target=origin.host, why="it is plain http, and allowhttpredirect is false")
    if order.redirect_hosts and origin.host not in order.redirect_hosts and origin != Origin.of(order.url):
        raise errors.RedirectRefused(target=origin.host, why="the host is not among redirecthosts")
    return target


def _send(doors: Doors, order: CopyOrder, url: str, stop: Stop, progress: Progress, *, at_door: bool) -> httpx.Response:
    if stop.is_set():
        raise errors.Cancelled
    origin = Origin.of(url)
    client = doors.door if at_door else doors.pools
    limits = order.deadlines
    answer_seconds = limits.door_seconds if at_door else limits.stall_seconds
    progress.phase("door_wait" if at_door else "connect")

    def connected() -> None:
        if not at_door:
            progress.phase("first_byte")

    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    request = client.build_request(
        "GET",
        f"{origin.scheme}://{host}:{origin.port}/",
        timeout=httpx.Timeout(
            connect=limits.connect_seconds, read=answer_seconds, write=limits.stall_seconds, pool=limits.stall_seconds
        ),
        extensions={"target": _target(url), "stop": stop, "connected": connected},
    )
    try:
        return client.send(request, stream=True)
    except (OSError, http.client.HTTPException, httpx.HTTPError, ValueError) as error:
        if stop.is_set():
            raise errors.Cancelled from error
        raise _translated(error, origin, at_door=at_door, order=order, capath=doors.trust.capath) from error


def _target(url: str) -> bytes:
    """Return the request target of a URL exactly as it stands, without a fragment."""
    rest = url.split("://", 1)[1].split("#", 1)[0]
    path = rest[len(rest.split("/", 1)[0].split("?", 1)[0]) :]
    return (path if path.startswith("/") else "/" + path).encode("ascii", "strict")


def _translated(error: Exception, origin: Origin, *, at_door: bool, order: CopyOrder, capath: str) -> errors.TryError:
    """Say what a foreign exception means."""
    host = f"{origin.host}:{origin.port}"
    unconnected = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    cause = error.__cause__ or error if unconnected else error
    if isinstance(cause, OSError) and cause.errno in _NO_FILE_HANDLES:
        return errors.TransientError(why=f"connection to {host}: {cause.strerror}")
    if isinstance(cause, ssl.SSLError) and at_door and tls.blames_us(cause):
        return errors.CredentialRefused(why=f"TLS alert {cause.reason} from {host}")
    if unconnected:
        return _unconnected(cause, host, at_door=at_door, capath=capath)
    if isinstance(error, TimeoutError | httpx.TimeoutException) and at_door:
        return errors.DoorTimeout(seconds=order.deadlines.door_seconds)
    not_http = isinstance(error, http.client.HTTPException | httpx.ProtocolError | ValueError)
    if not_http and not isinstance(error, OSError):
        return errors.ProtocolBroken(host=host, why=_words(error))
    return errors.ConnectionLost(host=host, phase="door_wait" if at_door else "first_byte", why=_words(error))


def _unconnected(cause: BaseException, host: str, *, at_door: bool, capath: str) -> errors.TryError:
    """Say what it means that no connection came about; a pool is not the door: another may be named next time."""
    is_tls = isinstance(cause, ssl.SSLError)
    why = tls.handshake_trouble(cause, capath) if isinstance(cause, ssl.SSLError) else _words(cause)
    if at_door:
        return errors.Unreachable(host=host, why=why)
    return errors.PoolRefused(host=host, why=why) if is_tls else errors.PoolUnreachable(host=host, why=why)


def _words(error: BaseException) -> str:
    return str(error)[:_MOST_QUOTED] or type(error).__name__


def _check_status(response: httpx.Response, origin: Origin, *, at_door: bool) -> None:
    status = response.status_code
    if status == 200:
        return
    response.close()
    host = f"{origin.host}:{origin.port}"
    if at_door and status in (401, 403, 404):
        raise door_refusal(status, host)
    if status < 400:
        raise errors.ProtocolBroken(host=host, why=f"HTTP {status} to a plain GET", http_status=status)
    raise errors.ServerError(host=host, http_status=status, retry_after_seconds=retry_after_seconds(response))


def door_refusal(status: int, host: str) -> errors.TryError:
    """Return what 401, 403 and 404 mean when the door itself says them."""
    if status == 401:
        return errors.CredentialRefused(why=f"HTTP 401 from {host}", http_status=status)
    if status == 403:
        return errors.Forbidden(host=host, http_status=status)
    return errors.NotFound(host=host, http_status=status)


def retry_after_seconds(response: httpx.Response) -> float | None:
    """Return Retry-After in seconds; its date form is not sent by dCache and is ignored."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def length_of(text: str) -> int | None:
    """Return a Content-Length in bytes; None: not a number, or one that no file has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _checked(response: httpx.Response, order: CopyOrder) -> Answer:
    host = f"{response.request.url.host}:{response.request.url.port}"
    size_bytes = _content_length(response, host)
    if order.size_bytes is not None and size_bytes != order.size_bytes:
        raise errors.LengthDiffers(host=host, offered_bytes=size_bytes, expected_bytes=order.size_bytes)
    # A sum that came over plain http proves nothing against who can change the body too.
    trusted = response.request.url.scheme == "https"
    digest = checksum.parse_digest(response.headers.get("digest", "")) if trusted else None
    adler32 = order.adler32 if digest is None else digest
    if adler32 is None and order.require_checksum:
        raise errors.DigestMissing(host=host)
    return Answer(host, size_bytes, adler32, response.extensions["readinto"])


def _content_length(response: httpx.Response, host: str) -> int:
    lengths = {value.strip() for value in response.headers.get_list("content-length", split_commas=True)}
    if "transfer-encoding" in response.headers:
        raise errors.ProtocolBroken(host=host, why="a chunked body to a plain GET")
    if len(lengths) != 1:
        raise errors.ProtocolBroken(host=host, why=f"{len(lengths) or 'no'} Content-Length")
    text = lengths.pop()
    size_bytes = length_of(text)
    if size_bytes is None:
        raise errors.ProtocolBroken(host=host, why=f"Content-Length is {text[:20]!r}")
    return size_bytes
