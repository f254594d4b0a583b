"""The metrics of a snapshot: names that promtool accepts, values that are right, labels that stay few."""

from __future__ import annotations

import math
import re
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dcalqr.local import lines
from dcalqr.metrics.prometheus import CONTENT_TYPE, Metrics
from dcalqr.metrics.series import CLASSES, FOREIGN_WORDS, HOLDS, RETRIES, SERIES, TOUCHES, bounded
from tests.support.process import require
from tests.support.snapshots import NOW, partition, snapshot


def values(found: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """All samples of a snapshot's page: (name, label values in the labels' alphabetical order) -> value."""
    page = Metrics(lambda: found)()
    assert page.content_type == CONTENT_TYPE
    return {
        (sample.name.removeprefix("dcalqr_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.body.decode())
        for sample in family.samples
    }


def test_promtool_finds_nothing_to_complain_of() -> None:
    promtool = require("promtool", "apt-get install prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=Metrics(snapshot)().body, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        (("build_info", "0.14.0", "node1", "3.11.9", "0.1.0"), 1),
        (("events_total", "match", ""), 412_345),
        (("events_total", "skip", "direction"), 1_203_456),
        (("events_total", "unreadable", "traversal"), 1),
        (("events_total", "unreadable", "nul"), 0),
        (("undated_events_total",), 5),
        (("transfers_total", "landed"), 412_010),
        (("transfers_total", "failed"), 2),
        (("transfer_bytes_total",), 51_234_567_890_123),
        (("transfer_retries_total", "ConnectionLost"), 7),
        (("transfer_retries_total", "Stalled"), 0),
        (("failed_rows_total", "checksum"), 1),
        (("failed_rows_total", "forbidden"), 0),
        (("checksum_failures_total",), 3),
        (("security_rejections_total", "traversal"), 1),
        (("security_rejections_total", "RedirectRefused"), 1),
        (("transfer_duration_seconds_count",), 3),
        (("transfer_duration_seconds_sum",), 43.05),
        (("transfer_duration_seconds_bucket", "0.1"), 1),
        (("transfer_duration_seconds_bucket", "3.0"), 2),
        (("transfer_duration_seconds_bucket", "+Inf"), 3),
        (("transfer_phase_seconds_total", "body"), 1.25),
        (("transfers_running",), 2),
        (("transfers_waiting",), 25),
        (("transfers_invisible",), 4),
        (("hold_active", "space"), 0),
        (("holds_total", "unreachable"), 1),
        (("kafka_connected",), 1),
        (("lag_records", "0"), 740),
        (("unread_records", "0"), 700),
        (("pending_records", "0"), 40),
        (("position_offset", "0"), 100_040),
        (("committed_offset", "0"), 100_000),
        (("oldest_pending_timestamp_seconds", "0"), NOW - 95),
        (("partition_halted", "1"), 0),
        (("catch_up_seconds",), 116.667),
        (("consumer_rebuilds_total",), 1),
        (("credential_expiry_timestamp_seconds", "proxy"), NOW + 40_800),
        (("crl_oldest_update_timestamp_seconds",), NOW - 21_600),
        (("destination_free_bytes",), 21e12),
        (("part_files",), 2),
        (("part_oldest_timestamp_seconds",), NOW - 42),
        (("unwritten_rows",), 0),
        (("row_files_unusable",), 0),
        (("row_files_touched_total", "moved away"), 0),
        (("reports_dropped_total", "error", "file"), 0),
        (("loop_stall_seconds_bucket", "0.001"), 1),
        (("workers",), 2),
        (("workers_cpu_seconds_total",), 912.5),
        (("config_last_reload_successful",), 1),
    ],
)
def test_a_snapshot_becomes_these_samples(sample: tuple[str, ...], value: float) -> None:
    assert values(snapshot())[sample] == value


def test_process_metrics_come_along() -> None:
    found = values(snapshot())
    assert found["process_cpu_seconds_total",] > 0
    assert found["process_resident_memory_bytes",] > 0


def test_what_is_not_known_is_left_out_and_not_zero() -> None:
    found = values(snapshot(credential_expires_at=None, last_event_at=None, surroundings={}))
    names = {name for name, *_ in found}
    assert not names & {"credential_expiry_timestamp_seconds", "last_event_timestamp_seconds", "destination_free_bytes"}


def test_an_idle_partition_has_no_oldest_match() -> None:
    assert ("oldest_pending_timestamp_seconds", "1") not in values(snapshot())


def test_a_backlog_that_grows_takes_for_ever_and_an_unknown_pace_says_nothing() -> None:
    pace = snapshot()["pace"] | {"catch_up_seconds": None}
    assert values(snapshot(pace=pace | {"catch_up": "growing"}))["catch_up_seconds",] == math.inf
    assert ("catch_up_seconds",) not in values(snapshot(pace=pace | {"catch_up": "unknown"}))


def test_a_halted_partition_is_counted_although_it_is_no_longer_read() -> None:
    kafka = snapshot()["kafka"] | {"halted": {"7": "offset lost"}}
    assert values(snapshot(kafka=kafka))["partition_halted", "7"] == 1


def test_a_refused_reload_shows_and_the_good_one_keeps_its_time() -> None:
    found = values(snapshot(reload={"ok": False, "succeeded_at": NOW - 5}))
    assert found["config_last_reload_successful",] == 0
    assert found["config_last_reload_success_timestamp_seconds",] == NOW - 5


def test_reports_are_lost_by_sink_and_reason() -> None:
    lost = {"elasticsearch": {"overflow": 5000, "mapping": 3, "odd": 1}, "file": {"error": 2}}
    found = values(snapshot(reports={"lost": lost, "queued": {"elasticsearch": 10_000, "file": 0}}))
    assert found["reports_queued", "elasticsearch"] == 10_000
    dropped = {tuple(labels): value for (name, *labels), value in found.items() if name == "reports_dropped_total"}
    assert {labels: value for labels, value in dropped.items() if value} == {
        ("overflow", "elasticsearch"): 5000,
        ("mapping", "elasticsearch"): 3,
        ("odd", "elasticsearch"): 1,
        ("error", "file"): 2,
    }
    assert dropped["stop", "file"] == dropped["too_large", "elasticsearch"] == 0


def test_what_others_did_to_the_files_of_rows_is_counted_and_shows_until_it_is_mended() -> None:
    found = values(snapshot(touched={"emptied": 2}, file_trouble={"/f.csv": "no", "/f.unreadable": "read-only"}))
    assert (found["row_files_touched_total", "emptied"], found["row_files_unusable",]) == (2, 2)
    assert values(snapshot())["row_files_unusable",] == 0


# --- labels -------------------------------------------------------------------------------------------------------


def test_every_word_of_ours_is_there_before_it_first_happens() -> None:
    assert {"credential", "folder", "mount", "space", "unreachable"} == set(HOLDS)
    assert {"transient", "checksum", "never_visible", "permanent"} <= set(CLASSES)
    assert {"ChecksumMismatch", "DoorTimeout", "PoolUnreachable"} <= set(RETRIES)
    assert {lines.MOVED, lines.REMOVED, lines.REPLACED} < set(TOUCHES)
    found = values(snapshot(settled={}, failed={}, retries={}, holds_begun={}, events=[]))
    assert all(found["failed_rows_total", word] == 0 for word in CLASSES)
    assert all(found["transfer_retries_total", word] == 0 for word in RETRIES)


def test_words_of_a_plug_in_are_bounded_and_their_counts_are_not_lost() -> None:
    counts = {f"word{number}": 1 for number in range(1000)}
    found = bounded(counts, ("known",))
    assert len(found) == FOREIGN_WORDS + 2
    assert (found["known"], found["word0"], found["other"]) == (0, 1, 1000 - FOREIGN_WORDS)


def test_a_word_keeps_its_own_series_as_others_come() -> None:
    counts = {f"word{number}": 1 for number in range(FOREIGN_WORDS)}
    before = bounded(counts, ())
    assert before.items() <= bounded({**counts, "late": 3}, ()).items()


def hostile() -> dict[str, Any]:
    """A snapshot in which everything that others write bears a canary, in thousands."""
    canary = 'CANARY"\n{}\\'
    many = [f"{canary}{number}" for number in range(2000)]
    found = snapshot(
        running=[{**snapshot()["running"][0], "path": each} for each in many],
        last_failures=[{**snapshot()["last_failures"][0], "path": many[0], "message": canary}],
        holds=[{"domain": "door", "reason": "credential", "message": canary, "seconds": 1.0}],
        config=f"/etc/{canary}.toml",
    )
    kafka = found["kafka"]
    found["kafka"] = {**kafka, "trouble": canary, "halted": {"3": canary}, "topic": canary, "group": canary}
    found["surroundings"] = {"room": {"trouble": canary, "seen_at": NOW}}
    return found


def test_no_path_message_or_secret_is_in_the_metrics() -> None:
    page = Metrics(hostile)().body
    assert b"CANARY" not in page
    assert len(page.splitlines()) < len(Metrics(snapshot)().body.splitlines()) + 10


def test_foreign_reasons_are_escaped_and_few() -> None:
    events = [["skip", f'a"b\n{number}\\', 1] for number in range(5000)]
    page = Metrics(lambda: snapshot(events=events))().body.decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    skips = [each for each in families["dcalqr_events"].samples if each.labels["outcome"] == "skip"]
    assert len(skips) == FOREIGN_WORDS + 1
    assert sum(each.value for each in skips) == 5000


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_names_and_labels_are_as_prometheus_wants_them(series: Any) -> None:
    assert re.fullmatch("[a-z][a-z_]*[a-z]", series.name)
    assert series.text.endswith(".")
    assert series.name.endswith("_total") == (series.kind == "counter")
    assert not set(series.labels) & {"instance", "job", "le", "path", "host", "url", "message"}


def test_a_name_stands_once() -> None:
    assert len({series.name for series in SERIES}) == len(SERIES)


def test_partitions_are_the_only_labels_that_the_topic_decides() -> None:
    partitions = {str(number): partition(0, 0, 0) for number in range(500)}
    few, many = len(values(snapshot())), len(values(snapshot(kafka=snapshot()["kafka"] | {"partitions": partitions})))
    per_partition = sum(series.labels == ("partition",) for series in SERIES)
    assert many - few <= 500 * per_partition
