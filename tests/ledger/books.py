"""The books: what was put into the topic, place by place, and whether it is accounted for on disk. Writes nothing."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from dcalqr.local.failures import complete_length, read_rows
from dcalqr.testing.door import StoredFile


@dataclass(frozen=True)
class Version:
    """One upload: the `number`-th to the path whose part below the folder is `name`.

    `refused`: the door will never give it out, and a row is how it ends.
    """

    name: str
    number: int
    file: StoredFile
    refused: bool = False


class Other(Enum):
    """Records that are no uploads of ours."""

    NOISE = "noise"
    BROKEN = "broken"


Record: TypeAlias = Version | Other


@dataclass(frozen=True)
class Finding:
    """One breach of the promise; `kind` is the figure of the last line that it counts in."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind.upper()}: {self.text}"


class Disk:
    """What instances left on disk. Reads a file again only when it is another one.

    Parameters
    ----------
    download
        The shared destination.
    rows
        Folder of the files `failed-*.csv` and `failed-*.unreadable`.
    """

    def __init__(self, download: Path, rows: Path) -> None:
        self.download = download
        self._rows_folder = rows
        self._sums: dict[Path, tuple[tuple[int, int, int], int]] = {}
        self._read_bytes: dict[Path, int] = {}
        self.rows: dict[str, str] = {}
        self.unreadable: set[tuple[int, int]] = set()

    def adler32(self, path: Path) -> int | None:
        """Sum what stands under a final name; None: nothing."""
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_ino, found.st_mtime_ns, found.st_size)
                known = self._sums.get(path)
                if known is None or known[0] != seen:
                    known = self._sums[path] = (seen, zlib.adler32(file.read()))
        except FileNotFoundError:
            return None
        return known[1]

    def files(self) -> Iterator[Path]:
        return (path for path in self.download.rglob("*") if path.is_file())

    def parts(self) -> list[Path]:
        return [path for path in self.files() if path.suffix == ".part"]

    def refresh(self) -> None:
        """Read the rows and the unreadable records that came since the last time."""
        for path in self._grown("failed-*.csv"):
            self.rows |= {row.pnfsid: str(path) for row in read_rows(str(path), complete_length(str(path)))}
        for path in self._grown("failed-*.unreadable"):
            lines = [json.loads(line) for line in path.read_bytes()[: complete_length(str(path))].splitlines()]
            self.unreadable |= {(line["partition"], line["offset"]) for line in lines}

    def _grown(self, pattern: str) -> Iterator[Path]:
        for path in sorted(self._rows_folder.glob(pattern)):
            size = path.stat().st_size
            if size != self._read_bytes.get(path, 0):
                self._read_bytes[path] = size
                yield path


@dataclass
class Books:
    """All that was produced, and the comparison with what is there."""

    disk: Disk
    records: dict[int, list[Record]] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=dict)
    open: dict[str, Version] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    _audited: Counter[int] = field(default_factory=Counter)

    # --- what was produced ------------------------------------------------------------------------------------

    def enter(self, version: Version) -> None:
        """Note an upload, before anyone can hear of it."""
        self.versions.setdefault(version.name, []).append(version)
        self.open[version.file.pnfsid] = version

    def publish(self, partition: int, offset: int, record: Record) -> None:
        """Note a record; each partition's come in order, without gaps."""
        records = self.records.setdefault(partition, [])
        assert offset == len(records), f"partition {partition}: record {len(records)} got offset {offset}"
        records.append(record)

    @property
    def produced(self) -> int:
        return sum(map(len, self.records.values()))

    @property
    def uploads(self) -> list[Version]:
        return [version for versions in self.versions.values() for version in versions]

    # --- what became of it ------------------------------------------------------------------------------------

    def standing(self, name: str) -> int | None:
        """Tell which version stands under a final name; None: none, -1: bytes that the door never had there."""
        adler32 = self.disk.adler32(self.disk.download / name)
        if adler32 is None:
            return None
        return next((each.number for each in self.versions.get(name, ()) if each.file.adler32 == adler32), -1)

    def landed(self, version: Version) -> bool:
        """Whether it stands there, or a later upload to its path does."""
        standing = self.standing(version.name)
        return standing is not None and standing >= version.number

    def settled(self, version: Version) -> bool:
        return version.file.pnfsid in self.disk.rows or self.landed(version)

    def close_settled(self) -> None:
        """Forget as open what is settled now."""
        self.disk.refresh()
        for version in [each for each in self.open.values() if self.settled(each)]:
            del self.open[version.file.pnfsid]

    def audit(self, committed: Mapping[int, int], when: str) -> None:
        """Look whether all records below these offsets are settled; each is looked at once.

        What is settled stays so, or `balance` finds it at the end.

        Parameters
        ----------
        committed
            Per partition; read before this call, so that the disk may be ahead of it, never behind.
        when
            For the findings.
        """
        self.disk.refresh()
        for partition, offset in sorted(committed.items()):
            records = self.records.get(partition, [])
            if offset > len(records):
                self._find("wrong", f"{when}: partition {partition}: committed {offset}, the end is {len(records)}")
            for place in range(self._audited[partition], min(offset, len(records))):
                self._audit_record(records[place], partition, place, f"{when}: committed {offset}")
            self._audited[partition] = max(self._audited[partition], offset)

    def _audit_record(self, record: Record, partition: int, offset: int, when: str) -> None:
        where = f"partition {partition} offset {offset}"
        if record is Other.BROKEN and (partition, offset) not in self.disk.unreadable:
            self._find("lost", f"{when}, but {where} is unreadable and not kept")
        elif isinstance(record, Version) and not self.settled(record):
            self._find("lost", f"{when}, but {where} is not settled: {self._described(record)}")

    def audit_names(self, when: str) -> None:
        """Look whether every final name holds one of its path's uploads, whole."""
        for path in self.disk.files():
            name = str(path.relative_to(self.disk.download))
            if path.suffix != ".part" and self.standing(name) == -1:
                self._find("wrong", f"{when}: {name} ({path.stat().st_size} bytes) is no upload to its path")

    def balance(self) -> None:
        """Compare all of it, when everything has come to rest."""
        self.disk.refresh()
        for versions in self.versions.values():
            last = versions[-1]
            for version in versions:
                if not self.settled(version):
                    self._find("lost", f"in the end: {self._described(version)}")
            if not last.refused and self.standing(last.name) not in (None, last.number):
                self._find("wrong", f"in the end the door's present bytes are not here: {self._described(last)}")
        by_pnfsid = {version.file.pnfsid: version for version in self.uploads}
        for pnfsid, csv in self.disk.rows.items():
            if pnfsid not in by_pnfsid or not by_pnfsid[pnfsid].refused:
                self._find("wrong", f"a row for a file that was not meant to fail, in {csv}: {pnfsid}")
        for part in self.disk.parts():
            self._find("left", str(part))

    def _described(self, version: Version) -> str:
        file = version.file
        standing = self.standing(version.name)
        here = "nothing" if standing is None else f"version {standing}"
        return (
            f"{version.name} version {version.number} of {len(self.versions[version.name]) - 1}, pnfsid {file.pnfsid}, "
            f"{file.size_bytes} bytes, adler32 {file.adler32:08x}; here: {here}"
        )

    def _find(self, kind: str, text: str) -> None:
        finding = Finding(kind, text)
        if finding not in self.findings:
            self.findings.append(finding)
