"""`python -m tests.ledger --seconds N`: exit code 0 only if nothing was lost, wrong or left over."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from dcalqr.testing.pki import make_pki
from tests.ledger.fleet import ORDINALS
from tests.ledger.instance import MUTANT, MUTANTS
from tests.ledger.run import Ledger, Options
from tests.support.kafka import KafkaBroker
from tests.support.process import MissingComponent


def main() -> int:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    print(f"folder {folder}", flush=True)
    try:
        with KafkaBroker(folder / "kafka") as broker:
            ledger = Ledger(folder, broker, make_pki(folder / "pki"), options, lambda line: print(line, flush=True))
            well = ledger.run()
            _tell(ledger, folder)
    except MissingComponent as missing:
        print(missing, file=sys.stderr)
        return 1
    if well:
        shutil.rmtree(folder)
    return 0 if well else 1


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.ledger", description=sys.modules["tests.ledger"].__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long uploads and strikes go on")
    parser.add_argument("--seed", type=int, default=1, help="what is uploaded, what is wrong with it, who is struck")
    parser.add_argument("--instances", type=int, default=3, choices=range(1, len(ORDINALS) + 1))
    parser.add_argument("--no-kills", action="store_true", help="TERM only, and at most 1.05 copies per file")
    given = parser.parse_args()
    mutant = os.environ.get(MUTANT, "")
    if mutant and mutant not in MUTANTS:
        parser.error(f"{MUTANT} is one of {', '.join(MUTANTS)}")
    return Options(given.seconds, given.seed, given.instances, not given.no_kills, mutant)


def _tell(ledger: Ledger, folder: Path) -> None:
    for finding in ledger.books.findings:
        print(finding, *ledger.evidence(finding), sep="\n")
    if ledger.books.findings:
        print(f"evidence, logs and rows stay in {folder}")
    print(f"{ledger.copies_per_file:.3f} copies per file")
    print(ledger.last_line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
