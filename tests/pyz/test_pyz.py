"""dcalqr in one file: run by a Python that has none of our packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from dcalqr import __version__
from dcalqr.testing import samples
from tests.support.process import wait_until
from tests.support.site import SETTLE_SECONDS, Site

PYZ = Path(__file__).parents[2] / "dcalqr.pyz"


class Bare:
    """A Python with nothing but its standard library, and a home of its own."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "bare"], check=True)
        self.python = folder / "bare" / "bin" / "python"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "SHIV_ROOT": str(folder / "unpacked")}
        assert self._run(["-c", "import dcalqr"]).returncode != 0

    def _run(self, words: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        command = [self.python, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment, cwd="/")

    def pyz(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self._run([PYZ, *words])


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare(tmp_path)


def test_it_says_its_version(bare: Bare) -> None:
    done = bare.pyz("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dcalqr {__version__}\n", "")


def test_it_checks_a_configuration(bare: Bare, site: Site) -> None:
    done = bare.pyz("check", "--config", site.write_config())
    assert done.returncode == 0, done.stderr
    assert "well-formed" in done.stdout


def test_it_copies_with_worker_processes_and_drains_on_term(bare: Bare, site: Site) -> None:
    config = site.write_config(dcache={"workers": 2, "stallseconds": 60, "timeout": 60})
    content = samples.content(300_000, 1)
    with (site.folder / "pyz.log").open("wb") as log:
        command: list[str | Path] = [bare.python, PYZ, "run", "--config", config]
        daemon = subprocess.Popen(command, stdout=log, stderr=log, env=bare.environment, cwd="/")
        try:
            site.upload("run/x", content)
            site.wait_settled()
            assert site.landed("run/x") == bytes(content), (site.folder / "pyz.log").read_text()
            workers = psutil.Process(daemon.pid).children()
            assert len(workers) == 2
            assert all("dcalqr.copiers.child" in worker.cmdline() for worker in workers)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(SETTLE_SECONDS) == 0
            wait_until(lambda: not any(worker.is_running() for worker in workers), SETTLE_SECONDS, "the workers' end")
        finally:
            daemon.kill()
            daemon.wait()


def test_another_python_is_told_which_one_it_was_made_for(bare: Bare, tmp_path: Path) -> None:
    strange = tmp_path / "strange.pyz"
    with zipfile.ZipFile(PYZ) as source, zipfile.ZipFile(strange, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename.endswith("made-for.txt"):
                content = b"Python 3.99 on linux\n"
            if item.filename == "environment.json":
                content = content.replace(b'"build_id": "', b'"build_id": "strange-')
            target.writestr(item, content)
    done = bare._run([strange, "--version"])
    assert done.returncode == 1
    assert "was made for Python 3.99 on linux" in done.stderr
