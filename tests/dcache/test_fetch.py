from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dcalqr import errors
from dcalqr.attempt import StopFlag
from dcalqr.dcache import fetch, tls
from dcalqr.testing.pki import Pki
from tests.support.attempts import Notes, order_of, trust_of
from tests.support.foreign import FOREIGN, made

URL = "https://door.example:2880/lsst/f.fits"


class Broken(httpx.BaseTransport):
    """Answers the first requests, then raises."""

    def __init__(self, error: BaseException, *before: httpx.Response) -> None:
        self._error = error
        self._before = list(before)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._before:
            return self._before.pop(0)
        request.extensions["connected"]()
        raise self._error


class Dead(httpx.SyncByteStream):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        raise self._error


def refused(pki: Pki, transport: httpx.BaseTransport, **changes: Any) -> errors.DcalqrError:
    doors = fetch.Doors(trust_of(pki), transport)
    with pytest.raises(errors.DcalqrError) as caught, fetch.get(doors, order_of(URL, **changes), StopFlag(), Notes()):
        raise AssertionError("it gave an answer")
    doors.close()
    return caught.value


def moved(location: str = "https://pool.example/x", **how: Any) -> httpx.Response:
    return httpx.Response(302, headers={"Location": location}, **how)


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_no_foreign_exception_escapes(pki: Pki, kind: type[Exception]) -> None:
    at_door = refused(pki, Broken(made(kind)))
    at_pool = refused(pki, Broken(made(kind), moved()))
    assert isinstance(at_door, errors.TryError)
    assert isinstance(at_pool, errors.TransientError), "a pool's trouble holds nothing"
    in_redirect = moved(stream=Dead(made(kind)))
    in_redirect.headers["content-length"] = "9"
    broken = refused(pki, Broken(OSError("the pool"), in_redirect))
    assert broken.facts.get("phase") == "first_byte", "the body of a redirect is nobody's trouble"


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_whatever_prevents_a_connection_is_translated(pki: Pki, kind: type[Exception]) -> None:
    trouble = httpx.ConnectError("no")
    trouble.__cause__ = made(kind)
    assert isinstance(refused(pki, Broken(trouble)), errors.DoorHeld)
    is_tls = issubclass(kind, ssl.SSLError)
    expected = errors.PoolRefused if is_tls else errors.PoolUnreachable
    assert type(refused(pki, Broken(trouble, moved()))) is expected


@pytest.mark.parametrize(
    ("error", "at_door", "at_pool"),
    [
        (TimeoutError(), errors.DoorTimeout, errors.ConnectionLost),
        (httpx.ReadTimeout(""), errors.DoorTimeout, errors.ConnectionLost),
        (httpx.ConnectTimeout(""), errors.Unreachable, errors.PoolUnreachable),
        (httpx.ConnectError(""), errors.Unreachable, errors.PoolUnreachable),
        (ConnectionResetError(), errors.ConnectionLost, errors.ConnectionLost),
        (http.client.RemoteDisconnected(""), errors.ConnectionLost, errors.ConnectionLost),
        (ssl.SSLEOFError(), errors.ConnectionLost, errors.ConnectionLost),
        (http.client.BadStatusLine("x" * 10_000), errors.ProtocolBroken, errors.ProtocolBroken),
        (httpx.RemoteProtocolError(""), errors.ProtocolBroken, errors.ProtocolBroken),
        (OSError(24, "Too many open files"), errors.TransientError, errors.TransientError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_a_foreign_exception_means(pki: Pki, error: Exception, at_door: Any, at_pool: Any) -> None:
    for refusal, kind in ((refused(pki, Broken(error)), at_door), (refused(pki, Broken(error, moved())), at_pool)):
        assert type(refusal) is kind
        assert len(str(refusal)) < 400


def test_too_many_open_files_is_not_the_doors_fault(pki: Pki) -> None:
    trouble = httpx.ConnectError("no")
    trouble.__cause__ = OSError(24, "Too many open files")
    assert type(refused(pki, Broken(trouble))) is errors.TransientError


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", True),
        ("SSLV3_ALERT_BAD_CERTIFICATE", True),
        ("TLSV1_ALERT_UNKNOWN_CA", True),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", True),
        ("TLSV1_ALERT_ACCESS_DENIED", True),
        ("TLSV1_ALERT_INTERNAL_ERROR", False),
        ("CERTIFICATE_VERIFY_FAILED", False),
        ("", False),
    ],
)
def test_only_an_alert_about_our_certificate_is_about_our_credential(pki: Pki, reason: str, ours: bool) -> None:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    assert (type(refused(pki, Broken(error))) is errors.CredentialRefused) is ours
    assert type(refused(pki, Broken(error, moved()))) is errors.ConnectionLost
    assert tls.blames_us(error) is ours


def test_a_stop_turns_any_trouble_into_cancelled(pki: Pki) -> None:
    stop = StopFlag()

    class Stopped(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            stop.set()
            raise ConnectionResetError

    doors = fetch.Doors(trust_of(pki), Stopped())
    with pytest.raises(errors.Cancelled), fetch.get(doors, order_of(URL), stop, Notes()):
        raise AssertionError("it gave an answer")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://door.example/x", ("https", "door.example", 443)),
        ("http://Pool.Example/x", ("http", "pool.example", 80)),
        ("https://[2001:db8::1]:2880/x", ("https", "2001:db8::1", 2880)),
        ("https://192.0.2.1:1/x?y#z", ("https", "192.0.2.1", 1)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: tuple[str, str, int]) -> None:
    assert fetch.Origin.of(url) == origin


@pytest.mark.parametrize("url", ["", "/x", "https://", "https://u@h/", "https://h:0x1/", "https://h h/", "https://é/"])
def test_what_names_no_host_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError):
        fetch.Origin.of(url)


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("12", 12), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("9" * 5000, None), ("²", None), ("", None)],
)
def test_a_length_is_a_number_that_a_file_can_have(text: str, length: int | None) -> None:
    assert fetch.length_of(text) == length


def test_a_host_given_by_its_ipv6_address_is_asked_with_brackets(pki: Pki) -> None:
    asked = []

    class Listening(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked.append((request.url.host, request.headers["host"], request.extensions["target"]))
            return httpx.Response(503)

    doors, order = fetch.Doors(trust_of(pki), Listening()), order_of("https://[::1]:7/a")
    with pytest.raises(errors.ServerError), fetch.get(doors, order, StopFlag(), Notes()):
        raise AssertionError("it gave an answer")
    assert asked == [("::1", "[::1]:7", b"/a")]


def test_the_list_of_foreign_exceptions_is_not_empty_of_what_matters() -> None:
    assert {httpx.ReadError, http.client.LineTooLong, ssl.SSLCertVerificationError, socket.gaierror} <= set(FOREIGN)
