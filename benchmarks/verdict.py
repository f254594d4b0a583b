"""Combines the parts of a run into one result: `python -m benchmarks.verdict [--into benchmarks/results/NAME]`.

Reads the tables and bars that the parts have left below `build/bench/`; prints every bar and, as its last line,
`bars: K of N hold`; exit code 0 only if all do. With `--into`, NAME.md and NAME.json are written: what was measured,
on which machine, with which versions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import bars, machine

# Of a whole run; one that is missing has not been reached.
PARTS = ("copies", "events")
HOW = {True: "make bench QUICK=1", False: "make bench"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict")
    parser.add_argument("--into", type=Path, help="write PATH.md and PATH.json")
    parser.add_argument("--quick", action="store_true", help="say in the result that it was a quick run")
    parser.add_argument("--folder", type=Path, default=bars.FOLDER, help="where the parts left their figures")
    options = parser.parse_args(arguments)
    parts: dict[str, list[bars.Bar]] = {}
    for part in PARTS:
        try:
            parts[part] = bars.load(part, options.folder)
        except FileNotFoundError:
            print(f"{part}: has not run to its end", file=sys.stderr)
    every = [bar for part in parts.values() for bar in part]
    if options.into is not None:
        _write(options.into, options.folder, parts, HOW[options.quick])
    for bar in every:
        print(bar)
    print(bars.verdict(every))
    return bars.exit_code(every) if len(parts) == len(PARTS) else 1


def _write(into: Path, folder: Path, parts: Mapping[str, Sequence[bars.Bar]], command: str) -> None:
    facts = {"command": command, **machine.facts()}
    into.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "machine": facts,
        "bars": {part: [bar._asdict() | {"holds": bar.holds} for bar in parts[part]] for part in parts},
    }
    tables = {part: json.loads(path.read_text()) for part in parts if (path := folder / f"{part}.json").exists()}
    into.with_suffix(".json").write_text(json.dumps(told | {"tables": tables}, indent=1) + "\n")
    every = [bar for part in parts.values() for bar in part]
    lines = ["# What was measured", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Bars", "", "| | bar | measured | limit |", "|---|---|---:|---:|", *map(_row, every)]
    lines += ["", f"**{bars.verdict(every)}**", ""]
    for part in parts:
        shown = folder / f"{part}.md"
        lines += [f"## {part.capitalize()}", "", shown.read_text().strip(), ""] if shown.exists() else []
    into.with_suffix(".md").write_text("\n".join(lines))


def _row(bar: bars.Bar) -> str:
    sign, measured = ("≥" if bar.at_least else "≤"), "-" if bar.measured is None else f"{bar.measured:.4g} {bar.unit}"
    return f"| {'holds' if bar.holds else '**missed**'} | {bar.name} | {measured} | {sign} {bar.limit:.4g} {bar.unit} |"


if __name__ == "__main__":
    sys.exit(main())
