"""A real Kafka broker for tests: Apache Kafka by KRaft, on loopback, without a container.

A start takes 3 s on an idle machine; share one per test run, with a topic and a group of its own for each test.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from cryptography.hazmat.primitives import serialization

from dcalqr.testing.pki import Pki, make_pki
from tests.support.kafka_properties import Mode, broker_properties, format_options
from tests.support.ports import free_ports
from tests.support.process import MissingComponent, ServerProcess, require, wait_until

START_SECONDS = 90.0  # 13 s were seen on a machine with both cores busy
REQUEST_SECONDS = 30.0  # of the helpers below; each takes milliseconds

_HERE = Path(__file__).parent / "kafka"


class KafkaBroker:
    """One broker; a second `start` has the same ports, data and mode.

    In modes "sasl" and "tls" the `admin` address is open and all-powerful; every helper below uses it. There a topic
    or group is open to all users until its first ACL. Users of "sasl" are `USERS` of `kafka_properties`, by PLAIN and
    SCRAM. In "tls" clients need a certificate: `pki.user_certificate` and `pki.user_key` are good,
    `pki.host_unknown_ca` is of a CA that the broker does not know, and `pki.ca` verifies the broker (localhost,
    127.0.0.1).

    Parameters
    ----------
    folder
        Its own; all its state and its log `kafka.log` live there.
    mode
        What its clients meet.
    properties
        Broker properties that differ from `kafka_properties`.
    """

    def __init__(self, folder: Path, mode: Mode = "plain", properties: Mapping[str, str] | None = None) -> None:
        clients, admin, controller = free_ports(3)
        self.folder = folder
        self.mode = mode
        self.bootstrap = f"127.0.0.1:{clients}"
        self.admin = self.bootstrap if mode == "plain" else f"127.0.0.1:{admin}"
        folder.mkdir(parents=True, exist_ok=True)
        self.pki = make_pki(folder / "pki")
        (folder / "broker.pem").write_bytes(_keystore(self.pki))
        lines = broker_properties(mode, folder, (clients, admin, controller)) | dict(properties or {})
        (folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """The broker's process: `kill`, `suspend` and `resume` it, or read its `output`."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> Self:
        """Start it, and return when it serves.

        Raises
        ------
        MissingComponent
            Java, or Kafka's jars and the Maven that would fetch them.
        """
        if self._process is None:
            command = [str(_HERE / "start-kafka.sh"), kafka_jars(), str(self.folder), *format_options(self.mode)]
            environment = {**os.environ, "JAVA": java()}
            self._process = ServerProcess(command, self.folder / "kafka.log", environment)
        process = self._process
        process.start(lambda: "Kafka Server started" in process.output(), START_SECONDS)
        wait_until(self._leads, REQUEST_SECONDS, "leaders after the start")
        return self

    def stop(self) -> None:
        """End it cleanly, in 1 to 2 s."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- topics and records -----------------------------------------------------------------------------------

    def new_admin(self) -> AdminClient:
        """For what no helper does, such as ACLs. Its requests fail when it is collected under them: keep it by name."""
        return AdminClient({"bootstrap.servers": self.admin, "log_level": 0})

    def create_topic(self, name: str, partitions: int = 4, **configs: str | int) -> None:
        """Make a topic. Its settings are given with underscores: `retention_ms=2000`."""
        config = {key.replace("_", "."): str(value) for key, value in configs.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
        admin = self.new_admin()
        _wait(admin.create_topics([topic], operation_timeout=REQUEST_SECONDS))
        wait_until(lambda: self._serves(name), REQUEST_SECONDS, f"leaders of {name}")

    def delete_topic(self, name: str) -> None:
        admin = self.new_admin()
        _wait(admin.delete_topics([name], operation_timeout=REQUEST_SECONDS))

    def grow_topic(self, name: str, partitions: int) -> None:
        """Give a topic so many partitions in all."""
        admin = self.new_admin()
        _wait(admin.create_partitions([NewPartitions(name, partitions)]))

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Let the records of each partition below an offset go, as retention does."""
        marks = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
        admin = self.new_admin()
        _wait(admin.delete_records(marks))

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | None],
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> list[tuple[int, int]]:
        """Write records and wait until the broker has them.

        Parameters
        ----------
        topic
            Must exist.
        values
            One record each; None is a tombstone.
        partition
            Of all of them; without it they go round robin from partition 0.
        timestamp_ms
            Of all of them, since the epoch; without it, now.

        Returns
        -------
        list[tuple[int, int]]
            Partition and offset of each, in the order of `values`.
        """
        places: list[tuple[int, int]] = []
        producer = Producer({"bootstrap.servers": self.admin, "linger.ms": 0, "log_level": 0})
        with self._reader() as reader:
            count = len(_partitions(reader, topic))
        for number, value in enumerate(values):
            places.append((-1, -1))

            def delivered(error: KafkaError | None, message: Message, number: int = number) -> None:
                if error is None:
                    places[number] = (message.partition() or 0, message.offset() or 0)

            where = number % count if partition is None else partition
            producer.produce(topic, value, partition=where, on_delivery=delivered, timestamp=timestamp_ms or 0)
            producer.poll(0)
        producer.flush(REQUEST_SECONDS)
        assert (-1, -1) not in places, f"{topic}: not all records reached the broker"
        return places

    # --- offsets ----------------------------------------------------------------------------------------------

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset that its next record will get."""
        return {partition: high for partition, (_, high) in self._watermarks(topic).items()}

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset of the oldest record that is still there."""
        return {partition: low for partition, (low, _) in self._watermarks(topic).items()}

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """Per partition, the offset of the first record that is not older; -1: none."""
        with self._reader() as reader:
            marks = [TopicPartition(topic, partition, timestamp_ms) for partition in _partitions(reader, topic)]
            return {each.partition: each.offset for each in reader.offsets_for_times(marks, REQUEST_SECONDS)}

    def _watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        with self._reader() as reader:
            return {
                partition: reader.get_watermark_offsets(TopicPartition(topic, partition), REQUEST_SECONDS)
                for partition in _partitions(reader, topic)
            }

    def _leads(self) -> bool:
        """Whether what an earlier run left has its leaders again."""
        topics = self.new_admin().list_topics(timeout=REQUEST_SECONDS).topics
        return all(self._serves(name) for name in topics if not name.startswith("__"))

    def _serves(self, topic: str) -> bool:
        """Whether all partitions have a leader, which they get a moment after the topic is there."""
        try:
            self._watermarks(topic)
        except KafkaException:
            return False
        return True

    @contextmanager
    def _reader(self) -> Iterator[Consumer]:
        reader = Consumer({"bootstrap.servers": self.admin, "group.id": "unused"})
        try:
            yield reader
        finally:
            reader.close()

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What a group has committed, per partition; partitions without an offset are absent."""
        admin = self.new_admin()
        answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        places = answer[group].result(REQUEST_SECONDS).topic_partitions
        return {each.partition: each.offset for each in places if each.topic == topic and each.offset >= 0}

    def set_committed(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit for a group that has no member now."""
        marks = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        request = ConsumerGroupTopicPartitions(group, marks)
        admin = self.new_admin()
        _wait(admin.alter_consumer_group_offsets([request]))


