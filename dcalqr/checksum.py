"""Adler32, and how servers write it. Pure."""

from __future__ import annotations

import base64
import re

from zlib_ng import zlib_ng

ADLER32_START = 1  # RFC 1950: the sum of no bytes

_HEX = re.compile(r"[0-9a-fA-F]{1,8}")
# Four bytes in base64 always end in "==", which no hexadecimal value does: the two cannot be mistaken for each other.
_BASE64 = re.compile(r":?([A-Za-z0-9+/]{6}==):?")


class Adler32:
    """The Adler32 of blocks fed one after another."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = ADLER32_START

    def update(self, block: bytes | bytearray | memoryview) -> None:
        """Add a block of any size."""
        self.value = zlib_ng.adler32(block, self.value)

    def __repr__(self) -> str:
        return f"<Adler32 {hex8(self.value)}>"


def hex8(value: int) -> str:
    """The eight lower-case hexadecimal digits that dCache writes."""
    return f"{value:08x}"


def parse_digest(header: str) -> int | None:
    """Find the Adler32 in a `Digest` header.

    Accepts several algorithms, spaces, upper case, quotes, fewer than eight digits (other servers drop leading zeros)
    and four bytes in base64.

    Returns
    -------
    int or None
        None when there is none, it cannot be understood, or two of them contradict each other.
    """
    found = {_value(value) for name, value in _fields(header) if name == "adler32"}
    return found.pop() if len(found) == 1 else None


def _fields(header: str) -> list[tuple[str, str]]:
    parts = (field.partition("=") for field in header.split(","))
    return [(name.strip().lower(), value.strip().strip('"')) for name, _, value in parts]


def _value(text: str) -> int | None:
    if _HEX.fullmatch(text):
        return int(text, 16)
    encoded = _BASE64.fullmatch(text)
    if encoded is None:
        return None
    raw = base64.b64decode(encoded[1])
    canonical = base64.b64encode(raw).decode("ascii") == encoded[1]
    return int.from_bytes(raw, "big") if canonical else None
