"""An event and its fields made into a line: JSON that nothing can forge, whatever name a file has."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import os
import sys
import time
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any

import orjson

from dcalqr import errors, logtext

Fields = MutableMapping[str, Any]

_SHOWN_ITEMS = 50  # of a list or mapping; the longest of ours are the partitions of a topic
_SHOWN_DEPTH = 3
_TRACEBACK_LINES = 60  # the last ones: where it happened
_NUMBERS = (bool, int, float)  # how many tokens, whether there is a password
_FLAT = frozenset({str, int, float, bool, type(None)})
_OURS = frozenset({"time", "level", "event", "exc_info"})


def line_of(level: str, event: str, fields: Fields) -> tuple[Fields, bytes]:
    """Make a line; returns it and its JSON."""
    moment = _moment(time.time_ns() // 1_000_000)
    # Nearly all can stand as they are, and a file costs seven lines: one look at the whole, not one at each value.
    if type(event) is str and _FLAT.issuperset(map(type, fields.values())) and _is_ordinary(tuple(fields)):
        line: Fields = {"time": moment, "level": level, "event": event, **fields}
        try:
            text = orjson.dumps(line, option=orjson.OPT_STRICT_INTEGER)
        except TypeError:  # half a character, or a number that not every reader of JSON can hold
            pass
        else:
            if logtext.is_plain_json(text):
                return line, text
    line = _cleaned({"time": moment, "level": level, "event": _safe(event)}, _explained(fields))
    return line, orjson.dumps(line)


@functools.lru_cache(maxsize=1)
def _moment(milliseconds: int) -> str:
    """The time of the lines of one millisecond; a file's come in threes."""
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """The date of many lines: those of one second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


# The sets of names are few: one for each place that writes a line.
@functools.lru_cache(maxsize=1000)
def _is_ordinary(names: tuple[str, ...]) -> bool:
    """Whether no field of these has a name that makes it special."""
    return _OURS.isdisjoint(names) and not any(map(logtext.is_secret_name, names))


def _explained(fields: Fields) -> Fields:
    error = fields.get("error")
    if isinstance(error, BaseException):
        fields["error"] = type(error).__name__
        fields.setdefault("message", str(error))
        if isinstance(error, errors.DcalqrError):
            for name, fact in error.facts.items():
                fields.setdefault(name, fact)
    return fields


def _cleaned(line: Fields, fields: Fields) -> Fields:
    trace = _traceback(fields.pop("exc_info", None))
    for name, value in fields.items():
        # A field cannot replace what says when, how bad and what.
        line[f"{name}_" if name in line else name] = _field(name, value)
    if trace:
        line["exception"] = trace
    return line


def _field(name: str, value: object, depth: int = 0) -> object:
    if value is not None and not isinstance(value, _NUMBERS) and logtext.is_secret_name(name):
        return logtext.HIDDEN
    return _safe(value, depth)


def _safe(value: object, depth: int = 0) -> object:
    """What JSON can say of a value, without anything that could forge a line or betray a secret."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str | bytes):
        return logtext.show(value)
    if depth < _SHOWN_DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:_SHOWN_ITEMS]
        return {logtext.show(str(name)): _field(str(name), item, depth + 1) for name, item in items}
    if depth < _SHOWN_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_safe(item, depth + 1) for item in list(value)[:_SHOWN_ITEMS]]
    return logtext.show(os.fsencode(value) if isinstance(value, os.PathLike) else str(value))


def _traceback(exc_info: object) -> str:
    """The traceback behind an `exc_info` argument, each line made safe; empty when there is none."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    if not isinstance(exc_info, BaseException):
        return ""
    text = logtext.redact("".join(traceback.format_exception(exc_info)))  # whole: a PEM block has many lines
    return "\n".join(logtext.show(line) for line in text.rstrip("\n").split("\n")[-_TRACEBACK_LINES:])
