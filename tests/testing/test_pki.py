from __future__ import annotations

import datetime as dt
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from dcalqr.testing.certificates import subject_hash
from dcalqr.testing.pki import Pki, make_pki

SECRET = ("host.pem", "hostkey.pem", "userkey.pem", "ca.key", "unknown-ca.key", "proxy.pem", "proxy-broken.pem")


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki")


def openssl(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)


def verify(pki: Pki, credential: Path, *options: object) -> str:
    """Judge by OpenSSL's own program: its complaint, empty when there is none."""
    directory = ("-CApath", pki.certificates, "-no-CAfile", "-no-CAstore")
    return openssl("verify", "-allow_proxy_certs", *directory, *options, "-untrusted", credential, credential).stderr


def lifetime(path: Path) -> tuple[dt.datetime, dt.datetime]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def test_the_ca_directory_is_named_as_openssl_names_it(pki: Pki) -> None:
    name = openssl("x509", "-hash", "-noout", "-in", pki.ca).stdout.strip()
    assert {path.name for path in pki.certificates.iterdir()} == {f"{name}.0", f"{name}.r0", f"{name}.signing_policy"}


@pytest.mark.parametrize("common_name", ["x", "Some  Other   CA ", "UPPER lower-09 (test)"])
def test_the_subject_hash_is_openssls(tmp_path: Path, common_name: str) -> None:
    subject = f"/DC=org/DC=Example/CN={common_name}"
    made = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject)
    openssl(*made, "-keyout", tmp_path / "key", "-out", tmp_path / "certificate")
    certificate = x509.load_pem_x509_certificate((tmp_path / "certificate").read_bytes())
    expected = openssl("x509", "-hash", "-noout", "-in", tmp_path / "certificate").stdout.strip()
    assert subject_hash(certificate.subject) == expected


def test_a_name_of_other_attributes_is_refused_rather_than_hashed_wrongly() -> None:
    with pytest.raises(KeyError):
        subject_hash(x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "FR")]))


def test_good_credentials_verify_with_revocation_lists(pki: Pki) -> None:
    for credential in (pki.host, pki.user_certificate, pki.proxy, pki.proxy_limited, pki.proxy_short):
        assert verify(pki, credential, "-crl_check_all") == ""


def test_each_bad_credential_is_bad_for_its_own_reason(pki: Pki) -> None:
    assert "revoked" in verify(pki, pki.host_revoked, "-crl_check_all")
    assert "revoked" in verify(pki, pki.proxy_revoked, "-crl_check_all")
    assert "expired" in verify(pki, pki.host_expired)
    assert "expired" in verify(pki, pki.proxy_expired)
    assert "unable to get local issuer" in verify(pki, pki.host_unknown_ca)
    assert "unable to get local issuer" in verify(pki, pki.proxy_unknown_ca)
    assert "unable to get local issuer" in verify(pki, pki.proxy_no_chain)
    assert "mismatch" in verify(pki, pki.host_wrong_name, "-verify_hostname", "localhost")
    with pytest.raises(ValueError):
        x509.load_pem_x509_certificate(pki.proxy_broken.read_bytes())


def test_the_good_host_is_localhost_by_name_and_by_both_addresses(pki: Pki) -> None:
    assert verify(pki, pki.host, "-verify_hostname", "localhost") == ""
    assert verify(pki, pki.host, "-verify_ip", "127.0.0.1") == ""
    assert verify(pki, pki.host, "-verify_ip", "::1") == ""


def test_files_with_a_key_are_for_their_owner_only(pki: Pki) -> None:
    for name in SECRET:
        assert (pki.folder / name).stat().st_mode & 0o777 == 0o600
    keys = [path for path in pki.folder.iterdir() if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)


def test_a_new_proxy_replaces_the_old_one_and_lives_as_long_as_asked(pki: Pki) -> None:
    before = x509.load_pem_x509_certificate(pki.proxy.read_bytes())
    asked = time.time()
    assert pki.new_proxy(pki.proxy, lifetime_seconds=2.5) == pki.proxy
    after = x509.load_pem_x509_certificate(pki.proxy.read_bytes())
    assert after.serial_number > before.serial_number
    assert asked + 2.5 <= lifetime(pki.proxy)[1].timestamp() <= time.time() + 4.5
    assert verify(pki, pki.proxy, "-crl_check_all") == ""
    assert not list(pki.folder.glob("*.new"))


def test_a_proxy_is_cert_key_chain_in_this_order(pki: Pki) -> None:
    text = pki.proxy.read_text()
    marks = [line for line in text.splitlines() if line.startswith("-----BEGIN")]
    assert [("KEY" in mark) for mark in marks] == [False, True, False]
    proxy, user = x509.load_pem_x509_certificates(text.encode())
    assert proxy.issuer == user.subject
    assert list(proxy.subject)[:-1] == list(user.subject)


def test_a_crl_revokes_what_it_is_told_and_nothing_else(pki: Pki) -> None:
    pki.write_crl([pki.host])
    assert "revoked" in verify(pki, pki.host, "-crl_check_all")
    assert verify(pki, pki.host_revoked, "-crl_check_all") == ""
    pki.write_crl()
    assert verify(pki, pki.host, "-crl_check_all") == ""


def test_a_proxy_named_in_a_crl_revokes_its_user(pki: Pki) -> None:
    pki.write_crl([pki.proxy])
    assert "revoked" in verify(pki, pki.proxy_limited, "-crl_check_all")


def test_a_crl_can_be_expired(pki: Pki) -> None:
    pki.write_crl(next_update=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
    assert "CRL has expired" in verify(pki, pki.host, "-crl_check")


def test_rsa_keys_are_made_for_software_that_knows_no_other(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "rsa", use_rsa=True)
    for path in (pki.ca, pki.host, pki.user_certificate, pki.proxy):
        key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
        assert isinstance(key, rsa.RSAPublicKey)
    assert verify(pki, pki.proxy, "-crl_check_all") == ""
