"""A throw-away grid PKI: authorities, host certificates, a user and proxies, each also in its broken forms."""

from __future__ import annotations

import datetime as dt
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dcalqr.testing.certificates import (
    DAY,
    LIMITED,
    Key,
    Owner,
    authority,
    certificate_pem,
    issue,
    issue_crl,
    issue_proxy,
    key_pem,
    present,
    signing_policy,
    subject_hash,
)


@dataclass(frozen=True)
class Pki:
    """Where everything is. Files with a key have mode 0600.

    Parameters
    ----------
    folder
        Holds all the others.
    ca, unknown_ca
        The trusted authority, and one that is in no CA directory (certificates; the keys lie beside them).
    certificates
        CA directory as IGTF distributes it: HASH.0, HASH.r0 (the CRL), HASH.signing_policy.
    crl
        The first CRL once more: stays as it was made when `write_crl` replaces the one in `certificates`.
    host_certificate, host_key
        The good host (localhost, 127.0.0.1, ::1) in two files, as XRootD and nginx want it.
    host, host_wrong_name, host_revoked, host_expired, host_unknown_ca
        Hosts as one PEM file each, certificate then key: good; for another name; in the CRL; expired; of `unknown_ca`.
    user_certificate, user_key
        The user behind the proxies.
    proxy, proxy_limited
        RFC 3820 proxies for 12 hours (proxy certificate, key, user certificate), inheriting all rights; limited.
    proxy_expired, proxy_short
        Expired a day ago; expires 30 s after it was made (`new_proxy` makes one at the moment it is needed).
    proxy_unknown_ca, proxy_revoked
        Of a user of `unknown_ca`; of a user in the CRL.
    proxy_no_chain, proxy_broken
        Without the user's certificate; a file cut in the middle.
    """

    folder: Path
    ca: Path
    unknown_ca: Path
    certificates: Path
    crl: Path
    host_certificate: Path
    host_key: Path
    host: Path
    host_wrong_name: Path
    host_revoked: Path
    host_expired: Path
    host_unknown_ca: Path
    user_certificate: Path
    user_key: Path
    proxy: Path
    proxy_limited: Path
    proxy_expired: Path
    proxy_short: Path
    proxy_unknown_ca: Path
    proxy_revoked: Path
    proxy_no_chain: Path
    proxy_broken: Path

    def new_proxy(self, path: Path, lifetime_seconds: float = 43200) -> Path:
        """Make a fresh proxy of the user, replacing `path` in one step, as `voms-proxy-init` does.

        Certificates know whole seconds only: the end is rounded up. The serial number is the time of making in
        nanoseconds since the epoch; `Door.accept_only_after` compares it.
        """
        user = Owner(_certificate(self.user_certificate), _key(self.user_key))
        end = present() + dt.timedelta(seconds=math.ceil(lifetime_seconds + time.time() % 1))
        return _write_owner(path, issue_proxy(user, end=end), user.certificate)

    def write_crl(self, revoked: Iterable[Path] = (), next_update: dt.datetime | None = None) -> Path:
        """Replace the CRL in `certificates`.

        Parameters
        ----------
        revoked
            PEM files; every certificate in them that `ca` issued is revoked, and no other.
        next_update
            With a zone; in the past: an expired CRL. None: in 30 days.
        """
        issuer = Owner(_certificate(self.ca), _key(_key_path(self.ca)))
        path = self.certificates / f"{subject_hash(issuer.certificate.subject)}.r0"
        certificates = [each for file in revoked for each in x509.load_pem_x509_certificates(file.read_bytes())]
        return _write(path, issue_crl(issuer, certificates, next_update or present() + 30 * DAY), 0o644)


