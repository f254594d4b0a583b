"""The consumer: one membership in the group after another, for as long as the daemon runs.

aiokafka's calls can block without limit in a rebalance and during an outage, whatever their time-outs say. So polling
runs in an asyncio.Task of its own, never under `wait_for`; everything else is under a limit; and a membership that
makes no progress is given up for a new one.
"""

from __future__ import annotations

import asyncio
import random
import time

from aiokafka.errors import KafkaError

from dcalqr import errors, log
from dcalqr.cancels import was_asked_to_end
from dcalqr.config import Kafka
from dcalqr.kafka import settings
from dcalqr.kafka.contract import Broken, Groups, Receiver
from dcalqr.kafka.membership import COMMIT_SECONDS, REVOCATION_SECONDS, SILENCE_SECONDS, Membership
from dcalqr.kafka.startpoints import OffsetsLost, commit_start_points
from dcalqr.kafka.topics import partitions_of

# Bootstrap, metadata of a topic that may not exist (one request time-out), coordinator.
START_SECONDS = 60.0
FIRST_REBUILD_SECONDS = 1.0
# Behind it come the join and, where a session has yet to end, its 15 s: together less than the 30 s after which an
# outage that is over has to be forgotten.
LONGEST_REBUILD_SECONDS = 10.0
# A membership that lived as long was a good one: what ended it is a new trouble, not the old one again.
GOOD_SECONDS = 60.0
OUTAGE_LINE_SECONDS = 60.0
WATCH_SECONDS = 1.0
# At the end, a poll that hangs in a rebalance is not waited for.
LAST_POLL_SECONDS = 1.0
# All that `run` may have under way has a limit of its own, but for asking which partitions there are: a time-out of a
# request.
END_SECONDS = 5.0

# What another membership may cure.
_CURABLE = (KafkaError, OSError, errors.StartError, OffsetsLost, Broken)


