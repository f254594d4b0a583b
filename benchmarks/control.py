"""What one file costs besides its bytes: `python -m benchmarks.control COUNT`.

The daemon's dispatcher, transfer, destination, state folder, log lines and reports, with a Copier that lands everything
at once: no connection, no thread for the attempt, no byte. Prints JSON; processor time is that of the whole process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dcalqr import errors, log
from dcalqr.config import load
from dcalqr.copiers.contract import Watcher
from dcalqr.dcache.door import Door
from dcalqr.dcache.events import EventReader
from dcalqr.dcache.tls import Trust
from dcalqr.dispatcher import Dispatcher
from dcalqr.local.destination import Destination
from dcalqr.local.failures import FailedTasksFile
from dcalqr.local.state import State
from dcalqr.metrics.counters import Counters
from dcalqr.metrics.reports import JsonLinesSink, Reports
from dcalqr.model import Delivery, Origin, StorageEvent
from dcalqr.orders import CopyOrder, Landed, Phases
from dcalqr.retry import RetryPolicy
from dcalqr.service.assembly import Reporter
from dcalqr.testing import samples
from dcalqr.testing.pki import make_pki
from dcalqr.transfer import Transfer
from tests.support.site import FOLDER, ROOT, settings, write_toml

WINDOW = 1000
# A hundred files a folder, as the files of an exposure come.
FILES_PER_FOLDER = 100


class LandsAtOnce:
    """A Copier without an attempt; it tells the phases that a real one tells."""

    async def copy(self, order: CopyOrder, watcher: Watcher) -> Landed:
        for phase in ("door_wait", "connect", "first_byte", "body", "sync", "publish"):
            watcher.phase(phase)
        watcher.received(order.size_bytes or 0)
        await asyncio.sleep(0)
        return Landed(size_bytes=order.size_bytes or 0, adler32=1, verified=True, pool="pool:1", phases=Phases())

    async def aclose(self, grace: float) -> None:
        return


def _no_trust() -> Trust:
    raise errors.CredentialRefused(why="nobody should ask the door")


async def control(count: int, folder: Path) -> dict[str, Any]:
    """Settle so many files, a window at a time."""
    (folder / "download").mkdir()
    path = folder / "dcalqr.toml"
    write_toml(path, settings(folder, "https://localhost:1", make_pki(folder / "pki")))
    config = load(path)
    threads, rows_threads = ThreadPoolExecutor(8), ThreadPoolExecutor(2)
    state, counters = State(str(config.local.statefolder)), Counters()
    state.open()
    rows = FailedTasksFile(str(config.local.failedtasksfile), rows_threads)
    await rows.open()
    destination = Destination(str(config.local.downloadfolder), minfree_percent=1, requiremount=False, state=state)
    door = Door(config.dcache.url, _no_trust)
    reports = Reports([JsonLinesSink(folder / "reports.jsonl")], lambda *_: None)
    task = Transfer(config, door, LandsAtOnce(), destination, state, threads, "bench")
    dispatcher = Dispatcher(
        task=task,
        policy=RetryPolicy(1.0, 10),
        rows=rows,
        counters=counters,
        report=Reporter(reports, counters, task.name, "bench"),
        delay_seconds=0.0,
        window=WINDOW,
    )
    read = EventReader(ROOT + FOLDER).read
    values = [_upload(number) for number in range(count)]
    cpu, wall = time.process_time(), time.perf_counter()
    for start in range(0, count, WINDOW):
        for number, value in enumerate(values[start : start + WINDOW], start):
            event = read(value)
            assert isinstance(event, StorageEvent)
            dispatcher.submit(Delivery(event, Origin("billing", 0, number), value, lambda _: None))
        await dispatcher.runs.ended()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert counters.settled == {"landed": count}, counters.settled
    await dispatcher.cancel()
    await reports.aclose()
    await door.aclose()
    await rows.close()
    state.close()
    return {"files": count, "cpu_microseconds_per_file": cpu / count * 1e6, "files_per_wall_second": count / wall}


def _upload(number: int) -> bytes:
    path = f"{ROOT}{FOLDER}/{number // FILES_PER_FOLDER:05d}/file_{number:08d}.fits"
    return samples.upload(path, 20_000, f"0000{number:032X}")


if __name__ == "__main__":
    with open(os.devnull, "wb") as nowhere, tempfile.TemporaryDirectory() as made:
        log.configure("info", "json", nowhere)
        print(json.dumps(asyncio.run(control(int(sys.argv[1]), Path(made)))))
