"""What the door holds: files, folders, and uploads that are not yet to be seen. Safe to use from any thread."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass

from dcalqr.testing.samples import Content


@dataclass(frozen=True)
class StoredFile:
    """One upload: what the door holds, or is about to hold, at a path. `mtime` is in seconds since the epoch."""

    path: str
    content: Content
    pnfsid: str
    mtime: float

    @property
    def size_bytes(self) -> int:
        return self.content.size_bytes

    @property
    def adler32(self) -> int:
        return self.content.adler32

    @property
    def digest(self) -> str:
        """The value of the header Digest."""
        return f"adler32={self.adler32:08x}"

    @property
    def etag(self) -> str:
        """The value of the header ETag, as Milton makes it: the pnfsid, and a hash of the time."""
        milliseconds = int(self.mtime * 1000)
        return f'"{self.pnfsid}_{(milliseconds ^ milliseconds >> 32) & 0xFFFFFFFF}"'


class Namespace:
    """What is where; the methods are those of `Door`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, StoredFile] = {}
        self._pending: dict[str, StoredFile] = {}
        self._folders = {"/"}

    def put(self, path: str, content: Content, pnfsid: str | None, *, visible: bool, staged: bool) -> StoredFile:
        """As `Door.put`."""
        file = StoredFile(path, content, pnfsid or f"0000{uuid.uuid4().hex.upper()}", time.time())
        with self._lock:
            self._make_folder(path.rpartition("/")[0])
            if staged or not visible:
                self._pending[path] = file
                if not staged:
                    self._files.pop(path, None)
            else:
                self._files[path] = file
        return file

    def commit(self, path: str) -> None:
        """As `Door.commit`."""
        with self._lock:
            self._files[path] = self._pending.pop(path)

    def remove(self, path: str) -> None:
        """As `Door.remove`."""
        with self._lock:
            del self._files[path]

    def make_folder(self, path: str) -> None:
        """As `Door.make_folder`."""
        with self._lock:
            self._make_folder(path)

    def file(self, path: str) -> StoredFile | None:
        """Give the visible file at a path."""
        with self._lock:
            return self._files.get(path)

    def look(self, path: str) -> tuple[StoredFile | None, bool]:
        """Give the visible file at a path as it was asked for, and whether a folder is there."""
        with self._lock:
            return self._files.get(path), (path.rstrip("/") or "/") in self._folders

    def below(self, path: str) -> list[tuple[str, StoredFile | None]]:
        """List what lies directly in a folder, the folder first; None: a folder."""
        with self._lock:
            names = {*self._files, *self._folders} - {"/"}
            children = sorted(name for name in names if (name.rpartition("/")[0] or "/") == path)
            return [(name, self._files.get(name)) for name in (path, *children)]

    def _make_folder(self, path: str) -> None:
        while path not in self._folders and path:
            self._folders.add(path)
            path = path.rpartition("/")[0]
