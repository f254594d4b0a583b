"""The folder of the demo: configuration, log, failed-tasks file, reports and the files that land."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcalqr import errors
from dcalqr.demo.storage import FOLDER, ROOT
from dcalqr.testing.pki import Pki

# Three seconds of silence are a stall here, so that the demo can show one; the default is sixty.
STALL_SECONDS = 3
# So that committed offsets can be watched; the default is five.
COMMIT_SECONDS = 1
DOWNLOADS = 10
INSTANCE = "demo"


def new_site() -> Site:
    """Make a temporary folder for one demo.

    Raises
    ------
    CannotCreate
        There is no place for it.
    """
    try:
        return Site(Path(tempfile.mkdtemp(prefix="dcalqr-demo-")))
    except OSError as error:
        raise errors.CannotCreate(path=tempfile.gettempdir(), why=str(error.strerror)) from error


class Site:
    """Where everything of one demo is.

    Parameters
    ----------
    folder
        Exists, and is the demo's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "dcalqr.toml"
        self.log = folder / "dcalqr.log"
        self.failed = folder / "failed.csv"
        self.reports = folder / "reports.jsonl"
        self.download = folder / "download"
        self.certificates = folder / "certificates"
        self.state = folder / "state"

    def write_config(
        self,
        servers: Sequence[str],
        topic: str,
        group: str,
        url: str,
        pki: Pki,
        others: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        """Make the download folder, and the configuration: required keys, and what differs from the defaults.

        Parameters
        ----------
        servers, topic, group
            Of Kafka.
        url, pki
            The door, and what it takes to be let in.
        others
            Sections that are added, or stand instead of those of the same name.
        """
        self.download.mkdir()
        sections: dict[str, dict[str, Any]] = {
            "kafka": {
                "topic": topic,
                "servers": list(servers),
                "consumergroup": group,
                "commitseconds": COMMIT_SECONDS,
            },
            "dcache": {
                "url": url,
                "pool": ROOT,
                "folder": FOLDER,
                "maxdownloads": DOWNLOADS,
                "stallseconds": STALL_SECONDS,
            },
            "local": {
                "proxy": str(pki.proxy),
                "capath": str(pki.certificates),
                "downloadfolder": str(self.download),
                "failedtasksfile": str(self.failed),
                "statefolder": str(self.state),
                "minfree": 0,  # the demo is small, and a full disk shows by itself
            },
            "daemon": {"instance": INSTANCE},
            "log": {"level": "info", "format": "json"},
            "reports": {"file": str(self.reports)},
            **(others or {}),
        }
        self.config.write_text("\n".join(_section(name, keys) for name, keys in sections.items()), encoding="utf-8")

    def in_words(self) -> list[tuple[str, str]]:
        """Return what lies here, and what each is."""
        known = [
            (self.config.name, "the configuration"),
            (self.log.name, "the daemon's log, a JSON object a line"),
            (self.reports.name, "one line for each transfer: sizes, checksums, times"),
            (self.failed.name, "one row for each file that was given up; dcalqr replay runs them again"),
            (f"{self.download.name}/", "the files that landed"),
        ]
        return [(name, what) for name, what in known if (self.folder / name).exists()]


def _section(name: str, keys: dict[str, Any]) -> str:
    # A JSON string is a TOML string, as long as nothing outside the BMP is escaped.
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())
