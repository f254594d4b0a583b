"""Running failed tasks again from the CSV, beside the running daemon or without it.

Takes the file's length at the start, so that a daemon may go on appending; writes the ids of rows that are done to
`<file>.done` and its own failures to `<stem>.replay-<utc>.csv`; has `maxdownloads` slots of its own; never commits
offsets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from dcalqr import errors, log
from dcalqr.config import Config
from dcalqr.dcache.events import EventReader
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.failures import DoneFile, complete_length, read_rows
from dcalqr.model import Delivery, Origin, Settled, StorageEvent
from dcalqr.replay.run import Progress, Run
from dcalqr.replay.select import EVERYTHING, Selection
from dcalqr.service.assembly import Assembly


@dataclass
class Result(Progress):
    """What a replay did with a file: rows in it, rows done by former replays, rows not selected (counts)."""

    rows: int = 0
    done_before: int = 0
    not_selected: int = 0

    @property
    def total(self) -> int:
        return self.rows - self.done_before - self.not_selected

    @property
    def completed(self) -> int:
        return sum(self.settled.values())

    @property
    def unsettled(self) -> int:
        """Rows that were not reached, because the replay was stopped."""
        return self.total - self.completed


def to_do(path: Path) -> list[FailedTask]:
    """Read all whole rows that are in the file now.

    Raises
    ------
    BadData
        The file is missing, is no failed-tasks file, or a row of it is broken.
    """
    try:
        return list(read_rows(str(path), complete_length(str(path))))
    except OSError as error:
        raise errors.BadData(path=str(path), why=f"cannot be read: {error.strerror}") from error


def done_ids(path: Path) -> set[str]:
    """Return the ids that former replays of this file are done with; for looking only, takes no lock."""
    try:
        lines = Path(f"{path}.done").read_text(encoding="ascii").split("\n")[1:-1]
    except (OSError, UnicodeDecodeError):
        return set()
    return {unquote(line, errors="surrogatepass") for line in lines}


class Replay:
    """One replay of one file.

    Parameters
    ----------
    config
        As the daemon's.
    path
        The CSV.
    progress
        Called with the result so far, after each settled row and while a hold stands in the way.
    selection
        Which of the rows; all by default.
    """

    def __init__(
        self, config: Config, path: Path, progress: Callable[[Result], None], selection: Selection = EVERYTHING
    ) -> None:
        self._config, self._path, self._selection = config, path, selection
        self.result = Result()
        self._run = Run(config, path, self.result, lambda: progress(self.result))
        self._dones: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(config.kafka.window)

    async def run(self) -> Result:
        """Run all rows that are selected and that no former replay is done with.

        Raises
        ------
        StartError
            A file cannot be read, made or locked; another replay of this file is running.
        FatalError
            It cannot go on.
        """
        to_do(self._path)  # before anything is made beside a file that is none of ours
        self._run.obey_signals()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._run.threads.shutdown, wait=False, cancel_futures=True)
            done = DoneFile(str(self._path), self._run.threads)
            await done.open()
            stack.push_async_callback(done.close)
            # Only now: until the lock was ours, a compaction may have exchanged the file.
            rows = self._choose(to_do(self._path), done.done)
            if rows:
                await self._run.perform(lambda assembly: self._feed(rows, done, assembly))
                if self._dones:
                    await asyncio.wait(self._dones)
        return self.result

    def _choose(self, rows: list[FailedTask], done: set[str]) -> list[FailedTask]:
        self.result.rows = len(rows)
        rows = [row for row in rows if row.id not in done]
        self.result.done_before = self.result.rows - len(rows)
        chosen = [row for row in rows if self._selection.takes(row)]
        self.result.not_selected = len(rows) - len(chosen)
        return chosen

    async def _feed(self, rows: list[FailedTask], done: DoneFile, assembly: Assembly) -> None:
        """Submit the rows, never more at once than the window."""
        for row in rows:
            await self._room.acquire()
            assembly.dispatcher.submit(self._delivery(row, done))

    def _delivery(self, row: FailedTask, done: DoneFile) -> Delivery:
        def ack(how: Settled) -> None:
            self._room.release()
            self.result.settled[how.value] += 1
            self._run.show()
            # A row that failed again is in the new file; this one is done with either way.
            task = asyncio.create_task(self._note(row, done))
            self._dones.add(task)
            task.add_done_callback(self._dones.discard)

        origin = Origin(row.topic, row.partition, row.offset, self._run.identity)
        return Delivery(self._event(row), origin, row.event, ack)

    async def _note(self, row: FailedTask, done: DoneFile) -> None:
        try:
            await done.add(row.id)
        except errors.TryError as error:
            # It runs once more in the next replay, which finds the file in place.
            log.get().error("DONE_NOT_WRITTEN", error=error, row=row.id)

    def _event(self, row: FailedTask) -> StorageEvent:
        """Read the record again if the row has it, else rebuild the event from the columns."""
        if row.event:
            with contextlib.suppress(errors.Unreadable):
                event = EventReader(self._config.dcache.folder_path).read(row.event)
                if isinstance(event, StorageEvent):
                    return event
        return row.to_event()


def replayed_files(path: Path) -> list[Path]:
    """Return the files of what replays of this one gave up again, oldest first."""
    folder = os.path.dirname(path) or "."
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    begin = f"{path.stem}.replay-"
    return [Path(folder, name) for name in names if name.startswith(begin) and name.endswith(".csv")]
