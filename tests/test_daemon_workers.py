"""The daemon and its worker processes: what happens to one costs the other nothing."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.disk import FaultyDisk
from tests.support.process import wait_until
from tests.support.site import FOLDER, SETTLE_SECONDS, DaemonProcess, Site

LONG = {"stallseconds": 60, "timeout": 60}


def workers_of(daemon: DaemonProcess) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(daemon.process.pid).children(recursive=True)
    return found


def gone(process: psutil.Process) -> bool:
    try:
        status = process.status()
    except psutil.NoSuchProcess:
        return True
    return bool(status == psutil.STATUS_ZOMBIE)  # nobody reaps orphans in some containers


def stalled(site: Site, count: int) -> None:
    """Upload files whose bodies stall, and wait until all their parts are there."""
    site.door.faults.add(Fault("pool", stall_after=300_000))
    for number in range(count):
        site.upload(f"run/{number}", samples.content(500_000, number))
    wait_until(lambda: len(site.parts()) == count, SETTLE_SECONDS, "the parts")


def test_a_killed_worker_costs_no_row_and_no_budget(site: Site) -> None:
    with site.daemon(site.write_config(dcache={**LONG, "retrytimes": 0})) as daemon:
        stalled(site, 4)
        killed = workers_of(daemon)
        assert len(killed) == 2
        for process in killed:
            process.kill()
        site.door.calm()
        site.wait_settled()
        assert {line["pid"] for line in daemon.lines("WORKER")} == {process.pid for process in killed}
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert [site.landed(f"run/{number}") for number in range(4)] == [
        bytes(samples.content(500_000, number)) for number in range(4)
    ]
    assert not site.rows()
    assert not site.parts()


def test_a_killed_daemon_leaves_no_process_and_the_next_one_no_part(site: Site) -> None:
    config = site.write_config(dcache=LONG)
    with site.daemon(config) as daemon:
        stalled(site, 4)
        workers = workers_of(daemon)
        assert len(workers) == 2
        workers[0].suspend()
        daemon.process.kill()
        daemon.wait()
        wait_until(lambda: all(map(gone, workers)), SETTLE_SECONDS, "the workers' end, of the suspended one too")
    site.door.calm()
    with site.daemon(config):
        site.wait_settled()
        wait_until(lambda: not site.parts(), SETTLE_SECONDS, "the sweep")
    assert len([path for path in site.download.rglob("*") if path.is_file()]) == 4


def test_what_daemon_and_workers_that_are_killed_together_leave_is_swept_by_the_next_run(site: Site) -> None:
    config = site.write_config(dcache=LONG)
    with site.daemon(config) as daemon:
        stalled(site, 4)
        workers = workers_of(daemon)
        daemon.signal(signal.SIGSTOP)  # so that it replaces and removes nothing
        for process in (*workers, daemon.process):
            process.kill()
        daemon.wait()
    assert len(site.parts()) == 4
    site.door.calm()
    with site.daemon(config) as again:
        again.wait_for("SWEEP", parts=4)
        site.wait_settled()
    assert not site.parts()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    with FaultyDisk(tmp_path / "disk") as disk:
        yield disk


def status(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site.folder / "failed.state" / "status.json").read_text())
    return found


def test_a_destination_that_hangs_stops_neither_kafka_nor_heads_nor_status_nor_the_drain(
    site: Site, disk: FaultyDisk
) -> None:
    config = site.write_config(
        local={"downloadfolder": str(disk.path)}, dcache={**LONG, "visibleseconds": 60}, daemon={"drainseconds": 1}
    )
    landed = disk.content
    with site.daemon(config) as daemon, contextlib.ExitStack() as stack:
        stack.callback(disk.calm)  # or nothing would ever end if this fails
        site.upload("before", b"x")
        wait_until((landed / "before").exists, SETTLE_SECONDS, "the disk is well")
        disk.hang(fsync="*/slow/*")
        for number in range(2):
            site.upload(f"slow/{number}", b"slow")
        wait_until(lambda: status_phases(site).count("sync") == 2, SETTLE_SECONDS, "both hang")
        for number in range(20):
            site.upload(f"quick/{number}", b"quick")
        wait_until(lambda: len(list(landed.glob("quick/[0-9]*"))) >= 20, SETTLE_SECONDS, "the others go on")
        wait_until(lambda: not list(landed.glob("quick/*.part")), SETTLE_SECONDS, "and are published")
        staged = site.upload("staged", b"staged", staged=True, visible=False)
        wait_until(lambda: asked(site, "HEAD", "staged") >= 2, SETTLE_SECONDS, "HEADs")
        disk.hang(_all="*")
        site.publish(*[samples.noise(site.random, "/pnfs", FOLDER) for _ in range(50)])
        site.upload("late", b"late")
        wait_until(lambda: status(site)["matched"] == 1 + 2 + 20 + 1 + 1, SETTLE_SECONDS, "Kafka is polled")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("STOPPED")
        wait_until(lambda: status(site).get("stopped") is True, SETTLE_SECONDS, "its last word")
        disk.calm()  # whoever is inside the kernel cannot end before
        assert daemon.wait() == 0
    site.door.commit(staged.path)
    with site.daemon(config):
        site.wait_settled()
        wait_until(lambda: not list(landed.rglob("*.part")), SETTLE_SECONDS, "the sweep")
    names = {str(path.relative_to(landed)) for path in landed.rglob("*") if path.is_file()}
    assert names == {"before", "late", "staged", "slow/0", "slow/1", *(f"quick/{number}" for number in range(20))}


def status_phases(site: Site) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [each["phase"] for each in status(site)["running"]]
    return []


def asked(site: Site, method: str, name: str) -> int:
    return sum(request.method == method and request.path == f"{FOLDER}/{name}" for request in site.door.requests)
