"""Batches that cannot be decoded, on the disk of a real broker (row 15 of the fault matrix)."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaConnectionError,
    RecordTooLargeError,
    UnsupportedCodecError,
)
from aiokafka.record.util import calc_crc32c
from confluent_kafka import Producer

from dcalqr.kafka.contract import Broken
from dcalqr.kafka.halts import Halts, is_undecodable
from dcalqr.kafka.offsets import OffsetTracker
from tests.kafka.reading import Reader, Running, numbers, running, section, until, until_committed
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.usefixtures("nothing_left", "quick")

# Of each partition: batches of ten records, of which the fourth is damaged where a test wants one.
BATCHES, RECORDS, BAD = 8, 10, 3
BEGIN, BEHIND, END = BAD * RECORDS, (BAD + 1) * RECORDS, BATCHES * RECORDS
HEADER = b"from"

# Where things stand in a batch.
_CRC, _ATTRIBUTES, _RECORDS = 17, 21, 61

Damage = Callable[[bytearray], None]


def wrong_checksum(batch: bytearray) -> None:
    batch[-3] ^= 0xFF


def unknown_codec(batch: bytearray) -> None:
    _use_codec(batch, 5)


def no_gzip(batch: bytearray) -> None:
    _use_codec(batch, 1)


def no_zstd(batch: bytearray) -> None:
    _use_codec(batch, 4)


def header_that_is_no_text(batch: bytearray) -> None:
    at = batch.index(HEADER)
    batch[at : at + len(HEADER)] = b"\xff\xfe\xfd\xfc"
    _seal(batch)


def wrong_length_of_a_record(batch: bytearray) -> None:
    batch[_RECORDS] = 0x7F
    _seal(batch)


def _use_codec(batch: bytearray, number: int) -> None:
    batch[_ATTRIBUTES + 1] = batch[_ATTRIBUTES + 1] & ~7 | number
    _seal(batch)


def _seal(batch: bytearray) -> None:
    """Give it a good checksum: it is the content that is wrong."""
    struct.pack_into(">I", batch, _CRC, calc_crc32c(bytes(batch[_ATTRIBUTES:])))


KINDS: tuple[Damage, ...] = (
    wrong_checksum,
    unknown_codec,
    no_gzip,
    no_zstd,
    header_that_is_no_text,
    wrong_length_of_a_record,
)


def fill(broker: KafkaBroker, topic: str) -> None:
    """Write the same to each of four partitions, a batch at a time."""
    broker.create_topic(topic, 4)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 1000})
    for batch in range(BATCHES):
        for partition in range(4):
            for value in numbers(RECORDS, batch * RECORDS):
                producer.produce(topic, value, partition=partition, headers=[(HEADER.decode(), b"here")])
        producer.flush(30)


def harm(folder: Path, topic: str, partition: int, damage: Damage) -> None:
    """Damage the fourth batch of a partition, on the disk of a broker that is stopped."""
    [segment] = folder.rglob(f"{topic}-{partition}/*.log")
    content, at = bytearray(segment.read_bytes()), 0
    for _ in range(BAD):
        at += 12 + struct.unpack_from(">i", content, at + 8)[0]
    assert struct.unpack_from(">q", content, at)[0] == BEGIN, "a batch has ten records"
    end = at + 12 + struct.unpack_from(">i", content, at + 8)[0]
    batch = content[at:end]
    damage(batch)
    segment.write_bytes(content[:at] + batch + content[end:])


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker with a topic for each kind of damage, in partition 2; in topic "two" also in partition 0."""
    with KafkaBroker(tmp_path_factory.mktemp("harmed") / "broker") as broker:
        for damage in KINDS:
            fill(broker, damage.__name__)
        fill(broker, "two")
        broker.stop()
        for damage in KINDS:
            harm(broker.folder, damage.__name__, 2, damage)
        for partition in (0, 2):
            harm(broker.folder, "two", partition, wrong_checksum)
        broker.start()
        yield broker


def halted(run: Running) -> list[int]:
    """Which partitions the present membership, if there is one yet, has halted."""
    return [] if run.consumer.membership is None else sorted(run.consumer.membership.halted)


@pytest.mark.parametrize("damage", KINDS, ids=lambda damage: damage.__name__)
async def test_a_batch_that_cannot_be_decoded_halts_its_partition_and_the_others_go_on(
    harmed: KafkaBroker, group: str, damage: Damage
) -> None:
    topic = damage.__name__
    with structlog.testing.capture_logs() as logs:
        async with running(section(harmed, topic, group)) as run:
            await until_committed(harmed, group, topic, {0: END, 1: END, 2: BEGIN, 3: END})
            membership = run.consumer.membership
            assert membership is not None
            assert list(membership.halted) == [2]
            assert f"batch at offset {BEGIN} cannot be decoded" in membership.halted[2]
            assert run.consumer.rebuilds == 0
            assert not run.consumer.trouble
            assert membership.progress()[2].lag == END - BEGIN
    expected = [(number, offset) for number in (0, 1, 3) for offset in range(END)]
    assert sorted(run.reader.received) == sorted([*expected, *((2, offset) for offset in range(BEGIN))])
    [line] = [line for line in logs if line["event"] == "CORRUPT_BATCH"]
    assert (line["partition"], line["offset"], line["log_level"]) == (2, BEGIN, "error")
    assert "dcalqr offsets --config FILE --partition 2 --to OFFSET" in line["hint"]


