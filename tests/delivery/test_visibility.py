from __future__ import annotations

from typing import Any

import pytest

from dcalqr.delivery.visibility import is_overdue, is_shown, is_sum_overdue, version_shown
from dcalqr.model import StorageEvent, Version
from tests.test_dispatcher import event as any_event

NOW = 1_000_000.0


def event(**known: Any) -> StorageEvent:
    return any_event(**{"date": NOW, "size_bytes": 100} | known)


@pytest.mark.parametrize(("looked", "overdue"), [(0, False), (29.9, False), (30, True)])
def test_a_plain_upload_was_visible_before_its_message(looked: float, *, overdue: bool) -> None:
    assert is_overdue(event(date=NOW - 86_400), looked, NOW, 600) is overdue


def test_no_clock_but_that_of_the_looks_ends_the_wait_for_a_plain_upload() -> None:
    assert not is_overdue(event(), 10, NOW + 86_400, 600)


def test_a_plain_upload_never_waits_longer_than_was_configured() -> None:
    assert is_overdue(event(), 10, NOW, 10)


@pytest.mark.parametrize(("now", "overdue"), [(NOW + 599, False), (NOW + 600, True)])
def test_a_staged_upload_may_stay_invisible_from_its_date_on(now: float, *, overdue: bool) -> None:
    assert is_overdue(event(staged=True), 599, now, 600) is overdue


@pytest.mark.parametrize(("looked", "overdue"), [(59.9, False), (60, True)])
def test_an_old_staged_upload_has_a_minute_from_our_first_look(looked: float, *, overdue: bool) -> None:
    assert is_overdue(event(staged=True, date=NOW - 86_400), looked, NOW, 600) is overdue


@pytest.mark.parametrize(("looked", "overdue"), [(599, False), (600, True)])
def test_a_staged_upload_without_a_date_counts_from_our_first_look(looked: float, *, overdue: bool) -> None:
    assert is_overdue(event(staged=True, date=None), looked, NOW, 600) is overdue


def test_the_least_minute_is_no_longer_than_was_configured() -> None:
    assert is_overdue(event(staged=True, date=NOW - 86_400), 10, NOW, 10)


def test_a_sum_may_come_as_late_as_a_staged_upload() -> None:
    assert not is_sum_overdue(event(), 599, NOW + 599, 600)
    assert is_sum_overdue(event(), 600, NOW + 600, 600)
    assert is_sum_overdue(event(date=NOW - 86_400), 60, NOW, 600)


@pytest.mark.parametrize(
    ("pnfsid", "size_bytes", "shown"),
    [
        ("A", 100, True),
        ("A", 7, True),
        ("B", 100, False),  # the old file: raw images have constant sizes
        ("", 100, True),
        ("", 7, False),
        ("", None, False),
    ],
)
def test_the_etag_tells_the_new_file_from_the_old(pnfsid: str, size_bytes: int | None, *, shown: bool) -> None:
    assert is_shown(pnfsid, size_bytes, event(staged=True)) is shown


def test_an_upload_without_pnfsid_and_size_is_taken_at_its_path() -> None:
    assert is_shown("B", 7, event(pnfsid="", size_bytes=None))


@pytest.mark.parametrize(
    ("pnfsid", "size_bytes", "version"),
    [
        ("A", 100, Version("A", 100)),
        ("", None, Version("A", 100)),
        ("", 7, Version("A", 7)),
        ("A", 7, Version("A", 7)),
        ("B", 100, Version("B", 100)),
        ("B", None, Version("B", None)),
    ],
)
def test_what_the_door_does_not_say_is_taken_to_be_the_events(
    pnfsid: str, size_bytes: int | None, version: Version
) -> None:
    assert version_shown(pnfsid, size_bytes, event()) == version


def test_a_size_that_the_event_does_not_know_is_no_other_version() -> None:
    assert version_shown("A", 7, event(size_bytes=None)) == Version("A", None)
