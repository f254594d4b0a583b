"""What `dcalqr where` says: first whether the file is here, then why not, then the command that comes next."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Any

from dcalqr.looking.found import GONE, NO_ANSWER, NOT_ASKED, REFUSED_ALL, REFUSED_FILE, SHOWN, Found, Row

_RUNBOOK = "docs/runbook.md"
_NOT_SHOWN = {
    GONE: "it has no such file",
    REFUSED_FILE: "it refuses this file, although it shows the watched folder",
    REFUSED_ALL: "it refuses our proxy, for the watched folder too",
    NO_ANSWER: "it tells nothing of the file",
    NOT_ASKED: "not asked",
}
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
    if found.unknown:
        yield f"  UNKNOWN whether it is here: {found.unknown}"
        return
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
    if door.answer in _NOT_SHOWN:
        yield f"  door: {_NOT_SHOWN[door.answer]}: {door.trouble}"
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
        since, tries = _ago(found.waiting["seconds"]), _tries(found.waiting["tries"])
        yield f"  daemon: it waits for {_awaited(found, found.waiting)}, for {since} so far, {tries}{trouble}"
    if found.unlisted:
        yield f"  daemon: {found.unlisted} jobs are open that its status does not list; it may be one of them"


def _awaited(found: Found, waiting: dict[str, Any]) -> str:
    reason = str(waiting["waits_for"])
    details = {"a hold": ", ".join(found.holds), "visibility": "the door does not show this upload yet"}
    return f"{reason} ({details[reason]})" if reason in details else reason


def _rows(found: Found) -> Iterator[str]:
    if len(found.rows) > _SHOWN_ROWS:
        yield f"  {len(found.rows) - _SHOWN_ROWS} older rows in the failed-tasks files"
    for row in found.rows[-_SHOWN_ROWS:]:
        state = "replayed since" if row.done else "OPEN"
        tries = _tries(row.attempts)
        yield f"  given up at {_when(row.at)} after {tries} ({row.error_class}: {row.message}); {state}, in {row.file}"


def _next(found: Found, config: str) -> Iterator[str]:
    if found.refused or found.exit_code == 0:
        return
    answer = SHOWN if found.door is None else found.door.answer
    if found.unknown:
        asks = "ask again as the daemon's user, or as root"
        yield asks if found.may_not_look else f"bring the download folder back, then ask again: {_RUNBOOK}#hold-mount"
        return
    if answer in (REFUSED_ALL, NOT_ASKED):
        yield f"a proxy that the door accepts is needed first: {_RUNBOOK}#hold-credential"
        yield f"dcalqr check {config} --online"
        return
    yield from _for_file(found, answer, config)


def _for_file(found: Found, answer: str, config: str) -> Iterator[str]:
    """What to do where the trouble is this file's own."""
    if answer == REFUSED_FILE:
        yield "have its owner, or the door's operators, let this proxy read it; then:"
    if found.running or found.waiting:
        yield from _patience(found, config)
    elif found.open_rows:
        yield from dict.fromkeys(_replay(row, found, config) for row in found.open_rows)
    elif found.door is None:
        yield f"dcalqr where {config} --online {shlex.quote(found.path)}"
    elif answer == GONE:
        yield "nothing to copy: was it removed or renamed in dCache? Renames are announced to nobody"
    elif answer == NO_ANSWER:
        yield f"dcalqr check {config} --online"
    else:
        yield from _not_met(found, config)


def _patience(found: Found, config: str) -> Iterator[str]:
    """What to do for a file that the daemon has in hand."""
    waits_for = found.waiting["waits_for"] if found.waiting else ""
    if waits_for == "a hold":
        yield from (f"end the hold, it goes on by itself within 30 s: {_RUNBOOK}#hold-{each}" for each in found.holds)
    elif waits_for == "visibility":
        yield "wait: an SRM upload appears when its writer commits it; dcache.visibleseconds is how long it may take"
        if found.door is None:
            yield f"dcalqr where {config} --online {shlex.quote(found.path)}   (does the door show it by now?)"
    elif waits_for == "another try":
        yield "wait: it is tried again by itself, and given up as a row after dcache.retrytimes retries"
    elif found.waiting and found.waiting["message"]:
        yield "wait: it is tried again by itself; mend what its last trouble names"
    elif found.waiting or (found.running and found.running["phase"] == "queued"):
        yield "wait: its turn comes by itself"
    yield f"dcalqr top {config}"


def _not_met(found: Found, config: str) -> Iterator[str]:
    """What to do for a file that the door has and the daemon knows nothing of."""
    if found.instance_trouble:
        yield "start the daemon: what was uploaded while it was away it will copy"
    elif found.lag is None:
        yield f"dcalqr status {config}   (the daemon does not say how far it has read)"
        return
    elif found.unlisted or found.lag.unread:
        yield f"wait: the daemon has {found.lag.unread} records unread, and may not have come to it"
        return
    yield f"dcalqr replay {config} --from-topic T1 T2   (T1, T2: times around the upload, RFC 3339)"


def _replay(row: Row, found: Found, config: str) -> str:
    return f"dcalqr replay {config} --path {shlex.quote(found.path)} {shlex.quote(row.file)}"


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
