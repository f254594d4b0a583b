"""One server program under a test's control: started, waited for, stopped by its own process id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POLL_SECONDS = 0.02  # short beside the fastest start (XRootD, 0.2 s)
STOP_SECONDS = 20.0  # Kafka's clean stop takes 2 s on an idle machine


class MissingComponent(Exception):
    """A test needs a program that is not on this machine."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what} is missing. {how}")


def require(program: str, how: str) -> str:
    """Find a program on PATH.

    Raises
    ------
    MissingComponent
        Not there; `how` tells the reader where to get it.
    """
    found = shutil.which(program)
    if found is None:
        raise MissingComponent(program, how)
    return found


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as the condition holds.

    Raises
    ------
    TimeoutError
        It did not, within so many seconds.
    """
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)


class ServerProcess:
    """A program that serves until it is stopped, with its output in a log file.

    The child is killed by the kernel when the thread that started it ends, so that nothing survives an interrupted or
    killed pytest: start servers from the main thread.

    Parameters
    ----------
    command
        Program and arguments; runs in a session of its own, so that Ctrl-C reaches pytest alone.
    log
        Where its output goes, appended to at each start; its folder is the program's working directory.
    environment
        All of the child's environment.
    as_user
        Name of the user it is to run as; empty: ours.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, as_user: str = ""
    ) -> None:
        self._command = list(command)
        self._environment = environment
        self._as_user = as_user
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self.log = log

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of its last run: negative, the signal that ended it; None: it runs, or never has."""
        return None if self._child is None else self._child.poll()

    def start(self, ready: Callable[[], bool], seconds: float) -> None:
        """Start it and wait until `ready`.

        Raises
        ------
        RuntimeError
            It ended at once; the message has the end of its log.
        TimeoutError
            It was not ready in time, and has been killed.
        """
        assert not self.running, "already running"
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._child = subprocess.Popen(
                self._wrapped(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.log.parent,
                start_new_session=True,
            )
        try:
            wait_until(lambda: not self.running or ready(), seconds, f"start of {self._command[0]} (log: {self.log})")
        except BaseException:
            self.kill()
            raise
        if not self.running:
            raise RuntimeError(f"{self._command[0]} ended at once; the end of {self.log}:\n{self.output()[-2000:]}")

    def _wrapped(self) -> list[str]:
        user = [f"--reuid={self._as_user}", f"--regid={self._as_user}", "--init-groups"] if self._as_user else []
        setpriv = require("setpriv", "It comes with util-linux.")
        return [setpriv, "--pdeathsig", "KILL", *user, *self._command]

    def output(self) -> str:
        """What it has written since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def stop(self) -> None:
        """Ask it to end and wait; kill it if it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._child is None or not self.running:
            return
        self._child.send_signal(number)
        self._child.send_signal(signal.SIGCONT)  # a suspended process notices SIGTERM only afterwards
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
