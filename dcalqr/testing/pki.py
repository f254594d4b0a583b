"""A throw-away grid PKI: authorities, host certificates, a user and proxies, each also in its broken forms."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

DAY = dt.timedelta(days=1)
# RFC 3820, 3.8: the extension that makes a certificate a proxy.
PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
# Its value, DER of SEQUENCE { SEQUENCE { OID } }: the policy "inherit all" (RFC 3820, 3.8.2) and Globus' "limited".
INHERIT_ALL = bytes.fromhex("300c300a06082b06010505071501")
LIMITED = bytes.fromhex("300f300d060b2b060104019b5001010109")
# DER contents of the two attribute types that our names use: 0.9.2342.19200300.100.1.25 and 2.5.4.3.
NAME_OIDS = {
    NameOID.DOMAIN_COMPONENT: bytes.fromhex("0992268993f22c640119"),
    NameOID.COMMON_NAME: bytes.fromhex("550403"),
}
ORGANIZATION = "/DC=org/DC=dcalqr-test"


class Owner(NamedTuple):
    """A certificate and its key: what it takes to sign."""

    certificate: x509.Certificate
    key: Key


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
        end = _now() + dt.timedelta(seconds=math.ceil(lifetime_seconds + time.time() % 1))
        return _write_owner(path, _proxy(user, end=end), user.certificate)

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
        return _write(path, _crl(issuer, revoked, next_update or _now() + 30 * DAY), 0o644)


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
    _write(pki.certificates / f"{name}.0", _pem(ca.certificate), 0o644)
    _write(pki.certificates / f"{name}.signing_policy", _signing_policy(), 0o644)
    crl = pki.write_crl([pki.host_revoked, revoked_user])
    _write(pki.crl, crl.read_bytes(), 0o644)
    return pki


def subject_hash(name: x509.Name) -> str:
    """Give the 8 hex digits under which OpenSSL looks a CA up in a directory (`openssl x509 -hash`).

    SHA-1 over the canonical form: each attribute as a UTF8String in lower case with single blanks, without the
    outer SEQUENCE; the first four bytes, little-endian. Good for ASCII names of domain components and common names.

    Raises
    ------
    KeyError
        The name has an attribute of another type.
    """
    digest = hashlib.sha1(b"".join(_canonical(part) for part in name), usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _canonical(part: x509.NameAttribute[str | bytes]) -> bytes:
    text = " ".join(str(part.value).lower().split()).encode()
    return _der(0x31, _der(0x30, _der(0x06, NAME_OIDS[part.oid]) + _der(0x0C, text)))


def _der(tag: int, body: bytes) -> bytes:
    assert len(body) < 128, "short form only: our names are short"
    return bytes((tag, len(body))) + body


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
    now = _now()
    good = _issue(ca, "localhost", server="localhost")
    _write_owner(pki.host, good)
    _write(pki.host_certificate, _pem(good.certificate), 0o644)
    _write(pki.host_key, _key_pem(good.key), 0o600)
    _write_owner(pki.host_wrong_name, _issue(ca, "elsewhere.example", server="elsewhere.example"))
    _write_owner(pki.host_revoked, _issue(ca, "localhost", server="localhost"))
    _write_owner(pki.host_expired, _issue(ca, "localhost", server="localhost", start=now - 30 * DAY, end=now - DAY))
    _write_owner(pki.host_unknown_ca, _issue(unknown, "localhost", server="localhost"))


def _make_users(pki: Pki, ca: Owner, unknown: Owner) -> Path:
    now = _now()
    user = _issue(ca, "Test User")
    _write(pki.user_certificate, _pem(user.certificate), 0o644)
    _write(pki.user_key, _key_pem(user.key), 0o600)
    good = _proxy(user)
    _write_owner(pki.proxy, good, user.certificate)
    _write_owner(pki.proxy_limited, _proxy(user, policy=LIMITED), user.certificate)
    _write_owner(pki.proxy_expired, _proxy(user, start=now - 2 * DAY, end=now - DAY), user.certificate)
    # Long enough for a slow test to begin with it, short enough to wait for.
    pki.new_proxy(pki.proxy_short, lifetime_seconds=30)
    stranger = _issue(unknown, "Foreign User")
    _write_owner(pki.proxy_unknown_ca, _proxy(stranger), stranger.certificate)
    revoked = _issue(ca, "Revoked User")
    _write_owner(pki.proxy_revoked, _proxy(revoked), revoked.certificate)
    _write_owner(pki.proxy_no_chain, good)
    _write(pki.proxy_broken, _pem(good.certificate)[:400] + b"\n", 0o600)
    return pki.proxy_revoked


def _authority(path: Path, common_name: str, *, use_rsa: bool) -> Owner:
    key = _new_key(use_rsa=use_rsa)
    subject = _name(common_name)
    builder = (
        _builder(subject, subject, key, _now() - DAY, _now() + 3650 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    owner = Owner(builder.sign(key, hashes.SHA256()), key)
    _write(path, _pem(owner.certificate), 0o644)
    _write(_key_path(path), _key_pem(key), 0o600)
    return owner


def _issue(
    issuer: Owner,
    common_name: str,
    *,
    server: str = "",
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
) -> Owner:
    """Issue an end entity's certificate; `server` names the host it is for, empty: it is a user's."""
    key = _new_key(use_rsa=isinstance(issuer.key, rsa.RSAPrivateKey))
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    subject = _name(common_name)
    builder = (
        _builder(subject, issuer.certificate.subject, key, start or _now() - DAY, end or _now() + 365 * DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    if server:
        builder = builder.add_extension(_host_names(server), critical=False)
    return Owner(builder.sign(issuer.key, hashes.SHA256()), key)


def _proxy(
    user: Owner, *, policy: bytes = INHERIT_ALL, start: dt.datetime | None = None, end: dt.datetime | None = None
) -> Owner:
    """Issue a proxy as RFC 3820 has it: the user signs, the subject is the user's and one more common name."""
    key = _new_key(use_rsa=isinstance(user.key, rsa.RSAPrivateKey))
    serial = time.time_ns()
    subject = x509.Name([*user.certificate.subject, x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
    now = _now()
    builder = (
        # Five minutes back, as the grid's tools do for the sake of clocks that are slow.
        _builder(subject, user.certificate.subject, key, start or now - DAY / 288, end or now + DAY / 2, serial)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.UnrecognizedExtension(PROXY_CERT_INFO, policy), critical=True)
    )
    return Owner(builder.sign(user.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, start: dt.datetime, end: dt.datetime, serial: int | None = None
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _crl(issuer: Owner, revoked: Iterable[Path], next_update: dt.datetime) -> bytes:
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    # Ten days: before any `next_update` of a test, and before `now`.
    made = min(_now(), next_update) - 10 * DAY
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(made)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(time.time_ns()), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    for path in revoked:
        for certificate in x509.load_pem_x509_certificates(path.read_bytes()):
            if certificate.issuer == issuer.certificate.subject:
                builder = builder.add_revoked_certificate(_revoked(certificate.serial_number, made))
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _revoked(serial: int, date: dt.datetime) -> x509.RevokedCertificate:
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date).build()


def _usage(*, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=not sign_certificates,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host_names(host: str) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if host == "localhost":
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    return x509.SubjectAlternativeName(names)


def _name(common_name: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.DOMAIN_COMPONENT, part) for part in ("org", "dcalqr-test")]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _signing_policy() -> bytes:
    return (
        f"access_id_CA   X509    '{ORGANIZATION}/CN=dcalqr test CA'\n"
        f"pos_rights     globus  CA:sign\n"
        f"cond_subjects  globus  '\"{ORGANIZATION}/*\"'\n"
    ).encode()


def _new_key(*, use_rsa: bool) -> Key:
    if use_rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _key_path(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _key(path: Path) -> Key:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: Key) -> bytes:
    # The old form: every grid library reads it.
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write_owner(path: Path, owner: Owner, *chain: x509.Certificate) -> Path:
    """Write certificate, key and chain into one file: the order in which grid tools write a proxy."""
    return _write(path, _pem(owner.certificate) + _key_pem(owner.key) + b"".join(map(_pem, chain)), 0o600)


def _write(path: Path, content: bytes, mode: int) -> Path:
    """Write beside and rename: who re-reads the file while it is renewed never sees a half of it."""
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
    return beside.rename(path)


def _now() -> dt.datetime:
    """Give the present second, the last one that has begun: certificates know no fractions."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
