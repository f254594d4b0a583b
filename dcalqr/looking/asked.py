"""Which file of ours somebody means who names one: by its path in dCache, here, or below the watched folder. Pure."""

from __future__ import annotations

import os

from dcalqr.config import Config


def event_path(config: Config, given: str, here: str = "/") -> str:
    """Return the path that events bear for a file or folder.

    Parameters
    ----------
    given
        Its path in dCache's namespace, as the door shows it, as it stands in the download folder, or below the
        watched folder.
    here
        The present folder: what is given relative to it counts if that lies in the download folder.

    Raises
    ------
    ValueError
        It lies elsewhere; the text names the three folders.
    """
    watched, download = config.dcache.folder_path, str(config.local.downloadfolder)
    local = os.path.normpath(os.path.join(here, given))
    for place, folder in ((given, watched), (given, config.dcache.folder), (local, download)):
        below = _below(place, folder)
        if below is not None:
            return "/".join([watched, *below]) if below else watched
    if given.startswith("/"):
        raise ValueError(f"{given} is neither below {watched} (in dCache) nor below {download} (here)")
    return "/".join([watched, *_names(given)])


def _below(path: str, folder: str) -> list[str] | None:
    """The names below a folder; None: the path is not the folder's."""
    names, prefix = _names(path), _names(folder)
    if not path.startswith("/") or not prefix or names[: len(prefix)] != prefix:
        return None
    return names[len(prefix) :]


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
