"""TLS on a channel, by pyOpenSSL.

Not by the standard library's `ssl`: pyOpenSSL brings an OpenSSL of its own, newer than that of most systems, in which a
resumed handshake costs half as much and the decryption a fifth less (`benchmarks/README.md`). It checks chain, CRLs and
names as `tls` says: the CA directory is read on demand, and the name is checked within the handshake, before the first
byte of a request.

A session is resumed only within its credential generation and only with the host and port that showed the certificate,
so it lives no longer than a verified certificate is believed: `tls.CONTEXT_LIFE_SECONDS`. Some servers ask for our
certificate and then fail whoever resumes; with them it is given up after the first trouble.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from dcalqr.dcache.channel import NOTHING_YET, Channel
from dcalqr.dcache.decrypting import Decrypting, code_of
from dcalqr.dcache.http1 import Origin
from dcalqr.dcache.names import is_address, name_trouble
from dcalqr.dcache.tls import Trust, verify_words
from dcalqr.errors import CredentialRefused
from dcalqr.orders import Stop

# The order of Go and of browsers. OpenSSL's own begins with AES-256: a quarter more work a byte, and SHA-384 in each
# handshake, which has no instructions of its own on most processors.
_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# A few kB each; a facility has some hundred pools.
_MOST_SESSIONS = 1024


class TlsFailed(OSError):
    """The TLS library refused, or the peer's did.

    Parameters
    ----------
    reason
        In OpenSSL's words: "tlsv1 alert unknown ca".
    trouble
        Why the peer's certificate is not accepted, in words; empty: it was not about that.
    """

    def __init__(self, reason: str, trouble: str = "") -> None:
        super().__init__(trouble or reason)
        self.reason = reason
        self.trouble = trouble


class _Sessions:
    """What can be resumed with whom; None: nothing ever. Safe to share between threads."""

    def __init__(self) -> None:
        self._kept: dict[Origin, SSL.Session | None] = {}

    def of(self, origin: Origin) -> SSL.Session | None:
        return self._kept.get(origin)

    def keep(self, origin: Origin, session: SSL.Session | None) -> None:
        if len(self._kept) >= _MOST_SESSIONS:
            self._kept.clear()  # each costs one full handshake again
        if session is not None and self._kept.get(origin, session) is not None:
            self._kept[origin] = session

    def give_up(self, origin: Origin) -> None:
        self._kept[origin] = None


class TlsChannel(Channel):
    """TLS on a connected socket."""

    def __init__(self, sock: socket.socket, tls: Decrypting, origin: Origin, sessions: _Sessions) -> None:
        super().__init__(sock)
        self._tls = tls
        self._origin = origin
        self._sessions = sessions
        self._offered = sessions.of(origin)
        if self._offered is not None:
            tls.set_session(self._offered)

    def handshake(self, seconds: float, peer: _Peer) -> None:
        """Shake hands within so many seconds; raises as `receive`, and TimeoutError."""
        try:
            self._shake_hands(time.monotonic() + seconds)
        except OSError as error:
            self.distrust()
            if peer.trouble:
                raise TlsFailed(str(error), peer.trouble) from error
            raise

    def _shake_hands(self, until: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                self._wait(select.POLLIN, until)
            except SSL.WantWriteError:
                self._wait(select.POLLOUT, until)
            except SSL.Error as error:
                raise _said(error) from error
            else:
                return

    def receive(self, view: memoryview) -> int:
        try:
            return self._tls.decrypt_into(view)
        except SSL.Error as error:
            raise _said(error) from error

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._tls.send(data)
        except SSL.WantWriteError:
            return NOTHING_YET
        except SSL.Error as error:
            raise _said(error) from error

    @property
    def is_quiet(self) -> bool:
        return not self._tls.pending() and super().is_quiet

    def remember(self) -> None:
        self._sessions.keep(self._origin, self._tls.get_session())

    def distrust(self) -> None:
        if self._offered is not None:
            self._sessions.give_up(self._origin)

    def close(self) -> None:
        # Without a last word OpenSSL takes the session for broken, and many a server too, which logs a complaint.
        with contextlib.suppress(SSL.Error):
            self._tls.shutdown()
        super().close()


def _said(error: SSL.Error) -> OSError:
    """Say as an OSError what pyOpenSSL raised."""
    if isinstance(error, SSL.SysCallError):
        code = code_of(error)
        return OSError(code, os.strerror(code)) if code else ConnectionResetError("closed by the other side")
    reasons = error.args[0] if error.args else ()
    return TlsFailed("; ".join(reason for *_, reason in reasons) or type(error).__name__)


class _Peer:
    """Whom a connection is for, and why its certificate was refused, in words."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.trouble = ""


