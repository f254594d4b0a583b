"""From a batch of Kafka records to deliveries: read, judge, and settle at once what is not ours.

Nearly all records are somebody else's: a glance dismisses those, all of a batch in one step, without a delivery or a
line. The offsets were tracked before, also in one step, and each end knows its tracker. So judging the others may let
others work in between: what a rebalance or the daemon's end leaves unjudged stays open, is not committed, comes again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from dcalqr import errors, log
from dcalqr.delivery.rows import failed_row, until_durable, write_row
from dcalqr.delivery.window import Window
from dcalqr.dispatcher import Dispatcher
from dcalqr.kafka.offsets import OffsetTracker
from dcalqr.local.failures import UnreadableFile
from dcalqr.metrics.counters import Counters
from dcalqr.model import KNOWN_FORM, LOOK_NOW, MATCH, Decision, Delivery, Origin, Settled, Skip, StorageEvent, Verdict
from dcalqr.plugins import Filter

# A broken filter, or a new message format, and not bad luck: see stop 3 of the ten.
BROKEN_IN_A_ROW = 10
WATCHED_UPLOADS = 1000
# Enough to recognise a message by, little enough for a log line.
SAMPLE_BYTES = 256
SAMPLE_SECONDS = 60.0
# Each costs a log line and the steps of a new job, 0.2 ms: far less, together, than the 50 ms that nothing may take.
SLICE_UPLOADS = 16
# What a filter says no to without a reason.
SKIP_FILTER = Skip("filter")


class Record(Protocol):
    """What is needed of a Kafka record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...


class Reader(Protocol):
    """Makes events of records' bytes, or says why they are none of ours."""

    def sift(self, values: Iterable[bytes | None]) -> tuple[list[int], Mapping[Skip, int]]:
        """Return the places of those that have to be read, and how many of the others are not ours for which reason."""
        ...

    def read(self, value: bytes | None) -> StorageEvent | Skip:
        """Read one; raises `Unreadable`."""
        ...


