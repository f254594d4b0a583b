"""Parts that nobody will publish any more: of a former run, or of a worker that died. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterator
from typing import NamedTuple

from dcalqr.local.directories import opened, unlinked
from dcalqr.local.oserrors import border
from dcalqr.local.paths import is_part, is_part_of


def sweep(root_fd: int, directory: tuple[bytes, ...], instance8: str, keep: Container[bytes]) -> dict[bytes, bool]:
    """Remove this instance's own parts in one directory, whatever their age.

    Parameters
    ----------
    keep
        Names that stay: orders outstanding. Asked after the directory was listed, so an order that came meanwhile may
        still be named.

    Returns
    -------
    dict of bytes to bool
        The names, and whether each is gone; empty too when the directory is missing.
    """
    with border(root_fd, "sweep"), contextlib.suppress(FileNotFoundError), opened(root_fd, directory) as fd:
        return {name: unlinked(fd, name) for name in _scan(fd, instance8)[1] if name not in keep}
    return {}


def _scan(fd: int, instance8: str) -> tuple[list[bytes], list[bytes]]:
    """List the directories in a directory, and the instance's parts."""
    directories: list[bytes] = []
    parts: list[bytes] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                directories.append(name)
            elif is_part_of(name, instance8) and entry.is_file(follow_symlinks=False):
                parts.append(name)
    return directories, parts


def remove_part(root_fd: int, directory: tuple[bytes, ...], name: bytes) -> bool:
    """Remove the part of a dead worker by its exact name; returns whether none is left.

    Raises
    ------
    ValueError
        The name has not the form of a part: nothing else is ever removed here.
    """
    if not is_part(name):
        raise ValueError(f"not a part file: {name!r}")
    with border(root_fd, "remove"), contextlib.suppress(FileNotFoundError), opened(root_fd, directory) as fd:
        return unlinked(fd, name)
    return True


class OldPart(NamedTuple):
    """A part that nobody wrote to for long; `remove_part` takes its two fields."""

    directory: tuple[bytes, ...]
    name: bytes


def old_parts(root_fd: int, instance8: str, older_than_epoch: float) -> Iterator[OldPart]:
    """Walk the whole tree for this instance's parts last written before a time in seconds since the epoch.

    Directories that vanish or refuse are passed over; links are not followed. One descriptor is open at a time, none
    while the caller has the word.
    """
    waiting: list[tuple[bytes, ...]] = [()]
    while waiting:
        directory = waiting.pop()
        with contextlib.suppress(OSError):
            with opened(root_fd, directory) as fd:
                below, names = _scan(fd, instance8)
                old = [OldPart(directory, name) for name in names if _mtime(fd, name) < older_than_epoch]
            waiting.extend((*directory, name) for name in below)
            yield from old


def _mtime(fd: int, name: bytes) -> float:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return float("inf")  # published or discarded meanwhile
