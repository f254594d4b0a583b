"""`dcalqr replay` as a process, on files that a real daemon wrote."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dcalqr import errors
from dcalqr.cli.replay import found_file
from dcalqr.config import load
from dcalqr.local.failedtask import HEADER, FailedTask, decode_row, encode_row
from dcalqr.model import StorageEvent
from dcalqr.replay import Result, done_ids, to_do
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS, Site
from tests.test_check import nobody, open_to_all

Text = subprocess.CompletedProcess[str]


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "dcalqr", "replay", "--config", str(config), *arguments]


def replay(config: Path, *arguments: str) -> Text:
    """Run to its end."""
    return subprocess.run(
        command(config, *arguments), capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False
    )


@contextlib.contextmanager
def replaying(config: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run beside the test; killed on exit if it still runs."""
    with subprocess.Popen(
        command(config, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read what it says until a line has these words; returns the line."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"it ended without {words}:\n{''.join(seen)}")


def row(name: str, content: bytes, pnfsid: str, *, event: bytes = b"", number: int = 0) -> FailedTask:
    return FailedTask(
        id=f"{number:032x}",
        time=time.time(),
        task="transfer",
        topic="billing",
        partition=0,
        offset=number,
        date=time.time(),
        pnfsid=pnfsid,
        path=f"{ROOT}{FOLDER}/{name}",
        transferpath=f"{ROOT}{FOLDER}/{name}",
        size=len(content),
        attempts=1,
        error_class="forbidden",
        http_status=403,
        message="test",
        event=event,
    )


def write_rows(site: Site, *rows: FailedTask) -> Path:
    path = site.folder / "rows.csv"
    path.write_bytes(HEADER + b"".join(encode_row(each) for each in rows))
    return path


def stored_rows(site: Site, count: int, size: int = 1000) -> Path:
    """Files at the door, nothing here, and a row of each."""
    rows = []
    for number in range(count):
        content = bytes([number % 256]) * size
        file = site.door.put(f"{FOLDER}/f{number}", content, pnfsid=samples.new_pnfsid(site.random))
        rows.append(row(f"f{number}", content, file.pnfsid, number=number))
    return write_rows(site, *rows)


def gets(site: Site) -> int:
    return sum(site.door.gets.values())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- beside the running daemon ------------------------------------------------------------------------------------


def test_what_a_running_daemon_gave_up_lands_by_a_replay_beside_it(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/forbidden*", status=403))
    with site.daemon() as daemon:
        for number in range(3):
            site.upload(f"forbidden/{number}", b"f" * (1000 + number))
        site.upload("staged", b"s" * 5000, staged=True)
        site.upload("good", b"g" * 10)
        site.wait_settled()
        classes = sorted(decode_row(line.encode()).error_class for line in site.rows())
        assert classes == ["forbidden", "forbidden", "forbidden", "never_visible"]

        site.door.calm()
        site.door.commit(f"{FOLDER}/staged")
        committed = site.kafka.committed(site.group, site.topic)
        done = replay(site.write_config())
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 rows: 0 done before, 4 landed, 0 not reached" in done.stdout
        assert "up to 10 downloads at a time" in done.stdout
        assert site.landed("staged") == b"s" * 5000
        assert [site.landed(f"forbidden/{number}") for number in range(3)] == [b"f" * (1000 + n) for n in range(3)]
        assert len((site.folder / "failed.csv.done").read_text().splitlines()) == 1 + 4
        assert not list(site.folder.glob("*.replay-*"))
        assert site.kafka.committed(site.group, site.topic) == committed
        assert daemon.process.poll() is None

        before = gets(site)
        again = replay(site.write_config())
        assert again.returncode == 0
        assert "4 rows: 4 done before, nothing to do, 0 not reached" in again.stdout
        assert gets(site) == before

        site.upload("later", b"l" * 20)
        site.wait_settled()
        assert site.landed("later") == b"l" * 20
        assert len(site.rows()) == 4
    assert {report["replay"] != "" for report in site.reports() if "forbidden" in report["path"]} == {True, False}
    assert not site.parts()


# --- results and what it leaves -----------------------------------------------------------------------------------


def test_what_fails_again_goes_to_a_file_of_its_own_and_makes_the_exit_code_1(site: Site) -> None:
    path = stored_rows(site, 3)
    site.door.faults.add(Fault("door", path=f"{FOLDER}/f1", status=403))
    done = replay(site.write_config(), str(path))
    assert done.returncode == 1
    assert "3 rows: 0 done before, 1 failed, 2 landed, 0 not reached" in done.stdout
    [own] = site.folder.glob("rows.replay-*.csv")
    assert re.fullmatch(r"rows\.replay-\d{8}T\d{6}Z\.csv", own.name)
    assert str(own) in done.stdout
    [failed] = to_do(own)
    assert (failed.path, failed.error_class) == (f"{ROOT}{FOLDER}/f1", "forbidden")
    assert len(to_do(path)) == 3  # nothing is appended to what is replayed

    site.door.calm()
    assert replay(site.write_config(), str(path)).returncode == 0  # it is in the new file now
    again = replay(site.write_config(), str(own))
    assert "1 row: 0 done before, 1 landed" in again.stdout
    assert again.returncode == 0
    assert site.landed("f1") == b"\x01" * 1000


def test_a_row_without_the_record_rebuilds_the_event(site: Site) -> None:
    path = stored_rows(site, 1)
    assert to_do(path)[0].event == b""
    assert replay(site.write_config(), str(path)).returncode == 0
    assert site.landed("f0") == b"\x00" * 1000


@pytest.mark.parametrize("event", [b"not json", b"{}", b"[" * 1000])
def test_a_row_whose_record_is_not_understood_is_rebuilt_from_its_columns(site: Site, event: bytes) -> None:
    file = site.door.put(f"{FOLDER}/x", b"xyz", pnfsid=samples.new_pnfsid(site.random))
    path = write_rows(site, row("x", b"xyz", file.pnfsid, event=event))
    assert replay(site.write_config(), str(path)).returncode == 0
    assert site.landed("x") == b"xyz"


def test_rows_of_one_file_are_copied_once_and_all_settled(site: Site) -> None:
    file = site.door.put(f"{FOLDER}/x", b"xyz", pnfsid=samples.new_pnfsid(site.random))
    path = write_rows(site, *(row("x", b"xyz", file.pnfsid, number=number) for number in range(5)))
    done = replay(site.write_config(), str(path))
    assert done.returncode == 0
    counted = sum(int(number) for number in re.findall(r"(\d+) (?:landed|already)", done.stdout))
    assert counted == 5
    assert gets(site) == 1


def test_a_row_of_another_folder_fails_again_in_words(site: Site) -> None:
    strange = row("x", b"xyz", "0" * 36)
    path = write_rows(site, msgspec.structs.replace(strange, path="/pnfs/elsewhere/x"))
    done = replay(site.write_config(), str(path))
    assert done.returncode == 1
    [own] = site.folder.glob("rows.replay-*.csv")
    assert "not below the configured folder" in to_do(own)[0].message
    assert "Traceback" not in done.stderr


def test_more_rows_than_the_window_all_land(site: Site) -> None:
    path = stored_rows(site, 60, size=100)
    done = replay(site.write_config(kafka={**site.settings["kafka"], "window": 3}), str(path))
    assert "60 rows: 0 done before, 60 landed, 0 not reached" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert len(list(site.download.iterdir())) == 60


def test_a_replay_has_maxdownloads_slots(site: Site) -> None:
    path = stored_rows(site, 8)
    site.door.faults.add(Fault("pool", delay_seconds=0.2))
    assert replay(site.write_config(dcache={"maxdownloads": 2}), str(path)).returncode == 0
    assert site.door.running_max == 2


def test_without_rows_nothing_is_to_do(site: Site) -> None:
    done = replay(site.write_config(), str(write_rows(site)))
    assert done.returncode == 0
    assert "rows.csv holds no failed task: nothing to do" in done.stdout


def test_a_torn_last_line_is_not_read_because_its_writer_is_not_done_with_it(site: Site) -> None:
    path = stored_rows(site, 1)
    with path.open("ab") as file:
        file.write(b"0123,1,2026-")
    done = replay(site.write_config(), str(path))
    assert done.returncode == 0
    assert "1 row:" in done.stdout
    assert path.read_bytes().endswith(b"0123,1,2026-")


# --- a dry run ----------------------------------------------------------------------------------------------------


def test_a_dry_run_lists_the_rows_and_changes_nothing(site: Site) -> None:
    path = stored_rows(site, 3)
    first = to_do(path)[0]
    Path(f"{path}.done").write_text(f"id\n{first.id}\n{'f' * 16}")  # torn at its end
    config = site.write_config()
    before = everything(site.folder)
    done = replay(config, "--dry-run", str(path))
    assert done.returncode == 0
    assert "2 rows to replay, 1 done before; by class: 2 forbidden" in done.stdout
    assert f"{FOLDER}/f2  (forbidden: test)" in done.stdout
    assert f"{FOLDER}/f0 " not in done.stdout
    assert everything(site.folder) == before
    assert not site.door.requests


def test_a_dry_run_takes_no_lock(site: Site) -> None:
    path = stored_rows(site, 1)
    site.door.faults.add(Fault("pool", stall_after=10))
    config = site.write_config(dcache={"stallseconds": 50, "timeout": 50})
    with replaying(config, str(path)):
        wait_until(lambda: bool(site.parts()), SETTLE_SECONDS, "a part")
        assert replay(config, "--dry-run", str(path)).returncode == 0


def test_a_name_in_a_row_cannot_forge_a_line_of_the_dry_run(site: Site) -> None:
    path = write_rows(site, row("a\n0 rows to replay\x1b[2J", b"", "0" * 36))
    done = replay(site.write_config(), "--dry-run", str(path))
    assert len(done.stdout.splitlines()) == 2
    assert "\x1b" not in done.stdout


# --- bad files and locks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER + b"1,2,3\n", "line 2: 3 columns"),
        (b"path,size\n/a,1\n", "line 1 is not the header"),
        (HEADER + b"x" * 5000 + b"\n", "line 2"),
        (HEADER + b"," * 16 + b"\n", "line 2: row version ''"),
        (HEADER + HEADER, "line 2"),
        (b"\x00\xff\n", "line 1"),
    ],
)
def test_the_broken_line_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(errors.BadData) as caught:
        to_do(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_a_broken_file_is_bad_data_and_nothing_is_made(site: Site, arguments: list[str]) -> None:
    path = stored_rows(site, 2)
    with path.open("ab") as file:
        file.write(b"1,2,3\n")
    done = replay(site.write_config(), *arguments, str(path))
    assert done.returncode == 65
    assert f"dcalqr: {path}: line 4: 3 columns instead of 17" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(f"{path}.done").exists()
    assert not site.door.requests


def test_an_empty_file_has_no_rows_because_its_header_is_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.touch()
    assert to_do(path) == []


def test_a_missing_file_is_bad_data(site: Site) -> None:
    done = replay(site.write_config(), str(site.folder / "nowhere.csv"))
    assert done.returncode == 65
    assert f"dcalqr: CSV: {site.folder}/nowhere.csv: there is no such file\n" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--compact"]])
def test_a_configured_file_that_is_missing_is_bad_data_and_its_key_is_named(site: Site, arguments: list[str]) -> None:
    done = replay(site.write_config(), *arguments)
    assert done.returncode == 65
    assert f"dcalqr: local.failedtasksfile: {site.folder}/failed.csv: there is no such file" in done.stderr
    assert not list(site.folder.glob("failed*"))


@pytest.mark.parametrize("is_given", [True, False])
def test_a_file_that_is_not_for_this_user_is_no_permission_and_says_who_may(tmp_path: Path, is_given: bool) -> None:
    path = tmp_path / "failed.csv"
    path.touch(mode=0o600)
    key = "CSV" if is_given else "local.failedtasksfile"
    words = f"no permission for {key}: {path}: Permission denied; run it as the daemon's user, or as root"
    with open_to_all(tmp_path), nobody(), pytest.raises(errors.NoPermission, match=words) as caught:
        found_file(path if is_given else None, path)
    assert caught.value.exit_code == 77


def test_a_folder_is_bad_data(site: Site) -> None:
    done = replay(site.write_config(), str(site.folder))
    assert done.returncode == 65
    assert f"CSV: {site.folder}: cannot be read: Is a directory" in done.stderr


def test_a_second_replay_of_a_file_at_once_is_refused(site: Site) -> None:
    path = stored_rows(site, 1)
    site.door.faults.add(Fault("pool", stall_after=10))
    config = site.write_config(dcache={"stallseconds": 50, "timeout": 50})
    with replaying(config, str(path)) as first:
        wait_until(lambda: bool(site.parts()), SETTLE_SECONDS, "a part")
        second = replay(config, str(path))
        assert second.returncode == 73
        assert "rows.csv.done: another dcalqr" in second.stderr
        site.door.calm()
        assert first.wait(SETTLE_SECONDS) == 0
    assert site.landed("f0") is not None


# --- being stopped ------------------------------------------------------------------------------------------------


def test_term_lets_the_running_copy_end_and_leaves_the_rest_to_do(site: Site) -> None:
    path = stored_rows(site, 3)
    for name in ("f1", "f2"):
        site.door.faults.add(Fault("door", path=f"{FOLDER}/{name}", status=404))
    site.door.faults.add(Fault("pool", stall_after=10))
    config = site.write_config(dcache={"visibleseconds": 50, "stallseconds": 50, "timeout": 50})
    with replaying(config, str(path)) as process:
        wait_until(lambda: bool(site.parts()) and len(site.door.gets) == 3, SETTLE_SECONDS, "a part and two 404")
        process.send_signal(signal.SIGTERM)
        wait_for(process, '"DRAIN"')
        site.door.calm()
        out, _ = process.communicate(timeout=SETTLE_SECONDS)
    assert process.returncode == 1, out
    assert re.search(r"3 rows: 0 done before, 1 landed, 2 not reached", out), out
    assert len(done_ids(path)) == 1
    assert not site.parts()

    done = replay(site.write_config(), str(path))
    assert "3 rows: 1 done before, 2 landed, 0 not reached" in done.stdout
    assert done.returncode == 0


def test_a_second_term_does_not_wait_for_the_running_copy(site: Site) -> None:
    path = stored_rows(site, 1)
    site.door.faults.add(Fault("pool", stall_after=10))
    config = site.write_config(dcache={"stallseconds": 50, "timeout": 50}, daemon={"drainseconds": 50})
    with replaying(config, str(path)) as process:
        wait_until(lambda: bool(site.parts()), SETTLE_SECONDS, "a part")
        process.send_signal(signal.SIGTERM)
        wait_for(process, '"DRAIN"')  # one that comes before the first one is heard is the first one
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SETTLE_SECONDS)
    assert process.returncode == 1
    assert "1 row: 0 done before, 0 landed, 1 not reached" in out
    assert not site.parts()
    assert done_ids(path) == set()


def test_the_part_of_a_killed_replay_goes_with_the_next_one(site: Site) -> None:
    path = stored_rows(site, 2)
    site.door.faults.add(Fault("pool", path=f"{FOLDER}/f0", stall_after=10))
    # Worker processes, which outlive it by a moment, would remove the part themselves.
    config = site.write_config(dcache={"stallseconds": 50, "timeout": 50, "workers": 0})
    with replaying(config, str(path)) as process:
        wait_until(lambda: site.landed("f1") is not None and bool(site.parts()), SETTLE_SECONDS, "f1, and f0's part")
        process.kill()
        process.wait()
    [part] = site.parts()
    site.door.calm()
    done = replay(config, str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not part.exists()
    assert not site.parts()
    assert site.landed("f0") is not None


# --- holds --------------------------------------------------------------------------------------------------------


def test_a_replay_waits_at_a_hold_says_so_and_goes_on_when_it_is_cured(site: Site) -> None:
    path = stored_rows(site, 6)
    site.door.faults.add(Fault("door", status=401))
    config = site.write_config(kafka={"window": 2})
    with replaying(config, str(path)) as process:
        assert json.loads(wait_for(process, '"HOLD"'))["reason"] == "credential"
        site.door.calm()
        rest, _ = process.communicate(timeout=SETTLE_SECONDS)
    assert process.returncode == 0, rest
    assert "6 rows: 0 done before, 6 landed, 0 not reached" in rest
    assert not list(site.folder.glob("*.replay-*"))


def test_term_ends_a_replay_that_waits_at_a_hold(site: Site) -> None:
    path = stored_rows(site, 6)
    config = site.write_config(local={"proxy": str(site.folder / "nowhere")}, kafka={"window": 2})
    with replaying(config, str(path)) as process:
        wait_for(process, '"HOLD"')
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SETTLE_SECONDS)
    assert process.returncode == 1
    assert "6 rows: 0 done before" in out
    assert "6 not reached" in out
    assert done_ids(path) == set()


# --- on a terminal ------------------------------------------------------------------------------------------------


class Terminal:
    """A replay whose three streams are a terminal; what it shows is collected by a thread."""

    def __init__(self, config: Path, *arguments: str) -> None:
        master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            command(config, *arguments), stdin=slave, stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)
        self._master = master
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while True:
                select.select([self._master], [], [])
                block = os.read(self._master, 65536)
                if not block:
                    return
                self._shown += block

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown.decode(errors="replace"))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._master)


