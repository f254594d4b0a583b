"""Per job: wait, try, retry, hold, row, settle, ack. Every Task gets these; the dispatcher knows none of them.

A job is one asyncio.Task that lives while one of its deliveries lives. Whoever waits (for the not-before, for
visibility, for a retry, at a hold) holds no slot: slots are the Copier's, and the Task takes one only to copy.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from dcalqr import errors, log
from dcalqr.delivery.holding import Holding
from dcalqr.delivery.rows import RowWriter, failed_row, write_row
from dcalqr.delivery.runs import Runs
from dcalqr.delivery.window import Window
from dcalqr.inflight import Inflight, Job
from dcalqr.metrics.counters import Counters
from dcalqr.model import Delivery, Outcome, Settled, StorageEvent, new_identity
from dcalqr.plugins import Task, TaskContext
from dcalqr.retry import RetryPolicy, look_wait_seconds, not_before_seconds

# Room is made by people and clean-up jobs, not within seconds.
ROOM_LOOK_SECONDS = 30.0
# Below the tolerated row of unreachable tries: long enough that ten of them are not one hiccup.
UNREACHABLE_WAIT_SECONDS = 2.0
# Something that changes under the plan five times is not chance: from then on it costs budget.
FREE_REPLANS = 5
# A worker that dies costs its orders nothing; one order whose workers die again and again may be what kills them.
FREE_LOSSES = 5

Settlement = Callable[[Delivery, Settled, TaskContext | None, errors.TryError | None, float], None]


class Dispatcher:
    """Runs a Task for every delivery and settles it.

    Parameters
    ----------
    task
        What runs for each event that is ours.
    policy
        When a transient failure is tried again, and how often.
    rows
        Takes what is given up; durable.
    counters
        Where this counts.
    report
        Told of each settled delivery: how, with what context, error and seconds since it was received.
    delay_seconds
        No try before event date + this; never longer than this itself.
    window
        Unsettled deliveries at which intake pauses (count).
    """

    def __init__(
        self,
        *,
        task: Task,
        policy: RetryPolicy,
        rows: RowWriter,
        counters: Counters,
        report: Settlement,
        delay_seconds: float,
        window: int,
    ) -> None:
        self.task, self.policy, self.counters, self.rows = task, policy, counters, rows
        self.holding = Holding(task.probe, counters)
        self.inflight = Inflight()
        self.window = Window(window)
        self.runs = Runs()
        self._report = report
        self._delay_seconds = delay_seconds
        self._log = log.get()
        self._received_at: dict[int, float] = {}

    # --- intake ---------------------------------------------------------------------------------------------------

    def submit(self, delivery: Delivery) -> None:
        """Take a delivery that is ours; from now on this dispatcher settles it."""
        event = delivery.event
        key = self.task.key(event)
        if self.inflight.landed_before(key, event):
            delivery.identity = new_identity()
            self.counters.settled[Settled.ALREADY.value] += 1
            self._report(delivery, Settled.ALREADY, None, None, 0.0)
            delivery.settle(Settled.ALREADY)
            return
        job, new = self.inflight.join(key, delivery)
        self.window.open += 1
        self._received_at[id(delivery)] = time.monotonic()
        where = delivery.origin
        self._log.info(
            "UPLOAD", path=event.path, size=event.size_bytes, pnfsid=event.pnfsid, uuid=job.identity,
            partition=where.partition, offset=where.offset, staged=event.staged or None,
        )  # fmt: skip
        if new:
            self.runs.start(job, self._work(job))
        else:
            self.runs.wake(job)

    def seconds_open(self, job: Job) -> float:
        """Return for how long the job's oldest delivery is here."""
        return time.monotonic() - min(self._received_at[id(delivery)] for delivery in job.deliveries)

    def look_now(self, event: StorageEvent) -> None:
        """Wake the jobs that wait for this event's upload."""
        for job in self.inflight.waiting_for(event):
            if event.kind == "remove":
                for version, effort in job.efforts.items():
                    effort.removed = effort.removed or version.pnfsid == event.pnfsid
            self.runs.wake(job)

    # --- one job --------------------------------------------------------------------------------------------------

    async def _work(self, job: Job) -> None:
        date = job.deliveries[0].event.date
        await self.runs.sleep(job, not_before_seconds(date, self._delay_seconds, time.time()))
        releases = self.holding.releases
        while job.deliveries and not self.runs.draining:
            if not self.holding.is_free:
                await self.runs.idle(job, self.holding.free())
                continue
            if releases != self.holding.releases:  # the door may have been away, also while this job slept
                releases = self.holding.releases
                job.look_anew()
            self.runs.looking(job)
            delivery = job.begin()
            context = self._context(job, delivery)
            try:
                outcome = Outcome(await self.task.run(delivery.event, context))
            except errors.TryError as error:
                await self._after(job, context, error)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and self.runs.draining:
                    raise
                # A plug-in's mistake must not stop the other files; a cancel that nobody sent would end the job unsaid.
                self._log.error("TASK_RAISED", exc_info=error, uuid=job.identity)
                await self._after(job, context, errors.TaskRaised(what=f"{type(error).__name__}: {error}"))
            else:
                self._ended_well(job, context, outcome)

    def _context(self, job: Job, delivery: Delivery) -> TaskContext:
        effort = job.effort
        where = delivery.origin
        bound = self._log.bind(uuid=job.identity, partition=where.partition, offset=where.offset)

        def say(event_name: str, /, *, level: str = "info", **fields: object) -> None:
            getattr(bound, level)(event_name, **fields)

        return TaskContext(
            identity=job.identity,
            origin=where,
            try_number=effort.tries,
            looks=effort.looks,
            versions=job.versions,
            removed=effort.removed,
            memory=effort.memory,
            say=say,
        )

    # --- after a try ----------------------------------------------------------------------------------------------

    async def _after(self, job: Job, context: TaskContext, error: errors.TryError) -> None:
        effort = job.effort
        effort.trouble = str(error)
        if error.door_answered:
            self.holding.door_reached()
        if not isinstance(error, errors.NotYet) or isinstance(error, errors.NoRoom):
            effort.looks = 0
        match error:
            case errors.HeldError():
                effort.tries -= 1
                await self._held(job, context, error)
                return
            case errors.NotYet():
                effort.tries -= 1
                await self._not_yet(job, context, error)
                return
            case errors.PlanAgain():
                effort.replans += 1
                if effort.replans <= FREE_REPLANS:
                    return
                error = errors.TransientError(why=str(error))
            case errors.WorkerLost() if effort.losses < FREE_LOSSES:
                effort.losses += 1
                effort.tries -= 1
                context.say("COPY_RETRY", level="warning", error=error)
                await self.runs.sleep(job, 1.0)
                return
            case _:
                pass
        if isinstance(error, errors.TransientError):
            await self._retry(job, context, error)
        else:
            await self._give_up(job, context, error)

    async def _not_yet(self, job: Job, context: TaskContext, error: errors.NotYet) -> None:
        effort = job.effort
        wait = ROOM_LOOK_SECONDS if isinstance(error, errors.NoRoom) else look_wait_seconds(effort.looks)
        if effort.looks == 0 or isinstance(error, errors.NoRoom):
            context.say("WAIT_VISIBLE", error=error)
        effort.looks += not isinstance(error, errors.NoRoom)
        waiting = len(job.deliveries)
        self.window.invisible += waiting
        try:
            await self.runs.sleep(job, wait, until_woken=True)
        finally:
            self.window.invisible -= waiting

    async def _retry(self, job: Job, context: TaskContext, error: errors.TransientError) -> None:
        effort = job.effort
        effort.failures += 1
        if self.policy.spent(effort.failures):
            await self._give_up(
                job, context, errors.RetriesSpent(attempts=effort.tries, why=str(error), http_status=error.http_status)
            )
            return
        wait = self.policy.wait_seconds(effort.failures, error, random.random())  # noqa: S311 - jitter, not a secret
        self.counters.retries[type(error).__name__] += 1
        context.say("COPY_RETRY", level="warning", error=error, failures=effort.failures, wait_seconds=round(wait, 3))
        await self.runs.sleep(job, wait)

    async def _held(self, job: Job, context: TaskContext, error: errors.HeldError) -> None:
        if not self.holding.failed(error):
            context.say("COPY_RETRY", level="warning", error=error)
            await self.runs.sleep(job, UNREACHABLE_WAIT_SECONDS * random.random())  # noqa: S311 - jitter, not a secret

    async def _give_up(self, job: Job, context: TaskContext, error: errors.TryError) -> None:
        """Write a row for each version that this try was about, then settle; never settle without the row."""
        covered = job.covered()
        written = set()
        for delivery in covered:
            if delivery.event.version not in written:
                row = failed_row(delivery, self.task.name, job.efforts[delivery.event.version], error)
                await write_row(self.rows, row, self.counters)
                written.add(delivery.event.version)
        self.counters.failed[error.error_class] += len(written)
        context.say("COPY_FAILED", level="error", error=error, path=job.tried.event.path, attempts=job.effort.tries)
        self._settle(job, [(delivery, Settled.FAILED) for delivery in covered], context, error)

    def _ended_well(self, job: Job, context: TaskContext, outcome: Outcome) -> None:
        if outcome is not Outcome.ALREADY:
            self.holding.door_reached()
        size = context.facts.get("size_bytes")
        if isinstance(size, int):
            self.counters.landed_bytes += size
            self.counters.unverified += context.facts.get("verified") is False
        self._settle(job, self.inflight.verdicts(job, outcome, context.found), context, None)

    def _settle(
        self, job: Job, ends: list[tuple[Delivery, Settled]], context: TaskContext, error: errors.TryError | None
    ) -> None:
        self.inflight.end(job, ends)
        for delivery, how in ends:
            self.window.open -= 1
            self.counters.settled[how.value] += 1
            seconds = time.monotonic() - self._received_at.pop(id(delivery))
            self._report(delivery, how, context, error, seconds)
            delivery.settle(how)

    # --- the end --------------------------------------------------------------------------------------------------

    async def drain(self, grace_seconds: float) -> None:
        """End: who only waits is let go at once, who works has `grace_seconds`, then is told to stop.

        What is not settled then was never acked, and comes again.
        """
        await self.runs.drain(grace_seconds)
        await self.cancel()

    async def cancel(self) -> None:
        """Tell everything to stop, and await its answer."""
        await self.runs.cancel()
        await self.holding.aclose()
