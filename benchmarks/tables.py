"""Medians, ratios, and how they are shown: Markdown, which a terminal shows as well."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.runs import Measured

# The program that all others are divided by.
REFERENCE = "Go tuned"
# Below this mean size a set's rate is counted in files.
FILES_BYTES = 100_000


class Row(NamedTuple):
    """One program over one set: medians of its runs.

    Parameters
    ----------
    rate
        Bytes or files per second, as the set counts.
    cpu_seconds
        Of one run: user and system.
    start_seconds
        Of the daemon: from its start to the first GET.
    walls
        The durations of all runs in seconds, the shortest first.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: float
    start_seconds: float
    rate: float
    walls: Sequence[float]


class Table(NamedTuple):
    """One set.

    Parameters
    ----------
    name
        Of the set.
    files, total_bytes
        How much it is.
    rows
        By program.
    """

    name: str
    files: int
    total_bytes: int
    rows: Mapping[str, Row]

    @property
    def counts_files(self) -> bool:
        return self.total_bytes / self.files < FILES_BYTES

    def rate_ratio(self, ours: str, theirs: str) -> float | None:
        """Divide two rates; None when one of them was not measured."""
        if ours not in self.rows or theirs not in self.rows:
            return None
        return self.rows[ours].rate / self.rows[theirs].rate

    def cpu_ratio(self, ours: str, theirs: str) -> float | None:
        """Divide two costs in processor seconds; None when one of them was not measured."""
        if ours not in self.rows or theirs not in self.rows:
            return None
        return self.rows[ours].cpu_seconds / self.rows[theirs].cpu_seconds


def table(name: str, files: int, total_bytes: int, runs: Mapping[str, Sequence[Measured]]) -> Table:
    """Take the medians of all runs of each program."""
    empty = Table(name, files, total_bytes, {})
    amount = files if empty.counts_files else total_bytes
    return empty._replace(rows={program: _row(measured, amount) for program, measured in runs.items() if measured})


def _row(measured: Sequence[Measured], amount: int) -> Row:
    walls = sorted(run.wall_seconds for run in measured)
    wall = statistics.median(walls)
    return Row(
        wall_seconds=wall,
        cpu_seconds=statistics.median(run.cpu.user + run.cpu.system for run in measured),
        peak_bytes=statistics.median(run.peak_bytes for run in measured),
        start_seconds=statistics.median(run.start_seconds for run in measured),
        rate=amount / wall,
        walls=walls,
    )


def markdown(shown: Table) -> str:
    """Show one set, the fastest program first."""
    rate, cost = ("files/s", "CPU ms/file") if shown.counts_files else ("MB/s", "CPU s/GB")
    lines = [
        f"### {shown.name}: {shown.files} files, {shown.total_bytes / 1e9:.2f} GB",
        "",
        f"| program | {rate} | x {REFERENCE} | {cost} | x {REFERENCE} | peak MiB | seconds, range | first GET after |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for program, row in sorted(shown.rows.items(), key=lambda item: -item[1].rate):
        number = row.rate if shown.counts_files else row.rate / 1e6
        paid = row.cpu_seconds * (1000 / shown.files if shown.counts_files else 1e9 / shown.total_bytes)
        rates, costs = _ratio(shown.rate_ratio(program, REFERENCE)), _ratio(shown.cpu_ratio(program, REFERENCE))
        before = f"{row.start_seconds:.2f}" if row.start_seconds else ""
        memory, seconds = f"{row.peak_bytes / 2**20:.0f}", f"{row.walls[0]:.2f} - {row.walls[-1]:.2f}"
        lines.append(f"| {program} | {number:.0f} | {rates} | {paid:.2f} | {costs} | {memory} | {seconds} | {before} |")
    return "\n".join([*lines, ""])


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
