"""One booted machine with dcalqr installed in it, and a site on loopback for each test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcalqr.testing.pki import Pki
from tests.boot.machine import Machine
from tests.support.kafka import KafkaBroker
from tests.support.kafka_properties import USERS
from tests.support.process import wait_until
from tests.support.site import SETTLE_SECONDS, Site, merged, write_toml

PROJECT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DOWNLOADS = "/data/incoming"


def _copy(source: Path, machine: Machine, target: str, *, links: bool = True) -> None:
    destination = machine.root / target.lstrip("/")
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, symlinks=links)
    else:
        shutil.copy2(source, destination)


def commands_of(document: str, heading: str) -> str:
    """Return the first block of shell commands below a heading of the documentation: they are run as they stand."""
    text = (PROJECT / "docs" / document).read_text()
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return section.split("```sh\n", 1)[1].split("```", 1)[0]


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Machine]:
    """A Debian 12 that runs, with dcalqr installed as docs/install.md says; not changed by tests but for drop-ins."""
    prepared = subprocess.run([HERE / "prepare.sh"], stdout=subprocess.PIPE, text=True, check=True)
    (wheel,) = (PROJECT / "dist").glob("dcalqr-*.whl")
    with Machine(tmp_path_factory.mktemp("machine"), prepared.stdout.split()) as made:
        _copy(wheel, made, f"/var/tmp/{wheel.name}")
        made.install("/opt/dcalqr/bin/pip", "install", "--no-deps", "--no-index", f"/var/tmp/{wheel.name}")
        _copy(PROJECT / "systemd", made, "/root/source/systemd")
        made.install("sh", "-ec", f"cd /root/source\n{commands_of('install.md', 'Unit')}")
        made.install("groupadd", "lsst")
        _copy(pki.certificates, made, "/etc/grid-security/certificates")
        _copy(pki.proxy, made, "/etc/dcalqr/x509_proxy")
        made.install("chown", "dcalqr", "/etc/dcalqr/x509_proxy")
        made.write("/etc/hosts", "127.0.0.1 localhost\n")
        made.write("/etc/hostname", "node\n")
        made.boot()
        yield made


class Service(Site):
    """A site whose daemon is a unit of the machine.

    Parameters
    ----------
    machine
        Where it runs.
    unit
        Its name there, with `.service`.
    """

    def __init__(self, folder: Path, kafka: KafkaBroker, topic: str, pki: Pki, machine: Machine, unit: str) -> None:
        super().__init__(folder, kafka, topic, f"group-{topic}", pki)
        self.machine, self.unit = machine, unit
        self.settings = merged(self.settings, {
            "kafka": {"security": "sasl_plaintext", "saslmechanism": "SCRAM-SHA-256", "sasluser": "alice",
                      "saslpasswordfile": "$CREDENTIALS_DIRECTORY/kafka-password"},
            "dcache": {"stallseconds": 60, "timeout": 60},
            "local": {"proxy": "/etc/dcalqr/x509_proxy", "capath": "/etc/grid-security/certificates",
                      "downloadfolder": DOWNLOADS, "failedtasksfile": "/var/lib/dcalqr/failed-{instance}.csv",
                      "statefolder": "/var/lib/dcalqr"},
            "daemon": {"drainseconds": 60},
            "log": {"level": "info"},
        })  # fmt: skip
        del self.settings["reports"]
        self.download = machine.root / DOWNLOADS.lstrip("/")
        self.drop_in("site", "[Service]", "LoadCredential=kafka-password:/etc/dcalqr/kafka-password", "RestartSec=1",
                     "SupplementaryGroups=lsst")  # fmt: skip
        machine.write("/etc/dcalqr/kafka-password", USERS["alice"], 0o600)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.download)
        self.download.mkdir(parents=True)
        machine.run("chown", "dcalqr:lsst", DOWNLOADS)
        machine.run("chmod", "2775", DOWNLOADS)

    def drop_in(self, name: str, *lines: str) -> None:
        """Add to the unit what a site would add with `systemctl edit`."""
        template, at, _ = self.unit.partition("@")
        family = f"{template}@.service" if at else self.unit
        self.machine.write(f"/etc/systemd/system/{family}.d/{name}.conf", "\n".join(lines) + "\n")
        self.machine.systemctl("daemon-reload")

    def configure(self, name: str = "dcalqr", **changes: Any) -> None:
        """Write /etc/dcalqr/NAME.toml, with changes by section."""
        write_toml(self.folder / "written.toml", merged(self.settings, changes))
        self.machine.write(f"/etc/dcalqr/{name}.toml", (self.folder / "written.toml").read_text())

    def start(self) -> None:
        """Start it, which takes until it is ready."""
        done = self.machine.systemctl("start", self.unit, check=False)
        assert done.returncode == 0, "\n".join(str(line["MESSAGE"]) for line in self.machine.journal(self.unit))

    def events(self, event: str, **fields: str) -> list[dict[str, Any]]:
        return self.machine.journal(self.unit, event, **fields)

    def wait_event(self, event: str, count: int = 1, **fields: str) -> None:
        wait_until(lambda: len(self.events(event, **fields)) >= count, SETTLE_SECONDS, f"{event} {fields}")

    def wait_landed(self, name: str) -> None:
        wait_until(lambda: self.landed(name) is not None, SETTLE_SECONDS, f"{name} to land")

    def main_pid(self) -> int:
        """The daemon's process, as seen from here."""
        (found,) = (pid for pid, words in self.machine.processes(self.unit).items() if " run --config " in words)
        return found

    def workers(self) -> set[int]:
        found = self.machine.processes(self.unit).items()
        return {pid for pid, words in found if "dcalqr.copiers.child" in words}

    def close(self) -> None:
        for line in self.machine.journal("dcalqr*"):  # pytest shows it where a test has failed
            print(line["MESSAGE"])
        self.machine.run("journalctl", "--rotate", "--vacuum-time=1s")
        self.door.calm()
        units = ["dcalqr.service", "dcalqr@a.service", "dcalqr@b.service"]
        for pid in self.machine.processes("dcalqr"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 18)  # SIGCONT
        self.machine.systemctl("stop", *units, check=False)
        self.machine.systemctl("reset-failed", check=False)
        super().close()
        for drop_ins in (self.machine.root / "etc/systemd/system").glob("dcalqr*.d"):
            shutil.rmtree(drop_ins)
        for kept in (self.machine.root / "var/lib/dcalqr").glob("*"):
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        self.machine.systemctl("daemon-reload")


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that wants the password which systemd hands to the service."""
    with KafkaBroker(tmp_path_factory.mktemp("guarded"), "sasl") as broker:
        yield broker


@pytest.fixture
def service(tmp_path: Path, machine: Machine, guarded: KafkaBroker, pki: Pki) -> Iterator[Service]:
    """A configured dcalqr.service that has not been started."""
    topic = f"billing-{uuid.uuid4().hex[:12]}"
    guarded.create_topic(topic, 2)
    made = Service(tmp_path, guarded, topic, pki, machine, "dcalqr.service")
    made.configure()
    try:
        yield made
    finally:
        made.close()
