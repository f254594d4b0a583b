"""What search servers do to a sink, and that each report is stored once or counted as lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from dcalqr.metrics import bulk
from dcalqr.metrics import reports as module
from dcalqr.metrics.bulk import BulkSink
from dcalqr.metrics.reports import Reports, TransferReport, Undelivered
from dcalqr.testing.pki import Pki
from tests.contract.sink import report
from tests.metrics.conftest import PASSWORD
from tests.metrics.searching import Search, make_sink, until
from tests.support.fake_search import FakeSearch
from tests.support.search import OPENSEARCH, SearchServer, kinds

# All that a sink needs; to make an index is part of it.
RIGHTS = ["create_doc", "auto_configure"]
DAY = "2023.11.14"  # of the reports of the contract


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_MUTED_SECONDS", 0.05)
    monkeypatch.setattr(module, "MUTED_SECONDS", 0.2)
    monkeypatch.setattr(bulk, "GATHER_SECONDS", 0.01)


@pytest.fixture
def fake() -> Iterator[FakeSearch]:
    with FakeSearch().running() as running:
        running.kept["/_index_template/dcalqr"] = {}
        yield running


class Heard:
    """The reasons of all complaints, and what was said of each at last."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def __call__(self, sink: str, error: Exception) -> None:
        assert isinstance(error, Undelivered), error
        self.said.update(error.problems)


@asynccontextmanager
async def reporting(sink: Any) -> AsyncIterator[tuple[Reports, Heard]]:
    heard = Heard()
    reports = Reports([sink], heard)
    try:
        yield reports, heard
    finally:
        await reports.aclose()


def put(reports: Reports, offsets: range, **fields: Any) -> None:
    for number in offsets:
        reports.put(report(number, **fields))


# --- servers that go and come back --------------------------------------------------------------------------------


async def test_a_server_that_was_killed_gets_all_that_is_held_once_it_is_back(own_search: Search) -> None:
    name = own_search.server.kind.product
    async with reporting(own_search.sink()) as (reports, heard):
        put(reports, range(100))
        await own_search.holds(list(range(100)))
        put(reports, range(100, 1400))
        await until(lambda: reports.queued[name] < 1300, "a request on its way")
        await asyncio.to_thread(own_search.server.process.kill)
        await until(lambda: "unreachable" in heard.said, "a complaint")
        await asyncio.to_thread(own_search.server.start)
        await own_search.holds(list(range(1400)))
    assert reports.lost == {own_search.server.kind.product: {}}


async def test_a_server_that_hangs_gets_each_report_once_when_it_goes_on(own_search: Search) -> None:
    async with reporting(own_search.sink(timeout=1)) as (reports, heard):
        put(reports, range(10))
        await own_search.holds(list(range(10)))
        own_search.server.process.suspend()
        try:
            put(reports, range(10, 700))
            await until(lambda: "timeout" in heard.said, "a complaint")
        finally:
            own_search.server.process.resume()
        await own_search.holds(list(range(700)))
    assert reports.lost == {own_search.server.kind.product: {}}


class Doubted:
    """A sink that remembers what was sent and not answered: the server may have it all the same."""

    def __init__(self, sink: BulkSink) -> None:
        self.name, self.gather_seconds, self._sink = sink.name, sink.gather_seconds, sink
        self.offsets: set[int] = set()

    async def write(self, reports: Sequence[TransferReport]) -> None:
        try:
            await self._sink.write(reports)
        except Undelivered as error:
            self.offsets |= {each.offset for each in error.unsent}
            raise

    async def aclose(self) -> None:
        await self._sink.aclose()


