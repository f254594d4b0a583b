"""The contract of every copier, and the slots that each of them gives out."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Protocol

from dcalqr.orders import CopyOrder, Landed

# A stopped attempt answers as soon as its socket is shut down; only a hung disk takes longer, and it may take for ever.
ANSWER_SECONDS = 5.0


class Watcher(Protocol):
    """Is told where a running order is, on the event loop."""

    def phase(self, name: str) -> None: ...

    def received(self, total_bytes: int) -> None: ...


class Copier(Protocol):
    """Carries out orders, never more at once than it has slots."""

    async def copy(self, order: CopyOrder, watcher: Watcher) -> Landed:
        """Wait for a slot, carry out one order.

        Cancelled, it tells the attempt to stop, waits for its answer (bounded) and frees the slot with it; an attempt
        that could not be stopped any more is accepted: then this returns `Landed` in spite of the cancel.

        Raises
        ------
        dcalqr.errors.TryError
            The attempt's; nothing is left behind.
        dcalqr.errors.Cancelled
            The copier is closing.
        """

    async def aclose(self, grace: float) -> None:
        """Tell all running attempts to stop and wait for their answers, at most `grace` seconds; begin no other.

        Whoever still awaits a `copy` gets `errors.Cancelled`.
        """


class Slots:
    """Rights to have one attempt outstanding, given in the order of asking.

    A slot is given back by the attempt's own answer, from its callback: never by `async with` round a call into an
    executor, which a cancel would leave while the thread goes on.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if self.taken < self.limit and not self._waiting:
            self.taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it was given in the moment of the cancel
            else:
                with contextlib.suppress(ValueError):  # `_wake` came first and has passed it over
                    self._waiting.remove(turn)
            raise

    def give_back(self) -> None:
        self.taken -= 1
        self._wake()

    def resize(self, limit: int) -> None:
        """Change the number of slots; those taken beyond it end by themselves."""
        self.limit = limit
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.taken < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

    def __repr__(self) -> str:
        return f"<Slots {self.taken}/{self.limit} waiting={len(self._waiting)}>"