# --- what it takes --------------------------------------------------------------------------------------------


def java() -> str:
    """The java that runs the broker: $JAVA, else the one on PATH."""
    how = "Kafka needs Java 17 or newer: apt-get install openjdk-17-jre-headless, or set JAVA to another java."
    found = require(os.environ.get("JAVA", "java"), how)
    version = subprocess.run([found, "-version"], capture_output=True, text=True, check=True).stderr
    numbers = re.search(r'version "(\d+)', version)
    if numbers is None or int(numbers[1]) < 17:
        raise MissingComponent(f"Java 17 ({found} is {version.splitlines()[0]})", how)
    return found


def kafka_jars() -> str:
    """The folder of Kafka's jars, filled if it has to be."""
    fetch = subprocess.run([_HERE / "fetch-jars.sh"], capture_output=True, text=True, check=False)
    if fetch.returncode != 0:
        raise MissingComponent("Kafka", f"tests/support/kafka/fetch-jars.sh said: {fetch.stderr.strip()}")
    return fetch.stdout.strip()


def _partitions(reader: Consumer, topic: str) -> list[int]:
    """The partitions of a topic, which must exist."""
    found = reader.list_topics(topic, REQUEST_SECONDS).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return sorted(found.partitions)


def _keystore(pki: Pki) -> bytes:
    """The broker's key and certificate in one PEM file, the key as PKCS#8: Kafka reads no other."""
    key = serialization.load_pem_private_key(pki.host_key.read_bytes(), password=None)
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return pem + pki.host_certificate.read_bytes()


def _wait(futures: Mapping[Any, Future[Any]]) -> None:
    """Raise what any of the requests met."""
    for future in futures.values():
        future.result(REQUEST_SECONDS)