class Load:
    """Puts two hundred reports a second, while the context lasts."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.produced = 0

    async def _run(self) -> None:
        while True:
            put(self._reports, range(self.produced, self.produced + 5))
            self.produced += 5
            await asyncio.sleep(0.025)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


async def test_killed_and_stopped_under_load_each_report_is_stored_once_or_counted_as_lost(
    own_search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_REPORTS", 300)
    name, process = own_search.server.kind.product, own_search.server.process
    sink = Doubted(own_search.sink(timeout=1))
    async with reporting(sink) as (reports, heard):
        async with Load(reports) as load:
            await until(own_search.offsets, "the first documents")
            await asyncio.to_thread(process.kill)
            await until(lambda: "overflow" in heard.said, "reports that are lost")
            await asyncio.to_thread(own_search.server.start)
            back_at = load.produced
            await until(lambda: max(own_search.offsets(), default=0) > back_at, "documents of later reports")
            process.suspend()
            await until(lambda: "timeout" in heard.said, "a complaint")
            process.resume()
        await until(lambda: reports.queued == {name: 0}, "an empty queue", lambda: reports.queued)
    stored, lost = own_search.offsets(), reports.lost[name]
    missing = set(range(load.produced)) - set(stored)
    assert len(stored) == len(set(stored))
    assert set(lost) == {"overflow"}
    # One that was in doubt may be stored, and then lost for want of room: it is counted although it is there.
    assert len(missing) <= lost["overflow"] <= len(missing) + len(sink.offsets - missing)


async def test_a_server_that_hangs_does_not_delay_the_end_and_what_it_held_up_is_counted(own_search: Search) -> None:
    reports = Reports([own_search.sink(timeout=30)], Heard())
    own_search.server.process.suspend()
    try:
        put(reports, range(700))
        await asyncio.sleep(0)
        begin = time.monotonic()
        await reports.aclose(grace=0.2)
        assert time.monotonic() - begin < 20
    finally:
        own_search.server.process.resume()
    assert reports.lost == {own_search.server.kind.product: {"stop": 700}}


async def test_too_many_for_the_queue_lose_the_oldest_and_the_rest_arrives(
    elasticsearch: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_REPORTS", 50)
    elasticsearch.server.do("DELETE", f"/_index_template/{elasticsearch.prefix}")
    async with reporting(elasticsearch.sink()) as (reports, heard):
        put(reports, range(80))
        await until(lambda: "template" in heard.said, "a complaint")
        put(reports, range(80, 100))
        await until(lambda: reports.queued == {"elasticsearch": 50}, "all back in the queue")
        assert reports.lost == {"elasticsearch": {"overflow": 50}}
        assert "overflow" in heard.said
        elasticsearch.prepared()
        await elasticsearch.holds(list(range(50, 100)))
    assert reports.lost == {"elasticsearch": {"overflow": 50}}


# --- refusals of single documents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["write", "read_only_allow_delete"])
async def test_a_read_only_index_keeps_no_other_waiting_and_gets_its_own_later(search: Search, block: str) -> None:
    index = f"{search.prefix}-{DAY}"
    search.server.do("PUT", f"/{index}")
    search.server.do("PUT", f"/{index}/_settings", {f"index.blocks.{block}": True})
    async with reporting(search.sink()) as (reports, heard):
        put(reports, range(600))
        await until(lambda: "read_only" in heard.said, "a complaint")
        put(reports, range(600, 620), event_date=None)
        await search.holds(list(range(600, 620)))
        search.server.do("PUT", f"/{index}/_settings", {f"index.blocks.{block}": False})
        await search.holds(list(range(620)))
    assert reports.lost == {search.server.kind.product: {}}


async def test_what_the_mapping_refuses_is_lost_counted_and_explained_alone(search: Search) -> None:
    mapping = {"properties": {"message": {"type": "integer"}, "offset": {"type": "long"}}}
    search.server.do("PUT", f"/{search.prefix}-{DAY}", {"mappings": mapping})
    async with reporting(search.sink()) as (reports, heard):
        put(reports, range(10))
        put(reports, range(10, 13), message="no number")
        await search.holds(list(range(10)))
        name = search.server.kind.product
        await until(lambda: reports.lost == {name: {"mapping": 3}}, "the count", lambda: reports.lost)
    assert "message" in heard.said["mapping"]


async def test_without_the_template_nothing_is_written_and_nothing_lost(search: Search) -> None:
    search.server.do("DELETE", f"/_index_template/{search.prefix}")
    async with reporting(search.sink()) as (reports, heard):
        put(reports, range(5))
        await until(lambda: "template" in heard.said, "a complaint")
        assert "dcalqr elastic setup" in heard.said["template"]
        assert search.server.indices(search.prefix) == set()
        search.prepared()
        await search.holds(list(range(5)))
    assert reports.lost == {search.server.kind.product: {}}


# --- whole requests refused ---------------------------------------------------------------------------------------


async def test_a_server_that_is_no_elasticsearch_is_named(search_servers: Any) -> None:
    server = next((search_servers(kind) for kind in kinds() if kind == OPENSEARCH), None)
    with FakeSearch(product="other").running() as other:
        for url in (other.url, *([server.url] if server else [])):
            sink = make_sink("elasticsearch", {"urls": [url]})
            with pytest.raises(Undelivered) as caught:
                await sink.write([report(1)])
            assert list(caught.value.problems) == ["product"]
            assert [each.offset for each in caught.value.unsent] == [1]
            await sink.aclose()


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (429, "overload"),
        (503, "server"),
        (502, "server"),
        (400, "request"),
        (401, "login"),
        (403, "forbidden"),
        (404, "missing"),
        (b"<html>", "answer"),
        (b"[]", "answer"),
        (b'{"items": []}', "answer"),
        (b'{"items": [{"create": {}}]}', "answer"),
    ],
)
async def test_what_a_whole_request_is_refused_with_may_pass(
    fake: FakeSearch, product: str, fault: int | bytes, reason: str
) -> None:
    fake.faults += [fault, fault]
    async with reporting(make_sink(product, {"urls": [fake.url]})) as (reports, heard):
        put(reports, range(3))
        await until(lambda: len(fake.documents) == 3, "the documents")
        assert list(heard.said) == [reason]
        assert len(fake.bulk_bytes) == 3
    assert reports.lost == {product: {}}


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
async def test_requests_that_are_too_large_are_parted_and_only_a_document_too_large_alone_is_lost(
    fake: FakeSearch, product: str
) -> None:
    fake.largest_bytes = 3000
    async with reporting(make_sink(product, {"urls": [fake.url]})) as (reports, heard):
        put(reports, range(20))
        put(reports, range(20, 21), path="x" * 4000)
        put(reports, range(21, 30))
        await until(lambda: len(fake.documents) == 29, "the documents", lambda: len(fake.documents))
        await until(lambda: reports.lost == {product: {"too_large": 1}}, "the count", lambda: reports.lost)
    assert sorted(each["offset"] for each in fake.documents.values()) == [*range(20), *range(21, 30)]
    assert list(heard.said) == ["too_large"]


async def test_a_servers_true_overload_is_waited_out(tmp_path: Path) -> None:
    limit = {"indexing_pressure.memory.limit": "20kb"}
    server = SearchServer(tmp_path / "search", kinds()[0], settings=limit).start()
    try:
        search = Search(server, "dcalqr").prepared()
        async with reporting(search.sink()) as (reports, heard):
            put(reports, range(200))
            await until(lambda: "overload" in heard.said, "a complaint")
            assert reports.lost == {"elasticsearch": {}}
    finally:
        server.stop()
    assert reports.lost == {"elasticsearch": {"stop": 200}}


async def test_one_of_two_servers_that_is_down_costs_nothing(elasticsearch: Search) -> None:
    with FakeSearch().running() as gone:
        dead = gone.url
    for _ in range(4):  # which of them is asked first is chance
        sink = elasticsearch.sink(urls=[dead, elasticsearch.server.url])
        await sink.write([report(1)])
        await sink.aclose()
    assert elasticsearch.offsets() == [1]


# --- logins and TLS -----------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(secure: SearchServer, pki: Pki, tmp_path: Path) -> tuple[Search, dict[str, Any]]:
    """A prefix on the server that wants a login, and the keys with a good one."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    search = Search(secure, f"t{time.time_ns()}").prepared()
    rights = {"indices": [{"names": [f"{search.prefix}-*"], "privileges": RIGHTS}]}
    secure.do("PUT", f"/_security/role/{search.prefix}", rights)
    secure.do("PUT", f"/_security/user/{search.prefix}", {"password": PASSWORD, "roles": [search.prefix]})
    return search, {"user": search.prefix, "passwordfile": str(password), "cafile": str(pki.ca)}


