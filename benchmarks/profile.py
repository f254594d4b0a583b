"""Where the processor time of the daemon goes: files through door and pool, announced at a steady pace.

`python -m benchmarks.profile [--per-second 1000] [--files 5000] [--set small-redirect] [--workers N]`

Both tools look in from outside: the product has no switch for it, and the first of two runs is not disturbed.

1. `perf` (Debian: linux-perf) samples all processes by processor time; a sample belongs to the system call it is in,
   else to the library it is in. Time that threads wait is not in it.
2. `py-spy` (`pip install py-spy`), if it is there, samples who holds the interpreter, in a second run: how the share
   "Python" of the first divides among the modules.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import phases, sets
from benchmarks.bars import FOLDER
from benchmarks.daemon import Daemon, announced, wait
from benchmarks.runs import Failed
from benchmarks.stage import Stage, ended_by_term, prepared
from benchmarks.usage import Watch, tree
from tests.support.kafka import KafkaBroker
from tests.support.process import MissingComponent, require

# Odd, so that it does not beat with what the daemon does at every tenth of a second.
SAMPLES_PER_SECOND = 499
# So many times a second some records are produced.
BEATS_PER_SECOND = 20
# Copied before it begins: the start of the interpreters, their imports and the workers are not what is asked about.
WARM_FILES = 20
RECORDER_START_SECONDS = 1.0
RECORDER_SECONDS = 60.0


def main() -> int:
    options = _options()
    ended_by_term()
    sizes = sets.FULL._replace(small=options.files) if options.files else sets.FULL
    try:
        require("perf", "apt-get install linux-perf")
        with prepared(sizes) as stage, KafkaBroker(stage.folder / "kafka") as broker:
            profiled = Profiled(stage, broker, options)
            profiled.by_perf()
            profiled.by_py_spy()
    except (Failed, MissingComponent) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile")
    parser.add_argument("--per-second", type=int, default=1000, help="records announced per second")
    parser.add_argument("--files", type=int, help=f"how many small ones; default {sets.FULL.small}")
    parser.add_argument("--set", choices=[each.name for each in sets.SETS], default="small-redirect")
    parser.add_argument("--workers", type=int, help="worker processes, 0: threads; default: the product's")
    return parser.parse_args()


class Profiled:
    """Runs the daemon under one recorder after the other."""

    def __init__(self, stage: Stage, broker: KafkaBroker, options: argparse.Namespace) -> None:
        self._stage, self._broker, self._options = stage, broker, options
        self._daemon = Daemon(broker, stage.servers, options.workers)
        self._fileset = next(each for each in sets.SETS if each.name == options.set)

    def by_perf(self) -> None:
        """Print the cost by process and part."""
        data = FOLDER / "perf.data"
        head = ["perf", "record", "--event", "cpu-clock", "--freq", str(SAMPLES_PER_SECOND), "-g", "--quiet"]
        daemon_pid = 0

        def command(pid: int) -> Sequence[str]:
            nonlocal daemon_pid
            daemon_pid = pid
            return [*head, "--output", str(data), "--pid", ",".join(map(str, tree(pid)))]

        micros, files, size_bytes = self._run("perf", command)
        script = ["perf", "script", "--input", str(data), "--fields", "pid,ip,sym,dso"]
        told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
        counted: Counter[tuple[str, str]] = Counter()
        for pid, frames in phases.samples(told):
            counted["daemon" if pid == daemon_pid else "workers", phases.part_of(frames)] += 1
        print("| process | part | share of CPU | us/file | s/GB |\n|---|---|---:|---:|---:|")
        for (process, part), count in counted.most_common():
            share = count / counted.total()
            cost, per_gb = share * micros, share * micros * files / size_bytes * 1e3
            print(f"| {process} | {part} | {share:.1%} | {cost:.0f} | {per_gb:.3f} |")

    def by_py_spy(self) -> None:
        """Print which modules hold the interpreter."""
        try:
            spy = require("py-spy", "pip install py-spy")
        except MissingComponent as missing:
            print(f"\nno second run: {missing}")
            return
        stacks = FOLDER / "py-spy.txt"
        head = [spy, "record", "--gil", "--subprocesses", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND)]
        self._run("py-spy", lambda pid: [*head, "--output", str(stacks), "--pid", str(pid)])
        modules = phases.modules(stacks.read_text().splitlines())
        print("| module | share of Python |\n|---|---:|")
        for module, count in modules.most_common(25):
            print(f"| {module} | {count / modules.total():.1%} |")

    def _run(self, name: str, command: Callable[[int], Sequence[str]]) -> tuple[float, int, int]:
        """Let the daemon copy under a recorder; returns processor time per file (us), files, bytes."""
        self._broker.create_topic(name, partitions=1)
        with self._stage.job(self._fileset) as job, self._daemon.running(job, name) as (process, log):
            warm = min(WARM_FILES, len(job.files) // 2)  # the large set has four files
            first, files = job.files[:warm], job.files[warm:]
            self._broker.produce(name, announced(first))
            wait(process, log, len(first))
            with _recorded(command(process.pid)), Watch(process.pid) as watch:
                time.sleep(RECORDER_START_SECONDS)
                start, before = time.monotonic(), watch.look().cpu
                pace = threading.Thread(target=self._announce, args=(name, files))
                pace.start()
                wait(process, log, len(job.files))
                cpu, wall = watch.look().cpu.since(before), time.monotonic() - start
                pace.join()
        micros, rate = sum(cpu) / len(files) * 1e6, len(files) / wall
        print(f"\nunder {name}: {len(files)} files, {rate:.0f} files/s, CPU {micros:.0f} us/file in all processes\n")
        return micros, len(files), sum(file.size_bytes for file in files)

    def _announce(self, topic: str, files: Sequence[sets.File]) -> None:
        """Produce the records at a steady pace."""
        per_second = self._options.per_second
        each, start = max(1, per_second // BEATS_PER_SECOND), time.monotonic()
        for beat, at in enumerate(range(0, len(files), each)):
            time.sleep(max(0.0, start + beat * each / per_second - time.monotonic()))
            self._broker.produce(topic, announced(files[at : at + each]))


@contextlib.contextmanager
def _recorded(command: Sequence[str]) -> Iterator[None]:
    said = Path(FOLDER / "recorder.log")
    with said.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as recorder:
        try:
            yield
        finally:
            recorder.send_signal(signal.SIGINT)  # it writes down what it has
            recorder.wait(RECORDER_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
