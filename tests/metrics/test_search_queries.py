"""The queries of docs/monitoring-elasticsearch.md, each run on real servers over reports whose answers are known."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from dcalqr.metrics.documents import document_of
from dcalqr.metrics.reports import TransferReport
from tests.contract.sink import report
from tests.metrics.searching import Search

DOCUMENT = Path(__file__).parents[2] / "docs" / "monitoring-elasticsearch.md"
QUERIES = {
    heading: json.loads(query)
    for heading, query in re.findall(r"(?ms)^### ([^\n]+)\n(?:(?!^### ).)*?^```json\n(.*?)^```", DOCUMENT.read_text())
}
ASKED = "/pnfs/example.org/data/lsst/raw/0042.fits"


def ago(seconds: float, offset: int, **fields: Any) -> TransferReport:
    now = time.time()
    return report(offset, **{"time": now - seconds, "event_date": now - seconds - 2.0, **fields})


def reports() -> list[TransferReport]:
    slow = {"pool": "slow.example.org:1094", "first_byte_seconds": 9.0, "body_seconds": 1.0}
    fast = {"pool": "fast.example.org:1094", "first_byte_seconds": 0.25, "body_seconds": 0.5}
    failed = {"outcome": "failed", "rate_mbit_per_s": None, "pool": ""}
    return [
        ago(60, 1, **slow, rate_mbit_per_s=10.0, size_bytes=5, path=ASKED, replay="r1", instance="two"),
        ago(120, 2, **slow, rate_mbit_per_s=20.0, size_bytes=6, event_date=time.time() - 1120),
        ago(180, 3, **fast, rate_mbit_per_s=900.0, size_bytes=7),
        ago(240, 4, **failed, path=ASKED, error_class="transient", message="gave up after 11 attempts", attempts=11),
        ago(300, 5, **failed, error_class="forbidden", message="the door refuses this file"),
        ago(360, 6, **failed, error_class="forbidden"),
        ago(200_000, 7, **failed, error_class="checksum"),
        ago(2_000_000, 8, **fast, rate_mbit_per_s=1.0),
        ago(400, 9, outcome="gone", pool=""),
    ]


@pytest.fixture
async def answer(search: Search) -> Any:
    sink = search.sink()
    await sink.write(reports())
    await sink.aclose()
    search.server.do("POST", f"/{search.prefix}-*/_refresh")
    return lambda word: search.server.do(
        "POST", f"/{search.prefix}-*/_search", next(query for heading, query in QUERIES.items() if word in heading)
    )


def sources(found: Any) -> list[dict[str, Any]]:
    return [hit["_source"] for hit in found["hits"]["hits"]]


def test_there_are_five() -> None:
    assert len(QUERIES) == 5


def test_what_failed_is_counted_by_reason_with_its_last_files(answer: Any) -> None:
    buckets = answer("failed")["aggregations"]["reasons"]["buckets"]
    assert {bucket["key"]: bucket["doc_count"] for bucket in buckets} == {"forbidden": 2, "transient": 1}
    [transient] = [bucket for bucket in buckets if bucket["key"] == "transient"]
    [last] = sources(transient["last"])
    assert last == {"path": ASKED, "message": "gave up after 11 attempts", "attempts": 11}


def test_the_slow_pool_comes_first_and_its_phase_is_seen(answer: Any) -> None:
    slow, fast = answer("pool is slow")["aggregations"]["pools"]["buckets"]
    assert (slow["key"], slow["doc_count"], slow["first_byte"]["value"]) == ("slow.example.org:1094", 2, 9.0)
    assert (fast["key"], fast["doc_count"], fast["body"]["value"]) == ("fast.example.org:1094", 1, 0.5)
    assert 10.0 <= slow["rate"]["values"]["50.0"] <= 20.0  # of two values each server estimates another median


def test_the_story_of_a_file_is_told_in_order(answer: Any) -> None:
    story = sources(answer("became of"))
    assert [(each["outcome"], each.get("replay")) for each in story] == [("failed", None), ("landed", "r1")]
    assert story[0]["error_class"] == "transient"
    assert story[1]["instance"] == "two"


def test_what_landed_in_an_hour_is_summed(answer: Any) -> None:
    hours = answer("per hour")["aggregations"]["hours"]["buckets"]
    assert sum(hour["bytes"]["value"] for hour in hours) == 18
    instances = [bucket for hour in hours for bucket in hour["instances"]["buckets"]]
    counts: dict[str, int] = {}
    for bucket in instances:
        counts[bucket["key"]] = counts.get(bucket["key"], 0) + bucket["doc_count"]
    assert counts == {"one": 2, "two": 1}


def test_the_slowest_file_comes_first(answer: Any) -> None:
    found = answer("How long")
    assert [round(each["latency_seconds"]) for each in sources(found)] == [1000, 2, 2]
    assert found["aggregations"]["latency"]["values"]["99.0"] == pytest.approx(1000, rel=0.05)


def test_the_queries_name_only_fields_that_documents_have() -> None:
    known = set(document_of(report(1, error_class="x", message="x", replay="x", http_status=404)))
    known |= {f"{phase}_seconds" for phase in ("door_wait", "connect", "first_byte", "sync", "publish")}
    text = json.dumps(QUERIES)
    used = set(re.findall(r'"field": "([^"]+)"', text)) | {
        each for found in re.findall(r'"_source": (\[[^\]]*\])', text) for each in json.loads(found)
    }
    assert used
    assert used <= known
