"""What a working daemon shows by HTTP, against what was sent and what is on the disk."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import pytest
import structlog

from dcalqr.kafka.consumer import Consumer
from dcalqr.service.board import LATE_SECONDS, Board
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.ports import free_ports
from tests.support.process import wait_until
from tests.support.rig import Rig
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS, Site
from tests.support.snapshots import snapshot
from tests.support.web import Shown

FILES = 25


@pytest.fixture
def shown(site: Site) -> Shown:
    """The pages of the site's daemon, once it runs."""
    [port] = free_ports(1)
    site.settings["prometheus"] = {"port": port}
    return Shown(port)


def shape(value: Any) -> Any:
    """The keys of a snapshot at all depths, without those that data decide."""
    if not isinstance(value, dict):
        return None
    free = {"partitions", "lag_records", "halted", "settled", "failed", "retries", "holds_begun", "lost", "queued"}
    return {key: None if key in free else shape(inner) for key, inner in value.items()}


def test_a_scrape_counts_what_was_sent_and_what_is_on_the_disk(site: Site, shown: Shown) -> None:
    rng = random.Random(3)
    sizes = [rng.randrange(1, 200_000) for _ in range(FILES)]
    site.door.faults.add(Fault("pool", path="*/file_3", status=503, times=2))
    site.door.faults.add(Fault("door", path="*/refused", status=403))
    with site.daemon() as daemon:
        site.publish(*[samples.noise(rng, ROOT, FOLDER) for _ in range(300)])
        files = [site.upload(f"file_{n}", bytes(samples.content(length, n))) for n, length in enumerate(sizes)]
        site.announce("file_0", files[0])
        site.upload("refused", b"x")
        site.publish(b"{", samples.upload(f"{ROOT}{FOLDER}/../x", 10, "A" * 36))
        site.wait_settled()
        ends = {str(number): end for number, end in site.kafka.end_offsets(site.topic).items()}
        found = wait_scrape(shown, ends)
        assert found["transfers_total", "landed"] == FILES
        assert found["transfers_total", "already"] == 1
        assert found["transfers_total", "failed"] == found["failed_rows_total", "forbidden"] == len(site.rows()) == 1
        assert found["transfer_bytes_total",] == sum(sizes)
        assert sum(path.stat().st_size for path in site.download.rglob("*") if path.is_file()) == sum(sizes)
        assert found["events_total", "match", ""] == FILES + 2
        assert found["events_total", "unreadable", "traversal"] == found["security_rejections_total", "traversal"] == 1
        decided = [value for (name, *_), value in found.items() if name == "events_total"]
        assert sum(decided) == sum(ends.values())
        assert found["transfer_retries_total", "ServerError"] == 2
        reports = [each for each in site.reports() if each["outcome"] == "landed"]
        assert found["transfer_duration_seconds_count",] == len(reports) == FILES
        body = sum(each["body_seconds"] for each in reports)
        assert found["transfer_phase_seconds_total", "body"] == pytest.approx(body, abs=1e-3)
        assert {number: found["position_offset", number] for number in ends} == ends
        assert sum(found["lag_records", number] + found["pending_records", number] for number in ends) == 0
        assert found["build_info", *sorted_versions(daemon.lines("START")[0])] == 1
        assert found["transfers_running",] == found["transfers_waiting",] == found["hold_active", "credential"] == 0
        assert found["credential_expiry_timestamp_seconds", "proxy"] > 0


def wait_scrape(shown: Shown, ends: dict[str, int]) -> dict[tuple[str, ...], float]:
    """Scrape once all is committed: what a scrape says may be a second old."""
    found: dict[tuple[str, ...], float] = {}

    def committed() -> bool:
        found.update(shown.scrape())
        return all(found.get(("committed_offset", number), 0) == end for number, end in ends.items())

    wait_until(committed, SETTLE_SECONDS, "a scrape after the last commit")
    return found


