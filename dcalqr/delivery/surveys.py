"""Looks at the destination for many plans in one hop to a thread.

A hop costs as much as what it is for, and threads that take turns with the event loop at each system call cost more. So
one thread looks, for all who asked while the last look lasted; others are taken only when it hangs.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

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
        self._asked: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """Return the answer of a look that began after this call; raises what it says."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked.append((question, answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="surveys")
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._asked:
            asked = [self._asked.popleft() for _ in range(min(MOST, len(self._asked)))]
            try:
                looking = loop.run_in_executor(self._threads, self._look, [question for question, _ in asked])
            except RuntimeError as error:  # the threads have ended
                looking = loop.create_future()
                looking.set_exception(error)
            looking.add_done_callback(functools.partial(_tell, [answer for _, answer in asked]))
            await asyncio.wait({looking}, timeout=SLOW_SECONDS)


def _tell(answers: Sequence[asyncio.Future[Answer]], looked: asyncio.Future[Sequence[Answer | Exception]]) -> None:
    """Give everybody his answer who still waits for it."""
    if looked.cancelled():  # the threads end, and nobody will look
        for answer in answers:
            answer.cancel()
        return
    failure = looked.exception()
    found = [failure] * len(answers) if isinstance(failure, Exception) else looked.result()
    for answer, one in zip(answers, found, strict=True):
        if answer.done():
            continue
        if isinstance(one, Exception):
            answer.set_exception(one)
        else:
            answer.set_result(one)
