"""`dcalqr demo --stay`: every command that it shows works as it stands, with the real daemon, and nothing is left."""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dcalqr.demo import trial
from dcalqr.demo.storage import FOLDER, ROOT
from dcalqr.local.state import State
from tests.demo.running import environment, running
from tests.support.kafka import KafkaBroker
from tests.support.process import wait_until

LIMIT_SECONDS = 60.0
LAST_WORDS = "Ctrl-C ends the daemon there, and the site here."


def shown(site: subprocess.Popen[str]) -> str:
    """Wait until a trial site stands; returns what it has shown."""
    assert site.stdout is not None
    said = ""
    for line in site.stdout:
        said += line
        if LAST_WORDS in line:
            return said
    pytest.fail(f"the site does not stand: {said}")


def ended(site: subprocess.Popen[str], *signals: signal.Signals) -> str:
    """End a trial site; returns what it had to say about that."""
    for number in signals:
        site.send_signal(number)
    text, _ = site.communicate(timeout=LIMIT_SECONDS)
    assert site.returncode == 0, text
    assert "Traceback" not in text
    return text


class Terminal:
    """Where somebody pastes the commands that were shown; elsewhere than in the checkout."""

    def __init__(self, folder: Path, text: str) -> None:
        self.environment, self._folder = environment(folder), folder
        self._lines = re.findall(r"(?m)^    (.+)$", text)

    def command(self, *words: str) -> str:
        """Return the one command that was shown that has these words."""
        (found,) = (line for line in self._lines if all(word in line.split() for word in words))
        return str(found)

    def paste(self, *words: str) -> tuple[int, str]:
        """Run a command; returns its exit code and what it said."""
        done = subprocess.run(
            ["bash", "-c", self.command(*words)],
            env=self.environment,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
        return done.returncode, done.stdout

    def wait_for(self, code: int, *words: str) -> None:
        """Repeat a command until it ends with a code."""
        wait_until(lambda: self.paste(*words)[0] == code, LIMIT_SECONDS, f"{words} to end with {code}")

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[str]]:
        """Run the daemon; its log is read when it has ended, from a file."""
        with (self._folder / "run.log").open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.command('run')}"],
                env=self.environment,
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(LIMIT_SECONDS)


def test_each_command_that_is_shown_works_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    trials, elsewhere = tmp_path / "trials", tmp_path / "elsewhere"
    trials.mkdir()
    elsewhere.mkdir()
    with running(trials, "--stay") as site:
        said = shown(site)
        (folder,) = trials.iterdir()
        assert f"configuration in {folder / 'dcalqr.toml'}." in said
        terminal = Terminal(elsewhere, said)
        code, checked = terminal.paste("check", "--online")
        assert (code, "wrong" in checked, "warning" in checked) == (0, False, False), checked
        with terminal.daemon() as daemon:
            terminal.wait_for(0, "status")
            terminal.wait_for(0, "where", f"{ROOT}{FOLDER}/{trial.FIRST}")
            wait_until(lambda: "forbidden" in terminal.paste("where", trial.REFUSED)[1], LIMIT_SECONDS, "the refusal")
            assert terminal.paste("where", trial.REFUSED)[0] == 1
            code, frame = terminal.paste("top")
            assert (code, "refused_once.fits" in frame) == (0, True), frame
            code, replayed = terminal.paste("replay")
            assert (code, "1 landed" in replayed) == (0, True), replayed
            assert "HERE since" in terminal.paste("where", trial.REFUSED)[1]
            live = folder / "download" / trial.upload(trial.BACKLOG_UPLOADS + 1, random.Random()).name
            wait_until(live.exists, LIMIT_SECONDS, "a file that was uploaded while the daemon ran")
            (page,) = re.findall(r"http://127\.0\.0\.1:\d+/", said)
            assert urllib.request.urlopen(page).status == 200
            assert b"dcalqr_" in urllib.request.urlopen(f"{page}metrics").read()
            daemon.send_signal(signal.SIGINT)
            assert daemon.wait(LIMIT_SECONDS) == 0
        assert "is gone" in ended(site, signal.SIGINT)
    assert list(trials.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_the_site_and_however_often_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, "--stay") as site:
        shown(site)
        ended(site, number, number)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_stays_when_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, "--stay", "--keep") as site:
        shown(site)
        said = ended(site, signal.SIGINT)
    (folder,) = tmp_path.iterdir()
    assert f"In {folder}:" in said
    assert (folder / "dcalqr.toml").exists()


def test_the_folder_is_not_taken_from_a_daemon_that_still_runs_in_it(tmp_path: Path) -> None:
    with running(tmp_path, "--stay") as site:
        shown(site)
        (folder,) = tmp_path.iterdir()
        state = State(str(folder / "state"))
        state.open()  # as a daemon does for its life
        said = ended(site, signal.SIGINT)
        state.close()
    assert "A daemon still runs here" in said
    assert (folder / "dcalqr.toml").exists()


def test_the_site_may_stand_on_a_real_broker_and_leaves_nothing_there(tmp_path: Path, kafka: KafkaBroker) -> None:
    admin = kafka.new_admin()

    def topics() -> list[str]:
        return [topic for topic in admin.list_topics().topics if "demo" in topic]

    with running(tmp_path, "--stay", "--servers", kafka.bootstrap) as site:
        assert "your broker" in shown(site)
        assert topics()
        ended(site, signal.SIGINT)
    wait_until(lambda: not topics(), LIMIT_SECONDS, "the topic to go")


def test_the_metrics_have_another_port_where_theirs_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(trial, "METRICS_PORT", taken.getsockname()[1])
        assert trial.free_port() != taken.getsockname()[1]


def test_a_site_that_stays_for_days_fills_no_disk() -> None:
    rng = random.Random(1)
    last = {upload.name: upload.size_bytes for upload in (trial.upload(number, rng) for number in range(1, 30_000))}
    assert len(last) == trial.NAMES
    assert trial.FIRST in last
    assert sum(size > 10_000_000 for size in last.values()) == trial.NAMES / trial.LARGE_EVERY
    assert sum(last.values()) < 300_000_000
