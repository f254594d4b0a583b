from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from dcalqr import errors
from dcalqr.attempt import StopFlag
from dcalqr.dcache import fetch, secure, tls
from dcalqr.dcache.channel import Channel
from dcalqr.dcache.connections import Connections, Limits, Response, Unconnected
from dcalqr.dcache.decrypting import Decrypting
from dcalqr.dcache.http1 import BadHead, Head, Origin, parse_head
from dcalqr.dcache.secure import TlsClient, TlsFailed
from dcalqr.orders import Stop
from dcalqr.testing.pki import Pki
from tests.support.attempts import Notes, RawServer, order_of, server_context, trust_of
from tests.support.foreign import CERTIFICATES, NAMES, SYSTEM, TLS, made

URL = "https://door.example:2880/lsst/f.fits"


def _name(kind: type[Exception]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


class Broken(Connections):
    """Gives the first answers, then raises."""

    def __init__(self, error: BaseException, *before: Response, connects: bool = True) -> None:
        self._error = error
        self._before = list(before)
        self._connects = connects
        self._idle = []
        self.asked: list[tuple[Origin, str]] = []

    def get(self, origin: Origin, target: str, limits: Limits, stop: Stop, connected: Callable[[], None]) -> Response:
        self.asked.append((origin, target))
        if self._before:
            return self._before.pop(0)
        if self._connects:
            connected()
        raise self._error

    def close(self) -> None:
        return


class Dead(Channel):
    """Raises at every read."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def receive(self, view: memoryview) -> int:
        raise self._error


def answer(head: Head, channel: Channel | None = None) -> Response:
    return Response(channel or Dead(AssertionError("read")), head, b"", 9.0, lambda _: None)


def moved(location: str = "https://pool.example/x") -> Response:
    return answer(parse_head(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0".encode()))


def refused(pki: Pki, door: Connections, pools: Connections, **changes: Any) -> errors.DcalqrError:
    doors = fetch.Doors(trust_of(pki))
    doors.door, doors.pools = door, pools
    with pytest.raises(errors.DcalqrError) as caught, fetch.get(doors, order_of(URL, **changes), StopFlag(), Notes()):
        raise AssertionError("it gave an answer")
    doors.close()
    return caught.value


def at_door(pki: Pki, error: BaseException, *, connects: bool = True) -> errors.DcalqrError:
    return refused(pki, Broken(error, connects=connects), Broken(AssertionError("a pool was asked")))


def at_pool(pki: Pki, error: BaseException, *, connects: bool = True) -> errors.DcalqrError:
    return refused(pki, Broken(AssertionError("twice"), moved()), Broken(error, connects=connects))


def unconnected(cause: BaseException) -> Unconnected:
    trouble = Unconnected()
    trouble.__cause__ = cause
    return trouble


# --- foreign exceptions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SYSTEM, ids=_name)
def test_no_foreign_exception_escapes(pki: Pki, kind: type[Exception]) -> None:
    error = TlsFailed("x") if kind is TlsFailed else made(kind)
    assert isinstance(at_door(pki, error), errors.TryError)
    assert isinstance(at_pool(pki, error), errors.TransientError), "a pool's trouble holds nothing"
    in_redirect = parse_head(b"HTTP/1.1 302 Found\r\nLocation: https://pool.example/x\r\nContent-Length: 9")
    door = Broken(AssertionError("twice"), answer(in_redirect, Dead(error)))
    broken = refused(pki, door, Broken(OSError("the pool")))
    assert broken.facts.get("phase") == "first_byte", "the body of a redirect is nobody's trouble"


@pytest.mark.parametrize("kind", [*SYSTEM, *NAMES], ids=_name)
def test_whatever_prevents_a_connection_is_translated(pki: Pki, kind: type[Exception]) -> None:
    trouble = unconnected(TlsFailed("x") if kind is TlsFailed else made(kind))
    assert isinstance(at_door(pki, trouble, connects=False), errors.DoorHeld)
    expected = errors.PoolRefused if kind is TlsFailed else errors.PoolUnreachable
    assert type(at_pool(pki, trouble, connects=False)) is expected


@pytest.mark.parametrize("kind", NAMES, ids=_name)
def test_a_name_that_cannot_be_encoded_is_no_connection(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def no_address(*_: object, **__: object) -> None:
        raise made(kind)

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    connections = Connections(TlsClient(trust_of(pki), with_proxy=False), keep=False)
    with pytest.raises(Unconnected):
        connections.get(Origin("https", "x", 1), "/", Limits(9, 9, 9), StopFlag(), lambda: None)


@pytest.mark.parametrize("kind", TLS, ids=_name)
@pytest.mark.parametrize("call", ["do_handshake", "send", "decrypt_into", "set_tlsext_host_name", "set_session"])
def test_no_exception_of_the_tls_library_escapes(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], call: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise made(kind)

    connections = Connections(TlsClient(trust_of(pki), with_proxy=False), keep=False)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with RawServer(ok, context=server_context(pki.host)) as server:
        origin, limits = Origin("https", "localhost", server.port), Limits(0.2, 0.2, 0.2)
        if call == "set_session":
            connections.get(origin, "/", Limits(9, 9, 9), StopFlag(), lambda: None).close()
        monkeypatch.setattr(Decrypting, call, broken)
        with pytest.raises((OSError, Unconnected)) as caught:
            connections.get(origin, "/", limits, StopFlag(), lambda: None)
        monkeypatch.undo()
    cause = caught.value.__cause__ if isinstance(caught.value, Unconnected) else caught.value
    assert isinstance(cause, OSError)


@pytest.mark.parametrize("kind", CERTIFICATES, ids=_name)
def test_no_exception_about_a_certificate_escapes(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def broken(*_: object) -> str:
        raise made(kind)

    monkeypatch.setattr(secure, "name_trouble", broken)
    client = TlsClient(trust_of(pki), with_proxy=False)
    with RawServer(b"", context=server_context(pki.host)) as server, pytest.raises(TlsFailed) as caught:
        client.connect(Origin("https", "localhost", server.port), 9, StopFlag())
    assert caught.value.trouble.startswith("it cannot be judged: ")


def test_the_lists_of_foreign_exceptions_are_not_empty_of_what_matters() -> None:
    assert {socket.gaierror, ssl.SSLCertVerificationError, BrokenPipeError, TimeoutError} <= set(SYSTEM)
    assert {UnicodeError, UnicodeEncodeError} <= set(NAMES)
    assert len(CERTIFICATES) > 10


@pytest.mark.parametrize(
    ("error", "door", "pool"),
    [
        (TimeoutError(), errors.DoorTimeout, errors.ConnectionLost),
        (unconnected(TimeoutError()), errors.Unreachable, errors.PoolUnreachable),
        (unconnected(ConnectionRefusedError()), errors.Unreachable, errors.PoolUnreachable),
        (unconnected(TlsFailed("x" * 10_000)), errors.Unreachable, errors.PoolRefused),
        (unconnected(TlsFailed("x", "y" * 200)), errors.Unreachable, errors.PoolRefused),
        (ConnectionResetError(), errors.ConnectionLost, errors.ConnectionLost),
        (TlsFailed("x"), errors.ConnectionLost, errors.ConnectionLost),
        (BadHead("x" * 10_000), errors.ProtocolBroken, errors.ProtocolBroken),
        (BadHead(""), errors.ProtocolBroken, errors.ProtocolBroken),
        (OSError(24, "Too many open files"), errors.TransientError, errors.TransientError),
        (unconnected(OSError(24, "Too many open files")), errors.TransientError, errors.TransientError),
        (unconnected(OSError(23, "Too many open files")), errors.TransientError, errors.TransientError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_an_exception_means(pki: Pki, error: Exception, door: Any, pool: Any) -> None:
    for refusal, kind in ((at_door(pki, error), door), (at_pool(pki, error), pool)):
        assert type(refusal) is kind
        assert len(str(refusal)) < 400


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("sslv3 alert certificate expired", True),
        ("ssl/tls alert bad certificate", True),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", True),
        ("TLSV1_ALERT_UNKNOWN_CA", True),
        ("tlsv1 alert unknown ca", True),
        ("tlsv13 alert certificate required", True),
        ("tlsv1 alert access denied", True),
        ("tlsv1 alert internal error", False),
        ("certificate verify failed", False),
        ("CERTIFICATE_VERIFY_FAILED", False),
        ("", False),
    ],
)
def test_only_an_alert_about_our_certificate_is_about_our_credential(pki: Pki, reason: str, ours: bool) -> None:
    error = TlsFailed(reason)
    for trouble in (error, unconnected(error)):
        assert (type(at_door(pki, trouble)) is errors.CredentialRefused) is ours
        assert isinstance(at_pool(pki, trouble), errors.ConnectionLost | errors.PoolRefused)
    old = ssl.SSLError(1, reason)
    old.reason = reason
    assert tls.is_about_us(reason) is tls.blames_us(old) is ours


def test_a_stop_turns_any_trouble_into_cancelled(pki: Pki) -> None:
    stop = StopFlag()

    class Stopped(Broken):
        def get(self, *_: object) -> Response:
            stop.set()
            raise self._error

    for error in (ConnectionResetError(), unconnected(OSError()), BadHead(""), TimeoutError(), TlsFailed("x")):
        doors = fetch.Doors(trust_of(pki))
        doors.door = Stopped(error)
        with pytest.raises(errors.Cancelled), fetch.get(doors, order_of(URL), stop, Notes()):
            raise AssertionError("it gave an answer")


# --- whom it asks ----------------------------------------------------------------------------------------------


def test_a_host_given_by_its_ipv6_address_is_asked_as_it_is(pki: Pki) -> None:
    door = Broken(AssertionError("twice"), answer(parse_head(b"HTTP/1.1 503 X\r\nRetry-After: 7")))
    doors, order = fetch.Doors(trust_of(pki)), order_of("https://[::1]:7/a")
    doors.door = door
    with pytest.raises(errors.ServerError) as caught, fetch.get(doors, order, StopFlag(), Notes()):
        raise AssertionError("it gave an answer")
    assert door.asked == [(Origin("https", "::1", 7), "/a")]
    assert caught.value.facts["retry_after_seconds"] == 7.0
    assert "[::1]:7" in str(caught.value)


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("https://door.example:2880/other", None),
        ("HTTPS://Door.Example:2880/a/../b;", None),
        ("/x?y", None),
        ("https://door.example/x", ("https", "door.example", 443)),
        ("https://door.example:2881/x", ("https", "door.example", 2881)),
        ("https://sub.door.example:2880/x", ("https", "sub.door.example", 2880)),
        ("//pool.example/x", ("https", "pool.example", 443)),
        ("https://[2001:db8::1]:1/x", ("https", "2001:db8::1", 1)),
    ],
)
def test_only_scheme_host_and_port_of_the_door_make_a_redirect_the_doors(
    pki: Pki, location: str, asked: tuple[str, str, int] | None
) -> None:
    door, pools = Broken(OSError("door"), moved(location)), Broken(OSError("pool"))
    refused(pki, door, pools)
    if asked is None:
        assert len(door.asked) == 2
        assert pools.asked == []
    else:
        assert len(door.asked) == 1
        assert [origin for origin, _ in pools.asked] == [asked]


@pytest.mark.parametrize(
    "location",
    [
        *("", " ", "/a b", "/a\tb", "\x01/a", "/\x7f", "/é", "\xa0/x", "https://pool.example/\t\x0b"),
        *("https://door.example:2880@evil.example/x", "https://evil.example\\@door.example:2880/x", "https://po,ol/"),
        *("https://pool.example[::1]/x", "https://pool.example:0/x", "javascript:x", "file:///etc/passwd", "ftp://h/"),
    ],
)
def test_a_location_that_would_have_to_be_mended_is_refused(pki: Pki, location: str) -> None:
    door = Broken(AssertionError("twice"), moved(location))
    assert type(refused(pki, door, Broken(AssertionError("asked")))) is errors.RedirectRefused


@pytest.mark.parametrize(
    "location",
    [
        "https://user:SECRET@pool.example/x",
        "https://po%ol/x?dcache-http-uuid=SECRET",
        "https://pool.example:0/x?authz=SECRET",
        "ftp://user:SECRET@pool/",
        "/a b?SECRET",
        "https://@SECRET:x@pool/?SECRET",
    ],
)
def test_a_refused_redirect_names_no_password_and_no_ticket(pki: Pki, location: str) -> None:
    error = refused(pki, Broken(AssertionError("twice"), moved(location)), Broken(AssertionError("asked")))
    assert type(error) is errors.RedirectRefused
    assert "SECRET" not in f"{error} {error.facts}"
