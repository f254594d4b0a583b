"""What is checked at the end: each number against what the scenario demands, each file against the source."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from dcalqr.demo.broker import Broker
from dcalqr.demo.journal import Journal
from dcalqr.demo.scenario import BECOME_VISIBLE, RETRIED, Kind, Scenario
from dcalqr.demo.site import DOWNLOADS, Site
from dcalqr.demo.storage import FOLDER, ROOT, Storage
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.failures import complete_length, read_rows
from dcalqr.testing.door import StoredFile

_BLOCK_BYTES = 1 << 20


class Check(NamedTuple):
    """One line of the table."""

    what: str
    expected: str
    found: str
    good: bool


def count(what: str, expected: int, found: int) -> Check:
    """Check a number that must be exact."""
    return Check(what, f"{expected}", f"{found}", expected == found)


def of_events(scenario: Scenario, storage: Storage, broker: Broker) -> list[Check]:
    """Check what was published, and what the group committed."""
    staged = len(scenario.named(Kind.STAGED))
    published = scenario.matched + staged + storage.noise
    return [
        count("messages in the topic", published, broker.ends()),
        count("offsets committed", published, broker.committed()),
    ]


def of_deliveries(scenario: Scenario, site: Site, journal: Journal, storage: Storage) -> list[Check]:
    """Check what became of each delivery, by the reports; and that what was to be shown has happened."""
    reports = reports_of(site.reports)
    outcomes = Counter(report["outcome"] for report in reports)
    retried = {name for name, _ in journal.retries} & set(scenario.named(*RETRIED))
    fetched_once = sum(storage.gets(name) == 1 for name in scenario.repeated)
    most = storage.door.running_max
    return [
        count("uploads below our folder: matched", scenario.matched, len(reports)),
        count("landed", scenario.landed, outcomes["landed"]),
        count("announced again: already there", len(scenario.repeated), outcomes["already"]),
        count("    of these, fetched once only", len(scenario.repeated), fetched_once),
        count("failed", len(scenario.named(Kind.FORBIDDEN)), outcomes["failed"]),
        count("met a 404 and waited", len(scenario.named(*BECOME_VISIBLE)), len(journal.invisible)),
        count("met a bad copy and retried", len(scenario.named(*RETRIED)), len(retried)),
        Check("most downloads at a time", f"up to {DOWNLOADS}", f"{most}", most <= DOWNLOADS),
    ]


def of_rows(scenario: Scenario, site: Site) -> list[Check]:
    """Check that the failed-tasks file has a row for each forbidden file, and nothing else."""
    forbidden = [f"{ROOT}{FOLDER}/{name}" for name in scenario.named(Kind.FORBIDDEN)]
    rows = rows_of(site.failed)
    right = [row.path for row in rows if row.error_class == "forbidden" and row.http_status == 403]
    good = right == forbidden and len(rows) == len(forbidden)
    return [Check("rows in failed.csv", f"{len(forbidden)}", f"{len(rows)}", good)]


def of_files(scenario: Scenario, site: Site, storage: Storage) -> list[Check]:
    """Check every file byte for byte, and that there is no other."""
    forbidden = scenario.named(Kind.FORBIDDEN)
    expected = {name: file for name, file in storage.truth.items() if name not in forbidden}
    found = {str(path.relative_to(site.download)) for path in site.download.rglob("*") if not path.is_dir()}
    equal = [name for name, file in expected.items() if name in found and is_equal(site.download / name, file)]
    summed = [report for report in reports_of(site.reports) if _is_sum_of(report, storage)]
    return [
        count("files equal to the source, byte for byte", len(expected), len(equal)),
        count("    of these, with the Adler32 in the reports", len(expected), len(summed)),
        count("other files, parts included", 0, len(found - set(expected))),
    ]


def reports_of(path: Path) -> list[dict[str, Any]]:
    """Return the reports, one for each settled delivery; none when the file was never begun."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def rows_of(path: Path) -> list[FailedTask]:
    """Return the rows of the failed-tasks file."""
    return list(read_rows(str(path), complete_length(str(path)))) if path.exists() else []


def is_equal(path: Path, file: StoredFile) -> bool:
    """Whether a file here has the bytes, and so the Adler32, of the one at the source."""
    adler32, offset = 1, 0
    with path.open("rb") as here:
        while block := here.read(_BLOCK_BYTES):
            if block != b"".join(file.content.pieces(offset, offset + len(block))):
                return False
            adler32 = zlib.adler32(block, adler32)
            offset += len(block)
    return offset == file.size_bytes and adler32 == file.adler32


def _is_sum_of(report: dict[str, Any], storage: Storage) -> bool:
    """Whether a report is of what its name holds now, by pnfsid, and has the right Adler32."""
    file = storage.truth.get(report["path"].removeprefix(f"{ROOT}{FOLDER}/"))
    is_last = file is not None and report["outcome"] == "landed" and report["pnfsid"] == file.pnfsid
    return file is not None and is_last and report["adler32"] == f"{file.adler32:08x}"
