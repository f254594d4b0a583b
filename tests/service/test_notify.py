"""The protocol of sd_notify, and what the daemon says over it; the test is systemd."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcalqr.config import load
from dcalqr.daemon import Daemon
from dcalqr.kafka.consumer import Consumer
from dcalqr.kafka.membership import SILENCE_SECONDS
from dcalqr.service.notify import Notifier
from dcalqr.testing.door import Fault
from tests.support.process import wait_until
from tests.support.site import SETTLE_SECONDS, Site


class Manager:
    """The receiving end: each datagram, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        while True:
            try:
                self.heard.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return self.heard

    def wait_for(self, condition: Callable[[str], bool], what: str, count: int = 1) -> None:
        wait_until(lambda: sum(map(condition, self.listen())) >= count, SETTLE_SECONDS, what)

    def place(self, words: str) -> int:
        return next(number for number, heard in enumerate(self.listen()) if words in heard)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's name has at most 107 bytes
        made = Manager(str(Path(folder) / "notify"))
        yield made
        made.close()


# --- the protocol -------------------------------------------------------------------------------------------------


def test_each_call_is_one_datagram(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    notifier = Notifier()
    notifier.ready()
    notifier.status("two\nREADY=1\nlines")
    notifier.alive()
    notifier.stopping()
    assert manager.listen() == ["READY=1", "STATUS=two READY=1 lines", "WATCHDOG=1", "STOPPING=1"]
    notifier.reloading()
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.listen()[-1])
    assert abs(int(manager.heard[-1].rpartition("=")[2]) / 1e6 - time.clock_gettime(time.CLOCK_MONOTONIC)) < 60


def test_an_abstract_socket_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager(f"@dcalqr-test-{os.getpid()}-{time.monotonic_ns()}")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    Notifier().ready()
    assert manager.listen() == ["READY=1"]
    manager.close()


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here", "x" * 300])
def test_without_a_listener_nothing_happens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    notifier.ready()
    notifier.status("all is well")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("30000000", "", 30.0), ("", "", None), ("soon", "", None), ("30000000", "1", None), ("30000000", "own", 30.0)],
)
def test_the_watchdogs_time_is_read_if_it_is_meant_for_us(
    usec: str, pid: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert Notifier().watchdog_seconds == seconds


# --- the daemon ---------------------------------------------------------------------------------------------------


def test_the_daemon_tells_systemd_how_it_is_from_start_to_stop(site: Site, manager: Manager) -> None:
    with site.daemon(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="400000") as daemon:
        manager.wait_for(lambda heard: heard == "READY=1", "READY")
        assert daemon.lines("START")
        assert (site.folder / "failed.csv").exists()  # its files are made and locked before it is ready
        site.upload("x", b"abc")
        manager.wait_for(lambda heard: "1 landed, 0 failed, 0 open" in heard, "the STATUS of the file")
        manager.wait_for(lambda heard: heard == "WATCHDOG=1", "WATCHDOG", count=5)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert manager.place("READY=1") < manager.place("STOPPING=1")
    assert manager.listen().count("READY=1") == 1


def test_the_watchdog_is_fed_while_a_copy_drains(site: Site, manager: Manager) -> None:
    site.door.faults.add(Fault("pool", stall_after=10))
    config = site.write_config(dcache={"stallseconds": 50, "timeout": 50}, daemon={"drainseconds": 50})
    with site.daemon(config, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="400000") as daemon:
        site.upload("x", b"a" * 5000)
        daemon.wait_for("COPY_RUN")
        daemon.signal(signal.SIGTERM)
        manager.wait_for(lambda heard: heard == "STOPPING=1", "STOPPING")
        after = manager.place("STOPPING=1")
        wait_until(lambda: manager.listen()[after:].count("WATCHDOG=1") >= 3, SETTLE_SECONDS, "WATCHDOG in the drain")
        site.door.calm()
        assert daemon.wait() == 0
    assert site.landed("x") == b"a" * 5000


async def test_the_watchdog_is_not_fed_for_a_consumer_that_stands_still(
    site: Site, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    path = site.write_config()
    config = load(path)
    daemon = Daemon(config, path)
    unused: Any = None  # it is not run
    consumer = Consumer(config.kafka, unused, unused)
    consumer.turned_at -= 2 * SILENCE_SECONDS
    feeding = asyncio.create_task(daemon._feed_watchdog(consumer))
    try:
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not manager.listen()
        consumer.turned_at = time.monotonic()
        async with asyncio.timeout(SETTLE_SECONDS):
            while not manager.listen():  # noqa: ASYNC110 - it comes from a socket
                await asyncio.sleep(0.01)
        assert set(manager.heard) == {"WATCHDOG=1"}
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})


def test_the_daemon_asks_for_the_time_that_its_drain_may_take(site: Site, manager: Manager) -> None:
    with site.daemon(site.write_config(daemon={"drainseconds": 500}), NOTIFY_SOCKET=manager.address) as daemon:
        manager.wait_for(lambda heard: heard == "READY=1", "READY")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert manager.place("STOPPING=1") < manager.place("EXTEND_TIMEOUT_USEC=545000000")


def test_a_daemon_that_cannot_start_is_never_ready(site: Site, manager: Manager) -> None:
    (site.folder / "failed.csv").write_text("not ours\n")
    with site.daemon(NOTIFY_SOCKET=manager.address) as daemon:
        assert daemon.wait() == 73
    assert "READY=1" not in manager.listen()


# --- HUP ----------------------------------------------------------------------------------------------------------


def test_hup_takes_over_what_may_change_and_names_what_waits(site: Site, manager: Manager) -> None:
    site.door.faults.add(Fault("pool", stall_after=10))
    slow = {"stallseconds": 50, "timeout": 50}
    config = site.write_config(dcache={**slow, "maxdownloads": 1}, log={"level": "info"})
    with site.daemon(config, NOTIFY_SOCKET=manager.address) as daemon:
        for number in range(4):
            site.upload(f"x{number}", b"a" * 5000)
        daemon.wait_for("CURRENTLY_RUNNING", 4)
        assert len(site.parts()) <= 1
        site.write_config(dcache={**slow, "maxdownloads": 3, "retrytimes": 9}, log={"level": "debug"})
        daemon.signal(signal.SIGHUP)
        line = daemon.wait_for("RELOAD", ok=True)
        assert line["applied"] == ["dcache.maxdownloads", "log.level"]
        assert line["waiting_for_restart"] == ["dcache.retrytimes"]
        wait_until(lambda: len(site.parts()) == 3, SETTLE_SECONDS, "three copies at a time")
        reloading = manager.place("RELOADING=1")
        manager.wait_for(lambda heard: heard == "READY=1", "READY again", count=2)
        assert "READY=1" in manager.listen()[reloading:]
        site.door.calm()
        site.wait_settled()
        assert site.door.running_max == 3


def test_hup_with_a_broken_file_changes_nothing(site: Site, manager: Manager) -> None:
    with site.daemon(NOTIFY_SOCKET=manager.address) as daemon:
        manager.wait_for(lambda heard: heard == "READY=1", "READY")
        (site.folder / "dcalqr.toml").write_text("[kafka\n")
        daemon.signal(signal.SIGHUP)
        line = daemon.wait_for("RELOAD", ok=False)
        assert "line 1, column 7" in line["message"]
        manager.wait_for(lambda heard: heard == "READY=1", "READY again", count=2)
        site.upload("x", b"abc")
        site.wait_settled()
        assert site.landed("x") == b"abc"
