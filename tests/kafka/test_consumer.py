from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from confluent_kafka import Producer

from dcalqr import errors
from dcalqr.kafka import consumer, ending, membership
from dcalqr.kafka.consumer import Consumer
from tests.kafka.reading import (
    Memory,
    Reader,
    Running,
    in_order,
    numbers,
    running,
    section,
    until,
    until_all_committed,
    until_committed,
)
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.usefixtures("nothing_left", "quick")


class OwnBroker(KafkaBroker):
    """A broker that these tests kill and hang; each leaves it running."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # The kernel kills it with the thread that started it, so that has to outlive a test's event loop.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="broker")

    async def return_(self) -> None:
        """Start it again while the event loop goes on."""
        await asyncio.get_running_loop().run_in_executor(self._starter, self.start)


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    with OwnBroker(tmp_path_factory.mktemp("own") / "broker") as broker:
        yield broker


# --- reading and committing ---------------------------------------------------------------------------------------


async def test_every_record_is_received_once_and_the_ends_are_committed(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    kafka.produce(topic, numbers(2000))
    async with running(section(kafka, topic, group)) as run:
        await until(lambda: len(run.reader.values) >= 2000, "all records")
        await until_all_committed(kafka, group, topic)
    assert in_order(run.reader.values) == numbers(2000)


async def test_an_open_offset_holds_its_partition_and_no_other(kafka: KafkaBroker, topic: str, group: str) -> None:
    reader = Reader(closes=False)
    kafka.produce(topic, numbers(40))
    async with running(section(kafka, topic, group), reader):
        await until(lambda: len(reader.open) == 40, "all records")
        held = next(each for each in reader.open if each[0].partition == 2 and each[1] == 3)
        reader.open.remove(held)
        reader.close()
        await until_committed(kafka, group, topic, {0: 10, 1: 10, 2: 3, 3: 10})
        held[0].close(held[1])
        await until_all_committed(kafka, group, topic)


async def test_the_final_commit_is_made_by_aclose(kafka: KafkaBroker, topic: str, group: str) -> None:
    reader = Reader(closes=False)
    kafka.produce(topic, numbers(40))
    async with running(section(kafka, topic, group, commitseconds=600), reader):
        await until(lambda: len(reader.open) == 40, "all records")
        reader.close()
    assert kafka.committed(group, topic) == kafka.end_offsets(topic)


async def test_aborted_records_are_not_delivered_and_markers_at_the_end_are_passed(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": group})
    producer.init_transactions(30)
    for value, ends in ((b"good", producer.commit_transaction), (b"bad", producer.abort_transaction)):
        producer.begin_transaction()
        for partition in range(4):
            producer.produce(topic, value, partition=partition)
        producer.flush(30)
        ends(30)
    async with running(section(kafka, topic, group)) as run:
        await until_all_committed(kafka, group, topic)
        assert set(kafka.end_offsets(topic).values()) == {4}  # a record and a marker, twice
        producer.begin_transaction()
        producer.produce(topic, b"bad", partition=1)
        producer.flush(30)
        producer.abort_transaction(30)
        await until_all_committed(kafka, group, topic)
    assert run.reader.values == [b"good"] * 4


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_records_are_read(kafka: KafkaBroker, topic: str, group: str, codec: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": codec, "linger.ms": 50})
    for value in numbers(100):
        producer.produce(topic, value.zfill(500), partition=0)
    producer.flush(30)
    async with running(section(kafka, topic, group)) as run:
        await until(lambda: len(run.reader.values) == 100 or run.consumer.rebuilds > 0, "all records")
        assert run.consumer.rebuilds == 0
    assert in_order(run.reader.values) == [value.zfill(500) for value in numbers(100)]


async def test_gaps_of_compaction_are_passed(kafka: KafkaBroker, group: str) -> None:
    topic = f"compacted-{group}"
    rough: dict[str, str | int] = {
        "segment_ms": 100,
        "min_cleanable_dirty_ratio": "0",
        "delete_retention_ms": 0,
        "max_compaction_lag_ms": 200,
    }
    kafka.create_topic(topic, 1, cleanup_policy="compact", **rough)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 0})
    for number in range(30):
        producer.produce(topic, b"%d" % number, key=b"same")
        producer.flush(30)
    await asyncio.sleep(0.3)  # the active segment is never compacted: let the next record begin another
    producer.produce(topic, b"last", key=b"other")
    producer.flush(30)
    offsets: list[tuple[int, int]] = []
    limit = time.monotonic() + 40
    while len(offsets) != 2 and time.monotonic() < limit:
        async with running(section(kafka, topic, f"{group}-{time.monotonic()}")) as look:
            await until(lambda: b"last" in look.reader.values, "the last record")
        offsets = look.reader.received
    assert offsets == [(0, 29), (0, 30)]
    async with running(section(kafka, topic, group)) as run:
        await until_committed(kafka, group, topic, {0: 31})
    assert run.reader.values == [b"29", b"last"]


# --- the window ---------------------------------------------------------------------------------------------------


async def test_a_full_receiver_gets_nothing_until_it_has_room_and_nothing_is_lost_or_doubled(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    reader = Reader()
    async with running(section(kafka, topic, group), reader) as run:
        await run.reads(4)
        for first in range(0, 900, 300):
            reader.full = True
            await asyncio.sleep(3 * membership.POLL_SECONDS)  # a fetch that was under way comes in
            before = len(reader.values)
            kafka.produce(topic, numbers(300, first))
            await asyncio.sleep(3 * membership.POLL_SECONDS)
            assert len(reader.values) == before
            reader.full = False
            await until(lambda wanted=first + 300: len(reader.values) >= wanted, "all records")  # type: ignore[misc]
    assert in_order(reader.values) == numbers(900)


async def test_the_pause_outlives_a_rebalance(kafka: KafkaBroker, topic: str, group: str) -> None:
    reader = Reader()
    settings_ = section(kafka, topic, group)
    async with running(settings_, reader) as run:
        await run.reads(4)
        reader.full = True
        await asyncio.sleep(3 * membership.POLL_SECONDS)
        kafka.produce(topic, numbers(400))
        async with running(settings_) as other:
            await run.reads(2)
            await until(lambda: len(other.reader.values) == 200, "the other one's half")
            assert reader.values == []
        await run.reads(4)
        await asyncio.sleep(3 * membership.POLL_SECONDS)
        assert reader.values == []
        reader.full = False
        await until(lambda: len(reader.values) >= 200, "our half")
    assert Counter(reader.values + other.reader.values) == Counter(numbers(400))


# --- rebalances ---------------------------------------------------------------------------------------------------


async def test_rebalances_lose_nothing(kafka: KafkaBroker, topic: str, group: str) -> None:
    kafka_section = section(kafka, topic, group)
    first, values = Reader(), []
    async with running(kafka_section, first) as run:
        await run.reads(4)
        for turn in range(2):
            await asyncio.to_thread(kafka.produce, topic, numbers(500, 1000 * turn))
            async with running(kafka_section) as other:
                await other.reads(2)
                await asyncio.to_thread(kafka.produce, topic, numbers(500, 1000 * turn + 500))
                await until_all_committed(kafka, group, topic)
            values += other.reader.values
        await until_all_committed(kafka, group, topic)
    assert {*first.values, *values} == set(numbers(2000))


async def test_marks_are_committed_at_revocation(kafka: KafkaBroker, topic: str, group: str) -> None:
    kafka.produce(topic, numbers(40))
    async with running(section(kafka, topic, group, commitseconds=600)) as run:
        await until(lambda: len(run.reader.values) == 40, "all records")
        async with running(section(kafka, topic, group)) as other:
            await other.reads(2)
            await run.reads(2)
        assert other.reader.values == []
    assert len(run.reader.values) == 40


async def test_what_is_open_at_a_rebalance_comes_again_and_late_ends_move_nothing(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    reader = Reader(closes=False)
    kafka.produce(topic, numbers(40))
    kafka_section = section(kafka, topic, group)
    async with running(kafka_section, reader) as run:
        await until(lambda: len(reader.open) == 40, "all records")
        async with running(kafka_section, Reader(closes=False)) as other:
            await run.reads(2)
            await until(lambda: len(reader.open) == 60, "our half again")
            await until(lambda: len(other.reader.open) == 20, "the other half there")
            reader.close(40)  # of the older assignment
            await run.consumer.membership.commit()  # type: ignore[union-attr]
            assert set(kafka.committed(group, topic).values()) == {0}
            reader.close()
            other.reader.close()
            await until_all_committed(kafka, group, topic)


MEMBER = """
import asyncio, json, sys
from tests.kafka.reading import Memory, Reader, SESSION_SECONDS
from dcalqr.config import Kafka
from dcalqr.kafka.consumer import Consumer

