"""Which metrics there are, and how each is read off a snapshot. Pure; writing them out is `prometheus`'s.

Labels have few values, whatever the topic holds: partitions, phases, sinks, and words of ours. What a plug-in may
choose (reasons, classes) is named for the first few values; the others are "other". No path and no host is a label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from dcalqr import errors
from dcalqr.metrics.answers import REFUSED_FOR_GOOD
from dcalqr.metrics.reports import LOST

Snapshot: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Iterable[tuple[tuple[str, ...], Any]]

# More words than any honest plug-in has; fewer than would burden a Prometheus.
FOREIGN_WORDS = 30

UNREADABLE = (
    *("empty", "encoding", "json", "shape", "too_large", "size", "path", "traversal", "nul", "control", "status"),
    "not_a_file",
)
# What others can do to a file of rows (`local.lines` and `local.appender` say it in these words).
TOUCHES = ("changed", "emptied", "moved away", "removed", "replaced")
# What is refused because it could do harm here, or send a credential astray.
_HARMFUL_NAMES = ("traversal", "nul", "control")
_HARMFUL_HOSTS = ("RedirectRefused", "PoolRefused")


def _below(cls: type[errors.TryError]) -> Iterator[type[errors.TryError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from _below(each)


HOLDS = tuple(sorted({cls.hold for cls in _below(errors.HeldError) if issubclass(cls, errors.HeldError) and cls.hold}))
CLASSES = errors.row_classes()
RETRIES = tuple(sorted(cls.__name__ for cls in _below(errors.TransientError)))


class Series(NamedTuple):
    """One metric: `read` gives its values by label values; a value of None is left out."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    read: Callable[[Snapshot], Values]
    labels: tuple[str, ...] = ()


def _at(*keys: str) -> Callable[[Snapshot], Values]:
    """Read one value, however deep; None where something on the way is missing."""

    def read(snapshot: Snapshot) -> Values:
        value: Any = snapshot
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        yield (), value

    return read


def _by_word(key: str, known: Collection[str]) -> Callable[[Snapshot], Values]:
    """Read counts by word; what is known begins with 0, or its first increase would go unseen."""

    def read(snapshot: Snapshot) -> Values:
        return (((word,), count) for word, count in bounded(snapshot[key], known).items())

    return read


def bounded(counts: Mapping[str, float], known: Collection[str]) -> dict[str, float]:
    """Return the counts with all known words, the first of the others, and the rest as "other"."""
    found = dict.fromkeys(known, 0.0)
    foreign = 0
    for word, count in counts.items():
        foreign += word not in found
        label = word if word in found or foreign <= FOREIGN_WORDS else "other"
        found[label] = found.get(label, 0.0) + count
    return found


def _by_partition(key: str) -> Callable[[Snapshot], Values]:
    def read(snapshot: Snapshot) -> Values:
        return (((number,), each[key]) for number, each in snapshot["kafka"]["partitions"].items())

    return read


def _events(snapshot: Snapshot) -> Values:
    counts: dict[str, dict[str, float]] = {"match": {"": 0.0}, "look_now": {"": 0.0}, "skip": {}, "unreadable": {}}
    for decision, reason, count in snapshot["events"]:
        if decision in counts:
            counts[decision][reason] = count
    for decision, reasons in counts.items():
        known = UNREADABLE if decision == "unreadable" else ()
        yield from (((decision, reason), count) for reason, count in bounded(reasons, known).items())


def _undated(snapshot: Snapshot) -> Values:
    yield (), sum(count for decision, _, count in snapshot["events"] if decision == "undated")


def _transfers(snapshot: Snapshot) -> Values:
    known = ("landed", "already", "gone", "replaced", "failed")
    # Unreadable records are no transfers.
    settled = {how: count for how, count in snapshot["settled"].items() if how != "unreadable"}
    yield from (((how,), count) for how, count in bounded(settled, known).items())


def _running(snapshot: Snapshot) -> Values:
    yield (), snapshot["slots"]["taken"]


def _waiting(snapshot: Snapshot) -> Values:
    """Deliveries that hold no slot: several may hang on one copy, so this is no less than 0 only by force."""
    yield (), max(0, snapshot["open"] - snapshot["slots"]["taken"] - snapshot["waiting_for_visibility"])


def _halted(snapshot: Snapshot) -> Values:
    kafka = snapshot["kafka"]
    for number in sorted({*kafka["partitions"], *kafka["halted"]}, key=int):
        yield (number,), number in kafka["halted"]


def _connected(snapshot: Snapshot) -> Values:
    yield (), not snapshot["kafka"]["trouble"]


def _catch_up(snapshot: Snapshot) -> Values:
    pace = snapshot["pace"]
    yield (), math.inf if pace["catch_up"] == "growing" else pace["catch_up_seconds"]


