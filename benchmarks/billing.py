"""A topic as a dCache of some thousand transfers a second fills it, of which one record in a hundred is ours.

The others are what `samples.noise` makes, in equal shares, of about 1.1 kB: reads and failed uploads below our folder,
uploads elsewhere, copies between pools, tape, door requests. Removals below our folder are as frequent as uploads: no
file is removed twice.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from confluent_kafka import Producer

from dcalqr.testing import samples
from tests.support.kafka import KafkaBroker
from tests.support.site import FOLDER, ROOT

PARTITIONS = 4
# So many records in a row lie in one partition, as a producer's batches do.
RUN_RECORDS = 200
# Different ones; then they come again, because making one takes longer than consuming it.
NOISE_RECORDS = 5000
SIZE_BYTES = 20_000


def records(count: int) -> Iterator[bytes]:
    """Give so many records: in each hundred one upload, one removal and 98 that are not ours."""
    rng = random.Random(1)
    made = (samples.noise(rng, ROOT, FOLDER) for _ in itertools.count())
    noise = itertools.cycle(list(itertools.islice((each for each in made if b'"remove"' not in each), NOISE_RECORDS)))
    for number in range(count):
        path = f"{ROOT}{FOLDER}/{number // 10_000:05d}/file_{number:08d}.fits"
        if number % 100 == 50:
            yield samples.upload(path, SIZE_BYTES, samples.new_pnfsid(rng))
        elif number % 100 == 99:
            yield samples.remove(path, SIZE_BYTES, samples.new_pnfsid(rng))
        else:
            yield next(noise)


def fill(broker: KafkaBroker, topic: str, count: int) -> None:
    """Make a topic of so many records."""
    broker.create_topic(topic, PARTITIONS)
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "linger.ms": 50,
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": 500_000,
        }
    )
    for number, value in enumerate(records(count)):
        partition = number // RUN_RECORDS % PARTITIONS
        while True:
            try:
                producer.produce(topic, value, partition=partition)
                break
            except BufferError:
                producer.poll(0.05)
    producer.flush(60)
