from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcalqr.errors import ChecksumMismatch, ConnectionLost, DoorTimeout, ServerError, ShortBody
from dcalqr.retry import RetryPolicy, look_wait_seconds

draws = st.floats(0, 1, exclude_max=True)
failures = st.integers(1, 10_000)


@given(st.floats(0, 86_400), failures, draws)
def test_a_wait_is_between_nothing_and_five_minutes(retry_seconds: float, failures: int, draw: float) -> None:
    wait = RetryPolicy(retry_seconds, 10).wait_seconds(failures, ConnectionLost(), draw)
    assert 0 <= wait <= 300


@given(failures, draws)
def test_a_door_that_timed_out_is_left_alone_for_half_a_minute(failures: int, draw: float) -> None:
    assert 30 <= RetryPolicy(1, 10).wait_seconds(failures, DoorTimeout(seconds=240), draw) <= 300


@given(failures, draws, st.floats(0, 600))
def test_retry_after_is_honoured(failures: int, draw: float, after: float) -> None:
    wait = RetryPolicy(1, 10).wait_seconds(failures, ServerError(http_status=503, retry_after_seconds=after), draw)
    assert after <= wait <= max(after, 300)


@given(failures, draws, st.floats(600, 1e300) | st.integers(600, 10**12))
def test_a_retry_after_of_hours_is_cut_to_ten_minutes(failures: int, draw: float, after: float) -> None:
    error = ServerError(http_status=503, retry_after_seconds=after)
    assert RetryPolicy(1, 10).wait_seconds(failures, error, draw) == 600


@pytest.mark.parametrize("after", [-1, -1e300, float("nan"), "soon", None])
def test_a_retry_after_without_sense_is_no_wait(after: float | str | None) -> None:
    error = ServerError(http_status=503, retry_after_seconds=after)
    assert RetryPolicy(1, 10).wait_seconds(1, error, 0.5) == 0.5


@given(draws)
def test_a_wrong_checksum_is_tried_again_at_once_the_first_time_only(draw: float) -> None:
    policy, error = RetryPolicy(8, 10), ChecksumMismatch(received="1", expected="2")
    assert policy.wait_seconds(1, error, draw) == 0
    assert policy.wait_seconds(2, error, draw) == draw * 16


@pytest.mark.parametrize(("failures", "ceiling"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (10_000, 300)])
def test_the_ceiling_doubles_from_retryseconds_to_five_minutes(failures: int, ceiling: float) -> None:
    assert RetryPolicy(2, 10).wait_seconds(failures, ShortBody(), 0.5) == ceiling / 2


def test_without_retryseconds_nothing_is_waited() -> None:
    assert RetryPolicy(0, 10).wait_seconds(5, ShortBody(), 0.9) == 0


def test_retrytimes_counts_the_tries_after_the_first() -> None:
    assert [RetryPolicy(1, 2).spent(failures) for failures in (1, 2, 3)] == [False, False, True]
    assert RetryPolicy(1, 0).spent(1)


@given(st.integers(0, 10_000))
def test_looks_for_an_upload_are_ever_further_apart_up_to_thirty_seconds(looks: int) -> None:
    assert 0.2 <= look_wait_seconds(looks) <= look_wait_seconds(looks + 1) <= 30


def test_the_first_looks_are_soon_and_the_later_ones_rare() -> None:
    assert [look_wait_seconds(looks) for looks in (0, 1, 2)] == [0.2, 0.4, 0.8]
    assert look_wait_seconds(8) == 30
