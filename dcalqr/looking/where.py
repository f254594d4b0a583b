"""`dcalqr where PATH`: is the file here, since when, with which sum, and if not, why not.

Looks at the disk, the failed-tasks files, the unreadable file, the running instance and, if asked to, the door. Takes
no lock and changes nothing.
"""

from __future__ import annotations

import os
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
from dcalqr.local.mounts import mount_point
from dcalqr.local.state import Remembered
from dcalqr.looking import status
from dcalqr.looking.found import GONE, NO_ANSWER, NOT_ASKED, REFUSED_ALL, REFUSED_FILE, AtDoor, Found, OnDisk, Row
from dcalqr.metrics.wording import behind
from dcalqr.replay import done_ids, replayed_files, to_do


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
    folder = config.local.downloadfolder
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        found.unknown = f"the download folder {folder} (local.downloadfolder) cannot be looked at: {error.strerror}"
        found.may_not_look = isinstance(error, PermissionError)
        return
    try:
        if missing := _missing_mount(config):
            found.unknown = f"{missing}, so the download folder {folder} (local.downloadfolder) is not the one it was"
            return
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
    except errors.PermanentError as error:
        found.troubles.append(f"{found.local_path}: {error}")
    except errors.TryError as error:
        found.unknown = f"{found.local_path}: {error}"
    finally:
        os.close(root)


def _missing_mount(config: Config) -> str:
    """Say that the file system of the download folder is not mounted: what stands in its place tells of no file."""
    remembered = Remembered(str(config.local.statefolder)).mount_point
    path = os.path.realpath(config.local.downloadfolder)
    mounted = mount_point(path)
    if remembered and f"{path}/".startswith(f"{remembered}/") and len(mounted) < len(remembered):
        return f"{remembered} is not mounted"
    return f"no file system is mounted at or above {path}" if config.local.requiremount and mounted == "/" else ""


def _look_at_rows(path: Path, found: Found) -> None:
    for file in (path, *replayed_files(path)):
        try:
            file.stat()
            rows, done = to_do(file), done_ids(file)
        except FileNotFoundError:
            continue
        except (errors.StartError, OSError) as error:
            found.troubles.append(str(error) if isinstance(error, errors.StartError) else f"{file}: {error.strerror}")
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
    found.holds = [hold["reason"] for hold in now["holds"]]
    found.lag = behind(now["kafka"])
    found.complaints = status.complaints(now)


async def _ask_door(config: Config, place: Place) -> AtDoor:
    local = config.local
    credentials = Credentials(str(local.proxy), str(local.capath), crl_check=config.dcache.crlcheck)
    credentials.refresh()
    try:
        credentials.current()
    except errors.CredentialRefused as error:
        return AtDoor(trouble=_why(error), answer=NOT_ASKED)
    door = Door(config.dcache.url, credentials.current)
    try:
        shown = await door.head(place.url)
    except errors.NotFound as error:
        return AtDoor(trouble=str(error), answer=GONE)
    except (errors.Forbidden, errors.CredentialRefused) as error:
        folder = Places(config.dcache.url, config.dcache.root, config.dcache.folder).folder_url
        # Without a status it was TLS that refused us: no file is to blame.
        answer = REFUSED_ALL if error.http_status is None else await _refused(door, folder)
        return AtDoor(trouble=_why(error), answer=answer)
    except errors.TryError as error:
        return AtDoor(trouble=str(error), answer=NO_ANSWER)
    finally:
        await door.aclose()
    adler32 = None if shown.adler32 is None else checksum.hex8(shown.adler32)
    return AtDoor(shown.size_bytes, adler32, shown.pnfsid or None)


def _why(error: errors.TryError) -> str:
    return str(error.facts.get("why", error))


async def _refused(door: Door, folder: str) -> str:
    """Ask for the watched folder, as the daemon does: one file alone may be refused, or we are."""
    try:
        await door.head(folder, wants_sum=False)
    except (errors.Forbidden, errors.CredentialRefused):
        return REFUSED_ALL
    except errors.TryError:
        return NO_ANSWER
    return REFUSED_FILE
