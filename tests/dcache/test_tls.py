from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcalqr import errors
from dcalqr.dcache import tls
from dcalqr.testing.pki import Pki, make_pki
from tests.support.attempts import SOON_SECONDS, trust_of


@pytest.fixture
def own(tmp_path: Path) -> Pki:
    """Certificates that the test may change."""
    return make_pki(tmp_path / "pki")


def credentials(pki: Pki, *, crl_check: bool = False) -> tls.Credentials:
    made = tls.Credentials(str(pki.proxy), str(pki.certificates), crl_check=crl_check)
    assert made.refresh(), made.trouble
    return made


def shake(
    context: ssl.SSLContext, pem: Path, *, version: ssl.TLSVersion | None = None, asking: Path | None = None
) -> bool:
    """Shake hands with a server that bears a certificate; raises what the client's side raises.

    Returns
    -------
    bool
        Whether a client certificate was shown to a server that asks for those of an authority.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    if version is not None:
        server.minimum_version = server.maximum_version = version
    if asking is not None:
        server.verify_mode = ssl.CERT_OPTIONAL
        server.load_verify_locations(asking)
        server.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    shown = False
    ours, theirs = socket.socketpair()
    ours.settimeout(SOON_SECONDS)
    theirs.settimeout(SOON_SECONDS)

    def serve() -> None:
        nonlocal shown
        try:
            with server.wrap_socket(theirs, server_side=True) as secured:
                shown = bool(secured.getpeercert())
                secured.recv(1)
        except OSError:
            theirs.close()  # refused: the client's side says why

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context.wrap_socket(ours, server_hostname="localhost") as secured:
            secured.send(b"x")
    finally:
        ours.close()
        thread.join(SOON_SECONDS)
    return shown


def refusal(context: ssl.SSLContext, pem: Path, capath: Path) -> str:
    with pytest.raises(ssl.SSLError) as caught:
        shake(context, pem)
    return tls.handshake_trouble(caught.value, str(capath))


def crl_name(pki: Pki) -> str:
    return next(name for name in os.listdir(pki.certificates) if name.endswith(".r0"))


# --- contexts --------------------------------------------------------------------------------------------------


def test_a_good_host_is_accepted_and_bad_ones_are_not(pki: Pki) -> None:
    context = tls.pools_context(trust_of(pki, crl_check=True))
    shake(context, pki.host)
    words = {
        pki.host_wrong_name: "Hostname mismatch",
        pki.host_expired: "certificate has expired",
        pki.host_revoked: "certificate revoked",
        pki.host_unknown_ca: "unable to get local issuer",
    }
    for pem, word in words.items():
        assert word in refusal(context, pem, pki.certificates)


def test_without_crlcheck_a_revoked_host_is_accepted(pki: Pki) -> None:
    shake(tls.pools_context(trust_of(pki)), pki.host_revoked)


def test_no_other_authority_is_trusted_whatever_the_environment_says(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.unknown_ca))
    context = tls.pools_context(trust_of(pki))
    assert context.cert_store_stats()["x509_ca"] == 0, "none but those of the directory, which are read on demand"
    refusal(context, pki.host_unknown_ca, pki.certificates)


def test_only_the_doors_context_bears_the_proxy(pki: Pki) -> None:
    trust = trust_of(pki)
    assert shake(tls.door_context(trust), pki.host, asking=pki.ca)
    assert not shake(tls.pools_context(trust), pki.host, asking=pki.ca)


def test_tls_below_1_2_is_refused(pki: Pki) -> None:
    for context in (tls.door_context(trust_of(pki)), tls.pools_context(trust_of(pki))):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            shake(context, pki.host, version=version)


@pytest.mark.parametrize("name", ["proxy_broken", "user_certificate", "folder"])
def test_a_proxy_that_cannot_be_loaded_is_named(pki: Pki, name: str) -> None:
    path = getattr(pki, name)
    trust = tls.Trust(1, str(path), str(pki.certificates), crl_check=False, expires_at=0)
    with pytest.raises(errors.CredentialRefused, match=str(path)):
        tls.door_context(trust)


# --- CRLs ------------------------------------------------------------------------------------------------------


def test_a_missing_crl_is_named_with_hash_and_file(own: Pki) -> None:
    name = crl_name(own)
    (own.certificates / name).unlink()
    said = refusal(tls.pools_context(trust_of(own, crl_check=True)), own.host, own.certificates)
    assert f"{own.certificates}/{name} missing" in said


def test_an_expired_crl_is_named_with_hash_and_file(own: Pki) -> None:
    own.write_crl(next_update=dt.datetime(2020, 1, 2, tzinfo=dt.UTC))
    shutil.copy(own.unknown_ca, own.certificates / "00000000.0")  # another CA without any CRL: not what is wrong
    said = refusal(tls.pools_context(trust_of(own, crl_check=True)), own.host, own.certificates)
    assert f"{own.certificates}/{crl_name(own)} expired on 2020-01-02 00:00 UTC" in said
    assert "00000000" not in said


def test_an_unreadable_crl_is_named(own: Pki) -> None:
    (own.certificates / crl_name(own)).write_bytes(b"no CRL")
    said = refusal(tls.pools_context(trust_of(own, crl_check=True)), own.host, own.certificates)
    assert f"{crl_name(own)} unreadable" in said


def test_a_ca_directory_that_has_gone_is_said_and_no_crash(own: Pki) -> None:
    (own.certificates / crl_name(own)).unlink()
    context = tls.pools_context(trust_of(own, crl_check=True))
    with pytest.raises(ssl.SSLError) as caught:
        shake(context, own.host)
    shutil.rmtree(own.certificates)
    assert "No such file" in tls.handshake_trouble(caught.value, str(own.certificates))


def test_a_good_directory_has_no_complaints(pki: Pki) -> None:
    assert tls.crl_complaints(str(pki.certificates)) == []


def test_a_host_revoked_later_is_refused_by_the_next_generation(own: Pki) -> None:
    made = credentials(own, crl_check=True)
    old = tls.pools_context(made.current())
    shake(old, own.host)
    own.write_crl([own.host])
    assert made.refresh()
    assert "revoked" in refusal(tls.pools_context(made.current()), own.host, own.certificates)


# --- renewal ---------------------------------------------------------------------------------------------------


def test_without_a_change_there_is_no_new_generation(pki: Pki) -> None:
    made = credentials(pki)
    first = made.current()
    assert not made.refresh()
    assert made.current() is first


def test_a_proxy_renewed_on_disk_makes_a_new_generation(own: Pki) -> None:
    made = credentials(own)
    before = made.current()
    own.new_proxy(own.proxy, 3600)
    assert made.refresh()
    after = made.current()
    assert after.generation == before.generation + 1
    assert 0 < after.expires_at - time.time() <= 3601


@pytest.mark.parametrize("broken", ["cut", "gone", "no key"])
def test_a_failed_load_keeps_the_old_generation_and_says_so(own: Pki, broken: str) -> None:
    made = credentials(own)
    before = made.current()
    if broken == "gone":
        own.proxy.unlink()
    else:
        shutil.copy(own.proxy_broken if broken == "cut" else own.user_certificate, own.proxy)
    for _ in range(2):
        assert not made.refresh()
        assert made.current() is before
        assert str(own.proxy) in str(made.trouble)
    own.new_proxy(own.proxy)
    assert made.refresh()
    assert made.trouble is None
    assert made.current().generation == before.generation + 1


def test_a_file_put_back_as_it_was_is_no_trouble_any_more(own: Pki, tmp_path: Path) -> None:
    made = credentials(own)
    own.proxy.rename(tmp_path / "aside")
    assert not made.refresh()
    assert made.trouble is not None
    (tmp_path / "aside").rename(own.proxy)
    assert not made.refresh()
    assert made.trouble is None


def test_an_expired_proxy_is_refused_before_use(own: Pki) -> None:
    shutil.copy(own.proxy_expired, own.proxy)
    made = credentials(own)
    with pytest.raises(errors.CredentialRefused, match=r"expired at \d{4}-\d\d-\d\d"):
        made.current()


def test_a_proxy_expires_with_the_first_certificate_of_its_chain(own: Pki, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(own.proxy.read_bytes() + own.host_expired.read_bytes())
    assert tls.proxy_expiry(str(both)) == tls.proxy_expiry(str(own.host_expired)) < time.time()


def test_before_the_first_load_there_is_nothing_to_use(pki: Pki, tmp_path: Path) -> None:
    made = tls.Credentials(str(tmp_path / "proxy"), str(pki.certificates), crl_check=False)
    with pytest.raises(errors.CredentialRefused):
        made.current()
    assert not made.refresh()
    with pytest.raises(errors.CredentialRefused, match="proxy"):
        made.current()


@pytest.mark.parametrize("present", [False, True])
def test_a_missing_or_empty_ca_directory_is_refused(own: Pki, present: bool, tmp_path: Path) -> None:
    if present:
        (tmp_path / "ca").mkdir()
    made = tls.Credentials(str(own.proxy), str(tmp_path / "ca"), crl_check=False)
    assert not made.refresh()
    assert "missing or empty" in str(made.trouble)


def test_any_change_in_the_ca_directory_makes_a_new_generation(own: Pki) -> None:
    made = credentials(own)
    extra = own.certificates / "0a1b2c3d.0"
    shutil.copy(own.unknown_ca, extra)
    os.utime(extra, (1, 1))  # as a package manager leaves them: new file, old time
    assert made.refresh()
    extra.write_bytes(extra.read_bytes() + b"\n")
    os.utime(extra, (1, 1))
    assert made.refresh()
    os.rename(extra, own.certificates / "0a1b2c3e.0")
    assert made.refresh()
    assert not made.refresh()


def test_other_paths_take_effect_at_the_next_look(own: Pki, tmp_path: Path) -> None:
    made = credentials(own)
    own.new_proxy(tmp_path / "other.pem")
    made.use(str(tmp_path / "other.pem"), str(own.certificates))
    assert made.refresh()
    assert made.current().proxy == str(tmp_path / "other.pem")
    made.use(str(tmp_path / "other.pem"), str(own.certificates))
    assert not made.refresh()


def test_contexts_are_built_anew_every_hour_though_no_file_changed(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(tls, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    made = credentials(pki)
    now += 3600
    assert not made.refresh()
    now += 1
    assert made.refresh()
    assert made.current().generation == 2
    assert not made.refresh()
