from __future__ import annotations

import pytest

from dcalqr.errors import CredentialRefused, HeldError, MountMissing, NoSpace, Unreachable
from dcalqr.holds import DESTINATION, DOOR, Holds, domain_of

UNREACHABLE = Unreachable(host="door:2880", why="refused")
CREDENTIAL = CredentialRefused(why="HTTP 401")
SPACE = NoSpace(why="ENOSPC")


@pytest.fixture
def holds() -> Holds:
    return Holds()


@pytest.mark.parametrize(
    ("error", "domain"),
    [(UNREACHABLE, DOOR), (CREDENTIAL, DOOR), (SPACE, DESTINATION), (MountMissing(why="absent"), DESTINATION)],
)
def test_an_error_holds_its_own_side(error: HeldError, domain: str) -> None:
    assert domain_of(error) == domain


@pytest.mark.parametrize("error", [CREDENTIAL, SPACE])
def test_a_credential_or_a_full_disk_holds_at_once(holds: Holds, error: HeldError) -> None:
    hold = holds.failed(error, 100.0)
    assert hold is not None
    assert (hold.reason, hold.message, hold.since, hold.probe_at) == (error.hold, str(error), 100.0, 101.0)
    assert holds


def test_nine_unreachable_tries_are_bad_luck_and_the_tenth_holds(holds: Holds) -> None:
    assert [holds.failed(UNREACHABLE, now) for now in range(9)] == [None] * 9
    assert not holds
    hold = holds.failed(UNREACHABLE, 9.0)
    assert hold is not None
    assert (hold.domain, hold.reason) == (DOOR, "unreachable")


def test_a_door_that_answers_breaks_the_row(holds: Holds) -> None:
    for _ in range(5):
        for now in range(9):
            assert holds.failed(UNREACHABLE, now) is None
        holds.door_reached()
    assert not holds


def test_what_fails_under_a_hold_begins_no_second_one(holds: Holds) -> None:
    hold = holds.failed(CREDENTIAL, 0.0)
    assert [holds.failed(error, now) for now in range(1, 20) for error in (CREDENTIAL, UNREACHABLE)] == [None] * 38
    assert holds.active == {DOOR: hold}


def test_door_and_destination_are_held_and_released_apart(holds: Holds) -> None:
    holds.failed(CREDENTIAL, 0.0)
    holds.failed(SPACE, 0.0)
    assert repr(holds) == "<Holds door:credential destination:space>"
    assert holds.release(DOOR, 5.0).reason == "credential"
    assert repr(holds) == "<Holds destination:space>"
    holds.release(DESTINATION, 5.0)
    assert (repr(holds), bool(holds)) == ("<Holds none>", False)


def test_probes_come_ever_later_up_to_thirty_seconds(holds: Holds) -> None:
    hold = holds.failed(SPACE, 0.0)
    assert hold is not None
    waits = [hold.probe_seconds]
    for _ in range(7):
        now = hold.probe_at
        holds.probe_failed(DESTINATION, SPACE, now)
        waits.append(hold.probe_at - now)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_probe_that_meets_another_trouble_says_so(holds: Holds) -> None:
    holds.failed(CREDENTIAL, 0.0)
    holds.probe_failed(DOOR, UNREACHABLE, 1.0)
    assert (holds.active[DOOR].reason, holds.active[DOOR].message) == ("unreachable", str(UNREACHABLE))
    assert holds.active[DOOR].since == 0.0


def test_a_released_door_may_be_unreachable_nine_times_again(holds: Holds) -> None:
    for now in range(10):
        holds.failed(UNREACHABLE, now)
    holds.release(DOOR, 20.0)
    assert [holds.failed(UNREACHABLE, 20.0) for _ in range(9)] == [None] * 9
    assert holds.failed(UNREACHABLE, 20.0) is not None


def test_room_on_the_disk_says_nothing_about_the_door(holds: Holds) -> None:
    holds.failed(SPACE, 0.0)
    for now in range(9):
        holds.failed(UNREACHABLE, now)
    holds.release(DESTINATION, 9.0)
    assert holds.failed(UNREACHABLE, 10.0) is not None


def test_a_hold_that_comes_back_within_a_minute_goes_on_waiting_where_it_was(holds: Holds) -> None:
    holds.failed(SPACE, 0.0)
    waits = []
    for now in range(0, 500, 50):
        holds.release(DESTINATION, now)
        hold = holds.failed(SPACE, now + 1.0)
        assert hold is not None
        waits.append(hold.probe_seconds)
    assert waits == [2, 4, 8, 16, 30, 30, 30, 30, 30, 30]


def test_a_hold_that_comes_back_later_begins_with_a_soon_probe(holds: Holds) -> None:
    holds.failed(SPACE, 0.0)
    for now in range(5):
        holds.probe_failed(DESTINATION, SPACE, now)
    holds.release(DESTINATION, 100.0)
    hold = holds.failed(SPACE, 160.0)
    assert hold is not None
    assert hold.probe_seconds == 1


def test_a_relapse_on_one_side_does_not_slow_the_other(holds: Holds) -> None:
    holds.failed(SPACE, 0.0)
    holds.release(DESTINATION, 1.0)
    hold = holds.failed(CREDENTIAL, 2.0)
    assert hold is not None
    assert hold.probe_seconds == 1


def test_a_hold_that_is_not_set_cannot_be_released(holds: Holds) -> None:
    with pytest.raises(KeyError):
        holds.release(DOOR, 0.0)
