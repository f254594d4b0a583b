from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dcalqr.metrics import reports as module
from dcalqr.metrics.reports import JsonLinesSink, Reports, TransferReport
from tests.contract.sink import SinkContract, report


class TestJsonLinesSink(SinkContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "reports.jsonl"

    def make(self) -> JsonLinesSink:
        return JsonLinesSink(self.path)

    async def read(self) -> Sequence[Mapping[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]


async def test_a_rotated_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    sink = JsonLinesSink(path)
    await sink.write([report(1)])
    path.rename(tmp_path / "reports.1")
    await sink.write([report(2)])
    await sink.aclose()
    assert [json.loads(line)["offset"] for line in path.read_bytes().splitlines()] == [2]


async def test_a_torn_last_line_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_bytes(b'{"offset": 1}\n{"offs')
    sink = JsonLinesSink(path)
    await sink.write([report(2)])
    await sink.aclose()
    lines = path.read_bytes().split(b"\n")
    assert lines[:2] == [b'{"offset": 1}', b'{"offs']
    assert json.loads(lines[2])["offset"] == 2
    assert lines[3:] == [b""]


# --- the channel --------------------------------------------------------------------------------------------------


class Recorder:
    """A sink with a switch for each way to be bad."""

    name = "recorder"
    gather_seconds = 0.0

    def __init__(self) -> None:
        self.got: list[TransferReport] = []
        self.calls = 0
        self.error: Exception | None = None
        self.close_error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.stubborn = False
        self.closed = False

    async def write(self, reports: Sequence[TransferReport]) -> None:
        self.calls += 1
        while not self.open.is_set():
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        if self.error:
            raise self.error
        self.got += reports

    async def aclose(self) -> None:
        self.closed = True
        if self.close_error:
            raise self.close_error


class Complaints(list[str]):
    def __call__(self, name: str, error: Exception) -> None:
        self.append(f"{name}: {error}")


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.005)


async def test_every_sink_gets_every_report() -> None:
    one, two = Recorder(), Recorder()
    reports = Reports([one, two], Complaints())
    for number in range(10):
        reports.put(report(number))
    await reports.aclose()
    assert [each.offset for each in one.got] == [each.offset for each in two.got] == list(range(10))
    assert one.closed
    assert two.closed


async def test_a_queue_that_is_full_drops_its_oldest_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_REPORTS", 5)
    sink = Recorder()
    sink.open.clear()
    reports = Reports([sink], Complaints())
    reports.put(report(100))
    await until(lambda: sink.calls == 1)  # 100 is on its way, the queue is empty
    for number in range(8):
        reports.put(report(number))
    assert reports.lost == {"recorder": {"overflow": 3}}
    sink.open.set()
    await reports.aclose()
    assert [each.offset for each in sink.got] == [100, 3, 4, 5, 6, 7]


async def test_a_sink_in_error_is_muted_reported_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MUTED_SECONDS", 0.05)
    sink, complaints = Recorder(), Complaints()
    sink.error = OSError("disk full")
    reports = Reports([sink], complaints)
    reports.put(report(1))
    await until(lambda: complaints == ["recorder: disk full"])
    reports.put(report(2))
    sink.error = None
    await until(lambda: len(sink.got) == 1)
    assert sink.got[0].offset == 2
    assert reports.lost == {"recorder": {"error": 1}}
    await reports.aclose()


async def test_reports_wait_for_others_where_a_write_is_dear_and_not_at_the_end() -> None:
    sink = Recorder()
    sink.gather_seconds = 3600.0
    reports = Reports([sink], Complaints())
    reports.put(report(0))
    await until(lambda: len(sink.got) == 1)  # who comes first does not wait
    for number in range(1, 4):
        reports.put(report(number))
        await asyncio.sleep(0.01)
    assert sink.calls == 1
    async with asyncio.timeout(20):
        await reports.aclose(grace=3600.0)
    assert (sink.calls, [each.offset for each in sink.got]) == (2, [0, 1, 2, 3])


async def test_a_full_batch_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_REPORTS", 3)
    sink = Recorder()
    sink.gather_seconds = 3600.0
    sink.open.clear()
    reports = Reports([sink], Complaints())
    reports.put(report(0))
    await until(lambda: sink.calls == 1)
    for number in range(1, 8):
        reports.put(report(number))
    sink.open.set()
    await until(lambda: sink.calls == 3)  # 1 to 3, then 4 to 6; 7 waits
    await asyncio.sleep(0.01)
    assert (sink.calls, reports.queued) == (3, {"recorder": 1})
    await reports.aclose()


async def test_a_sink_in_error_does_not_disturb_another(monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = Recorder(), Recorder()
    bad.name, bad.error = "bad", OSError("no")
    reports = Reports([bad, good], Complaints())
    for number in range(20):
        reports.put(report(number))
        await asyncio.sleep(0)
    await until(lambda: len(good.got) == 20)
    await reports.aclose()
    assert {name: sum(lost.values()) for name, lost in reports.lost.items()} == {"bad": 20, "recorder": 0}


async def test_a_muted_sink_does_not_delay_the_end() -> None:
    sink, complaints = Recorder(), Complaints()
    sink.error = OSError("no")
    reports = Reports([sink], complaints)
    reports.put(report(1))
    await until(lambda: bool(complaints))
    async with asyncio.timeout(module.MUTED_SECONDS / 2):
        await reports.aclose(grace=module.MUTED_SECONDS)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_sink_that_hangs_delays_the_end_by_its_grace_and_its_reports_count_as_dropped(stubborn: bool) -> None:
    sink = Recorder()
    sink.stubborn = stubborn
    sink.open.clear()
    reports = Reports([sink], Complaints())
    reports.put(report(1))
    await until(lambda: sink.calls == 1)
    reports.put(report(2))
    reports.put(report(3))
    async with asyncio.timeout(20):
        await reports.aclose(grace=0.05)
    assert reports.lost["recorder"] == {"stop": 2 if stubborn else 3}  # who ignores the cancel may still deliver
    sink.open.set()
    await asyncio.sleep(0)


async def test_a_sink_that_cannot_be_closed_is_complained_about_and_no_more() -> None:
    sink, complaints = Recorder(), Complaints()
    sink.close_error = RuntimeError("stuck")
    reports = Reports([sink], complaints)
    await reports.aclose()
    assert complaints == ["recorder: stuck"]


async def test_a_file_that_cannot_be_written_is_complained_about_and_putting_goes_on(tmp_path: Path) -> None:
    complaints = Complaints()
    reports = Reports([JsonLinesSink(tmp_path / "missing" / "reports.jsonl")], complaints)
    reports.put(report(1))
    await until(lambda: bool(complaints))
    reports.put(report(2))
    await reports.aclose()
    assert "missing" in complaints[0]
    assert reports.lost == {"file": {"error": 2}}
