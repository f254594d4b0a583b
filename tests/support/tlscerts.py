"""Certificates that `Pki` has not: of an intermediate authority, with other names or purposes."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dcalqr.testing.certificates import DAY, Owner, certificate_pem, key_pem, present, subject_hash
from dcalqr.testing.pki import Pki


class CaOf(NamedTuple):
    """An authority and the directory in which it is, or is not, trusted."""

    owner: Owner
    directory: Path

    @property
    def hash(self) -> str:
        return subject_hash(self.owner.certificate.subject)

    def trust(self) -> None:
        (self.directory / f"{self.hash}.0").write_bytes(certificate_pem(self.owner.certificate))

    def write_crl(self, revoked: Iterable[x509.Certificate] = (), *, start: dt.datetime | None = None) -> Path:
        begin = start or present() - 10 * DAY
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.owner.certificate.subject)
            .last_update(begin)
            .next_update(begin + 40 * DAY)
            .add_extension(x509.CRLNumber(time.time_ns()), critical=False)
        )
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(begin)
            builder = builder.add_revoked_certificate(entry.build())
        path = self.directory / f"{self.hash}.r0"
        path.write_bytes(builder.sign(self.owner.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def ca_of(pki: Pki) -> CaOf:
    key = serialization.load_pem_private_key(pki.ca.with_suffix(".key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return CaOf(Owner(x509.load_pem_x509_certificate(pki.ca.read_bytes()), key), pki.certificates)


def intermediate(ca: CaOf) -> CaOf:
    """Make an authority below another one, in the same directory, with a CRL."""
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    made = _issue(ca.owner, "Intermediate CA", [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)])
    below = CaOf(made, ca.directory)
    below.trust()
    below.write_crl()
    return below


def host(
    path: Path,
    ca: CaOf,
    names: Iterable[x509.GeneralName],
    *,
    common_name: str = "localhost",
    client_only: bool = False,
    extra: x509.UnrecognizedExtension | None = None,
) -> Path:
    """Write a host's certificate with exactly these names, and its key, and those of the authority as its chain."""
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client_only else ExtendedKeyUsageOID.SERVER_AUTH
    extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.ExtendedKeyUsage([purpose]), False)]
    if names := list(names):
        extensions.append((x509.SubjectAlternativeName(names), False))
    if extra is not None:
        extensions.append((extra, False))
    made = _issue(ca.owner, common_name, extensions)
    path.write_bytes(certificate_pem(made.certificate) + key_pem(made.key) + certificate_pem(ca.owner.certificate))
    return path


def _issue(issuer: Owner, common_name: str, extensions: list[tuple[x509.ExtensionType, bool]]) -> Owner:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(present() - DAY)
        .not_valid_after(present() + 30 * DAY)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Owner(builder.sign(issuer.key, hashes.SHA256()), key)
