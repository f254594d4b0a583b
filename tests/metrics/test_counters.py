from __future__ import annotations

from typing import Any

import pytest

from dcalqr.metrics.counters import LAST_FAILURES, Counters
from dcalqr.metrics.histogram import Histogram
from dcalqr.metrics.reports import TransferReport


def report(**changes: Any) -> TransferReport:
    found: dict[str, Any] = {
        "time": 100.0, "instance": "one", "task": "transfer", "identity": "i", "topic": "t", "partition": 0,
        "offset": 1, "replay": "", "outcome": "landed", "path": "/a/b", "pnfsid": "P", "event_date": None,
        "received_at": 90.0, "attempts": 1, "total_seconds": 10.0,
    }  # fmt: skip
    return TransferReport(**{**found, **changes})


def test_a_copy_is_told_from_what_came_before_it() -> None:
    counters = Counters()
    counters.note(report(door_wait_seconds=0.5, connect_seconds=0.25, body_seconds=2.0, sync_seconds=0.25))
    assert counters.copying.sum_seconds == 3.0
    assert counters.waiting.sum_seconds == 7.0
    assert counters.phase_seconds["body"] == 2.0
    assert sum(counters.phase_seconds.values()) == 3.0


@pytest.mark.parametrize("outcome", ["already", "gone", "replaced", "failed"])
def test_only_what_landed_has_a_time_of_copying(outcome: str) -> None:
    counters = Counters()
    counters.note(report(outcome=outcome, body_seconds=2.0))
    assert sum(counters.copying.counts) == sum(counters.waiting.counts) == 0


def test_the_last_failures_are_kept_and_no_more() -> None:
    counters = Counters()
    for number in range(LAST_FAILURES + 5):
        counters.note(report(outcome="failed", error_class="transient", message="no", path=f"/{number}", attempts=11))
    assert len(counters.last_failures) == LAST_FAILURES
    assert counters.last_failures[-1] == (100.0, f"/{LAST_FAILURES + 4}", "transient", "no", 11)


def test_a_failure_shows_no_secret_and_no_control() -> None:
    counters = Counters()
    counters.note(report(error_class="transient", message="https://p/x?authz=SECRET\x1b[2J", path="/a\nb\ud800"))
    [failure] = counters.last_failures
    assert "SECRET" not in failure.message
    assert "\x1b" not in failure.message
    assert failure.path == "/a\\nb\\ud800"


def test_a_failed_reload_does_not_forget_the_good_one() -> None:
    counters = Counters()
    counters.reloaded(5.0, ok=True)
    counters.reloaded(7.0, ok=False)
    assert counters.reload == (False, 5.0, 7.0, "")


def test_a_duration_on_a_bound_belongs_below_it_and_a_long_one_beyond_all() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(seconds)
    assert histogram.as_json() == {"bounds": [1.0, 2.0], "counts": [2, 1, 1], "sum": 102.0}
