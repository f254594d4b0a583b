"""The daemon as a process, on a real broker, with a door that redirects to pools."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dcalqr.local import paths
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.process import wait_until
from tests.support.site import FOLDER, ROOT, SETTLE_SECONDS, Site

BILLING = Path(__file__).parent / "data" / "dcache-billing.jsonl"
GIGABYTE = 10**9


def test_an_upload_lands_complete_and_its_offset_is_committed(site: Site) -> None:
    with site.daemon() as daemon:
        file = site.upload("23003/fits_1.tar", b"x" * 100_000)
        site.wait_settled()
        assert site.landed("23003/fits_1.tar") == b"x" * 100_000
        assert not site.parts()
        report = daemon.wait_for("COPY_REPORT", outcome="landed")
        assert report["size"] == file.size_bytes
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


# --- the topic ----------------------------------------------------------------------------------------------------


def smaller(line: bytes) -> bytes:
    """Take three digits off the size: what is promised does not depend on gigabytes."""
    return re.sub(rb'"fileSize":(\d+)\d{3}\b', rb'"fileSize":\1', line)


def test_every_upload_among_all_kinds_of_messages_is_copied_once(site: Site) -> None:
    lines = [smaller(line) for line in BILLING.read_bytes().splitlines()]
    rng = random.Random(7)
    expected: dict[str, bytes] = {}
    for line in lines:
        message = json.loads(line)
        if message["_decision"] == "match":
            path = re.sub("//+", "/", message["billingPath"])[len(ROOT) :]
            content = samples.content(message.get("fileSize", 1234), len(expected))
            site.door.put(path, content, pnfsid=message["pnfsid"])
            expected[path] = bytes(content)
    assert len(expected) >= 20
    noise = [samples.noise(rng, ROOT, FOLDER) for _ in range(400)]
    mixed = [*lines, *noise]
    rng.shuffle(mixed)
    with site.daemon() as daemon:
        site.publish(*mixed)
        site.wait_settled()
        for path, bytes_sent in expected.items():
            assert site.landed(path.removeprefix(FOLDER + "/")) == bytes_sent
        assert site.door.gets == Counter(expected.keys())
        assert not site.rows()
        assert not site.parts()
        assert not daemon.lines("UNREADABLE")
    assert len([path for path in site.download.rglob("*") if path.is_file()]) == len(expected)


def test_a_thousand_duplicates_are_one_get(site: Site) -> None:
    file = site.door.put(f"{FOLDER}/file", b"x" * 100_000, pnfsid="0" * 35 + "A")
    message = samples.upload(f"{ROOT}{FOLDER}/file", file.size_bytes, file.pnfsid)
    with site.daemon() as daemon:
        site.publish(*[message] * 1000)
        site.wait_settled()
        ends = Counter(line["outcome"] for line in daemon.lines("COPY_REPORT"))
    assert ends == {"landed": 1, "already": 999}
    assert site.door.gets[f"{FOLDER}/file"] == 1


ODD_NAMES = [
    "-rf", "~", "*", "$(x)", ";", "'quotes'", '"double"', "a b", "#", "?x=1", "%", "%2F", "%2e%2e", "back\\slash",
    "a+b", "&amp;", "=cmd|' -C calc'!A0", "été", "e\u0301", "🔭", "x.part", "name.crdownload", ":", "[v6]", "a;b=c",
    "{instance}", "\u202egpj.exe", "line\u2028separator", "n" * 255, "NUL", "con.", "...",
]  # fmt: skip


def test_odd_names_land_byte_by_byte_under_their_own_urls(site: Site) -> None:
    with site.daemon() as daemon:
        for number, name in enumerate(ODD_NAMES):
            site.upload(f"odd/{name}", f"{number}".encode())
        site.wait_settled()
        daemon.lines()  # each of them is one line, and JSON
    found = {path.name: path.read_text() for path in (site.download / "odd").iterdir()}
    assert found == {name: f"{number}" for number, name in enumerate(ODD_NAMES)}
    assert site.door.gets == Counter(f"{FOLDER}/odd/{name}" for name in ODD_NAMES)
    assert not site.rows()


def test_a_name_that_would_forge_a_log_line_is_unreadable_and_shown_escaped(site: Site) -> None:
    forged = '\n{"event":"COPY_REPORT","outcome":"landed","uuid":"forged"}\n'
    escape = "\x1b[2J\x1b[31mOK"
    with site.daemon() as daemon:
        for name in (forged, escape):
            site.publish(samples.upload(f"{ROOT}{FOLDER}/{name}", 10, "A" * 36))
        site.upload("file", b"x")
        site.wait_settled()
        assert daemon.lines("UNREADABLE")
        assert not [line for line in daemon.lines() if line.get("uuid") == "forged"]
        log = daemon.log_path.read_bytes()
    assert b"\x1b" not in log
    kept = (site.folder / "failed.unreadable").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in kept] == ["control", "control"]
    assert site.landed("file") == b"x"


def test_each_line_about_a_file_bears_uuid_partition_and_offset(site: Site) -> None:
    with site.daemon() as daemon:
        site.door.faults.add(Fault("pool", cut_after=10, times=1))
        for number in range(5):
            site.upload(f"{number}.tar", b"x" * 1000)
        site.wait_settled()
        lines = daemon.lines()
    events = ("UPLOAD", "COPY_INIT", "COPY_START", "COPY_RUN", "COPY_OVER", "COPY_REPORT", "COPY_RETRY")
    about = [line for line in lines if line["event"] in events]
    assert {line["event"] for line in about} == set(events)
    jobs = {line["uuid"]: (line["partition"], line["offset"]) for line in about}
    assert len(jobs) == 5
    assert all(jobs[line["uuid"]] == (line["partition"], line["offset"]) for line in about)


# --- what must stop the daemon ------------------------------------------------------------------------------------


def test_a_flood_of_unreadable_records_stops_it_with_65_and_nothing_further_committed(site: Site) -> None:
    bad = b'{"msgType":"transfer","isWrite":"write","cellType":"pool","billingPath":7,"status":'
    site.publish(*[bad] * 1500)
    with site.daemon() as daemon:
        assert daemon.wait() == 65
    text = daemon.log_path.read_text()
    assert "message format" in text
    committed = site.kafka.committed(site.group, site.topic)
    kept = [json.loads(line) for line in (site.folder / "failed.unreadable").read_text().splitlines()]
    offsets = {(line["partition"], line["offset"]) for line in kept}
    assert len(kept) <= 501
    assert all((partition, offset) in offsets for partition, mark in committed.items() for offset in range(mark))
    with site.daemon(site.write_config("again.toml")) as again:
        assert again.wait() == 65
    assert site.kafka.committed(site.group, site.topic) != site.kafka.end_offsets(site.topic)


def test_a_group_whose_offsets_are_gone_halts_whatever_startfrom_says(site: Site) -> None:
    with site.daemon() as daemon:
        site.upload("first.tar", b"x")
        site.wait_settled()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    admin = site.kafka.new_admin()
    admin.delete_consumer_groups([site.group])[site.group].result(SETTLE_SECONDS)
    site.upload("second.tar", b"x")
    with site.daemon(site.write_config("again.toml", kafka={"startfrom": "latest"})) as again:
        line = again.wait_for("KAFKA_UNAVAILABLE")
        assert "dcalqr offsets" in json.dumps(line)
        site.upload("third.tar", b"x")
        again.signal(signal.SIGTERM)
        assert again.wait() == 0
    assert not site.kafka.committed(site.group, site.topic)
    assert not (site.download / "third.tar").exists()
    with site.daemon(site.write_config("earliest.toml", kafka={"onoffsetloss": "earliest"})):
        site.wait_settled()
    assert site.landed("second.tar") == site.landed("third.tar") == b"x"


# --- several, and ends --------------------------------------------------------------------------------------------


def second(site: Site, **kafka: str) -> Path:
    """Write the configuration of another instance on the same download folder."""
    local = {"failedtasksfile": str(site.folder / "two.csv"), "statefolder": str(site.folder / "two")}
    return site.write_config("two.toml", daemon={"instance": "two"}, local=local, kafka=kafka)


def test_two_instances_that_are_forced_to_copy_the_same_never_damage_a_file(site: Site) -> None:
    other = f"{site.group}-two"
    with site.daemon() as one, site.daemon(second(site, consumergroup=other)) as two:
        contents: dict[str, samples.Content] = {}
        for version in range(2):
            for number in range(30):
                contents[f"run/{number}.tar"] = samples.content(700_000, 100 * version + number)
                site.upload(f"run/{number}.tar", contents[f"run/{number}.tar"])
        site.wait_settled()
        wait_until(
            lambda: site.kafka.committed(other, site.topic) == site.kafka.committed(site.group, site.topic),
            SETTLE_SECONDS,
            "the other group",
        )
        ends = Counter(line["outcome"] for daemon in (one, two) for line in daemon.lines("COPY_REPORT"))
    assert sum(ends.values()) == 120
    assert set(ends) <= {"landed", "already", "replaced"}
    for name, content in contents.items():
        assert site.landed(name) == bytes(content)
    assert not site.parts()
    assert not site.rows()
    assert not site.rows("two.csv")


def test_a_kill_in_mid_body_leaves_a_part_that_the_next_run_sweeps(site: Site) -> None:
    content = samples.content(5_000_000)
    # Worker processes, which outlive it by a moment, would remove the part themselves.
    config = site.write_config(dcache={"stallseconds": 60, "timeout": 60, "workers": 0})
    with site.daemon(config) as daemon:
        site.door.faults.add(Fault("pool", stall_after=3_000_000))
        site.upload("run/file.tar", content)
        wait_until(lambda: bool(site.parts()), SETTLE_SECONDS, "the part")
        daemon.process.kill()
        daemon.wait()
    (part,) = site.parts()
    assert paths.is_part_of(part.name.encode(), paths.instance8("one"))
    assert site.landed("run/file.tar") is None
    shutil.copy(part, part.with_name(f"theirs.{paths.instance8('two')}-00000000.part"))
    site.door.calm()
    with site.daemon(config) as again:
        again.wait_for("SWEEP", parts=1)
        site.wait_settled()
    assert site.landed("run/file.tar") == bytes(content)
    assert [left.name[:6] for left in site.parts()] == ["theirs"]


def test_a_term_lets_the_body_end_and_commits_it(site: Site) -> None:
    content = samples.content(2_000_000)
    with site.daemon(site.write_config(dcache={"stallseconds": 60, "timeout": 60})) as daemon:
        site.door.faults.add(Fault("pool", stall_after=1_500_000))
        site.upload("file.tar", content)
        daemon.wait_for("COPY_RUN")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("DRAIN")
        site.door.calm()
        assert daemon.wait() == 0
    assert site.landed("file.tar") == bytes(content)
    assert site.committed_all()


def test_a_second_term_stops_at_once_and_leaves_nothing(site: Site) -> None:
    with site.daemon(site.write_config(dcache={"stallseconds": 60, "timeout": 60})) as daemon:
        site.door.faults.add(Fault("pool", stall_after=1_500_000))
        site.upload("file.tar", samples.content(2_000_000))
        daemon.wait_for("COPY_RUN")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("DRAIN")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert site.landed("file.tar") is None
    assert not site.parts()
    assert not site.rows()
    assert not site.committed_all()


# --- the loop -----------------------------------------------------------------------------------------------------


def test_a_large_file_does_not_stall_the_loop(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    lag_file = site.folder / "lags.json"
    with site.daemon(module="tests.support.lag", LAG_FILE=str(lag_file)) as daemon:
        site.upload("large.tar", samples.content(GIGABYTE))
        site.wait_settled()
        report: dict[str, Any] = site.reports()[-1]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert report["size_bytes"] == GIGABYTE
    assert report["verified"]
    lags = json.loads(lag_file.read_text())
    half, most = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    with capsys.disabled():
        print(
            f"\n1 GB: body {GIGABYTE / 1e6 / report['body_seconds']:.0f} MB/s, whole "
            f"{GIGABYTE / 1e6 / report['total_seconds']:.0f} MB/s; loop lag p50 {1e3 * half:.2f} ms, "
            f"p99 {1e3 * most:.2f} ms, max {1e3 * lags[-1]:.1f} ms of {len(lags)} samples"
        )
    assert most < 0.5


@pytest.mark.parametrize("how", ["returns", "cancelled"])
def test_a_part_that_dies_ends_the_daemon_with_an_error_and_commits_nothing(site: Site, how: str) -> None:
    config = site.write_config(kafka={"commitseconds": 600})
    with site.daemon(config, module="tests.support.dying", DYING=how) as daemon:
        daemon.wait_for("REBALANCE")
        site.upload("a.tar", b"x" * 1000)
        assert daemon.wait() == 1
    assert site.landed("a.tar") == b"x" * 1000
    assert set(site.kafka.committed(site.group, site.topic).values()) == {0}
    assert "dying ended although nobody asked for it" in daemon.log_path.read_text()
