"""Keeps so many worker processes alive: starts them, replaces them with back-off, kills who is silent."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable

from dcalqr import __version__, errors, log
from dcalqr.copiers import wire
from dcalqr.copiers.outstanding import Outstanding
from dcalqr.copiers.process import WorkerProcess

# A worker that lived so long did not die of its start.
WELL_SECONDS = 10.0
# The second start in a row waits about half a second, the next ones twice as long, up to a log line a minute.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
# Far beyond its signs of life (`child.ALIVE_SECONDS`), and beyond a start on a machine that has no time for it.
SILENT_SECONDS = 60.0
# Longer than a worker that is told to end gives its attempts (`child.LAST_SECONDS`).
END_SECONDS = 3.0
# What is killed goes at once, unless a dead disk has it: then it goes with that.
KILL_SECONDS = 2.0


def wait_seconds(failures: int, draw: float) -> float:
    """Return the wait before the start that follows so many failed ones (count); `draw` is a random number in [0, 1).

    Half of it is chance, so that instances that share a trouble do not share its moments.
    """
    if failures == 0:
        return 0.0
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + draw / 2)


class Worker:
    """A worker process, and what it has and knows.

    Attributes
    ----------
    ready
        It takes orders.
    retired
        It takes none any more, and ends with its last one.
    orders
        Outstanding there, by id.
    silent
        Those that were given up: told to stop, they did not answer.
    generation, root_generation, roots
        The credential and the download folder it was last told of; how many folders that were.
    """

    def __init__(self, heard: Callable[[Worker, wire.Up], None], ended: Callable[[Worker], None]) -> None:
        self.ready = self.retired = False
        self.orders: dict[str, Outstanding] = {}
        self.silent: dict[str, Outstanding] = {}
        self.generation = self.root_generation = self.roots = 0
        self.process = WorkerProcess(functools.partial(heard, self), functools.partial(ended, self))


class Crew:
    """All worker processes of a copier. The first ones are started when the first order asks for one.

    Parameters
    ----------
    size
        How many are to be there (count).
    heard
        Gets what a worker says about orders.
    lost
        Gets a worker that is gone, with its orders; or one that is beyond help although its process has not ended
        (`process.status` is None), and that one once more when it has.

    Attributes
    ----------
    deaths
        Of workers that nobody told to end, and that could start (count).
    is_outdated
        Whether workers cannot be replaced until the daemon is restarted: another dcalqr lies on the disk.
    """

    def __init__(self, size: int, heard: Callable[[Worker, wire.Up], None], lost: Callable[[Worker], None]) -> None:
        self._size, self._heard, self._lost = size, heard, lost
        self._serving: list[Worker] = []
        self._retired: set[Worker] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._failures = 0
        self._looked_at = 0.0
        self._opening: set[Worker] = set()
        self._begun = self._closing = self.is_outdated = False
        self._starting: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._log = log.get()
        self.deaths = 0

    @property
    def alive(self) -> int:
        """Workers that take orders (count)."""
        return sum(worker.ready for worker in self._serving)

    @property
    def pids(self) -> tuple[int, ...]:
        """All that have not ended, those that take no orders included."""
        return tuple(worker.process.pid for worker in (*self._serving, *self._retired))

    # --- giving out -----------------------------------------------------------------------------------------------

    async def worker(self) -> Worker:
        """Wait for a worker that takes orders; of several, the one with the fewest.

        Raises
        ------
        errors.Cancelled
            The crew is closing.
        """
        while True:
            if self._closing:
                raise errors.Cancelled
            if not self._begun:
                self._open()
            chosen = self._least_loaded()
            if chosen is not None:
                return chosen
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def _least_loaded(self) -> Worker | None:
        if self._opening:
            return None  # the first one there would get everything that has waited
        chosen = None
        for worker in self._serving:
            if worker.ready and (chosen is None or len(worker.orders) < len(chosen.orders)):
                chosen = worker
        return chosen

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    # --- starting -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._begun = True
        self._looked_at = asyncio.get_running_loop().time()
        self._start_missing()
        self._opening = set(self._serving)
        self._look()

    def _start_missing(self) -> None:
        self._starting = None
        while len(self._serving) < self._size:
            try:
                self._serving.append(Worker(self._listen, self._ended))
            except OSError as error:
                self._failures += 1
                wait = self._start_later()
                why = f"no worker can be started: {error.strerror or error}"
                self._log.error("WORKER", message=why, failures=self._failures, wait_seconds=round(wait, 1))
                return

    def _start_later(self) -> float:
        """Plan the next start; returns its wait in seconds."""
        seconds = wait_seconds(self._failures, random.random())  # noqa: S311 - jitter, not a secret
        if self._starting is None:
            self._starting = asyncio.get_running_loop().call_later(seconds, self._start_missing)
        return seconds

    # --- listening ------------------------------------------------------------------------------------------------

    def _listen(self, worker: Worker, message: wire.Up) -> None:
        if isinstance(message, wire.Ready):
            self.is_outdated = False
            self._opening.discard(worker)
            worker.ready = worker in self._serving
            self._wake()
        else:
            self._heard(worker, message)

    def _look(self) -> None:
        """Kill who has said nothing for long, not even that it lives: it is stopped, or as good as dead."""
        loop = asyncio.get_running_loop()
        now, looked_at, self._looked_at = loop.time(), self._looked_at, loop.time()
        self._looking = loop.call_later(SILENT_SECONDS / 4, self._look)
        if now - looked_at > SILENT_SECONDS / 2:
            return  # it was us who stood still, and perhaps all together: let them speak first
        for worker in (*self._serving, *self._retired):
            if worker.process.status is None and now - worker.process.heard_at > SILENT_SECONDS:
                worker.process.kill(f"it was silent for {SILENT_SECONDS:g} s and was killed")
                loop.call_later(KILL_SECONDS, self._abandon, worker)

    # --- ends -----------------------------------------------------------------------------------------------------

    def retire(self, worker: Worker, why: str) -> None:
        """Give this worker no further order and start another; it is killed when it has none any more."""
        if not worker.retired:
            self._serving.remove(worker)
            self._retired.add(worker)
            self._opening.discard(worker)
            worker.ready, worker.retired = False, True
            if not self._closing:
                message = f"a worker gets no more orders: {why}"
                self._log.warning("WORKER", pid=worker.process.pid, message=message, orders=len(worker.orders))
                self._start_later()
        if not worker.orders:
            worker.process.kill(why)

    def _abandon(self, worker: Worker) -> None:
        """Give up a worker that cannot even be killed, because a dead disk has it."""
        if worker.process.status is None:
            self.retire(worker, f"{worker.process.why}, but a dead disk has it")
            self._lost(worker)

    def _ended(self, worker: Worker) -> None:
        if not self._closing:
            self.deaths += not worker.process.is_other_version
            lived = asyncio.get_running_loop().time() - worker.process.began_at
            self._say_death(worker, lived, self._replace(worker, lived))
        self._serving = [each for each in self._serving if each is not worker]
        self._retired.discard(worker)
        self._opening.discard(worker)
        self._lost(worker)
        self._wake()

    def _replace(self, worker: Worker, lived_seconds: float) -> float | None:
        """Plan the start of another worker; returns its wait in seconds, None: that was done before."""
        if worker.retired:
            return None
        self._failures = 0 if lived_seconds >= WELL_SECONDS else self._failures + 1
        self._serving.remove(worker)
        return self._start_later()

    def _say_death(self, worker: Worker, lived_seconds: float, wait_seconds: float | None) -> None:
        if worker.process.is_other_version:
            self._say_outdated()
            return
        self._log.error(
            "WORKER",
            pid=worker.process.pid,
            message=f"a worker was lost: {worker.process.last_words}",
            orders=len(worker.orders),
            silent=len(worker.silent) or None,
            lived_seconds=round(lived_seconds, 1),
            failures=self._failures or None,
            wait_seconds=None if wait_seconds is None else round(wait_seconds, 1),
        )

    def _say_outdated(self) -> None:
        """Say once, until a worker can be started again, that this daemon has to be restarted."""
        if not self.is_outdated:
            self.is_outdated = True
            why = "dcalqr was upgraded on the disk: workers that end cannot be replaced until this daemon is restarted"
            self._log.error("RESTART_NEEDED", message=why, version=__version__, workers=self.alive)

    def close(self) -> None:
        """Start nothing any more; whoever waits for a worker is told."""
        self._closing = True
        for timer in (self._starting, self._looking):
            if timer is not None:
                timer.cancel()
        self._wake()

    async def aclose(self) -> None:
        """Let all workers end, and kill those that do not; none is left but one that a dead disk has."""
        self.close()
        for worker in (*self._serving, *self._retired):
            worker.process.finish()
        await self._gone(END_SECONDS)
        for worker in (*self._serving, *self._retired):
            worker.process.kill("it did not end when it was told to")
        await self._gone(KILL_SECONDS)

    async def _gone(self, seconds: float) -> None:
        """Wait until no worker is left, at most so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (self._serving or self._retired) and (left := until - loop.time()) > 0:
            turn = loop.create_future()
            self._waiting.append(turn)  # each end wakes
            await asyncio.wait({turn}, timeout=left)

    def __repr__(self) -> str:
        return f"<Crew {self.alive}/{self._size} retired={len(self._retired)} deaths={self.deaths}>"