def make_pki(folder: Path, *, use_rsa: bool = False) -> Pki:
    """Make everything below `folder`, which is created.

    Parameters
    ----------
    folder
        Its parent must exist.
    use_rsa
        2048-bit RSA keys, for software that knows no other: root:// of XRootD 5.5 (its HTTPS takes both). Takes a
        second or more instead of milliseconds.
    """
    folder.mkdir(exist_ok=True)
    pki = _paths(folder)
    ca = _authority(pki.ca, "dcalqr test CA", use_rsa=use_rsa)
    unknown = _authority(pki.unknown_ca, "Another CA", use_rsa=use_rsa)
    _make_hosts(pki, ca, unknown)
    revoked_user = _make_users(pki, ca, unknown)
    pki.certificates.mkdir(exist_ok=True)
    name = subject_hash(ca.certificate.subject)
    _write(pki.certificates / f"{name}.0", certificate_pem(ca.certificate), 0o644)
    _write(pki.certificates / f"{name}.signing_policy", signing_policy(), 0o644)
    crl = pki.write_crl([pki.host_revoked, revoked_user])
    _write(pki.crl, crl.read_bytes(), 0o644)
    return pki


def _paths(folder: Path) -> Pki:
    special = {
        "folder": folder,
        "certificates": folder / "certificates",
        # The names that grid software looks for.
        "host_certificate": folder / "hostcert.pem",
        "host_key": folder / "hostkey.pem",
        "user_certificate": folder / "usercert.pem",
        "user_key": folder / "userkey.pem",
    }
    named = {f.name: folder / f"{f.name.replace('_', '-')}.pem" for f in fields(Pki) if f.name not in special}
    return Pki(**special, **named)


def _make_hosts(pki: Pki, ca: Owner, unknown: Owner) -> None:
    now = present()
    good = issue(ca, "localhost", server="localhost")
    _write_owner(pki.host, good)
    _write(pki.host_certificate, certificate_pem(good.certificate), 0o644)
    _write(pki.host_key, key_pem(good.key), 0o600)
    _write_owner(pki.host_wrong_name, issue(ca, "elsewhere.example", server="elsewhere.example"))
    _write_owner(pki.host_revoked, issue(ca, "localhost", server="localhost"))
    _write_owner(pki.host_expired, issue(ca, "localhost", server="localhost", start=now - 30 * DAY, end=now - DAY))
    _write_owner(pki.host_unknown_ca, issue(unknown, "localhost", server="localhost"))


def _make_users(pki: Pki, ca: Owner, unknown: Owner) -> Path:
    now = present()
    user = issue(ca, "Test User")
    _write(pki.user_certificate, certificate_pem(user.certificate), 0o644)
    _write(pki.user_key, key_pem(user.key), 0o600)
    good = issue_proxy(user)
    _write_owner(pki.proxy, good, user.certificate)
    _write_owner(pki.proxy_limited, issue_proxy(user, policy=LIMITED), user.certificate)
    _write_owner(pki.proxy_expired, issue_proxy(user, start=now - 2 * DAY, end=now - DAY), user.certificate)
    # Long enough for a slow test to begin with it, short enough to wait for.
    pki.new_proxy(pki.proxy_short, lifetime_seconds=30)
    stranger = issue(unknown, "Foreign User")
    _write_owner(pki.proxy_unknown_ca, issue_proxy(stranger), stranger.certificate)
    revoked = issue(ca, "Revoked User")
    _write_owner(pki.proxy_revoked, issue_proxy(revoked), revoked.certificate)
    _write_owner(pki.proxy_no_chain, good)
    _write(pki.proxy_broken, certificate_pem(good.certificate)[:400] + b"\n", 0o600)
    return pki.proxy_revoked


def _authority(path: Path, common_name: str, *, use_rsa: bool) -> Owner:
    owner = authority(common_name, use_rsa=use_rsa)
    _write(path, certificate_pem(owner.certificate), 0o644)
    _write(_key_path(path), key_pem(owner.key), 0o600)
    return owner


def _key_path(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _key(path: Path) -> Key:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return key


def _write_owner(path: Path, owner: Owner, *chain: x509.Certificate) -> Path:
    """Write certificate, key and chain into one file: the order in which grid tools write a proxy."""
    return _write(
        path, certificate_pem(owner.certificate) + key_pem(owner.key) + b"".join(map(certificate_pem, chain)), 0o600
    )


def _write(path: Path, content: bytes, mode: int) -> Path:
    """Write beside and rename: who re-reads the file while it is renewed never sees a half of it."""
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
    return beside.rename(path)
