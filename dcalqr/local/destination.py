"""The download folder as a whole: is it there, is it mounted, has it room. Blocking; a hung mount hangs the caller.

Every OSError leaves here as one of `errors` (`oserrors`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import NamedTuple

from dcalqr import errors
from dcalqr.local.landing import open_root
from dcalqr.local.mounts import MountTable, is_below
from dcalqr.local.oserrors import translating
from dcalqr.local.state import State


class Room(NamedTuple):
    """Of the download folder's file system: what may still be written, how large it is, what stays free (bytes)."""

    free_bytes: int
    size_bytes: int
    least_bytes: int


class Destination:
    """The download folder.

    Parameters
    ----------
    folder
        `local.downloadfolder`; a symbolic link is resolved when the folder is first found.
    minfree_percent
        Less free space than this share of the file system is no space.
    requiremount
        Refuse the folder until a file system is mounted at or above it, other than the root's.
    state
        Remembers the mount point, so that its absence is noticed without `requiremount`.
    """

    def __init__(self, folder: str, *, minfree_percent: float, requiremount: bool, state: State) -> None:
        self.folder = folder
        self._minfree_percent = minfree_percent
        self._requiremount = requiremount
        self._state = state
        self._mounts = MountTable()
        self._resolved: str | None = None
        self._root_fd: int | None = None
        self._root_generation = 0
        self._finding = threading.Lock()  # never held while a hung mount may block

    def close(self) -> None:
        """Close the descriptor; no attempt may use it any more."""
        self._mounts.close()
        if self._root_fd is not None:
            os.close(self._root_fd)
            self._root_fd = None

    @property
    def root_fd(self) -> int:
        """The folder's descriptor: one number for life, also when the folder behind it is exchanged.

        Raises
        ------
        MountMissing
            No `check` has found the folder yet.
        """
        if self._root_fd is None:
            raise errors.MountMissing(why=f"{self.folder} was not found yet")
        return self._root_fd

    @property
    def root_generation(self) -> int:
        """Counts the folders that `root_fd` has stood for: who has a descriptor of his own renews it by this.

        Asked without touching the folder, which may hang.
        """
        return self._root_generation

    @property
    def free_bytes(self) -> int:
        """What an ordinary user may still write; quotas do not show."""
        return self.room().free_bytes

    def room(self) -> Room:
        """Return what is free and what has to stay so; raises as `check`."""
        return self._room_in(self._file_system())

    def _room_in(self, found: os.statvfs_result) -> Room:
        size_bytes = found.f_blocks * found.f_frsize
        least_bytes = int(size_bytes * self._minfree_percent / 100)
        return Room(found.f_bavail * found.f_frsize, size_bytes, least_bytes)

    def _file_system(self) -> os.statvfs_result:
        with translating("fstatvfs"):
            return os.fstatvfs(self.root_fd)

    def check(self, size_bytes: int = 0) -> Room:
        """Make sure that a file of this size may be written here now; returns what room there is.

        Raises
        ------
        MountMissing
            The folder is missing, may not be written, or is not on the file system it should be on.
        NoSpace
            The file would leave less than the minimum free.
        TransientError
            The operating system did not tell: no descriptor is left, or an I/O error.
        """
        found = self.check_presence()
        if found.f_files and not found.f_favail:
            raise errors.NoSpace(why="no inode is free")
        room = self._room_in(found)
        if room.free_bytes - size_bytes < room.least_bytes:
            free, _, least = room
            raise errors.NoSpace(why=f"{free} bytes free, {size_bytes} wanted, {least} to be kept")
        return room

    def check_presence(self) -> os.statvfs_result:
        """Make sure that the folder is there and may be written, whatever room it has; raises as `check`.

        Returns what the operating system says of its file system.
        """
        path = self._resolved or os.path.realpath(self.folder)
        self._check_mount(path)
        self._follow(path)
        self._resolved = path
        return self._check_writable()

    def _check_mount(self, path: str) -> None:
        with contextlib.suppress(OSError):
            os.stat(os.path.join(path, "."))  # wakes an automounter, which mounts only for those who go in
        mounted = self._mounts.point_of(path)
        if self._requiremount and mounted == "/":
            raise errors.MountMissing(why=f"no file system is mounted at or above {path}")
        remembered = self._state.mount_point
        if remembered is not None and is_below(path, remembered) and len(mounted) < len(remembered):
            raise errors.MountMissing(why=f"{remembered} is not mounted")
        if mounted != "/" or remembered is not None:
            self._remember(None if mounted == "/" else mounted)

    def _remember(self, mounted: str | None) -> None:
        try:
            self._state.remember_mount_point(mounted)
        except OSError as error:
            self._state.warn(f"the mount point is not remembered: {error.strerror}")

    def _follow(self, path: str) -> None:
        """Make `root_fd` stand for the folder that the path names now."""
        fresh = open_root(path)
        with self._finding:  # two first checks at once: the second one compares
            if self._root_fd is None:
                self._root_fd = fresh
                self._root_generation += 1
                return
        try:
            with translating("open"):
                if not _same(os.fstat(fresh), self._root_fd):
                    # dup2 exchanges at one stroke: closing it would let a running attempt meet a stranger's descriptor.
                    os.dup2(fresh, self._root_fd, inheritable=False)
                    self._root_generation += 1  # after it: who has seen the new number gets the new folder
        finally:
            os.close(fresh)

    def _check_writable(self) -> os.statvfs_result:
        found = self._file_system()
        if found.f_flag & os.ST_RDONLY:
            raise errors.MountMissing(why=f"{self.folder} is on a read-only file system")
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self.root_fd, effective_ids=True):
            raise errors.MountMissing(why=f"no permission to write into {self.folder}")
        return found


def _same(found: os.stat_result, fd: int) -> bool:
    try:
        return os.path.samestat(found, os.fstat(fd))
    except OSError:
        return False  # its mount went stale
