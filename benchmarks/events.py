"""The event side: `python -m benchmarks.events [--quick]`.

From Kafka to decision, control per file, latency, memory with a backlog, start-up; prints the figures and the bars,
exit code 0 only if all bars hold. Rates and costs are medians of three rounds, per processor second of the process,
which other work on the machine disturbs least; stalls are counted in all rounds. Stalls, latency and start-up are wall
time: run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import bars, billing, live
from benchmarks.bars import Bar
from tests.support.kafka import KafkaBroker

TOPIC = "billing"
MB = 1e6
STALL_SECONDS = 0.05
ROUNDS = 3


class Size(NamedTuple):
    """How much is measured (counts, seconds)."""

    records: int
    files: int
    latencies: int
    paused_seconds: float
    starts: int


SIZES = {True: Size(200_000, 3000, 40, 6.0, 3), False: Size(1_000_000, 20_000, 300, 60.0, 5)}


class Figure(NamedTuple):
    """One line of the table, and what it is held against if it is a bar."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False


def child(module: str, *arguments: object) -> dict[str, Any]:
    """Run one of the programs beside this one, and read what it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return done


def stalls(histogram: dict[str, Any]) -> int:
    """Count how often the loop was late by more than the bar allows."""
    first = histogram["bounds"].index(STALL_SECONDS) + 1
    return sum(histogram["counts"][first:])


def decisions(broker: KafkaBroker, size: Size) -> Iterator[Figure]:
    pure = [child("decision", "pure")["per_cpu_second"] for _ in range(ROUNDS)]
    yield Figure("pure decision, per CPU second", median(pure) / 1e6, "M/s", 1.0, at_least=True)
    found = [child("decision", "kafka", broker.bootstrap, TOPIC, size.records) for _ in range(ROUNDS)]
    per_cpu, per_wall = (median(each[f"per_{kind}_second"] for each in found) / 1e3 for kind in ("cpu", "wall"))
    yield Figure("from Kafka to decision, per CPU second", per_cpu, "k/s", 150.0, at_least=True)
    yield Figure("from Kafka to decision, per second", per_wall, "k/s")
    yield Figure(
        "loop late by more than 50 ms, all rounds", sum(stalls(each["loop_stall"]) for each in found), "times", 0
    )
    yield Figure("memory meanwhile (RSS), greatest", max(each["peak_bytes"] for each in found) / MB, "MB")


def latencies(broker: KafkaBroker, size: Size) -> Iterator[Figure]:
    took = live.latency(broker, size.latencies)
    for name, values in (("produce to final name", took.whole), ("the same above the transfer itself", took.above)):
        bar = values is took.above
        middle, tail = live.percentile(values, 0.5) * 1e3, live.percentile(values, 0.99) * 1e3
        yield Figure(f"{name}, p50", middle, "ms", 20.0 if bar else None)
        yield Figure(f"{name}, p99", tail, "ms", 100.0 if bar else None)


def backlogs(broker: KafkaBroker, size: Size) -> Iterator[Figure]:
    found = live.backlog(broker, TOPIC, size.paused_seconds)
    yield Figure("backlog, window full: peak of all processes (PSS)", found["peak_bytes"] / MB, "MB", 150.0)
    yield Figure("backlog, window full: growth while paused", found["growth_bytes"] / MB, "MB", 5.0)
    yield Figure("backlog, window full: processor", found["paused_cpu_share"] * 100, "% of a core")
    yield Figure("backlog: loop late by more than 50 ms", stalls(found["loop_stall"]), "times", 0)


def starts(broker: KafkaBroker, size: Size) -> Iterator[Figure]:
    # An installed package has its modules compiled: whoever measures must not forbid it, or each start compiles them
    # all. The first start here does so; of a few, the median does not see it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(broker.folder / "compiled")
    yield Figure("dcalqr --version", live.version_seconds(), "s", 0.15)
    yield Figure("dcalqr run to first answered fetch", live.start_seconds(broker, TOPIC, size.starts), "s", 1.0)


def control(_: KafkaBroker, size: Size) -> Iterator[Figure]:
    spent = median(child("control", size.files)["cpu_microseconds_per_file"] for _ in range(ROUNDS))
    yield Figure("control per file, no bytes: CPU", spent, "us", 400.0)


PARTS = {"decisions": decisions, "control": control, "latency": latencies, "backlog": backlogs, "starts": starts}


def measured(size: Size, parts: list[str]) -> Iterator[Figure]:
    """Run the parts against one broker; what cannot be measured raises."""
    with tempfile.TemporaryDirectory(prefix="dcalqr-bench-") as folder, KafkaBroker(Path(folder) / "kafka") as broker:
        billing.fill(broker, TOPIC, size.records)
        for part in parts:
            for figure in PARTS[part](broker, size):
                print(f"{figure.name:55} {figure.value:10.4g} {figure.unit}", flush=True)
                yield figure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="200 000 records; for a look, not for a result")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    options = parser.parse_args()
    bars.FOLDER.mkdir(parents=True, exist_ok=True)
    figures = list(measured(SIZES[options.quick], options.parts))
    lines = ["| | |", "|---|---:|", *(f"| {each.name} | {each.value:.4g} {each.unit} |" for each in figures)]
    (bars.FOLDER / "events.md").write_text("\n".join(lines) + "\n")
    (bars.FOLDER / "events.json").write_text(json.dumps([each._asdict() for each in figures], indent=1) + "\n")
    limits = [
        Bar(each.name, each.value, each.limit, each.unit, at_least=each.at_least)
        for each in figures
        if each.limit is not None
    ]
    return bars.finish("events", limits)


if __name__ == "__main__":
    sys.exit(main())
