"""What was to be reached, what was reached, and the one line that says so.

Each part of the benchmarks saves its bars and its tables as JSON below `build/bench/`; `python -m benchmarks.verdict`
combines them. Ratios are always "ours divided by theirs in the same run": megabytes per second do not travel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# Ignored by git, removed by `make clean`.
FOLDER = Path("build/bench")
SUFFIX = ".bars.json"


class Bar(NamedTuple):
    """One figure and the limit it is held against.

    Parameters
    ----------
    name
        What was measured, for a reader of the table.
    measured, limit
        Both in `unit`; `measured` is None when it could not be measured: then the bar does not hold.
    unit
        "x" for a ratio, else the unit's symbol.
    at_least
        The limit is a least value; else a greatest one.
    """

    name: str
    measured: float | None
    limit: float
    unit: str
    at_least: bool

    @property
    def holds(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        sign, verdict = (">=" if self.at_least else "<="), ("holds" if self.holds else "MISSED")
        measured = "not measured" if self.measured is None else f"{self.measured:.4g} {self.unit}"
        return f"{verdict:6}  {self.name}: {measured} ({sign} {self.limit:.4g} {self.unit})"


def save(part: str, bars: Iterable[Bar], folder: Path = FOLDER) -> Path:
    """Save the bars of one part ("copies", "events"), replacing those of its last run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}{SUFFIX}"
    path.write_text(json.dumps([bar._asdict() for bar in bars], indent=1) + "\n")
    return path


def forget(part: str, folder: Path = FOLDER) -> None:
    """Remove what an earlier run of one part has left, so that it is not taken for this one's."""
    for suffix in (SUFFIX, ".md", ".json"):
        (folder / f"{part}{suffix}").unlink(missing_ok=True)


def load(part: str, folder: Path = FOLDER) -> list[Bar]:
    """Read what `save` wrote.

    Raises
    ------
    FileNotFoundError
        That part has not run.
    """
    return [Bar(**fields) for fields in json.loads((folder / f"{part}{SUFFIX}").read_text())]


def verdict(bars: Sequence[Bar]) -> str:
    """Give the last line of a run."""
    return f"bars: {sum(bar.holds for bar in bars)} of {len(bars)} hold"


def exit_code(bars: Sequence[Bar]) -> int:
    """Give 0 only if there are bars and every one holds."""
    return 0 if bars and all(bar.holds for bar in bars) else 1


def finish(part: str, bars: Sequence[Bar], folder: Path = FOLDER) -> int:
    """Save and print the bars of one part, the verdict last; returns the exit code."""
    save(part, bars, folder)
    for bar in bars:
        print(bar)
    print(verdict(bars), flush=True)
    return exit_code(bars)
