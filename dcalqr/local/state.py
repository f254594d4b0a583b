"""The state folder: hints that save work and never truth. Locked for life; blocking, but every call is short."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from dcalqr import errors
from dcalqr.local.paths import quote_path

LOCK = "lock"
HINTS = "hints.json"
PARTS = "parts"
STATUS = "status.json"

# Some ten thousand lines: a week of directories that open and close; rewriting what is left takes milliseconds.
_COMPACT_BYTES = 1024 * 1024


class _Hints(msgspec.Struct):
    groups: set[str] = msgspec.field(default_factory=set)
    mount_point: str | None = None


HELD_BY_INSTANCE = (
    "another dcalqr is running with this folder (local.statefolder); stop that one, or, if both are meant to run, give "
    "this one a daemon.instance of its own and put {instance} into local.failedtasksfile, and into local.statefolder "
    "if the file sets it"
)
HELD_BY_REPLAY = "another replay of this instance is running; wait for its end"


class State:
    """The state folder of one instance.

    Parameters
    ----------
    folder
        Made by `open` if need be.
    held
        What to tell whoever finds it locked.

    Attributes
    ----------
    warnings
        What was broken and is empty now; for the log.
    left_parts
        Directories in which a former run of this instance may have left parts; sweep each, then call `swept`.
    """

    def __init__(self, folder: str, held: str = HELD_BY_INSTANCE) -> None:
        self.folder = folder
        self._held = held
        self.warnings: list[str] = []
        self.left_parts: set[tuple[bytes, ...]] = set()
        self._open: Counter[tuple[bytes, ...]] = Counter()
        self._hints = _Hints()
        self._lock = -1
        self._parts = -1
        self._parts_bytes = 0
        # The event loop, the destination's and the sweep's threads write: a lock a file, so that nobody waits for
        # another file's fsync.
        self._writing = {name: threading.RLock() for name in (HINTS, PARTS, STATUS)}

    def open(self) -> None:
        """Make the folder if need be, lock it, and read what a former run left.

        Raises
        ------
        CannotCreate
            The folder or its lock cannot be made, or another instance holds it.
        NoPermission
            The folder may not be used.
        """
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            self._lock = self._open_file(LOCK, os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._hints = self._read_hints()
            self.left_parts = self._read_parts()
            self._compact()
        except OSError as error:
            self.close()
            raise _start_error(self.folder, error, self._held) from error

    def close(self) -> None:
        """Release the lock; may be called again."""
        with self._writing[PARTS]:  # not under a hint that is being written: the number may be another file's at once
            for fd in (self._parts, self._lock):
                if fd >= 0:
                    os.close(fd)
            self._parts = self._lock = -1

    def warn(self, text: str) -> None:
        """Add to `warnings` what is not there yet."""
        if text not in self.warnings:
            self.warnings.append(text)

    def _open_file(self, name: str, flags: int) -> int:
        return os.open(os.path.join(self.folder, name), flags | os.O_CLOEXEC, 0o600)

    # --- groups and mount point -------------------------------------------------------------------------------

    def group_seen(self, group: str, topic: str) -> bool:
        """Whether this consumer group once had offsets in this topic."""
        return f"{group}/{topic}" in self._hints.groups

    def remember_group(self, group: str, topic: str) -> None:
        """Take note, durably, that the group has offsets; raises OSError."""
        with self._writing[HINTS]:
            if not self.group_seen(group, topic):
                self._save(_Hints(self._hints.groups | {f"{group}/{topic}"}, self._hints.mount_point))

    @property
    def mount_point(self) -> str | None:
        """The mount point of the download folder that an earlier check saw."""
        return self._hints.mount_point

    def remember_mount_point(self, path: str | None) -> None:
        """Take note, durably, of the download folder's mount point; raises OSError."""
        with self._writing[HINTS]:
            if path != self._hints.mount_point:
                self._save(_Hints(self._hints.groups, path))

    def _save(self, hints: _Hints) -> None:
        self._write(HINTS, msgspec.json.encode(hints), durable=True)
        self._hints = hints

    def _read_hints(self) -> _Hints:
        try:
            return msgspec.json.decode(self._read(HINTS) or b"{}", type=_Hints)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.warn(f"{os.path.join(self.folder, HINTS)} is broken and counts as empty: {error}")
            return _Hints()

    # --- directories with open parts --------------------------------------------------------------------------

    def part_joined(self, directory: tuple[bytes, ...]) -> bool:
        """Count one more order for a directory that has some; never waits for a disk.

        Returns
        -------
        bool
            False: call `part_opened`. It has none, or a thread is writing just now and cannot be waited for.
        """
        if not self._writing[PARTS].acquire(blocking=False):
            return False
        try:
            joined = directory in self._open
            if joined:
                self._open[directory] += 1
            return joined
        finally:
            self._writing[PARTS].release()

    def part_opened(self, directory: tuple[bytes, ...]) -> None:
        """An order for this directory begins. Writes only at a directory's first; never raises."""
        with self._writing[PARTS]:
            self._open[directory] += 1
            if self._open[directory] == 1 and directory not in self.left_parts:
                self._hint(b"+", directory)

    def part_closed(self, directory: tuple[bytes, ...]) -> None:
        """An order for this directory ended, and its part is gone; never raises."""
        with self._writing[PARTS]:
            self._open[directory] -= 1
            if self._open[directory] == 0:
                del self._open[directory]
                if directory not in self.left_parts:
                    self._hint(b"-", directory)

    def swept(self, directory: tuple[bytes, ...]) -> None:
        """No part of a former run is left in this directory; never raises."""
        with self._writing[PARTS]:
            if directory in self.left_parts:
                self.left_parts.remove(directory)
                if directory not in self._open:
                    self._hint(b"-", directory)

    def _hint(self, sign: bytes, directory: tuple[bytes, ...]) -> None:
        if self._parts < 0:
            return  # a sweep that outlives the run: the folder may be the next run's by now
        # Not synced: after kill -9 the page cache has it, after a power cut the walk of the whole tree finds the part.
        line = _hint_line(sign, directory)
        try:
            if self._parts_bytes > _COMPACT_BYTES:
                self._compact()  # from what is open now, so this line is in it; one more does no harm
            written = os.write(self._parts, line)
        except OSError as error:
            written = -1
            self.warn(f"{os.path.join(self.folder, PARTS)} cannot be written: {error.strerror}")
        # A torn line would swallow the next one: write all anew before that.
        self._parts_bytes += written if written == len(line) else _COMPACT_BYTES + 1

    def _compact(self) -> None:
        lines = b"".join(_hint_line(b"+", directory) for directory in self.left_parts | self._open.keys())
        self._write(PARTS, lines, durable=False)
        fresh = self._open_file(PARTS, os.O_WRONLY | os.O_APPEND)
        if self._parts < 0:
            self._parts = fresh
        else:
            # Closing first would free the number to some file of an order, and the next hint would go into that.
            try:
                os.dup2(fresh, self._parts, inheritable=False)
            finally:
                os.close(fresh)
        self._parts_bytes = 0

    def _read_parts(self) -> set[tuple[bytes, ...]]:
        found: set[tuple[bytes, ...]] = set()
        lines = self._read(PARTS).split(b"\n")
        for line in lines[:-1]:  # what follows the last newline was cut by a kill
            if line[:1] not in {b"+", b"-"}:
                self.warn(f"{os.path.join(self.folder, PARTS)} is broken and counts as empty")
                return set()
            raw = unquote_to_bytes(line[1:])
            directory = tuple(raw.split(b"/")) if raw else ()
            (found.add if line[:1] == b"+" else found.discard)(directory)
        return found

    # --- status -----------------------------------------------------------------------------------------------

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status file at once, never half; raises OSError. The values must be what JSON can say."""
        self._write(STATUS, msgspec.json.encode(status), durable=False)

    @staticmethod
    def read_status(folder: str) -> dict[str, Any] | None:
        """Read what the instance of this folder last said of itself; needs no lock. None: nothing that can be read."""
        try:
            with open(os.path.join(folder, STATUS), "rb") as file:
                return msgspec.json.decode(file.read(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    # --- files ------------------------------------------------------------------------------------------------

    def _read(self, name: str) -> bytes:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.folder, name), "rb") as file:
            return file.read()
        return b""

    def _write(self, name: str, content: bytes, *, durable: bool) -> None:
        path = os.path.join(self.folder, name)
        with self._writing[name]:
            fd = self._open_file(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with open(fd, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(fd)
            os.rename(f"{path}.new", path)
            if durable:
                self._sync_folder()

    def _sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Remembered(State):
    """What an instance left in its state folder, for who only looks: takes no lock and writes nothing."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        with contextlib.suppress(OSError):  # unreadable or not there yet: nothing is remembered
            self._hints = self._read_hints()

    def remember_mount_point(self, path: str | None) -> None:
        """Looking is not remembering."""


def _hint_line(sign: bytes, directory: tuple[bytes, ...]) -> bytes:
    return sign + quote_path(b"/".join(directory)).encode("ascii") + b"\n"


def _start_error(folder: str, error: OSError, held: str) -> errors.StartError:
    if isinstance(error, BlockingIOError):
        return errors.CannotCreate(path=folder, why=held)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return errors.NoPermission(path=folder, why=error.strerror)
    return errors.CannotCreate(path=folder, why=error.strerror)
