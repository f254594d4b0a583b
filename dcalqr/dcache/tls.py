"""Whom we trust and who we are: the only place that makes SSL contexts. Blocking, used by attempts and by the daemon.

Two contexts: the door's bears our proxy certificate, the pools' does not, so that no credential reaches another host.
Not `ssl.create_default_context`: its strict flag refuses many grid CAs from Python 3.13 on, and it reads variables of
the environment. OpenSSL reads CA certificates and CRLs of a directory on demand and keeps them for the life of a
context, so contexts are rebuilt when a file changes, and at least hourly.
"""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass

import msgspec

from dcalqr.errors import CredentialRefused, DcalqrError

# A revoked certificate is refused at the latest after this long, even where the CRL's time stamp did not change.
CONTEXT_LIFE_SECONDS = 3600.0
# Of OpenSSL's x509_vfy.h: the verify errors that a grid meets, in OpenSSL's own words. pyOpenSSL gives
# the numbers only.
_VERIFY_WORDS = {
    3: "unable to get certificate CRL",
    7: "certificate signature failure",
    8: "CRL signature failure",
    9: "certificate is not yet valid",
    10: "certificate has expired",
    11: "CRL is not yet valid",
    12: "CRL has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    23: "certificate revoked",
    26: "unsuitable certificate purpose",
    33: "unable to get CRL issuer certificate",
    34: "unhandled critical extension",
    40: "proxy certificates not allowed, please set the appropriate flag",
    47: "permitted subtree violation",
    66: "EE certificate key too weak",
    67: "CA certificate key too weak",
    68: "CA signature digest algorithm too weak",
    79: "invalid CA certificate",
}
# How `crl_complaints` words what is behind some of these; OpenSSL does not say which CA it was about.
_CRL_ERRORS = {3: ("missing", "unreadable"), 11: ("not valid before",), 12: ("expired",)}
_MOST_NAMED_FILES = 3
NOT_ACCEPTED = "its certificate is not accepted: "


class Trust(msgspec.Struct, frozen=True):
    """One generation of credentials, as paths: it travels to worker processes, which load the files themselves.

    Parameters
    ----------
    generation
        Counts up whenever a file has changed.
    proxy
        PEM file: proxy certificate, its key, the chain.
    capath
        Directory of CA certificates by hash (HASH.0) and, for `crl_check`, of CRLs (HASH.r0).
    crl_check
        Refuse what a CRL revokes, and whatever has no valid CRL.
    expires_at
        The earliest notAfter of the proxy's chain, in seconds since the epoch.
    """

    generation: int
    proxy: str
    capath: str
    crl_check: bool
    expires_at: float


def door_context(trust: Trust) -> ssl.SSLContext:
    """Return a context for the door: it verifies the server and shows our proxy.

    Raises
    ------
    CredentialRefused
        The proxy or the CA directory cannot be loaded.
    """
    context = pools_context(trust)
    try:
        context.load_cert_chain(trust.proxy)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CredentialRefused(why=f"the proxy {trust.proxy} cannot be loaded: {error}") from error
    return context


def pools_context(trust: Trust) -> ssl.SSLContext:
    """Return a context for any other host: it verifies the server and shows nothing of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if trust.crl_check:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    try:
        context.load_verify_locations(capath=trust.capath)
    except OSError as error:
        raise CredentialRefused(why=f"the CA directory {trust.capath} cannot be used: {error}") from error
    return context


def handshake_trouble(error: ssl.SSLError, capath: str) -> str:
    """Say in words why a handshake failed; for a missing or expired CRL name the CA's hash and file."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NOT_ACCEPTED + verify_words(error.verify_code, capath, error.verify_message)
    return getattr(error, "reason", None) or str(error) or type(error).__name__


def verify_words(code: int, capath: str, message: str = "") -> str:
    """Say in words what OpenSSL's verify error means; `message` is what it says itself, if the library tells."""
    words = message or _VERIFY_WORDS.get(code) or f"OpenSSL's verify error {code}"
    if code in _CRL_ERRORS:
        words += f" ({', '.join(_crl_suspects(capath, code)) or 'by the CRLs in ' + capath})"
    return words


def _crl_suspects(capath: str, verify_code: int) -> list[str]:
    try:
        complaints = crl_complaints(capath)
    except OSError as error:
        return [f"{capath}: {error.strerror}"]
    wanted = _CRL_ERRORS[verify_code]
    named = [complaint for complaint in complaints if any(word in complaint for word in wanted)]
    return [os.path.join(capath, complaint) for complaint in named[:_MOST_NAMED_FILES]]


def blames_us(error: ssl.SSLError) -> bool:
    """Whether the peer's alert is about our certificate, and not about the connection."""
    return is_about_us(getattr(error, "reason", None) or "")  # ssl's own Python code raises some without


