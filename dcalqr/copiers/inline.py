"""Attempts in threads of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial

from dcalqr.attempt import StopFlag, copy_once
from dcalqr.copiers.contract import Slots, Watcher
from dcalqr.dcache.fetch import Doors
from dcalqr.dcache.tls import Trust
from dcalqr.orders import CopyOrder, Landed

# A stopped attempt answers as soon as its socket is shut down; only a hung disk takes longer, and it may take for ever.
ANSWER_SECONDS = 30.0


class _Clients:
    """The Doors of the present generation, and of older ones while an attempt still uses them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doors: Doors | None = None
        self._users: dict[int, int] = {}

    def borrow(self, trust: Trust) -> Doors:
        with self._lock:
            if self._doors is None or self._doors.trust != trust:
                old, self._doors = self._doors, Doors(trust)
                self._close_unused(old)
            self._users[id(self._doors)] = self._users.get(id(self._doors), 0) + 1
            return self._doors

    def give_back(self, doors: Doors) -> None:
        with self._lock:
            self._users[id(doors)] -= 1
            if doors is not self._doors:
                self._close_unused(doors)

    def _close_unused(self, doors: Doors | None) -> None:
        if doors is not None and not self._users.get(id(doors)):
            self._users.pop(id(doors), None)
            doors.close()

    def close(self) -> None:
        with self._lock:
            self._close_unused(self._doors)
            self._doors = None


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
        self._clients = _Clients()
        self._running: dict[str, tuple[StopFlag, asyncio.Future[Landed]]] = {}

    async def copy(self, order: CopyOrder, watcher: Watcher) -> Landed:
        await self.slots.take()
        stop = StopFlag()
        try:
            answer = self._start(order, stop, watcher)
        except BaseException:
            self.slots.give_back()
            raise
        self._running[order.order_id] = (stop, answer)
        answer.add_done_callback(partial(self._ended, order))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if answer.done():
                raise
            return await self._stopped(order, stop, answer)

    def _ended(self, order: CopyOrder, answer: asyncio.Future[Landed]) -> None:
        """The attempt has answered: only this frees its slot."""
        if not answer.cancelled():
            answer.exception()  # seen, also when nobody waits any more
        if self._running.pop(order.order_id, None) is None:
            self.stuck -= 1  # its slot was written off; the thread came back after all
        else:
            self.slots.give_back()

    async def _stopped(self, order: CopyOrder, stop: StopFlag, answer: asyncio.Future[Landed]) -> Landed:
        """Wait for the answer of an attempt that is told to stop; a further cancel does not shorten this."""
        stop.set()
        done, _ = await asyncio.wait({answer}, timeout=ANSWER_SECONDS)
        if not done:
            self._write_off(order)
            raise asyncio.CancelledError
        if answer.exception() is None:
            return answer.result()
        raise asyncio.CancelledError

    def _write_off(self, order: CopyOrder) -> None:
        """Give up a silent thread: it is counted, and its slot serves another order."""
        if self._running.pop(order.order_id, None) is not None:
            self.stuck += 1
            self.slots.give_back()

    def _start(self, order: CopyOrder, stop: StopFlag, watcher: Watcher) -> asyncio.Future[Landed]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Landed] = loop.create_future()
        trust = self._trust()
        root_fd = os.dup(self._root_fd())  # ours: the destination may be opened anew meanwhile

        def tell(landed: Landed | None, error: BaseException | None) -> None:
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            elif landed is not None:
                answer.set_result(landed)

        def attempt() -> None:
            landed, error = self._attempt(order, trust, root_fd, stop, _Relay(watcher, loop))
            os.close(root_fd)
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(tell, landed, error)

        # A thread of its own and not an executor's: one that hangs on a dead mount must not keep the process from ending.
        threading.Thread(target=attempt, name=f"order-{order.order_id[:8]}", daemon=True).start()
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

    @property
    def running(self) -> int:
        """Orders outstanding (count)."""
        return len(self._running)

    def resize(self, slots: int) -> None:
        """Change the number of slots."""
        self.slots.resize(slots)

    async def aclose(self, grace: float) -> None:
        running = list(self._running.values())
        for stop, _ in running:
            stop.set()
        if running:
            await asyncio.wait({answer for _, answer in running}, timeout=grace)
        self._clients.close()
