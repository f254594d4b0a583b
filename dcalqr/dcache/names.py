"""Whose a certificate is: the names that it bears, and the host that was asked for."""

from __future__ import annotations

import functools
import ipaddress

from cryptography import x509
from OpenSSL import crypto
from service_identity import CertificateError
from service_identity.hazmat import DNS_ID, DNSPattern


def name_trouble(certificate: crypto.X509, host: str) -> str:
    """Say why a certificate is not this host's; empty: it is."""
    extensions = certificate.to_cryptography().extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "it has no subjectAltName, and a common name does not count"
    if is_address(host):
        is_named = ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    else:
        is_named = any(_is_name_of(name, host) for name in names.get_values_for_type(x509.DNSName))
    return "" if is_named else f"Hostname mismatch, certificate is not valid for {host}"


def _is_name_of(name: str, host: str) -> bool:
    try:
        pattern = DNSPattern.from_bytes(name.encode())
    except CertificateError:
        return False  # an address given as a name, or an odd wildcard, takes nothing from the names beside it
    return DNS_ID(host).verify(pattern)


# Asked several times for each connection; a facility has some hundred hosts.
@functools.lru_cache(1024)
def is_address(host: str) -> bool:
    """Whether a host is given as an address: it is sent no name then, and its certificate must bear the address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
