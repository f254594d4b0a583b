"""Log format "seed": the lines of the first dcalqr, for the grep jobs written for them."""

from __future__ import annotations

import io
import re

import pytest

from dcalqr import log
from dcalqr.log.seed import SeedLines
from dcalqr.testing.door import Fault
from tests.support.site import FOLDER, ROOT, Site

UUID = "f9c82897-0976-ed88-61d8-0db305308527"
WATCHED = "/pnfs/in2p3.fr/data/lsst/lsst/user/j/james.perry"
DOWNLOAD = "/sps/lssttest/datasets/desc/DC2/Run2.2i/sim/input"
FILE = "23003/23003691/fits_01188251_10.tar"
URL = f"https://ccdcaccli236.in2p3.fr:2880/lsst/lsst/user/j/james.perry/{FILE}"
# As the deck shows them, but for the name of the part.
DECK = [
    f"[UPLOAD] New file on partition 0 : {WATCHED}/{FILE} ({UUID})",
    f"[CURRENTLY_RUNNING] 1 running tasks: [{UUID}] (SYSTEM)",
    f"[COPY_INIT] Creating destination file {DOWNLOAD}/{FILE}.x.part ({UUID})",
    f"[COPY_START] Getting data from {URL} ({UUID})",
    f"[COPY_RUN] Copying data to {DOWNLOAD}/{FILE}.x.part ({UUID})",
    f"[COPY_OVER] {URL} to {DOWNLOAD}/{FILE} (checksum validation: OK) ({UUID})",
    f"[COPY_REPORT] 217 MB copied in 379.387386ms, 4355.91 Mbps ({UUID})",
]


@pytest.fixture
def stream() -> io.BytesIO:
    lines = io.BytesIO()
    log.configure("info", SeedLines(lambda path: path.replace(WATCHED, DOWNLOAD)), lines)
    return lines


def lines(stream: io.BytesIO) -> list[str]:
    said = stream.getvalue().decode().splitlines()
    assert all(re.match(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[[A-Z_]+\] |    \| ", line) for line in said), said
    return [line[20:] for line in said]


def test_the_lines_are_those_of_the_deck(stream: io.BytesIO) -> None:
    size = round(4355.91 * 2**20 / 8 * 0.379387386)
    path, part = f"{WATCHED}/{FILE}", "fits_01188251_10.tar.x.part"
    job = log.get(uuid=UUID, partition=0, offset=42)
    log.get().info("UPLOAD", path=path, size=size, pnfsid="0000", uuid=UUID, partition=0, offset=42, staged=None)
    job.info("CURRENTLY_RUNNING", running=0, path=path)
    job.info("COPY_INIT", part=part, path=path, order="0123")
    job.info("COPY_START", url=URL)
    job.info("COPY_RUN", part=part)
    job.info("COPY_OVER", url=URL, name="fits_01188251_10.tar", checksum="ok")
    rate = size * 8 / 1e6 / 0.379387386
    log.get().info("COPY_REPORT", path=path, outcome="landed", size=size, seconds=1.5, mbit_per_s=rate, uuid=UUID)
    assert lines(stream) == DECK


def test_what_the_first_one_did_not_say_has_the_same_shape(stream: io.BytesIO) -> None:
    log.get().warning("HOLD", domain="door", reason="credential", message="the proxy expired", none=None)
    log.get(uuid=UUID).info("COPY_REPORT", path="/x", outcome="already", size=5)
    assert lines(stream) == [
        '[HOLD] level=warning domain=door reason=credential message="the proxy expired" (SYSTEM)',
        f"[COPY_REPORT] path=/x outcome=already size=5 ({UUID})",
    ]


def test_several_running_jobs_are_listed_until_they_are_over(stream: io.BytesIO) -> None:
    for job in ("a", "b"):
        log.get(uuid=job).info("CURRENTLY_RUNNING", running=0, path="/x")
    log.get(uuid="a").info("COPY_OVER", url="u", name="x", checksum="unverified")
    log.get(uuid="c").info("CURRENTLY_RUNNING", running=0, path="/x")
    said = [line for line in lines(stream) if "RUNNING" in line]
    assert said[1:] == [
        "[CURRENTLY_RUNNING] 2 running tasks: [a b] (SYSTEM)",
        "[CURRENTLY_RUNNING] 2 running tasks: [b c] (SYSTEM)",
    ]


def test_no_name_and_no_traceback_forges_a_line(stream: io.BytesIO) -> None:
    log.get(uuid=UUID).info("UPLOAD", path="/x\n2020/01/23 17:47:14 [HOLD] forged (SYSTEM)", partition=0)
    log.get().error("TASK_RAISED", exc_info=RuntimeError("a\n2020/01/23 17:47:14 [HOLD] forged (SYSTEM)"))
    assert not any(line.startswith("2020/01/23") for line in stream.getvalue().decode().splitlines())


@pytest.mark.parametrize(
    ("size", "rate", "words"),
    [
        (0, None, "0 MB copied in 0s, 0.00 Mbps"),
        (10**9, 8.0, "1000 MB copied in 16m40s, 7.63 Mbps"),
        (10**9, 800.0, "1000 MB copied in 10s, 762.94 Mbps"),
    ],
)
def test_durations_are_written_as_go_writes_them(stream: io.BytesIO, size: int, rate: float | None, words: str) -> None:
    log.get(uuid=UUID).info("COPY_REPORT", path="/x", outcome="landed", size=size, mbit_per_s=rate)
    assert lines(stream) == [f"[COPY_REPORT] {words} ({UUID})"]


def test_a_daemon_writes_them(site: Site) -> None:
    site.door.faults.add(Fault("door", path=f"{FOLDER}/bad", status=403))
    with site.daemon(site.write_config(log={"format": "seed", "level": "info"})) as daemon:
        site.upload("23003/raw", b"r" * 3_000_000)
        site.upload("bad", b"b")
        site.wait_settled()
    said = daemon.log_path.read_text()
    for pattern in (
        rf"\[UPLOAD\] New file on partition 0 : {ROOT}{FOLDER}/23003/raw \(([0-9a-f-]{{36}})\)$",
        rf"\[COPY_INIT\] Creating destination file {site.download}/23003/raw\.[0-9a-f-]+\.part \([0-9a-f-]{{36}}\)$",
        rf"\[COPY_RUN\] Copying data to {site.download}/23003/raw\.[0-9a-f-]+\.part \([0-9a-f-]{{36}}\)$",
        rf"\[COPY_OVER\] https://\S+/raw to {site.download}/23003/raw \(checksum validation: OK\) \([0-9a-f-]{{36}}\)$",
        r"\[COPY_REPORT\] 3 MB copied in [0-9.]+m?s, [0-9.]+ Mbps \([0-9a-f-]{36}\)$",
        r"\[COPY_FAILED\] .*error=ForbiddenFile",
    ):
        assert re.search(pattern, said, re.MULTILINE), (pattern, said)
