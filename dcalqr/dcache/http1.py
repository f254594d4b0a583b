"""What one GET is on the wire: who is asked, the request, the header of the answer. Pure.

Not `http.client` and not `httpx`: the two together cost 0.8 ms of CPU per request, this less than 0.1 ms
(`benchmarks/README.md`), and this refuses what they guess at: a second Content-Length, folded lines, bare line ends,
hosts that only some parsers see in a URL.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple

HEAD_END = b"\r\n\r\n"
# Larger than any file, and short enough for `int` whatever a server writes.
_MOST_DIGITS = 18
# Where origins are many, they come from somebody who makes them up.
_ORIGINS_REMEMBERED = 1024

_PRINTABLE = re.compile(r"[!-~]+")
_BEFORE_PATH = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
# Not `urlsplit`: it drops what stands beside the brackets of an address, and takes port 0 for none.
_PARTS = re.compile(r"(https?)://(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]{1,253}))(?::([0-9]{0,5}))?")
_NUMBERS = re.compile(r"[0-9.]+")
_HEAD = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\0]*+)?+(?:\r\n[!#-'*+.^_`|~\w-]++[ \t]*+:[^\r\n\0]*+)*+")
# The fields that decide something here. Looking for them alone costs a tenth of taking the header apart.
_FIELD = re.compile(
    rb"\r\n(connection|content-length|digest|location|retry-after|transfer-encoding)[ \t]*:[ \t]*([^\r]*)",
    re.IGNORECASE,
)


class BadHead(ValueError):
    """An answer whose header is not HTTP/1.1."""


class Origin(NamedTuple):
    """Scheme, host and port: who gets a request."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Raises ValueError for a URL that is not printable ASCII, or without a usable host or port."""
        if not _PRINTABLE.fullmatch(url):
            raise ValueError("not a URL: empty, or not printable ASCII")
        found = _BEFORE_PATH.match(url)
        if found is None:
            raise ValueError("not an http(s) URL")
        return _origin(found[0])

    @property
    def netloc(self) -> str:
        """`host:port`, as a Host field has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@functools.lru_cache(_ORIGINS_REMEMBERED)
def _origin(before_path: str) -> Origin:
    parts = _PARTS.fullmatch(before_path.lower())
    if parts is None:
        raise ValueError("not an http(s) URL of a plain host and port")
    scheme, ipv6, host, digits = parts.groups()
    if ipv6:
        ipaddress.IPv6Address(ipv6)
    elif _NUMBERS.fullmatch(host):
        ipaddress.IPv4Address(host)
    port = int(digits) if digits else 443 if scheme == "https" else 80
    if not 0 < port < 65536:
        raise ValueError(f"not a port: {port}")
    return Origin(scheme, ipv6 or host, port)


def target_of(url: str) -> str:
    """Return the request target of a URL exactly as it stands, without a fragment."""
    before_path = _BEFORE_PATH.match(url)
    rest = url[before_path.end() if before_path else 0 :].partition("#")[0]
    return rest if rest.startswith("/") else "/" + rest


def request(origin: Origin, target: str) -> bytes:
    """Return the GET of a target, asking for its Adler32 and for the plain bytes."""
    return (
        f"GET {target} HTTP/1.1\r\nHost: {origin.netloc}\r\nWant-Digest: adler32\r\n"
        "Accept-Encoding: identity\r\nAccept: */*\r\nUser-Agent: dcalqr\r\n\r\n"
    ).encode("ascii")


class Head(NamedTuple):
    """The header of an answer, as far as it decides anything.

    `fields` has lower-case names, each with all its values in their order; `keeps` says whether the connection may
    serve another request after the body.
    """

    status: int
    fields: dict[str, list[str]]
    keeps: bool

    def value(self, name: str) -> str:
        """All values of a field, joined by commas; empty: it is not there."""
        return ", ".join(self.fields.get(name, ()))


def parse_head(head: bytes) -> Head:
    """Understand a header without its last, empty line.

    Raises
    ------
    BadHead
        It is not HTTP/1.0 or HTTP/1.1.
    """
    found = _HEAD.match(head)
    if found is None:
        raise BadHead(f"the status line is {head[:40]!r}")
    if found.end() < len(head):
        raise BadHead(f"the header is not understood from {head[found.end() :][:40]!r} on")
    fields: dict[str, list[str]] = {}
    for name, value in _FIELD.findall(head):
        fields.setdefault(name.decode("ascii").lower(), []).append(value.rstrip(b" \t").decode("latin-1"))
    closes = any("close" in value.lower() for value in fields.get("connection", ()))
    return Head(int(found[2]), fields, keeps=found[1] == b"1" and not closes)


def length_of(text: str) -> int | None:
    """Return a Content-Length in bytes; None: not a number, or one that no file has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def lengths_of(head: Head) -> set[str]:
    """All different Content-Lengths of an answer, as they are written."""
    return {part.strip() for value in head.fields.get("content-length", ()) for part in value.split(",")}
