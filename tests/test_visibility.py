from __future__ import annotations

from typing import Any

import pytest

from dcalqr.model import StorageEvent, Version
from dcalqr.visibility import is_shown, summed_until, version_shown, visible_until
from tests.test_dispatcher import event as any_event

NOW = 1_000_000.0


def event(**known: Any) -> StorageEvent:
    return any_event(**{"date": NOW, "size_bytes": 100} | known)


def test_a_plain_upload_was_visible_before_its_message() -> None:
    assert visible_until(event(), NOW + 5, 600) == NOW + 35


def test_a_plain_upload_never_waits_longer_than_was_configured() -> None:
    assert visible_until(event(), NOW, 10) == NOW + 10


def test_a_staged_upload_may_stay_invisible_from_its_date_on() -> None:
    assert visible_until(event(staged=True), NOW + 5, 600) == NOW + 600


@pytest.mark.parametrize("date", [NOW - 86_400, NOW - 599])
def test_an_old_staged_upload_has_a_minute_from_our_first_look(date: float) -> None:
    assert visible_until(event(staged=True, date=date), NOW, 600) == NOW + 60


def test_a_staged_upload_without_a_date_counts_from_our_first_look() -> None:
    assert visible_until(event(staged=True, date=None), NOW, 600) == NOW + 600


def test_the_least_minute_is_no_longer_than_was_configured() -> None:
    assert visible_until(event(staged=True, date=NOW - 86_400), NOW, 10) == NOW + 10


def test_a_sum_may_come_as_late_as_a_staged_upload() -> None:
    assert summed_until(event(), NOW, 600) == NOW + 600
    assert summed_until(event(date=NOW - 86_400), NOW, 600) == NOW + 60


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
