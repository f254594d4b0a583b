"""`dcalqr top` on a real pseudo-terminal, seen with the eyes of a terminal emulator."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest

from dcalqr.looking import status
from dcalqr.looking.screen import Speeds, frame
from dcalqr.testing.door import Fault
from tests.support import snapshots
from tests.support.process import wait_until
from tests.support.site import SETTLE_SECONDS, Site

KEEP_OUT = "\x1b[?1049l"  # back from the alternate screen
CURSOR = "\x1b[?25h"
CONFIG = """
[kafka]
topic = "t"
servers = ["localhost:1"]
consumergroup = "g"
[dcache]
url = "https://localhost:1/lsst"
pool = "/pnfs"
folder = "/lsst"
[local]
proxy = "{0}/proxy"
capath = "{0}/ca"
downloadfolder = "{0}/download"
failedtasksfile = "{0}/failed.csv"
[daemon]
instance = "node1"
"""


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "dcalqr", "top", "--config", str(config)]


class Terminal:
    """A terminal of 80 x 24 with `dcalqr top` in it."""

    def __init__(self, config: Path, columns: int = 80, lines: int = 24) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            command(config),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread of ours runs yet
            env={**environment, "TERM": "xterm-256color"},
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def look(self) -> str:
        while select.select([self.master], [], [], 0.05)[0]:
            try:
                found = os.read(self.master, 65536)
            except OSError:
                break
            self.output += found
            self._stream.feed(found)
        return "\n".join(self.screen.display)

    def wait_for(self, words: str) -> str:
        wait_until(lambda: words in self.look(), SETTLE_SECONDS, f"{words!r} on the screen")
        return self.look()

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def ends(self) -> int:
        wait_until(lambda: bool(self.look()) and self.process.poll() is not None, SETTLE_SECONDS, "the end")
        self.look()
        return self.process.wait()

    @property
    def is_restored(self) -> bool:
        said = self.output.decode("utf-8", "replace")
        clean = said.rindex(KEEP_OUT) > said.rindex("\x1b[?1049h") and said.rindex(CURSOR) > said.rindex("\x1b[?25l")
        return clean and termios.tcgetattr(self.slave) == self.before


@contextlib.contextmanager
def terminal(config: Path, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    made = Terminal(config, columns, lines)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        for fd in (made.master, made.slave):
            with contextlib.suppress(OSError):
                os.close(fd)


def write_status(folder: Path, **changes: Any) -> Path:
    state = folder / "failed.state"
    state.mkdir(exist_ok=True)
    now = time.time()
    found = snapshots.snapshot(
        **{"time": now, "started_at": now - 7200, "credential_expires_at": now + 40_000, **changes}
    )
    found["surroundings"] = {name: {**look, "seen_at": now} for name, look in found["surroundings"].items()}
    (state / "new").write_text(json.dumps(found))
    (state / "new").rename(state / "status.json")
    config = folder / "dcalqr.toml"
    config.write_text(CONFIG.format(folder))
    return config


# --- on a terminal ------------------------------------------------------------------------------------------------


def test_a_running_copy_of_a_real_daemon_is_seen_with_its_bar(site: Site) -> None:
    site.door.faults.add(Fault("pool", stall_after=400_000))
    config = site.write_config(dcache={"stallseconds": 100, "timeout": 100})
    with site.daemon(config):
        site.upload("23003/raw.fits", b"r" * 800_000)
        with terminal(config) as top:
            shown = top.wait_for("raw.fits")
            wait_until(lambda: "50%" in top.look(), SETTLE_SECONDS, "half a bar")
            shown = top.look()
            assert "dcalqr one  well" in shown
            assert "copies: 1 of 10 slots" in shown
            assert "\u2588" * 7 + "\u2591" * 7 in shown
            assert "q quits" in shown.splitlines()[-1]
            top.press(b"q")
            assert top.ends() == 0
            assert top.is_restored
        site.door.calm()


@pytest.mark.parametrize("end", ["q", "Q", "ctrl-c", "term", "hup"])
def test_however_it_ends_the_terminal_is_as_it_was(tmp_path: Path, end: str) -> None:
    with terminal(write_status(tmp_path)) as top:
        top.wait_for("dcalqr node1")
        if end == "ctrl-c":
            top.press(b"\x03")
        elif end in {"q", "Q"}:
            top.press(end.encode())
        else:
            top.process.send_signal({"term": signal.SIGTERM, "hup": signal.SIGHUP}[end])
        assert top.ends() == 0
        assert top.is_restored
        assert b"Traceback" not in top.output


def test_a_mistake_of_ours_leaves_the_terminal_as_it_was_too(tmp_path: Path) -> None:
    config = write_status(tmp_path)
    with terminal(config) as top:
        top.wait_for("dcalqr node1")
        write_status(tmp_path, last_failures=[{"at": 0}])
        assert top.ends() == 1
        assert top.is_restored
        assert b"KeyError" in top.output


def test_keys_that_mean_nothing_do_nothing_and_are_not_shown(tmp_path: Path) -> None:
    with terminal(write_status(tmp_path)) as top:
        top.wait_for("dcalqr node1")
        top.press(b"xyzzy\x1b[A\x1a")
        assert "xyzzy" not in top.look()
        assert top.process.poll() is None
        top.press(b"q")
        assert top.ends() == 0


def test_an_instance_that_stops_and_comes_back_is_followed(tmp_path: Path) -> None:
    config = write_status(tmp_path)
    with terminal(config) as top:
        top.wait_for("dcalqr node1")
        write_status(tmp_path, stopped=True)
        assert "waiting for it; q quits" in top.wait_for("it is not running: stopped")
        write_status(tmp_path)
        top.wait_for("dcalqr node1")


def test_a_smaller_window_gets_a_smaller_picture(tmp_path: Path) -> None:
    running = [snapshots.copy(f"/pnfs/lsst/f{number}", seconds=99.0 - number) for number in range(40)]
    config = write_status(tmp_path, running=running)
    with terminal(config) as top:
        assert "and 27 more" in top.wait_for(" more")
        top.resize(60, 12)
        shown = top.wait_for("and 39 more")
        assert shown.splitlines()[-1].startswith(" q quits")


# --- in a pipe ----------------------------------------------------------------------------------------------------


def test_into_a_pipe_goes_one_frame_without_colours(tmp_path: Path) -> None:
    done = subprocess.run(
        command(write_status(tmp_path)), capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith(" dcalqr node1  well  up 2 h")
    assert "\n lag 740 (700 unread), all read in 1 min 57 s; reads " in done.stdout
    assert "23003/raw_0001.fits" in done.stdout
    assert "given up last" in done.stdout
    assert "q quits" not in done.stdout


def test_into_a_pipe_without_an_instance_goes_nothing_and_the_code_says_why(tmp_path: Path) -> None:
    config = write_status(tmp_path, stopped=True)
    done = subprocess.run(command(config), capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "it is not running" in done.stderr


# --- the picture --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5), (200, 60)])
@pytest.mark.parametrize("copies", [0, 1, 40])
def test_no_picture_is_larger_than_the_terminal(width: int, height: int, copies: int) -> None:
    holds = [{"domain": "door", "reason": "credential", "message": "x" * 300, "seconds": 3.0}] * 9
    running = [snapshots.copy(f"/pnfs/\u7530{'n' * 300}{number}") for number in range(copies)]
    failures = [snapshots.failure(f"/pnfs/\u202e\x1b[2J{number}") for number in range(20)]
    now = snapshots.snapshot(holds=holds, running=running, last_failures=failures)
    lines = frame(now, status.complaints(now), Speeds(), width, height)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    assert not any("\x1b" in line.plain or "\u202e" in line.plain for line in lines)
    assert "9 more" not in lines[0].plain


def test_the_rate_of_a_copy_is_that_since_the_snapshot_before() -> None:
    speeds = Speeds()
    first, second = (snapshots.copy(received_bytes=number * 1_000_000, seconds=1000.0) for number in (10, 30))
    speeds.note(snapshots.snapshot(running=[first], time=100.0))
    assert speeds.of(first) == 10_000
    speeds.note(snapshots.snapshot(running=[second], time=102.0))
    speeds.note(snapshots.snapshot(running=[second], time=102.0))
    assert speeds.of(second) == 10_000_000
