"""The document that a search server gets of one TransferReport. Pure.

Index: `PREFIX-YYYY.MM.DD` by the event's own date in UTC, so that a redelivery and a replay meet the first document of
their file; `PREFIX-undated` when the event has no date, or one that no dCache can have written.

`_id`: a hash of topic, partition, offset, task and origin ("kafka", or the replay's id). The same delivery is stored
once, however often it is sent; what a replay makes of it is a document of its own.

Keys of a document; what is not known is left out:

=====================  =====================================================================================
`@timestamp`           when the delivery was settled (date)
`outcome`              landed, already, gone, replaced, failed, ...
`path`                 in dCache's namespace
`pnfsid`               of the event
`size_bytes`           of the file
`pool`                 host and port that sent the body
`rate_mbit_per_s`      of the body, decimal
`attempts`             tries of the Task, from 1
`error_class`          the reason in one word, as in the failed-tasks file; left out when all went well
`message`              the reason in a sentence
`http_status`          behind the reason
`adler32`, `verified`  the file's sum; whether it was compared with the door's
`event_date`           when dCache says that the upload ended (date)
`received_at`          when the event reached this instance (date)
`latency_seconds`      from event_date to @timestamp; the clocks of two machines are in it
`total_seconds`        from received_at to @timestamp
`door_wait_seconds`, `connect_seconds`, `first_byte_seconds`, `body_seconds`, `sync_seconds`, `publish_seconds`
                       the phases of the last attempt, in their order
`instance`, `task`     who did it, and what was done
`topic`, `partition`, `offset`
                       where the event stands in Kafka
`replay`               the replay's id; left out when it came from Kafka
`identity`             the uuid that all log lines of the delivery bear
`extra`                what a Task reported beyond these, by name; a text after 4096 characters is cut
=====================  =====================================================================================
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from typing import Any

import msgspec

from dcalqr.errors import Fact
from dcalqr.metrics.reports import TransferReport

# dCache is of 2000; a clock that is wrong by decades must not make an index for each day it invents.
_FIRST, _LAST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp(), dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp()
# 128 bits: no two deliveries of any facility meet.
_ID_CHARACTERS = 32
# A value under `extra` is one term of Lucene's, of 32766 bytes at most, and a longer one spoils the whole document.
_EXTRA_CHARACTERS = 4096
# What is reported together happened within a few seconds; to write a date costs as much as half a document.
_SECONDS = 256
_RENAMED = frozenset({"time", "event_date", "received_at"})

_encoder = msgspec.json.Encoder()


def index_of(report: TransferReport, prefix: str) -> str:
    """Return the name of the report's index."""
    date = _date(report.event_date)
    return f"{prefix}-{date[:10].replace('-', '.')}" if date else f"{prefix}-undated"


def id_of(report: TransferReport) -> str:
    """Return the `_id` of the report's document."""
    origin = report.replay or "kafka"
    parts = (report.topic, report.partition, report.offset, report.task, origin)
    return hashlib.sha256(_encoder.encode(parts)).hexdigest()[:_ID_CHARACTERS]


def document_of(report: TransferReport) -> dict[str, Any]:
    """Return the report's document; see the module's docstring for its keys."""
    fields = msgspec.structs.asdict(report)
    # Nothing is known of None and of what is empty; 0 and False are known.
    known = {name: value for name, value in fields.items() if (value or value == 0) and name not in _RENAMED}
    times = {"@timestamp": report.time, "event_date": report.event_date, "received_at": report.received_at}
    dates = {name: written for name, seconds in times.items() if (written := _date(seconds)) is not None}
    if "event_date" in dates:
        known["latency_seconds"] = round(report.time - (report.event_date or 0.0), 3)
    if report.extra:
        known["extra"] = {name: _cut(fact) for name, fact in report.extra.items()}
    return dates | known


def lines_of(report: TransferReport, prefix: str) -> tuple[bytes, bytes]:
    """Return the two lines of a bulk request that store the report unless it is stored already."""
    action = {"create": {"_index": index_of(report, prefix), "_id": id_of(report)}}
    return _encode(action), _encode(document_of(report))


def _cut(fact: Fact) -> Fact:
    return fact[:_EXTRA_CHARACTERS] if isinstance(fact, str) else fact


def _date(seconds: float | None) -> str | None:
    """RFC 3339 in UTC, with milliseconds, which is what a date field keeps."""
    if seconds is None or not _FIRST <= seconds < _LAST:
        return None
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_second(whole)}.{microseconds // 1000:03d}Z"


@functools.lru_cache(maxsize=_SECONDS)
def _second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _encode(value: object) -> bytes:
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:  # half a surrogate pair: the name of a file here that is no UTF-8, in an error's words
        return _encoder.encode(_sayable(value))


def _sayable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sayable(key): _sayable(each) for key, each in value.items()}
    return value
