"""Looks at the destination for many plans in one hop to a thread.

A hop costs as much as what it is for, and threads that take turns with the event loop at each system call cost more. So
one thread looks, for all who asked while the last look lasted; others are taken only when it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from dcalqr.delivery.standby import Standby

# So long a look that lasts keeps the next ones waiting; then it is the disk, and another thread may have more luck.
SLOW_SECONDS = 0.1
# In one go: 3 ms on a local disk, so that nobody waits long for the others' answers.
MOST = 50

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Surveys(Generic[Question, Answer]):
    """Gathers questions and gives each its answer.

    Parameters
    ----------
    look
        Answers all of them, each by a result or by the exception that its asker is to get; blocking.
    threads
        Where it does so.
    """

    def __init__(self, look: Callable[[Sequence[Question]], Sequence[Answer | Exception]], threads: Executor) -> None:
        self._look, self._threads = look, threads
        self._thread = Standby(threads)
        self._asked: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        # When the next look begins: at this turn's end, or when the running one lasts too long.
        self._next: asyncio.Handle | None = None

    async def ask(self, question: Question) -> Answer:
        """Return the answer of a look that began after this call; raises what it says."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._asked.append((question, answer))
        if self._next is None:
            self._next = loop.call_soon(self._begin)
        return await answer

    def _begin(self) -> None:
        """Look for those who have asked by now."""
        self._next = None
        if not self._asked:
            return
        loop = asyncio.get_running_loop()
        asked = [self._asked.popleft() for _ in range(min(MOST, len(self._asked)))]
        questions, answers = [question for question, _ in asked], [answer for _, answer in asked]
        slow = self._next = loop.call_later(SLOW_SECONDS, self._without_it)

        def look() -> None:
            found: Sequence[Answer | Exception]
            try:
                found = self._look(questions)
            except Exception as error:  # noqa: BLE001 - a mistake of ours: those who asked are told
                found = [error] * len(questions)
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(self._looked, answers, found, slow)

        def undone() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._looked, answers, None, slow)

        try:
            self._thread.do(look, undone)
        except RuntimeError as error:  # the threads have ended
            self._looked(answers, [error] * len(answers), slow)

    def _without_it(self) -> None:
        """Leave the thread to its look, and go on with another."""
        self._thread = Standby(self._threads)
        self._begin()

    def _looked(
        self,
        answers: Sequence[asyncio.Future[Answer]],
        found: Sequence[Answer | Exception] | None,
        slow: asyncio.Handle,
    ) -> None:
        if found is None:
            for answer in answers:
                answer.cancel()
        else:
            _tell(answers, found)
        if self._next is slow:
            slow.cancel()
            self._next = asyncio.get_running_loop().call_soon(self._begin)


def _tell(answers: Sequence[asyncio.Future[Answer]], found: Sequence[Answer | Exception]) -> None:
    """Give everybody his answer who still waits for it."""
    for answer, one in zip(answers, found, strict=True):
        if answer.done():
            continue
        if isinstance(one, Exception):
            answer.set_exception(one)
        else:
            answer.set_result(one)