class TlsClient:
    """Makes TLS channels for one credential generation, safe to share between threads.

    Parameters
    ----------
    trust
        The generation.
    with_proxy
        Whether the proxy is shown: to the door, and to nobody else.

    Raises
    ------
    CredentialRefused
        The proxy or the CA directory cannot be loaded.
    """

    def __init__(self, trust: Trust, *, with_proxy: bool) -> None:
        self._capath = trust.capath
        self._sessions = _Sessions()
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_tls13_ciphersuites(_SUITES)
        self._context.set_options(SSL.OP_NO_RENEGOTIATION)  # TLS 1.2: a server could have handshakes without end
        self._context.set_verify(SSL.VERIFY_PEER, self._judge)
        try:
            self._context.load_verify_locations(None, trust.capath)
        except (SSL.Error, OSError, ValueError) as error:
            raise CredentialRefused(why=f"the CA directory {trust.capath} cannot be used: {_words(error)}") from error
        if trust.crl_check:
            store = self._context.get_cert_store()
            assert store is not None
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
        if with_proxy:
            self._show(trust.proxy)

    def _show(self, proxy: str) -> None:
        try:
            with open(proxy, "rb") as file:
                data = file.read()  # once: the file may be exchanged at any moment, and its key belongs to its chain
            own, *chain = x509.load_pem_x509_certificates(data)
            key = serialization.load_pem_private_key(data, password=None)
            self._context.use_certificate(own)
            for certificate in chain:
                self._context.add_extra_chain_cert(certificate)
            self._context.use_privatekey(key)  # type: ignore[arg-type]  # of whatever kind the server makes of it
        except (SSL.Error, OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CredentialRefused(why=f"the proxy {proxy} cannot be loaded: {_words(error)}") from error

    def connect(self, origin: Origin, seconds: float, stop: Stop) -> Channel:
        """Connect and, for https, shake hands, each within `seconds`; a stop ends either at once.

        Raises
        ------
        OSError
            No connection came about; `TlsFailed` and TimeoutError are two.
        """
        plain = Channel.reach(origin, seconds, stop)
        if origin.scheme == "http":
            return plain
        peer = _Peer(origin.host)
        try:
            channel = self._secured(plain, origin, peer)
            channel.handshake(seconds, peer)
        except BaseException:
            stop.attach(None)
            plain.close()
            raise
        return channel

    def _secured(self, plain: Channel, origin: Origin, peer: _Peer) -> TlsChannel:
        try:
            tls = Decrypting(self._context, plain.sock)
            tls.set_app_data(peer)
            if not is_address(origin.host):
                tls.set_tlsext_host_name(origin.host.encode("ascii"))
            tls.set_connect_state()
            return TlsChannel(plain.sock, tls, origin, self._sessions)
        except SSL.Error as error:
            raise _said(error) from error

    def _judge(self, tls: SSL.Connection, certificate: crypto.X509, code: int, depth: int, accepted: int) -> bool:
        """Is asked by OpenSSL for each certificate of a full handshake, the host's own last.

        Never raises: pyOpenSSL would give it to whatever connection of this context is next.
        """
        peer: _Peer = tls.get_app_data()
        try:
            if not accepted:
                peer.trouble = verify_words(code, self._capath)
            elif depth == 0:
                peer.trouble = name_trouble(certificate, peer.host)
        except Exception as error:  # noqa: BLE001 - of whatever libraries read certificates and CRLs
            peer.trouble = f"it cannot be judged: {str(error) or type(error).__name__}"
        return not peer.trouble


def _words(error: Exception) -> str:
    return str(_said(error) if isinstance(error, SSL.Error) else error)