def _holding(snapshot: Snapshot) -> Values:
    held = {hold["reason"] for hold in snapshot["holds"]}
    return (((reason,), reason in held) for reason in HOLDS)


def _checksums(snapshot: Snapshot) -> Values:
    yield (), snapshot["retries"].get("ChecksumMismatch", 0) + snapshot["failed"].get("checksum", 0)


def _rejections(snapshot: Snapshot) -> Values:
    unreadable = {reason: count for decision, reason, count in snapshot["events"] if decision == "unreadable"}
    yield from (((name,), unreadable.get(name, 0)) for name in _HARMFUL_NAMES)
    yield from (((name,), snapshot["retries"].get(name, 0)) for name in _HARMFUL_HOSTS)


def _expiries(snapshot: Snapshot) -> Values:
    yield ("proxy",), snapshot["credential_expires_at"]
    yield ("kafka",), snapshot["surroundings"].get("papers", {}).get("kafka_certificate_expires_at")


def _parts(snapshot: Snapshot) -> list[float]:
    """Since when each part file has been written, seconds since the epoch."""
    return [snapshot["time"] - each["seconds"] for each in snapshot["running"] if each["phase"] != "queued"]


def _part_count(snapshot: Snapshot) -> Values:
    yield (), len(_parts(snapshot))


def _oldest_part(snapshot: Snapshot) -> Values:
    yield (), min(_parts(snapshot), default=None)


def _unusable(snapshot: Snapshot) -> Values:
    yield (), len(snapshot["file_trouble"])


def _queued(snapshot: Snapshot) -> Values:
    return (((sink,), count) for sink, count in snapshot["reports"]["queued"].items())


def _dropped(snapshot: Snapshot) -> Values:
    for sink, lost in snapshot["reports"]["lost"].items():
        known = bounded(lost, (*LOST, *REFUSED_FOR_GOOD))
        yield from (((sink, reason), count) for reason, count in known.items())


def _phases(snapshot: Snapshot) -> Values:
    return (((phase,), seconds) for phase, seconds in snapshot["phase_seconds"].items())


def _reload_ok(snapshot: Snapshot) -> Values:
    yield (), snapshot["reload"] is None or snapshot["reload"]["ok"]


def _reload_at(snapshot: Snapshot) -> Values:
    """The start read a good configuration too."""
    yield (), (snapshot["reload"] or {}).get("succeeded_at") or snapshot["started_at"]


def _build(snapshot: Snapshot) -> Values:
    yield tuple(snapshot[key] for key in ("version", "python", "aiokafka", "instance")), 1


def _workers(key: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((), snapshot["workers"][key])]


def _histogram(key: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((), snapshot.get(key))]


_PARTITION = ("partition",)