class Consumer:
    """Reads one topic as a member of a consumer group.

    Parameters
    ----------
    kafka
        Section kafka of the configuration.
    receiver
        Takes the batches.
    groups
        The state folder's memory.
    session_seconds
        After a kill -9 the whole group stands still until it has passed.
    """

    def __init__(
        self, kafka: Kafka, receiver: Receiver, groups: Groups, session_seconds: float = settings.SESSION_SECONDS
    ) -> None:
        self._kafka, self._receiver, self._groups = kafka, receiver, groups
        self._session_seconds = session_seconds
        self._log = log.get()
        self._work: asyncio.Task[None] | None = None
        self._renewed = asyncio.Event()
        self._quiet = self._frozen = self._closed = False
        self._offsets_lost = False
        self._said_at = float("-inf")
        self.membership: Membership | None = None
        self.trouble = "not connected yet"
        self.rebuilds = 0
        # Monotonic seconds; whoever watches this process looks at it.
        self.turned_at = time.monotonic()

    async def run(self) -> None:
        """Consume until `aclose`.

        Raises
        ------
        FatalError
            The receiver cannot go on; nothing further will be committed.
        """
        if self._closed:
            return
        self._work = asyncio.create_task(self._live(), name="kafka")
        try:
            await asyncio.wait({self._work})
        finally:
            self._work.cancel()
        if not (self._closed and self._work.cancelled()):
            self._work.result()

    async def _live(self) -> None:
        """Be a member, again and again: whatever ends a membership, another one may cure it."""
        wait = FIRST_REBUILD_SECONDS
        while True:
            began_at = time.monotonic()
            try:
                await self._consume(await self._join())
            except _CURABLE as error:
                self._complain(error)
            except asyncio.CancelledError:
                if was_asked_to_end():
                    raise
                self._complain(Broken("the Kafka client cancelled its own work"))
            except Exception:
                self.freeze()
                raise
            if self._quiet:
                return
            if self.membership is not None:
                await self.membership.commit(REVOCATION_SECONDS)
            await self._leave()
            self.rebuilds += 1
            if time.monotonic() - began_at > GOOD_SECONDS:
                wait = FIRST_REBUILD_SECONDS
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            wait = min(2 * wait, LONGEST_REBUILD_SECONDS)

    async def _join(self) -> Membership:
        group, topic = self._kafka.consumergroup, self._kafka.topic
        self.turned_at = time.monotonic()
        self._renewed.clear()  # what was renewed before is read now
        with settings.LastComplaint() as complaint:
            try:
                async with asyncio.timeout(START_SECONDS):
                    seen = self._groups.group_seen(group, topic)
                    await commit_start_points(self._kafka, group_seen=seen, for_all=self._offsets_lost)
                    self._offsets_lost = False
                    membership = Membership(self._kafka, self._receiver, self._groups, self._session_seconds)
                    membership.quiet, membership.frozen = self._quiet, self._frozen
                    self.membership = membership
                    await membership.start()
            except OffsetsLost:
                self._offsets_lost = True
                raise
            except (KafkaError, TimeoutError) as error:
                raise Broken(complaint.explain(error)) from error
        return membership

    def _complain(self, error: Exception) -> None:
        self.trouble = str(error) or type(error).__name__
        now = time.monotonic()
        if now - self._said_at >= OUTAGE_LINE_SECONDS:
            self._said_at = now
            self._log.error("KAFKA_UNAVAILABLE", message=self.trouble, servers=list(self._kafka.servers))

    # --- one membership -------------------------------------------------------------------------------------------

    async def _consume(self, membership: Membership) -> None:
        """Work until something of it ends; returns when the credentials were renewed.

        Raises
        ------
        Broken, KafkaError, FatalError
            The first reason that another membership would not cure, else any.
        """
        work = {
            asyncio.create_task(self._poll(membership), name="kafka-poll"),
            asyncio.create_task(self._commit(membership), name="kafka-commit"),
            asyncio.create_task(self._watch(membership), name="kafka-watch"),
            asyncio.create_task(self._renewal(membership), name="kafka-renewal"),
        }
        ends: list[BaseException] = []
        for task in work:
            task.add_done_callback(lambda task: ends.extend(_failure(task)))
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            if any(task.cancelled() for task in done):
                ends.append(Broken("the Kafka client cancelled its own work"))
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work, timeout=LAST_POLL_SECONDS)
        # Several may have ended at once: what no other membership cures goes first.
        for error in sorted(ends, key=lambda error: isinstance(error, _CURABLE)):
            raise error

    async def _poll(self, membership: Membership) -> None:
        while True:
            try:
                await membership.poll()
            except errors.FatalError:
                self.freeze()
                raise
            self.turned_at = time.monotonic()
            if self.trouble and membership.is_reading():
                self.trouble = ""
                self._log.info("CONNECTED", servers=list(self._kafka.servers), topic=self._kafka.topic)

    async def _commit(self, membership: Membership) -> None:
        while True:
            await asyncio.sleep(self._kafka.commitseconds)
            await membership.commit()

    async def _watch(self, membership: Membership) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if time.monotonic() - self.turned_at > SILENCE_SECONDS:
                raise Broken(f"a rebalance has not ended for {SILENCE_SECONDS:g} s")
            if membership.is_silent():
                raise Broken(await self._reason())

    async def _reason(self) -> str:
        """Deleted topic, dead broker and hung broker all look like an empty poll: ask the metadata which it is."""
        return await self._obstacle() or f"no fetch was answered for {SILENCE_SECONDS:g} s"

    async def _obstacle(self) -> str | None:
        """Say why a new connection would not see the topic; None: it would."""
        with settings.LastComplaint() as complaint:
            try:
                async with asyncio.timeout(COMMIT_SECONDS):
                    await partitions_of(self._kafka.topic, settings.connection(self._kafka))
            except TimeoutError:
                return "the brokers do not answer"
            except (KafkaError, OSError, errors.StartError) as error:
                return complaint.explain(error)
        return None

    async def _renewal(self, membership: Membership) -> None:
        """Return when there are new credentials that are good: bad ones must not cost a membership that works."""
        while True:
            await self._renewed.wait()
            self._renewed.clear()
            obstacle = await self._obstacle()
            if obstacle is None:
                return await membership.commit()
            self._log.error("KAFKA_CREDENTIALS", message=f"not used, the old connection stays: {obstacle}")

    def renew(self, kafka: Kafka) -> None:
        """Join anew, with the credentials that are on disk now."""
        self._kafka = kafka
        self._renewed.set()

    # --- the end --------------------------------------------------------------------------------------------------

    def quiesce(self) -> None:
        """Take nothing more; the membership stays until `aclose`, and marks are committed as they move."""
        self._quiet = True
        if self.membership is not None:
            self.membership.quiet = True

    def freeze(self) -> None:
        """Commit nothing any more."""
        self._frozen = True
        if self.membership is not None:
            self.membership.frozen = True

    async def aclose(self) -> None:
        """Make the final commit, then leave the group."""
        self.quiesce()
        self._closed = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work}, timeout=END_SECONDS)
        if self.membership is not None:
            await self.membership.commit()
        await self._leave()

    async def _leave(self) -> None:
        membership, self.membership = self.membership, None
        if membership is not None:
            await membership.aclose()


def _failure(task: asyncio.Task[None]) -> list[BaseException]:
    """Return what a task that ended has raised, so that asyncio need not complain of it later."""
    error = None if task.cancelled() else task.exception()
    return [] if error is None else [error]
