"""One run of one program over one set: how it is called, what it took, whether the result is right."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from benchmarks import sets
from benchmarks.bars import FOLDER
from benchmarks.servers import HOST, Servers
from benchmarks.usage import Cpu, Watch

# Everybody copies ten files at a time: the configuration's default.
SLOTS = 10
# Far more than the slowest program needs for the largest set.
LIMIT_SECONDS = 600.0


class Job(NamedTuple):
    """What one program is to copy in one run.

    Parameters
    ----------
    files
        What to copy, in order.
    manifest
        The same as a file.
    url
        What stands before each path.
    dest
        An empty folder.
    fsync
        Whoever can does the daemon's fsyncs.
    folder
        For the program's own files.
    """

    fileset: sets.FileSet
    files: Sequence[sets.File]
    manifest: Path
    url: str
    dest: Path
    fsync: bool
    folder: Path


class Measured(NamedTuple):
    """What one run took.

    Parameters
    ----------
    wall_seconds
        Of a program that exists to copy: from its start to its end. Of the engine and of the naive Python: from the
        first order to the last answer. Of the daemon: from the first GET to the last final name.
    cpu
        In the same time, of all its processes.
    peak_bytes
        The most memory that all its processes held at one time.
    start_seconds
        Of the daemon: from the start of the process to the first GET.
    """

    wall_seconds: float
    cpu: Cpu
    peak_bytes: int
    start_seconds: float = 0.0


class Failed(Exception):
    """A program that did not do its work."""


Program: TypeAlias = Callable[[Job], Measured]


@dataclass(frozen=True)
class Peers:
    """The programs to compare with, and the engine; each method runs one of them over a set."""

    servers: Servers

    def go_plain(self, job: Job) -> Measured:
        return self._go(job)

    def go_tuned(self, job: Job) -> Measured:
        return self._go(job, "-tuned")

    def go_resume(self, job: Job) -> Measured:
        return self._go(job, "-tuned", "-resume")

    def _go(self, job: Job, *flags: str) -> Measured:
        where = ["-url", job.url, "-manifest", str(job.manifest), "-dest", str(job.dest), "-slots", str(SLOTS)]
        who = ["-client", str(self.servers.client), "-ca", str(self.servers.ca)]
        return _native([str(FOLDER / "gopeer"), *where, *who, *(["-fsync"] if job.fsync else []), *flags])

    def rclone(self, job: Job) -> Measured:
        servers = self.servers
        who = ["--ca-cert", str(servers.ca), "--client-cert", str(servers.client_certificate)]
        who += ["--client-key", str(servers.client_key)]
        where = ["--http-url", f"{job.url}/{job.fileset.kind}/", ":http:", str(job.dest / job.fileset.kind)]
        return _native(["rclone", "copy", "-q", "--config", "/dev/null", "--transfers", str(SLOTS), *who, *where])

    def curl(self, job: Job) -> Measured:
        config = job.folder / "curl.config"
        config.write_text(
            "".join(f'url = "{job.url}/{file.path}"\noutput = "{job.dest}/{file.path}"\n' for file in job.files)
        )
        who = ["--cacert", str(self.servers.ca), "--cert", str(self.servers.client)]
        who += ["--stderr", str(job.folder / "curl.progress")]  # --silent does not silence the one of --parallel
        flags = ["--silent", "--fail", "--location", "--create-dirs", "--parallel", "--parallel-max", str(SLOTS)]
        return _native(["curl", *flags, *who, "--config", str(config)])

    def floor(self, job: Job) -> Measured:
        port = job.url.rpartition(":")[2]
        files = [str(job.manifest), str(job.dest), str(self.servers.client), str(self.servers.ca)]
        return _native([str(FOLDER / "floor"), HOST, port, *files, str(SLOTS)])

    def naive(self, job: Job) -> Measured:
        return _python("benchmarks.peers.naive", [*self._python_options(job), "--ca", str(self.servers.ca)])

    def engine(self, workers: int | None) -> Program:
        """Give the engine with so many worker processes; 0: threads of one process; None: the product's default."""
        more = ["--capath", str(self.servers.capath), *([] if workers is None else ["--workers", str(workers)])]
        return lambda job: _python("benchmarks.engine", [*self._python_options(job), *more])

    def _python_options(self, job: Job) -> list[str]:
        where = ["--url", job.url, "--manifest", str(job.manifest), "--dest", str(job.dest)]
        return [*where, "--client", str(self.servers.client), "--slots", str(SLOTS)]


@contextlib.contextmanager
def _started(command: Sequence[str], stdout: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], Watch]]:
    """Start a program and watch it; kill it when it takes far too long."""
    with subprocess.Popen(command, stdout=stdout) as child, Watch(child.pid) as watch:
        limit = threading.Timer(LIMIT_SECONDS, child.kill)
        limit.start()
        try:
            yield child, watch
        finally:
            limit.cancel()
    if child.returncode:
        raise Failed(f"{' '.join(command[:3])} ... ended with {child.returncode}")


def _native(command: Sequence[str]) -> Measured:
    """Run a program and measure it from start to end."""
    start = time.monotonic()
    with _started(command) as (child, watch):
        _, status, spent = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    return Measured(wall, Cpu(spent.ru_utime, spent.ru_stime), watch.peak_bytes)


def _python(module: str, options: Sequence[str]) -> Measured:
    """Run a program that prints what it took, without its own start."""
    with _started([sys.executable, "-m", module, *options], subprocess.PIPE) as (child, watch):
        said, _ = child.communicate()
    told = json.loads(said)
    return Measured(told["wall"], Cpu(told["user"], told["sys"]), watch.peak_bytes)
