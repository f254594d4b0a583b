"""The whole daemon: records wait in a real Kafka, `dcalqr run` copies what they announce.

One partition, no noise among the records (the event side has a benchmark of its own), `delayseconds = 0`, log at its
default level into a file; a new consumer group for every run. The broker is idle but for that one reader.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import sets
from benchmarks.runs import LIMIT_SECONDS, SLOTS, Failed, Job, Measured
from benchmarks.servers import Servers
from benchmarks.usage import Watch
from dcalqr.testing import samples
from tests.support.kafka import KafkaBroker
from tests.support.site import write_toml

# The namespace path behind the server's root.
POOL = "/pnfs/example.org/data"
# Rare enough to cost nothing: each look reads what the log has grown by.
POLL_SECONDS = 0.1
END_SECONDS = 60.0


class Daemon:
    """Runs the daemon over sets that are announced on a broker.

    Parameters
    ----------
    broker
        Runs already.
    servers
        Where the files are.
    workers
        `dcache.workers`; None: the product's default.
    """

    def __init__(self, broker: KafkaBroker, servers: Servers, workers: int | None) -> None:
        self._broker, self._servers, self._workers = broker, servers, workers
        self._groups = itertools.count()
        self._announced: set[str] = set()

    def __call__(self, job: Job) -> Measured:
        """Copy one set; the group is new, so all of its records are read again."""
        kind = job.fileset.kind
        if kind not in self._announced:
            self._broker.create_topic(kind, partitions=1)
            self._broker.produce(kind, announced(job.files))
            self._announced.add(kind)
        started = time.time()
        with self.running(job, kind) as (process, log), Watch(process.pid) as watch:
            wait(process, log, len(job.files))
            watch.look()
        return self._measured(watch, started, job)

    def _measured(self, watch: Watch, started: float, job: Job) -> Measured:
        first = self.first_get(started)
        # A rename is the last change of an inode, here as on every file system of Linux.
        last = max(os.stat(job.dest / file.path).st_ctime for file in job.files)
        spent = watch.cpu_at(last).since(watch.cpu_at(first))
        return Measured(last - first, spent, watch.peak_bytes, first - started)

    def first_get(self, since: float) -> float:
        """Give the time of the first GET after a moment, both in seconds since the epoch."""
        first = self._servers.first_get(since)
        if first is None:
            raise Failed("dcalqr run: no GET has reached the server")
        return first

    @contextlib.contextmanager
    def running(self, job: Job, topic: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Start the daemon on a topic for one job; gives its process and its log, and ends it."""
        config, log = job.folder / "dcalqr.toml", job.folder / "dcalqr.log"
        (job.dest / job.fileset.kind).mkdir()
        write_toml(config, self._settings(job, topic))
        command = [sys.executable, "-m", "dcalqr", "run", "--config", str(config)]
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                yield process, log
            finally:
                process.terminate()
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _settings(self, job: Job, topic: str) -> dict[str, dict[str, object]]:
        kind = job.fileset.kind
        workers = {} if self._workers is None else {"workers": self._workers}
        where = {"url": job.url, "pool": POOL, "folder": f"/{kind}"}
        return {
            "kafka": {
                "topic": topic,
                "servers": [self._broker.bootstrap],
                "consumergroup": f"bench{next(self._groups)}",
                "startfrom": "earliest",
            },
            "dcache": {**where, "delayseconds": 0, "maxdownloads": SLOTS, **workers},
            "local": {
                "proxy": str(self._servers.client),
                "capath": str(self._servers.capath),
                "downloadfolder": str(job.dest / kind),
                "failedtasksfile": str(job.folder / "failed.csv"),
            },
            "daemon": {"instance": "bench"},
        }


def announced(files: Iterable[sets.File]) -> Iterator[bytes]:
    """Give the message of each upload, as the pool would send it now."""
    rng = random.Random(1)
    for file in files:
        yield samples.upload(f"{POOL}/{file.path}", file.size_bytes, samples.new_pnfsid(rng))


def wait(process: subprocess.Popen[bytes], log: Path, count: int) -> None:
    """Wait until the log reports so many files.

    Raises
    ------
    Failed
        The daemon ended, or it did not get there in time.
    """
    until, reported = time.monotonic() + LIMIT_SECONDS, 0
    with log.open("rb") as lines:
        while reported < count:
            time.sleep(POLL_SECONDS)
            reported += lines.read().count(b'"COPY_REPORT"')
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"dcalqr run: {reported} of {count} files reported; {log.read_text()[-2000:]}")
