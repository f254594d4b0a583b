"""Kafka for the demo: the mock cluster inside librdkafka, which speaks Kafka's protocol over TCP, or a real broker.

What is known of the mock cluster: it makes topics of four partitions when they are asked for; a group's first member
joins in 3 s, any further JoinGroup takes as long as a session; no look-up by time; a fetch that finds nothing new is
answered when its time is over, so that a record may be seen half a second late. All of that will do here.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dcalqr import errors

# What the mock cluster gives its topics too.
PARTITIONS = 4
# Milliseconds on one machine; a broker elsewhere that needs longer is not there.
ANSWER_SECONDS = 15.0
# librdkafka says on standard error what we say in words: not below "critical".
QUIET: dict[str, str | int | float | bool] = {"log_level": 2}


class Broker:
    """A topic and a consumer group of the demo's own. A context manager: on a real broker it removes both.

    Parameters
    ----------
    servers
        "host:port" of real brokers; None: an embedded one.

    Attributes
    ----------
    published : int
        Records that were sent (count).

    Raises
    ------
    ServiceUnavailable
        The broker does not answer, or refuses the topic.
    """

    def __init__(self, servers: Sequence[str] | None) -> None:
        self.embedded = servers is None
        mock = {"bootstrap.servers": "embedded", "test.mock.num.brokers": 1}
        self._producer = Producer(QUIET | (mock if servers is None else {"bootstrap.servers": ",".join(servers)}))
        self.published = 0
        self._lost = 0
        suffix = "" if self.embedded else f"-demo-{uuid.uuid4().hex[:8]}"
        self.topic, self.group = f"billing{suffix}", f"dcalqr{suffix}"
        try:
            if servers is None:
                brokers = self._producer.list_topics(self.topic, ANSWER_SECONDS).brokers.values()
                self.servers = [f"{broker.host}:{broker.port}" for broker in brokers]
            else:
                self.servers = list(servers)
                self._create_topic()
        except KafkaException as error:
            raise _unavailable(error, servers) from error
        self._client = QUIET | {"bootstrap.servers": ",".join(self.servers)}
        self._reader = Consumer(self._client | {"group.id": self.group})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        if not self.embedded:
            self._remove()

    def _create_topic(self) -> None:
        # A topic of a real broker needs as many copies as it has by default: -1.
        topic = NewTopic(self.topic, num_partitions=PARTITIONS, replication_factor=-1)
        admin = AdminClient(QUIET | {"bootstrap.servers": ",".join(self.servers)})
        seconds = {"operation_timeout": ANSWER_SECONDS, "request_timeout": ANSWER_SECONDS}
        admin.create_topics([topic], **seconds)[self.topic].result()

    def _remove(self) -> None:
        admin = AdminClient(self._client)
        with contextlib.suppress(KafkaException):  # left behind, as after a kill -9: its name says what it is
            admin.delete_topics([self.topic], request_timeout=ANSWER_SECONDS)[self.topic].result()
            admin.delete_consumer_groups([self.group], request_timeout=ANSWER_SECONDS)[self.group].result()

    # --- records ----------------------------------------------------------------------------------------------

    def publish(self, values: Iterable[bytes]) -> None:
        """Send records, one partition after the other."""
        for value in values:
            self._producer.produce(
                self.topic, value, partition=self.published % PARTITIONS, on_delivery=self._delivered
            )
            self.published += 1
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until the broker has everything.

        Raises
        ------
        ServiceUnavailable
            It does not take it.
        """
        left = self._producer.flush(ANSWER_SECONDS)
        if left or self._lost:
            raise errors.ServiceUnavailable(service="Kafka", why=f"{left + self._lost} records were not taken")

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        self._lost += error is not None

    # --- offsets, seen by another client than the daemon's ----------------------------------------------------

    def ends(self) -> int:
        """Return the sum of all partitions' ends: how many records the topic has (count).

        Raises
        ------
        ServiceUnavailable
            The broker does not answer.
        """
        try:
            marks = [self._reader.get_watermark_offsets(each, ANSWER_SECONDS) for each in self._partitions()]
        except KafkaException as error:
            raise _unavailable(error) from error
        return sum(high for _, high in marks)

    def committed(self) -> int:
        """Return the sum of the group's committed offsets; a partition without one counts as 0.

        Raises
        ------
        ServiceUnavailable
            The broker does not answer.
        """
        try:
            found = self._reader.committed(self._partitions(), ANSWER_SECONDS)
        except KafkaException as error:
            raise _unavailable(error) from error
        return sum(max(0, each.offset) for each in found)

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self.topic, number) for number in range(PARTITIONS)]


def _unavailable(error: KafkaException, servers: Iterable[str] | None = None) -> errors.ServiceUnavailable:
    where = f" at {','.join(servers)}" if servers else ""
    return errors.ServiceUnavailable(service=f"Kafka{where}", why=error.args[0].str())
