"""The daemon with a clock in its event loop: `python -m tests.support.lag run --config F` beside `dcalqr run`.

While orders are outstanding it measures how late the loop comes back from short sleeps, and at its end writes the
sorted delays, in seconds, to the file that LAG_FILE names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from dcalqr import log
from dcalqr.config import load
from dcalqr.daemon import Daemon
from dcalqr.kafka.consumer import Consumer
from dcalqr.service.assembly import Assembly
from dcalqr.service.board import Board

NAP_SECONDS = 0.002


class TimedDaemon(Daemon):
    def _side_work(self, assembly: Assembly, consumer: Consumer, board: Board) -> dict[str, Coroutine[Any, Any, None]]:
        return {**super()._side_work(assembly, consumer, board), "lag": _measure(assembly)}


async def _measure(assembly: Assembly) -> None:
    lags = []
    try:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(NAP_SECONDS)
            if assembly.copier.running:
                lags.append(time.perf_counter() - began - NAP_SECONDS)
    finally:
        with open(os.environ["LAG_FILE"], "w") as file:  # noqa: ASYNC230 - the loop has nothing else to do any more
            json.dump(sorted(lags), file)


if __name__ == "__main__":
    path = Path(sys.argv[3])
    config = load(path)
    log.configure(config.log.level, config.log.format)
    asyncio.run(TimedDaemon(config, path).run())
