"""Attempts in worker processes: what happens to one of them costs its own orders and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from dcalqr import errors
from dcalqr.copiers import wire
from dcalqr.copiers.contract import ANSWER_SECONDS, Slots, Watcher
from dcalqr.copiers.crew import Crew, Worker
from dcalqr.copiers.outstanding import Outstanding
from dcalqr.dcache.tls import Trust
from dcalqr.local.leftovers import remove_part
from dcalqr.local.oserrors import translating
from dcalqr.orders import CopyOrder, Landed, Refused

# A few unlinks; on a dead disk they never end, and nobody waits longer for them.
REMOVE_SECONDS = 5.0
_DEAF = "an attempt did not answer although it was told to stop, so it was killed"


class PartsBook(Protocol):
    """Where is written down which directories may have parts; `local.state.State` is one. Safe from any thread."""

    def part_opened(self, directory: tuple[bytes, ...]) -> None: ...

    def part_closed(self, directory: tuple[bytes, ...]) -> None: ...


class WorkersCopier:
    """A Copier whose attempts run in worker processes; any of them takes any order, the least loaded one first.

    An order whose worker is lost raises `WorkerLost`; its part has been removed by then, or its directory stays in the
    book for the sweep. While no worker can be had, orders wait in their slots.

    Parameters
    ----------
    workers
        How many processes (count).
    slots
        How many orders may be outstanding in all of them together (count).
    trust
        Gives the present credential generation; raises `CredentialRefused`.
    root_fd
        Gives the open download folder; raises `MountMissing`.
    root_generation
        Gives a number that changes after the folder behind `root_fd` was exchanged.
    book
        Knows the directories of all parts whose fate is unclear.

    Attributes
    ----------
    stuck
        Attempts that were told to stop and are silent, in processes that still live (count).
    unknown_answers
        Answers to orders that nobody had given (count).
    """

    def __init__(
        self,
        workers: int,
        slots: int,
        trust: Callable[[], Trust],
        root_fd: Callable[[], int],
        root_generation: Callable[[], int],
        book: PartsBook,
    ) -> None:
        self.slots = Slots(slots)
        self.stuck = self.unknown_answers = 0
        self._trust, self._root_fd, self._root_generation, self._book = trust, root_fd, root_generation, book
        self._crew = Crew(workers, self._heard, self._lost)
        self._running: dict[str, Worker] = {}
        self._doubtful: set[str] = set()
        self._removing: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None

    @property
    def running(self) -> int:
        """Orders outstanding (count)."""
        return len(self._running)

    @property
    def alive(self) -> int:
        """Worker processes that take orders (count)."""
        return self._crew.alive

    @property
    def pids(self) -> tuple[int, ...]:
        """All worker processes that there are."""
        return self._crew.pids

    @property
    def deaths(self) -> int:
        """Worker processes that ended although nobody told them to (count)."""
        return self._crew.deaths

    @property
    def is_outdated(self) -> bool:
        """Whether workers cannot be replaced until this daemon is restarted: dcalqr was upgraded on the disk."""
        return self._crew.is_outdated

    def resize(self, slots: int) -> None:
        """Change the number of slots."""
        self.slots.resize(slots)

    # --- one order ------------------------------------------------------------------------------------------------

    async def copy(self, order: CopyOrder, watcher: Watcher) -> Landed:
        await self.slots.take()
        try:
            worker = await self._crew.worker()
            outstanding = Outstanding(order, watcher)
            self._give(worker, order)
        except BaseException:
            self.slots.give_back()
            raise
        worker.orders[order.order_id] = outstanding
        self._running[order.order_id] = worker
        try:
            await outstanding.ended
        except asyncio.CancelledError:
            return await self._stopped(outstanding)
        return outstanding.result()

    def _give(self, worker: Worker, order: CopyOrder) -> None:
        trust = self._trust()
        self._tell_root(worker)
        fresh = trust.generation > worker.generation
        worker.process.send(wire.encode(wire.Do(order, trust if fresh else None)))
        if fresh:
            worker.generation = trust.generation

    def _tell_root(self, worker: Worker) -> None:
        """Give a worker the very folder that was checked here, if it has another one; it resolves no path."""
        generation = self._root_generation()  # before the descriptor: at worst the same folder is told twice
        root_fd = self._root_fd()
        if worker.roots and worker.root_generation == generation:
            return
        with translating("dup"):
            fd = os.dup(root_fd)  # the message may have to wait, and the number may be another folder's by then
        worker.roots += 1
        worker.root_generation = generation
        worker.process.send(wire.encode(wire.Root(worker.roots)), fd)

    async def _stopped(self, outstanding: Outstanding) -> Landed:
        """Wait for the answer of an attempt that is told to stop; a further cancel does not shorten this."""
        self._tell_to_end(outstanding)
        await outstanding.wait(ANSWER_SECONDS)
        if not outstanding.is_over:
            self._write_off(outstanding, errors.Cancelled(), _DEAF)
        if outstanding.landed is not None:
            return outstanding.landed
        raise asyncio.CancelledError

    def _tell_to_end(self, outstanding: Outstanding) -> None:
        worker = self._running.get(outstanding.order.order_id)
        if worker is not None:
            worker.process.send(wire.encode(wire.End(outstanding.order.order_id)))

    def _write_off(self, outstanding: Outstanding, error: errors.DcalqrError, why: str) -> None:
        """Give up an attempt that is silent: its slot serves another order, its worker goes as soon as it can."""
        order = outstanding.order
        worker = self._running.get(order.order_id)
        if worker is not None:  # else its worker was lost just now, and its part is being removed
            self._release(worker, order.order_id)
            worker.silent[order.order_id] = outstanding
            self._doubt(order)
            self.stuck += 1
            self._crew.retire(worker, why)
        outstanding.end(None, error)

    def _release(self, worker: Worker, order_id: str) -> None:
        """Free the slot of an order that is over."""
        del worker.orders[order_id], self._running[order_id]
        self.slots.give_back()
        if not self._running and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # --- what workers say -----------------------------------------------------------------------------------------

    def _heard(self, worker: Worker, message: wire.Up) -> None:
        if isinstance(message, wire.Answer):
            self._answered(worker, message)
        elif isinstance(message, wire.Told):
            for report in message.reports:
                if (outstanding := worker.orders.get(report.order_id)) is not None:
                    outstanding.tell(report)

    def _answered(self, worker: Worker, answer: wire.Answer) -> None:
        order_id = answer.report.order_id
        outstanding = worker.orders.get(order_id)
        if outstanding is None:
            self._late(worker, order_id)
            return
        outstanding.tell(answer.report)
        self._release(worker, order_id)
        outstanding.end(answer.landed, None if answer.refused is None else _error_of(answer.refused))
        if worker.retired and not worker.orders:
            worker.process.kill(_DEAF)

    def _late(self, worker: Worker, order_id: str) -> None:
        """An attempt that was given up has come back after all; or nobody knows what this is."""
        outstanding = worker.silent.pop(order_id, None)
        if outstanding is None:
            self.unknown_answers += 1
        else:
            self.stuck -= 1
            self._settle(outstanding.order)

    # --- a worker is lost -----------------------------------------------------------------------------------------

    def _lost(self, worker: Worker) -> None:
        """Free the slots of its orders; they end as lost when their parts are gone, or cannot be removed now."""
        if worker.process.status is None:
            for outstanding in list(worker.orders.values()):
                self._write_off(outstanding, errors.WorkerLost(why=worker.process.why), worker.process.why)
            return
        lost = list(worker.orders.values())
        for outstanding in lost:
            self._doubt(outstanding.order)
            self._release(worker, outstanding.order.order_id)
        silent = list(worker.silent.values())
        worker.silent.clear()
        self.stuck -= len(silent)
        if lost or silent:
            removing = asyncio.create_task(self._remove([*lost, *silent], worker.process.last_words))
            self._removing.add(removing)
            removing.add_done_callback(self._removing.discard)

    def _doubt(self, order: CopyOrder) -> None:
        """Somebody who does not answer may have left a part there: until that is settled the sweep must know."""
        self._doubtful.add(order.order_id)
        self._book.part_opened(order.directory)

    def _settle(self, order: CopyOrder) -> None:
        """No part of this order is left; safe from any thread, any number of times."""
        with contextlib.suppress(KeyError):
            self._doubtful.remove(order.order_id)
            self._book.part_closed(order.directory)

    async def _remove(self, lost: Sequence[Outstanding], why: str) -> None:
        loop = asyncio.get_running_loop()
        removed = loop.create_future()

        def work() -> None:
            for outstanding in lost:
                self._remove_part(outstanding.order)
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(removed.cancel)

        # A thread of its own, which a dead disk may have for ever; there are few of them, as workers are few.
        with contextlib.suppress(RuntimeError):  # the system gives no more threads: the sweep will do it
            threading.Thread(target=work, name="remove-parts", daemon=True).start()
            await asyncio.wait({removed}, timeout=REMOVE_SECONDS)
        for outstanding in lost:
            outstanding.end(None, errors.WorkerLost(why=why))

    def _remove_part(self, order: CopyOrder) -> None:
        """Remove what a lost worker may have left, by its exact name; what stays is left to the sweep."""
        with contextlib.suppress(errors.TryError), translating("remove"):
            root_fd = os.dup(self._root_fd())
            try:
                gone = remove_part(root_fd, order.directory, order.part_name)
            finally:
                os.close(root_fd)
            if gone:
                self._settle(order)

    # --- the end --------------------------------------------------------------------------------------------------

    async def aclose(self, grace: float) -> None:
        self._crew.close()
        running = [worker.orders[order_id] for order_id, worker in self._running.items()]
        for outstanding in running:
            self._tell_to_end(outstanding)
        if running:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=grace)
        for outstanding in running:
            if not outstanding.is_over:
                self._write_off(outstanding, errors.Cancelled(), _DEAF)
        await self._crew.aclose()
        if self._removing:
            await asyncio.wait(self._removing, timeout=REMOVE_SECONDS)


def _error_of(refused: Refused) -> errors.DcalqrError:
    try:
        return refused.to_error()
    except (KeyError, TypeError):  # no error of this version
        return errors.WorkerLost(why=f"it answered with an unknown error {refused.error[:50]!r}")
