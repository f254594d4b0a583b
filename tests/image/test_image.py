"""The image: built from the Dockerfile and run as an operator would, read-only and without root or capabilities."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.process import wait_until
from tests.support.site import SETTLE_SECONDS, Site, merged, write_toml

PROJECT = Path(__file__).parents[2]
IMAGE = "localhost/dcalqr:test"
MOST_BYTES = 250_000_000
BUILD_TOOLS = ("pip", "pip3", "gcc", "cc", "g++", "make", "git", "curl", "wget")
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


class Podman:
    """Builds and runs, with a storage of the tests' own."""

    def __init__(self) -> None:
        prepared = subprocess.run(
            [Path(__file__).parent / "prepare.sh"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        self.settings = dict(line.split("=", 1) for line in prepared)
        self.environment = {**os.environ, **self.settings}

    def try_to(self, *words: str | Path, program: str = "podman") -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], capture_output=True, text=True, check=False, env=self.environment)

    def __call__(self, *words: str | Path, program: str = "podman") -> str:
        done = self.try_to(*words, program=program)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def build(self) -> None:
        """Build the image; what has not changed since the last time is not done again."""
        # chroot needs no OCI runtime, docker's format keeps HEALTHCHECK; pip has our network and authorities.
        how = ["--isolation", "chroot", "--format", "docker", "--network", "host", "--pull=never", "--layers"]
        certs = ["--volume", f"{os.path.realpath(AUTHORITIES)}:/run/authorities.pem:ro"]
        base = ["--build-arg", f"BASE={self.settings['BASE']}", "--build-arg", "PIP_CERT=/run/authorities.pem"]
        self("bud", *how, *certs, *base, "--tag", IMAGE, PROJECT, program="buildah")


@pytest.fixture(scope="session")
def podman() -> Podman:
    made = Podman()
    made.build()
    return made


class Container:
    """The daemon of a site, in the image."""

    def __init__(self, podman: Podman, site: Site) -> None:
        self._podman, self.name = podman, f"dcalqr-{uuid.uuid4().hex[:12]}"
        settings = merged(site.settings, {
            "local": {"proxy": "/etc/dcalqr/x509_proxy", "capath": "/etc/dcalqr/certificates",
                      "downloadfolder": "/data/incoming", "failedtasksfile": "/var/lib/dcalqr/failed-{instance}.csv"},
            "dcache": {"stallseconds": 60, "timeout": 60},
            "log": {"level": "info"},
        })  # fmt: skip
        del settings["reports"]
        folder = site.folder / "etc"
        folder.mkdir()
        write_toml(folder / "dcalqr.toml", settings)
        subprocess.run(["cp", "-a", site.pki.certificates, folder / "certificates"], check=True)
        subprocess.run(["install", "-m", "0400", "-o", "10001", site.pki.proxy, folder / "x509_proxy"], check=True)
        os.chown(site.download, 10001, 10001)
        narrow = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"]
        shared = [f"--volume={folder}:/etc/dcalqr:ro", f"--volume={site.download}:/data/incoming"]
        podman("create", "--pull=never", "--name", self.name, *narrow, *shared, "--stop-timeout=60", IMAGE)

    def start(self) -> None:
        self._podman("start", self.name)

    def terminate(self) -> None:
        """Send TERM, as `docker stop` does first."""
        self._podman("kill", "--signal=TERM", self.name)

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        return int(self._podman("wait", self.name))

    def lines(self, event: str) -> list[dict[str, object]]:
        done = self._podman.try_to("logs", self.name)
        told = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
        return [line for line in told if line["event"] == event]

    def is_healthy(self) -> bool:
        """What HEALTHCHECK says now; Docker asks by itself, podman's timers are systemd's."""
        return self._podman.try_to("healthcheck", "run", self.name).returncode == 0

    def remove(self) -> None:
        self._podman("rm", "--force", "--volumes", "--time=0", self.name)


@pytest.fixture
def container(podman: Podman, site: Site) -> Iterator[Container]:
    made = Container(podman, site)
    try:
        yield made
    finally:
        made.remove()


def test_it_is_small_and_has_neither_root_nor_tools_to_build_with(podman: Podman) -> None:
    (found,) = json.loads(podman("image", "inspect", IMAGE))
    assert found["Size"] < MOST_BYTES, f"{found['Size'] / 1e6:.0f} MB"
    print(f"{found['Size'] / 1e6:.0f} MB")
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["StopSignal"] in ("SIGTERM", "15")
    assert found["Healthcheck"]["Test"][:3] == ["CMD", "dcalqr", "status"]
    look = f"for tool in {' '.join(BUILD_TOOLS)}; do command -v $tool; done; id -u"
    run = ["run", "--rm", "--pull=never", "--entrypoint=/bin/sh", IMAGE, "-c"]
    assert podman(*run, look) == "10001\n"
    clients = "import opensearchpy, elasticsearch, prometheus_client, OpenSSL"
    podman(*run, f"/opt/dcalqr/bin/python -c '{clients}'")


def test_it_says_its_version(podman: Podman) -> None:
    assert podman("run", "--rm", "--pull=never", "--read-only", IMAGE, "--version").startswith("dcalqr ")


def test_it_copies_says_that_it_is_well_and_drains_on_term(container: Container, site: Site) -> None:
    container.start()
    site.upload("run/x", b"abc")
    site.wait_settled()
    assert site.landed("run/x") == b"abc"
    wait_until(container.is_healthy, SETTLE_SECONDS, "the health check to be content")
    content = samples.content(300_000, 1)
    site.door.faults.add(Fault("pool", stall_after=1000))
    site.upload("run/y", content)
    wait_until(lambda: len(site.parts()) == 1, SETTLE_SECONDS, "the part")
    container.terminate()
    wait_until(lambda: bool(container.lines("DRAIN")), SETTLE_SECONDS, "the drain")
    site.door.calm()
    assert container.wait() == 0
    assert site.landed("run/y") == bytes(content)
    assert container.lines("STOPPED")
    assert site.committed_all()


def test_it_is_not_healthy_when_it_is_not_well(container: Container, site: Site) -> None:
    container.start()
    wait_until(container.is_healthy, SETTLE_SECONDS, "the health check to be content")
    site.door.stop()
    site.upload("run/x", b"abc")
    wait_until(lambda: not container.is_healthy(), SETTLE_SECONDS, "the hold in the health check")
