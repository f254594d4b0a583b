"""The real daemon, `dcalqr run`, as a process of its own, and what it says in its log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# After SIGTERM it drains: here nothing is left to do, and the commit and the goodbye to Kafka take milliseconds.
DRAIN_SECONDS = 30.0
# Told twice, it stops at once; what still runs then is killed.
AT_ONCE_SECONDS = 5.0


class Child:
    """`dcalqr run --config FILE`; its output goes to a log file.

    Parameters
    ----------
    config, log
        The configuration, and the file for its log.
    """

    def __init__(self, config: Path, log: Path) -> None:
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops it.
            self.process = subprocess.Popen(  # noqa: S603 - this program, with a file that we wrote
                [sys.executable, "-m", "dcalqr", "run", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reading = log.open("rb")
        self._unfinished = b""

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def new_lines(self) -> list[dict[str, Any]]:
        """Return the log lines since the last call; one that is no JSON becomes an event OUTPUT."""
        *lines, self._unfinished = (self._unfinished + self._reading.read()).split(b"\n")
        return [_parsed(line) for line in lines]

    def drain(self) -> int | None:
        """Send SIGTERM and wait; returns the exit code, None if it did not end in time."""
        if self.running:
            self.process.terminate()
        try:
            return self.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Make sure that it has ended."""
        for signal_it in (self.process.terminate, self.process.terminate, self.process.kill):
            if not self.running:
                break
            signal_it()
            try:
                self.process.wait(AT_ONCE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        self._reading.close()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict) and "event" in parsed:
        return parsed
    return {"event": "OUTPUT", "level": "error", "message": line.decode(errors="replace")}
