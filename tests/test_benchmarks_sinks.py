"""The arithmetic of the benchmark of sinks."""

from __future__ import annotations

from benchmarks.bars import Bar
from benchmarks.sinks import KILLED, NONE, STOPPED, WELL, Run, markdown, sink_bars


def run(files_per_second: float, cpu_ms: float, *, stored: int = 7, dropped: int = 3) -> Run:
    return Run(files_per_second, cpu_ms, cpu_ms / 4, 0.5, stored, dropped, 10)


def runs(files_per_second: float, cpu_ms: float, **counted: int) -> dict[str, list[Run]]:
    """Two rounds, the second on a machine that is half as fast: of the case without a sink, and of the others."""
    with_sink = [run(files_per_second, cpu_ms, **counted), run(files_per_second / 2, cpu_ms * 2, **counted)]
    return {NONE: [run(100.0, 2.0), run(50.0, 4.0)], **dict.fromkeys((WELL, KILLED, STOPPED), with_sink)}


def held(bars: list[Bar]) -> list[bool]:
    return [bar.holds for bar in bars]


def test_a_case_is_held_against_the_run_without_a_sink_of_its_own_round() -> None:
    assert held(sink_bars(runs(98.0, 2.04), 0.089)) == [True, True, True, True, True]
    assert held(sink_bars(runs(96.0, 2.08), 0.091)) == [False, False, False, False, True]
    assert f"| {WELL} | 74 | 0.980 | 3.06 | 1.020 | 0.765 | 1.020 | 0.50 | 14, 6, 20 |" in markdown(runs(98.0, 2.04))


def test_a_report_that_is_neither_stored_nor_counted_is_missed_and_so_is_one_that_is_both() -> None:
    assert held(sink_bars(runs(98.0, 2.0, dropped=2), 0.0)) == [True, True, True, True, False]
    assert held(sink_bars(runs(98.0, 2.0, stored=8), 0.0)) == [True, True, True, True, False]
