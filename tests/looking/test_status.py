"""`dcalqr status`, read from what a daemon writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dcalqr import errors
from dcalqr.looking import status
from dcalqr.testing.door import Fault
from tests.support.process import wait_until
from tests.support.site import FOLDER, SETTLE_SECONDS, Site
from tests.test_check import nobody

MIB = 1024 * 1024


def run_status(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcalqr", "status", "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=SETTLE_SECONDS,
        check=False,
    )


def written(**changes: Any) -> dict[str, Any]:
    """What an instance that is well writes."""
    return {
        "version": "0",
        "instance": "one",
        "time": time.time(),
        "started_at": time.time() - 60,
        "draining": False,
        "kafka": {
            "topic": "billing",
            "trouble": "",
            "partitions": {"0": {"unread": 2}, "1": {"unread": 3}, "2": {"unread": None}},
            "lag_records": {"0": 3, "1": 4},
            "halted": {},
        },
        "holds": [],
        "open": 2,
        "slots": {"limit": 10, "taken": 1},
        "stuck_threads": 0,
        "unwritten": 0,
        "settled": {"landed": 5, "failed": 1},
        "credential_expires_at": time.time() + 3600,
        **changes,
    }


def write(folder: Path, found: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "status.json").write_text(json.dumps(found))
    return str(folder)


# Parameters are made when the tests are collected, which may be half an hour before.
JUST_NOW = time.time() + 86400


# --- pieces -------------------------------------------------------------------------------------------------------


def test_a_fresh_status_without_complaints_is_well(tmp_path: Path) -> None:
    found = status.read(write(tmp_path, written()), "one")
    assert status.complaints(found) == []
    assert status.in_words(found) == "5 landed, 1 failed, 2 open, 1 running, lag 7 (5 unread)"


@pytest.mark.parametrize(
    ("partitions", "words"),
    [({}, "1 running, no partition assigned"), ({"0": {"unread": None}}, "1 running, lag not known yet")],
)
def test_a_lag_that_nobody_knows_is_not_said_to_be_nothing(
    tmp_path: Path, partitions: dict[str, Any], words: str
) -> None:
    kafka = {**written()["kafka"], "partitions": partitions, "lag_records": {}}
    assert status.in_numbers(status.read(write(tmp_path, written(kafka=kafka)), "one")).endswith(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kafka": {**written()["kafka"], "trouble": "no broker"}}, "Kafka: no broker"),
        ({"kafka": {**written()["kafka"], "halted": {"3": "offset lost"}}}, "partition 3 is halted: offset lost"),
        (
            {"holds": [{"domain": "door", "reason": "credential", "message": "expired", "seconds": 61.0}]},
            "hold credential for 61 s: expired",
        ),
        ({"credential_expires_at": None}, "no usable credential: see CREDENTIAL in the log"),
        (
            {"credential_expires_at": None, "credential_trouble": "the proxy /x expired"},
            "no usable credential: the proxy /x expired",
        ),
        (
            {"credential_expires_at": 1_790_000_000.0, "credential_trouble": "the proxy /x cannot be read: empty"},
            "the proxy /x cannot be read: empty; the one loaded before is used on, until 2026-09-21 14:13 UTC at the",
        ),
        (
            {
                "credential_expires_at": None,
                "holds": [{"domain": "door", "reason": "credential", "message": "expired", "seconds": 61.0}],
            },
            "hold credential for 61 s: expired",
        ),
        ({"unwritten": 2}, "2 rows or unreadable records cannot be written"),
        ({"stuck_threads": 2}, "2 threads do not answer"),
        ({"workers": {"outdated": True}}, "dcalqr was upgraded on the disk"),
        (
            {"surroundings": {"room": {"trouble": "/data is not mounted", "seen_at": JUST_NOW}}},
            "/data is not mounted",
        ),
        ({"surroundings": {"room": {"free_bytes": 1, "seen_at": time.time() - 300}}}, "the download folder's file"),
    ],
)
def test_what_is_not_well_is_said_first(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    found = status.read(write(tmp_path, written(**changes)), "one")
    assert len(status.complaints(found)) == 1
    assert status.in_words(found).startswith(words)


def test_a_drain_is_said(tmp_path: Path) -> None:
    assert status.in_words(status.read(write(tmp_path, written(draining=True)), "one")).startswith("draining; ")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (written(time=time.time() - 3600), r"its last word is \d{4,} s old"),
        (written(stopped=True), "it is not running: stopped"),
        ({}, "another version"),
        ({"time": "yesterday"}, "another version"),
        ({"time": None}, "another version"),
        ({**written(), "kafka": []}, "another version"),
        ({**written(), "holds": 3}, "another version"),
        ([1, 2], "no status"),
    ],
)
def test_who_is_not_running_or_not_understood_is_not_available(tmp_path: Path, found: Any, words: str) -> None:
    with pytest.raises(errors.ServiceUnavailable, match=words) as caught:
        status.read(write(tmp_path, found), "one")
    assert "instance one" in str(caught.value)


def test_where_nobody_ever_ran_is_nobody(tmp_path: Path) -> None:
    with pytest.raises(errors.ServiceUnavailable, match="it is not running: no status in"):
        status.read(str(tmp_path / "nowhere"), "one")


def test_who_may_not_look_is_not_told_that_nobody_runs(tmp_path: Path) -> None:
    folder = write(tmp_path / "closed", written())
    Path(folder).chmod(0o700)
    with nobody(), pytest.raises(errors.NoPermission, match="ask as the user of the daemon, or as root"):
        status.read(folder, "one")


def test_trouble_is_said_once(tmp_path: Path) -> None:
    found = status.read(write(tmp_path, written(unwritten=2)), "one")
    assert status.in_numbers(found) == "5 landed, 1 failed, 2 open, 1 running, lag 7 (5 unread)"


# --- the command --------------------------------------------------------------------------------------------------


def test_the_running_instance_is_well(site: Site) -> None:
    config = site.write_config()
    with site.daemon() as daemon:
        site.upload("x", b"abc")
        site.wait_settled()
        wait_until(lambda: "1 landed" in run_status(config).stdout, SETTLE_SECONDS, "a status with the file")
        done = run_status(config)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == "one: 1 landed, 0 failed, 0 open, 0 running, lag 0 (0 unread)\n"
        raw = json.loads(run_status(config, "--json").stdout)
        assert raw["settled"] == {"landed": 1}
        assert raw["landed_bytes"] == 3
        marks = {int(number): each["mark"] for number, each in raw["kafka"]["partitions"].items()}
        assert marks == site.kafka.end_offsets(site.topic)
        daemon.process.kill()
        daemon.process.wait()
    state = site.folder / "failed.state" / "status.json"
    state.write_text(json.dumps({**raw, "time": time.time() - 100}))
    gone = run_status(config)
    assert gone.returncode == 69
    assert re.search(r"it is not running, or it hangs: its last word is 1\d\d s old", gone.stderr)
    assert run_status(config, "--json").returncode == 69


def test_an_instance_that_was_stopped_is_not_running_at_once(site: Site) -> None:
    config = site.write_config()
    with site.daemon() as daemon:
        wait_until(lambda: run_status(config).returncode == 0, SETTLE_SECONDS, "the first status")
        daemon.end()
    done = run_status(config)
    assert done.returncode == 69
    assert "it is not running: stopped" in done.stderr


def test_an_instance_that_is_held_is_not_well_and_says_why(site: Site) -> None:
    site.door.faults.add(Fault("door", status=401))
    config = site.write_config()
    with site.daemon() as daemon:
        site.upload("x", b"abc")
        daemon.wait_for("HOLD")
        wait_until(lambda: "credential" in run_status(config).stdout, SETTLE_SECONDS, "the hold in the status")
        done = run_status(config)
        assert done.returncode == 1
        assert "not well: hold credential for" in done.stdout
        assert run_status(config, "--json").returncode == 1
        site.door.calm()
        daemon.wait_for("RELEASE")
        wait_until(lambda: run_status(config).returncode == 0, SETTLE_SECONDS, "all to be well")
    assert site.landed("x") == b"abc"


def test_a_broken_proxy_file_is_a_complaint_while_the_former_one_still_serves(site: Site) -> None:
    proxy = site.folder / "proxy.pem"
    shutil.copy(site.pki.proxy, proxy)
    config = site.write_config(local={"proxy": str(proxy)})
    with site.daemon(config) as daemon:
        site.upload("w", b"abc")
        site.wait_settled()
        wait_until(lambda: run_status(config).returncode == 0, SETTLE_SECONDS, "a status")
        proxy.write_text("half of a renew")
        daemon.reload()
        wait_until(lambda: run_status(config).returncode == 1, SETTLE_SECONDS, "the complaint")
        done = run_status(config)
        assert f"not well: the proxy {proxy} cannot be read: " in done.stdout
        assert "the one loaded before is used on, until 20" in done.stdout
        [complaint] = json.loads(run_status(config, "--json").stdout)["complaints"]
        assert str(proxy) in complaint
        site.upload("x", b"abc")
        site.wait_settled()
        assert site.landed("x") == b"abc"
        shutil.copy(site.pki.proxy, proxy)
        daemon.reload()
        wait_until(lambda: run_status(config).returncode == 0, SETTLE_SECONDS, "all to be well")


def test_a_copy_under_way_shows_in_the_status(site: Site) -> None:
    site.door.faults.add(Fault("pool", stall_after=2 * MIB + 10))
    config = site.write_config(dcache={"stallseconds": 50, "timeout": 50})
    with site.daemon(config):
        site.upload("x", b"a" * 3 * MIB)

        def running() -> list[Any]:
            done = run_status(config, "--json")
            return list(json.loads(done.stdout)["running"]) if done.returncode == 0 else []

        wait_until(lambda: bool(running()) and running()[0]["received_bytes"] >= MIB, SETTLE_SECONDS, "some bytes")
        [live] = running()
        assert live["path"].endswith(f"{FOLDER}/x")
        assert (live["phase"], live["size_bytes"]) == ("body", 3 * MIB)
        site.door.calm()
        site.wait_settled()
