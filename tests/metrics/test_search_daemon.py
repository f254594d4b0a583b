"""The daemon beside an Elasticsearch that is killed and stopped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.metrics.conftest import started
from tests.support.process import wait_until
from tests.support.search import ELASTICSEARCH_8, SearchServer
from tests.support.site import SETTLE_SECONDS, Site


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SearchServer]:
    server = started(SearchServer(tmp_path / "search", ELASTICSEARCH_8))
    yield server
    server.stop()


def test_files_land_while_elasticsearch_is_killed_and_stopped_and_every_drop_is_counted(
    site: Site, server: SearchServer
) -> None:
    config = site.write_config(elasticsearch={"urls": [server.url], "prefix": "site", "timeout": 2})
    subprocess.run([sys.executable, "-m", "dcalqr", "elastic", "setup", "--config", str(config)], check=True)

    def land(first: int) -> None:
        names = [f"x{number}" for number in range(first, first + 20)]
        for name in names:
            site.upload(name, name.encode())
        site.wait_settled()
        assert [site.landed(name) for name in names] == [name.encode() for name in names]

    def stored(count: int) -> None:
        wait_until(lambda: len(server.documents("site")) == count, SETTLE_SECONDS, f"{count} documents")

    with site.daemon(config) as daemon:
        land(0)
        stored(20)
        server.process.kill()
        land(20)
        assert daemon.wait_for("SINK", reason="unreachable")["sink"] == "elasticsearch"
        server.start()
        stored(40)
        server.process.suspend()
        land(40)
        daemon.wait_for("SINK", reason="timeout")
        server.process.resume()
        stored(60)
        server.process.suspend()
        land(60)
        daemon.end()
        server.process.resume()
    assert daemon.process.returncode == 0
    assert daemon.lines("SINK_END")[0]["dropped"] == {"stop": 20}
    # What was on its way when the server stopped may have been stored all the same: counted is never too little.
    documents = server.documents("site")
    assert 60 <= len(documents) <= 80
    assert len({each["path"] for each in documents}) == len(documents)
    assert {each["outcome"] for each in documents} == {"landed"}
    assert len(site.reports()) == 80
