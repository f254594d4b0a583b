"""A file system that passes everything through to a folder, and hangs or fails where it is told to.

Run by Debian's python3 with its python3-fusepy, as root: `faultfs.py FOLDER MOUNTPOINT ORDERS`. ORDERS is a JSON file:
`{"hang": {"fsync": "*/slow/*"}, "fail": {"write": ["EIO", "*"]}}`; operations are fusepy's names or "*", paths are
patterns below the mount point. What hangs goes on, as if nothing had been, when the file says so no more.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import fusepy  # type: ignore[import-not-found]  # Debian's; not in the tests' own environment

POLL_SECONDS = 0.01
_STAT = ("st_atime", "st_ctime", "st_gid", "st_ino", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid")
_STATFS = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize", "f_namemax")


class FaultFs(fusepy.Operations):  # type: ignore[misc]  # its base class has no types
    """The operations; each obeys ORDERS first."""

    def __init__(self, folder: str, orders: Path) -> None:
        self._folder, self._orders = folder, orders

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        if op not in {"init", "destroy"}:
            self._obey(op, path)
        try:
            return super().__call__(op, path, *args)
        except OSError as error:
            raise fusepy.FuseOSError(error.errno) from error

    def _obey(self, op: str, path: str) -> None:
        while self._told("hang", op, path):
            time.sleep(POLL_SECONDS)
        failure = self._told("fail", op, path)
        if failure:
            raise fusepy.FuseOSError(getattr(errno, failure))

    def _told(self, what: str, op: str, path: str) -> str:
        """Return the error's name, or any text for a hang; empty: nothing is to happen."""
        try:
            orders = json.loads(self._orders.read_text()).get(what, {})
        except FileNotFoundError:
            return ""
        for name in (op, "*"):
            given = orders.get(name)
            error, pattern = ("hang", given) if isinstance(given, str) else given or ("", "")
            if fnmatch.fnmatchcase(path or "/", pattern):
                return str(error)
        return ""

    def _real(self, path: str) -> str:
        return self._folder + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._real(path)) if fh is None else os.fstat(fh)
        return {name: getattr(found, name) for name in _STAT}

    def statfs(self, path: str) -> dict[str, Any]:
        found = os.statvfs(self._real(path))
        return {name: getattr(found, name) for name in _STATFS}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._real(path))]

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._real(path), mode)

    def create(self, path: str, mode: int, fi: object = None) -> int:
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._real(path), length)

    def flush(self, path: str, fh: int) -> None:
        pass

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def link(self, target: str, source: str) -> None:
        os.link(self._real(source), self._real(target))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._real(old), self._real(new))

    def unlink(self, path: str) -> None:
        os.unlink(self._real(path))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._real(path), mode)

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
        os.utime(self._real(path), times)


if __name__ == "__main__":
    _, given_folder, given_mountpoint, given_orders = sys.argv
    # No caches: a test that lets an operation hang wants it to come here. ACLs and attributes are refused, as by NFS.
    fusepy.FUSE(
        FaultFs(str(Path(given_folder).resolve()), Path(given_orders)),
        given_mountpoint,
        foreground=True,
        nothreads=False,
        entry_timeout=0,
        attr_timeout=0,
        direct_io=True,
        use_ino=True,
    )
