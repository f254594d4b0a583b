"""The dCache of the demo: a door with two pools over TLS, what is uploaded to it, and the truth about each file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Self

from dcalqr.demo.scenario import STALL_AFTER_BYTES, Kind, Upload
from dcalqr.testing import samples
from dcalqr.testing.door import Door, Fault, StoredFile
from dcalqr.testing.pki import make_pki

ROOT = "/pnfs/example.org/data"
FOLDER = "/lsst/user/jane.doe"
# Each file's own, then repeated: 300 files cost 20 MB of memory, whatever their sizes.
BLOCK_BYTES = 65536
# Adler32 of nothing that is ever sent here: both halves are far from those of random bytes.
WRONG_DIGEST = "adler32=00010001"


class Storage:
    """A context manager: the door and the pools serve until it ends.

    Parameters
    ----------
    folder
        Where the throw-away certificates are made.
    rng
        Contents, pnfsids and noise.
    publish
        Where billing messages go.

    Attributes
    ----------
    truth : dict[str, StoredFile]
        What each name holds now, or will once it is visible.
    noise : int
        Messages so far that ask for no copy (count); SRM's commits are not among them.
    """

    def __init__(self, folder: Path, rng: random.Random, publish: Callable[[list[bytes]], None]) -> None:
        self.pki = make_pki(folder)
        self.door = Door(self.pki)
        self.door.make_folder(FOLDER)
        self.truth: dict[str, StoredFile] = {}
        self.noise = 0
        self._rng, self._publish = rng, publish

    def __enter__(self) -> Self:
        self.door.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.door.close()

    def upload(self, upload: Upload) -> None:
        """Store a file as its kind has it, and publish the pool's message."""
        path = FOLDER + "/" + upload.name
        self.door.faults.add(*_faults(path, upload.kind))
        size_bytes, staged = upload.size_bytes, upload.kind is Kind.STAGED
        content = samples.Content(self._rng.randbytes(min(size_bytes, BLOCK_BYTES)), size_bytes)
        pnfsid = samples.new_pnfsid(self._rng)
        visible = upload.kind is not Kind.LATE
        self.truth[upload.name] = self.door.put(path, content, pnfsid=pnfsid, staged=staged, visible=visible)
        self.announce(upload.name, staged=staged)

    def announce(self, name: str, *, staged: bool = False) -> None:
        """Publish the pool's message that a file is complete."""
        file = self.truth[name]
        transfer_path = _staged_path(file) if staged else None
        self._publish([samples.upload(ROOT + file.path, file.size_bytes, file.pnfsid, transfer_path=transfer_path)])

    def reveal(self, name: str, *, staged: bool) -> None:
        """Let a file appear under its path; for a staged one, publish SRM's message of it."""
        file = self.truth[name]
        self.door.commit(file.path)
        if staged:
            self._publish([samples.srm_commit(ROOT + file.path, file.size_bytes, file.pnfsid, _staged_path(file))])

    def make_noise(self, messages: int) -> None:
        """Publish so many messages (count) of the kinds that share the topic."""
        self._publish([samples.noise(self._rng, ROOT, FOLDER) for _ in range(messages)])
        self.noise += messages

    @property
    def size_bytes(self) -> int:
        """Of all files together, each in its last version."""
        return sum(file.size_bytes for file in self.truth.values())

    def gets(self, name: str) -> int:
        """Return how often a file was asked for (count)."""
        return self.door.gets[self.truth[name].path]


def _staged_path(file: StoredFile) -> str:
    return f"/upload/1/{file.pnfsid}/{file.path.rpartition('/')[2]}"


def _faults(path: str, kind: Kind) -> list[Fault]:
    # An asterisk or bracket would make a pattern of a path; the names with faults have none.
    match kind:
        case Kind.WRONG_SUM:
            return [Fault("pool", path, times=1, digest=WRONG_DIGEST)]
        case Kind.STALLED:
            return [Fault("pool", path, times=1, stall_after=STALL_AFTER_BYTES)]
        case Kind.FORBIDDEN:
            return [Fault("door", path, status=403)]
        case _:
            return []
