"""`dcalqr where PATH`: is the file here, since when, with which sum, and if not, why not.

Looks at the disk, the failed-tasks files, the unreadable file, the running instance and, if asked to, the door. Takes
no lock and changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from dcalqr import checksum, errors
from dcalqr.config import Config
from dcalqr.dcache.door import Door
from dcalqr.dcache.tls import Credentials
from dcalqr.delivery.places import Place, Places
from dcalqr.local import standing
from dcalqr.looking import status
from dcalqr.replay import done_ids, replayed_files, to_do

HERE = 0
NOT_HERE = 1
OTHER = 3


@dataclass
class OnDisk:
    """The file here. `adler32` is None where the file does not vouch for one; `read` says that it was read for it."""

    size_bytes: int
    written_at: float
    pnfsid: str | None
    adler32: str | None
    read: bool = False


@dataclass
class Row:
    """One row of a failed-tasks file about this file; `done`: a replay is done with it."""

    file: str
    at: float
    error_class: str
    message: str
    attempts: int
    done: bool


@dataclass
class AtDoor:
    """What the door says: the file's size, sum and pnfsid, or why it shows none; `gone`: it says there is none."""

    size_bytes: int | None = None
    adler32: str | None = None
    pnfsid: str | None = None
    trouble: str = ""
    gone: bool = False


@dataclass
class Found:
    """All that is known of one file; times in seconds since the epoch.

    Parameters
    ----------
    path, local_path
        In dCache and here.
    refused
        Why a file of this path can never land; empty: it can.
    disk, door
        None: nothing stands here; nobody asked the door.
    in_place
        What stands under the name and is no file; empty: a file or nothing.
    unreadable
        Lines of the unreadable file whose record names this path: topic, partition, offset, time, reason.
    instance_trouble
        Why the running instance could not be asked; empty: it was.
    running, waiting
        What the instance says of this file, as in its status.
    unlisted
        Jobs that the instance's status does not list (count): it may be among them.
    lag_records
        What the instance has still to read or to settle (count).
    complaints
        What is not well with the instance.
    troubles
        What could not be looked at.
    """

    path: str
    local_path: str
    refused: str = ""
    disk: OnDisk | None = None
    in_place: str = ""
    rows: list[Row] = field(default_factory=list)
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    instance_trouble: str = ""
    running: dict[str, Any] | None = None
    waiting: dict[str, Any] | None = None
    unlisted: int = 0
    lag_records: int = 0
    complaints: list[str] = field(default_factory=list)
    door: AtDoor | None = None
    troubles: list[str] = field(default_factory=list)

    @property
    def open_rows(self) -> list[Row]:
        return [row for row in self.rows if not row.done]

    @property
    def is_same(self) -> bool | None:
        """Whether the file here is the door's; None: nobody asked, or it cannot be said."""
        if self.disk is None or self.door is None or (self.door.trouble and not self.door.gone):
            return None
        if self.door.gone or self.door.size_bytes != self.disk.size_bytes:
            return False
        if self.door.adler32 is None or self.disk.adler32 is None:
            return None
        return self.door.adler32 == self.disk.adler32

    @property
    def is_newest(self) -> bool:
        """Whether nothing speaks of a later upload to this path than the file here."""
        newer = any(row.at > self.disk.written_at for row in self.open_rows) if self.disk else True
        return not (newer or self.running or self.waiting)

    @property
    def exit_code(self) -> int:
        """0: here (asked: and the door's); 1: not here; 3: here, but perhaps not the newest; 69: nobody answers."""
        if self.door is not None and self.door.trouble and not self.door.gone:
            return errors.EXIT_UNAVAILABLE
        if self.disk is None:
            return NOT_HERE
        return HERE if self.is_same or (self.door is None and self.is_newest) else OTHER

    def as_json(self) -> dict[str, Any]:
        return {"here": self.disk is not None, "same": self.is_same, **asdict(self)}


