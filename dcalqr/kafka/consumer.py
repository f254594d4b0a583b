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
from dcalqr.config import Kafka
from dcalqr.kafka import settings
from dcalqr.kafka.contract import Groups, Receiver
from dcalqr.kafka.membership import COMMIT_SECONDS, SILENCE_SECONDS, Broken, Membership
from dcalqr.kafka.startpoints import OffsetsLost, commit_start_points
from dcalqr.kafka.topics import partitions_of

# Bootstrap, metadata of a topic that may not exist (one request time-out), coordinator.
START_SECONDS = 60.0
FIRST_REBUILD_SECONDS = 1.0
LONGEST_REBUILD_SECONDS = 30.0
OUTAGE_LINE_SECONDS = 60.0
WATCH_SECONDS = 1.0
# At the end, a poll that hangs in a rebalance is not waited for.
LAST_POLL_SECONDS = 1.0


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
        self._stopping = asyncio.Event()
        self._renewed = asyncio.Event()
        self._quiet = self._frozen = False
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
        wait = FIRST_REBUILD_SECONDS
        while not self._stopping.is_set():
            try:
                await self._join()
                wait = FIRST_REBUILD_SECONDS
                await self._consume()
            except errors.FatalError:
                self._frozen = True
                raise
            except (KafkaError, OSError, errors.StartError, OffsetsLost, Broken) as error:
                self._complain(error)
            if self._stopping.is_set() or self._quiet:
                return
            await self._leave()
            self.rebuilds += 1
            await self._rest(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            wait = min(2 * wait, LONGEST_REBUILD_SECONDS)

    async def _join(self) -> None:
        group, topic = self._kafka.consumergroup, self._kafka.topic
        self.turned_at = time.monotonic()
        with settings.LastComplaint() as complaint:
            try:
                async with asyncio.timeout(START_SECONDS):
                    await commit_start_points(self._kafka, group_seen=self._groups.group_seen(group, topic))
                    self.membership = Membership(self._kafka, self._receiver, self._groups, self._session_seconds)
                    self.membership.quiet = self._quiet
                    await self.membership.start()
            except (KafkaError, TimeoutError) as error:
                raise Broken(complaint.explain(error)) from error
        self.trouble = ""
        self._log.info("CONNECTED", servers=list(self._kafka.servers), topic=topic)

    def _complain(self, error: Exception) -> None:
        self.trouble = str(error) or type(error).__name__
        now = time.monotonic()
        if now - self._said_at >= OUTAGE_LINE_SECONDS:
            self._said_at = now
            self._log.error("KAFKA_UNAVAILABLE", message=self.trouble, servers=list(self._kafka.servers))

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    # --- one membership -------------------------------------------------------------------------------------------

    async def _consume(self) -> None:
        assert self.membership is not None
        work = {
            asyncio.create_task(self._poll(self.membership), name="kafka-poll"),
            asyncio.create_task(self._commit(self.membership), name="kafka-commit"),
            asyncio.create_task(self._watch(self.membership), name="kafka-watch"),
            asyncio.create_task(self._renewal(self.membership), name="kafka-renewal"),
        }
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({*work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            for task in (*work, stopping):
                task.cancel()
            await asyncio.wait({*work, stopping}, timeout=LAST_POLL_SECONDS)

    async def _poll(self, membership: Membership) -> None:
        while True:
            await membership.poll()
            self.turned_at = time.monotonic()

    async def _commit(self, membership: Membership) -> None:
        while True:
            await asyncio.sleep(self._kafka.commitseconds)
            if not self._frozen:
                await membership.commit()

    async def _watch(self, membership: Membership) -> None:
        while not membership.is_silent():  # noqa: ASYNC110 - silence sets no event
            await asyncio.sleep(WATCH_SECONDS)
        raise Broken(await self._reason())

    async def _reason(self) -> str:
        """Deleted topic, dead broker and hung broker all look like an empty poll: ask the metadata which it is."""
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await partitions_of(self._kafka.topic, settings.connection(self._kafka))
        except (KafkaError, TimeoutError) as error:
            return str(error) or "the brokers do not answer"
        return f"no fetch was answered for {SILENCE_SECONDS:.0f} s"

    async def _renewal(self, membership: Membership) -> None:
        await self._renewed.wait()
        self._renewed.clear()
        await membership.commit()
        raise Broken("the credentials are read again")

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

    async def aclose(self) -> None:
        """Make the final commit, then leave the group."""
        self._quiet = True
        self._stopping.set()
        if self.membership is not None and not self._frozen:
            await self.membership.commit()
        await self._leave()

    async def _leave(self) -> None:
        membership, self.membership = self.membership, None
        if membership is not None:
            await membership.aclose()
