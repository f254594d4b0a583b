"""Every promise of `secure`, against real handshakes with Python's own TLS as the server."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import ipaddress
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from dcalqr import errors
from dcalqr.attempt import StopFlag
from dcalqr.dcache import names, secure, tls
from dcalqr.dcache.channel import NOTHING_YET, Channel
from dcalqr.dcache.http1 import Origin, request
from dcalqr.dcache.secure import TlsChannel, TlsClient, TlsFailed
from dcalqr.testing.certificates import DAY, present
from dcalqr.testing.pki import Pki, make_pki
from tests.support.attempts import SOON_SECONDS, connections_to, deaf_port, server_context, trust_of
from tests.support.process import wait_until
from tests.support.tlscerts import ca_of, host, intermediate
from tests.support.tlsserver import OK, TlsServer


@pytest.fixture
def own(tmp_path: Path) -> Pki:
    """Certificates that the test may change."""
    return make_pki(tmp_path / "pki")


def client_of(pki: Pki, *, crl_check: bool = False, with_proxy: bool = False) -> TlsClient:
    return TlsClient(trust_of(pki, crl_check=crl_check), with_proxy=with_proxy)


def received(channel: Channel, at_most: int = 1 << 20) -> bytes:
    """Read to the end of the connection, or so many pieces of what comes."""
    data, block, pieces = b"", memoryview(bytearray(16384)), 0
    while pieces < at_most and (count := channel.receive(block)):
        if count == NOTHING_YET:
            channel.wait(SOON_SECONDS)
        else:
            data += block[:count]
            pieces += 1
    return data


def ask(client: TlsClient, port: int, name: str = "localhost", stop: StopFlag | None = None) -> bytes:
    """Connect, ask, remember the session when the answer begins, as an attempt does, and read it."""
    origin = Origin("https", name, port)
    channel = client.connect(origin, SOON_SECONDS, stop or StopFlag())
    try:
        channel.send(request(origin, "/"), SOON_SECONDS)
        channel.wait(SOON_SECONDS)
        answer = b""
        while not answer.endswith(b"hello") and (more := received(channel, at_most=1)):
            channel.remember()
            answer += more
    finally:
        channel.close()
    return answer


def refusal(client: TlsClient, pem: Path, name: str = "localhost") -> TlsFailed:
    with TlsServer(server_context(pem)) as server, pytest.raises(TlsFailed) as caught:
        ask(client, server.port, name)
    assert server.requests == [], "nothing was said to a server that is not accepted"
    assert connections_to(server.port) == 0
    return caught.value


def asking_context(pki: Pki) -> ssl.SSLContext:
    """A server's that asks for certificates and takes any of the authority, or none."""
    context = server_context(pki.host)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(pki.ca)
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    return context


# --- whom it trusts --------------------------------------------------------------------------------------------


def test_a_good_host_is_accepted_and_bad_ones_are_not(pki: Pki) -> None:
    client = client_of(pki, crl_check=True)
    with TlsServer(server_context(pki.host)) as server:
        assert ask(client, server.port) == OK
    words = {
        pki.host_wrong_name: "Hostname mismatch, certificate is not valid for localhost",
        pki.host_expired: "certificate has expired",
        pki.host_revoked: "certificate revoked",
        pki.host_unknown_ca: "unable to get local issuer certificate",
    }
    for pem, word in words.items():
        error = refusal(client, pem)
        assert error.trouble == str(error) == word
        assert not tls.is_about_us(error.reason)


def test_without_crlcheck_a_revoked_host_is_accepted(pki: Pki) -> None:
    with TlsServer(server_context(pki.host_revoked)) as server:
        assert ask(client_of(pki), server.port) == OK


def test_no_other_authority_is_trusted_whatever_the_environment_says(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.unknown_ca))
    monkeypatch.setenv("SSL_CERT_DIR", str(pki.unknown_ca.parent))
    refusal(client_of(pki), pki.host_unknown_ca)


