"""`dcalqr elastic setup`, as its users meet it."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcalqr.config import load
from dcalqr.metrics.setup import look
from dcalqr.testing.pki import Pki
from tests.contract.sink import report
from tests.metrics.conftest import PASSWORD
from tests.metrics.searching import make_sink
from tests.support.fake_search import FakeSearch
from tests.support.search import Kind, SearchServer, kinds
from tests.support.site import merged, settings, write_toml


@pytest.fixture
def setup(tmp_path: Path, pki: Pki) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command with sections of the configuration."""

    def run(**sections: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "dcalqr.toml"
        write_toml(path, merged(settings(tmp_path, "https://localhost:1", pki), sections))
        command = [sys.executable, "-m", "dcalqr", "elastic", "setup", "--config", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.mark.parametrize("kind", kinds(), ids=str)
async def test_a_real_server_is_set_up_once_and_a_second_time_changes_nothing(
    setup: Any, search_servers: Callable[[Kind], SearchServer], kind: Kind, tmp_path: Path
) -> None:
    server, prefix = search_servers(kind), f"s{uuid.uuid4().hex[:12]}"
    keys = {"urls": [server.url], "prefix": prefix}
    first = setup(**{kind.product: keys})
    assert (first.returncode, first.stderr) == (0, "")
    assert f"{kind.version} at {server.url}" in first.stdout
    assert "lifecycle polic" in first.stdout
    assert "indices stay until somebody deletes them" in first.stdout
    assert f"index template {prefix} made, for indices {prefix}-*" in first.stdout
    [looked] = await look(load(tmp_path / "dcalqr.toml"))
    assert looked.is_well, looked.words
    assert looked.words.endswith(f" {kind.version} at {server.url}; index template {prefix} is there")
    again = setup(**{kind.product: keys})
    assert again.returncode == 0
    assert f"index template {prefix} is there already" in again.stdout
    sink = make_sink(kind.product, keys)
    await sink.write([report(1, extra={"camera": "ComCam"})])
    await sink.aclose()
    assert [each["offset"] for each in server.documents(prefix)] == [1]


def test_a_server_with_lifecycle_management_gets_a_policy_and_keeps_it(setup: Any) -> None:
    with FakeSearch().running() as fake:
        keys = {"urls": [fake.url], "prefix": "site"}
        first = setup(elasticsearch=keys)
        assert first.returncode == 0, first.stderr
        assert "lifecycle policy site made: an index is deleted 400 days after it was made" in first.stdout
        policy = fake.kept["/_ilm/policy/site"]["policy"]
        assert policy["phases"]["delete"] == {"min_age": "400d", "actions": {"delete": {}}}
        assert fake.kept["/_index_template/site"]["template"]["settings"]["index"]["lifecycle"] == {"name": "site"}
        assert "lifecycle policy site is there already" in setup(elasticsearch=keys).stdout
        assert sum(method == "PUT" for method, _ in fake.requests) == 2
        changed = setup(elasticsearch={**keys, "keepdays": 30}).stdout
        assert "lifecycle policy site replaced: an index is deleted 30 days" in changed
        assert "index template site is there already" in changed
        forever = setup(elasticsearch={**keys, "keepdays": 0}).stdout
        assert "no lifecycle policy" in forever
        assert "index template site replaced" in forever


def test_what_an_operator_made_under_the_same_name_is_left_alone(setup: Any) -> None:
    with FakeSearch().running() as fake:
        own: dict[str, Any] = {"policy": {"phases": {"hot": {}}}}
        fake.kept["/_ilm/policy/dcalqr"] = own
        done = setup(elasticsearch={"urls": [fake.url]})
        assert "lifecycle policy dcalqr is not of dcalqr's making: left as it is, and obeyed" in done.stdout
        fake.kept["/_index_template/dcalqr"] = {"index_patterns": ["dcalqr-*"]}
        refused = setup(elasticsearch={"urls": [fake.url]})
        assert refused.returncode == 69
        assert "dcalqr did not make" in refused.stderr
        assert fake.kept["/_index_template/dcalqr"] == {"index_patterns": ["dcalqr-*"]}


def test_both_sections_are_seen_to(setup: Any) -> None:
    with FakeSearch().running() as one, FakeSearch().running() as two:
        done = setup(elasticsearch={"urls": [one.url]}, opensearch={"urls": [two.url], "prefix": "other"})
        assert done.returncode == 0, done.stderr
        extra = {
            path: kept["template"]["mappings"]["properties"]["extra"]["type"]
            for fake in (one, two)
            for path, kept in fake.kept.items()
            if "template" in path
        }
    assert extra == {"/_index_template/dcalqr": "flattened", "/_index_template/other": "flat_object"}


def test_refusals_are_worded_and_have_their_exit_codes(
    setup: Any, secure: SearchServer, pki: Pki, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("wrong-horse")
    keys = {"urls": [secure.url], "user": "nobody", "passwordfile": str(password), "cafile": str(pki.ca)}
    refused = setup(elasticsearch=keys)
    assert refused.returncode == 77
    assert "unable to authenticate user" in refused.stderr
    assert "wrong-horse" not in refused.stderr + refused.stdout
    assert setup(elasticsearch={**keys, "passwordfile": str(tmp_path / "none")}).returncode == 77
    stranger = setup(elasticsearch={**keys, "cafile": str(pki.unknown_ca)})
    assert stranger.returncode == 69
    assert "certificate verify failed" in stranger.stderr
    assert setup(elasticsearch={"urls": ["http://localhost:1"]}).returncode == 69
    assert setup(opensearch={"urls": ["http://localhost:1"]}).returncode == 69
    nothing = setup()
    assert nothing.returncode == 78
    assert "[elasticsearch] urls" in nothing.stderr
    for done in (refused, stranger, nothing):
        assert "Traceback" not in done.stderr


def test_a_login_that_may_manage_templates_is_enough(
    setup: Any, secure: SearchServer, pki: Pki, tmp_path: Path
) -> None:
    prefix, password = f"s{uuid.uuid4().hex[:12]}", tmp_path / "password"
    password.write_text(PASSWORD)
    secure.do("PUT", f"/_security/role/{prefix}", {"cluster": ["monitor", "manage_index_templates", "manage_ilm"]})
    secure.do("PUT", f"/_security/user/{prefix}", {"password": PASSWORD, "roles": [prefix]})
    keys = {"urls": [secure.url], "user": prefix, "passwordfile": str(password), "cafile": str(pki.ca)}
    done = setup(elasticsearch={**keys, "prefix": prefix})
    assert (done.returncode, done.stderr) == (0, "")
    assert f"index template {prefix} made" in done.stdout


async def test_the_daemons_own_login_is_looked_at_and_may_only_write(
    secure: SearchServer, pki: Pki, tmp_path: Path
) -> None:
    rights = {"indices": [{"names": ["dcalqr-*"], "privileges": ["create_doc", "auto_configure"]}]}
    made = secure.do("POST", "/_security/api_key", {"name": "daemon", "role_descriptors": {"writer": rights}})
    key, path = tmp_path / "key", tmp_path / "dcalqr.toml"
    section = {"urls": [secure.url], "apikeyfile": str(key), "cafile": str(pki.ca)}
    write_toml(path, merged(settings(tmp_path, "https://localhost:1", pki), {"elasticsearch": section}))
    key.write_text(made["encoded"])
    [looked] = await look(load(path))
    assert looked.is_well, looked.words
    assert looked.words.endswith(f" at {secure.url}; index template dcalqr: not for this login to see")
    key.write_text("wrong" * 10)
    [looked] = await look(load(path))
    assert not looked.is_well
    assert looked.words.startswith(f"{secure.url}: login: ")


def test_nothing_of_a_search_library_is_loaded_before_the_first_report() -> None:
    program = """
import asyncio, json, sys
from dcalqr import daemon
from dcalqr.service import sinks
from tests.contract.sink import report
from tests.metrics.searching import make_sink
from tests.support.fake_search import FakeSearch
def loaded():
    return sorted({"elasticsearch", "elastic_transport", "opensearchpy", "aiohttp"} & set(sys.modules))
async def main():
    with FakeSearch().running() as fake:
        fake.kept["/_index_template/dcalqr"] = {}
        sink = make_sink("elasticsearch", {"urls": [fake.url]})
        before = loaded()
        await sink.write([report(1)])
        await sink.aclose()
        print(json.dumps([before, "elasticsearch" in loaded(), "opensearchpy" in loaded()]))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [[], True, False]
