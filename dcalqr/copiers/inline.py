"""Attempts in threads of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable

from dcalqr import errors
from dcalqr.attempt import StopFlag, copy_once
from dcalqr.copiers.clients import Clients
from dcalqr.copiers.contract import ANSWER_SECONDS, Slots, Watcher
from dcalqr.dcache.tls import Trust
from dcalqr.local.oserrors import translated
from dcalqr.orders import CopyOrder, Landed


class _Relay:
    """Carries an attempt's progress from its thread to the event loop.

    Phases are passed on one by one; bytes only are written down, for whoever looks.
    """

    def __init__(self, watcher: Watcher, loop: asyncio.AbstractEventLoop) -> None:
        self._watcher = watcher
        self._loop = loop

    def phase(self, name: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody watches any more
            self._loop.call_soon_threadsafe(self._watcher.phase, name)

    def received(self, total_bytes: int) -> None:
        self._watcher.received(total_bytes)


class InlineCopier:
    """A Copier whose attempts run in threads of this process, one thread an order.

    Parameters
    ----------
    slots
        How many orders may be outstanding (count).
    trust
        Gives the present credential generation; raises `CredentialRefused`.
    root_fd
        Gives the open download folder; raises `MountMissing`.
    """

    def __init__(self, slots: int, trust: Callable[[], Trust], root_fd: Callable[[], int]) -> None:
        self.slots = Slots(slots)
        self.stuck = 0
        self._trust = trust
        self._root_fd = root_fd
        self._clients = Clients()
        self._running: dict[str, tuple[StopFlag, asyncio.Future[Landed]]] = {}
        self._closing = False

    async def copy(self, order: CopyOrder, watcher: Watcher) -> Landed:
        await self.slots.take()
        stop = StopFlag()
        try:
            answer = self._start(order, stop, watcher)
        except BaseException:
            self.slots.give_back()
            raise
        self._running[order.order_id] = (stop, answer)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            return await self._stopped(order.order_id, stop, answer)

    def _ended(self, order_id: str) -> None:
        """The attempt has answered: only this frees its slot."""
        if self._running.pop(order_id, None) is None:
            self.stuck -= 1  # its slot was written off; the thread came back after all
        else:
            self.slots.give_back()

    async def _stopped(self, order_id: str, stop: StopFlag, answer: asyncio.Future[Landed]) -> Landed:
        """Wait for the answer of an attempt that is told to stop; a further cancel does not shorten this."""
        stop.set()
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER_SECONDS
        while not answer.done() and (left := until - loop.time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({answer}, timeout=left)
        self._write_off(order_id)
        if answer.exception() is None:
            return answer.result()
        raise asyncio.CancelledError

    def _write_off(self, order_id: str) -> None:
        """Give up a thread if it is still silent: it is counted, and its slot serves another order."""
        if order_id in self._running:
            _, answer = self._running.pop(order_id)
            _fail(answer, errors.Cancelled())
            self.stuck += 1
            self.slots.give_back()

    def _start(self, order: CopyOrder, stop: StopFlag, watcher: Watcher) -> asyncio.Future[Landed]:
        if self._closing:
            raise errors.Cancelled
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Landed] = loop.create_future()
        trust = self._trust()
        try:
            root_fd = os.dup(self._root_fd())  # ours: the destination may be opened anew meanwhile
        except OSError as error:
            raise translated("dup", error) from error

        def tell(landed: Landed | None, error: BaseException | None) -> None:
            self._ended(order.order_id)
            if answer.done():
                return  # it was written off
            if error is not None:
                _fail(answer, error)
            elif landed is not None:
                answer.set_result(landed)

        def attempt() -> None:
            landed, error = self._attempt(order, trust, root_fd, stop, _Relay(watcher, loop))
            try:
                with contextlib.suppress(OSError):  # nothing was written by it: the file is what it is
                    os.close(root_fd)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    loop.call_soon_threadsafe(tell, landed, error)

        # A thread of its own and not an executor's: one that hangs on a dead mount must not keep the process alive.
        try:
            threading.Thread(target=attempt, name=f"order-{order.order_id[:8]}", daemon=True).start()
        except RuntimeError as error:
            os.close(root_fd)
            raise errors.WorkerLost(why=str(error)) from error  # the system gives no more threads
        return answer

    def _attempt(
        self, order: CopyOrder, trust: Trust, root_fd: int, stop: StopFlag, relay: _Relay
    ) -> tuple[Landed | None, BaseException | None]:
        try:
            doors = self._clients.borrow(trust)
            try:
                return copy_once(order, doors, root_fd, stop, relay), None
            finally:
                self._clients.give_back(doors)
        except Exception as error:  # noqa: BLE001 - it travels to whoever awaits the order
            return None, error
        except BaseException as error:  # noqa: BLE001 - SystemExit and its like end this thread, not the event loop
            return None, errors.WorkerLost(why=repr(error))

    @property
    def running(self) -> int:
        """Orders outstanding (count)."""
        return len(self._running)

    def resize(self, slots: int) -> None:
        """Change the number of slots."""
        self.slots.resize(slots)

    async def aclose(self, grace: float) -> None:
        self._closing = True
        running = dict(self._running)
        for stop, _ in running.values():
            stop.set()
        if running:
            await asyncio.wait({answer for _, answer in running.values()}, timeout=grace)
        for order_id in running:
            self._write_off(order_id)
        self._clients.close()


def _fail(answer: asyncio.Future[Landed], error: BaseException) -> None:
    answer.set_exception(error)
    answer.exception()  # seen, also when nobody waits any more
