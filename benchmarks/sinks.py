"""What a sink costs the copies: the whole daemon without one, and with an Elasticsearch that is well, killed, stopped.

Elasticsearch runs on the same cores. Where it works, the clock measures it too, and what counts is the daemon's own
processor time; killed or stopped it takes none, and the clock counts. Killed and stopped it is when half of the
files have landed, until the last one has. Measured is the second half in each case: loading the client's library, once,
is over by then.

Two runs of the same daemon differ by more than a sink costs, on all but the quietest machine. So a report is measured
alone too: the processor time of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import bars, sets
from benchmarks.bars import Bar
from benchmarks.daemon import Daemon, announced, wait
from benchmarks.runs import Failed, Job
from benchmarks.servers import Servers
from benchmarks.stage import ended_by_term, prepared, sizes_of
from benchmarks.usage import Cpu, Watch, cpu_of
from dcalqr.config.sinks import Elasticsearch
from dcalqr.local.state import State
from dcalqr.metrics import elastic
from dcalqr.metrics.reports import Reports, Sink
from dcalqr.metrics.template import flattened, template
from tests.contract.sink import report
from tests.support.kafka import KafkaBroker
from tests.support.process import MissingComponent, wait_until
from tests.support.search import ELASTICSEARCH_8, SearchServer

# The set in which a file costs most beside its bytes, all copied as its users copy: door, pool, disk.
SET = next(each for each in sets.SETS if each.name == "small-redirect")
ROUNDS, QUICK_ROUNDS = 5, 1
# Behind it nothing is measured any more: a sink that was in error asks again within 30 s.
DELIVERED_SECONDS = 120.0
NONE, WELL, KILLED, STOPPED = "no sink", "Elasticsearch", "killed meanwhile", "stopped meanwhile"
# "Within 3 %".
LEAST_RATE, MOST_CPU, MOST_SHARE = 0.97, 1.03, 0.03
# As many reports a second as one instance makes of small files, for ten seconds, after the library was loaded.
REPORTS, REPORTS_PER_SECOND, LOADED_SECONDS = 4000, 400, 3.0
TOGETHER = 4


class Run(NamedTuple):
    """One run, in its second half.

    Parameters
    ----------
    files_per_second
        By the clock.
    cpu_ms
        Of all processes of dcalqr, a file.
    main_ms
        Of the daemon's own process alone, where the sinks are, a file.
    server_ms
        Of Elasticsearch, a file.
    stored, dropped, settled
        Of the whole run: documents in the index, reports that were counted as lost, files that were reported.
    """

    files_per_second: float
    cpu_ms: float
    main_ms: float
    server_ms: float
    stored: int
    dropped: int
    settled: int


class _Alone(Watch):
    """Samples the processor time of one process without its descendants; one that has ended keeps what it had spent."""

    def _pids(self) -> list[int]:
        return [self._pid]

    def _cpu(self, pids: Sequence[int]) -> Cpu:
        before = self.samples[-1].cpu if self.samples else Cpu(0.0, 0.0)
        return max(before, cpu_of(pids))

    def _memory(self, _: Sequence[int]) -> int:
        return 0  # nobody asks for it, and it would disturb


class Reporting(Daemon):
    """Runs the daemon with or without Elasticsearch as a sink."""

    def __init__(self, broker: KafkaBroker, servers: Servers, search: SearchServer, workers: int | None) -> None:
        super().__init__(broker, servers, workers)
        self._search = search
        self._numbers = itertools.count()
        self._prefix = ""

    def _settings(self, job: Job, topic: str) -> dict[str, dict[str, object]]:
        settings = super()._settings(job, topic)
        if self._prefix:
            settings["elasticsearch"] = {"urls": [self._search.url], "prefix": self._prefix}
        return settings

    def run(self, job: Job, name: str) -> Run:
        """Copy the set in one of the cases."""
        if SET.kind not in self._announced:
            self._broker.create_topic(SET.kind, partitions=1)
            self._broker.produce(SET.kind, announced(job.files))
            self._announced.add(SET.kind)
        self._prefix = "" if name == NONE else f"bench{next(self._numbers)}"
        if self._prefix:
            self._search.do("PUT", f"/_index_template/{self._prefix}", template(self._prefix, flattened(), None))
        half = len(job.files) // 2
        with self.running(job, SET.kind) as (process, log):
            with Watch(process.pid) as whole, _Alone(process.pid) as main, _Alone(self._search.process.pid) as server:
                wait(process, log, half)
                with self._away(name):
                    wait(process, log, len(job.files))
                    watches = [whole, main, server]
                    for watch in watches:
                        watch.look()
            self._delivered(job)
        return _measured(job, half, watches, self._stored(), log)

    @contextlib.contextmanager
    def _away(self, name: str) -> Iterator[None]:
        if name == KILLED:
            self._search.process.kill()
        elif name == STOPPED:
            self._search.process.suspend()
        yield
        if name == KILLED:
            self._search.start()
        elif name == STOPPED:
            self._search.process.resume()

    def _delivered(self, job: Job) -> None:
        """Wait until no report waits: what is on its way then is delivered at the end."""

        def is_empty() -> bool:
            status = State.read_status(str(job.folder / "failed.state")) or {}
            return status.get("matched") == len(job.files) and not any(status["reports"]["queued"].values())

        wait_until(is_empty, DELIVERED_SECONDS, "all reports to reach their sink")

    def _stored(self) -> int:
        if not self._prefix:
            return 0
        self._search.do("POST", f"/{self._prefix}-*/_refresh")
        stored = int(self._search.do("GET", f"/{self._prefix}-*/_count")["count"])
        self._search.do("DELETE", f"/{','.join(self._search.indices(self._prefix))}")
        return stored


def _measured(job: Job, half: int, watches: Sequence[Watch], stored: int, log: Path) -> Run:
    # A rename is the last change of an inode, here as on every file system of Linux.
    landed = sorted(os.stat(job.dest / file.path).st_ctime for file in job.files)
    begin, end, files = landed[half - 1], landed[-1], len(landed) - half
    spent = [watch.cpu_at(end).since(watch.cpu_at(begin)) for watch in watches]
    lines = [json.loads(line) for line in log.read_bytes().splitlines() if b'"SINK_END"' in line]
    dropped = sum(sum(line["dropped"].values()) for line in lines)
    settled = log.read_bytes().count(b'"COPY_REPORT"')
    whole, main, server = ((each.user + each.system) / files * 1e3 for each in spent)
    return Run(files / (end - begin), whole, main, server, stored, dropped, settled)


# --- a report alone -----------------------------------------------------------------------------------------------


async def report_ms(search: SearchServer) -> float:
    """Give the processor time that a report to Elasticsearch costs, in ms."""
    search.do("PUT", "/_index_template/alone", template("alone", flattened(), None))
    keys = {"urls": [search.url], "prefix": "alone"}
    with_sink = await _process_ms([elastic.sink(Elasticsearch.model_validate(keys, context={"instance": "bench"}))])
    return with_sink - await _process_ms([])


async def _process_ms(sinks: Sequence[Sink]) -> float:
    """Give this process's time while it reports, for one report, in ms."""
    reports = Reports(sinks, _fail)
    reports.put(report())
    await asyncio.sleep(LOADED_SECONDS)
    began = time.process_time()
    for number in range(1, REPORTS + 1):
        now = time.time()
        reports.put(report(number, time=now, event_date=now - 1.0, received_at=now - 0.5))
        if number % TOGETHER == 0:
            await asyncio.sleep(TOGETHER / REPORTS_PER_SECOND)
    while any(reports.queued.values()):  # noqa: ASYNC110 - what is waited for knows no event
        await asyncio.sleep(0.1)
    spent = time.process_time() - began
    await reports.aclose()
    return spent / REPORTS * 1e3


