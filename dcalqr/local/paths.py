"""Hostile paths made safe: components below a folder, names of part files, source targets. Pure; works on bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import quote

from dcalqr import errors

NAME_MAX = 255  # bytes of one component on every Linux file system that matters; more is ENAMETOOLONG
PATH_MAX = 4095  # bytes of a path without the final NUL: whoever opens the landed file by its path is bound by it
_INSTANCE_DIGITS = 8  # 32 bits tell the few instances of one download folder apart

_PART = re.compile(rb"\.([0-9a-f]{8})-[0-9a-f]{8}\.part\Z")
_EIGHT = re.compile(r"[0-9a-f]{8}")
# C0, DEL and C1: some end lines, some drive terminals; no experiment names its files so.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def relative(path: str, folder: str) -> tuple[bytes, ...]:
    """Split a path into its components below a folder.

    Parameters
    ----------
    path
        Absolute and raw, as the event names it.
    folder
        A prefix at a component boundary; a trailing slash is of no account.

    Returns
    -------
    tuple of bytes
        At least one component, none of which is empty, ``.`` or ``..``, or holds a slash, NUL or control character.

    Raises
    ------
    PermanentError
        The path is not below the folder, or has a component that is refused.
    NameTooLong
        A component exceeds 255 bytes, or the path 4095.
    ReservedName
        The last component has the form of a part file.
    """
    prefix = folder.rstrip("/") + "/"
    if not path.startswith(prefix):
        raise errors.PermanentError(why="the path is not below the configured folder")
    if _CONTROL.search(path):
        raise errors.PermanentError(why="the path holds NUL or a control character")
    components = _encode(path[len(prefix) :]).split(b"/")
    for component in components:
        _check_component(component)
    if len(_encode(path)) > PATH_MAX:
        raise errors.NameTooLong(why=f"the path exceeds {PATH_MAX} bytes")
    if is_part(components[-1]):
        raise errors.ReservedName
    return tuple(components)


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise errors.PermanentError(why="the path holds half a character (a lone surrogate)") from None


def _check_component(component: bytes) -> None:
    if component in {b"", b".", b".."}:
        raise errors.PermanentError(why="the path has an empty component, '.' or '..'")
    if len(component) > NAME_MAX:
        raise errors.NameTooLong(why=f"a component exceeds {NAME_MAX} bytes")


def instance8(instance: str) -> str:
    """The eight hexadecimal digits by which an instance knows its own part files."""
    return hashlib.sha256(instance.encode("utf-8", "surrogateescape")).hexdigest()[:_INSTANCE_DIGITS]


def part_name(final: bytes, instance8: str, order8: str) -> bytes:
    """Name the part file of one order.

    Parameters
    ----------
    final
        The name that the file will bear.
    instance8, order8
        Eight lower-case hexadecimal digits each.

    Raises
    ------
    ValueError
        Not eight such digits: neither the sweep nor `relative` would know the part again.
    """
    if not (_EIGHT.fullmatch(instance8) and _EIGHT.fullmatch(order8)):
        raise ValueError(f"not eight hexadecimal digits each: {instance8!r}, {order8!r}")
    suffix = f".{instance8}-{order8}.part".encode("ascii")
    if len(final) + len(suffix) > NAME_MAX:
        final = hashlib.sha256(final).hexdigest()[:16].encode("ascii")
    return final + suffix


def is_part(name: bytes) -> bool:
    """Whether a name has the form of a part file, of whatever instance."""
    return _PART.search(name) is not None


def is_part_of(name: bytes, instance8: str) -> bool:
    """Whether a name has the form of a part file of this instance."""
    found = _PART.search(name)
    return found is not None and found[1] == instance8.encode("ascii")


def quote_path(raw: bytes) -> str:
    """Percent-encode all but letters, digits, ``_.-~`` and the slash, so that no server reads a name as syntax."""
    return quote(raw, safe="/")


def source_target(base: str, components: Sequence[bytes]) -> str:
    """Append components, in which there is no slash, to a URL or to the path of one; the base is taken as it stands."""
    return f"{base.rstrip('/')}/{quote_path(b'/'.join(components))}" if components else base.rstrip("/")
