"""`dcalqr check`: what it says and how it ends, offline and with --online."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcalqr import errors
from dcalqr.check import Findings, _look_at_folder, _look_at_port, _look_at_search_servers, look
from dcalqr.config import load
from dcalqr.config.warnings import warnings_of
from dcalqr.metrics import setup
from dcalqr.testing.door import Fault
from tests.support.fake_search import FakeSearch
from tests.support.ports import free_ports
from tests.support.site import FOLDER, SETTLE_SECONDS, Site


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcalqr", "check", "--config", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SETTLE_SECONDS,
        check=False,
    )


async def look_at(site: Site, **changes: dict[str, Any]) -> Findings:
    return await look(load(site.write_config("dcalqr.toml", **changes)))


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    assert os.geteuid() == 0, "these tests change the user: run them as root"
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextlib.contextmanager
def open_to_all(folder: Path) -> Iterator[None]:
    """Let other users reach a folder of pytest's."""
    above = [each for each in (folder, *folder.parents) if not each.stat().st_mode & 0o001]
    modes = {each: each.stat().st_mode for each in above}
    for each, mode in modes.items():
        each.chmod(mode | 0o011)
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.chmod(mode)


# --- the file alone -----------------------------------------------------------------------------------------------


def test_a_good_file_is_well_formed_and_its_doubts_are_warnings(site: Site) -> None:
    config = site.write_config(local={"proxy": str(site.folder / "none")}, dcache={"requirechecksum": False})
    done = check(config)
    assert done.returncode == 0
    assert f"{config}: well-formed" in done.stdout
    assert "warning: dcache.requirechecksum: false accepts files by their size alone" in done.stdout
    assert f"warning: local.proxy: {site.folder}/none: No such file" in done.stdout
    assert done.stderr == ""
    assert not site.door.requests