async def look(config: Config, path: str, *, online: bool) -> Found:
    """Find out all about one file.

    Parameters
    ----------
    path
        As events name it: see `asked.event_path`.
    online
        Ask the door, too; a file without a sum of its own is read then.
    """
    dcache = config.dcache
    found = Found(path, str(config.local.downloadfolder) + path.removeprefix(dcache.folder_path))
    try:
        place = Places(dcache.url, dcache.root, dcache.folder).of(path)
    except errors.TryError as error:
        found.refused = str(error)
        return found
    _look_at_disk(config, place, found, read=online)
    _look_at_rows(Path(config.local.failedtasksfile), found)
    _look_at_unreadable(Path(config.local.failedtasksfile).with_suffix(".unreadable"), found)
    _look_at_instance(config, found)
    if online:
        found.door = await _ask_door(config, place)
    return found


def _look_at_disk(config: Config, place: Place, found: Found, *, read: bool) -> None:
    try:
        root = os.open(config.local.downloadfolder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        found.troubles.append(f"{config.local.downloadfolder}: {error.strerror}")
        return
    try:
        existing = standing.look(root, place.directory, place.name)
        if existing is None:
            return
        if not existing.is_file:
            found.in_place = "a folder, or something else that is no file"
            return
        adler32, was_read = existing.adler32, False
        if adler32 is None and read:
            adler32, _ = standing.sum_of(root, place.directory, place.name)
            was_read = True
        written_at = existing.seen.mtime_ns / 1e9
        sum8 = None if adler32 is None else checksum.hex8(adler32)
        found.disk = OnDisk(existing.size_bytes, written_at, existing.pnfsid, sum8, was_read)
    except errors.TryError as error:
        found.troubles.append(f"{found.local_path}: {error}")
    finally:
        os.close(root)


def _look_at_rows(path: Path, found: Found) -> None:
    for file in (path, *replayed_files(path)):
        if not file.exists():
            continue
        try:
            rows, done = to_do(file), done_ids(file)
        except errors.BadData as error:
            found.troubles.append(str(error))
            continue
        found.rows += [
            Row(str(file), row.time, row.error_class, row.message, row.attempts, row.id in done)
            for row in rows
            if row.path == found.path
        ]
    found.rows.sort(key=lambda row: row.at)


def _look_at_unreadable(path: Path, found: Found) -> None:
    wanted = found.path.encode("utf-8", "surrogatepass")
    try:
        with path.open("rb") as file:
            for line in file:
                record = _record_naming(line, wanted)
                if record is not None:
                    found.unreadable.append(record)
    except FileNotFoundError:
        return
    except OSError as error:
        found.troubles.append(f"{path}: {error.strerror}")


def _record_naming(line: bytes, path: bytes) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        content = unquote_to_bytes(record.pop("record"))
    except (msgspec.DecodeError, KeyError, AttributeError, TypeError):
        return None  # torn by a kill, or being written
    return record if path in content.replace(b"\\/", b"/") else None


def _look_at_instance(config: Config, found: Found) -> None:
    try:
        now = status.read(str(config.local.statefolder), config.daemon.instance)
    except errors.StartError as error:
        found.instance_trouble = str(error)
        return
    found.running = next((each for each in now["running"] if each["path"] == found.path), None)
    jobs = now.get("jobs", {"total": 0, "listed": []})
    found.waiting = next((each for each in jobs["listed"] if each["path"] == found.path), None)
    found.unlisted = 0 if found.running or found.waiting else jobs["total"] - len(jobs["listed"])
    found.lag_records = sum(now["kafka"]["lag_records"].values())
    found.complaints = status.complaints(now)


async def _ask_door(config: Config, place: Place) -> AtDoor:
    local = config.local
    credentials = Credentials(str(local.proxy), str(local.capath), crl_check=config.dcache.crlcheck)
    credentials.refresh()
    door = Door(config.dcache.url, credentials.current)
    try:
        shown = await door.head(place.url)
    except errors.NotFound as error:
        return AtDoor(trouble=str(error), gone=True)
    except errors.TryError as error:
        return AtDoor(trouble=str(error))
    finally:
        await door.aclose()
    adler32 = None if shown.adler32 is None else checksum.hex8(shown.adler32)
    return AtDoor(shown.size_bytes, adler32, shown.pnfsid or None)