async def test_a_password_and_a_ca_file_open_the_door(guarded: tuple[Search, dict[str, Any]]) -> None:
    search, keys = guarded
    sink = search.sink(**keys)
    await sink.write([report(1)])
    await sink.aclose()
    assert search.offsets() == [1]


async def test_a_wrong_password_loses_nothing_and_the_right_one_needs_no_restart(
    guarded: tuple[Search, dict[str, Any]], tmp_path: Path
) -> None:
    search, keys = guarded
    password = tmp_path / "password"
    password.write_text("wrong-horse")
    async with reporting(search.sink(**keys)) as (reports, heard):
        put(reports, range(3))
        await until(lambda: "login" in heard.said, "a complaint")
        assert "wrong-horse" not in json.dumps(heard.said)
        password.unlink()
        await until(lambda: "credential" in heard.said, "a complaint about the file")
        password.write_text(PASSWORD)
        await search.holds([0, 1, 2])
    assert reports.lost == {"elasticsearch": {}}


def api_key(search: Search, path: Path, names: list[str]) -> dict[str, str]:
    """Make a key that may only write, to indices of these names."""
    rights = {"indices": [{"names": names, "privileges": RIGHTS}]}
    made = search.server.do("POST", "/_security/api_key", {"name": "writer", "role_descriptors": {"writer": rights}})
    path.write_text(made["encoded"])
    return {"apikeyfile": str(path)}


