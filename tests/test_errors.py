"""The tree of errors: each class can be said, sorted, and sent to another process."""

from __future__ import annotations

import inspect
import pickle

import msgspec
import pytest

from dcalqr import errors
from dcalqr.orders import Refused

CLASSES = [
    thing
    for _, thing in inspect.getmembers(errors, inspect.isclass)
    if issubclass(thing, errors.DcalqrError) and thing.__module__ == errors.__name__
]
FACTS: dict[str, errors.Fact] = {"why": "x", "host": "h:1", "http_status": 503, "retry_after_seconds": 2.5, "ok": None}


def names(classes: list[type[errors.DcalqrError]]) -> list[str]:
    return [each.__name__ for each in classes]


@pytest.mark.parametrize("cls", CLASSES, ids=names(CLASSES))
def test_an_error_crosses_a_process_boundary_whole(cls: type[errors.DcalqrError]) -> None:
    error = cls(**FACTS)
    wire = msgspec.msgpack.encode(Refused(type(error).__name__, error.facts))
    again = msgspec.msgpack.decode(wire, type=Refused).to_error()
    assert type(again) is cls
    assert again.facts == FACTS
    assert str(again) == str(error)


@pytest.mark.parametrize("cls", CLASSES, ids=names(CLASSES))
def test_an_error_that_lacks_facts_can_still_be_said(cls: type[errors.DcalqrError]) -> None:
    assert str(cls())


@pytest.mark.parametrize("cls", CLASSES, ids=names(CLASSES))
def test_an_error_survives_being_pickled(cls: type[errors.DcalqrError]) -> None:
    again = pickle.loads(pickle.dumps(cls(**FACTS)))
    assert (type(again), again.facts) == (cls, FACTS)


def test_only_our_own_errors_come_back_from_the_wire() -> None:
    for name in ("Any", "string", "nothing", "EXIT_OK", "__builtins__"):
        with pytest.raises(KeyError):
            errors.by_name(name, {})


def test_the_tree_in_the_docstring_names_every_branch() -> None:
    branches = [cls for cls in CLASSES if any(issubclass(other, cls) and other is not cls for other in CLASSES)]
    missing = [cls.__name__ for cls in branches if cls.__name__ not in (errors.__doc__ or "")]
    assert not missing


def test_every_error_of_a_try_says_what_happens_next() -> None:
    kinds = (errors.TransientError, errors.NotYet, errors.PlanAgain, errors.HeldError, errors.PermanentError)
    for cls in CLASSES:
        if issubclass(cls, errors.TryError) and cls is not errors.TryError:
            assert sum(issubclass(cls, kind) for kind in kinds) == 1, cls


def test_a_hold_names_its_reason() -> None:
    for cls in CLASSES:
        if issubclass(cls, errors.HeldError) and cls not in (errors.HeldError, errors.DoorHeld, errors.DestinationHeld):
            assert cls.hold
