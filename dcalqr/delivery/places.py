"""Where a file comes from and goes to. Pure."""

from __future__ import annotations

from typing import NamedTuple

from dcalqr.local import paths


class Place(NamedTuple):
    """One file: its URL at the door, the components of its directory below the download folder, its name."""

    url: str
    directory: tuple[bytes, ...]
    name: bytes


class Places:
    """Makes places of events' paths: source = url + (path - root), destination = path - root - folder.

    Parameters
    ----------
    url
        Of the door, with the path that stands for `root`.
    root
        The namespace prefix that the URL stands for (`dcache.pool` of the configuration).
    folder
        The watched folder below it.
    """

    def __init__(self, url: str, root: str, folder: str) -> None:
        self._folder_path = root + folder
        # As the configuration has it: what makes a name impossible here does not make it so at the door.
        watched = [name.encode() for name in folder.split("/") if name]
        #: The watched folder at the door.
        self.folder_url = paths.source_target(url, watched)

    def of(self, path: str) -> Place:
        """Raises PermanentError, NameTooLong or ReservedName for a path that cannot be a file here."""
        *directory, name = below = paths.relative(path, self._folder_path)
        return Place(paths.source_target(self.folder_url, below), tuple(directory), name)
