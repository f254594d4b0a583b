from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dcalqr.dcache.stall import StallWatch

RATE, WINDOW = 100.0, 10.0  # 1000 bytes in any ten seconds


def fed(*reads: tuple[float, int]) -> list[bool]:
    """Feed (time, bytes read) pairs; returns the verdict after each."""
    watch, total, verdicts = StallWatch(RATE, WINDOW, 0.0), 0, []
    for now, count in reads:
        total += count
        verdicts.append(watch.stalled(total, now))
    return verdicts


def test_nothing_is_a_stall_before_the_window_has_passed_once() -> None:
    assert fed(*((float(second), 0) for second in range(10))) == [False] * 10


def test_less_than_the_least_in_a_whole_window_is_a_stall() -> None:
    assert fed(*((float(second), 99) for second in range(1, 11)))[-1]


def test_the_least_itself_is_enough_for_ever() -> None:
    assert not any(fed(*((float(second), 100) for second in range(1, 1000))))


def test_what_came_long_ago_does_not_help() -> None:
    verdicts = fed((0.5, 10**9), *((float(second), 1) for second in range(1, 20)))
    assert verdicts.index(True) == 11


def test_a_burst_after_a_silence_counts_from_when_it_came() -> None:
    assert fed((9.9, 2000), (10.0, 0), (11.0, 1), (19.0, 1)) == [False] * 4
    assert fed((9.9, 2000), (10.0, 0), (21.0, 1))[-1]


def test_a_rate_of_nothing_switches_it_off() -> None:
    watch = StallWatch(0.0, WINDOW, 0.0)
    assert not any(watch.stalled(0, float(second)) for second in range(1000))


def test_monotonic_time_may_begin_anywhere() -> None:
    watch = StallWatch(RATE, WINDOW, 1e9)
    assert not watch.stalled(0, 1e9 + 9)
    assert watch.stalled(0, 1e9 + 11)


@given(st.lists(st.tuples(st.floats(0.01, 4), st.integers(0, 1500)), max_size=80))
def test_it_agrees_with_the_definition_to_within_a_step(gaps: list[tuple[float, int]]) -> None:
    watch, now, total = StallWatch(RATE, WINDOW, 0.0), 0.0, 0
    history = [(0.0, 0)]
    step = WINDOW / 10

    def received_since(moment: float) -> int:
        return total - max(before for at, before in history if at <= moment)

    for gap, count in gaps:
        now, total = now + gap, total + count
        history.append((now, total))
        stalled = watch.stalled(total, now)
        if stalled:
            assert now >= WINDOW
            assert received_since(now - WINDOW) < RATE * WINDOW
        elif now >= WINDOW + 2 * step and gap >= step:
            # It looks at each mark; a read that passes one sees at most a window and a step.
            assert received_since(max(0.0, now - WINDOW - step)) >= RATE * WINDOW
