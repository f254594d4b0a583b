"""Certificates of the grid's kinds, made in memory: authorities, hosts, users, RFC 3820 proxies, and CRLs."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import time
from collections.abc import Iterable
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


def authority(common_name: str, *, use_rsa: bool) -> Owner:
    """Make a certificate authority, which signs itself."""
    key = _new_key(use_rsa=use_rsa)
    subject = _name(common_name)
    builder = (
        _builder(subject, subject, key, present() - DAY, present() + 3650 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Owner(builder.sign(key, hashes.SHA256()), key)


def issue(
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
        _builder(subject, issuer.certificate.subject, key, start or present() - DAY, end or present() + 365 * DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    if server:
        builder = builder.add_extension(_host_names(server), critical=False)
    return Owner(builder.sign(issuer.key, hashes.SHA256()), key)


def issue_proxy(
    user: Owner, *, policy: bytes = INHERIT_ALL, start: dt.datetime | None = None, end: dt.datetime | None = None
) -> Owner:
    """Issue a proxy as RFC 3820 has it: the user signs, the subject is the user's and one more common name."""
    key = _new_key(use_rsa=isinstance(user.key, rsa.RSAPrivateKey))
    serial = time.time_ns()
    subject = x509.Name([*user.certificate.subject, x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
    now = present()
    builder = (
        # Five minutes back, as the grid's tools do for the sake of clocks that are slow.
        _builder(subject, user.certificate.subject, key, start or now - DAY / 288, end or now + DAY / 2, serial)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.UnrecognizedExtension(PROXY_CERT_INFO, policy), critical=True)
    )
    return Owner(builder.sign(user.key, hashes.SHA256()), key)


def issue_crl(issuer: Owner, revoked: Iterable[x509.Certificate], next_update: dt.datetime) -> bytes:
    """Issue a CRL as PEM; of the revoked certificates only the issuer's own are in it."""
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    # Ten days: before any `next_update` of a test, and before `now`.
    made = min(present(), next_update) - 10 * DAY
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(made)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(time.time_ns()), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    for certificate in revoked:
        if certificate.issuer == issuer.certificate.subject:
            builder = builder.add_revoked_certificate(_revoked(certificate.serial_number, made))
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


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


def signing_policy() -> bytes:
    """Write what the grid's software lets the authority of ours sign."""
    return (
        f"access_id_CA   X509    '{ORGANIZATION}/CN=dcalqr test CA'\n"
        f"pos_rights     globus  CA:sign\n"
        f"cond_subjects  globus  '\"{ORGANIZATION}/*\"'\n"
    ).encode()


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


def _new_key(*, use_rsa: bool) -> Key:
    if use_rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Key) -> bytes:
    """Write a key as PEM, without a password."""
    # The old form: every grid library reads it.
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def present() -> dt.datetime:
    """Give the present second, the last one that has begun: certificates know no fractions."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
