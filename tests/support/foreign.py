"""Every exception class that the libraries under our transports may raise: a test fails if one is not translated."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator

import httpx

# What `httpx` says about its own misuse cannot come out of a transport.
_ROOTS: tuple[type[Exception], ...] = (httpx.RequestError, http.client.HTTPException, OSError, UnicodeError)
_LIBRARIES = {"builtins", "http.client", "httpx", "socket", "ssl", "_ssl"}


def _below(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _below(below)


FOREIGN = sorted(
    {kind for root in _ROOTS for kind in _below(root) if kind.__module__ in _LIBRARIES},
    key=lambda kind: f"{kind.__module__}.{kind.__qualname__}",
)
assert socket.gaierror in FOREIGN
assert ssl.SSLError in FOREIGN


def made(kind: type[Exception]) -> Exception:
    """Make an exception of any of these classes."""
    if kind is UnicodeEncodeError:
        return UnicodeEncodeError("idna", "x", 0, 1, "label too long")
    if kind is UnicodeDecodeError:
        return UnicodeDecodeError("ascii", b"x", 0, 1, "no")
    if kind is UnicodeTranslateError:
        return UnicodeTranslateError("x", 0, 1, "no")
    if kind is http.client.IncompleteRead:
        return http.client.IncompleteRead(b"")
    error = kind("x")
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_code, error.verify_message = 10, "certificate has expired"
    return error
