"""What becomes of reports that a sink could not write: who is tried again, in which order, and who is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from dcalqr.metrics import reports as module
from dcalqr.metrics.reports import Reports, TransferReport, Undelivered
from tests.contract.sink import report
from tests.metrics.searching import until


class Judge:
    """A sink that raises what a function says of a batch, and keeps the rest."""

    name = "judge"
    gather_seconds = 0.0

    def __init__(self, verdict: Callable[[Sequence[TransferReport]], Undelivered | None]) -> None:
        self.verdict = verdict
        self.calls: list[list[int]] = []
        self.got: list[int] = []

    async def write(self, reports: Sequence[TransferReport]) -> None:
        self.calls.append([each.offset for each in reports])
        error = self.verdict(reports)
        held = [*error.unsent, *error.later] if error else []
        self.got += [each.offset for each in reports if each not in held]
        if error:
            raise error

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_MUTED_SECONDS", 0.01)
    monkeypatch.setattr(module, "MUTED_SECONDS", 0.05)
    monkeypatch.setattr(module, "BATCH_REPORTS", 3)


def silent(_name: str, _error: Exception) -> None:
    """Hear no complaint."""


async def test_what_was_not_sent_is_tried_again_first_and_in_its_order() -> None:
    failures = [True, True, False, True]

    def verdict(batch: Sequence[TransferReport]) -> Undelivered | None:
        return Undelivered({"away": "gone"}, unsent=batch[1:]) if failures and failures.pop(0) else None

    sink = Judge(verdict)
    reports = Reports([sink], silent)
    for number in range(7):
        reports.put(report(number))
    await until(lambda: len(sink.got) == 7, "all")
    assert sink.got == list(range(7))
    assert reports.lost == {"judge": {}}
    await reports.aclose()


async def test_what_is_refused_for_now_lets_all_others_go_first() -> None:
    blocked = {0, 1, 2}

    def verdict(batch: Sequence[TransferReport]) -> Undelivered | None:
        later = [each for each in batch if each.offset in blocked]
        return Undelivered({"read_only": "blocked"}, later=later) if later else None

    sink = Judge(verdict)
    reports = Reports([sink], silent)
    for number in range(9):
        reports.put(report(number))
    await until(lambda: sink.got == [3, 4, 5, 6, 7, 8], "the others", lambda: sink.got)
    assert reports.queued["judge"] in (0, 3)
    blocked.clear()
    await until(lambda: len(sink.got) == 9, "the blocked ones")
    await reports.aclose()
    assert reports.lost == {"judge": {}}


async def test_what_is_refused_for_good_is_counted_by_reason_and_not_tried_again() -> None:
    sink = Judge(lambda batch: Undelivered({"mapping": "wrong"}, refused={"mapping": 1}) if len(batch) > 1 else None)
    reports = Reports([sink], silent)
    for number in range(4):
        reports.put(report(number))
    await until(lambda: len(sink.calls) == 2, "two batches")
    await reports.aclose()
    assert sink.calls == [[0, 1, 2], [3]]
    assert reports.lost == {"judge": {"mapping": 1}}


async def test_at_the_end_each_report_gets_one_last_try_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_MUTED_SECONDS", 30.0)
    monkeypatch.setattr(module, "MUTED_SECONDS", 30.0)
    sink = Judge(lambda batch: Undelivered({"away": "gone"}, unsent=batch))
    reports = Reports([sink], silent)
    for number in range(7):
        reports.put(report(number))
    await until(lambda: len(sink.calls) == 1, "a first try")
    async with asyncio.timeout(15):
        await reports.aclose(grace=30)
    assert sink.calls == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [6]]
    assert reports.lost == {"judge": {"stop": 7}}
    assert reports.queued == {"judge": 0}


async def test_a_sink_that_fails_for_long_is_asked_ever_less_and_leaves_no_tasks_behind() -> None:
    sink = Judge(lambda batch: Undelivered({"away": "gone"}, unsent=batch))
    reports = Reports([sink], silent)
    reports.put(report(1))
    await until(lambda: len(sink.calls) > 5, "some tries")
    assert len(asyncio.all_tasks()) == 2  # this test and the pump
    await reports.aclose()


def test_waits_double_up_to_a_limit_and_differ_between_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_MUTED_SECONDS", 1.0)
    monkeypatch.setattr(module, "MUTED_SECONDS", 30.0)
    assert [module._muted_seconds(failures, 1.0) for failures in range(8)] == [1, 1, 2, 4, 8, 16, 30, 30]
    assert [module._muted_seconds(failures, 0.0) for failures in (1, 9, 10_000)] == [0.5, 15, 15]


async def test_a_loss_is_complained_about_although_no_sink_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_REPORTS", 5)
    heard: list[str] = []
    reports = Reports([Judge(lambda batch: None)], lambda name, error: heard.append(f"{name}: {error}"))
    for number in range(6):
        reports.put(report(number))
    assert heard == ["judge: 5 reports wait already"]
    await reports.aclose()
    assert reports.lost == {"judge": {"overflow": 1}}
