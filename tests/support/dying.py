"""The daemon with a side task that ends although nobody asked for it, after the first file has landed:
`python -m tests.support.dying run --config F` beside `dcalqr run`. DYING says how: "returns" or "cancelled".
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from dcalqr import log
from dcalqr.config import load
from dcalqr.daemon import Daemon
from dcalqr.kafka.consumer import Consumer
from dcalqr.service.assembly import Assembly
from dcalqr.service.board import Board


class DyingDaemon(Daemon):
    def _side_work(self, assembly: Assembly, consumer: Consumer, board: Board) -> dict[str, Coroutine[Any, Any, None]]:
        return {**super()._side_work(assembly, consumer, board), "dying": _die(assembly)}


async def _die(assembly: Assembly) -> None:
    while not assembly.counters.settled["landed"]:  # noqa: ASYNC110 - a counter sets no event
        await asyncio.sleep(0.01)
    if os.environ["DYING"] == "cancelled":
        raise asyncio.CancelledError


if __name__ == "__main__":
    path = Path(sys.argv[3])
    config = load(path)
    log.configure(config.log.level, config.log.format)
    asyncio.run(DyingDaemon(config, path).run())