def is_about_us(reason: str) -> bool:
    """Whether a TLS library's words are the peer's alert about our certificate."""
    words = reason.upper().replace(" ", "_")
    return "ALERT" in words and any(word in words for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"))


def crl_complaints(capath: str) -> list[str]:
    """Name the CAs of a directory that have no CRL or an expired one, as `HASH.r0 missing` or `HASH.r0 expired`."""
    from cryptography import x509

    complaints = []
    for name in sorted(os.listdir(capath)):
        stem, dot, suffix = name.rpartition(".")
        if not dot or suffix != "0":
            continue
        crl_path = os.path.join(capath, f"{stem}.r0")
        try:
            with open(crl_path, "rb") as stream:
                data = stream.read()
            pem = b"-----BEGIN" in data
            crl = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        except FileNotFoundError:
            complaints.append(f"{stem}.r0 missing")
        except (OSError, ValueError) as error:
            complaints.append(f"{stem}.r0 unreadable: {error}")
        else:
            if crl.last_update_utc.timestamp() > time.time():
                complaints.append(f"{stem}.r0 not valid before {crl.last_update_utc:%Y-%m-%d %H:%M} UTC")
            if crl.next_update_utc is not None and crl.next_update_utc.timestamp() < time.time():
                complaints.append(f"{stem}.r0 expired on {crl.next_update_utc:%Y-%m-%d %H:%M} UTC")
    return complaints


def proxy_expiry(path: str) -> float:
    """Return the earliest notAfter of all certificates in a PEM file, in seconds since the epoch.

    Raises
    ------
    CredentialRefused
        The file cannot be read or holds no certificate.
    """
    from cryptography import x509

    try:
        with open(path, "rb") as stream:
            chain = x509.load_pem_x509_certificates(stream.read())
    except (OSError, ValueError) as error:
        raise CredentialRefused(why=f"the proxy {path} cannot be read: {error}") from error
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _directory_stamp(path: str) -> frozenset[tuple[str, tuple[int, int, int]]]:
    """Return names and stamps of a directory's files; empty when it is not there.

    Not the newest time alone: packages and rsync bring new files with old times.
    """
    try:
        names = os.listdir(path)
    except OSError:
        return frozenset()
    return frozenset((name, _stamp(os.path.join(path, name))) for name in names)


@dataclass(frozen=True)
class _Stamps:
    proxy: tuple[int, int, int]
    capath: frozenset[tuple[str, tuple[int, int, int]]]


class Credentials:
    """The present Trust, renewed from disk: build new, then swap; a failed load keeps the old.

    Blocking calls; the daemon makes them in a thread.

    Parameters
    ----------
    proxy, capath
        Paths of the PEM file and of the CA directory.
    crl_check
        Whether CRLs count.
    """

    def __init__(self, proxy: str, capath: str, *, crl_check: bool) -> None:
        self._proxy, self._capath, self._crl_check = proxy, capath, crl_check
        self._stamps: _Stamps | None = None
        self._built_at = 0.0
        self._trust: Trust | None = None
        self._generation = 0
        self.trouble: DcalqrError | None = None

    def use(self, proxy: str, capath: str) -> None:
        """Take other paths from the next `refresh` on."""
        if (proxy, capath) != (self._proxy, self._capath):
            self._proxy, self._capath, self._stamps = proxy, capath, None

    def refresh(self) -> Trust | None:
        """Look at the files; returns the new generation if one was made, expired or not.

        A failed load is kept in `trouble` and tried again at the next call.
        """
        stamps = _Stamps(_stamp(self._proxy), _directory_stamp(self._capath))
        aged = time.monotonic() - self._built_at > CONTEXT_LIFE_SECONDS
        if self._trust is not None and stamps == self._stamps and not aged:
            self.trouble = None  # a broken file that was put back as it had been
            return None
        try:
            if not stamps.capath:
                raise CredentialRefused(why=f"the CA directory {self._capath} is missing or empty")
            trust = Trust(self._generation + 1, self._proxy, self._capath, self._crl_check, proxy_expiry(self._proxy))
            door_context(trust)
        except DcalqrError as error:
            self.trouble = error
            return None
        self._trust, self._stamps, self._built_at = trust, stamps, time.monotonic()
        self._generation += 1
        self.trouble = None
        return trust

    def current(self) -> Trust:
        """Return the present generation.

        Raises
        ------
        CredentialRefused
            None could ever be loaded, or the proxy has expired. (Under TLS 1.3 an expired proxy would look like a
            network fault, so it is checked before use.)
        """
        if self._trust is None:
            raise self.trouble or CredentialRefused(why="the proxy was not loaded yet")
        if self._trust.expires_at <= time.time():
            raise CredentialRefused(
                why=f"the proxy {self._proxy} expired at "
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(self._trust.expires_at))} UTC"
            )
        return self._trust
