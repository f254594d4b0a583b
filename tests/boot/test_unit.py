"""The units under a real systemd: what the files in systemd/ promise."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.boot.conftest import DOWNLOADS, Service
from tests.boot.machine import Machine
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS

UNITS = ("dcalqr.service", "dcalqr@.service")


def stalled(service: Service, name: str, content: bytes | samples.Content) -> None:
    """Upload a file whose body stalls, and wait until its part is there."""
    service.door.faults.add(Fault("pool", stall_after=1000))
    service.upload(name, content)
    wait_until(lambda: len(service.parts()) == 1, SETTLE_SECONDS, "the part")


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_to_say_about_the_unit(machine: Machine, unit: str) -> None:
    verified = machine.run("systemd-analyze", "verify", unit.replace("@.", "@a."), check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", UNITS)
def test_what_the_service_may_do_beyond_its_work_scores_two_at_most(machine: Machine, unit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", f"/etc/systemd/system/{unit}"]
    assert "Overall exposure level" in machine.run(*command).stdout


# --- start and stop -----------------------------------------------------------------------------------------------


def test_it_starts_copies_and_tells_its_status_in_words(service: Service) -> None:
    service.start()
    assert service.machine.show(service.unit, "ActiveState") == "active"
    service.upload("run/x", b"abc")
    service.wait_settled()
    assert service.landed("run/x") == b"abc"
    service.machine.wait_for(service.unit, "StatusText", "1 landed, 0 failed, 0 open, 0 running, lag 0 (0 unread)")
    status = service.machine.systemctl("status", service.unit).stdout
    assert 'Status: "1 landed, 0 failed, 0 open, 0 running, lag 0 (0 unread)"' in status
    well = service.machine.run("/opt/dcalqr/bin/dcalqr", "status", "--config", "/etc/dcalqr/dcalqr.toml", check=False)
    assert (well.returncode, well.stdout) == (0, "one: 1 landed, 0 failed, 0 open, 0 running, lag 0 (0 unread)\n"), (
        well.stderr
    )


def test_a_stop_lets_the_copy_under_way_finish(service: Service) -> None:
    service.start()
    content = samples.content(300_000, 1)
    stalled(service, "run/x", content)
    service.machine.systemctl("stop", "--no-block", service.unit)
    service.wait_event("DRAIN")
    assert service.machine.show(service.unit, "ActiveState") == "deactivating"
    assert service.landed("run/x") is None
    service.door.calm()
    service.machine.wait_for(service.unit, "ActiveState", "inactive")
    assert service.landed("run/x") == bytes(content)
    assert service.machine.show(service.unit, "Result") == "success"
    assert service.machine.show(service.unit, "ExecMainStatus") == "0"
    assert service.committed_all()
    assert not service.machine.processes(service.unit)


def test_a_drain_may_last_longer_than_the_unit_says(service: Service) -> None:
    service.drop_in("hasty", "[Service]", "TimeoutStopSec=3")
    service.start()
    stalled(service, "run/x", b"a" * 5000)
    service.machine.systemctl("stop", "--no-block", service.unit)
    service.wait_event("DRAIN")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 5, SETTLE_SECONDS, "more time than TimeoutStopSec")
    service.door.calm()
    service.machine.wait_for(service.unit, "ActiveState", "inactive")
    assert service.landed("run/x") == b"a" * 5000
    assert service.machine.show(service.unit, "Result") == "success"


def test_a_restart_leaves_nothing_out_and_nothing_twice(service: Service) -> None:
    service.start()
    service.upload("run/before", b"abc")
    service.wait_settled()
    service.machine.systemctl("restart", service.unit)
    service.upload("run/after", b"def")
    service.wait_settled()
    assert (service.landed("run/before"), service.landed("run/after")) == (b"abc", b"def")
    assert len(service.events("COPY_OVER")) == 2


# --- what must not come back --------------------------------------------------------------------------------------


def ended(service: Service, status: int) -> None:
    service.machine.wait_for(service.unit, "ActiveState", "failed")
    assert service.machine.show(service.unit, "ExecMainStatus") == str(status)
    assert service.machine.show(service.unit, "NRestarts") == "0"


def test_a_wrong_configuration_is_said_and_not_tried_again(service: Service) -> None:
    service.configure(dcache={"maxdownload": 3})
    assert service.machine.systemctl("start", service.unit, check=False).returncode != 0
    ended(service, 78)
    assert service.machine.said(service.unit, "did you mean maxdownloads?")


def test_a_wrong_command_line_is_not_tried_again(service: Service) -> None:
    service.drop_in("wrong", "[Service]", "ExecStart=", "ExecStart=/opt/dcalqr/bin/dcalqr run --konfig x")
    assert service.machine.systemctl("start", service.unit, check=False).returncode != 0
    ended(service, 2)


def test_a_flood_of_unknown_messages_ends_it_for_good(service: Service) -> None:
    bad = b'{"msgType":"transfer","isWrite":"write","cellType":"pool","billingPath":7,"status":'
    service.publish(*[bad] * 1500)
    service.machine.systemctl("start", service.unit, check=False)
    ended(service, 65)
    assert service.machine.said(service.unit, "message format")


# --- what must come back ------------------------------------------------------------------------------------------


def test_a_daemon_that_stands_still_is_ended_and_started_again(service: Service) -> None:
    service.drop_in("watchdog", "[Service]", "WatchdogSec=3")
    service.start()
    service.upload("run/x", b"abc")
    service.wait_settled()
    former = service.main_pid()
    os.kill(former, signal.SIGSTOP)
    service.machine.wait_for(service.unit, "NRestarts", "1")
    assert service.machine.said(service.unit, "Watchdog timeout")
    assert service.machine.said(service.unit, "Fatal Python error: Aborted"), "where it hung is to be seen"
    service.machine.wait_for(service.unit, "ActiveState", "active")
    assert service.main_pid() != former
    service.upload("run/y", b"def")
    service.wait_landed("run/y")


def test_the_watchdog_is_content_with_a_daemon_that_works_and_one_that_waits(service: Service) -> None:
    service.drop_in("watchdog", "[Service]", "WatchdogSec=2")
    service.start()
    stalled(service, "run/x", b"a" * 5000)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 6, SETTLE_SECONDS, "three times the watchdog's time")
    assert service.machine.show(service.unit, "NRestarts") == "0"
    service.door.calm()
    service.wait_landed("run/x")


def test_a_killed_daemon_leaves_no_process_and_comes_back(service: Service) -> None:
    service.start()
    stalled(service, "run/x", b"a" * 5000)
    former = set(service.machine.processes(service.unit))
    assert len(former) == 3
    os.kill(service.main_pid(), signal.SIGKILL)
    service.machine.wait_for(service.unit, "NRestarts", "1")
    assert not former & set(service.machine.processes(service.unit))
    service.door.calm()
    service.wait_landed("run/x")
    wait_until(lambda: not service.parts(), SETTLE_SECONDS, "the part of the killed one to be swept")


def test_a_killed_worker_does_not_end_the_service(service: Service) -> None:
    service.start()
    stalled(service, "run/x", b"a" * 5000)
    former = service.workers()
    for pid in former:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(service.workers() - former) == 2, SETTLE_SECONDS, "two other workers")
    service.door.calm()
    service.wait_landed("run/x")
    assert service.machine.show(service.unit, "NRestarts") == "0"
    assert service.machine.show(service.unit, "ActiveState") == "active"


# --- reload -------------------------------------------------------------------------------------------------------


def test_a_reload_takes_over_what_it_can_and_says_so(service: Service) -> None:
    service.start()
    service.configure(dcache={"maxdownloads": 3, "retrytimes": 9, "stallseconds": 60, "timeout": 60})
    service.machine.systemctl("reload", service.unit)
    service.wait_event("RELOAD")
    (line,) = service.events("RELOAD")
    assert line["DCALQR_APPLIED"] == '["dcache.maxdownloads"]'
    assert line["DCALQR_WAITING_FOR_RESTART"] == '["dcache.retrytimes"]'
    assert service.machine.show(service.unit, "ActiveState") == "active"
    assert service.machine.show(service.unit, "NRestarts") == "0"


def test_a_reload_of_a_broken_file_fails_and_changes_nothing(service: Service) -> None:
    service.start()
    service.configure(dcache={"maxdownloads": 0})
    assert service.machine.systemctl("reload", service.unit, check=False).returncode != 0
    assert service.machine.said(service.unit, "dcache.maxdownloads")
    assert service.machine.show(service.unit, "ActiveState") == "active"
    assert not service.events("RELOAD")
    service.upload("run/x", b"abc")
    service.wait_landed("run/x")


def test_a_hup_with_a_broken_file_shows_in_the_status(service: Service) -> None:
    service.start()
    service.configure(dcache={"maxdownloads": 0})
    service.machine.systemctl("kill", "-s", "HUP", "--kill-who=main", service.unit)

    def says(words: str) -> bool:
        return words in service.machine.show(service.unit, "StatusText")

    wait_until(lambda: says("the last reload was refused"), SETTLE_SECONDS, "the refusal in the status")
    service.configure()
    service.machine.systemctl("reload", service.unit)
    wait_until(lambda: says("reloaded at") and not says("refused"), SETTLE_SECONDS, "the good one in the status")


# --- journal, modes, mounts ---------------------------------------------------------------------------------------


def test_the_journal_can_be_asked_by_the_fields_of_the_log(service: Service) -> None:
    service.start()
    service.upload("run/x", b"abc")
    service.upload("run/y", b"def")
    service.wait_settled()
    (over,) = service.events("COPY_OVER", offset="0")
    assert "run/x" in over["MESSAGE"]
    about = service.machine.journal(service.unit, uuid=over["DCALQR_UUID"])
    assert {line["DCALQR_EVENT"] for line in about} >= {"UPLOAD", "COPY_INIT", "COPY_START", "COPY_RUN", "COPY_OVER"}
    assert {(line["DCALQR_PARTITION"], line["DCALQR_OFFSET"]) for line in about} == {("0", "0")}
    assert {line["SYSLOG_IDENTIFIER"] for line in about} == {"dcalqr"}
    assert {line["PRIORITY"] for line in about} == {"6"}
    assert len(service.events("COPY_OVER", partition="0")) == 2


def test_directories_keep_the_folders_group_under_the_hardening(service: Service) -> None:
    service.start()
    service.upload("a/b/x", b"abc")
    service.wait_settled()
    lsst = int(service.machine.run("getent", "group", "lsst").stdout.split(":")[2])
    dcalqr = int(service.machine.run("id", "-u", "dcalqr").stdout)
    for name, mode in (("a", 0o2755), ("a/b", 0o2755), ("a/b/x", 0o644)):
        found = (service.download / name).stat()
        assert (oct(stat.S_IMODE(found.st_mode)), found.st_uid, found.st_gid) == (oct(mode), dcalqr, lsst)


def test_it_can_write_nowhere_else(service: Service) -> None:
    service.start()
    inside = ["nsenter", "-t", service.machine.show(service.unit, "MainPID"), "-m", "touch"]
    assert service.machine.run(*inside, f"{DOWNLOADS}/x").returncode == 0
    for path in ("/usr/x", "/etc/dcalqr/x", "/root/x", "/opt/dcalqr/x", "/data/x"):
        done = service.machine.run(*inside, path, check=False)
        assert "Read-only file system" in done.stderr, path


def test_it_waits_for_a_file_system_that_comes_late(service: Service) -> None:
    service.configure(local={"requiremount": True})
    service.start()
    service.upload("run/x", b"abc")

    def status() -> str:
        return service.machine.show(service.unit, "StatusText")

    wait_until(lambda: "hold mount" in status(), SETTLE_SECONDS, "the hold")
    assert "no file system is mounted at or above" in status()
    service.machine.run("mount", "-t", "tmpfs", "-o", "mode=2775,size=4m", "tmpfs", DOWNLOADS)
    try:
        service.machine.run("chown", "dcalqr:lsst", DOWNLOADS)
        service.wait_settled()
        assert service.machine.run("cat", f"{DOWNLOADS}/run/x").stdout == "abc"
        service.machine.systemctl("stop", service.unit)
    finally:
        service.machine.run("umount", DOWNLOADS)
    assert service.landed("run/x") is None, "it was to land on the file system, not below it"


def test_it_starts_after_the_mount_that_its_folder_needs(service: Service) -> None:
    mount = "data-incoming.mount"
    service.machine.write(
        f"/etc/systemd/system/{mount}",
        f"[Unit]\nRequires=slow.service\nAfter=slow.service\n[Mount]\nWhat=tmpfs\nWhere={DOWNLOADS}\nType=tmpfs\n",
    )
    service.machine.write("/etc/systemd/system/slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 2\n")
    service.machine.systemctl("daemon-reload")
    try:
        service.start()
        mounted = int(service.machine.show(mount, "ActiveEnterTimestampMonotonic"))
        began = int(service.machine.show(service.unit, "ExecMainStartTimestampMonotonic"))
        assert 0 < mounted <= began
        service.machine.systemctl("stop", service.unit, mount)
    finally:
        for name in (mount, "slow.service"):
            (service.machine.root / "etc/systemd/system" / name).unlink()


# --- several ------------------------------------------------------------------------------------------------------


def test_two_instances_share_the_work_of_a_machine(service: Service) -> None:
    service.unit = "dcalqr@a.service"
    service.drop_in("site", "[Service]", "LoadCredential=kafka-password:/etc/dcalqr/kafka-password",
                    "SupplementaryGroups=lsst")  # fmt: skip
    for name in "ab":
        state = f"/var/lib/dcalqr/{name}"
        local = {"failedtasksfile": f"{state}/failed.csv", "statefolder": state}
        service.configure(name, daemon={"instance": name}, local=local)
    service.machine.systemctl("start", "dcalqr@a.service", "dcalqr@b.service")
    for name in "ab":
        unit = f"dcalqr@{name}.service"

        def has_one(unit: str = unit) -> bool:
            rebalances = service.machine.journal(unit, "REBALANCE")
            return bool(rebalances) and rebalances[-1]["DCALQR_PARTITIONS"] in ("[0]", "[1]")

        wait_until(has_one, SETTLE_SECONDS, f"a partition for {unit}")
    for number in range(8):
        file = service.door.put(f"{FOLDER}/run/{number}", bytes([65 + number]) * 100)
        announced = samples.upload(
            f"{ROOT}{FOLDER}/run/{number}", 100, file.pnfsid, date=samples.java_date(time.time())
        )
        service.kafka.produce(service.topic, [announced], partition=number % 2)
    service.wait_settled()
    assert all(service.landed(f"run/{number}") == bytes([65 + number]) * 100 for number in range(8))
    for name in "ab":
        assert (Path(service.machine.root) / f"var/lib/dcalqr/{name}/failed.csv").exists()
    counts = [len(service.machine.journal(f"dcalqr@{name}.service", "COPY_OVER")) for name in "ab"]
    assert counts == [4, 4]
