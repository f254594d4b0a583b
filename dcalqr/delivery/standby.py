"""A thread that stays for a moment when its work is done, because more is coming.

To have a piece of work done by a thread of a pool, and to be told, costs the event loop's process 120 us; by a thread
that waits for it 75.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue

# Files under load come every few milliseconds; and whoever ends waits so long for this thread.
STAY_SECONDS = 0.1


class Standby:
    """One thread at a time, of a pool, that does one piece of work after the other.

    Parameters
    ----------
    threads
        The pool.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._more: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_here = False

    def do(self, work: Callable[[], None], undone: Callable[[], None]) -> None:
        """Have work done, which must not raise; `undone` is called instead when the pool ends before it has begun.

        Nothing more may be given before that has happened.

        Raises
        ------
        RuntimeError
            The pool has ended.
        """
        with self._lock:
            if self._is_here:
                self._more.put(work)
                return
            self._is_here = True

        def ended(called: Future[None]) -> None:
            if called.cancelled():
                self._is_here = False
                undone()

        try:
            self._threads.submit(self._work, work).add_done_callback(ended)
        except RuntimeError:
            self._is_here = False
            raise

    def _work(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            work = self._next()

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._more.get(timeout=STAY_SECONDS)
        except Empty:
            with self._lock:  # or something could be put here for a thread that has left
                self._is_here = not self._more.empty()
                return self._more.get() if self._is_here else None
