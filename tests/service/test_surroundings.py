from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcalqr.config import load
from dcalqr.local.destination import Destination
from dcalqr.local.state import State
from dcalqr.service import surroundings
from dcalqr.service.surroundings import Surroundings
from dcalqr.testing.pki import Pki
from tests.support.process import wait_until
from tests.support.site import merged, settings, write_toml

SECONDS = 30.0


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "LOOK_SECONDS", 0.05)


@pytest.fixture
def look(tmp_path: Path, pki: Pki) -> Iterator[Callable[..., Surroundings]]:
    """Start to look, with changes of the configuration by section."""
    (tmp_path / "download").mkdir()
    state = State(str(tmp_path / "state"))
    state.open()
    started: list[Surroundings] = []

    def start(**changes: dict[str, Any]) -> Surroundings:
        path = tmp_path / "dcalqr.toml"
        write_toml(path, merged(settings(tmp_path, "https://localhost/x", pki), changes))
        config = load(path)
        folder = str(config.local.downloadfolder)
        destination = Destination(folder, minfree_percent=10, requiremount=False, state=state)
        made = Surroundings(config, destination)
        made.start()
        started.append(made)
        return made

    yield start
    for each in started:
        each.stop()
    wait_until(lambda: not lookers(), SECONDS, "the threads to end")
    state.close()


def lookers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("look-")]


def wait_for(made: Surroundings, name: str, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    wait_until(lambda: name in made.found() and what(made.found()[name]), SECONDS, f"the look {name}")
    return made.found()[name]


def test_free_space_is_that_of_the_file_system_and_bears_its_limit(
    look: Callable[..., Surroundings], tmp_path: Path
) -> None:
    room = wait_for(look(), "room", lambda found: "free_bytes" in found)
    real = os.statvfs(tmp_path)
    assert room["size_bytes"] == real.f_blocks * real.f_frsize
    assert room["least_bytes"] == room["size_bytes"] // 10
    assert 0 < room["free_bytes"] <= room["size_bytes"]


def test_a_folder_that_is_missing_is_said_before_any_file_comes_and_its_return_too(
    look: Callable[..., Surroundings], tmp_path: Path
) -> None:
    (tmp_path / "download").rmdir()
    made = look()
    assert "download" in wait_for(made, "room", lambda found: "trouble" in found)["trouble"]
    (tmp_path / "download").mkdir()
    wait_for(made, "room", lambda found: "free_bytes" in found)


def test_a_hung_look_holds_up_no_other_and_its_last_answer_stays(
    look: Callable[..., Surroundings], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, let_go = threading.Event(), threading.Event()
    made = look()
    wait_for(made, "room", lambda found: "free_bytes" in found)

    def hang(_: Destination) -> None:
        hanging.set()
        let_go.wait()

    monkeypatch.setattr(Destination, "check_presence", hang)
    assert hanging.wait(SECONDS)
    room, files = made.found()["room"], made.found()["files"]
    wait_for(made, "files", lambda found: found["seen_at"] > files["seen_at"])
    assert made.found()["room"] == room
    let_go.set()


def test_sizes_of_files_are_none_where_there_is_none(look: Callable[..., Surroundings], tmp_path: Path) -> None:
    (tmp_path / "failed.csv").write_bytes(b"x" * 17)
    files = wait_for(look(), "files", lambda found: True)
    assert (files["failed_bytes"], files["unreadable_bytes"]) == (17, None)


def test_the_oldest_revocation_list_counts_only_where_they_are_checked(
    look: Callable[..., Surroundings], tmp_path: Path, pki: Pki
) -> None:
    capath = tmp_path / "[ca]"  # no pattern
    shutil.copytree(pki.certificates, capath)
    for number, name in enumerate(("a.r0", "b.r0")):
        (capath / name).write_bytes(b"")
        os.utime(capath / name, (1000 + number, 1000 + number))
    papers = wait_for(look(local={"capath": str(capath)}), "papers", lambda found: True)
    assert papers["crl_oldest_at"] is None
    checked = look(local={"capath": str(capath)}, dcache={"crlcheck": True})
    assert wait_for(checked, "papers", lambda found: True)["crl_oldest_at"] == 1000


def test_the_end_of_kafkas_certificate_is_seen_and_a_broken_one_is_none(
    look: Callable[..., Surroundings], tmp_path: Path, pki: Pki
) -> None:
    kafka = {"security": "ssl", "certfile": str(pki.user_certificate), "keyfile": str(pki.user_key)}
    papers = wait_for(look(kafka=kafka), "papers", lambda found: True)
    assert papers["kafka_certificate_expires_at"] > 1e9
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    papers = wait_for(look(kafka={**kafka, "certfile": str(broken)}), "papers", lambda found: True)
    assert papers["kafka_certificate_expires_at"] is None
