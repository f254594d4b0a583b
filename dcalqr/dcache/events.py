"""From a record's bytes to a StorageEvent, or to why it is none. Pure and fast.

A glance decodes only the fields that can show that a message is not ours (type, direction, status, path); nearly all
messages end there. What is left is read again, carefully, field by field. So *unreadable is only what could have been
ours*: bytes that are no JSON object, and transfers that look like uploads into the folder but are malformed. A request
or a remove only says "look now": one that is malformed says nothing, and is skipped.

Decided here, where dCache's own forms leave it open:

* `VERSION` has been "1.0" since 2018 and tells nothing: any value is accepted if the fields fit; the event bears it.
* Repeated slashes are made one, in `path` and `transfer_path` alike, so that they still tell a staged upload.
* Nothing is resolved: a path is ours if it *begins* with the folder's components. One that begins with them and has `.`
  or `..` in it is unreadable; one that would only lead into the folder that way is not ours.
* The folder's own path is skipped (`not_a_file`: it cannot be below itself); a path below it that ends in a slash is
  unreadable (`not_a_file`). Names that are merely too long are read: the task refuses them by a row.
* `isP2p`, `isWrite` and `cellType` of another JSON type than dCache's, or missing, prove nothing; if all else says
  upload into the folder, the record is unreadable (`shape`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Union

import msgspec

from dcalqr.dcache.dates import parse_date
from dcalqr.dcache.fields import (
    Fields,
    check_path,
    code_of,
    decoded,
    form_of,
    pnfsid_of,
    shown,
    size_of,
    text_of,
    unreadable,
)
from dcalqr.dcache.uploads import (
    SKIP_DIRECTION,
    SKIP_FAILED_UPLOAD,
    SKIP_FOLDER,
    SKIP_NOT_A_FILE,
    SKIP_P2P,
    SKIP_REMOVE,
    SKIP_REQUEST,
    SKIP_TYPE,
    SRM_CELL,
    Folder,
    single_slashes,
)
from dcalqr.errors import Unreadable
from dcalqr.model import Skip, StorageEvent

# Kafka's default limit of a message; dCache's own are 0.5 to 2 kB.
LIMIT_BYTES: Final = 1024 * 1024


class _Status(msgspec.Struct, frozen=True, gc=False):
    code: int = 0


class _Message(msgspec.Struct, gc=False, tag_field="msgType"):
    """What can show, of a message of each type, that it is not ours: nothing more is decoded.

    The defaults, for missing fields, prove nothing.
    """


class _Transfer(_Message, gc=False, tag="transfer"):
    status: _Status = _Status()
    billing_path: str = msgspec.field(name="billingPath", default="")
    is_write: str = msgspec.field(name="isWrite", default="write")
    is_p2p: bool = msgspec.field(name="isP2p", default=False)


class _Request(_Message, gc=False, tag="request"):
    cell_name: str = msgspec.field(name="cellName", default="")


class _Remove(_Message, gc=False, tag="remove"):
    billing_path: str = msgspec.field(name="billingPath", default="")


# A type that is missing here costs a careful reading, which skips it as well.
_OTHER_TYPES = ("store", "restore", "hit", "warning", "check")
_OTHERS = frozenset(msgspec.defstruct(kind, (), bases=(_Message,), gc=False, tag=kind) for kind in _OTHER_TYPES)
_kinds: Any = Union[(_Transfer, _Request, _Remove, *_OTHERS)]
_glance: Callable[[bytes], _Message] = msgspec.json.Decoder(_kinds).decode


class EventReader:
    """Reads billing messages for one folder.

    Parameters
    ----------
    folder
        Absolute path in the name space: root + folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Folder(folder)

    def sift(self, values: Iterable[bytes | None]) -> tuple[list[int], dict[Skip, int]]:  # noqa: C901 - see below
        """Dismiss at a glance the records that are plainly not ours, nearly all.

        Parameters
        ----------
        values
            The records' values, None for a tombstone.

        Returns
        -------
        list of int
            The places, from 0, of those that have to be read.
        dict
            How many of the others are not ours for which reason: type, p2p, direction, failed_upload, folder, request.
        """
        excludes = self._folder.excludes
        rest: list[int] = []
        p2p = direction = failed = elsewhere = request = other = 0
        # Spelt out here: millions of records end within these lines, and a call for each would cost what they do.
        for place, value in enumerate(values):
            try:
                glance = _glance(value) if value is not None and len(value) <= LIMIT_BYTES else None
            except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
                glance = None
            if type(glance) is _Transfer:
                if glance.is_p2p:
                    p2p += 1
                elif glance.is_write != "write":
                    direction += 1
                elif glance.status.code != 0:
                    failed += 1
                elif excludes(glance.billing_path):
                    elsewhere += 1
                else:
                    rest.append(place)
            elif type(glance) is _Request and not glance.cell_name.startswith(SRM_CELL):
                request += 1
            elif type(glance) is _Remove and excludes(glance.billing_path):
                elsewhere += 1
            elif type(glance) in _OTHERS:
                other += 1
            else:
                rest.append(place)
        counts = {
            SKIP_P2P: p2p,
            SKIP_DIRECTION: direction,
            SKIP_FAILED_UPLOAD: failed,
            SKIP_FOLDER: elsewhere,
            SKIP_REQUEST: request,
            SKIP_TYPE: other,
        }
        return rest, {skip: count for skip, count in counts.items() if count}

    def read(self, value: bytes | None) -> StorageEvent | Skip:
        """Read one record's value carefully: whatever Python's lenient parser understands.

        It skips all that `sift` dismisses, for the same reason, but finds bytes that are no UTF-8 wherever they are.

        Returns
        -------
        StorageEvent
            An upload into the folder, or a request or remove there that a waiting job may want to know of.
        Skip
            Not ours: type, p2p, direction, failed_upload, folder, not_a_file, request, remove.

        Raises
        ------
        Unreadable
            It could have been ours. Reasons: empty, too_large, encoding, json, shape, status, size, path, traversal,
            nul, control, not_a_file.
        """
        if value is None or not 0 < len(value) <= LIMIT_BYTES:
            raise _no_message(value)
        fields = decoded(value)
        kind = fields.get("msgType")
        if kind == "transfer":
            return _not_an_upload(fields) or self._read_upload(fields)
        if kind == "request":
            cell = fields.get("cellName")
            if not (isinstance(cell, str) and cell.startswith(SRM_CELL)):
                return SKIP_REQUEST
            return self._read_hint("request", fields, SKIP_REQUEST)
        if kind == "remove":
            return self._read_hint("remove", fields, SKIP_REMOVE)
        return SKIP_TYPE

    def _read_upload(self, fields: Fields) -> StorageEvent | Skip:
        path = self._place(fields)
        if isinstance(path, Skip):
            return path
        for name, expected in (("isP2p", False), ("isWrite", "write")):
            if fields.get(name) != expected or type(fields[name]) is not type(expected):
                raise unreadable("shape", f"{name} is {shown(fields.get(name))}")
        if not text_of(fields, "cellType"):
            raise unreadable("shape", "cellType is missing")
        return _event("transfer", fields, path)

    def _read_hint(self, kind: str, fields: Fields, skip: Skip) -> StorageEvent | Skip:
        try:
            path = self._place(fields)
            if isinstance(path, Skip):
                return path
            event = _event(kind, fields, path)
        except Unreadable:
            return skip
        if kind == "request":
            return event if event.staged and fields.get("moverInfo") is None else skip
        return event if event.cell_type == "door" else skip

    def _place(self, fields: Fields) -> str | Skip:
        """Give the path below the folder, with single slashes and safe to use; or why it is not ours."""
        path = fields.get("billingPath")
        if not (isinstance(path, str) and path.startswith("/")):
            raise unreadable("path", f"billingPath is {shown(path)}")
        path = single_slashes(path)
        if path.rstrip("/") == self._folder.path:
            return SKIP_NOT_A_FILE
        if not self._folder.holds(path):
            return SKIP_FOLDER
        check_path(path)
        return path


