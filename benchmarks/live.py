"""The whole daemon, as a process, with a door and a Kafka of its own: latency, memory with a backlog, start-up."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Producer

from benchmarks.usage import Watch
from dcalqr.local.state import State
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from dcalqr.testing.pki import make_pki
from tests.support.kafka import KafkaBroker
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, Site

LATENCY_BYTES = 100_000
# Quiet: the next upload comes when the last one has long landed, at no fixed phase of any timer.
PAUSE_SECONDS = (0.03, 0.13)
LOOK_SECONDS = 0.0005
LANDS_SECONDS = 20.0
FULL_SECONDS = 120.0
WINDOW = 1000
STARTS = 7
# Phases of an attempt in a report: together the transfer itself.
PHASES = ("door_wait", "connect", "first_byte", "body", "sync", "publish")


@contextlib.contextmanager
def site(broker: KafkaBroker, topic: str) -> Iterator[Site]:
    """Make a door, a download folder, and a configuration with a group of its own."""
    with tempfile.TemporaryDirectory(prefix="dcalqr-bench-") as folder:
        made = Site(Path(folder), broker, topic, f"bench-{time.time_ns()}", make_pki(Path(folder) / "pki"))
        made.settings["log"] = {"level": "info"}
        made.settings["kafka"]["commitseconds"] = 5
        try:
            yield made
        finally:
            made.close()


# --- latency ------------------------------------------------------------------------------------------------------


class Latency(NamedTuple):
    """Seconds by file, ascending: from produce to the final name, and without the transfer itself."""

    whole: Sequence[float]
    above: Sequence[float]


def latency(broker: KafkaBroker, files: int) -> Latency:
    """Announce files one by one, and look for each final name."""
    topic = f"latency-{time.time_ns()}"
    broker.create_topic(topic, 4)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
    rng = random.Random(1)
    took: dict[str, float] = {}
    with site(broker, topic) as made, made.daemon() as daemon:
        daemon.wait_for("CONNECTED")
        for number in range(files + 1):  # the first one opens connections, and does not count
            name = f"{number // 50:03d}/file_{number:05d}"
            file = made.door.put(f"{FOLDER}/{name}", samples.content(LATENCY_BYTES, 1), pnfsid=samples.new_pnfsid(rng))
            value = samples.upload(f"{ROOT}{FOLDER}/{name}", LATENCY_BYTES, file.pnfsid)
            final = made.download / name
            began = time.perf_counter()
            producer.produce(topic, value)
            producer.poll(0)
            while not final.exists():
                time.sleep(LOOK_SECONDS)
                if time.perf_counter() - began > LANDS_SECONDS:
                    raise TimeoutError(f"{name} has not landed")
            took[f"{ROOT}{FOLDER}/{name}"] = time.perf_counter() - began
            time.sleep(rng.uniform(*PAUSE_SECONDS))
        producer.flush()
        wait_until(lambda: len(made.reports()) > files, LANDS_SECONDS, "all reports")
        reports = made.reports()[1:]
    itself = {report["path"]: sum(report[f"{phase}_seconds"] or 0.0 for phase in PHASES) for report in reports}
    above = sorted(took[path] - seconds for path, seconds in itself.items())
    return Latency(sorted(took[path] for path in itself), above)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that this share of the ascending ones does not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]


# --- a backlog ----------------------------------------------------------------------------------------------------


def backlog(broker: KafkaBroker, topic: str, seconds: float) -> dict[str, Any]:
    """Let a daemon meet a long topic while the door hangs: its window fills, and everything stands still for a while.

    Memory is the sum of the proportional set sizes of all its processes.
    """
    with site(broker, topic) as made:
        made.door.faults.add(Fault("door", method="GET", delay_seconds=10 * FULL_SECONDS))
        with made.daemon() as daemon, Watch(daemon.process.pid) as watch:

            def is_full() -> bool:
                found = State.read_status(str(made.folder / "failed.state"))
                return found is not None and found["open"] >= WINDOW

            wait_until(is_full, FULL_SECONDS, "a full window")
            first = watch.look()
            time.sleep(seconds)
            last = watch.look()
            stall = (State.read_status(str(made.folder / "failed.state")) or {})["loop_stall"]
            daemon.process.kill()
    spent = last.cpu.since(first.cpu)
    return {
        "peak_bytes": watch.peak_bytes,
        "growth_bytes": last.memory_bytes - first.memory_bytes,
        "paused_cpu_share": (spent.user + spent.system) / (last.at - first.at),
        "loop_stall": stall,
    }


# --- start-up -----------------------------------------------------------------------------------------------------


def version_seconds() -> float:
    """Give the median time that `dcalqr --version` takes."""
    took = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dcalqr", "--version"], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def start_seconds(broker: KafkaBroker, topic: str, starts: int) -> float:
    """Give the median time from the start of `dcalqr run` to the first answered fetch: what comes is read from then."""
    took = []
    for _ in range(starts):
        with site(broker, topic) as made:
            config = made.write_config()
            began = time.time()
            with made.daemon(config) as daemon:
                line = daemon.wait_for("CONNECTED")
                daemon.process.kill()
        took.append(dt.datetime.fromisoformat(line["time"]).timestamp() - began)
    return statistics.median(took)
