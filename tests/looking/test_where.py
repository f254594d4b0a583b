"""`dcalqr where`, against disk, rows, a running daemon and the door."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dcalqr.config import load
from dcalqr.looking.asked import event_path
from dcalqr.looking.where import look
from dcalqr.looking.words import in_words
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS, Site
from tests.test_check import nobody, open_to_all

REPOSITORY = Path(__file__).parents[2]
Text = subprocess.CompletedProcess[str]


def where(config: Path, *arguments: str, cwd: Path | None = None) -> Text:
    command = [sys.executable, "-m", "dcalqr", "where", "--config", str(config), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False, cwd=cwd, env=environment
    )


def where_as_nobody(config: Path, name: str) -> tuple[int, str]:
    """Return exit code and words for a user who owns nothing here."""
    loaded = load(config)
    with open_to_all(config.parent), nobody():
        found = asyncio.run(look(loaded, event_path(loaded, name), online=False))
    return found.exit_code, "\n".join(in_words(found, str(config), time.time()))


def as_json(config: Path, *arguments: str) -> dict[str, Any]:
    done = where(config, "--json", *arguments)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    return found


def test_a_landed_file_is_here_by_any_of_its_names_and_is_the_doors(site: Site) -> None:
    config = site.write_config()
    with site.daemon(config):
        file = site.upload("23003/a b", b"abc" * 1000)
        site.wait_settled()
        for name in (f"{ROOT}{FOLDER}/23003/a b", f"{FOLDER}/23003/a b", "23003/a b", f"{site.download}/23003/a b"):
            done = where(config, name)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "HERE since" in done.stdout
            assert "3000 bytes" in done.stdout
            assert f"pnfsid: {file.pnfsid}" in done.stdout
            assert "next:" not in done.stdout
        assert where(config, "a b", cwd=site.download / "23003").returncode == 0
    done = where(config, "--online", "23003/a b")
    assert done.returncode == 0
    assert "verified when it landed, unchanged since" in done.stdout
    assert "door: THE SAME as here; 3000 bytes" in done.stdout
    found = as_json(config, "--online", "23003/a b")
    assert (found["here"], found["same"]) == (True, True)
    assert found["disk"]["adler32"] == found["door"]["adler32"]


def test_a_file_changed_here_is_not_the_doors(site: Site) -> None:
    config = site.write_config()
    with site.daemon(config):
        site.upload("x", b"abc")
        site.wait_settled()
    (site.download / "x").write_bytes(b"abd")
    offline = where(config, "x")
    assert offline.returncode == 0
    assert "Adler32: not recorded, or the file was changed since it landed" in offline.stdout
    done = where(config, "--online", "x")
    assert done.returncode == 3
    assert "read from the file just now" in done.stdout
    assert "door: ANOTHER FILE than here" in done.stdout
    assert "next: dcalqr replay" in done.stdout.splitlines()[-1]
    again = subprocess.run(
        [sys.executable, "-m", "dcalqr", "replay", "--config", str(config), "--from-topic", "1h", "now"],
        capture_output=True,
        text=True,
        timeout=SETTLE_SECONDS,
        check=False,
    )
    assert "1 landed" in again.stdout
    assert where(config, "--online", "x").returncode == 0


def test_a_file_removed_at_the_door_is_said_with_code_3(site: Site) -> None:
    config = site.write_config()
    (site.download / "x").write_bytes(b"abc")
    done = where(config, "--online", "x")
    assert done.returncode == 3
    assert "door: it has no such file" in done.stdout


def test_a_given_up_file_names_the_reason_and_the_command_that_cures_it(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/bad*", status=403))
    config = site.write_config()
    with site.daemon(config):
        site.upload("bad one", b"abc")
        site.wait_settled()
        done = where(config, "bad one")
        assert done.returncode == 1
        assert "NOT HERE" in done.stdout
        assert "(forbidden: the door refuses this file (HTTP 403) although it serves the folder); OPEN" in done.stdout
        [command] = [line.removeprefix("next: ") for line in done.stdout.splitlines() if line.startswith("next: ")]
        site.door.calm()
        cured = subprocess.run(
            f"{sys.executable} -m {command}", shell=True, capture_output=True, text=True, check=False, timeout=60
        )
        assert cured.returncode == 0, cured.stdout + cured.stderr
        done = where(config, "bad one")
        assert done.returncode == 0
        assert "replayed since" in done.stdout


def test_a_copy_under_way_and_a_file_that_waits_are_told_from_the_daemon(site: Site) -> None:
    site.door.faults.add(Fault("pool", path=f"{FOLDER}/slow", stall_after=100))
    config = site.write_config(dcache={"stallseconds": 100, "timeout": 100, "visibleseconds": 100})
    with site.daemon(config):
        site.upload("slow", b"s" * 1000)
        site.upload("staged", b"t" * 1000, staged=True)

        def both() -> bool:
            return "it is being copied, " in where(config, "slow").stdout and (
                "waits for visibility" in where(config, "staged").stdout
            )

        wait_until(both, SETTLE_SECONDS, "the status")
        slow, staged = where(config, "slow"), where(config, "staged")
        assert (slow.returncode, staged.returncode) == (1, 1)
        assert "% of 1000 bytes" in slow.stdout
        assert "next: dcalqr top" in slow.stdout
        assert "next: wait" not in slow.stdout
        assert "waits for visibility (the door does not show this upload yet), for " in staged.stdout
        assert "next: wait: an SRM upload appears when its writer commits it" in staged.stdout
        assert f"next: dcalqr where --config {config} --online {ROOT}{FOLDER}/staged" in staged.stdout
        assert "--online" not in where(config, "--online", "staged").stdout
        site.door.calm()
        site.door.commit(f"{FOLDER}/staged")
        site.wait_settled()


def test_a_file_held_up_by_a_hold_says_so(site: Site) -> None:
    site.door.faults.add(Fault("door", status=401))
    config = site.write_config()
    with site.daemon(config):
        site.upload("x", b"abc")
        wait_until(lambda: "waits for a hold" in where(config, "x").stdout, SETTLE_SECONDS, "the status")
        done = where(config, "x")
        assert "waits for a hold (credential), for " in done.stdout
        assert "daemon, not well: hold credential" in done.stdout
        assert "next: end the hold, it goes on by itself within 30 s: docs/runbook.md#hold-credential" in done.stdout
        site.door.calm()


def test_a_file_that_is_tried_again_says_when_that_ends(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/x", status=503, headers=(("Retry-After", "300"),)))
    config = site.write_config()
    with site.daemon(config):
        site.upload("x", b"abc")
        wait_until(lambda: "waits for another try" in where(config, "x").stdout, SETTLE_SECONDS, "the status")
        done = where(config, "x")
        assert re.search(r"waits for another try, for \d+ s so far, 1 try; last trouble: .* HTTP 503", done.stdout)
        assert "next: wait: it is tried again by itself, and given up as a row after dcache.retrytimes" in done.stdout


@pytest.mark.parametrize("status", [401, 403])
def test_a_door_that_refuses_us_is_told_from_one_that_refuses_a_file(site: Site, status: int) -> None:
    config = site.write_config()
    (site.download / "x").write_bytes(b"abc")
    site.door.put(f"{FOLDER}/x", b"abc", pnfsid=samples.new_pnfsid(site.random))
    site.door.faults.add(Fault("door", path=f"{FOLDER}/x", status=status))
    done = where(config, "--online", "x")
    assert done.returncode == 77
    assert "door: it refuses this file, although it shows the watched folder: " in done.stdout
    assert f"HTTP {status}" in done.stdout
    assert "next: have its owner, or the door's operators, let this proxy read it" in done.stdout
    assert as_json(config, "--online", "x")["door"]["answer"] == "refused_file"
    site.door.faults.add(Fault("door", path=f"{FOLDER}*", status=status))
    done = where(config, "--online", "x")
    assert done.returncode == 77
    assert "door: it refuses our proxy, for the watched folder too: " in done.stdout
    assert "next: a proxy that the door accepts is needed first: docs/runbook.md#hold-credential" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next: dcalqr check --config {config} --online"


def test_a_door_is_not_asked_with_a_proxy_that_has_expired(site: Site) -> None:
    config = site.write_config(local={"proxy": str(site.pki.proxy_expired)})
    done = where(config, "--online", "x")
    assert done.returncode == 77
    assert f"door: not asked: the proxy {site.pki.proxy_expired} expired at " in done.stdout
    assert "next: a proxy that the door accepts is needed first" in done.stdout
    assert not site.door.requests


def test_a_daemon_that_has_read_all_and_knows_nothing_of_a_file_is_not_waited_for(site: Site) -> None:
    site.door.faults.add(Fault("pool", path=f"{FOLDER}/slow", stall_after=100))
    config = site.write_config(dcache={"stallseconds": 100, "timeout": 100})
    with site.daemon(config):
        site.upload("slow", b"s" * 1000)
        site.door.put(f"{FOLDER}/silent", b"abc", pnfsid=samples.new_pnfsid(site.random))

        def lags() -> bool:
            lag = as_json(config, "silent")["lag"]
            return lag is not None and (lag["lag"], lag["unread"]) == (1, 0)

        wait_until(lags, SETTLE_SECONDS, "one record that is read and not done with")
        done = where(config, "--online", "silent")
        assert "next: wait" not in done.stdout
        assert "--from-topic T1 T2" in done.stdout.splitlines()[-1]
        site.door.calm()
        site.wait_settled()


def test_an_unreadable_record_that_names_the_file_is_found(site: Site) -> None:
    config = site.write_config()
    with site.daemon(config):
        good = samples.upload(f"{ROOT}{FOLDER}/odd", 3, "0" * 36)
        site.publish(good.replace(b'"fileSize":3', b'"fileSize":-3').replace(b'"fileSize": 3', b'"fileSize": -3'))
        site.wait_settled()
        done = where(config, "odd")
        assert done.returncode == 1
        assert "unreadable: a record that names it could not be understood (size): partition 0, offset 0" in done.stdout


def test_a_file_nobody_announced_leads_to_the_door_and_from_there_to_the_topic(site: Site) -> None:
    config = site.write_config()
    with site.daemon(config) as daemon:
        daemon.wait_for("START")
        wait_until((site.folder / "failed.state/status.json").exists, SETTLE_SECONDS, "a status")
        wait_until(lambda: as_json(config, "silent")["lag"] is not None, SETTLE_SECONDS, "a lag")
        site.door.put(f"{FOLDER}/silent", b"abc", pnfsid=samples.new_pnfsid(site.random))
        done = where(config, "silent")
        assert done.returncode == 1
        assert "--online" in done.stdout.splitlines()[-1]
        done = where(config, "--online", "silent")
        assert done.returncode == 1
        assert "door: it has the file; 3 bytes" in done.stdout
        assert "--from-topic T1 T2" in done.stdout.splitlines()[-1]


def test_a_door_that_does_not_answer_is_69_and_a_stopped_daemon_is_said(site: Site) -> None:
    config = site.write_config()
    site.close()
    done = where(config, "--online", "x")
    assert done.returncode == 69
    assert "door: it tells nothing of the file: the door localhost:" in done.stdout
    assert "daemon: instance one is not available: it is not running" in done.stdout


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("/elsewhere/x", 2, "is neither below /pnfs/example.org/data/lsst/lsst/user/j/jane.doe (in dCache) nor below"),
        ("x.0123abcd-0123abcd.part", 1, "the name has the form of our part files"),
        ("a" * 300, 1, "NOT HERE: the name or path is too long"),
        ("x\x1b[2J", 1, "NOT HERE: the path holds NUL or a control character"),
        ("../../etc/passwd", 1, "NOT HERE: the path has an empty component, '.' or '..'"),
    ],
)
def test_a_path_that_can_never_land_is_said_in_words(tmp_path: Path, name: str, code: int, words: str) -> None:
    config = write(tmp_path)
    done = where(config, name)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert words in done.stdout + done.stderr
    assert "\x1b" not in done.stdout


def write(folder: Path) -> Path:
    path = folder / "dcalqr.toml"
    path.write_text(
        f"""
