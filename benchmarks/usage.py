"""What a program costs: processor seconds and memory of its process and all its descendants, from /proc."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Processor time is told apart that finely; one look costs 0.2 ms a process.
PERIOD_SECONDS = 0.05
# Memory costs 1 ms a process to add up, during which it can get no new page: at 20 looks a second a program of three
# processes was slowed by 4 %, one of one process by 1 %. So it is looked at after 0.05, 0.1, 0.2 s, then this often.
MEMORY_SECONDS = 0.4


class Cpu(NamedTuple):
    """Processor time in seconds."""

    user: float
    system: float

    def since(self, earlier: Cpu) -> Cpu:
        return Cpu(self.user - earlier.user, self.system - earlier.system)


class Sample(NamedTuple):
    """One look at a tree of processes.

    Parameters
    ----------
    at
        Seconds since the epoch.
    cpu
        Of all of them since each began, those that have ended included.
    memory_bytes
        Sum of their proportional set sizes: a page that several share counts once. 0: not looked at.
    """

    at: float
    cpu: Cpu
    memory_bytes: int = 0


def tree(pid: int) -> list[int]:
    """List a process and its descendants, as far as they live."""
    found = [pid]
    for parent in found:
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for task in tasks:
            found += [int(child) for child in _read(f"/proc/{parent}/task/{task}/children").split()]
    return found


def cpu_of(pids: Sequence[int]) -> Cpu:
    """Add up the processor time of processes, with what their ended children took."""
    user = system = 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields:
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    return Cpu(user / _TICKS_PER_SECOND, system / _TICKS_PER_SECOND)


def memory_of(pids: Sequence[int]) -> int:
    """Add up the proportional set sizes of processes, in bytes."""
    lines = (line for pid in pids for line in _read(f"/proc/{pid}/smaps_rollup").splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # it has ended meanwhile


class Watch:
    """Samples a tree of processes in a thread, while the context lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began_at = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[Sample] = []

    def look(self, *, memory: bool = True) -> Sample:
        """Take a sample now."""
        pids = self._pids()
        sample = Sample(time.time(), self._cpu(pids), self._memory(pids) if memory else 0)
        self.samples.append(sample)
        return sample

    def _pids(self) -> list[int]:
        return tree(self._pid)

    def _cpu(self, pids: Sequence[int]) -> Cpu:
        return cpu_of(pids)

    def _memory(self, pids: Sequence[int]) -> int:
        return memory_of(pids)

    def _run(self) -> None:
        memory_at = self._began_at
        while not self._end.wait(PERIOD_SECONDS):
            now = time.monotonic()
            due = now >= memory_at
            self.look(memory=due)
            if due:
                memory_at = now + min(now - self._began_at, MEMORY_SECONDS)

    @property
    def peak_bytes(self) -> int:
        return max((sample.memory_bytes for sample in self.samples), default=0)

    def cpu_at(self, moment: float) -> Cpu:
        """Give the processor time spent until a moment (seconds since the epoch), between two samples in proportion."""
        after = next((each for each in self.samples if each.at >= moment), self.samples[-1])
        before = next((each for each in reversed(self.samples) if each.at <= moment), self.samples[0])
        share = (moment - before.at) / (after.at - before.at) if after.at > before.at else 0.0
        return Cpu(*(old + share * (new - old) for old, new in zip(before.cpu, after.cpu, strict=True)))

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