BROKEN: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "unknown key": ({"dcache": {"maxdownload": 3}}, "dcache.maxdownload = 3: unknown key; did you mean maxdownloads?"),
    "unknown section": ({"kafak": {"topic": "x"}}, "[kafak]: unknown section; did you mean [kafka]?"),
    "no servers": ({"kafka": {"servers": []}}, "kafka.servers"),
    "server without port": ({"kafka": {"servers": ["kafka"]}}, "kafka.servers[0]"),
    "http door": ({"dcache": {"url": "http://door:2880/"}}, "dcache.url"),
    "relative folder": ({"dcache": {"folder": "lsst"}}, "dcache.folder"),
    "no number": ({"dcache": {"timeout": "600"}}, "dcache.timeout"),
    "no mode": ({"local": {"permissions": "rwx"}}, "local.permissions"),
    "root as destination": ({"local": {"downloadfolder": "/"}}, "local.downloadfolder"),
    "instance with a slash": ({"daemon": {"instance": "a/b"}}, "daemon.instance"),
    "sasl without password": ({"kafka": {"security": "sasl_ssl"}}, "kafka.saslpasswordfile is missing"),
    "everything watched": ({"dcache": {"pool": "/", "folder": "/"}}, "dcache.folder"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_ends_with_78_and_names_the_key(site: Site, case: str) -> None:
    changes, words = BROKEN[case]
    done = check(site.write_config("dcalqr.toml", **changes))
    assert done.returncode == 78
    assert words in done.stderr
    assert "the configuration is refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[kafka\n", "line 1, column 7"),
        (b"\xff\xfe[kafka]\n", "not UTF-8 at line 1, column 1"),
        (b"", "[kafka] is missing"),
        (b"a = " + b"9" * 5000, "not to be understood"),
        (b"x = " + b"[" * 5000, "not to be understood"),
    ],
)
def test_what_is_no_configuration_at_all_ends_with_78(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    done = check(path)
    assert done.returncode == 78
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_read_ends_with_78(tmp_path: Path, name: str) -> None:
    done = check(tmp_path / name)
    assert done.returncode == 78
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_with_controls_forges_no_line(tmp_path: Path) -> None:
    done = check(tmp_path / "a\nok: all is well\x1b[2J")
    assert done.returncode == 78
    assert "\x1b" not in done.stderr
    assert not any(line.startswith("ok:") for line in done.stderr.splitlines())


def test_a_state_folder_behind_a_closed_one_is_no_crash(site: Site) -> None:
    config = load(site.write_config(local={"statefolder": str(site.folder / "state" / "one")}))
    site.folder.chmod(0o700)
    with nobody():
        warnings = warnings_of(config)
    assert f"local.downloadfolder: {site.download}: Permission denied" in warnings


def test_a_state_folder_that_can_be_made_is_no_warning(site: Site) -> None:
    config = load(site.write_config(local={"statefolder": str(site.folder / "new" / "state")}))
    assert not any(line.startswith("local.statefolder") for line in warnings_of(config))


# --- with the world around it -------------------------------------------------------------------------------------


def test_online_all_is_well(site: Site) -> None:
    site.publish(b"{}", b"{}")
    done = check(site.write_config(), "--online")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok: {site.download}: writable" in done.stdout
    assert f"ok: {site.pki.proxy}: valid until" in done.stdout
    assert f"ok: {site.door.url}{FOLDER}: the door serves the folder" in done.stdout
    assert f"ok: {site.topic}: 4 partitions, 2 records, offsets committed for 0" in done.stdout
    assert "wrong:" not in done.stdout
    assert "warning:" not in done.stdout
    assert done.stderr == ""
    assert not list(site.download.iterdir())
    assert not (site.folder / "failed.csv").exists()
    assert not (site.folder / "failed.state").exists()


def test_online_kafka_down_ends_with_69(site: Site) -> None:
    [port] = free_ports(1)
    done = check(site.write_config(kafka={"servers": [f"127.0.0.1:{port}"]}), "--online")
    assert done.returncode == 69
    assert "wrong: Kafka is not available" in done.stdout
    assert "ok: " in done.stdout  # the rest is looked at all the same
    assert "Traceback" not in done.stderr
    assert "Unclosed" not in done.stderr


async def test_online_a_missing_topic_is_named(site: Site) -> None:
    found = await look_at(site, kafka={"topic": "nobody-made-this"})
    assert found.exit_code == 69
    assert any("topic nobody-made-this" in words for words in found.bad)


async def test_online_a_missing_folder_cannot_be_created_into(site: Site) -> None:
    found = await look_at(site, local={"downloadfolder": str(site.folder / "missing")})
    assert found.exit_code == errors.EXIT_CANNOT_CREATE
    assert any("missing" in words for words in found.bad)


async def test_online_a_file_system_that_was_mounted_and_is_not_is_missed(site: Site) -> None:
    (site.folder / "failed.state").mkdir()
    (site.folder / "failed.state" / "hints.json").write_text(f'{{"groups": [], "mount_point": "{site.download}"}}')
    found = await look_at(site)
    assert found.exit_code == errors.EXIT_CANNOT_CREATE
    assert f"{site.download} is not mounted" in found.bad[0]
    assert not (site.folder / "failed.state" / "lock").exists()


def test_online_a_folder_that_may_not_be_written_has_no_permission(site: Site) -> None:
    config, findings = load(site.write_config()), Findings()
    with open_to_all(site.folder), nobody():
        _look_at_folder(config, findings)
    assert findings.exit_code == errors.EXIT_NO_PERMISSION


def test_online_a_dropped_setgid_bit_is_a_warning_with_the_groups_name(site: Site) -> None:
    config = load(site.write_config())
    os.chown(site.download, 65534, 0)
    site.download.chmod(0o2755)  # what is made in it is of its group
    findings = Findings()
    with open_to_all(site.folder), nobody():
        _look_at_folder(config, findings)
    assert findings.exit_code == 0, findings.bad
    assert ["setgid bit is dropped" in words and words.endswith("group root") for words in findings.warnings] == [True]


async def test_online_an_expired_proxy_ends_with_77_without_asking_the_door(site: Site) -> None:
    found = await look_at(site, local={"proxy": str(site.pki.proxy_expired)})
    assert found.exit_code == errors.EXIT_NO_PERMISSION
    assert any("expired" in words for words in found.bad)
    assert not site.door.requests
    not_asked = "the door was not asked, because the credential cannot be used"
    assert found.warnings == [f"{site.door.url}{FOLDER}: {not_asked}"]


@pytest.mark.parametrize("proxy", ["proxy_broken", "proxy_no_chain", "proxy_unknown_ca", "proxy_revoked"])
async def test_online_a_proxy_that_is_not_good_ends_with_77(site: Site, proxy: str) -> None:
    found = await look_at(site, local={"proxy": str(getattr(site.pki, proxy))})
    assert found.exit_code == errors.EXIT_NO_PERMISSION, found


async def test_online_a_proxy_that_expires_soon_is_a_warning(site: Site) -> None:
    proxy = site.pki.new_proxy(site.folder / "proxy", 1200)
    found = await look_at(site, local={"proxy": str(proxy)})
    assert found.exit_code == 0
    assert any("proxy expires in" in words for words in found.warnings)


@pytest.mark.parametrize(("status", "code"), [(401, 77), (403, 77), (404, 69), (500, 69), (302, 69)])
async def test_online_a_door_that_refuses_is_told(site: Site, status: int, code: int) -> None:
    site.door.faults.add(Fault("door", status=status))
    found = await look_at(site)
    assert found.exit_code == code, found


async def test_online_a_door_that_is_down_is_told(site: Site) -> None:
    site.door.stop()
    found = await look_at(site)
    assert found.exit_code == errors.EXIT_UNAVAILABLE
    assert any("cannot be reached" in words for words in found.bad)


async def test_online_the_root_of_the_door_may_be_the_watched_folder(site: Site) -> None:
    found = await look_at(site, dcache={"folder": "/"})
    assert found.exit_code == 0, found
    assert any(words.startswith(f"{site.door.url}: the door serves") for words in found.good)


async def test_online_everything_wrong_is_told_at_once(site: Site) -> None:
    [port] = free_ports(1)
    site.door.stop()
    found = await look_at(
        site, kafka={"servers": [f"127.0.0.1:{port}"]}, local={"downloadfolder": str(site.folder / "missing")}
    )
    assert len(found.bad) == 3


def test_the_first_dcalqrs_rows_are_noticed_before_the_daemon_refuses_them(site: Site) -> None:
    (site.folder / "failed.csv").write_text("/pnfs/x,404\n")
    path = site.write_config()
    for arguments, code, kind in ((["check"], 0, "warning"), (["check", "--online"], 73, "wrong")):
        done = subprocess.run(
            [sys.executable, "-m", "dcalqr", *arguments, "--config", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert f"{kind}: local.failedtasksfile: " in done.stdout
        assert "the daemon will not start until it is moved away" in done.stdout


# --- the sinks ----------------------------------------------------------------------------------------------------


async def sinks_of(site: Site, **sections: dict[str, Any]) -> Findings:
    """Look at sections of sinks only."""
    findings, config = Findings(), load(site.write_config("dcalqr.toml", **sections))
    await _look_at_search_servers(config, findings)
    await asyncio.to_thread(_look_at_port, config, findings)
    return findings


@pytest.mark.parametrize("section", ["elasticsearch", "opensearch"])
async def test_online_a_search_server_without_the_template_is_a_warning_until_the_setup(
    site: Site, section: str
) -> None:
    with FakeSearch().running() as fake:
        keys = {section: {"urls": [fake.url], "prefix": "site"}}
        found = await sinks_of(site, **keys)
        [words] = found.warnings
        assert words.startswith(f"{section}: {fake.url}: there is no index template site: run dcalqr elastic setup;")
        assert words.endswith("no report is stored there; copies go on")
        assert (found.exit_code, found.bad) == (0, [])
        assert {method for method, _ in fake.requests} <= {"GET", "HEAD"}
        await setup.set_up(load(site.write_config("dcalqr.toml", **keys)), lambda _: None)
        found = await sinks_of(site, **keys)
        assert found.warnings == []
        [words] = found.good
        assert words.endswith(f" 8.19.0 at {fake.url}; index template site is there")
        fake.kept["/_index_template/site"]["_meta"]["digest"] = "older"
        [words] = (await sinks_of(site, **keys)).warnings
        assert words.endswith("index template site is of another version: run dcalqr elastic setup")


@pytest.mark.parametrize("section", ["elasticsearch", "opensearch"])
@pytest.mark.parametrize(("status", "reason"), [(401, "login"), (503, "server")])
async def test_online_a_search_server_that_refuses_is_a_warning(
    site: Site, section: str, status: int, reason: str
) -> None:
    with FakeSearch().running() as fake:
        fake.refusals["/"] = status
        found = await sinks_of(site, **{section: {"urls": [fake.url]}})
    [words] = found.warnings
    assert words.startswith(f"{section}: {fake.url}: {reason}: ")
    assert found.exit_code == 0


@pytest.mark.parametrize("section", ["elasticsearch", "opensearch"])
async def test_online_a_login_that_may_only_write_is_well(site: Site, section: str) -> None:
    with FakeSearch().running() as fake:
        fake.refusals |= {"/": 403, "/_index_template/dcalqr": 403}
        found = await sinks_of(site, **{section: {"urls": [fake.url]}})
    assert found.warnings == []
    hidden = "index template dcalqr: not for this login to see"
    assert found.good == [f"{section}: the login is accepted at {fake.url}; {hidden}"]


async def test_online_a_search_server_that_is_away_or_a_password_that_is_not_there_is_a_warning(site: Site) -> None:
    [port] = free_ports(1)
    password = site.folder / "none"
    away = {"urls": [f"http://localhost:{port}"]}
    found = await sinks_of(site, elasticsearch=away, opensearch={**away, "user": "x", "passwordfile": str(password)})
    assert found.exit_code == 0
    first, second = found.warnings
    assert first.startswith(f"elasticsearch: http://localhost:{port}: unreachable: ")
    assert f"credential: {password} cannot be read: No such file" in second


async def test_online_a_search_server_that_does_not_answer_is_not_waited_for_longer_than_its_timeout(
    site: Site,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = await sinks_of(site, elasticsearch={"urls": [url], "timeout": 1})
    [words] = found.warnings
    assert words.startswith(f"elasticsearch: {url}: timeout: ")


async def test_online_a_library_that_is_missing_is_wrong_because_the_daemon_would_not_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "elasticsearch", None)
    found = await sinks_of(site, elasticsearch={"urls": ["http://localhost:1"]})
    assert found.exit_code == errors.EXIT_CONFIG
    assert found.bad == [
        "[elasticsearch]: its library is not installed here: pip install 'dcalqr[elasticsearch]'",
    ]


async def test_online_a_port_is_free_or_taken_or_this_instances_own(site: Site) -> None:
    [port] = free_ports(1)
    settings = {"prometheus": {"port": port}}
    where = f"prometheus.port: {port} at 127.0.0.1"
    assert (await sinks_of(site, **settings)).good == [f"{where}: free"]
    with socket.create_server(("127.0.0.1", port)):
        found = await sinks_of(site, **settings)
    words = "Address already in use; no metrics and no status page would be served, copies go on"
    assert (found.warnings, found.exit_code) == ([f"{where}: {words}"], 0)
    with site.daemon(site.write_config("dcalqr.toml", **settings)) as daemon:
        await asyncio.to_thread(daemon.wait_for, "WEB")
        assert (await sinks_of(site, **settings)).good == [f"{where}: this instance's daemon answers"]
        other_instance = await sinks_of(site, **settings, daemon={"instance": "two"})
        assert other_instance.warnings == [f"{where}: {words}"]


async def test_online_an_address_of_another_machine_is_a_warning(site: Site) -> None:
    [port] = free_ports(1)
    found = await sinks_of(site, prometheus={"port": port, "address": "192.0.2.1"})
    assert found.warnings[0].startswith(f"prometheus.port: {port} at 192.0.2.1: Cannot assign requested address; ")
    found = await sinks_of(site, prometheus={"port": port, "address": "::1"})
    assert found.good or "Cannot assign requested address" in found.warnings[0]  # not every machine has IPv6
