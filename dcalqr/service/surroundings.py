"""What lies outside the process and changes slowly: free space, sizes of files, the life of certificates.

Each is looked at by a thread of its own, now and then, because a hung disk hangs whoever looks: then the last answer
stays, and grows old for everybody to see.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from dcalqr import errors
from dcalqr.config import Config
from dcalqr.dcache.tls import proxy_expiry
from dcalqr.local.destination import Destination

# Room is used up, and certificates are exchanged, within minutes at the fastest.
LOOK_SECONDS = 15.0


class Surroundings:
    """The last look at each of them.

    Parameters
    ----------
    config
        Names what is looked at.
    destination
        The download folder.
    """

    def __init__(self, config: Config, destination: Destination) -> None:
        self._config, self._destination = config, destination
        self._stop = threading.Event()
        self._looks: dict[str, Callable[[], dict[str, Any]]] = {
            "room": self._room,
            "files": self._files,
            "papers": self._papers,
        }
        self._found: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        """Begin to look."""
        for name in self._looks:
            # A thread of its own and not an executor's: one that hangs must not keep the process alive.
            threading.Thread(target=self._repeat, args=(name,), name=f"look-{name}", daemon=True).start()

    def stop(self) -> None:
        """Look no more; waits for nobody."""
        self._stop.set()

    def _repeat(self, name: str) -> None:
        while True:
            self._found[name] = {**self._looks[name](), "seen_at": time.time()}
            if self._stop.wait(LOOK_SECONDS):
                return

    def found(self) -> dict[str, dict[str, Any]]:
        """Return what was seen last, by look, with the time in seconds since the epoch; without those never answered.

        "room": free_bytes, size_bytes, least_bytes, or trouble. "files": failed_bytes, unreadable_bytes; None where
        there is no file. "papers": kafka_certificate_expires_at, crl_oldest_at, both None where nothing is configured.
        """
        return dict(self._found)

    def _room(self) -> dict[str, Any]:
        try:
            self._destination.check_presence()  # what is missing should show before the first file comes
            return self._destination.room()._asdict()
        except errors.TryError as error:
            return {"trouble": str(error)}

    def _files(self) -> dict[str, Any]:
        rows = str(self._config.local.failedtasksfile)
        unreadable = os.path.splitext(rows)[0] + ".unreadable"
        return {"failed_bytes": _size_bytes(rows), "unreadable_bytes": _size_bytes(unreadable)}

    def _papers(self) -> dict[str, Any]:
        certificate = self._config.kafka.certfile
        lists = glob.glob(os.path.join(glob.escape(str(self._config.local.capath)), "*.r0"))
        ages = [at for path in lists if (at := _written_at(path)) is not None]
        return {
            "kafka_certificate_expires_at": _expiry(str(certificate)) if certificate else None,
            "crl_oldest_at": min(ages, default=None) if self._config.dcache.crlcheck else None,
        }


def _size_bytes(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _written_at(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def _expiry(path: str) -> float | None:
    try:
        return proxy_expiry(path)
    except errors.CredentialRefused:
        return None