def test_a_terminal_shows_a_bar_and_why_it_stands_still(site: Site) -> None:
    path = stored_rows(site, 4)
    site.door.faults.add(Fault("door", status=401))
    terminal = Terminal(site.write_config(), str(path))
    try:
        wait_until(lambda: "held, credential" in terminal.text, SETTLE_SECONDS, "the word of the hold")
        assert "[HOLD]" in terminal.text
        assert "0/4" in terminal.text
        site.door.calm()
        assert terminal.process.wait(SETTLE_SECONDS) == 0, terminal.text
        wait_until(lambda: "4 landed" in terminal.text, SETTLE_SECONDS, "the counts")
        assert "4/4" in terminal.text
        assert "COPY_REPORT" not in terminal.text
    finally:
        terminal.close()


# --- pieces -------------------------------------------------------------------------------------------------------


def test_a_result_counts_what_was_not_reached() -> None:
    result = Result(rows=10, done_before=2)
    result.settled.update({"landed": 3, "failed": 1})
    assert (result.failed, result.unsettled) == (1, 4)


def test_a_row_rebuilds_an_upload_that_the_configuration_knows_as_its_own(site: Site) -> None:
    config = load(site.write_config())
    event = row("a/b", b"xy", "0" * 36).to_event()
    assert isinstance(event, StorageEvent)
    assert event.path.startswith(config.dcache.folder_path)
