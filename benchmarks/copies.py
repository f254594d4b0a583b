"""Copies every set with dcalqr and with its peers, in interleaved rounds; prints tables and the bars about copying."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks import bars, goals, sets, tables
from benchmarks.daemon import Daemon
from benchmarks.runs import SLOTS, Failed, Measured, Peers, Program
from benchmarks.stage import Stage, ended_by_term, prepared, sizes_of
from tests.support.kafka import KafkaBroker
from tests.support.process import MissingComponent

ROUNDS, QUICK_ROUNDS = 3, 1


def programs(stage: Stage, broker: KafkaBroker, workers: int | None) -> dict[str, Program]:
    """Give all programs by name, in the order of a round."""
    peers = Peers(stage.servers)
    return {
        goals.DAEMON: Daemon(broker, stage.servers, workers),
        goals.ENGINE: peers.engine(workers),
        goals.GO_PLAIN: peers.go_plain,
        goals.GO_TUNED: peers.go_tuned,
        goals.GO_RESUME: peers.go_resume,
        goals.RCLONE: peers.rclone,
        "curl -Z": peers.curl,
        goals.FLOOR: peers.floor,
        "httpx + aiofiles": peers.naive,
    }


def wanted(program: str, fileset: sets.FileSet) -> bool:
    """Whether a program can copy a set at all, and differs there from another."""
    if program == goals.FLOOR:
        return not fileset.redirect
    return program != goals.GO_RESUME or fileset.redirect


def measure(stage: Stage, fileset: sets.FileSet, chosen: Mapping[str, Program], rounds: int) -> tables.Table:
    """Run all programs over one set, as many rounds as asked for.

    Raises
    ------
    Failed, sets.WrongResult
        One of them did not do its work: its figures would be worth nothing.
    """
    runs: dict[str, list[Measured]] = {name: [] for name in chosen if wanted(name, fileset)}
    for number in range(rounds):
        for name, measured in runs.items():
            with stage.job(fileset) as job:
                measured.append(chosen[name](job))
                sets.check(job.dest, job.files)
            last = measured[-1]
            spent = last.cpu.user + last.cpu.system
            print(
                f"{fileset.name} {number + 1}/{rounds} {name}: {last.wall_seconds:.2f} s, CPU {spent:.2f} s", flush=True
            )
    files = stage.files[fileset.kind]
    return tables.table(fileset.name, len(files), sum(file.size_bytes for file in files), runs)


def main() -> int:
    options = _options()
    ended_by_term()
    start = time.monotonic()
    try:
        with prepared(sizes_of(quick=options.quick)) as stage, KafkaBroker(stage.folder / "kafka") as broker:
            every = programs(stage, broker, options.workers)
            chosen = {name: every[name] for name in every if not options.programs or name in options.programs}
            measured = {each.name: measure(stage, each, chosen, options.rounds) for each in _sets(options)}
    except (Failed, MissingComponent, sets.WrongResult) as error:
        print(error, file=sys.stderr)
        return 1
    _save(list(measured.values()), options)
    print(f"\ncopies: {options.rounds} rounds in {time.monotonic() - start:.0f} s")
    return bars.finish("copies", goals.copy_bars(measured))


def _save(measured: Sequence[tables.Table], options: argparse.Namespace) -> None:
    """Print the tables, and leave them for the verdict."""
    load = f"load average before the run: {options.load:.1f} (an idle machine: 0)"
    intro = f"Medians of {options.rounds} interleaved rounds, {SLOTS} files at a time; {load}."
    shown = "\n".join([intro, "", *map(tables.markdown, measured)])
    print(f"\n{shown}")
    (bars.FOLDER / "copies.md").write_text(shown)
    told = [each._asdict() | {"rows": {name: row._asdict() for name, row in each.rows.items()}} for each in measured]
    (bars.FOLDER / "copies.json").write_text(json.dumps(told, indent=1) + "\n")


def _sets(options: argparse.Namespace) -> Sequence[sets.FileSet]:
    chosen = [each for each in sets.SETS if not options.sets or each.name in options.sets]
    return [each._replace(on_disk=each.on_disk and not options.in_memory) for each in chosen]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="small sets, one round")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--workers", type=int, help="worker processes, 0: threads; default: the product's")
    parser.add_argument("--sets", type=_names, default=[], help="only these, with commas between")
    parser.add_argument("--programs", type=_names, default=[], help="only these, with commas between")
    parser.add_argument("--in-memory", action="store_true", help="no set goes to the disk, and no peer syncs")
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
