"""One order that a worker process has, as the daemon sees it."""

from __future__ import annotations

import asyncio

from dcalqr.copiers import wire
from dcalqr.copiers.contract import Watcher
from dcalqr.orders import CopyOrder, Landed


class Outstanding:
    """An order, whom to tell of it, and how it ended.

    Attributes
    ----------
    ended
        Wakes whoever awaits the order; may be cancelled with him, and is replaced then.
    landed, error
        How it ended: one of them, or neither yet.
    """

    __slots__ = ("_watcher", "ended", "error", "landed", "order")

    def __init__(self, order: CopyOrder, watcher: Watcher) -> None:
        self.order, self._watcher = order, watcher
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.landed: Landed | None = None
        self.error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        return self.landed is not None or self.error is not None

    def tell(self, report: wire.Report) -> None:
        """Pass on what an order's worker has reported."""
        try:
            for name in report.phases:
                self._watcher.phase(name)
            self._watcher.received(report.received_bytes)
        except Exception as error:  # noqa: BLE001 - a mistake in a watcher must not cost the other orders their answers
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "a watcher raised", "exception": error})

    def end(self, landed: Landed | None, error: BaseException | None = None) -> None:
        """Take note of the end; only the first one counts."""
        if not self.is_over:
            self.landed, self.error = landed, error
        if not self.ended.done():
            self.ended.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for the end at most so long; being cancelled meanwhile does not shorten this."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self.is_over and (left := until - loop.time()) > 0:
            if self.ended.done():  # cancelled with who waited for it
                self.ended = loop.create_future()
            try:
                await asyncio.wait({self.ended}, timeout=left)
            except asyncio.CancelledError:
                continue

    def result(self) -> Landed:
        """Return or raise how it ended."""
        if self.landed is None:
            assert self.error is not None
            raise self.error
        return self.landed

    def __repr__(self) -> str:
        return f"<Outstanding {self.order.order_id[:8]} {self.error or self.landed or 'open'}>"
