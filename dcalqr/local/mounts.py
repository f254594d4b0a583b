"""Where file systems are mounted, from the kernel's table. Blocking, and never for long: reading it touches no disk.

Unlike `st_dev` the table shows bind mounts.
"""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Iterable
from typing import NamedTuple

from dcalqr.local.oserrors import translating

_MOUNTINFO = "/proc/self/mountinfo"
_READ_BYTES = 64 * 1024


class _Mount(NamedTuple):
    """One line of mountinfo: where (`point`) which folder (`root`) of which device can be seen."""

    number: str
    parent: str
    device: str
    root: str
    point: str

    @classmethod
    def read(cls, line: str) -> _Mount:
        fields = line.split(" ", 5)[:5]
        if "\\" in line:  # blanks, tabs, newlines and backslashes stand as octal numbers
            fields = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field) for field in fields]
        return cls(*fields)

    def shows_the_same(self, parent: _Mount) -> bool:
        """Whether without it the very same folder would be seen: systemd's ReadWritePaths= makes such mounts."""
        if self.device != parent.device:
            return False
        inside = os.path.relpath(self.point, parent.point)
        return self.root == os.path.normpath(os.path.join(parent.root, inside))


class MountTable:
    """The mounts, read again when the kernel says that they have changed; safe to share between threads.

    A file is planned only after a look at the mounts, and the table has some hundred lines on a busy node: reading it
    costs 60 us and more, asking whether it has changed costs one system call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._changed = select.poll()
        self._points: list[str] = []
        self._found: dict[str, str] = {}  # by the paths that were asked for: those of a few folders

    def point_of(self, path: str) -> str:
        """Return as `mount_point`, for the mounts of this moment."""
        with translating("mountinfo"), self._lock:
            if self._fd is None or self._changed.poll(0):
                self._read()
            if path not in self._found:
                self._found[path] = _innermost(self._points, path)
            return self._found[path]

    def _read(self) -> None:
        """Read the table by a descriptor that is told of every change since it was opened or asked last (proc(5))."""
        if self._fd is None:
            self._fd = os.open(_MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
            self._changed.register(self._fd, select.POLLPRI | select.POLLERR)
        try:
            os.lseek(self._fd, 0, os.SEEK_SET)
            text = b""
            while block := os.read(self._fd, _READ_BYTES):
                text += block
        except OSError:
            self._close()  # the change was told, and would not be told again
            raise
        self._points = _points_of(text)
        self._found.clear()

    def close(self) -> None:
        """Close the descriptor; the next question opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._fd is not None:
            self._changed.unregister(self._fd)
            os.close(self._fd)
            self._fd = None


def mount_point(path: str) -> str:
    """Return the mount point that a resolved absolute path lies on; automounters that wait do not count."""
    with translating("mountinfo"), open(_MOUNTINFO, "rb") as file:
        return _innermost(_points_of(file.read()), path)


def _points_of(table: bytes) -> list[str]:
    lines = table.decode("utf-8", "surrogateescape").split("\n")
    mounts = [_Mount.read(line) for line in lines if line and " - autofs " not in line]
    numbered = {mount.number: mount for mount in mounts}
    return [
        mount.point
        for mount in mounts
        if mount.parent not in numbered or not mount.shows_the_same(numbered[mount.parent])
    ]


def _innermost(points: Iterable[str], path: str) -> str:
    return max((point for point in points if is_below(path, point)), key=len, default="/")


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder's or in it."""
    return f"{path}/".startswith(folder.rstrip("/") + "/")
