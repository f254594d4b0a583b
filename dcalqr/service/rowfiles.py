"""Watching the files of rows: a compaction gets them when it asks, and what others do to them is said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dcalqr import errors, log
from dcalqr.local.failures import FailedTasksFile, UnreadableFile
from dcalqr.metrics.counters import Counters

# A compaction waits for it; a look is three system calls.
LOOK_SECONDS = 2.0
_HINT = "rows leave this file by `dcalqr replay --compact` only; see the runbook"


async def watch(files: Sequence[FailedTasksFile | UnreadableFile], counters: Counters) -> None:
    """Look at the files, for ever."""
    logger = log.get()
    while True:
        for file in files:
            try:
                for touched in await file.look():
                    counters.touched[touched.how] += 1
                    logger.warning(
                        "FILE_TOUCHED",
                        file=file.path,
                        how=touched.how,
                        put_back=touched.put_back,
                        now_at=touched.to or None,
                        message=f"somebody has {touched.how} it: {_HINT}",
                    )
                counters.file_trouble.pop(file.path, None)
            except errors.TryError as error:
                if counters.file_trouble.get(file.path) != str(error):
                    counters.file_trouble[file.path] = str(error)
                    logger.error("FILE_TOUCHED", file=file.path, error=error)  # noqa: TRY400 - expected, in words
        await asyncio.sleep(LOOK_SECONDS)
