"""What `dcalqr where` says: first whether the file is here, then why not, then the command that comes next."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

from dcalqr.looking.where import Found, Row

_SHOWN_ROWS = 5  # the newest; more of one file are the same trouble again


def in_words(found: Found, config_path: str, now: float) -> Iterator[str]:
    """Yield the lines; not made fit for a terminal."""
    yield f"{found.local_path}"
    yield f"  in dCache: {found.path}"
    yield from _here(found, now)
    yield from _at_door(found)
    yield from _under_way(found)
    yield from _rows(found)
    for record in found.unreadable:
        where = f"partition {record['partition']}, offset {record['offset']}"
        yield f"  unreadable: a record that names it could not be understood ({record['reason']}): {where}"
    for trouble in found.troubles:
        yield f"  could not look: {trouble}"
    if found.instance_trouble:
        yield f"  daemon: {found.instance_trouble}"
    for complaint in found.complaints:
        yield f"  daemon, not well: {complaint}"
    yield from (f"next: {words}" for words in _next(found, f"--config {shlex.quote(config_path)}"))


def _here(found: Found, now: float) -> Iterator[str]:
    disk = found.disk
    if disk is None:
        why = found.refused or (f"{found.in_place} stands in its place" if found.in_place else "")
        yield f"  NOT HERE{f': {why}' if why else ''}"
        return
    yield f"  HERE since {_when(disk.written_at)} ({_ago(now - disk.written_at)} ago), {disk.size_bytes} bytes"
    if disk.adler32 is None:
        yield "  Adler32: not recorded, or the file was changed since it landed; --online reads it"
    else:
        origin = "read from the file just now" if disk.read else "verified when it landed, unchanged since"
        yield f"  Adler32: {disk.adler32} ({origin})"
    if disk.pnfsid:
        yield f"  pnfsid: {disk.pnfsid}"


def _at_door(found: Found) -> Iterator[str]:
    door = found.door
    if door is None:
        return
    if door.trouble:
        yield f"  door: {'it has no such file' if door.gone else 'no answer about it'}: {door.trouble}"
        return
    is_same = {True: "THE SAME as here", False: "ANOTHER FILE than here", None: "cannot be compared"}[found.is_same]
    if found.disk is None:
        is_same = "it has the file"
    elif found.is_same is None:
        is_same += " (no Adler32)"
    yield f"  door: {is_same}; {door.size_bytes} bytes, Adler32 {door.adler32}, pnfsid {door.pnfsid}"


def _under_way(found: Found) -> Iterator[str]:
    if found.running is not None:
        done, size = found.running["received_bytes"], found.running["size_bytes"]
        share = f"{100 * done / size:.0f} % of {size} bytes" if size else f"{done} bytes"
        phase = "it waits for a slot" if found.running["phase"] == "queued" else f"it is being copied, {share}"
        yield f"  daemon: {phase}, for {_ago(found.running['seconds'])}"
    if found.waiting is not None:
        trouble = f"; last trouble: {found.waiting['message']}" if found.waiting["message"] else ""
        since, tries = _ago(found.waiting["seconds"]), f"{found.waiting['tries']} tries"
        yield f"  daemon: it waits for {found.waiting['waits_for']}, for {since} so far, {tries}{trouble}"
    if found.unlisted:
        yield f"  daemon: {found.unlisted} jobs are open that its status does not list; it may be one of them"


def _rows(found: Found) -> Iterator[str]:
    if len(found.rows) > _SHOWN_ROWS:
        yield f"  {len(found.rows) - _SHOWN_ROWS} older rows in the failed-tasks files"
    for row in found.rows[-_SHOWN_ROWS:]:
        state = "replayed since" if row.done else "OPEN"
        tries = f"{row.attempts} {'try' if row.attempts == 1 else 'tries'}"
        yield f"  given up at {_when(row.at)} after {tries} ({row.error_class}: {row.message}); {state}, in {row.file}"


def _next(found: Found, config: str) -> Iterator[str]:
    if found.refused or found.exit_code == 0:
        return
    if found.running or found.waiting:
        yield f"dcalqr top {config}"
    elif found.open_rows:
        yield from dict.fromkeys(_replay(row, found, config) for row in found.open_rows)
    elif found.door is None:
        yield f"dcalqr where {config} --online {shlex.quote(found.path)}"
    elif found.door.gone:
        yield "nothing to copy: was it removed or renamed in dCache? Renames are announced to nobody"
    elif found.door.trouble:
        yield f"dcalqr check {config} --online"
    elif found.unlisted or found.lag_records:
        yield f"wait: the daemon is {found.lag_records} records behind, and may not have come to it"
    else:
        if found.instance_trouble:
            yield "start the daemon: what was uploaded while it was away it will copy"
        yield f"dcalqr replay {config} --from-topic T1 T2   (T1, T2: times around the upload, RFC 3339)"


def _replay(row: Row, found: Found, config: str) -> str:
    return f"dcalqr replay {config} --path {shlex.quote(found.path)} {shlex.quote(row.file)}"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
