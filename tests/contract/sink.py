"""What every sink promises. A test module enters its sink by a subclass of `SinkContract`, named Test..."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dcalqr.metrics.reports import Reports, Sink, TransferReport


def report(number: int = 0, **fields: Any) -> TransferReport:
    """Make a report of a landed file; `number` tells it from others, `fields` replace what it has."""
    values: dict[str, Any] = {
        "time": 1_700_000_000.25 + number,
        "instance": "one",
        "task": "transfer",
        "identity": f"uuid-{number}",
        "topic": "billing",
        "partition": 3,
        "offset": number,
        "replay": "",
        "outcome": "landed",
        "path": f"/pnfs/example.org/data/lsst/{number}",
        "pnfsid": "0000" + "A" * 32,
        "event_date": 1_700_000_000.0,
        "received_at": 1_700_000_000.1,
        "attempts": 1,
        "size_bytes": 1000,
        "adler32": "00000001",
        "verified": True,
        "pool": "pool.example.org:1094",
        "rate_mbit_per_s": 12.5,
        "body_seconds": 0.5,
        "total_seconds": 1.25,
    }
    return TransferReport(**{**values, **fields})


class SinkContract:
    """Subclasses give `make` and `read`, and fixtures as they need them."""

    def make(self) -> Sink:
        """Make a sink that works."""
        raise NotImplementedError

    async def read(self) -> Sequence[Mapping[str, Any]]:
        """Return what arrived, one mapping a report, oldest first."""
        raise NotImplementedError

    async def test_a_sink_has_a_name_for_the_log(self) -> None:
        sink = self.make()
        assert sink.name
        assert sink.name == sink.name.lower()
        await sink.aclose()

    async def test_reports_arrive_whole_and_in_order(self) -> None:
        sink = self.make()
        await sink.write([report(1), report(2)])
        await sink.write([report(3)])
        await sink.aclose()
        arrived = await self.read()
        assert [each["offset"] for each in arrived] == [1, 2, 3]
        assert arrived[0]["rate_mbit_per_s"] == 12.5
        assert arrived[0]["body_seconds"] == 0.5
        assert arrived[0]["outcome"] == "landed"
        assert arrived[0]["pool"] == "pool.example.org:1094"

    @pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", 'a"b', "a\u2028b", "\u00e9", "\U0001f52d", "x" * 4000])
    async def test_a_hostile_name_arrives_as_it_is(self, name: str) -> None:
        sink = self.make()
        await sink.write([report(1, path=name), report(2)])
        await sink.aclose()
        assert [each["path"] for each in await self.read()] == [name, report(2).path]

    async def test_unknown_values_arrive_as_unknown(self) -> None:
        sink = self.make()
        await sink.write([report(1, size_bytes=None, rate_mbit_per_s=None, event_date=None, outcome="failed")])
        await sink.aclose()
        [arrived] = await self.read()
        assert arrived.get("size_bytes") is None
        assert arrived.get("rate_mbit_per_s") is None

    async def test_what_a_task_reports_beyond_the_fields_arrives_too(self) -> None:
        sink = self.make()
        await sink.write([report(1, extra={"frames": 189, "camera": "ComCam"})])
        await sink.aclose()
        assert (await self.read())[0]["extra"] == {"frames": 189, "camera": "ComCam"}

    async def test_an_empty_batch_is_no_error(self) -> None:
        sink = self.make()
        await sink.write([])
        await sink.aclose()
        assert list(await self.read()) == []

    async def test_a_sink_may_be_closed_without_a_report_and_twice(self) -> None:
        sink = self.make()
        await sink.aclose()
        await sink.aclose()

    async def test_a_sink_that_is_cancelled_can_be_closed(self) -> None:
        sink = self.make()
        writing = asyncio.create_task(sink.write([report(number) for number in range(500)]))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
        await sink.aclose()

    async def test_behind_the_channel_all_reports_of_a_busy_time_arrive(self) -> None:
        complaints: list[str] = []
        reports = Reports([self.make()], lambda name, error: complaints.append(f"{name}: {error}"))
        for number in range(2000):
            reports.put(report(number))
        await reports.aclose(grace=30)
        assert complaints == []
        assert [each["offset"] for each in await self.read()] == list(range(2000))
        assert all(lost == {} for lost in reports.lost.values())
