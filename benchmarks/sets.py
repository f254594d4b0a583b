"""What is copied: random files in memory, and the sets that are made of them."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024
LARGE_BYTES = 512 * MIB
MEDIUM_BYTES = 17 * MIB // 2
SMALL_BYTES = 20_000
# Longer than any cache that could spare the copying of repeated bytes, and made in a tenth of a second.
POOL_BYTES = 16 * MIB
# Files that come one after the other lie together, as the files of one exposure do.
FILES_PER_DIRECTORY = 100


class File(NamedTuple):
    """One file: its path below the data folder, and what must arrive."""

    path: str
    size_bytes: int
    adler32: int


class FileSet(NamedTuple):
    """One line of the tables.

    Parameters
    ----------
    name
        Of the set.
    kind
        The folder of its files, of which several sets may copy the same.
    redirect
        Through the door, which sends every request to the pool, which closes each connection; else from one server
        that keeps connections alive.
    on_disk
        The destination is a disk, and whoever can does the daemon's fsyncs; else it is memory.
    """

    name: str
    kind: str
    redirect: bool = False
    on_disk: bool = False


SETS = (
    FileSet("large", "large"),
    FileSet("medium", "medium"),
    FileSet("small", "small"),
    FileSet("mixed", "mixed"),
    FileSet("medium-redirect", "medium", redirect=True, on_disk=True),
    FileSet("small-redirect", "small", redirect=True, on_disk=True),
)


class Sizes(NamedTuple):
    """How much of each kind: numbers of files, and bytes of a large one."""

    large: int
    large_bytes: int
    medium: int
    small: int


FULL = Sizes(4, LARGE_BYTES, 200, 5000)
# Enough for a ratio within a quarter or so, and for every piece to be seen working.
QUICK = Sizes(4, LARGE_BYTES // 4, 40, 1000)


def make(folder: Path, sizes: Sizes) -> dict[str, list[File]]:
    """Write the files of every kind below `folder`; returns them by kind, in the order of copying."""
    pool = memoryview(random.Random(1).randbytes(POOL_BYTES))
    kinds = {
        "large": _written(folder, "large", sizes.large, sizes.large_bytes, pool),
        "medium": _written(folder, "medium", sizes.medium, MEDIUM_BYTES, pool),
        "small": _written(folder, "small", sizes.small, SMALL_BYTES, pool),
    }
    kinds["mixed"] = _linked(folder, "mixed", _interleaved(kinds["medium"], kinds["small"]))
    return kinds


def _written(folder: Path, kind: str, count: int, size_bytes: int, pool: memoryview) -> list[File]:
    files = []
    for number in range(count):
        path = _path(kind, number)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        adler32 = 1
        with (folder / path).open("wb") as out:
            for piece in _pieces(pool, number * 65_537, size_bytes):
                out.write(piece)
                adler32 = zlib.adler32(piece, adler32)
        files.append(File(path, size_bytes, adler32))
    return files


def _pieces(pool: memoryview, start: int, size_bytes: int) -> Iterator[memoryview]:
    """Yield so many bytes of the pool, from a place of its own for every file, beginning anew at its end."""
    while size_bytes:
        piece = pool[start % len(pool) :][:size_bytes]
        yield piece
        start, size_bytes = 0, size_bytes - len(piece)


def _path(kind: str, number: int) -> str:
    return f"{kind}/{number // FILES_PER_DIRECTORY:03d}/{number:06d}.fits"


def _interleaved(medium: Sequence[File], small: Sequence[File]) -> list[File]:
    """Take the first half of both kinds, the small ones spread evenly between the medium."""
    few, many = medium[: len(medium) // 2], small[: len(small) // 2]
    each = len(many) // len(few)
    return [file for at, one in enumerate(few) for file in (one, *many[at * each : (at + 1) * each])]


def _linked(folder: Path, kind: str, files: Sequence[File]) -> list[File]:
    linked = []
    for number, file in enumerate(files):
        path = _path(kind, number)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).hardlink_to(folder / file.path)
        linked.append(file._replace(path=path))
    return linked


def write_manifest(path: Path, files: Sequence[File]) -> Path:
    """Write one line a file: path, size in bytes, Adler32 in eight hexadecimal digits."""
    path.write_text("".join(f"{file.path} {file.size_bytes} {file.adler32:08x}\n" for file in files))
    return path


def read_manifest(path: Path) -> list[File]:
    """Read what `write_manifest` wrote."""
    rows = (line.split() for line in path.read_text().splitlines())
    return [File(name, int(size), int(adler32, 16)) for name, size, adler32 in rows]


class WrongResult(Exception):
    """A program said that it had copied everything, and had not: its figures are worth nothing."""


def check(destination: Path, files: Sequence[File], sample: int = 20) -> None:
    """Look at what has arrived: number and sizes of all files, the checksums of a sample.

    Raises
    ------
    WrongResult
        A file is missing, has another size or another content, or there is one too many.
    """
    found = {os.path.relpath(each, destination): each for each in _regular(str(destination))}
    missing = [file.path for file in files if file.path not in found]
    if missing or len(found) != len(files):
        raise WrongResult(f"{len(found)} files, {len(files)} wanted; missing: {missing[:3]}")
    for file in files:
        if os.stat(found[file.path]).st_size != file.size_bytes:
            raise WrongResult(f"{file.path}: {os.stat(found[file.path]).st_size} bytes, not {file.size_bytes}")
    for file in random.Random(len(files)).sample(files, min(sample, len(files))):
        if _adler32(found[file.path]) != file.adler32:
            raise WrongResult(f"{file.path}: its content is another")


def _regular(folder: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _regular(entry.path)
        else:
            yield entry.path


def _adler32(path: str) -> int:
    value = 1
    with open(path, "rb") as file:
        while block := file.read(MIB):
            value = zlib.adler32(block, value)
    return value
