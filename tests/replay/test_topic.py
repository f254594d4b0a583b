"""`dcalqr replay --from-topic`, on a real broker."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from dcalqr.config import load
from dcalqr.kafka.stretch import Stretch
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.replay.test_replay import Terminal
from tests.support.kafka import KafkaBroker
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS, Site

Text = subprocess.CompletedProcess[str]


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "dcalqr", "replay", "--config", str(config), "--from-topic", *arguments]


def replay(config: Path, *arguments: str) -> Text:
    return subprocess.run(
        command(config, *arguments), capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False
    )


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{int(time.time() % 1 * 1000):03d}Z"


def lose_the_disk(site: Site) -> None:
    for path in list(site.download.rglob("*")):
        if path.is_file():
            path.unlink()


def gets(site: Site) -> int:
    return sum(site.door.gets.values())


def noise(site: Site, count: int, partition: int | None = None) -> None:
    records = [samples.upload(f"{ROOT}/elsewhere/{number}", 5, "1" * 36) for number in range(count)]
    site.kafka.produce(site.topic, records, partition)


def test_a_lost_disk_is_filled_again_beside_the_running_daemon_whose_offsets_stay(site: Site) -> None:
    config = site.write_config()
    with site.daemon(config) as daemon:
        begin = now()
        for number in range(20):
            site.upload(f"f{number}", b"f" * (1000 + number))
        noise(site, 30)
        site.wait_settled()
        committed = site.kafka.committed(site.group, site.topic)
        lose_the_disk(site)
        site.upload("kept", b"k")
        site.wait_settled()
        committed = site.kafka.committed(site.group, site.topic)

        dry = replay(config, begin, "now", "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "51 records of" in dry.stdout
        assert gets(site) == 21

        done = replay(config, begin, "now")
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout.splitlines()[-1]
        assert "51 records: 21 matched, 1 already, 20 landed, 0 deleted unread, 0 not reached" in said
        assert all(site.landed(f"f{n}") == b"f" * (1000 + n) for n in range(20))
        assert site.kafka.committed(site.group, site.topic) == committed

        before = gets(site)
        again = replay(config, begin, "now")
        assert "51 records: 21 matched, 21 already" in again.stdout
        assert gets(site) == before
        assert daemon.process.poll() is None
        assert not daemon.lines("REBALANCE")[2:]
    assert not site.parts()
    assert not list(site.folder.glob("*.replay-*"))


def test_only_the_stretch_is_run_and_it_ends_where_the_log_ended_at_the_start(site: Site) -> None:
    config = site.write_config()
    site.upload("before", b"b")
    time.sleep(0.05)
    begin = now()
    site.upload("within", b"w")
    time.sleep(0.05)
    end = now()
    site.upload("after", b"a")
    done = replay(config, begin, end)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 records: 1 matched, 1 landed" in done.stdout
    assert (site.landed("before"), site.landed("within"), site.landed("after")) == (None, b"w", None)
    assert site.kafka.committed(site.group, site.topic) == {}


def test_what_fails_goes_to_a_file_of_its_own_and_what_cannot_be_read_beside_it(site: Site) -> None:
    config = site.write_config()
    site.door.faults.add(Fault("door", path=f"{FOLDER}/bad", status=403))
    with site.daemon(config):
        site.upload("bad", b"b")
        site.publish(samples.upload(f"{ROOT}{FOLDER}/odd", 3, "0" * 36)[:-20])
        site.wait_settled()
        rows = (site.folder / "failed.csv").read_bytes()
        unreadable = (site.folder / "failed.unreadable").read_bytes()
        done = replay(config, "1h", "now")
        assert done.returncode == 1
        assert re.search(r"2 records: 1 matched, 1 failed, 1 unreadable, 0 deleted unread, 0 not reached", done.stdout)
        [own] = site.folder.glob("failed.replay-*.csv")
        assert f"run: dcalqr replay --config {config} {own}" in done.stdout
        assert own.with_suffix(".unreadable").read_bytes().count(b"\n") == 1
        assert (site.folder / "failed.csv").read_bytes() == rows
        assert (site.folder / "failed.unreadable").read_bytes() == unreadable


def test_killed_and_repeated_it_ends_with_every_file_once(site: Site) -> None:
    config = site.write_config(kafka={"window": 8}, dcache={"maxdownloads": 2, "workers": 0})
    for number in range(40):
        site.upload(f"f{number}", b"f" * 2000)
    site.door.faults.add(Fault("pool", delay_seconds=0.05))
    process = subprocess.Popen(command(config, "1h", "now"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(list(site.download.iterdir())) >= 10, SETTLE_SECONDS, "some files")
    finally:
        process.kill()
        process.wait()
    done = replay(config, "1h", "now")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"40 records: 40 matched, (\d+) already, (\d+) landed", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) + int(found[2]) == 40
    assert all(site.landed(f"f{n}") == b"f" * 2000 for n in range(40))
    assert not site.parts()


def test_term_lets_running_copies_end_and_says_what_is_left(site: Site) -> None:
    config = site.write_config(dcache={"stallseconds": 50, "timeout": 50, "visibleseconds": 50})
    site.upload("runs", b"r" * 2000)
    site.upload("waits", b"w" * 2000, staged=True)
    site.door.faults.add(Fault("pool", stall_after=10))
    process = subprocess.Popen(command(config, "1h", "now"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: bool(site.parts()), SETTLE_SECONDS, "a part")
        process.send_signal(signal.SIGTERM)
        site.door.calm()
        out, err = process.communicate(timeout=SETTLE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 1, out + err
    assert "2 records: 2 matched, 1 landed, 0 deleted unread, 1 not reached; run the same command again" in out
    assert not site.parts()


def test_without_kafka_it_is_not_available(site: Site) -> None:
    config = site.write_config(kafka={"servers": ["localhost:1"]})
    done = replay(config, "1h", "now")
    assert done.returncode == 69
    assert "Kafka is not available" in done.stderr


def test_times_that_are_none_and_a_stretch_that_ends_before_it_begins_are_wrong_usage(site: Site) -> None:
    config = site.write_config()
    for times, words in ((("yesterday", "now"), "neither a time, nor a date such as"), (("1h", "2h"), "is after")):
        done = replay(config, *times)
        assert done.returncode == 2
        assert words in done.stderr


def test_an_empty_stretch_makes_nothing(site: Site) -> None:
    done = replay(site.write_config(), "1h", "now")
    assert done.returncode == 0
    assert "0 records: 0 matched, nothing to do" in done.stdout
    assert not (site.folder / "failed.state").exists()


def test_a_terminal_shows_how_far_it_is(site: Site) -> None:
    for number in range(5):
        site.upload(f"f{number}", b"f")
    noise(site, 7)
    terminal = Terminal(site.write_config(), "--from-topic", "1h", "now")
    try:
        assert terminal.process.wait(SETTLE_SECONDS) == 0, terminal.text
        wait_until(lambda: "12 records: 5 matched, 5 landed" in terminal.text, SETTLE_SECONDS, "the counts")
        assert "12/12" in terminal.text
    finally:
        terminal.close()


def test_a_log_that_begins_within_the_stretch_is_said(site: Site) -> None:
    noise(site, 10, partition=0)
    site.kafka.delete_records(site.topic, {0: 4})
    done = replay(site.write_config(), "1h", "now")
    assert done.returncode == 0
    assert "the log of partition 0 begins within this time: what was older is deleted" in done.stdout
    assert "6 records: 0 matched" in done.stdout


async def test_records_deleted_while_it_reads_are_counted_and_the_rest_is_read(site: Site) -> None:
    config = load(site.write_config())
    noise(site, 6000, partition=0)  # some MB: far more than what is fetched ahead
    async with Stretch(config.kafka, time.time() - 3600, time.time() + 1) as stretch:
        offsets: list[int] = []
        async for _, records in stretch.batches():
            if not offsets:
                await asyncio.to_thread(site.kafka.delete_records, site.topic, {0: 5500})
            offsets += [record.offset for record in records]
        assert stretch.records == stretch.passed == 6000
        assert stretch.lost > 0
        assert len(offsets) + stretch.lost == 6000
        assert offsets[-500:] == list(range(5500, 6000))
        assert offsets == sorted(set(offsets))


async def test_every_partition_is_read_to_its_own_end(kafka: KafkaBroker, site: Site) -> None:
    topic = f"{site.topic}-many"
    kafka.create_topic(topic, partitions=4)
    kafka.produce(topic, [b"x%d" % number for number in range(400)])
    config = load(site.write_config(kafka={"topic": topic}))
    found: dict[int, list[int]] = {}
    async with Stretch(config.kafka, time.time() - 3600, time.time() + 1) as stretch:
        kafka.produce(topic, [b"later"] * 40)  # what comes after the start is not of the stretch
        async for part, records in stretch.batches():
            found.setdefault(part.partition, []).extend(record.offset for record in records)
        assert stretch.trouble == ""
    assert sum(map(len, found.values())) == 400
    assert all(offsets == list(range(len(offsets))) for offsets in found.values())
