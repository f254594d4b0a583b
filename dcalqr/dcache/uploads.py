"""The bundled Filter: completed uploads into one folder. Pure.

An upload is complete when its *pool* says so (`transfer`, write, not between pools, code 0); door records of the same
upload follow or precede it and are not needed. Two more kinds say "look now" to a job that waits for the same pnfsid:

* a request with code 0 from SrmManager: the staged upload now stands at its final path;
* a door's remove with code 0: the upload is gone.

An abort (SrmManager, code not 0) is skipped: it moves nothing to the final path, so that a look would find what the
last one found, and the job goes on to its deadline and its row all the same. Hints without a pnfsid name no upload.

`dcache.events` uses the same words and the same `Folder` to dismiss early what this filter would skip.
"""

from __future__ import annotations

import re
from typing import Final

from dcalqr.model import LOOK_NOW, MATCH, Skip, StorageEvent, Verdict

SKIP_TYPE: Final = Skip("type")
SKIP_P2P: Final = Skip("p2p")
SKIP_DIRECTION: Final = Skip("direction")
SKIP_FAILED_UPLOAD: Final = Skip("failed_upload")
SKIP_FOLDER: Final = Skip("folder")
SKIP_NOT_A_FILE: Final = Skip("not_a_file")
SKIP_REQUEST: Final = Skip("request")
SKIP_REMOVE: Final = Skip("remove")
SKIP_CELL: Final = Skip("cell")
SKIP_ABORTED: Final = Skip("aborted")

# srmPutDone and srmAbortPut are announced by cells of this name (dCache >= 10.1).
SRM_CELL: Final = "SrmManager"

_REPEATED_SLASHES = re.compile("//+")


def single_slashes(path: str) -> str:
    """Make repeated slashes one, as dCache reads them."""
    return _REPEATED_SLASHES.sub("/", path) if "//" in path else path


class Folder:
    """A folder of the name space, and what is below it; compares whole components.

    Parameters
    ----------
    path
        Absolute: root + folder, e.g. `/pnfs/example.org/data/lsst/lsst/user/j/jane.doe`. Repeated and trailing slashes
        do not count.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = single_slashes(path).rstrip("/")
        self._below: Final = self.path + "/"

    def holds(self, path: str) -> bool:
        """Whether a path without repeated slashes is below the folder; the folder itself is not."""
        return path.startswith(self._below) and path != self._below

    def excludes(self, path: str) -> bool:
        """Whether a raw path is, at a glance, neither the folder nor below it; False when that takes a closer look."""
        if path.startswith(self._below) or path == self.path:
            return False
        return path.startswith("/") and "//" not in path

    def __repr__(self) -> str:
        return f"Folder({self.path!r})"


class UploadFilter:
    """Judges events by whether they are completed uploads below a folder.

    Parameters
    ----------
    folder
        Absolute path in the name space: root + folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Folder(folder)

    def judge(self, event: StorageEvent) -> Verdict:
        """Judge one event.

        Returns
        -------
        Verdict
            MATCH for an upload; LOOK_NOW for a commit or a remove of the event's pnfsid; else Skip with the reason
            p2p, direction, failed_upload, folder, cell, request, aborted, remove or type.
        """
        if event.kind == "transfer":
            return self._judge_transfer(event)
        if not self._folder.holds(event.path):
            return SKIP_FOLDER
        if event.kind == "request":
            return _judge_request(event)
        if event.kind == "remove":
            return LOOK_NOW if event.cell_type == "door" and event.code == 0 and event.pnfsid else SKIP_REMOVE
        return SKIP_TYPE

    def _judge_transfer(self, event: StorageEvent) -> Verdict:
        if event.p2p:
            return SKIP_P2P
        if not event.write:
            return SKIP_DIRECTION
        if event.code != 0:
            return SKIP_FAILED_UPLOAD
        if not self._folder.holds(event.path):
            return SKIP_FOLDER
        return MATCH if event.cell_type == "pool" else SKIP_CELL


def _judge_request(event: StorageEvent) -> Verdict:
    if not (event.cell.startswith(SRM_CELL) and event.staged and event.pnfsid):
        return SKIP_REQUEST
    return LOOK_NOW if event.code == 0 else SKIP_ABORTED
