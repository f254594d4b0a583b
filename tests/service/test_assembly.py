"""What daemon and replay have in common: reports of settled deliveries, and the end of it all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from dcalqr import errors
from dcalqr.config import load
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.state import State
from dcalqr.metrics.counters import Counters
from dcalqr.metrics.reports import Reports, TransferReport
from dcalqr.model import Delivery, Origin, Settled, StorageEvent
from dcalqr.plugins import TaskContext
from dcalqr.service.assembly import Reporter, assembled
from dcalqr.testing.door import Fault
from tests.support.site import FOLDER, ROOT, Site


class Kept:
    """A sink that keeps."""

    name = "kept"
    gather_seconds = 0.0

    def __init__(self) -> None:
        self.reports: list[TransferReport] = []

    async def write(self, reports: Sequence[TransferReport]) -> None:
        self.reports += reports

    async def aclose(self) -> None:
        """Nothing to close."""


class Rows:
    def __init__(self) -> None:
        self.rows: list[FailedTask] = []

    async def append(self, row: FailedTask) -> None:
        self.rows.append(row)


def delivery(path: str = f"{ROOT}{FOLDER}/x") -> Delivery:
    event = StorageEvent(
        kind="transfer",
        cell_type="pool",
        cell="pool1",
        path=path,
        transfer_path=path,
        pnfsid="0000" + "A" * 32,
        size_bytes=3,
        date=1_700_000_000.0,
        code=0,
        write=True,
        p2p=False,
    )
    return Delivery(event, Origin("billing", 2, 17), b"{}", lambda how: None)


def context(**facts: Any) -> TaskContext:
    made = TaskContext(
        identity="uuid",
        origin=Origin("billing", 2, 17),
        try_number=4,
        looks=0,
        versions=frozenset(),
        removed=False,
        memory={},
        say=lambda *_, **__: None,
    )
    made.report(**facts)
    return made


async def reported(how: Settled, told: TaskContext | None, error: errors.TryError | None) -> TransferReport:
    sink = Kept()
    reports = Reports([sink], lambda name, error: None)
    Reporter(reports, Counters(), "transfer", "one")(delivery(), how, told, error, 1.5)
    await reports.aclose()
    [made] = sink.reports
    return made


# --- one report ---------------------------------------------------------------------------------------------------


async def test_a_report_says_where_from_how_and_how_long() -> None:
    made = await reported(Settled.LANDED, context(size_bytes=3, pool="p", body_seconds=0.5, verified=True), None)
    assert (made.outcome, made.attempts, made.pool, made.body_seconds) == ("landed", 4, "p", 0.5)
    assert (made.topic, made.partition, made.offset, made.instance, made.task) == ("billing", 2, 17, "one", "transfer")
    assert made.total_seconds == 1.5
    assert abs(made.received_at - (time.time() - 1.5)) < 60
    assert made.extra == {}


async def test_a_failure_bears_its_class_message_and_status() -> None:
    made = await reported(Settled.FAILED, context(), errors.ForbiddenFile(http_status=403))
    assert (made.outcome, made.error_class, made.http_status) == ("failed", "forbidden", 403)
    assert "403" in made.message
    assert made.size_bytes == 3  # the event's


async def test_a_delivery_that_needed_no_try_is_reported_too() -> None:
    made = await reported(Settled.ALREADY, None, None)
    assert (made.outcome, made.attempts) == ("already", 0)


async def test_what_a_task_reports_of_its_own_goes_to_extra_and_never_replaces_ours() -> None:
    made = await reported(Settled.LANDED, context(frames=189, path="/forged", outcome="failed", extra="x"), None)
    assert made.path == f"{ROOT}{FOLDER}/x"
    assert made.outcome == "landed"
    assert made.extra == {"frames": 189, "path": "/forged", "outcome": "failed", "extra": "x"}


# --- all of them --------------------------------------------------------------------------------------------------


def test_every_settled_matched_delivery_has_one_report(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/forbidden", status=403))
    site.door.faults.add(Fault("pool", path=f"{FOLDER}/twice", cut_after=10, times=1))
    with site.daemon(site.write_config(dcache={"visibleseconds": 1})):
        file = site.upload("x", b"a" * 100_000)
        site.upload("forbidden", b"f")
        site.upload("twice", b"t" * 1000)
        site.upload("gone", b"g", visible=False)
        site.publish(b"{}", b'{"msgType": "request"}')  # not ours
        site.wait_settled()
        site.announce("x", file)
        site.wait_settled()
    found = {(each["path"].rpartition("/")[2], each["outcome"]): each for each in site.reports()}
    assert sorted(found) == [
        ("forbidden", "failed"),
        ("gone", "gone"),
        ("twice", "landed"),
        ("x", "already"),
        ("x", "landed"),
    ]
    assert len(site.reports()) == 5
    landed = found["x", "landed"]
    assert (landed["attempts"], landed["size_bytes"], landed["verified"]) == (1, 100_000, True)
    assert landed["pool"] in [f"localhost:{port}" for port in site.door.pool_ports]
    phases = [landed[f"{name}_seconds"] for name in ("door_wait", "connect", "first_byte", "body", "sync", "publish")]
    assert all(seconds >= 0 for seconds in phases)
    assert sum(phases) <= landed["total_seconds"]
    assert landed["rate_mbit_per_s"] == pytest.approx(100_000 * 8 / 1e6 / landed["body_seconds"], rel=0.02)
    assert landed["adler32"] == f"{file.adler32:08x}"
    assert found["twice", "landed"]["attempts"] == 2
    assert found["forbidden", "failed"]["error_class"] == "forbidden"
    assert {each["instance"] for each in site.reports()} == {"one"}
    ends = {(each["partition"], each["offset"]) for each in site.reports()}
    assert len(ends) == 5


def test_a_sink_that_fails_stops_nothing_and_is_told_of_once(site: Site) -> None:
    config = site.write_config(reports={"file": str(site.folder / "missing" / "reports.jsonl")})
    with site.daemon(config) as daemon:
        for number in range(20):
            site.upload(f"x{number}", b"abc")
        site.wait_settled()
        line = daemon.wait_for("SINK")
        assert line["sink"] == "file"
        assert "missing" in line["message"]
    assert len(list(site.download.iterdir())) == 20
    assert len(daemon.lines("SINK")) == 1
    status = json.loads((site.folder / "failed.state" / "status.json").read_text())
    assert status["stopped"] is True


# --- the end ------------------------------------------------------------------------------------------------------


async def test_what_is_built_is_taken_down_and_leaves_nothing(site: Site) -> None:
    config = load(site.write_config())
    state, rows = State(str(site.folder / "state")), Rows()
    state.open()
    settled: list[Settled] = []
    with ThreadPoolExecutor(2) as threads:
        site.door.faults.add(Fault("pool", stall_after=10))
        async with assembled(config, instance="one", state=state, rows=rows, rows_threads=threads) as assembly:
            content = b"a" * 5000
            file = site.door.put(f"{FOLDER}/x", content)
            made = delivery()
            event = msgspec.structs.replace(made.event, pnfsid=file.pnfsid, size_bytes=5000)
            assembly.dispatcher.submit(Delivery(event, made.origin, b"", settled.append))
            running = assembly.transfer.running
            async with asyncio.timeout(20):
                while [each.phase for each in running.values()] != ["body"]:  # noqa: ASYNC110 - it knows no event
                    await asyncio.sleep(0.01)
    state.close()
    assert not site.parts()
    assert settled == []  # told to stop: it comes again
    assert rows.rows == []
