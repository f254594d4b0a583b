"""HUP of a running daemon: what it takes over, what a broken file does, and who hears of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.service.test_notify import Manager, manager
from tests.support.process import wait_until
from tests.support.site import SETTLE_SECONDS, Site

__all__ = ["manager"]  # the fixture


def status(config: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dcalqr", "status", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=SETTLE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def snapshot(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site.folder / "failed.state" / "status.json").read_text())
    return found


def test_a_broken_file_changes_nothing_and_is_said_once_line_by_line(site: Site, manager: Manager) -> None:
    config = site.write_config()
    good = config.read_text()
    with site.daemon(config, NOTIFY_SOCKET=manager.address) as daemon:
        site.upload("before", b"b")
        site.wait_settled()
        config.write_text(good.replace("[dcache]", "[dcache]\nmaxdownloads = 0\nfoldr = 1"))
        daemon.signal(signal.SIGHUP)
        line = daemon.wait_for("RELOAD", ok=False)
        assert "the configuration is refused, 2 complaints: dcache." in line["message"]
        assert "all goes on as before" in line["message"]
        assert len(line["complaints"]) == 1
        assert "\\n" not in json.dumps(line)
        assert json.dumps(line).count("did you mean folder?") == 1

        wait_until(lambda: (snapshot(site)["reload"] or {}).get("ok") is False, SETTLE_SECONDS, "the status")
        code, said = status(config)
        assert code == 78  # the file is broken for the command, too
        config.write_text(good)
        code, said = status(config)
        assert code == 1
        assert "not well: the last reload was refused at" in said
        assert "a restart would fail" in said

        manager.wait_for(lambda heard: "the last reload was refused at" in heard, "systemd's STATUS")

        site.upload("after", b"a")
        site.wait_settled()
        daemon.reload()
        assert daemon.lines("RELOAD")[-1]["ok"] is True
        wait_until(lambda: snapshot(site)["reload"]["ok"], SETTLE_SECONDS, "the status")
        assert status(config)[0] == 0
        manager.wait_for(lambda heard: heard.startswith("STATUS=reloaded at"), "systemd's STATUS at once")
        manager.wait_for(lambda heard: "lag 0 (0 unread); reloaded at" in heard, "systemd's STATUS afterwards")
    assert site.landed("after") == b"a"


def test_what_waits_for_a_restart_is_named_in_the_status(site: Site) -> None:
    config = site.write_config()
    with site.daemon(config) as daemon:
        daemon.wait_for("START")
        wait_until((site.folder / "failed.state" / "status.json").exists, SETTLE_SECONDS, "a status")
        site.write_config(kafka={"window": 7}, dcache={"maxdownloads": 3})
        daemon.reload()
        wait_until(lambda: snapshot(site)["reload"] is not None, SETTLE_SECONDS, "the status")
        found = snapshot(site)
        assert found["reload"]["ok"] is True
        assert "kafka.window" in found["reload"]["message"]
        assert found["slots"]["limit"] == 3


# --- the log file -------------------------------------------------------------------------------------------------


def test_a_rotated_log_file_is_reopened_at_hup_even_if_the_configuration_is_broken(site: Site) -> None:
    path = site.folder / "daemon.log"
    config = site.write_config(log={"file": str(path)})
    with site.daemon(config) as daemon:
        wait_until(lambda: path.exists() and "START" in path.read_text(), SETTLE_SECONDS, "the log file")
        assert path.stat().st_mode & 0o007 == 0
        rotated = path.with_suffix(".1")
        path.rename(rotated)
        config.write_text(config.read_text() + "[nonsense]\n")
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: path.exists() and "RELOAD" in path.read_text(), SETTLE_SECONDS, "the new log file")
        size = rotated.stat().st_size
        site.upload("x", b"x")
        site.wait_settled()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"RELOAD", "COPY_REPORT", "STOPPED"} <= {line["event"] for line in lines}
    assert rotated.stat().st_size == size
    assert daemon.log_path.read_text() == ""


def test_a_log_file_that_cannot_be_reopened_is_said_in_the_old_one(site: Site) -> None:
    folder = site.folder / "logs"
    folder.mkdir()
    path = folder / "daemon.log"
    with site.daemon(site.write_config(log={"file": str(path)})) as daemon:
        wait_until(lambda: path.exists() and "START" in path.read_text(), SETTLE_SECONDS, "the log file")
        moved = folder.rename(site.folder / "moved") / "daemon.log"
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: '"RELOAD"' in moved.read_text(), SETTLE_SECONDS, "the reload")
        assert "cannot be reopened, the old one goes on: No such file" in moved.read_text()


def test_a_log_file_that_cannot_be_made_is_said_at_the_start(site: Site) -> None:
    with site.daemon(site.write_config(log={"file": str(site.folder / "no" / "daemon.log")})) as daemon:
        assert daemon.wait() == 73
        assert "no/daemon.log: No such file" in daemon.log_path.read_text()