class Telling(Reader):
    async def receive(self, records, tracker):
        await super().receive(records, tracker)
        for record in records:
            print("took", record.partition, record.offset, flush=True)

kafka = Kafka.model_validate(json.loads(sys.argv[1]))
asyncio.run(Consumer(kafka, Telling(closes=False), Memory(), SESSION_SECONDS).run())
"""


async def test_the_group_goes_on_after_the_session_of_a_killed_member(
    kafka: KafkaBroker, topic: str, group: str, tmp_path: Path
) -> None:
    kafka_section = section(kafka, topic, group)
    told = tmp_path / "told"
    with told.open("wb") as output:
        member = subprocess.Popen(  # noqa: ASYNC220 - it starts in milliseconds
            [sys.executable, "-c", MEMBER, kafka_section.model_dump_json(exclude_none=True)],
            stdout=output,
            cwd=Path(__file__).parents[2],
        )
    try:
        kafka.produce(topic, numbers(40))
        await until(lambda: told.read_text().count("took") == 40, "the member has all")
        async with running(kafka_section) as run:
            await run.reads(2)
            await until(lambda: len(run.reader.values) == 20, "our half")
            member.kill()
            await run.reads(4)
            await until_all_committed(kafka, group, topic)
        assert set(run.reader.values) == set(numbers(40))
    finally:
        member.kill()
        member.wait()


# --- the end ------------------------------------------------------------------------------------------------------


async def test_what_is_polled_after_quiesce_is_neither_taken_nor_committed(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    reader = Reader(closes=False)
    kafka.produce(topic, numbers(8))
    async with running(section(kafka, topic, group), reader) as run:
        await until(lambda: len(reader.open) == 8, "all records")
        run.consumer.quiesce()
        kafka.produce(topic, numbers(8, 8))
        reader.close()
        await until_committed(kafka, group, topic, dict.fromkeys(range(4), 2))
        async with running(section(kafka, topic, group)) as other:  # a rebalance meanwhile changes nothing
            await run.reads(2)
            await until(lambda: len(other.reader.values) == 4, "the other half")
        await run.reads(4)
    assert len(reader.values) == 8
    assert sorted(kafka.committed(group, topic).values()) == [2, 2, 4, 4]


async def test_after_freeze_nothing_is_committed_not_even_at_a_rebalance(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    reader = Reader(closes=False)
    kafka.produce(topic, numbers(40))
    async with running(section(kafka, topic, group), reader) as run:
        await until(lambda: len(reader.open) == 40, "all records")
        await until_committed(kafka, group, topic, dict.fromkeys(range(4), 0))
        run.consumer.freeze()
        reader.close()
        await asyncio.sleep(0.3)
        async with running(section(kafka, topic, group), Reader(closes=False)):
            await run.reads(2)
    assert set(kafka.committed(group, topic).values()) == {0}


async def test_a_fatal_error_ends_run_and_nothing_further_is_committed(
    kafka: KafkaBroker, topic: str, group: str
) -> None:
    reader = Reader(closes=False)
    run = Running(section(kafka, topic, group), reader)
    kafka.produce(topic, numbers(40))
    await until(lambda: len(reader.open) == 40, "all records")
    await until_committed(kafka, group, topic, dict.fromkeys(range(4), 0))
    reader.raises = errors.FatalError(why="ten in a row")
    reader.close()
    kafka.produce(topic, [b"bad"])
    with pytest.raises(errors.FatalError):
        await run.task
    at_the_end = kafka.committed(group, topic)
    await asyncio.sleep(0.3)
    await run.consumer.aclose()
    assert kafka.committed(group, topic) == at_the_end
    assert all(mark <= 10 for mark in at_the_end.values())


async def test_any_other_exception_of_the_receiver_ends_run_too(kafka: KafkaBroker, topic: str, group: str) -> None:
    reader = Reader(closes=False)
    reader.raises = LookupError("a bug")
    run = Running(section(kafka, topic, group), reader)
    kafka.produce(topic, numbers(40))
    with pytest.raises(LookupError):
        await run.task
    await run.consumer.aclose()
    assert set(kafka.committed(group, topic).values()) <= {0}


async def test_aclose_before_run_makes_run_return(kafka: KafkaBroker, topic: str, group: str) -> None:
    one = Consumer(section(kafka, topic, group), Reader(), Memory())
    await one.aclose()
    await asyncio.wait_for(one.run(), 1)


@pytest.mark.parametrize("seconds", [0, 0.02, 0.1, 0.3])
async def test_aclose_while_it_joins_leaves_nothing_behind(
    kafka: KafkaBroker, topic: str, group: str, seconds: float
) -> None:
    run = Running(section(kafka, topic, group))
    await asyncio.sleep(seconds)
    await asyncio.wait_for(run.end(), 15)


async def test_aclose_in_a_rebalance_that_does_not_end_is_bounded(
    kafka: KafkaBroker, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "STOP_SECONDS", 0.5)
    run = Running(section(kafka, topic, group))
    await run.reads(4)

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    assert run.consumer.membership is not None
    monkeypatch.setattr(run.consumer.membership, "assigned", hang)
    run.consumer.membership._consumer._coordinator.request_rejoin()
    await until(lambda: run.partitions == set(), "the rebalance")
    await asyncio.wait_for(run.end(), 15)
    # Nothing of it is left in the group: who comes next gets all partitions as soon as the session has ended.
    async with running(section(kafka, topic, group)) as other:
        await other.reads(4)


async def test_new_credentials_make_it_join_anew(kafka: KafkaBroker, topic: str, group: str) -> None:
    async with running(section(kafka, topic, group)) as run:
        await run.reads(4)
        before = run.consumer.membership
        with structlog.testing.capture_logs() as logs:
            run.consumer.renew(section(kafka, topic, group))
            await until(lambda: run.consumer.membership not in (before, None), "another membership")
            await run.reads(4)
        assert not [line for line in logs if line["event"] == "KAFKA_UNAVAILABLE"]
        kafka.produce(topic, numbers(40))
        await until_all_committed(kafka, group, topic)
    assert in_order(run.reader.values) == numbers(40)


# --- brokers and topics that are not there ------------------------------------------------------------------------


async def test_it_waits_for_a_broker_that_is_down_at_the_start(tmp_path: Path, group: str) -> None:
    broker = KafkaBroker(tmp_path / "broker")
    try:
        async with running(section(broker, "billing", group)) as run:
            await until(lambda: run.consumer.rebuilds >= 2, "some tries")
            assert "no broker can be reached" in run.consumer.trouble
            assert "Connect call failed" in run.consumer.trouble
            broker.start()
            await until(lambda: "does not exist" in run.consumer.trouble, "the missing topic is named")
            assert "billing" in run.consumer.trouble
            broker.create_topic("billing", 2)
            await run.reads(2)
            broker.produce("billing", numbers(4))
            await until_all_committed(broker, group, "billing")
    finally:
        broker.stop()


async def test_it_resumes_after_an_outage_and_says_so_once_a_minute(
    own_broker: OwnBroker, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "SILENCE_SECONDS", 1.5)
    monkeypatch.setattr(consumer, "SILENCE_SECONDS", 1.5)
    own_broker.create_topic(group, 2)
    reader = Reader(closes=False)
    with structlog.testing.capture_logs() as logs:
        async with running(section(own_broker, group, group), reader) as run:
            await run.reads(2)
            own_broker.produce(group, numbers(10))
            await until(lambda: len(reader.open) == 10, "all records")
            own_broker.kill()
            reader.close()
            await until(lambda: run.consumer.rebuilds >= 3, "some tries")
            assert run.consumer.trouble
            await own_broker.return_()
            own_broker.produce(group, numbers(10, 10))
            reader.closes = True
            await until_all_committed(own_broker, group, group)
            assert run.consumer.trouble == ""
            assert set(reader.values) == set(numbers(20))
    words = [line["event"] for line in logs]
    assert words.count("KAFKA_UNAVAILABLE") == 1
    assert words.count("COMMIT_FAILED") <= 1


async def test_a_short_outage_costs_no_new_membership(own_broker: OwnBroker, group: str) -> None:
    own_broker.create_topic(group, 2)
    async with running(section(own_broker, group, group)) as run:
        await run.reads(2)
        own_broker.kill()
        await own_broker.return_()
        own_broker.produce(group, numbers(10))
        await until_all_committed(own_broker, group, group)
        assert run.consumer.rebuilds == 0


async def test_a_hung_broker_is_noticed_and_aclose_is_bounded(
    own_broker: OwnBroker, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (membership, consumer):
        monkeypatch.setattr(module, "SILENCE_SECONDS", 1.0)
        monkeypatch.setattr(module, "COMMIT_SECONDS", 1.0)
    monkeypatch.setattr(membership.Membership.commit, "__defaults__", (1.0,))
    monkeypatch.setattr(ending, "STOP_SECONDS", 1.0)
    own_broker.create_topic(group, 2)
    reader = Reader(closes=False)
    run = Running(section(own_broker, group, group), reader)
    await run.reads(2)
    own_broker.produce(group, numbers(10))
    await until(lambda: len(reader.open) == 10, "all records")
    own_broker.process.suspend()
    try:
        reader.close()
        await until(lambda: run.consumer.trouble != "", "it is noticed")
        assert "do not answer" in run.consumer.trouble
        await asyncio.wait_for(run.end(), 15)
    finally:
        own_broker.process.resume()


async def test_aclose_is_bounded_while_the_broker_hangs_before_anybody_noticed(
    own_broker: OwnBroker, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership.Membership.commit, "__defaults__", (1.0,))
    monkeypatch.setattr(ending, "STOP_SECONDS", 1.0)
    own_broker.create_topic(group, 2)
    reader = Reader(closes=False)
    run = Running(section(own_broker, group, group), reader)
    await run.reads(2)
    own_broker.produce(group, numbers(10))
    await until(lambda: len(reader.open) == 10, "all records")
    own_broker.process.suspend()
    try:
        reader.close()
        await asyncio.wait_for(run.end(), 15)
    finally:
        own_broker.process.resume()


async def test_a_deleted_topic_is_named_and_read_again_when_it_is_back(
    kafka: KafkaBroker, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(consumer, "SILENCE_SECONDS", 2.0)
    async with running(section(kafka, topic, group, onoffsetloss="earliest")) as run:
        await run.reads(4)
        kafka.delete_topic(topic)
        await until(lambda: "does not exist" in run.consumer.trouble, "the deleted topic is named")
        kafka.create_topic(topic, 2)
        kafka.produce(topic, numbers(10))
        await until_all_committed(kafka, group, topic)
    assert in_order(run.reader.values) == numbers(10)