SERIES = (
    Series("gauge", "build_info", "Versions in use, and the instance's own name.", _build,
           ("version", "python", "aiokafka", "name")),
    # --- what came, and what became of it
    Series("counter", "events_total", "Records read from the topic, by decision and reason.", _events,
           ("outcome", "reason")),
    Series("counter", "undated_events_total", "Matches without a date that can be understood.", _undated),
    Series("gauge", "last_event_timestamp_seconds", "Date of the last event that matched.", _at("last_event_at")),
    Series("counter", "transfers_total", "Settled deliveries, by how they ended.", _transfers, ("result",)),
    Series("counter", "transfer_bytes_total", "Bytes of the files that landed.", _at("landed_bytes")),
    Series("counter", "transfer_retries_total", "Tries that failed and were repeated, by error.",
           _by_word("retries", RETRIES), ("reason",)),
    Series("counter", "failed_rows_total", "Rows written to the failed-tasks file, by class.",
           _by_word("failed", CLASSES), ("class",)),
    Series("counter", "unverified_total", "Files accepted by their size alone.", _at("unverified")),
    Series("counter", "checksum_failures_total", "Bodies whose Adler32 was not the promised one.", _checksums),
    Series("counter", "security_rejections_total", "Names and hosts refused because they could do harm.", _rejections,
           ("kind",)),
    Series("histogram", "transfer_duration_seconds", "Last attempt of files that landed.", _histogram("copying")),
    Series("histogram", "transfer_wait_seconds", "What came before it: visibility, slot, retries, holds.",
           _histogram("waiting")),
    Series("counter", "transfer_phase_seconds_total", "Where the time of these attempts went.", _phases, ("phase",)),
    # --- what is at hand
    Series("gauge", "transfers_running", "Downloads under way.", _running),
    Series("gauge", "transfer_slots", "Downloads that may be under way at once.", _at("slots", "limit")),
    Series("gauge", "transfers_waiting", "Deliveries that wait for a slot, a retry or a hold.", _waiting),
    Series("gauge", "transfers_invisible", "Deliveries that wait for their file to become visible.",
           _at("waiting_for_visibility")),
    Series("gauge", "hold_active", "1 while nothing is tried for this reason.", _holding, ("reason",)),
    Series("counter", "holds_total", "Holds begun, by reason.", _by_word("holds_begun", HOLDS), ("reason",)),
    Series("gauge", "draining", "1 while the instance ends.", _at("draining")),
    # --- Kafka
    Series("gauge", "kafka_connected", "1 while the topic is read.", _connected),
    Series("gauge", "lag_records", "Records behind the mark that is committed.", _by_partition("lag"), _PARTITION),
    Series("gauge", "unread_records", "Records not read yet.", _by_partition("unread"), _PARTITION),
    Series("gauge", "pending_records", "Records read and not settled.", _by_partition("open"), _PARTITION),
    Series("gauge", "position_offset", "Offset read next.", _by_partition("position"), _PARTITION),
    Series("gauge", "committed_offset", "Offset committed last in this assignment.", _by_partition("committed"),
           _PARTITION),
    Series("gauge", "oldest_pending_timestamp_seconds", "Date of the oldest unsettled match.",
           _by_partition("oldest_at"), _PARTITION),
    Series("gauge", "partition_halted", "1 while a partition is not read: its log is lost or corrupt.", _halted,
           _PARTITION),
    Series("gauge", "catch_up_seconds", "Until all is read at the pace of the last minutes; +Inf: it never will be.",
           _catch_up),
    Series("gauge", "last_commit_timestamp_seconds", "Last successful commit.", _at("kafka", "last_commit_at")),
    Series("counter", "rebalances_total", "Assignments of this membership.", _at("kafka", "rebalances")),
    Series("counter", "consumer_rebuilds_total", "Memberships given up for a new one.", _at("kafka", "rebuilds")),
    Series("counter", "commit_failures_total", "Commits that failed.", _at("kafka", "commit_failures")),
    Series("counter", "stale_batches_total", "Batches dropped because their assignment was over.",
           _at("kafka", "stale_batches")),
    # --- what it stands on
    Series("gauge", "credential_expiry_timestamp_seconds", "End of the credential's life.", _expiries, ("kind",)),
    Series("gauge", "crl_oldest_update_timestamp_seconds", "When the oldest revocation list was written.",
           _at("surroundings", "papers", "crl_oldest_at")),
    Series("gauge", "destination_free_bytes", "Free in the download folder's file system.",
           _at("surroundings", "room", "free_bytes")),
    Series("gauge", "destination_size_bytes", "Size of that file system.", _at("surroundings", "room", "size_bytes")),
    Series("gauge", "destination_minimum_free_bytes", "What stays free (local.minfree).",
           _at("surroundings", "room", "least_bytes")),
    Series("gauge", "destination_last_look_timestamp_seconds", "When that file system last answered.",
           _at("surroundings", "room", "seen_at")),
    Series("gauge", "destination_stuck_threads", "Attempts that do not answer any more.", _at("stuck_threads")),
    Series("gauge", "part_files", "Part files being written.", _part_count),
    Series("gauge", "part_oldest_timestamp_seconds", "Since when the oldest of them is written.", _oldest_part),
    Series("gauge", "failed_file_bytes", "Size of the failed-tasks file.",
           _at("surroundings", "files", "failed_bytes")),
    Series("gauge", "unreadable_file_bytes", "Size of the unreadable file.",
           _at("surroundings", "files", "unreadable_bytes")),
    Series("gauge", "unwritten_rows", "Rows and unreadable records that cannot be written.", _at("unwritten")),
    Series("gauge", "row_files_unusable", "Files of rows that cannot be mended just now.", _unusable),
    Series("counter", "row_files_touched_total", "What others did to the files of rows, and what was mended since.",
           _by_word("touched", TOUCHES), ("how",)),
    # --- itself
    Series("gauge", "reports_queued", "Reports that wait for their sink.", _queued, ("sink",)),
    Series("counter", "reports_dropped_total", "Reports lost on the way to their sink, by reason.", _dropped,
           ("sink", "reason")),
    Series("histogram", "loop_stall_seconds", "How late the event loop was.", _histogram("loop_stall")),
    Series("gauge", "workers", "Worker processes.", _workers("count")),
    Series("gauge", "workers_resident_memory_bytes", "Memory of the worker processes.", _workers("resident_bytes")),
    Series("counter", "workers_cpu_seconds_total", "Processor time of all worker processes, also of ended ones.",
           _workers("cpu_seconds")),
    Series("counter", "workers_lost_total", "Worker processes that ended unasked.", _workers("lost")),
    Series("gauge", "workers_outdated", "1 if workers cannot be replaced until a restart.", _workers("outdated")),
    Series("gauge", "config_last_reload_successful", "1 if the last reload was taken over.", _reload_ok),
    Series("gauge", "config_last_reload_success_timestamp_seconds", "Last time a configuration was taken over.",
           _reload_at),
)  # fmt: skip
