from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcalqr.kafka.offsets import OffsetTracker


@pytest.fixture
def tracker() -> OffsetTracker:
    return OffsetTracker("billing", 3, 10)


def test_a_new_tracker_marks_where_its_assignment_starts(tracker: OffsetTracker) -> None:
    assert (tracker.mark(), len(tracker)) == (10, 0)


def test_the_mark_is_the_lowest_unfinished_offset_whatever_ended_above(tracker: OffsetTracker) -> None:
    tracker.track([10, 11, 12], 13)
    tracker.close(12)
    tracker.close(11)
    assert (tracker.mark(), len(tracker)) == (10, 1)
    tracker.close(10)
    assert (tracker.mark(), len(tracker)) == (13, 0)


def test_the_mark_is_a_record_that_was_seen_never_a_gap(tracker: OffsetTracker) -> None:
    tracker.track([12, 17], 18)
    assert tracker.mark() == 12
    tracker.close(12)
    assert tracker.mark() == 17


def test_with_nothing_open_the_mark_passes_transaction_markers(tracker: OffsetTracker) -> None:
    tracker.track([10], 12)
    tracker.close(10)
    assert tracker.mark() == 12


def test_a_batch_without_records_moves_the_position(tracker: OffsetTracker) -> None:
    tracker.track([], 14)
    assert tracker.mark() == 14


def test_an_empty_poll_changes_nothing(tracker: OffsetTracker) -> None:
    tracker.track([], 10)
    assert tracker.mark() == 10


@pytest.mark.parametrize(
    ("offsets", "position"),
    [
        pytest.param([9, 10], 11, id="below the position"),
        pytest.param([10, 10], 11, id="the same twice"),
        pytest.param([12, 11], 13, id="descending"),
        pytest.param([10, 11], 11, id="position at the last record"),
        pytest.param([], 9, id="position going back"),
    ],
)
def test_a_batch_that_does_not_continue_is_refused_whole(
    tracker: OffsetTracker, offsets: list[int], position: int
) -> None:
    with pytest.raises(ValueError, match="billing:3"):
        tracker.track(offsets, position)
    assert (tracker.mark(), tracker.position, len(tracker)) == (10, 10, 0)


def test_a_record_that_was_tracked_is_not_tracked_again_after_its_end(tracker: OffsetTracker) -> None:
    tracker.track([10], 11)
    tracker.close(10)
    with pytest.raises(ValueError, match="offset 10 of billing:3"):
        tracker.track([10], 11)


def test_an_offset_is_closed_once(tracker: OffsetTracker) -> None:
    tracker.track([10], 11)
    tracker.close(10)
    with pytest.raises(KeyError):
        tracker.close(10)


def test_many_offsets_are_closed_as_one_by_one(tracker: OffsetTracker) -> None:
    tracker.track([10, 12, 13, 17], 20)
    tracker.close_all([10, 13, 17])
    assert (tracker.mark(), len(tracker)) == (12, 1)
    with pytest.raises(KeyError):
        tracker.close_all([12, 13])


def test_an_offset_never_tracked_cannot_be_closed(tracker: OffsetTracker) -> None:
    with pytest.raises(KeyError):
        tracker.close(10)


def test_repr_says_what_would_be_committed_and_what_is_open(tracker: OffsetTracker) -> None:
    tracker.track([10, 12], 20)
    tracker.close(10)
    assert repr(tracker) == "<OffsetTracker billing:3 mark=12 position=20 open=1>"


def test_two_assignments_of_one_partition_share_nothing() -> None:
    old, new = OffsetTracker("billing", 3, 10), OffsetTracker("billing", 3, 10)
    old.track([10], 11)
    new.track([10], 11)
    old.close(10)
    assert (old.mark(), new.mark()) == (11, 10)


@given(st.lists(st.integers(1, 4), max_size=8), st.integers(0, 3))
def test_the_mark_never_falls_and_never_passes_an_open_offset(steps: list[int], kept: int) -> None:
    tracker, marks, opened = OffsetTracker("billing", 0, 0), [0], list[int]()
    for number, step in enumerate(steps):
        batch = [tracker.position + step * place for place in range(1, 4)]
        tracker.track(batch, batch[-1] + step)
        opened += batch
        while len(opened) > kept:
            tracker.close(opened.pop(number % len(opened)))
            marks.append(tracker.mark())
            assert tracker.mark() <= min(opened, default=tracker.position)
    assert marks == sorted(marks)


def test_progress_tells_what_is_behind_the_mark_from_what_is_unread(tracker: OffsetTracker) -> None:
    tracker.track([10, 11, 12], 13)
    tracker.close(10)
    progress = tracker.progress(10, 20)
    assert tuple(progress) == (11, 13, 2, 10, 20)
    assert (progress.lag, progress.unread) == (9, 7)


def test_an_end_that_is_not_known_yet_makes_no_lag(tracker: OffsetTracker) -> None:
    progress = tracker.progress(None, None)
    assert (progress.lag, progress.unread) == (None, None)


def test_an_end_that_is_older_than_the_position_is_no_negative_lag(tracker: OffsetTracker) -> None:
    tracker.track([], 30)
    progress = tracker.progress(None, 20)
    assert (progress.lag, progress.unread) == (0, 0)
