"""Tells the state folder in which directories parts are open, without the event loop ever waiting for its disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import Executor

from dcalqr.local.state import State

# A directory that gets file after file is opened once and not for each of them. Nobody misses an end that is told late:
# after a crash in between, a sweep looks into a directory without parts.
CLOSE_SECONDS = 1.0


class OpenParts:
    """The orders' side of `State.part_opened`, `part_joined` and `part_closed`.

    Parameters
    ----------
    state
        What writes the hints, blocking.
    threads
        Where it does so.
    """

    def __init__(self, state: State, threads: Executor) -> None:
        self._state, self._threads = state, threads
        self._ended: deque[tuple[bytes, ...]] = deque()
        self._is_due = False

    async def open(self, directory: tuple[bytes, ...]) -> None:
        """Return when the state folder knows that a part will be there; each call wants one of `close`.

        Cancelled, it may leave the directory open until the next start: the sweep looks there once for nothing.
        """
        if not self._state.part_joined(directory):
            await asyncio.get_running_loop().run_in_executor(self._threads, self._state.part_opened, directory)

    def close(self, directory: tuple[bytes, ...]) -> None:
        """An order has ended, and its part is gone; the state folder is told later, of many at once."""
        self._ended.append(directory)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._tell)

    def _tell(self) -> None:
        self._is_due = False
        with contextlib.suppress(RuntimeError):  # the threads have ended: the daemon flushes by itself
            self._threads.submit(self.flush)

    def flush(self) -> None:
        """Tell what has not been told yet; blocking."""
        with contextlib.suppress(IndexError):
            while True:
                self._state.part_closed(self._ended.popleft())
