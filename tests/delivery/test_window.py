from __future__ import annotations

from dcalqr.delivery.window import INVISIBLE_WINDOWS, Window


def test_a_window_is_full_at_its_limit_and_has_room_at_half() -> None:
    window = Window(10)
    seen = []
    for window.open in range(12):
        seen.append((window.is_full, window.has_room))
    assert [full for full, _ in seen] == [False] * 10 + [True] * 2
    assert [room for _, room in seen] == [True] * 6 + [False] * 6


def test_who_only_waits_to_be_visible_counts_in_a_second_window_ten_times_as_large() -> None:
    window = Window(10)
    window.open = window.invisible = 10 * INVISIBLE_WINDOWS - 1
    assert not window.is_full
    window.open = window.invisible = 10 * INVISIBLE_WINDOWS
    assert window.is_full


def test_intake_resumes_when_both_windows_have_room() -> None:
    window = Window(10)
    window.open = window.invisible = 5 * INVISIBLE_WINDOWS + 1
    assert not window.has_room
    window.open = window.invisible = 5 * INVISIBLE_WINDOWS
    assert window.has_room
    window.open += 6
    assert not window.has_room


def test_a_window_of_one_is_full_with_one_and_has_room_with_none() -> None:
    window = Window(1)
    assert (window.is_full, window.has_room) == (False, True)
    window.open = 1
    assert (window.is_full, window.has_room) == (True, False)


def test_repr_shows_the_counts() -> None:
    window = Window(10)
    window.open, window.invisible = 3, 2
    assert repr(window) == "<Window open=3 invisible=2 limit=10>"
