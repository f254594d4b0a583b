"""A billing message's fields: from bytes to a JSON object, and each field checked before anybody uses it. Pure.

* A byte order mark before the object is stripped. JSON's null is a missing field (org.json never writes null).
* Every value may be hostile. What goes into paths, headers, logs and rows is let pass only if it can do no harm there.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeAlias, TypedDict, cast

import msgspec

from dcalqr.errors import Unreadable
from dcalqr.model import KNOWN_FORM

Fields: TypeAlias = dict[str, object]


# dCache keeps sizes in a Java long.
LARGEST_SIZE_BYTES: Final = 2**63 - 1
# A Java long has 19 digits and a sign; longer ones are no number of dCache's, and costly to convert.
LONGEST_INTEGER: Final = 20
# Enough to recognise the culprit in a log line; the record itself is kept elsewhere.
DETAIL_CHARACTERS: Final = 120
# "1.0" has three; a longer one is no version.
LONGEST_FORM: Final = 20


class _Fields(TypedDict, total=False):
    """All fields that anybody looks at: of two dozen others no objects are made, and a name not here is not found."""

    msgType: object
    cellType: object
    cellName: object
    status: object
    isP2p: object
    isWrite: object
    billingPath: object
    transferPath: object
    pnfsid: object
    fileSize: object
    date: object
    moverInfo: object
    version: object
    VERSION: object


_decode = msgspec.json.Decoder(_Fields).decode

_CONTROLS = re.compile("[\x01-\x1f\x7f-\x9f]")
# 24 or 36 hexadecimal digits today. Any plain word is as good an identity, and none can harm a header or an xattr.
_PNFSID = re.compile("[0-9A-Za-z-]{1,64}")


def decoded(value: bytes) -> Fields:
    """Read a record as a JSON object, whatever its fields.

    Raises
    ------
    Unreadable
        It is none: encoding, json, shape.
    """
    try:
        # As a text, since msgspec passes over fields without a look at their encoding.
        return cast("Fields", _decode(value.decode()))
    except (ValueError, RecursionError):
        found = _parsed_leniently(value)
    if not isinstance(found, dict):
        raise unreadable("shape", f"the message is {shown(found)}, no object")
    return found


def _parsed_leniently(value: bytes) -> object:
    """Parse with the standard library, which understands a byte order mark, NaN, 1e400 and lone surrogates.

    So a message that bears them where nobody looks is read, and one that is not ours is still seen not to be.
    """
    try:
        return json.loads(value.decode("utf-8-sig"), parse_int=_integer)
    except UnicodeDecodeError as error:
        raise unreadable("encoding", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise unreadable("json", str(error)) from error


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_INTEGER else float("inf")


def code_of(fields: Fields) -> int | None:
    """Give the status code; None: there is none that is a number."""
    status = fields.get("status")
    code = status.get("code") if isinstance(status, dict) else None
    return code if type(code) is int else None  # a bool is an int to isinstance


def size_of(fields: Fields) -> int | None:
    """Give the size in bytes; None: unknown, as 0 is. Raises Unreadable (size)."""
    size = fields.get("fileSize")
    if size is None:
        return None
    if type(size) is not int or not 0 <= size <= LARGEST_SIZE_BYTES:
        raise unreadable("size", f"fileSize is {shown(size)}")
    return size or None


def pnfsid_of(fields: Fields) -> str:
    """Give the pnfsid; empty when missing. Raises Unreadable (shape, and as `text_of`)."""
    pnfsid = text_of(fields, "pnfsid")
    if pnfsid and not _PNFSID.fullmatch(pnfsid):
        raise unreadable("shape", f"pnfsid is {shown(pnfsid)}")
    return pnfsid


def text_of(fields: Fields, name: str) -> str:
    """Give a string that may go into logs, headers and rows; empty when missing.

    Raises
    ------
    Unreadable
        It is no string (shape), or has characters that harm: encoding, nul, control.
    """
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise unreadable("shape", f"{name} is {shown(value)}")
    _check_characters(value)
    return value


def check_path(path: str) -> None:
    """Raise Unreadable for a path that no file has or that leads elsewhere: traversal, not_a_file, as `text_of`."""
    _check_characters(path)
    # A path is absolute, so that a slash precedes each component: nearly all need no second look.
    if "/." in path and not {".", ".."}.isdisjoint(path.split("/")):
        raise unreadable("traversal", shown(path))
    if path.endswith("/"):
        raise unreadable("not_a_file", shown(path))


def _check_characters(text: str) -> None:
    if text.isascii() and text.isprintable():
        return  # nearly all of them
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise unreadable("encoding", f"half a character in {shown(text)}") from error
    if "\0" in text:
        raise unreadable("nul", shown(text))
    if _CONTROLS.search(text):
        raise unreadable("control", shown(text))


def shown(value: object) -> str:
    """Name a hostile value in plain ASCII; of containers only the kind, they may be deep or long."""
    if value is None:
        return "missing"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    return ascii(value)


def unreadable(reason: str, detail: str) -> Unreadable:
    """Make the error of a record; the detail is cut."""
    return Unreadable(reason=reason, detail=detail[:DETAIL_CHARACTERS])


def form_of(fields: Fields) -> str:
    """The form that the message says it has: `VERSION` of doors, `version` of pools; anything odd as it is shown."""
    value = fields.get("VERSION", fields.get("version", KNOWN_FORM))
    return value if isinstance(value, str) and len(value) <= LONGEST_FORM else shown(value)
