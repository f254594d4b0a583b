"""`python -m benchmarks [--quick]`: copies, then events, then one verdict over both, and the result as a file."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import bars, verdict

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="small sets; for a look, not for a result")
    quick = parser.parse_args().quick
    for part in verdict.PARTS:
        bars.forget(part)
        print(f"== {part} ==", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{part}", *(["--quick"] if quick else [])], check=False)
    print("== both ==", flush=True)
    return verdict.main(["--into", str(RESULTS / ("quick" if quick else "full")), *(["--quick"] if quick else [])])


if __name__ == "__main__":
    sys.exit(main())