def _no_message(value: bytes | None) -> Unreadable:
    if not value:
        return unreadable("empty", "null" if value is None else "no bytes")
    return unreadable("too_large", f"{len(value)} bytes")


def _not_an_upload(fields: Fields) -> Skip | None:
    """Say why a transfer is plainly none of ours; None when nothing proves it."""
    if fields.get("isP2p") is True:
        return SKIP_P2P
    direction = fields.get("isWrite")
    if isinstance(direction, str) and direction != "write":
        return SKIP_DIRECTION
    code = code_of(fields)
    if code is not None and code != 0:
        return SKIP_FAILED_UPLOAD
    return None


def _event(kind: str, fields: Fields, path: str) -> StorageEvent:
    """Check strictly all that the event will carry; `path` has been checked."""
    code = code_of(fields)
    if code is None:
        raise unreadable("status", f"status is {shown(fields.get('status'))}")
    return StorageEvent(
        kind=kind,
        cell_type=text_of(fields, "cellType"),
        cell=text_of(fields, "cellName"),
        path=path,
        transfer_path=single_slashes(text_of(fields, "transferPath")) or path,
        pnfsid=pnfsid_of(fields),
        size_bytes=size_of(fields),
        date=parse_date(fields.get("date")),
        code=code,
        write=kind == "transfer",
        p2p=False,
        form=form_of(fields),
    )