async def test_a_person_steps_over_it(harmed: KafkaBroker, group: str) -> None:
    topic = wrong_checksum.__name__
    kafka_section = section(harmed, topic, group)
    async with running(kafka_section):
        await until_committed(harmed, group, topic, {0: END, 1: END, 2: BEGIN, 3: END})
    reader = Reader()
    for offset, expected in ((BEGIN + 1, BEGIN + 1), (BEHIND, END)):
        harmed.set_committed(group, topic, {2: offset})
        async with running(kafka_section, reader) as run:
            await until_committed(harmed, group, topic, {0: END, 1: END, 2: expected, 3: END})
            if expected != END:  # not far enough: the answer has the whole batch
                await until(lambda: halted(run) == [2], "the halt")
    assert [offset for _, offset in reader.received] == list(range(BEHIND, END))


async def test_two_such_partitions_are_both_halted_and_a_rebalance_forgets_neither(
    harmed: KafkaBroker, group: str
) -> None:
    kafka_section = section(harmed, "two", group)
    async with running(kafka_section) as run:
        await until_committed(harmed, group, "two", {0: BEGIN, 1: END, 2: BEGIN, 3: END})
        await until(lambda: halted(run) == [0, 2], "both")
        async with running(kafka_section) as other:
            await until(lambda: len(run.partitions) == len(other.partitions) == 2, "the share of each")
        await run.reads(4)
        await until(lambda: halted(run) == [0, 2], "both again")
        assert run.consumer.rebuilds == 0


# --- what a real broker cannot be made to do at the right moment ------------------------------------------------


class Unsteady:
    """A consumer of partitions 0 to 2, each with ten records, of which others take some away."""

    def __init__(self) -> None:
        self.owned = {TopicPartition("t", number) for number in range(3)}
        self.paused_ones: set[TopicPartition] = set()
        self.positions = dict.fromkeys(self.owned, 7)  # a poll had come so far before it raised
        self.read: list[int] = []

    def assignment(self) -> set[TopicPartition]:
        return self.owned

    def paused(self) -> set[TopicPartition]:
        return self.paused_ones

    def pause(self, partition: TopicPartition) -> None:
        self.paused_ones.add(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    async def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]

    def last_stable_offset(self, partition: TopicPartition) -> int | None:
        assert partition in self.owned, "as aiokafka says it"
        return 10


def halts_of(consumer: Unsteady) -> tuple[Halts, dict[TopicPartition, OffsetTracker]]:
    trackers = {partition: OffsetTracker("t", partition.partition, 0) for partition in consumer.owned}
    return Halts(consumer, trackers, halts_on_loss=True), trackers


async def test_a_rebalance_while_partitions_are_read_alone_takes_some_away_and_nothing_breaks() -> None:
    consumer = Unsteady()
    halts, trackers = halts_of(consumer)
    zero = min(consumer.owned)

    async def alone(partition: Any) -> bool:
        consumer.read.append(partition.partition)
        if len(consumer.owned) > 1:  # the poll waits for a rebalance, and we keep the first one
            consumer.owned = {zero}
            trackers.clear()
            trackers[zero] = OffsetTracker("t", 0, 5)
        position = trackers[partition].position
        trackers[partition].track([position], position + 1)
        return True

    await halts.single_out(EOFError(), alone)
    assert set(consumer.read) == {0}
    assert not halts.why
    assert trackers[zero].position == 10


async def test_what_a_failed_poll_had_taken_is_read_again() -> None:
    consumer = Unsteady()
    halts, trackers = halts_of(consumer)

    async def alone(partition: Any) -> bool:
        consumer.read.append(consumer.positions[partition])
        halts.undecodable(partition, EOFError())
        return False

    await halts.single_out(EOFError(), alone)
    assert consumer.read == [0]
    assert halts.why == {0: "the batch at offset 0 cannot be decoded: EOFError"}
    assert consumer.paused_ones == {min(trackers)}


async def test_where_nothing_can_be_read_another_membership_has_to_try() -> None:
    halts, _ = halts_of(Unsteady())

    async def full(partition: Any) -> bool:
        return False

    with pytest.raises(Broken, match="EOFError"):
        await halts.single_out(EOFError(), full)
    assert not halts.why


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CorruptRecordException("Invalid CRC"), True),
        (UnsupportedCodecError("5"), True),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), True),
        (EOFError(), True),
        (RecordTooLargeError("length"), True),
        (gzip.BadGzipFile("Not a gzipped file"), True),
        (KafkaConnectionError("gone"), False),
        (ConsumerStoppedError(), False),
        (ConnectionResetError(), False),
        (MemoryError(), False),
        (AssertionError("of the client's"), False),
    ],
    ids=repr,
)
def test_what_a_batch_makes_a_poll_raise_is_told_from_what_a_connection_does(error: Exception, expected: bool) -> None:
    assert is_undecodable(error) == expected
