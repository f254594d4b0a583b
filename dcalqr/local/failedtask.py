"""A row of the failed-tasks file: its columns, and its form as a line of CSV.

Every cell is percent-encoded where it holds anything but harmless ASCII: a row is one line without quotes, splits at
its commas, and no cell begins a spreadsheet formula.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

import msgspec

from dcalqr.model import StorageEvent

ROW_VERSION = 1
EVENT_LIMIT_BYTES = 64 * 1024  # a billing message has 1-2 KiB; without it the row alone rebuilds the event

# Separators of any locale and the signs that begin a formula are never left as they are, wherever they stand.
_UNSAFE = re.compile(rb"[^A-Za-z0-9_.~/:()!?\[\]{} -]|\A[^A-Za-z0-9/_.]|(?<= )-")


class FailedTask(msgspec.Struct, frozen=True, kw_only=True, rename={"error_class": "class"}):
    """One row: enough to run the task again.

    Parameters
    ----------
    id
        Unique; what a replay's done file names.
    version
        Of this row's form.
    time
        When it was written, seconds since the epoch.
    date, pnfsid, path, transferpath, size
        The event's; `date` in seconds since the epoch, `size` in bytes.
    error_class, http_status, message
        Why, and what the door said.
    event
        The record's bytes; empty when there are more than 64 KiB.
    """

    id: str
    version: int = ROW_VERSION
    time: float
    task: str
    topic: str
    partition: int
    offset: int
    date: float | None
    pnfsid: str
    path: str
    transferpath: str
    size: int | None
    attempts: int
    error_class: str
    http_status: int | None
    message: str
    event: bytes

    def to_event(self) -> StorageEvent:
        """Rebuild the upload from the columns; what they lack (door, pool) is empty."""
        return StorageEvent(
            kind="transfer",
            cell_type="pool",
            cell="",
            path=self.path,
            transfer_path=self.transferpath,
            pnfsid=self.pnfsid,
            size_bytes=self.size,
            date=self.date,
            code=0,
            write=True,
            p2p=False,
        )


_COLUMNS = tuple(field.encode_name for field in msgspec.structs.fields(FailedTask))
_FIELDS = FailedTask.__struct_fields__
_TIMES = {"time", "date"}
HEADER = ",".join(_COLUMNS).encode("ascii") + b"\n"


def encode_row(row: FailedTask) -> bytes:
    """One line, newline included."""
    return b",".join(_cell(name, getattr(row, name)) for name in _FIELDS) + b"\n"


def _cell(name: str, value: str | bytes | float | None) -> bytes:
    if value is None:
        return b""
    if name in _TIMES and isinstance(value, int | float):
        return utc(value).encode("ascii")
    if name == "event" and isinstance(value, bytes):
        return percent_encode(value if len(value) <= EVENT_LIMIT_BYTES else b"")
    return percent_encode(str(value).encode("utf-8", "surrogatepass"))


def percent_encode(raw: bytes) -> bytes:
    """Make any bytes one cell: letters, digits and harmless signs stay, and none of them begins a formula."""
    return _UNSAFE.sub(lambda found: b"%%%02X" % ord(found[0]), raw)


def utc(seconds: float) -> str:
    """Write seconds since the epoch as ISO 8601 with a Z; empty for what is outside the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return ""


def decode_row(line: bytes) -> FailedTask:
    """Read a line without its newline.

    Raises
    ------
    ValueError
        Not a row of this version; the text says why.
    """
    cells = line.split(b",")
    if len(cells) != len(_COLUMNS):
        raise ValueError(f"{len(cells)} columns instead of {len(_COLUMNS)}")
    values = {column: _value(column, unquote_to_bytes(cell)) for column, cell in zip(_COLUMNS, cells, strict=True)}
    if values["version"] != str(ROW_VERSION):
        raise ValueError(f"row version {values['version']!r}; this dcalqr reads {ROW_VERSION}")
    return msgspec.convert(values, FailedTask, strict=False)


def _value(column: str, raw: bytes) -> str | bytes | float | None:
    if column == "event":
        return raw
    text = raw.decode("utf-8", "surrogatepass")
    if column in _TIMES and text:
        return datetime.fromisoformat(text).timestamp()
    return text if text or column not in {"date", "size", "http_status"} else None
