"""Every exception class that the libraries under us may raise: a test fails if one is not translated.

Under `connections` those of the system and of pyOpenSSL, under `door` those of httpx.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import cryptography.exceptions
import httpx
import service_identity
from cryptography import x509
from OpenSSL import SSL, crypto

from dcalqr.dcache.connections import Unconnected
from dcalqr.dcache.http1 import BadHead
from dcalqr.dcache.secure import TlsFailed

# What a connection may raise: its own words, and the system's.
_OUTWARDS: tuple[type[Exception], ...] = (OSError, Unconnected, BadHead)
_OURS_AND_THE_SYSTEMS = {"builtins", "socket", "ssl", "_ssl", "dcalqr.dcache.secure", "dcalqr.dcache.channel"}


def _below(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _below(below)


def _sorted(kinds: set[type[Exception]]) -> list[type[Exception]]:
    return sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


# Of the standard library's `ssl` none is expected here; they are OSErrors, and so they are understood.
SYSTEM = _sorted({kind for kind in _below(OSError) if kind.__module__ in _OURS_AND_THE_SYSTEMS})
assert {socket.gaierror, ssl.SSLError, TlsFailed, ConnectionResetError} <= set(SYSTEM)
NAMES = _sorted(set(_below(UnicodeError)) - {kind for kind in _below(UnicodeError) if kind.__module__ != "builtins"})
# What `httpx` says about its own misuse cannot come out of a request.
HTTPX = _sorted({*_below(httpx.RequestError), *NAMES, *(kind for kind in SYSTEM if kind is not TlsFailed)})
TLS = _sorted(set(_below(SSL.Error)))
assert {SSL.SysCallError, SSL.ZeroReturnError, SSL.WantReadError, SSL.WantX509LookupError} <= set(TLS)
# What may be raised where a certificate is judged or a credential is loaded.
CERTIFICATES = _sorted(
    {
        *(service_identity.CertificateError, service_identity.VerificationError),
        *(x509.DuplicateExtension, x509.ExtensionNotFound, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
        *(each for each in vars(cryptography.exceptions).values() if isinstance(each, type)),
        *(crypto.Error, ValueError, TypeError, OverflowError, UnicodeDecodeError, OSError),
    }
    & set(_below(Exception))
)


def made(kind: type[Exception]) -> Exception:
    """Make an exception of any of these classes."""
    if kind is UnicodeEncodeError:
        return UnicodeEncodeError("idna", "x", 0, 1, "label too long")
    if kind is UnicodeDecodeError:
        return UnicodeDecodeError("ascii", b"x", 0, 1, "no")
    if kind is UnicodeTranslateError:
        return UnicodeTranslateError("x", 0, 1, "no")
    if kind is SSL.SysCallError:
        return SSL.SysCallError(-1, "Unexpected EOF")
    if issubclass(kind, SSL.WantReadError | SSL.WantWriteError | SSL.WantX509LookupError | SSL.ZeroReturnError):
        return kind()
    if issubclass(kind, SSL.Error | crypto.Error):
        return kind([("SSL routines", "", "something")])
    if issubclass(kind, x509.DuplicateExtension | x509.ExtensionNotFound):
        return kind("x", x509.ObjectIdentifier("2.5.29.17"))
    if kind is x509.InvalidVersion:
        return x509.InvalidVersion("x", 7)
    error = kind("x")
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_code, error.verify_message = 10, "certificate has expired"
    return error
