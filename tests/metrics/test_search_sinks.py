"""Both search sinks against real servers that are well: the contract, and what the documents are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dcalqr.metrics import bulk
from dcalqr.metrics.bulk import BulkSink
from tests.contract.sink import SinkContract, report
from tests.metrics.searching import Search


class TestSearchSinks(SinkContract):
    @pytest.fixture(autouse=True)
    def _server(self, search: Search) -> None:
        self.search = search

    def make(self) -> BulkSink:
        return self.search.sink()

    async def read(self) -> Sequence[Mapping[str, Any]]:
        return self.search.documents()


async def test_a_document_has_the_promised_keys_and_the_types_of_the_template(search: Search) -> None:
    sink = search.sink()
    await sink.write([report(7, door_wait_seconds=0.25, error_class="", extra={"frames": 3})])
    await sink.aclose()
    [found] = search.documents()
    assert found == {
        "@timestamp": "2023-11-14T22:13:27.250Z",
        "adler32": "00000001",
        "attempts": 1,
        "body_seconds": 0.5,
        "door_wait_seconds": 0.25,
        "event_date": "2023-11-14T22:13:20.000Z",
        "extra": {"frames": 3},
        "identity": "uuid-7",
        "instance": "one",
        "latency_seconds": 7.25,
        "offset": 7,
        "outcome": "landed",
        "partition": 3,
        "path": "/pnfs/example.org/data/lsst/7",
        "pnfsid": "0000" + "A" * 32,
        "pool": "pool.example.org:1094",
        "rate_mbit_per_s": 12.5,
        "received_at": "2023-11-14T22:13:20.100Z",
        "size_bytes": 1000,
        "task": "transfer",
        "topic": "billing",
        "total_seconds": 1.25,
        "verified": True,
    }
    [mapping] = search.server.do("GET", f"/{search.prefix}-*/_mapping").values()
    fields = mapping["mappings"]["properties"]
    assert set(found) <= set(fields)
    assert (fields["path"]["type"], fields["@timestamp"]["type"], fields["size_bytes"]["type"]) == (
        "keyword",
        "date",
        "long",
    )


async def test_what_a_task_reports_can_be_searched_and_makes_no_new_fields(search: Search) -> None:
    sink = search.sink()
    await sink.write(
        [report(1, extra={"camera": "ComCam"}), report(2, extra={"camera": "LATISS", "x" * 100: "y" * 40_000})]
    )
    await sink.aclose()
    assert search.offsets() == [1, 2]
    query = {"query": {"term": {"extra.camera": "ComCam"}}}
    found = search.server.do("POST", f"/{search.prefix}-*/_search", query)["hits"]["hits"]
    assert [hit["_source"]["offset"] for hit in found] == [1]
    [mapping] = search.server.do("GET", f"/{search.prefix}-*/_mapping").values()
    assert "properties" not in mapping["mappings"]["properties"]["extra"]


async def test_the_index_is_that_of_the_events_own_day(search: Search) -> None:
    sink = search.sink()
    days = {1: 1_700_000_000.0, 2: 1_700_006_399.999, 3: 1_700_006_400.0, 4: None, 5: 32_503_680_000.0}
    await sink.write([report(offset, event_date=date) for offset, date in days.items()])
    await sink.aclose()
    assert search.offsets() == [1, 2, 3, 4, 5]
    assert search.server.indices(search.prefix) == {
        f"{search.prefix}-2023.11.14",
        f"{search.prefix}-2023.11.15",
        f"{search.prefix}-undated",
    }


async def test_what_is_sent_again_is_stored_once_and_a_replay_is_a_document_of_its_own(search: Search) -> None:
    sink = search.sink()
    await sink.write([report(1, outcome="failed")])
    await sink.write([report(1, outcome="already", instance="two"), report(1, replay="r1")])
    await sink.aclose()
    outcomes = sorted((each.get("replay", ""), each["outcome"]) for each in search.documents())
    assert outcomes == [("", "failed"), ("r1", "landed")]


async def test_long_and_broken_texts_are_no_reason_to_lose_a_report(search: Search) -> None:
    sink = search.sink()
    await sink.write([report(1, path="/" + "\U0001f52d" * 20_000), report(2, message="name: \udcff", outcome="failed")])
    await sink.aclose()
    found = search.documents()
    assert found[0]["path"] == "/" + "\U0001f52d" * 20_000
    assert found[1]["message"] == "name: \\udcff"


async def test_requests_are_bounded_in_bytes_and_in_documents(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BULK_BYTES", 5000)
    monkeypatch.setattr(bulk, "BULK_REPORTS", 7)
    reports = [
        *(report(number) for number in range(20)),
        *(report(number, path="x" * 2000) for number in range(20, 30)),
    ]
    sizes = [(len(chunk), sum(len(line) + 1 for entry in chunk for line in entry.lines)) for chunk in
             bulk._chunks([*reports, report(30, path="x" * 9000)], search.prefix)]  # fmt: skip
    assert all(count == 1 or size <= 5000 for count, size in sizes)
    assert max(count for count, _ in sizes) <= 7
    sink = search.sink()
    await sink.write(reports)
    await sink.aclose()
    assert search.offsets() == list(range(30))