def test_an_authority_that_came_later_is_found_on_demand(own: Pki) -> None:
    hidden = ca_of(own)
    path = own.certificates / f"{hidden.hash}.0"
    path.unlink()
    client = client_of(own)
    assert "issuer" in refusal(client, own.host).trouble
    hidden.trust()
    with TlsServer(server_context(own.host)) as server:
        assert ask(client, server.port) == OK


@pytest.mark.parametrize("name", ["proxy", "user"])
def test_no_user_can_play_a_host(own: Pki, tmp_path: Path, name: str) -> None:
    pem = own.proxy
    if name == "user":
        pem = host(tmp_path / "user.pem", ca_of(own), [x509.DNSName("localhost")], client_only=True)
    assert refusal(client_of(own), pem).trouble in (
        "unsuitable certificate purpose",
        "proxy certificates not allowed, please set the appropriate flag",
        "unable to get local issuer certificate",
        "invalid CA certificate",
    )


def test_a_ca_directory_that_cannot_be_used_is_named(pki: Pki) -> None:
    trust = tls.Trust(1, str(pki.proxy), "", crl_check=False, expires_at=0)
    with pytest.raises(errors.CredentialRefused, match="the CA directory  cannot be used: invalid directory"):
        TlsClient(trust, with_proxy=False)


def test_tls_below_1_2_is_refused(pki: Pki) -> None:
    old = server_context(pki.host)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    client = client_of(pki)
    client._context.set_cipher_list(b"ALL:@SECLEVEL=0")  # it could, if it might
    with TlsServer(old) as server:
        with pytest.raises(TlsFailed) as caught:
            ask(client, server.port)
        assert "protocol version" in str(caught.value) or "unsupported protocol" in str(caught.value)
        assert server.versions == []
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = server_context(pki.host)
        context.minimum_version = context.maximum_version = version
        with TlsServer(context) as server:
            assert ask(client, server.port) == OK
            assert server.versions == [name]


def test_a_chain_as_large_as_certificates_may_be_does_no_harm(own: Pki, tmp_path: Path) -> None:
    def padded(size_bytes: int) -> Path:
        padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(size_bytes))
        return host(tmp_path / "host.pem", ca_of(own), [x509.DNSName("localhost")], extra=padding)

    client, large = client_of(own), padded(80_000)
    with TlsServer(server_context(large)) as server:
        assert ask(client, server.port) == ask(client, server.port) == OK
    assert "excessive message size" in str(refusal(client, padded(200_000)))


# --- names -----------------------------------------------------------------------------------------------------


