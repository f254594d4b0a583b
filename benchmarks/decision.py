"""From records to decisions in one process: `python -m benchmarks.decision pure` or `... kafka BOOTSTRAP TOPIC COUNT`.

"pure" is bytes in, verdict out. "kafka" is all that a running daemon does with a record: its consumer, tracker, reader,
filter, window, dispatcher, log lines, reports and commits. Only the Task is another one, which settles at once: what a
copy costs is measured elsewhere. Prints JSON; processor time is that of the whole process, all threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.billing import records
from dcalqr import log
from dcalqr.config import Kafka
from dcalqr.dcache.events import EventReader
from dcalqr.dcache.uploads import UploadFilter
from dcalqr.delivery.intake import Gate, Intake
from dcalqr.dispatcher import Dispatcher
from dcalqr.kafka.consumer import Consumer
from dcalqr.local.failures import FailedTasksFile, UnreadableFile
from dcalqr.local.state import State
from dcalqr.metrics.counters import Counters
from dcalqr.metrics.reports import Reports
from dcalqr.model import Outcome, Skip, StorageEvent
from dcalqr.plugins import TaskContext
from dcalqr.retry import RetryPolicy
from dcalqr.service import stalls
from dcalqr.service.assembly import Reporter
from tests.support.site import FOLDER, ROOT

# As many as a poll hands on: in the daemon, too, the bytes were touched a moment before.
PURE_RECORDS = 500
PURE_ROUNDS = 9
PURE_REPEATS = 100
LOOK_SECONDS = 0.01
# A million records take less than ten seconds.
LIMIT_SECONDS = 120.0


def pure() -> dict[str, Any]:
    """Judge the same records again and again, as the intake does; the median of the rounds."""
    values = list(itertools.islice(records(2 * PURE_RECORDS), PURE_RECORDS))
    reader, judge = EventReader(ROOT + FOLDER), UploadFilter(ROOT + FOLDER).judge
    rounds = []
    for _ in range(PURE_ROUNDS):
        began = time.process_time()
        for _ in range(PURE_REPEATS):
            rest, _skips = reader.sift(values)
            for place in rest:
                event = reader.read(values[place])
                if not isinstance(event, Skip):
                    judge(event)
        rounds.append(time.process_time() - began)
    return {"per_cpu_second": PURE_RECORDS * PURE_REPEATS / statistics.median(rounds)}


class SettlesAtOnce:
    """A Task that has nothing to do."""

    name = "nothing"

    def key(self, event: StorageEvent) -> str:
        return event.path

    async def run(self, event: StorageEvent, context: TaskContext) -> Outcome:
        return Outcome.DONE

    async def probe(self, domain: str) -> None:
        return


@contextlib.asynccontextmanager
async def _consuming(kafka: Kafka, counters: Counters, folder: Path) -> AsyncIterator[None]:
    """Consume as the daemon does."""
    threads = ThreadPoolExecutor(2)
    state = State(str(folder / "state"))
    state.open()
    rows = FailedTasksFile(str(folder / "failed.csv"), threads)
    unreadable = UnreadableFile(str(folder / "failed.csv"), threads)
    for file in (rows, unreadable):
        await file.open()
    task = SettlesAtOnce()
    dispatcher = Dispatcher(
        task=task,
        policy=RetryPolicy(1.0, 10),
        rows=rows,
        counters=counters,
        report=Reporter(Reports([], lambda *_: None), counters, task.name, "bench"),
        delay_seconds=0.0,
        window=kafka.window,
    )
    intake = Intake(EventReader(ROOT + FOLDER), UploadFilter(ROOT + FOLDER), dispatcher, unreadable, counters)
    consumer = Consumer(kafka, Gate(intake, dispatcher.window), state)
    consuming = asyncio.create_task(consumer.run())
    measuring = asyncio.create_task(stalls.measure(counters.loop_stall))
    stalls.spare_what_is_loaded()
    try:
        yield
    finally:
        measuring.cancel()
        await consumer.aclose()
        await consuming
        await dispatcher.cancel()
        for file in (rows, unreadable):
            await file.close()
        state.close()
        threads.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds.

    Raises
    ------
    TimeoutError
        It did not.
    """
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - the counters of the daemon have no event
            await asyncio.sleep(LOOK_SECONDS)


async def from_kafka(bootstrap: str, topic: str, count: int, folder: Path) -> dict[str, Any]:
    """Consume a topic of `count` records once, by a new group."""
    section = {"topic": topic, "servers": [bootstrap], "consumergroup": f"decision-{time.time_ns()}"}
    kafka = Kafka.model_validate(section, context={"instance": "bench"})
    counters = Counters()

    def decided() -> int:
        return sum(number for (decision, _), number in counters.events.items() if decision != "undated")

    async with _consuming(kafka, counters, folder):
        await until(lambda: decided() > 0)
        first, wall, cpu = decided(), time.perf_counter(), time.process_time()
        await until(lambda: decided() >= count)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "records": count,
        "matched": counters.matched,
        "per_cpu_second": (count - first) / cpu,
        "per_wall_second": (count - first) / wall,
        "loop_stall": counters.loop_stall.as_json(),
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Give this program's own peak; getrusage's is at least that of whoever started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main(arguments: list[str]) -> None:
    if arguments[0] == "pure":
        print(json.dumps(pure()))
        return
    bootstrap, topic, count = arguments[1:]
    with open(os.devnull, "wb") as nowhere, tempfile.TemporaryDirectory() as folder:
        log.configure("info", "json", nowhere)
        print(json.dumps(asyncio.run(from_kafka(bootstrap, topic, int(count), Path(folder)))))


if __name__ == "__main__":
    main(sys.argv[1:])
