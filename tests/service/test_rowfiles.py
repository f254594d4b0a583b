"""The failed-tasks file of a running daemon: compacted beside it, and touched by others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dcalqr.local.failedtask import decode_row
from dcalqr.testing.door import Fault
from tests.support.process import wait_until
from tests.support.site import FOLDER, SETTLE_SECONDS, Site


def replay(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcalqr", "replay", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False)


def names(site: Site) -> list[str]:
    return [decode_row(line.encode()).path.rsplit("/", 1)[1] for line in site.rows()]


def give_up(site: Site, *files: str) -> None:
    for name in files:
        site.upload(name, name.encode())
    site.wait_settled()


def test_a_compaction_beside_the_daemon_takes_out_what_is_done_and_the_daemon_goes_on(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/bad*", status=403))
    config = site.write_config()
    with site.daemon(config) as daemon:
        give_up(site, "bad1", "bad2", "bad3")
        site.door.calm()
        assert replay(config).returncode == 0
        site.door.faults.add(Fault("door", path=f"{FOLDER}/bad*", status=403))
        give_up(site, "bad4")

        done = replay(config, "--compact")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 rows done and taken out, 1 left" in done.stdout
        assert names(site) == ["bad4"]

        give_up(site, "bad5")
        assert names(site) == ["bad4", "bad5"]
        assert "2 rows to replay, 0 done before; by class: 2 forbidden" in replay(config, "--dry-run").stdout
        assert not daemon.lines("FILE_TOUCHED")
        assert not daemon.lines("ROW_NOT_WRITTEN")
    assert (site.folder / "failed.csv.done").read_text() == "id\n"


def remove(path: Path) -> None:
    path.unlink()


def copytruncate(path: Path) -> None:
    shutil.copy(path, f"{path}.1")
    os.truncate(path, 0)


def edit(path: Path) -> None:
    subprocess.run(["sed", "-i", "$d", path], check=True)


@pytest.mark.parametrize(("touch", "how"), [(remove, "removed"), (copytruncate, "emptied"), (edit, "replaced")])
def test_what_others_do_to_the_file_is_said_and_no_row_is_lost(
    site: Site, touch: Callable[[Path], None], how: str
) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/bad*", status=403))
    with site.daemon() as daemon:
        give_up(site, "bad1", "bad2")
        touch(site.folder / "failed.csv")
        line = daemon.wait_for("FILE_TOUCHED", how=how)
        assert line["put_back"] >= 1
        assert "dcalqr replay --compact" in line["message"]
        give_up(site, "bad3")
        assert sorted(names(site)) == ["bad1", "bad2", "bad3"]


def test_logrotate_itself_with_copytruncate_loses_nothing(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/bad*", status=403))
    rules = site.folder / "logrotate.conf"
    rules.write_text(f"{site.folder}/failed.csv {{\n  copytruncate\n  rotate 3\n  su root root\n}}\n")
    rules.chmod(0o600)
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "logrotate is missing: apt-get install logrotate"
    with site.daemon() as daemon:
        give_up(site, "bad1", "bad2")
        state = site.folder / "logrotate.state"
        subprocess.run([program, "--force", "--state", state, rules], check=True)
        daemon.wait_for("FILE_TOUCHED", how="emptied")
        give_up(site, "bad3")
        assert sorted(names(site)) == ["bad1", "bad2", "bad3"]


def test_a_file_that_is_moved_away_is_named_and_a_new_one_begun(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/bad*", status=403))
    moved = site.folder / "moved.csv"
    with site.daemon() as daemon:
        give_up(site, "bad1")
        (site.folder / "failed.csv").rename(moved)
        assert daemon.wait_for("FILE_TOUCHED", how="moved away")["now_at"] == str(moved)
        give_up(site, "bad2")
        assert names(site) == ["bad2"]
        assert len(site.rows("moved.csv")) == 1


def test_a_stranger_in_its_place_makes_the_status_not_well(site: Site) -> None:
    config = site.write_config()
    with site.daemon(config) as daemon:
        daemon.wait_for("START")
        path = site.folder / "failed.csv"
        wait_until(path.exists, SETTLE_SECONDS, "the file")
        path.unlink()
        path.write_text("path,reason\n")
        daemon.wait_for("FILE_TOUCHED", error="WriteFailed")

        def complaint() -> bool:
            return "not the header of this dcalqr" in said(config)

        wait_until(complaint, SETTLE_SECONDS, "the complaint")
        path.unlink()
        wait_until(lambda: not complaint(), SETTLE_SECONDS, "the end of the complaint")
        assert path.exists()


def said(config: Path) -> str:
    command = [sys.executable, "-m", "dcalqr", "status", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False).stdout
