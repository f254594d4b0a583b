"""A Debian with systemd as its first process, booted in a container: what a unit file promises is seen there.

It has the network of the machine that the tests run on, so that servers on loopback are reached. Its disk is made of
layers; what a test writes goes into the last one and is gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from tests.support.process import ServerProcess, require, wait_until

BOOT_SECONDS = 60.0  # 2 s on an idle machine
HOW = "make boot-test installs it."


class Machine:
    """One booted machine.

    Parameters
    ----------
    folder
        Its own; must not lie on an overlay.
    layers
        Folders that make its disk, the uppermost first; not changed.

    Attributes
    ----------
    root
        Its disk, as seen from here; what is mounted inside does not show.
    """

    def __init__(self, folder: Path, layers: Sequence[str]) -> None:
        self.folder, self.root = folder, folder / "root"
        self._layers = layers
        self._name = f"dcalqr-boot-{os.getpid()}"
        self._leader = 0
        self._process: ServerProcess | None = None

    def __enter__(self) -> Self:
        for name in ("root", "layer", "work"):
            (self.folder / name).mkdir()
        options = f"lowerdir={':'.join(self._layers)},upperdir={self.folder}/layer,workdir={self.folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.root], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._power_off()
        finally:
            subprocess.run(["umount", "-l", self.root], check=True)

    def boot(self) -> None:
        """Start its systemd, and return when it has started all there is."""
        nspawn = [require("systemd-nspawn", HOW), "-q", "-D", str(self.root), "-b", f"--machine={self._name}"]
        nspawn += ["--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off"]
        # It wants a terminal.
        command = [require("script", HOW), "-qefc", " ".join(nspawn), "/dev/null"]
        self._process = ServerProcess(command, self.folder / "console.log")
        self._process.start(self._is_up, BOOT_SECONDS)

    def _is_up(self) -> bool:
        self._leader = self._leader or self._find_leader()
        if not self._leader:
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _find_leader(self) -> int:
        """The first process inside."""
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                (numbers,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if len(numbers) > 1 and numbers[-1] == "1":
                    return int(process.pid)
        return 0

    def _power_off(self) -> None:
        if self._process is None or not self._process.running:
            return
        if self._leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGRTMIN + 4)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: self._process is None or not self._process.running, BOOT_SECONDS, "the power-off")
        self._process.stop()

    # --- inside -----------------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        environment |= {"SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat", "HOME": "/root"}
        wrapped = ["nsenter", "-t", str(self._leader), "-a", *command] if self._leader else command
        done = subprocess.run(wrapped, capture_output=True, text=True, check=False, env=environment)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def install(self, *command: str) -> None:
        """Run a command on its disk before it is booted, with the files of this machine in view."""
        nspawn = ["systemd-nspawn", "-q", "-D", str(self.root), "--register=no", "--keep-unit", "--pipe"]
        done = subprocess.run([*nspawn, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", *words, check=check)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit).stdout.strip()

    def wait_for(self, unit: str, name: str, *values: str) -> None:
        """Wait until a property of a unit has one of these values."""
        wait_until(lambda: self.show(unit, name) in values, BOOT_SECONDS, f"{name} of {unit} to be {values}")

    def journal(self, unit: str, event: str | None = None, **fields: str) -> list[dict[str, Any]]:
        """Return what the journal has of a unit; `event` and `fields` are what our own lines bear."""
        wanted = {name.upper(): value for name, value in fields.items()} | ({"EVENT": event} if event else {})
        matches = [f"DCALQR_{name}={value}" for name, value in wanted.items()]
        told = self.run("journalctl", "-u", unit, "-o", "json", "--all", "--no-pager", *matches).stdout
        return [json.loads(line) for line in told.splitlines() if line.startswith("{")]

    def said(self, unit: str, words: str) -> bool:
        """Whether these words stand in the journal of a unit, of whoever said them."""
        return any(words in str(line.get("MESSAGE", "")) for line in self.journal(unit))

    def processes(self, unit: str) -> dict[int, str]:
        """Return the processes of a unit: their numbers as seen from here, and their command lines."""
        found = {}
        for process in psutil.Process(self._leader).children(recursive=True):
            with contextlib.suppress(OSError, psutil.Error):
                if f"/{unit}" in Path(f"/proc/{process.pid}/cgroup").read_text():
                    found[int(process.pid)] = " ".join(process.cmdline())
        return found