def sorted_versions(start: dict[str, Any]) -> tuple[str, ...]:
    return version("aiokafka"), start["instance"], python_version(), start["version"]


def test_the_snapshot_of_a_daemon_is_as_the_other_tests_think(site: Site, shown: Shown) -> None:
    with site.daemon():
        site.upload("x", b"abc")
        site.wait_settled()
        wait_until(lambda: shown.answers("/readyz", 200), SETTLE_SECONDS, "the instance to be ready")
        status = site.folder / "failed.state" / "status.json"
        wait_until(lambda: json.loads(status.read_text())["matched"] == 1, SETTLE_SECONDS, "a status with the file")
        found = json.loads(status.read_text())
    assert shape(found) == shape(snapshot())
    [each, *_] = found["kafka"]["partitions"].values()
    assert each.keys() == snapshot()["kafka"]["partitions"]["0"].keys()


def test_health_and_readiness_tell_a_daemon_that_waits_from_one_that_is_dead(site: Site, shown: Shown) -> None:
    site.door.faults.add(Fault("door", status=401))
    with site.daemon() as daemon:
        wait_until(lambda: shown.answers("/healthz", 200, "ok"), SETTLE_SECONDS, "the page /healthz")
        wait_until(lambda: shown.answers("/readyz", 200, "ok"), SETTLE_SECONDS, "the instance to be ready")
        site.upload("x", b"abc")
        daemon.wait_for("HOLD")
        wait_until(lambda: shown.answers("/readyz", 503, "hold credential"), SETTLE_SECONDS, "the hold to show")
        assert shown.answers("/healthz", 200)  # a restart would cure nothing
        assert shown.scrape()["hold_active", "credential"] == 1
        assert "There is no proxy certificate that the door accepts." in shown.get("/").text
        site.door.calm()
        daemon.wait_for("RELEASE")
        wait_until(lambda: shown.answers("/readyz", 200), SETTLE_SECONDS, "the instance to be ready again")
        assert shown.scrape()["holds_total", "credential"] == 1


def test_who_has_no_broker_lives_and_is_not_ready(site: Site, shown: Shown) -> None:
    [port] = free_ports(1)
    with site.daemon(site.write_config(kafka={"servers": [f"127.0.0.1:{port}"]})):
        wait_until(lambda: shown.answers("/healthz", 200), SETTLE_SECONDS, "the page /healthz")
        assert shown.answers("/readyz", 503, "Kafka: ")
        assert shown.scrape()["kafka_connected",] == 0
        assert "no partition is assigned" in shown.get("/").text


def test_who_drains_shows_its_last_copies_and_is_not_ready(site: Site, shown: Shown) -> None:
    site.door.faults.add(Fault("pool", stall_after=1000))
    with site.daemon(site.write_config(dcache={"stallseconds": 50, "timeout": 50})) as daemon:
        site.upload("slow & <odd>", b"x" * 100_000)
        daemon.wait_for("COPY_RUN")
        wait_until(lambda: shown.scrape()["transfers_running",] == 1, SETTLE_SECONDS, "the copy to show")
        assert "<b>slow &amp; &lt;odd&gt;</b>" in shown.get("/").text
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: shown.answers("/readyz", 503, "it is draining"), SETTLE_SECONDS, "the drain to show")
        assert shown.answers("/healthz", 200)
        site.door.calm()
        assert daemon.wait() == 0
    assert site.landed("slow & <odd>") == b"x" * 100_000


def test_a_failure_is_on_the_page_with_its_reason(site: Site, shown: Shown) -> None:
    site.door.faults.add(Fault("door", path="*/<img src=x>", status=403))
    with site.daemon():
        site.upload("<img src=x>", b"x")
        site.wait_settled()
        wait_until(lambda: shown.answers("/", 200, "Last failures"), SETTLE_SECONDS, "the failure to show")
        page = shown.get("/").text
    assert "&lt;img src=x&gt;" in page
    assert "<img" not in page
    assert "the door refuses this file (HTTP 403)" in page
    assert f"dcalqr replay --config {site.folder / 'dcalqr.toml'}" in page