[kafka]
topic = "t"
servers = ["localhost:1"]
consumergroup = "g"
[dcache]
url = "https://localhost:1/lsst"
pool = "{ROOT}"
folder = "{FOLDER}"
[local]
proxy = "{folder}/proxy"
capath = "{folder}/ca"
downloadfolder = "{folder}/download"
failedtasksfile = "{folder}/failed.csv"
"""
    )
    return path


def test_what_cannot_be_looked_at_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "failed.csv").write_text("path,reason\n")
    done = where(config, "x")
    assert done.returncode == 69
    folder = f"the download folder {tmp_path}/download (local.downloadfolder)"
    assert f"UNKNOWN whether it is here: {folder} cannot be looked at: No such file or directory" in done.stdout
    assert "NOT HERE" not in done.stdout
    assert "next: bring the download folder back, then ask again: docs/runbook.md#hold-mount" in done.stdout
    assert f"could not look: {tmp_path}/failed.csv: line 1 is not the header" in done.stdout
    assert as_json(config, "x")["here"] is None
    assert sorted(os.listdir(tmp_path)) == ["dcalqr.toml", "failed.csv"]


def test_a_mount_point_without_its_file_system_tells_of_no_file(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "download").mkdir()
    (tmp_path / "failed.state").mkdir()
    hints = tmp_path / "failed.state" / "hints.json"
    hints.write_text(json.dumps({"groups": [], "mount_point": str(tmp_path / "download")}))
    done = where(config, "x")
    assert done.returncode == 69
    assert f"UNKNOWN whether it is here: {tmp_path}/download is not mounted" in done.stdout
    hints.write_text(json.dumps({"groups": [], "mount_point": None}))
    assert where(config, "x").returncode == 1


def test_who_may_not_look_is_told_so_and_by_whom_it_may_be_done(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "download").mkdir(mode=0o700)
    (tmp_path / "failed.csv").touch(mode=0o600)
    code, words = where_as_nobody(config, "x")
    assert code == 77
    assert "(local.downloadfolder) cannot be looked at: Permission denied" in words
    assert f"could not look: {tmp_path}/failed.csv: cannot be read: Permission denied" in words
    assert "next: ask again as the daemon's user, or as root" in words


def test_rows_in_a_folder_that_is_closed_are_no_crash(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "download").mkdir()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    config.write_text(config.read_text().replace(f"{tmp_path}/failed.csv", f"{closed}/failed.csv"))
    code, words = where_as_nobody(config, "x")
    assert code == 1
    assert f"could not look: {closed}/failed.csv: Permission denied" in words
