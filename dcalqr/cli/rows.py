"""Whether the failed-tasks file is one of ours: the daemon does not start on another's."""

from __future__ import annotations

from pathlib import Path

from dcalqr.local.failedtask import HEADER


def foreign_rows(path: Path) -> str | None:
    """Say that the file's first line is not our header; None: it is, or there is no file yet."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(HEADER))
    except OSError:
        return None  # what cannot be read is said elsewhere
    if HEADER.startswith(begin):
        return None
    return (
        f"local.failedtasksfile: {path} is not a file of this dcalqr, probably the first dcalqr's: the daemon will not"
        f" start until it is moved away (mv {path} {path}.first)"
    )
