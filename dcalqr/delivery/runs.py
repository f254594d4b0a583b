"""The asyncio.Tasks of jobs: which of them only wait, how they are woken, how they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Iterable

from dcalqr.inflight import Job


class Runs:
    """One asyncio.Task a job, by the job's identity: its key may be another job's as soon as it has ended.

    Attributes
    ----------
    fatal
        Gets the exception of a run that ended by one: a mistake of ours, after which nothing is to be trusted.
    draining
        Nothing new is begun.
    """

    def __init__(self) -> None:
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.draining = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._idle: set[str] = set()

    def start(self, job: Job, work: Coroutine[None, None, None]) -> None:
        self._wakes[job.identity] = asyncio.Event()
        task = self._tasks[job.identity] = asyncio.create_task(work, name=f"job-{job.identity}")
        task.add_done_callback(lambda ended: self._ended(job, ended))

    def _ended(self, job: Job, task: asyncio.Task[None]) -> None:
        del self._tasks[job.identity], self._wakes[job.identity]
        if not task.cancelled() and (error := task.exception()) is not None and not self.fatal.done():
            self.fatal.set_exception(error)

    def wake(self, job: Job) -> None:
        """Tell a job that there is something its last look may not have seen."""
        if job.identity in self._wakes:  # a drain may have ended it
            self._wakes[job.identity].set()

    def looking(self, job: Job) -> None:
        """The job looks now: from here on a wake is about what this look may miss."""
        self._wakes[job.identity].clear()

    async def sleep(self, job: Job, seconds: float, *, until_woken: bool = False) -> None:
        """Wait, holding nothing; not at all when all ends anyway, or when there is nothing to wait for."""
        if self.draining or seconds <= 0.0:
            return
        if not until_woken:
            await self.idle(job, asyncio.sleep(seconds))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.idle(job, self._wakes[job.identity].wait())

    async def idle(self, job: Job, waiting: Awaitable[object]) -> None:
        """Wait for something, holding nothing; a drain ends it at once."""
        self._idle.add(job.identity)
        try:
            await waiting
        finally:
            self._idle.discard(job.identity)

    async def ended(self) -> None:
        """Return when every job has ended; new ones may start meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def drain(self, grace_seconds: float) -> None:
        """Let go at once who only waits, and wait for the others, at most `grace_seconds`."""
        self.draining = True
        for identity in list(self._idle):
            self._tasks[identity].cancel()
        await _within(self._tasks.values(), grace_seconds)

    async def cancel(self) -> None:
        """Tell all to stop, and await their answers."""
        self.draining = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await _within(tasks, None)


async def _within(tasks: Iterable[asyncio.Task[None]], seconds: float | None) -> None:
    waited = list(tasks)
    if waited:
        await asyncio.wait(waited, timeout=seconds)
