"""The instances: processes with a name, a configuration and a log of their own, struck and started again by a plan."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil

from dcalqr.local.paths import instance8, is_part_of
from tests.support.process import ServerProcess

DRAIN_SECONDS = 10
# Above the drain and what follows it (5 s, the design says), on a machine whose every core is busy.
LONGEST_END_SECONDS = DRAIN_SECONDS + 40.0
# Shorter and longer than Kafka's session: an instance comes back before the group has noticed, or long after.
LEAST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 8.0
ORDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
REPOSITORY = Path(__file__).resolve().parents[2]

# "worker" kills one worker process of an instance, and the instance replaces it.
How: TypeAlias = Literal["kill", "term", "worker"]


@dataclass(frozen=True)
class Strike:
    """What is to happen when, in seconds from the start, and to whom: the `victim`-th of those that run."""

    at_seconds: float
    how: How
    victim: int
    pause_seconds: float


def plan(roll: random.Random, seconds: float, counts: Mapping[How, int]) -> list[Strike]:
    """Spread so many strikes of each kind over the time, in order."""
    kinds = [how for how, count in counts.items() for _ in range(count)]
    return sorted(
        (
            Strike(
                roll.uniform(0.05, 0.95) * seconds,
                how,
                roll.randrange(len(ORDINALS)),
                roll.uniform(LEAST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
            )
            for how in kinds
        ),
        key=lambda strike: strike.at_seconds,
    )


class Instance:
    """One instance of the daemon.

    Parameters
    ----------
    name
        Of it.
    folder
        Where its configuration and its log are.
    settings
        The configuration by section, without the instance's name.
    environment
        Further variables.
    """

    def __init__(
        self, name: str, folder: Path, settings: Mapping[str, Mapping[str, Any]], environment: Mapping[str, str]
    ) -> None:
        self.name = name
        config = folder / f"{name}.toml"
        config.write_text(_toml({**settings, "daemon": {"instance": name, "drainseconds": DRAIN_SECONDS}}))
        command = [sys.executable, "-m", "tests.ledger.instance", str(config)]
        variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
        self._process = ServerProcess(command, folder / f"{name}.log", variables)
        self._instance8 = instance8(name)
        self._began_at = 0.0  # seconds since the epoch
        self.start_at: float | None = 0.0  # monotonic seconds; None: it runs
        self.told_at: float | None = None

    @property
    def log(self) -> Path:
        return self._process.log

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def can_be_told(self) -> bool:
        """Whether it runs, listens to signals, and has not been told to end."""
        return self.running and self.told_at is None and '"START"' in self._process.output()

    def made(self, part: Path) -> bool:
        """Whether its last run made this part file; what a killed run left, the next one sweeps in time."""
        own = is_part_of(os.fsencode(part.name), self._instance8)
        return own and part.stat().st_mtime >= self._began_at

    def start(self) -> None:
        self.start_at = self.told_at = None
        self._began_at = time.time()
        self._process.start(lambda: True, 1.0)

    def kill(self, pause_seconds: float) -> None:
        """End it as a crash would; it comes back after the pause."""
        self._process.kill()
        self._ended(pause_seconds)

    def kill_worker(self, number: int) -> bool:
        """End one of its worker processes as a crash would; returns whether there was one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = psutil.Process(self._process.pid).children()
            if workers:
                workers[number % len(workers)].kill()
                return True
        return False

    def term(self, pause_seconds: float) -> None:
        """Tell it to end; once it has, it comes back after the pause."""
        os.kill(self._process.pid, signal.SIGTERM)
        self.told_at = time.monotonic()
        self._pause_seconds = pause_seconds

    def look(self) -> str | None:
        """Notice its end; returns what was wrong with it, "" for a good one, None if it has not ended just now."""
        if self.start_at is not None:
            return None
        if self.running:
            if self.told_at is None or time.monotonic() - self.told_at < LONGEST_END_SECONDS:
                return None
            self.kill(0.0)
            return f"{self.name} did not end within {LONGEST_END_SECONDS:g} s of TERM"
        told = self.told_at is not None
        self._ended(self._pause_seconds if told else 0.0)
        code = self._process.exit_code
        return "" if told and code == 0 else f"{self.name} ended with exit code {code}, told to end: {told}"

    def _ended(self, pause_seconds: float) -> None:
        self.told_at = None
        self.start_at = time.monotonic() + pause_seconds


class Fleet:
    """All instances.

    Parameters
    ----------
    count
        How many (1 to 8).
    folder, settings, environment
        As of each.
    """

    def __init__(
        self,
        count: int,
        folder: Path,
        settings: Mapping[str, Mapping[str, Any]],
        environment: Mapping[str, str],
    ) -> None:
        self.instances = [Instance(name, folder, settings, environment) for name in ORDINALS[:count]]

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances)

    def start_due(self) -> None:
        """Start whoever's pause is over."""
        for instance in self:
            if instance.start_at is not None and instance.start_at <= time.monotonic():
                instance.start()

    def choose(self, strike: Strike) -> Instance | None:
        """Find whom a strike hits; None: nobody can be hit now."""
        able = [each for each in self if (each.running if strike.how != "term" else each.can_be_told)]
        return able[strike.victim % len(able)] if able else None

    def kill_all(self) -> None:
        for instance in self:
            instance.kill(0.0)


def _toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[str] = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"
