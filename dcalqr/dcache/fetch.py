"""The blocking GET of one file: door, redirect, pool, and the header that must hold before the first byte is read.

The door answers only when a mover has started, so its wait is long and is bounded by a limit of its own. The pool's URL
goes out untouched, without credential; its connection is closed after the file (`connections`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urljoin

from dcalqr import checksum, errors
from dcalqr.dcache import tls
from dcalqr.dcache.connections import Connections, Limits, Response, Unconnected
from dcalqr.dcache.http1 import BadHead, Origin, length_of, lengths_of, target_of
from dcalqr.dcache.secure import TlsClient, TlsFailed
from dcalqr.dcache.statuses import door_refusal, server_error
from dcalqr.orders import CopyOrder, Progress, Stop

MOST_REDIRECTS = 5
_NO_FILE_HANDLES = {errno.EMFILE, errno.ENFILE}
# Of a server's words, enough to tell what went wrong.
_MOST_QUOTED = 200
_REDIRECTS = {301, 302, 303, 307, 308}


class Answer(NamedTuple):
    """A GET whose header holds: the body may be read.

    `fill` reads into a buffer until it is full, as `connections.Response.fill`; `size_bytes` is Content-Length.
    """

    host: str
    size_bytes: int
    adler32: int | None
    fill: Callable[[memoryview, Callable[[int], None]], int]


class Doors:
    """The connections of one credential generation: the door's with the proxy, the pools' without.

    Raises
    ------
    CredentialRefused
        The proxy or the CA directory cannot be loaded.
    """

    def __init__(self, trust: tls.Trust) -> None:
        self.trust = trust
        self.door = Connections(TlsClient(trust, with_proxy=True), keep=True)
        self.pools = Connections(TlsClient(trust, with_proxy=False), keep=False)

    def close(self) -> None:
        self.door.close()
        self.pools.close()


@contextmanager
def get(doors: Doors, order: CopyOrder, stop: Stop, progress: Progress) -> Iterator[Answer]:
    """Ask the door for a file, follow to the pool, check the header; the connection is closed or kept on exit.

    Raises
    ------
    dcalqr.errors.TryError, dcalqr.errors.Cancelled
        As the class says; nothing of the system's or the TLS library's comes through.
    """
    response, origin = _follow(doors, order, stop, progress)
    try:
        yield _checked(response, origin, order)
    finally:
        response.close()


def _follow(doors: Doors, order: CopyOrder, stop: Stop, progress: Progress) -> tuple[Response, Origin]:
    door = Origin.of(order.url)
    url = order.url
    for _ in range(MOST_REDIRECTS + 1):
        origin = Origin.of(url)
        response = _send(doors, order, url, stop, progress, at_door=origin == door)
        if response.status not in _REDIRECTS:
            _check_status(response, origin, at_door=origin == door)
            return response, origin
        try:
            url = _redirected(url, response.head.value("location"), order)
            response.drain()
        finally:
            response.close()
    raise errors.RedirectRefused(target=Origin.of(url).host, why=f"more than {MOST_REDIRECTS} redirects")


def _redirected(url: str, location: str, order: CopyOrder) -> str:
    try:
        target = _joined(url, location)
        origin = Origin.of(target)
    except ValueError as error:
        # Whatever stands before `@` may be somebody's password, and what stands in the query is a right to read.
        named = location.partition("?")[0].rpartition("@")[2][:100]
        raise errors.RedirectRefused(target=named, why=str(error)) from error
    if origin.scheme == "http" and not order.allow_http:
        raise errors.RedirectRefused(target=origin.host, why="it is plain http, and allowhttpredirect is false")
    if order.redirect_hosts and origin.host not in order.redirect_hosts and origin != Origin.of(order.url):
        raise errors.RedirectRefused(target=origin.host, why="the host is not among redirecthosts")
    return target


def _joined(url: str, location: str) -> str:
    if location.lower().startswith(("http://", "https://")):
        return location  # not even `urljoin` may touch it, which drops a `;` at the end of the path
    if not location or " " in location or not (location.isascii() and location.isprintable()):
        raise ValueError("not a URL: empty, or not printable ASCII")  # `urljoin` would mend it
    return urljoin(url, location)


def _send(doors: Doors, order: CopyOrder, url: str, stop: Stop, progress: Progress, *, at_door: bool) -> Response:
    if stop.is_set():
        raise errors.Cancelled
    origin, limits = Origin.of(url), order.deadlines
    answer_seconds = limits.door_seconds if at_door else limits.stall_seconds
    progress.phase("door_wait" if at_door else "connect")

    def connected() -> None:
        if not at_door:
            progress.phase("first_byte")

    connections = doors.door if at_door else doors.pools
    try:
        return connections.get(
            origin,
            target_of(url),
            Limits(limits.connect_seconds, answer_seconds, limits.stall_seconds),
            stop,
            connected,
        )
    except (Unconnected, BadHead, OSError) as error:
        if stop.is_set():
            raise errors.Cancelled from error
        raise _translated(error, origin, at_door=at_door, order=order) from error


def _translated(error: Exception, origin: Origin, *, at_door: bool, order: CopyOrder) -> errors.TryError:
    """Say what a broken exchange means."""
    host = origin.netloc
    cause = error.__cause__ or error if isinstance(error, Unconnected) else error
    if isinstance(cause, OSError) and cause.errno in _NO_FILE_HANDLES:
        return errors.TransientError(why=f"connection to {host}: {cause.strerror}")
    if at_door and isinstance(cause, TlsFailed) and tls.is_about_us(cause.reason):
        return errors.CredentialRefused(why=f"TLS alert {cause.reason} from {host}")
    if isinstance(error, Unconnected):
        return _unconnected(cause, host, at_door=at_door)
    if isinstance(error, TimeoutError) and at_door:
        return errors.DoorTimeout(seconds=order.deadlines.door_seconds)
    if isinstance(error, BadHead):
        return errors.ProtocolBroken(host=host, why=_words(error))
    return errors.ConnectionLost(host=host, phase="door_wait" if at_door else "first_byte", why=_words(error))


def _unconnected(cause: BaseException, host: str, *, at_door: bool) -> errors.TryError:
    """Say what it means that no connection came about; a pool is not the door: another may be named next time."""
    is_tls = isinstance(cause, TlsFailed)
    why = tls.NOT_ACCEPTED + cause.trouble if isinstance(cause, TlsFailed) and cause.trouble else _words(cause)
    if at_door:
        return errors.Unreachable(host=host, why=why)
    return errors.PoolRefused(host=host, why=why) if is_tls else errors.PoolUnreachable(host=host, why=why)


def _words(error: BaseException) -> str:
    return str(error)[:_MOST_QUOTED] or type(error).__name__


def _check_status(response: Response, origin: Origin, *, at_door: bool) -> None:
    status, host = response.status, origin.netloc
    if status == 200:
        return
    response.close()
    if at_door and status in (401, 403, 404):
        raise door_refusal(status, host)
    if status < 400:
        raise errors.ProtocolBroken(host=host, why=f"HTTP {status} to a plain GET", http_status=status)
    raise server_error(status, host, response.head.value("retry-after"))


def _checked(response: Response, origin: Origin, order: CopyOrder) -> Answer:
    host = origin.netloc
    size_bytes = _content_length(response, host)
    if order.size_bytes is not None and size_bytes != order.size_bytes:
        raise errors.LengthDiffers(host=host, offered_bytes=size_bytes, expected_bytes=order.size_bytes)
    # A sum that came over plain http proves nothing against who can change the body too.
    digest = checksum.parse_digest(response.head.value("digest")) if origin.scheme == "https" else None
    adler32 = order.adler32 if digest is None else digest
    if adler32 is None and order.require_checksum:
        raise errors.DigestMissing(host=host)
    return Answer(host, size_bytes, adler32, response.fill)


def _content_length(response: Response, host: str) -> int:
    if "transfer-encoding" in response.head.fields:
        raise errors.ProtocolBroken(host=host, why="a chunked body to a plain GET")
    lengths = lengths_of(response.head)
    if len(lengths) != 1:
        raise errors.ProtocolBroken(host=host, why=f"{len(lengths) or 'no'} Content-Length")
    text = lengths.pop()
    size_bytes = length_of(text)
    if size_bytes is None:
        raise errors.ProtocolBroken(host=host, why=f"Content-Length is {text[:20]!r}")
    return size_bytes