def _ip(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("names", "asked", "accepted"),
    [
        ([x509.DNSName("localhost")], "localhost", True),
        ([x509.DNSName("other.example"), x509.DNSName("LOCALHOST")], "localhost", True),
        ([x509.DNSName("other.example")], "localhost", False),
        ([x509.DNSName("localhost")], "127.0.0.1", False),
        ([x509.DNSName("127.0.0.1")], "127.0.0.1", False),
        ([_ip("127.0.0.1")], "127.0.0.1", True),
        ([_ip("127.0.0.2")], "127.0.0.1", False),
        ([_ip("127.0.0.1")], "localhost", False),
        ([x509.DNSName("*")], "localhost", False),
        ([x509.DNSName("*.localhost")], "pool.localhost", False),
        ([x509.DNSName("*.site.localhost")], "site.localhost", False),
        ([x509.DNSName("*.site.localhost")], "pool.site.localhost", True),
        ([x509.DNSName("*.site.localhost")], "a.pool.site.localhost", False),
        ([x509.DNSName("p*.site.localhost")], "pool.site.localhost", False),
        ([x509.DNSName("pool.*.localhost")], "pool.site.localhost", False),
        ([x509.DNSName("127.0.0.1"), x509.DNSName("p*"), x509.DNSName("localhost")], "localhost", True),
        ([x509.UniformResourceIdentifier("https://localhost:1/"), x509.DNSName("localhost")], "localhost", True),
        ([x509.UniformResourceIdentifier("https://localhost/")], "localhost", False),
        ([x509.RFC822Name("localhost@localhost")], "localhost", False),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_certificate_is_good_for_the_names_it_bears(
    own: Pki,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[x509.GeneralName],
    asked: str,
    accepted: bool,
) -> None:
    real = socket.getaddrinfo

    def to_loopback(name: str, *where: Any, **how: Any) -> Any:
        return real("127.0.0.1" if name.endswith("localhost") else name, *where, **how)

    monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
    pem = host(tmp_path / "host.pem", ca_of(own), names)
    if accepted:
        with TlsServer(server_context(pem)) as server:
            assert ask(client_of(own), server.port, asked) == OK
    else:
        error = refusal(client_of(own), pem, asked)
        assert error.trouble == f"Hostname mismatch, certificate is not valid for {asked}"


def test_a_common_name_is_no_name_of_a_host_and_the_words_say_so(own: Pki, tmp_path: Path) -> None:
    error = refusal(client_of(own), host(tmp_path / "host.pem", ca_of(own), [], common_name="localhost"))
    assert "subjectAltName" in error.trouble


def test_whatever_a_library_says_of_a_certificate_is_a_refusal_and_no_one_elses_trouble(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise x509.UnsupportedGeneralNameType("no such kind")

    client = client_of(pki)
    with monkeypatch.context() as patched:
        patched.setattr(names, "_is_name_of", broken)
        assert refusal(client, pki.host).trouble == "it cannot be judged: no such kind"
    with TlsServer(server_context(pki.host)) as server:
        assert ask(client, server.port) == OK, "the next connection knows nothing of it"


def test_an_address_is_asked_for_without_a_name_and_a_name_with_it(pki: Pki) -> None:
    asked: list[str | None] = []
    context = server_context(pki.host)
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    with TlsServer(context) as server:
        for name in ("localhost", "127.0.0.1"):
            assert ask(client_of(pki), server.port, name) == OK
    with TlsServer(context, "::1") as server:
        assert ask(client_of(pki), server.port, "::1") == OK
        assert b"Host: [::1]:" in server.requests[0]
    assert asked == ["localhost", None, None]


# --- CRLs ------------------------------------------------------------------------------------------------------


def crl_path(pki: Pki) -> Path:
    return pki.certificates / f"{ca_of(pki).hash}.r0"


def test_a_missing_crl_is_named_with_hash_and_file(own: Pki) -> None:
    crl_path(own).unlink()
    said = refusal(client_of(own, crl_check=True), own.host).trouble
    assert said == f"unable to get certificate CRL ({crl_path(own)} missing)"


def test_an_expired_crl_is_named_with_hash_and_file(own: Pki) -> None:
    own.write_crl(next_update=dt.datetime(2020, 1, 2, tzinfo=dt.UTC))
    shutil.copy(own.unknown_ca, own.certificates / "00000000.0")  # another CA without any CRL: not what is wrong
    said = refusal(client_of(own, crl_check=True), own.host).trouble
    assert said == f"CRL has expired ({crl_path(own)} expired on 2020-01-02 00:00 UTC)"


def test_a_crl_of_the_future_is_named_with_hash_and_file(own: Pki) -> None:
    ca_of(own).write_crl(start=present() + DAY)
    said = refusal(client_of(own, crl_check=True), own.host).trouble
    assert said.startswith(f"CRL is not yet valid ({crl_path(own)} not valid before ")


def test_an_unreadable_crl_is_named(own: Pki) -> None:
    crl_path(own).write_bytes(b"no CRL")
    assert f"{crl_path(own)} unreadable" in refusal(client_of(own, crl_check=True), own.host).trouble


def test_a_ca_directory_that_has_gone_is_said_and_no_crash(own: Pki) -> None:
    client = client_of(own, crl_check=True)
    shutil.rmtree(own.certificates)
    assert "issuer" in refusal(client, own.host).trouble
    assert "No such file" in tls.verify_words(3, str(own.certificates))


def test_the_whole_chain_is_looked_up_in_crls(own: Pki, tmp_path: Path) -> None:
    root = ca_of(own)
    below = intermediate(root)
    pem = host(tmp_path / "host.pem", below, [x509.DNSName("localhost")])
    with TlsServer(server_context(pem)) as server:
        assert ask(client_of(own, crl_check=True), server.port) == OK
    root.write_crl([below.owner.certificate])
    assert refusal(client_of(own, crl_check=True), pem).trouble == "certificate revoked"
    crl_path(own).unlink()
    assert f"{root.hash}.r0 missing" in refusal(client_of(own, crl_check=True), pem).trouble
    root.write_crl()
    below.write_crl([x509.load_pem_x509_certificate(pem.read_bytes())])
    assert refusal(client_of(own, crl_check=True), pem).trouble == "certificate revoked"


def test_rubbish_beside_an_authority_does_no_harm(own: Pki) -> None:
    """OpenSSL looks at HASH.0, HASH.1, ...; what it stumbles over must not be said of the next connection."""
    root = ca_of(own)
    (own.certificates / f"{root.hash}.1").write_bytes(b"rubbish")
    (own.certificates / f"{root.hash}.2").mkdir()
    client = client_of(own, crl_check=True)
    with TlsServer(server_context(own.host)) as server:
        for _ in range(3):
            assert ask(client, server.port) == OK
            assert ask(client_of(own), server.port) == OK


def _openssls_words(code: int) -> str:
    library: Any = SSL
    return str(library._ffi.string(library._lib.X509_verify_cert_error_string(code)).decode())


def test_openssls_words_are_openssls() -> None:
    for code, words in tls._VERIFY_WORDS.items():
        assert _openssls_words(code).startswith(words)
    assert tls.verify_words(99, "/") == "OpenSSL's verify error 99"


# --- who we are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_who_is_meant_to_shows_the_proxy(pki: Pki, version: ssl.TLSVersion) -> None:
    context = asking_context(pki)
    context.maximum_version = version
    for with_proxy in (True, False):
        client = client_of(pki, with_proxy=with_proxy)
        with TlsServer(context) as server:
            assert ask(client, server.port) == ask(client, server.port) == OK
            assert server.resumed == [False, True]
            assert server.shown[0] is with_proxy


@pytest.mark.parametrize("name", ["proxy", "proxy_limited"])
def test_a_proxy_is_shown_with_its_chain(pki: Pki, name: str) -> None:
    client = TlsClient(trust_of(pki, proxy=getattr(pki, name)), with_proxy=True)
    context = asking_context(pki)
    context.verify_mode = ssl.CERT_REQUIRED
    with TlsServer(context) as server:
        assert ask(client, server.port) == OK
        assert server.shown == [True]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["proxy_no_chain", "proxy_expired", "proxy_unknown_ca", None])
def test_a_server_that_refuses_our_certificate_is_understood(
    pki: Pki, version: ssl.TLSVersion, name: str | None
) -> None:
    context = asking_context(pki)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    proxy = getattr(pki, name or "proxy")
    client = TlsClient(trust_of(pki, proxy=proxy), with_proxy=name is not None)
    origin = Origin("https", "localhost", 0)

    def listen(port: int) -> None:
        channel = client.connect(origin._replace(port=port), SOON_SECONDS, StopFlag())
        try:
            # No request: under TLS 1.3 the reset by which the server answers one may overtake the alert.
            received(channel)
        finally:
            channel.close()

    with TlsServer(context) as server, pytest.raises(TlsFailed) as caught:
        listen(server.port)
    if name is None and version is ssl.TLSVersion.TLSv1_2:
        assert "handshake failure" in caught.value.reason
    else:
        assert tls.is_about_us(caught.value.reason), caught.value.reason
    assert caught.value.trouble == ""


@pytest.mark.parametrize(
    "broken", ["cut", "no key", "folder", "gone", "encrypted", "other key", "empty", "rubbish key"]
)
def test_a_proxy_that_cannot_be_loaded_is_named_and_no_one_is_asked_for_a_password(
    own: Pki, tmp_path: Path, broken: str
) -> None:
    path = tmp_path / "proxy.pem"
    certificate, key = own.proxy.read_bytes().split(b"-----BEGIN EC", 1)
    if broken == "cut":
        path.write_bytes(own.proxy_broken.read_bytes())
    elif broken == "no key":
        path.write_bytes(own.user_certificate.read_bytes())
    elif broken == "folder":
        path.mkdir()
    elif broken == "encrypted":
        loaded = serialization.load_pem_private_key(own.proxy.read_bytes(), password=None)
        secret = loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(b"x"),
        )
        path.write_bytes(certificate + secret)
    elif broken == "other key":
        path.write_bytes(certificate + own.user_key.read_bytes())
    elif broken == "empty":
        path.write_bytes(b"")
    elif broken == "rubbish key":
        path.write_bytes(certificate + b"-----BEGIN EC" + key[:60] + b"AAAA" + key[64:])
    trust = tls.Trust(1, str(path), str(own.certificates), crl_check=False, expires_at=0)
    with pytest.raises(errors.CredentialRefused) as caught:
        TlsClient(trust, with_proxy=True)
    assert str(path) in str(caught.value)
    assert "PRIVATE" not in str(caught.value)
    assert len(str(caught.value)) < 500
    with TlsServer(server_context(own.host)) as server:
        assert ask(client_of(own), server.port) == OK, "this thread's next connection knows nothing of it"


# --- resumption ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_the_first_handshake_is_a_full_one(pki: Pki, version: ssl.TLSVersion) -> None:
    context = server_context(pki.host)
    context.minimum_version = context.maximum_version = version
    client = client_of(pki)
    with TlsServer(context) as server:
        assert [ask(client, server.port) for _ in range(5)] == [OK] * 5
        assert server.resumed == [False, True, True, True, True]


def test_a_session_is_for_one_host_and_one_port(pki: Pki, own: Pki) -> None:
    client, context = client_of(pki), server_context(pki.host)
    with TlsServer(context) as one, TlsServer(context) as other:
        for server, name in ((one, "localhost"), (other, "localhost"), (one, "127.0.0.1")):
            assert ask(client, server.port, name) == OK
        assert one.resumed == [False, False]
        assert other.resumed == [False]


def test_a_session_is_not_taken_over_by_the_next_generation_nor_by_door_or_pools(pki: Pki) -> None:
    with TlsServer(server_context(pki.host)) as server:
        clients = [client_of(pki), client_of(pki), client_of(pki, with_proxy=True)]
        for client in clients:
            assert ask(client, server.port) == OK
        assert server.full_handshakes == 3


def test_a_host_revoked_later_is_accepted_as_long_as_its_generation_lives(own: Pki) -> None:
    with TlsServer(server_context(own.host)) as server:
        old = client_of(own, crl_check=True)
        ask(old, server.port)
        own.write_crl([own.host])
        assert ask(old, server.port) == OK
        with pytest.raises(TlsFailed, match="revoked"):
            ask(client_of(own, crl_check=True), server.port)


def test_a_server_that_forgot_its_tickets_costs_a_full_handshake_and_no_error(pki: Pki) -> None:
    client = client_of(pki)
    with TlsServer(server_context(pki.host)) as server:
        ask(client, server.port)
        server.context = server_context(pki.host)
        assert [ask(client, server.port) for _ in range(2)] == [OK] * 2
        assert server.resumed == [False, False, True]


def test_a_server_that_forgot_its_tickets_is_judged_anew(pki: Pki) -> None:
    client = client_of(pki)
    with TlsServer(server_context(pki.host)) as server:
        ask(client, server.port)
        server.context = server_context(pki.host_wrong_name)
        with pytest.raises(TlsFailed, match="Hostname mismatch"):
            ask(client, server.port)
        assert len(server.requests) == 1


class Stubborn:
    """A server that asks for certificates and lets nobody resume: OpenSSL's own trap for who forgets one setting."""

    def __init__(self, pki: Pki) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate_file(str(pki.host))
        self._context.use_privatekey_file(str(pki.host))
        self._context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.refused = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            server = SSL.Connection(self._context, sock)
            server.set_accept_state()
            try:
                server.do_handshake()
                server.recv(65536)
                server.sendall(OK)
            except SSL.Error:
                self.refused += 1
            sock.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(SOON_SECONDS)
        self._listening.close()


def test_a_server_that_fails_whoever_resumes_does_so_once(pki: Pki) -> None:
    server, client = Stubborn(pki), client_of(pki, with_proxy=True)
    try:
        assert ask(client, server.port) == OK
        with pytest.raises(TlsFailed):
            ask(client, server.port)
        assert [ask(client, server.port) for _ in range(4)] == [OK] * 4
    finally:
        server.close()
    assert server.refused == 1


def test_many_hosts_are_not_remembered_for_ever(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure, "_MOST_SESSIONS", 2)
    client, context = client_of(pki), server_context(pki.host)
    with TlsServer(context) as one, TlsServer(context) as two, TlsServer(context) as three:
        for server in (one, two, three):
            ask(client, server.port)
        assert len(client._sessions._kept) <= 2
        ask(client, three.port)
        assert three.resumed == [False, True]


# --- ends ------------------------------------------------------------------------------------------------------


def test_plain_http_gets_a_plain_channel(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        channel = client_of(pki).connect(Origin("http", "127.0.0.1", server.getsockname()[1]), 9, StopFlag())
        assert not isinstance(channel, TlsChannel)
        channel.close()


def test_a_server_that_speaks_no_tls_is_said_in_words(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def speak() -> None:
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.recv(65536)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(TlsFailed) as caught:
            ask(client_of(pki), port)
        thread.join()
    assert "wrong version number" in str(caught.value) or "packet" in str(caught.value)
    assert connections_to(port) == 0


@pytest.mark.parametrize("reset", [False, True])
def test_a_server_that_leaves_during_the_handshake_is_said_in_words(pki: Pki, reset: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def leave() -> None:
            sock, _ = server.accept()
            if not reset:
                sock.recv(65536)
            sock.close()  # unread data make it a reset

        thread = threading.Thread(target=leave)
        thread.start()
        with pytest.raises(ConnectionError) as caught:
            ask(client_of(pki), server.getsockname()[1])
        thread.join()
    assert str(caught.value) in ("closed by the other side", "[Errno 104] Connection reset by peer")


@pytest.mark.parametrize("trickle", [False, True])
def test_a_handshake_that_never_ends_is_cut_by_its_limit(pki: Pki, trickle: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = threading.Event()

        def dribble() -> None:
            sock, _ = server.accept()
            with sock:
                if trickle:
                    sock.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # a large ServerHello begins
                try:
                    while not done.wait(0.02):
                        sock.sendall(b"\0" if trickle else b"")
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        with pytest.raises(TimeoutError):
            client_of(pki).connect(Origin("https", "localhost", port), 0.3, StopFlag())
        done.set()
        thread.join()
        assert connections_to(port) == 0


def _stopped(client: TlsClient, port: int, begun: Callable[[], bool]) -> BaseException:
    """Connect and wait for what never comes; returns how that ended when it was stopped."""
    stop, ends = StopFlag(), list[BaseException]()

    def run() -> None:
        try:
            ask(client, port, stop=stop)
        except BaseException as error:  # noqa: BLE001 - the test judges it
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(begun, SOON_SECONDS, "the connection")
    stop.set()
    thread.join(SOON_SECONDS)
    assert not thread.is_alive()
    assert connections_to(port) == 0
    assert len(ends) == 1
    return ends[0]


def test_a_stop_ends_a_handshake_and_leaves_nothing_open(pki: Pki) -> None:
    with deaf_port() as port:
        error = _stopped(client_of(pki), port, lambda: connections_to(port) == 1)
    assert isinstance(error, OSError)


def test_we_say_that_we_close(pki: Pki) -> None:
    context, ends = server_context(pki.host), list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            sock, _ = listening.accept()
            with sock, context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as secured:
                ends.append(secured.recv(1))

        thread = threading.Thread(target=serve)
        thread.start()
        client_of(pki).connect(Origin("https", "localhost", listening.getsockname()[1]), 9, StopFlag()).close()
        thread.join(SOON_SECONDS)
    assert ends == [b""]


def test_the_end_without_notice_is_an_end(pki: Pki) -> None:
    with TlsServer(server_context(pki.host), answer=b"half") as server:
        assert ask(client_of(pki), server.port) == b"half"


@contextlib.contextmanager
def answering(pki: Pki, answer: Callable[[ssl.SSLSocket], object]) -> Iterator[Channel]:
    """A connection whose server has said all that it will say: what we read is there in one piece."""
    context, said = server_context(pki.host), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            sock, _ = server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sock, context.wrap_socket(sock, server_side=True) as secured:
                answer(secured)
                said.set()
                with contextlib.suppress(OSError):
                    secured.recv(9)

        thread = threading.Thread(target=serve)
        thread.start()
        channel = client_of(pki).connect(Origin("https", "localhost", server.getsockname()[1]), 9, StopFlag())
        try:
            assert said.wait(SOON_SECONDS)
            yield channel
        finally:
            channel.close()
            thread.join()


def test_many_records_come_at_once_and_in_order(pki: Pki) -> None:
    data = os.urandom(3 * 16384 + 9)
    with answering(pki, lambda secured: secured.sendall(data)) as channel:
        block = memoryview(bytearray(4 * 16384 + 9))
        assert channel.receive(block) == len(data)
        assert bytes(block[: len(data)]) == data
        assert channel.receive(block) == NOTHING_YET


def test_no_more_is_read_than_there_is_room_for(pki: Pki) -> None:
    data = os.urandom(3 * 16384)
    with answering(pki, lambda secured: secured.sendall(data)) as channel:
        block = memoryview(bytearray(16384 + 200))
        assert [channel.receive(block[:100]), channel.receive(block[100:16384])] == [100, 16284]
        assert channel.receive(block[100:16484]) == 16384, (
            "a second record, for which there is room only in part, waits"
        )
        assert bytes(block[100:16484]) == data[16384:32768]
        assert bytes(block[16484:]) == bytes(100), "not a byte beyond the room"


def _say_and_close(secured: ssl.SSLSocket) -> None:
    secured.sendall(b"last words")
    secured.settimeout(0)
    with contextlib.suppress(ssl.SSLWantReadError):  # it would wait for our last word
        secured.unwrap()


def _say_and_leave(secured: ssl.SSLSocket) -> None:
    secured.sendall(b"last words")
    os.close(secured.detach())


@pytest.mark.parametrize("answer", [_say_and_close, _say_and_leave])
def test_what_came_before_the_end_is_not_lost_with_it(pki: Pki, answer: Callable[[ssl.SSLSocket], object]) -> None:
    with answering(pki, answer) as channel:
        block = memoryview(bytearray(99))
        assert channel.receive(block) == len(b"last words")
        assert bytes(block[:10]) == b"last words"
        assert channel.receive(block) == 0
        assert channel.receive(block) == 0


@pytest.mark.parametrize("before", [b"", b"some words"])
def test_bytes_that_are_no_record_break_the_connection_in_words(pki: Pki, before: bytes) -> None:
    def garble(secured: ssl.SSLSocket) -> None:
        if before:
            secured.sendall(before)
        os.write(secured.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)

    with answering(pki, garble) as channel, pytest.raises(TlsFailed) as caught:
        received(channel)
    assert str(caught.value)


def test_an_error_that_somebody_keeps_can_be_collected(pki: Pki) -> None:
    """It would end the process without a word: see `decrypting`."""
    garble = lambda secured: os.write(secured.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)  # noqa: E731
    with answering(pki, garble) as channel:
        try:
            received(channel)
        except TlsFailed as error:
            error.add_note("kept by itself")
            error.__dict__["itself"] = error
    gc.collect()


def test_a_server_cannot_have_a_second_handshake(pki: Pki) -> None:
    server_side = SSL.Context(SSL.TLS_SERVER_METHOD)
    server_side.set_max_proto_version(SSL.TLS1_2_VERSION)
    server_side.use_certificate_file(str(pki.host))
    server_side.use_privatekey_file(str(pki.host))
    ends: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            sock, _ = listening.accept()
            sock.settimeout(None)
            with sock:
                server = SSL.Connection(server_side, sock)
                server.set_accept_state()
                server.do_handshake()
                server.renegotiate()
                try:
                    server.do_handshake()
                    server.send(b"x")
                    server.recv(9)
                except SSL.Error as error:
                    ends.append(str(error))

        thread = threading.Thread(target=serve)
        thread.start()
        channel = client_of(pki).connect(Origin("https", "localhost", listening.getsockname()[1]), 9, StopFlag())
        try:
            received(channel)
        except TlsFailed as error:
            ends.append(str(error))
        channel.close()
        thread.join(SOON_SECONDS)
    assert any("renegotiation" in end for end in ends), ends


# --- many ------------------------------------------------------------------------------------------------------


def test_twenty_threads_share_a_client_and_each_gets_its_own_answer(pki: Pki) -> None:
    client = client_of(pki, crl_check=True)
    bad = {pki.host_wrong_name: "Hostname mismatch", pki.host_revoked: "revoked", pki.host_expired: "expired"}
    wrong: list[object] = []

    def outcome(port: int) -> str:
        try:
            return ask(client, port).decode()
        except TlsFailed as error:
            return error.trouble
        except Exception as error:  # noqa: BLE001 - the test judges it
            return repr(error)

    def run(number: int, ports: list[tuple[int, str]]) -> None:
        for turn in range(12):
            port, word = ports[(number + turn) % len(ports)]
            said = outcome(port)
            if word not in said:
                wrong.append((word, said))

    servers = {path: TlsServer(server_context(path)) for path in (pki.host, *bad)}
    ports = [(server.port, bad.get(path, "hello")) for path, server in servers.items()]
    threads = [threading.Thread(target=run, args=(number, ports)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in servers.values():
        server.__exit__()
    assert wrong == []
    assert any(servers[pki.host].resumed)


def _alive() -> int:
    return sum(1 for each in gc.get_objects() if isinstance(each, SSL.Connection | Channel))


def test_two_thousand_connections_leave_no_descriptor_no_memory_and_nothing_for_the_garbage_collector(
    pki: Pki,
) -> None:
    client = client_of(pki)
    process = psutil.Process()
    with (
        TlsServer(server_context(pki.host)) as good,
        TlsServer(server_context(pki.host_wrong_name)) as bad,
    ):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()[1]

        def storm(times: int) -> None:
            for _ in range(times):
                ask(client, good.port)
                ask(client, good.port)
                with pytest.raises(TlsFailed):
                    ask(client, bad.port)
                with pytest.raises(ConnectionRefusedError):
                    ask(client, nobody)

        storm(100)
        wait_until(lambda: not good._running and not bad._running, SOON_SECONDS, "quiet servers")
        gc.collect()
        alive, descriptors, resident = _alive(), process.num_fds(), process.memory_info().rss
        gc.disable()
        try:
            storm(400)
            wait_until(lambda: not good._running and not bad._running, SOON_SECONDS, "quiet servers")
            assert _alive() <= alive
            assert process.num_fds() <= descriptors
        finally:
            gc.enable()
        gc.collect()
        assert process.memory_info().rss - resident < 16 << 20
