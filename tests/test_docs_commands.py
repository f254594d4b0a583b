"""Every command of the documentation is run, here or by another test that is named here.

A reader types these at three in the morning: each must exist, take its options, and end well where it is meant to.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dcalqr.testing.door import Fault
from dcalqr.testing.pki import Pki
from tests.support.documents import DOCUMENTS, TOP, Command, shell_commands
from tests.support.kafka import KafkaBroker
from tests.support.ports import free_ports
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS, DaemonProcess, Site

# What needs root, systemd, an image, a search server or the network, and what runs it there: a file, and words in it.
ELSEWHERE = {
    r"make demo": ("tests/demo/test_demo.py", "demo"),
    r"\.venv/bin/dcalqr demo --stay": ("tests/demo/test_trial.py", '"--stay"'),
    r"make test": ("Makefile", "test: prepare lint"),
    r"make wheel|make dcalqr\.pyz": ("Makefile", "pyz-test: dcalqr.pyz"),
    r"\./dcalqr\.pyz --version": ("tests/pyz/test_pyz.py", '"--version"'),
    r"python3 -m venv /opt/dcalqr|/opt/dcalqr/bin/pip install .*|ln -s /opt/dcalqr/bin/dcalqr /usr/local/bin/": (
        "tests/boot/conftest.py",
        '"/opt/dcalqr/bin/pip", "install"',
    ),
    r"install .*|systemd-sysusers dcalqr\.conf|useradd .*": ("tests/boot/conftest.py", "commands_of('install.md'"),
    r"systemctl daemon-reload": ("tests/boot/conftest.py", 'systemctl("daemon-reload")'),
    r"systemctl enable --now dcalqr|systemctl (re)?start dcalqr": (
        "tests/boot/test_unit.py",
        '"restart", service.unit',
    ),
    r"systemctl enable --now dcalqr@a dcalqr@b": ("tests/boot/test_unit.py", '"dcalqr@a.service", "dcalqr@b.service"'),
    r"systemctl status .*": ("tests/boot/test_unit.py", 'systemctl("status"'),
    r"journalctl -u dcalqr.*": ("tests/boot/machine.py", "journalctl"),
    r"docker build .*": ("tests/image/test_image.py", '"bud"'),
    r"docker run .*": ("tests/image/test_image.py", '"create", "--pull=never"'),
    r"dcalqr elastic setup .*": ("tests/metrics/test_setup.py", '"elastic", "setup"'),
    r"POST /_security/api_key|\{\"name\": .*": ("tests/metrics/test_search_faults.py", '"POST", "/_security/api_key"'),
}
# The mark at a block's fence names the tests that run it.
SUITES = {"boot": "tests/boot/", "image": "tests/image/", "pyz": "tests/pyz/"}

# What is run here needs one of these and nothing else: a command that was forgotten above must not reach this machine.
PROGRAMS = {"dcalqr", "curl", "cut", "grep", "ls", "mv", "openssl", "runuser"}
# Needs that no instance runs.
STOPPED = re.compile(r"dcalqr offsets .*--partition|dcalqr run |mv ")
NAME = "raw/0042.fits"


def commands() -> list[Command]:
    """Return each command once, with where it stands first."""
    found: dict[tuple[str, str], Command] = {}
    for document in DOCUMENTS:
        for command in shell_commands(document):
            found.setdefault((command.text, command.mark), command)
    return list(found.values())


def elsewhere(command: Command) -> tuple[str, str] | None:
    return next((where for pattern, where in ELSEWHERE.items() if re.fullmatch(pattern, command.text)), None)


HERE = [command for command in commands() if elsewhere(command) is None]


@pytest.mark.parametrize("command", [command for command in commands() if command.mark], ids=lambda each: each.text)
def test_a_block_that_is_marked_is_run_by_the_tests_that_its_mark_names(command: Command) -> None:
    where = elsewhere(command)
    assert where is not None, f"{command.document}: {command.text} is run by nobody"
    assert where[0].startswith(SUITES[command.mark])


@pytest.mark.parametrize(("pattern", "where"), list(ELSEWHERE.items()), ids=str)
def test_what_is_run_elsewhere_is_in_a_document_and_in_that_test(pattern: str, where: tuple[str, str]) -> None:
    assert any(re.fullmatch(pattern, command.text) for command in commands())
    path, words = where
    text = (TOP / path).read_text()
    assert words in text


class World:
    """A site as the documents describe one: paths of theirs are replaced by its own.

    Attributes
    ----------
    daemon
        Runs unless `stop` was called.
    """

    def __init__(self, site: Site) -> None:
        self.site, self.folder = site, site.folder
        (port,) = free_ports(1)
        for name in ("bin", "log"):
            (self.folder / name).mkdir()
        program = self.folder / "bin" / "dcalqr"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dcalqr "$@"\n')
        program.chmod(0o755)
        self.failed = self.folder / "failed-node1.csv"
        self.config = site.write_config(
            daemon={"instance": "node1"},
            local={"failedtasksfile": str(self.failed), "statefolder": str(self.folder / "state")},
            log={"level": "info", "file": str(self.folder / "log" / "dcalqr.log"), "format": "json"},
            prometheus={"port": port},
        )
        self.substitutions = {
            "/etc/dcalqr/dcalqr.toml": str(self.config),
            "--config F": f"--config {self.config}",
            "/etc/dcalqr/x509_proxy": str(site.pki.proxy),
            "/etc/grid-security/certificates": str(site.pki.certificates),
            "/var/lib/dcalqr": str(self.folder),
            "/var/log/dcalqr": str(self.folder / "log"),
            "/pnfs/example.org/data/lsst/user/j/jane.doe": f"{ROOT}{FOLDER}",
            "127.0.0.1:9464": f"127.0.0.1:{port}",
            "PATH": f"{ROOT}{FOLDER}/{NAME}",
            "python3 -c": f"{sys.executable} -c",
            "runuser -u dcalqr -- ": "",  # nobody here is the daemon's user but we
        }
        self.daemon = DaemonProcess(self.config, self.folder, {})

    def fill(self) -> None:
        """Have one file landed and one given up, whose cause is gone."""
        self.site.upload(NAME, b"x" * 1000)
        self.site.door.faults.add(Fault("door", status=403, path="*/refused"))
        self.site.upload("refused", b"abc")
        wait_until(lambda: len(self.site.rows(self.failed.name)) == 1, SETTLE_SECONDS, "the row")
        self.site.wait_settled()
        self.site.door.calm()
        self.wait_well()

    def as_here(self, text: str) -> list[str]:
        """Return how a command of a document is run: as it stands, but for the substitutions."""
        for written, meant in self.substitutions.items():
            text = text.replace(written, meant)
        return ["bash", "-euo", "pipefail", "-c", text]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "NO_COLOR": "1"}

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.as_here(text),
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            timeout=SETTLE_SECONDS,
        )

    def serve(self, text: str) -> int:
        """Run a command that serves until it is told to end; returns its exit code."""
        with subprocess.Popen(self.as_here(f"exec {text}"), env=self.environment) as process:
            try:
                self.wait_well()
                process.send_signal(signal.SIGTERM)
                return process.wait(SETTLE_SECONDS)
            finally:
                process.kill()

    def wait_well(self) -> None:
        status = f"dcalqr status --config {self.config}"
        wait_until(lambda: self.run(status).returncode == 0, SETTLE_SECONDS, "the instance to be well")

    def stop(self) -> None:
        self.daemon.end()
        assert self.daemon.process.returncode == 0

    def start(self) -> None:
        self.daemon = DaemonProcess(self.config, self.folder, {})
        self.wait_well()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker, pki: Pki) -> Iterator[World]:
    topic = "billing-of-the-documents"
    kafka.create_topic(topic, 4)
    site = Site(tmp_path_factory.mktemp("documents"), kafka, topic, "dcalqr-of-the-documents", pki)
    made = World(site)
    try:
        made.fill()
        yield made
    finally:
        made.daemon.end()
        site.close()


@pytest.mark.parametrize("command", HERE, ids=lambda each: f"{each.document}: {each.text}")
def test_a_command_of_the_documents_ends_well(world: World, command: Command) -> None:
    assert command.text.split()[0] in PROGRAMS, f"{command.document}: it is run by nobody, see ELSEWHERE"
    if not STOPPED.match(command.text):
        done = world.run(command.text)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    world.stop()
    try:
        if command.text.startswith("dcalqr run "):
            assert world.serve(command.text) == 0
        else:
            done = world.run(command.text)
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        world.start()
