"""One instance of the daemon, as `dcalqr run` starts it, but with Kafka's session cut short and, on demand, a mutant.

A mutant is one promise broken on purpose, chosen by the environment variable `LEDGER_MUTANT`: the ledger must find it,
or it would find no bug of that kind either.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Container
from pathlib import Path

from dcalqr import log
from dcalqr.config import load
from dcalqr.daemon import Daemon
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.local import leftovers, publish
from dcalqr.orders import CopyOrder

# The shortest that Kafka's brokers grant by default: after a kill the whole group waits for it.
SESSION_SECONDS = 6.0
MUTANT = "LEDGER_MUTANT"


def main() -> None:
    path = Path(sys.argv[1])
    config = load(path)
    log.configure(config.log.level, config.log.format)
    if os.environ.get(MUTANT):
        MUTANTS[os.environ[MUTANT]]()
    asyncio.run(Daemon(config, path, session_seconds=SESSION_SECONDS).run())


def _commit_highest_done() -> None:
    """Commit what is behind the highest offset that is done, whatever is open below it."""
    close, true_mark = OffsetTracker.close, OffsetTracker.mark
    highest: dict[OffsetTracker, int] = {}

    def noted(self: OffsetTracker, offset: int) -> None:
        close(self, offset)
        highest[self] = max(offset + 1, highest.get(self, 0))

    def mark(self: OffsetTracker) -> int:
        return max(highest.get(self, 0), true_mark(self))

    OffsetTracker.close, OffsetTracker.mark = noted, mark  # type: ignore[method-assign]


def _keep_parts() -> None:
    """Leave the parts of a former run where they are."""

    def sweep(root_fd: int, directory: tuple[bytes, ...], instance8: str, keep: Container[bytes]) -> dict[bytes, bool]:
        return {}

    leftovers.sweep = sweep


def _publish_over() -> None:
    """Give a part its final name whatever stands there by now."""

    def rename(fd: int, order: CopyOrder) -> None:
        os.rename(order.part_name, order.final_name, src_dir_fd=fd, dst_dir_fd=fd)

    publish.rename = rename


MUTANTS: dict[str, Callable[[], None]] = {
    "highest-done": _commit_highest_done,
    "keep-parts": _keep_parts,
    "publish-over": _publish_over,
}


if __name__ == "__main__":
    main()