async def test_an_api_key_that_may_only_write_is_enough(
    guarded: tuple[Search, dict[str, Any]], tmp_path: Path, pki: Pki
) -> None:
    search, _ = guarded
    keys = api_key(search, tmp_path / "key", [f"{search.prefix}-*"])
    sink = search.sink(cafile=str(pki.ca), **keys)
    await sink.write([report(1)])
    await sink.aclose()
    assert search.offsets() == [1]


async def test_what_a_key_may_not_write_waits_for_one_that_may(
    guarded: tuple[Search, dict[str, Any]], tmp_path: Path, pki: Pki
) -> None:
    search, _ = guarded
    keys = api_key(search, tmp_path / "key", [f"{search.prefix}-undated"])
    async with reporting(search.sink(cafile=str(pki.ca), **keys)) as (reports, heard):
        put(reports, range(2))
        put(reports, range(2, 4), event_date=None)
        await search.holds([2, 3])
        await until(lambda: "forbidden" in heard.said, "a complaint")
        api_key(search, tmp_path / "key", [f"{search.prefix}-*"])
        await search.holds([0, 1, 2, 3])
    assert reports.lost == {"elasticsearch": {}}


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
@pytest.mark.parametrize("trust", ["ca", "unknown_ca", None])
async def test_only_a_server_of_the_ca_file_gets_the_login(
    pki: Pki, tmp_path: Path, product: str, trust: str | None
) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    keys = {"user": "dcalqr", "passwordfile": str(password)}
    if trust:
        keys["cafile"] = str(getattr(pki, trust))
    with FakeSearch(pki.host).running() as fake:
        fake.kept["/_index_template/dcalqr"] = {}
        sink = make_sink(product, {"urls": [fake.url], **keys})
        if trust == "ca":
            await sink.write([report(1)])
            assert len(fake.documents) == 1
            assert all(login.startswith("Basic ") for login in fake.logins)
        else:
            with pytest.raises(Undelivered) as caught:
                await sink.write([report(1)])
            assert list(caught.value.problems) == ["tls"], caught.value
            assert fake.logins == []
        await sink.aclose()


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
async def test_no_proxy_of_the_environment_sees_a_request(
    fake: FakeSearch, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeSearch().running() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        sink = make_sink(product, {"urls": [fake.url]})
        await sink.write([report(1)])
        await sink.aclose()
        assert proxy.requests == []
    assert len(fake.documents) == 1
