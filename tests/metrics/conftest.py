"""The search servers that tests share, each started when the first test asks for it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcalqr.testing.pki import Pki
from tests.metrics.searching import Search
from tests.support.process import MissingComponent
from tests.support.search import ELASTICSEARCH_8, Kind, SearchServer, kinds

PASSWORD = "correct-horse"


@pytest.fixture(scope="session")
def search_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], SearchServer]]:
    """Gives a running server of a kind. Who stops or hangs one starts one of his own."""
    running: dict[Kind, SearchServer] = {}

    def give(kind: Kind) -> SearchServer:
        if kind not in running:
            running[kind] = started(SearchServer(tmp_path_factory.mktemp("search") / "server", kind))
        return running[kind]

    yield give
    for server in running.values():
        server.stop()


def started(server: SearchServer) -> SearchServer:
    try:
        return server.start()
    except MissingComponent as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(params=kinds(), ids=str)
def search(request: pytest.FixtureRequest, search_servers: Callable[[Kind], SearchServer]) -> Search:
    """A shared server of each kind, with a prefix that nobody has used and its template."""
    return Search(search_servers(request.param), f"t{uuid.uuid4().hex[:12]}").prepared()


@pytest.fixture
def elasticsearch(search_servers: Callable[[Kind], SearchServer]) -> Search:
    """The shared Elasticsearch 8, as `search`."""
    return Search(search_servers(ELASTICSEARCH_8), f"t{uuid.uuid4().hex[:12]}").prepared()


@pytest.fixture(params=[kind for kind in kinds() if kind.version[0] != "9"], ids=str)
def own_search(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Search]:
    """A server that the test may stop and kill."""
    server = started(SearchServer(tmp_path / "search", request.param))
    yield Search(server, "own").prepared()
    server.stop()


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[SearchServer]:
    """An Elasticsearch 8 with HTTPS, users and API keys."""
    folder = tmp_path_factory.mktemp("secure") / "server"
    server = started(SearchServer(folder, ELASTICSEARCH_8, PASSWORD, pki.host_certificate, pki.host_key))
    yield server
    server.stop()