def _fail(sink: str, error: Exception) -> None:
    raise Failed(f"{sink}: {error}")


# --- what is shown ------------------------------------------------------------------------------------------------


def ratio(runs: Mapping[str, Sequence[Run]], name: str, field: str) -> float:
    """Give the median of a case's ratios to the run without a sink of the same round."""
    rounds = zip(runs[name], runs[NONE], strict=True)
    return statistics.median(float(getattr(ours, field) / getattr(theirs, field)) for ours, theirs in rounds)


def markdown(runs: Mapping[str, Sequence[Run]]) -> str:
    """Show medians, and the sums of what was counted."""
    lines = [
        "| sink | files/s | x none | CPU ms/file | x none | main process | x none | server | stored, dropped, of |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, each in runs.items():
        cells = [name]
        for field, digits in (("files_per_second", 0), ("cpu_ms", 2), ("main_ms", 3)):
            cells.append(f"{statistics.median(getattr(run, field) for run in each):.{digits}f}")
            cells.append(f"{ratio(runs, name, field):.3f}")
        cells.append(f"{statistics.median(run.server_ms for run in each):.2f}")
        stored, dropped, settled = (sum(getattr(run, it) for run in each) for it in ("stored", "dropped", "settled"))
        cells.append("" if name == NONE else f"{stored}, {dropped}, {settled}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def sink_bars(runs: Mapping[str, Sequence[Run]], cost_ms: float) -> list[Bar]:
    """Hold the copies with a sink against those without; each report must be stored or counted."""
    share = cost_ms / statistics.median(run.cpu_ms for run in runs[NONE])
    alone = Bar("a report alone: CPU, of that of a file", share, MOST_SHARE, "x", at_least=False)
    cpu = Bar(f"{WELL}: CPU a file to {NONE}", ratio(runs, WELL, "cpu_ms"), MOST_CPU, "x", at_least=False)
    rates = [
        Bar(f"{name}: rate to {NONE}", ratio(runs, name, "files_per_second"), LEAST_RATE, "x", at_least=True)
        for name in (KILLED, STOPPED)
    ]
    every = [run for name in (WELL, KILLED, STOPPED) for run in runs[name]]
    unknown = sum(abs(run.settled - run.stored - run.dropped) for run in every)
    return [
        alone,
        cpu,
        *rates,
        Bar("reports neither stored nor counted, or both", unknown, 0, "reports", at_least=False),
    ]


def measure(options: argparse.Namespace) -> tuple[dict[str, list[Run]], float]:
    """Run all cases in turn, as many rounds as asked for; also gives what a report alone costs, in ms."""
    # Only the small files are copied: of the others there is one, or what makes one.
    sizes = sizes_of(quick=options.quick)._replace(large=1, large_bytes=sets.MIB, medium=2)
    runs: dict[str, list[Run]] = {name: [] for name in (NONE, WELL, KILLED, STOPPED)}
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(prepared(sizes))
        broker = stack.enter_context(KafkaBroker(stage.folder / "kafka"))
        search = SearchServer(stage.folder / "search", ELASTICSEARCH_8).start()
        stack.callback(search.stop)
        daemon = Reporting(broker, stage.servers, search, options.workers)
        for number in range(options.rounds):
            # Each round begins with another case: none is always the one after a certain other.
            for name in [*runs, *runs][number % len(runs) :][: len(runs)]:
                with stage.job(SET) as job:
                    runs[name].append(daemon.run(job, name))
                    sets.check(job.dest, job.files)
                print(f"{number + 1}/{options.rounds} {name}: {runs[name][-1]}", flush=True)
        return runs, asyncio.run(report_ms(search))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sinks", description="what sinks cost the copies")
    parser.add_argument("--quick", action="store_true", help="1000 files, one round")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--workers", type=int, help="worker processes, 0: threads; default: the product's")
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    load = os.getloadavg()[0]
    ended_by_term()
    try:
        runs, cost_ms = measure(options)
    except (Failed, MissingComponent, TimeoutError, sets.WrongResult) as error:
        print(error, file=sys.stderr)
        return 1
    shown = f"{markdown(runs)}\nA report alone: {cost_ms * 1e3:.0f} us.\n"
    print(f"\nMedians of {options.rounds} interleaved rounds; load average before: {load:.1f}.\n\n{shown}")
    (bars.FOLDER / "sinks.md").write_text(shown)
    return bars.finish("sinks", sink_bars(runs, cost_ms))


if __name__ == "__main__":
    sys.exit(main())