class Intake:
    """Reads and judges records, hands what is ours to the dispatcher.

    Parameters
    ----------
    reader
        What understands the records' bytes.
    judge
        The filter.
    dispatcher
        Takes what matches.
    unreadable
        Keeps what cannot be understood.
    counters
        Where this counts.
    replay
        The identity of the replay that this reads for; empty: the daemon's own work.
    """

    def __init__(
        self,
        reader: Reader,
        judge: Filter,
        dispatcher: Dispatcher,
        unreadable: UnreadableFile,
        counters: Counters,
        replay: str = "",
    ) -> None:
        self._replay = replay
        self._reader, self._filter, self._dispatcher = reader, judge, dispatcher
        self._unreadable, self._counters = unreadable, counters
        self._log = log.get()
        self._appends: set[asyncio.Task[None]] = set()
        self._broken = 0
        self._forms = {KNOWN_FORM}
        self._uploads: deque[bool] = deque(maxlen=WATCHED_UPLOADS)
        self._bad_uploads = 0
        self._sampled_at: dict[str, float] = {}

    async def receive(self, records: Sequence[Record], tracker: OffsetTracker) -> None:
        """Take a tracked batch; lets others work while it reads what it could not dismiss.

        Raises
        ------
        FatalError
            The filter is broken or the format is a new one: nothing further may be committed.
        """
        rest, skips = self._reader.sift([record.value for record in records])
        dismissed = [record.offset for record in records]
        for place in reversed(rest):
            del dismissed[place]
        tracker.close_all(dismissed)
        for (reason,), count in skips.items():
            self._counters.events["skip", reason] += count
        for number, place in enumerate(rest, 1):
            self._decide(records[place], tracker)
            if number % SLICE_UPLOADS == 0:
                await asyncio.sleep(0)

    def _decide(self, record: Record, tracker: OffsetTracker) -> None:
        try:
            event = self._reader.read(record.value)
        except errors.Unreadable as error:
            self._keep(record, error, tracker)
            return
        skip = event if isinstance(event, Skip) else self._take(event, record, tracker)
        if skip is not None:
            self._counters.events["skip", skip.reason] += 1
            tracker.close(record.offset)

    def _take(self, event: StorageEvent, record: Record, tracker: OffsetTracker) -> Skip | None:
        """Judge one event; returns why it is not ours, None if its offset is, or will be, closed by somebody else."""
        verdict = self._judge(event, record, tracker)
        if verdict is MATCH:
            self._look_at_oddities(event)
            self._counters.events["match", ""] += 1
            self._watch(good=True)
            self._counters.last_event_at = event.date
            self._dispatcher.submit(_delivery(event, record, tracker, self._replay))
        elif verdict is LOOK_NOW:
            self._counters.events["look_now", ""] += 1
            self._dispatcher.look_now(event)
            tracker.close(record.offset)
        return verdict if isinstance(verdict, Skip) else None

    def _look_at_oddities(self, event: StorageEvent) -> None:
        """Take note of what is accepted although it is not as it was in all years."""
        if event.date is None:
            self._counters.events["undated", ""] += 1
        if event.form not in self._forms:
            self._forms.add(event.form)
            self._log.warning("UNKNOWN_FORM", form=event.form, message="a message form we do not know is read as 1.0")

    def _judge(self, event: StorageEvent, record: Record, tracker: OffsetTracker) -> Verdict | None:
        """Ask the filter; one that raises costs a row, not the daemon, unless it always does."""
        try:
            verdict = _verdict(self._filter.judge(event))
        except Exception as error:  # a plug-in's mistake
            self._broken += 1
            self._log.error("FILTER_RAISED", exc_info=error, partition=record.partition, offset=record.offset)
            if self._broken >= BROKEN_IN_A_ROW:
                raise errors.FatalError(why=f"the filter raised {BROKEN_IN_A_ROW} times in a row: {error}") from error
            row = partial(
                self._row,
                _delivery(event, record, tracker, self._replay),
                errors.PermanentError(why=f"filter: {error}"),
            )
            self._append(row)
            return None
        self._broken = 0
        return verdict

    async def _row(self, delivery: Delivery, error: errors.PermanentError) -> None:
        row = failed_row(delivery, self._dispatcher.task.name, None, error)
        await write_row(self._dispatcher.rows, row, self._counters)
        self._counters.failed[error.error_class] += 1
        self._counters.settled[Settled.FAILED.value] += 1
        delivery.settle(Settled.FAILED)

    # --- unreadable -----------------------------------------------------------------------------------------------

    def _watch(self, *, good: bool) -> None:
        if len(self._uploads) == WATCHED_UPLOADS and not self._uploads[0]:
            self._bad_uploads -= 1
        self._uploads.append(good)
        self._bad_uploads += not good
        if 2 * self._bad_uploads > WATCHED_UPLOADS:
            raise errors.FatalError(
                why=f"{self._bad_uploads} of the last {WATCHED_UPLOADS} upload records are unreadable: "
                f"see {self._unreadable.path}; is this a new message format?"
            )

    def _keep(self, record: Record, error: errors.Unreadable, tracker: OffsetTracker) -> None:
        reason = str(error.facts.get("reason"))
        self._counters.events["unreadable", reason] += 1
        self._watch(good=False)
        now = time.monotonic()
        if now - self._sampled_at.get(reason, float("-inf")) >= SAMPLE_SECONDS:
            self._sampled_at[reason] = now
            sample = (record.value or b"")[:SAMPLE_BYTES]
            where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            self._log.warning("UNREADABLE", error=error, sample=sample, file=self._unreadable.path, **where)
        self._append(partial(self._keep_durably, record, reason, tracker))

    async def _keep_durably(self, record: Record, reason: str, tracker: OffsetTracker) -> None:
        append = partial(
            self._unreadable.append,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            time=time.time(),
            reason=reason,
            record=record.value or b"",
        )
        await until_durable(append, self._counters)
        self._counters.settled[Settled.UNREADABLE.value] += 1
        tracker.close(record.offset)

    def _append(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        append = asyncio.create_task(work())
        self._appends.add(append)
        append.add_done_callback(self._appended)

    def _appended(self, append: asyncio.Task[None]) -> None:
        self._appends.discard(append)
        fatal = self._dispatcher.runs.fatal
        if not append.cancelled() and (error := append.exception()) is not None and not fatal.done():
            fatal.set_exception(error)  # a mistake of ours: its offset would stay open unsaid

    @property
    def appending(self) -> int:
        """Durable appends under way (count); they belong to the window."""
        return len(self._appends)

    async def drain(self, grace_seconds: float) -> None:
        """Wait for the appends under way; what is not durable by then was not acked."""
        if self._appends:
            await asyncio.wait(self._appends, timeout=grace_seconds)
        for append in list(self._appends):
            append.cancel()


class Gate:
    """Joins intake and window to what the consumer needs of both: a `Receiver`."""

    def __init__(self, intake: Intake, window: Window) -> None:
        self._intake, self._window = intake, window

    async def receive(self, records: Sequence[Record], tracker: OffsetTracker) -> None:
        await self._intake.receive(records, tracker)

    def is_full(self) -> bool:
        return self._window.is_full or self._intake.appending >= self._window.limit

    def has_room(self) -> bool:
        return self._window.has_room and 2 * self._intake.appending <= self._window.limit


def _verdict(answer: object) -> Verdict:
    """Read what a filter says: a verdict, or yes or no; anything else is its mistake."""
    if isinstance(answer, bool):
        return MATCH if answer else SKIP_FILTER
    if not isinstance(answer, Decision | Skip):
        raise TypeError(f"{answer!r} is no verdict")
    return answer


def _delivery(event: StorageEvent, record: Record, tracker: OffsetTracker, replay: str) -> Delivery:
    offset = record.offset

    def ack(_: Settled) -> None:
        tracker.close(offset)

    return Delivery(event, Origin(record.topic, record.partition, offset, replay), record.value or b"", ack)
