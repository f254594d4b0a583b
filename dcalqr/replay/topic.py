"""Running a stretch of the topic again, for example after a disk was lost.

The same filter and task as the daemon's; what is there already settles as such, so it may be stopped, killed and
repeated. What it gives up goes to `<stem>.replay-<utc>.csv`, what it cannot read to `.unreadable` beside that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from dcalqr import errors, log
from dcalqr.config import Config
from dcalqr.dcache.events import EventReader
from dcalqr.dcache.uploads import UploadFilter
from dcalqr.delivery.intake import Gate, Intake
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.kafka.stretch import Stretch
from dcalqr.local.failures import UnreadableFile
from dcalqr.metrics.counters import Counters
from dcalqr.replay.run import Progress, Run
from dcalqr.service.assembly import Assembly

# How soon room in the window is noticed; a file takes longer.
_ROOM_LOOK_SECONDS = 0.02
_LOOK_SECONDS = 1.0
# For what is being written when all else has ended; the disk of the rows may be slow.
_APPENDS_SECONDS = 60.0


@dataclass
class TopicResult(Progress):
    """What a replay did with a stretch of the topic, in counts.

    Parameters
    ----------
    records, passed, lost
        Offsets of the stretch, those that were read, and records that retention deleted first.
    counters
        What was matched and skipped, and why.
    begins_late
        Partitions whose log begins after the stretch should: older records are deleted, if there were any.
    """

    records: int = 0
    passed: int = 0
    lost: int = 0
    counters: Counters = field(default_factory=Counters)
    begins_late: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.records

    @property
    def completed(self) -> int:
        return self.passed

    @property
    def unsettled(self) -> int:
        """Records that were not reached, and matches that were not settled, because the replay was stopped."""
        begun = self.counters.matched + self.counters.unreadable
        return self.records - self.passed + max(0, begun - sum(self.settled.values()))

    @property
    def is_well(self) -> bool:
        """Whether all that the stretch holds is here."""
        return not (self.failed or self.unsettled or self.lost)


class TopicReplay:
    """One replay of a stretch of the topic.

    Parameters
    ----------
    config
        As the daemon's.
    since, until
        Of the records, in seconds since the epoch.
    progress
        Called with the result so far, now and then.
    """

    def __init__(self, config: Config, since: float, until: float, progress: Callable[[TopicResult], None]) -> None:
        self._config = config
        self._stretch = Stretch(config.kafka, since, until)
        self.result = TopicResult()
        self._run = Run(config, config.local.failedtasksfile, self.result, lambda: progress(self.result))

    async def run(self) -> TopicResult:
        """Run all uploads of the stretch.

        Raises
        ------
        StartError
            Kafka or a file cannot be had; another replay of this instance is running.
        FatalError
            It cannot go on.
        """
        self._run.obey_signals()
        async with self._stretch as stretch:
            self.result.records = stretch.records
            self.result.begins_late = [part.partition for part in stretch.parts.values() if part.at_log_begin]
            try:
                if stretch.records:
                    await self._run.perform(self._work)
            finally:
                self._run.threads.shutdown(wait=False, cancel_futures=True)
        return self.result

    async def _work(self, assembly: Assembly) -> None:
        result, dispatcher = self.result, assembly.dispatcher
        result.counters, result.settled = assembly.counters, assembly.counters.settled
        folder = self._config.dcache.folder_path
        unreadable = _Unreadable(str(self._run.own_csv), self._run.threads)
        intake = Intake(
            EventReader(folder),
            UploadFilter(folder),
            dispatcher,
            unreadable,
            assembly.counters,
            replay=self._run.identity,
        )
        reading = asyncio.create_task(self._read(intake, assembly))
        try:
            await self._watch(reading)
            await dispatcher.runs.ended()
            await intake.drain(_APPENDS_SECONDS)
        finally:
            reading.cancel()
            await intake.drain(_APPENDS_SECONDS)
            await unreadable.close()

    async def _watch(self, reading: asyncio.Task[None]) -> None:
        """Wait until all is read, and say it when Kafka is silent."""
        silent = False
        while not reading.done():
            trouble = self._stretch.trouble
            if trouble and not silent:
                log.get().warning("REPLAY", message=trouble)
            silent = bool(trouble)
            self.result.held = self.result.held or trouble
            await asyncio.wait({reading}, timeout=_LOOK_SECONDS)
        reading.result()

    async def _read(self, intake: Intake, assembly: Assembly) -> None:
        gate = Gate(intake, assembly.dispatcher.window)
        trackers: dict[int, OffsetTracker] = {}
        async for part, records in self._stretch.batches():
            tracker = trackers.setdefault(
                part.partition, OffsetTracker(records[0].topic, part.partition, records[0].offset)
            )
            offsets = [record.offset for record in records]
            tracker.track(offsets, max(part.position, offsets[-1] + 1))
            await gate.receive(records, tracker)
            self.result.passed, self.result.lost = self._stretch.passed, self._stretch.lost
            self._run.show()
            if gate.is_full():
                await self._room(gate)
        self.result.passed, self.result.lost = self._stretch.passed, self._stretch.lost

    async def _room(self, gate: Gate) -> None:
        while not gate.has_room():  # noqa: ASYNC110 - a window sets no event
            await asyncio.sleep(_ROOM_LOOK_SECONDS)


class _Unreadable(UnreadableFile):
    """The replay's own file of what it cannot read, made with its first record: the daemon holds the other one."""

    def __init__(self, failedtasksfile: str, threads: Executor) -> None:
        super().__init__(failedtasksfile, threads)
        self._making = asyncio.Lock()
        self._made = False

    async def append(self, *, topic: str, partition: int, offset: int, time: float, reason: str, record: bytes) -> None:
        async with self._making:
            if not self._made:
                try:
                    await self.open()
                except errors.StartError as error:
                    raise errors.WriteFailed(operation="append", why=str(error)) from error
                self._made = True
        await super().append(topic=topic, partition=partition, offset=offset, time=time, reason=reason, record=record)