def test_a_broken_reload_shows_until_a_good_one(site: Site, shown: Shown) -> None:
    config = site.write_config()
    with site.daemon(config) as daemon:
        daemon.wait_for("CONNECTED")
        good = config.read_text()
        config.write_text("broken")
        daemon.reload()
        wait_until(lambda: not shown.scrape()["config_last_reload_successful",], SETTLE_SECONDS, "the refusal to show")
        config.write_text(good)
        daemon.reload()
        wait_until(lambda: bool(shown.scrape()["config_last_reload_successful",]), SETTLE_SECONDS, "the cure to show")


def test_a_port_that_is_taken_is_said_and_stops_no_copy(site: Site, shown: Shown) -> None:
    with socket.create_server(("127.0.0.1", shown.port)), site.daemon() as daemon:
        site.upload("x", b"abc")
        site.wait_settled()
        said = daemon.wait_for("WEB")
        assert "in use" in said["message"]
    assert site.landed("x") == b"abc"


def test_only_loopback_is_served_unless_an_address_says_otherwise(site: Site, shown: Shown) -> None:
    with site.daemon():
        wait_until(lambda: shown.answers("/healthz", 200), SETTLE_SECONDS, "the page /healthz")
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    local = [line.split()[1] for line in listening.splitlines() if line.split()[1].endswith(f":{shown.port:04X}")]
    assert set(local) == {f"0100007F:{shown.port:04X}"}


def test_prometheus_client_is_loaded_only_where_a_port_is_configured() -> None:
    code = "import dcalqr.daemon, sys; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- in the test's own process ------------------------------------------------------------------------------------


@pytest.fixture
async def board(rig: Rig) -> AsyncIterator[Board]:
    """The board of an instance whose consumer never started."""
    [port] = free_ports(1)
    async with rig.running(prometheus={"port": port}) as assembly:
        consumer = Consumer(assembly.config.kafka, Receives(), assembly.state)
        yield Board(assembly, consumer, Path("/etc/x.toml"), 0.0, lambda: False)


class Receives:
    """Takes no records."""

    async def receive(self, records: object, tracker: object) -> None:
        raise NotImplementedError

    def is_full(self) -> bool:
        return False

    def has_room(self) -> bool:
        return True


async def test_a_snapshot_is_taken_once_a_second_however_often_somebody_asks(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert board.snapshot() is board.snapshot()
    monkeypatch.setattr("dcalqr.service.board.SNAPSHOT_SECONDS", 0.0)
    assert board.snapshot() is not board.snapshot()


async def test_health_ends_when_the_board_or_the_consumer_no_longer_turns(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert board.health().status == 200
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LATE_SECONDS + 1)
    assert (board.health().status, b"event loop" in board.health().body) == (503, True)
    monkeypatch.setattr(board, "_turned_at", now + 10_000)
    monkeypatch.setattr(time, "monotonic", lambda: now + 10_000)
    assert (board.health().status, b"consumer" in board.health().body) == (503, True)


async def test_a_port_is_taken_as_soon_as_it_is_free(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcalqr.service.board.PORT_SECONDS", 0.05)
    port = board.snapshot() and board._assembly.config.prometheus.port
    assert port
    shown = Shown(port)
    with socket.create_server(("127.0.0.1", port)):
        running = asyncio.create_task(board.run())
        await asyncio.sleep(0.2)
    async with asyncio.timeout(SETTLE_SECONDS):
        while not await asyncio.to_thread(shown.answers, "/healthz", 200):  # noqa: ASYNC110 - another's answer
            await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_page_that_cannot_be_made_is_said_once_a_minute(board: Board) -> None:
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            board._page_failed(ValueError("no such key"))
    assert [str(line["exc_info"]) for line in lines] == ["no such key"]
