"""`dcalqr demo` as a command: what it promises to whoever tries it first."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dcalqr import errors
from dcalqr.demo import broker, scenario, verdict
from dcalqr.demo.journal import Journal
from dcalqr.demo.scenario import Kind
from dcalqr.demo.site import Site
from dcalqr.demo.storage import FOLDER, ROOT, Storage
from tests.demo.running import CHECKOUT, running
from tests.support.kafka import KafkaBroker
from tests.support.ports import free_ports
from tests.support.process import wait_until

# The demo takes 15 s on an idle machine.
DEMO_SECONDS = 110.0
START_SECONDS = 60.0


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a demo; returns all that it said."""
    text, _ = process.communicate(timeout=DEMO_SECONDS)
    return text


def daemon_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Wait for the daemon of a demo to be a member of its group."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "is a member of its consumer group" in line:
            [daemon] = psutil.Process(process.pid).children()
            return daemon
    pytest.fail(f"the daemon did not join its group: {said}")


def test_the_demo_ends_well_and_keeps_its_folder_when_asked_to(tmp_path: Path) -> None:
    with running(tmp_path, "--keep") as process:
        said = ended(process)
    assert process.returncode == 0, said
    assert "WRONG" not in said
    assert "All is as it should be" in said
    for fault in ("404", "promised 00010001; tries again", "then too little in 3.0 s; tries again", "HTTP 403"):
        assert fault in said
    [folder] = tmp_path.iterdir()
    assert str(folder) in said
    assert (folder / "dcalqr.log").read_text().count('"COPY_FAILED"') == 1
    assert len((folder / "failed.csv").read_text().splitlines()) == 2
    assert len(list(folder.glob("download/*/*.fits"))) == 299
    checked = [sys.executable, "-m", "dcalqr", "check", "--config", str(folder / "dcalqr.toml")]
    assert subprocess.run(checked, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout


def test_the_demo_works_with_a_real_broker_and_leaves_nothing_there_and_here(
    tmp_path: Path, kafka: KafkaBroker
) -> None:
    with running(tmp_path, "--servers", kafka.bootstrap, "--seed", "7") as process:
        said = ended(process)
    assert process.returncode == 0, said
    assert "All is as it should be" in said
    assert list(tmp_path.iterdir()) == []
    admin = kafka.new_admin()
    wait_until(lambda: not [topic for topic in admin.list_topics().topics if "demo" in topic], 30, "the topic to go")
    groups = admin.list_consumer_groups().result().valid
    assert not [group.group_id for group in groups if "demo" in group.group_id]


def test_an_interrupted_demo_takes_everything_with_it(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        daemon = daemon_of(process)
        process.send_signal(signal.SIGINT)
        said = ended(process)
        assert process.returncode == 130
        assert "Traceback" not in said
        assert not daemon.is_running()
        assert list(tmp_path.iterdir()) == []


def test_a_demo_whose_daemon_dies_says_so_and_keeps_the_folder(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        daemon_of(process).kill()
        said = ended(process)
    assert process.returncode == 1
    assert "the daemon ended by itself, with code -9" in said
    assert "WRONG" in said
    assert "All is as it should be" not in said
    [folder] = tmp_path.iterdir()
    assert f"In {folder}:" in said


@pytest.mark.parametrize("option", [[], ["--stay"]])
def test_without_confluent_kafka_the_demo_says_what_to_install(option: list[str]) -> None:
    words = ["demo", *option]
    program = f"import sys; sys.modules['confluent_kafka'] = None; from dcalqr.cli import main; main({words})"
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == errors.EXIT_UNAVAILABLE
    assert "pip install 'dcalqr[demo]', or from a checkout: pip install '.[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_servers_that_are_no_addresses_are_a_mistake_of_use(tmp_path: Path) -> None:
    with running(tmp_path, "--servers", "localhost") as process:
        assert 'each is "host:port"' in " ".join(re.sub("[│╭╰╮╯─]", " ", ended(process)).split())
    assert process.returncode == errors.EXIT_USAGE


def test_a_broker_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "ANSWER_SECONDS", 0.2)
    [port] = free_ports(1)
    with pytest.raises(errors.ServiceUnavailable, match=r"Kafka at 127\.0\.0\.1:"):
        broker.Broker([f"127.0.0.1:{port}"])


# --- the parts ------------------------------------------------------------------------------------------------


def test_a_scenario_depends_on_its_seed_alone() -> None:
    made = scenario.make(random.Random(1))
    assert made == scenario.make(random.Random(1))
    assert made != scenario.make(random.Random(2))


@pytest.mark.parametrize("seed", range(20))
def test_every_scenario_has_each_kind_of_upload_once_each_name(seed: int) -> None:
    made = scenario.make(random.Random(seed))
    names = [upload.name for upload in made.uploads]
    assert len(names) == len(set(names)) == 300
    assert {upload.kind for upload in made.live} == set(Kind)
    assert {upload.kind for upload in made.backlog} == {Kind.PLAIN}
    assert not set(made.repeated) & set(made.overwritten)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with Storage(tmp_path / "certificates", random.Random(1), lambda _: None) as made:
        yield made


SMALL = scenario.Scenario(
    (),
    (scenario.Upload("a/one", 200_000), scenario.Upload("a/two", 0), scenario.Upload("b/no", 9, Kind.FORBIDDEN)),
    (),
    (),
)


@pytest.fixture
def site(tmp_path: Path, storage: Storage) -> Site:
    """Where all files of SMALL have landed, without the reports of it."""
    made = Site(tmp_path)
    made.write_config(["127.0.0.1:9092"], "billing", "dcalqr", storage.door.url, storage.pki)
    for upload in SMALL.uploads:
        storage.upload(upload)
        if upload.kind is Kind.PLAIN:
            (made.download / upload.name).parent.mkdir(exist_ok=True)
            (made.download / upload.name).write_bytes(bytes(storage.truth[upload.name].content))
    return made


def equal_and_other(site: Site, storage: Storage) -> tuple[str, str]:
    equal, _, other = verdict.of_files(SMALL, site, storage)
    assert equal.good == (equal.found == "2")
    assert other.good == (other.found == "0")
    return equal.found, other.found


def test_files_that_are_equal_to_the_source_are_found_good(site: Site, storage: Storage) -> None:
    assert equal_and_other(site, storage) == ("2", "0")


@pytest.mark.parametrize("change", ["cut", "longer", "another byte", "absent"])
def test_a_file_that_differs_from_the_source_is_found(change: str, site: Site, storage: Storage) -> None:
    path = site.download / "a/one"
    content = bytearray(path.read_bytes())
    content[150_000] ^= 1
    true = path.read_bytes()
    path.unlink()
    changed = {"cut": true[:-1], "longer": true + b"x", "another byte": bytes(content), "absent": None}[change]
    if changed is not None:
        path.write_bytes(changed)
    assert equal_and_other(site, storage) == ("1", "0")


@pytest.mark.parametrize("name", ["a/one.0123abcd-4567cdef.part", "b/no"])
def test_a_file_that_should_not_be_there_is_found(name: str, site: Site, storage: Storage) -> None:
    (site.download / name).parent.mkdir(exist_ok=True)
    (site.download / name).write_bytes(b"left")
    assert equal_and_other(site, storage) == ("2", "1")


def test_a_row_that_is_not_there_is_missed(site: Site) -> None:
    assert [check.good for check in verdict.of_rows(SMALL, site)] == [False]


def test_the_journal_counts_and_words_what_the_log_says() -> None:
    journal = Journal(ROOT + FOLDER)
    path = f"{ROOT}{FOLDER}/a/one"
    assert journal.take({"event": "UPLOAD", "path": path, "uuid": "u"}) == ""
    assert "a/one" in journal.take({"event": "WAIT_VISIBLE", "uuid": "u"})
    assert journal.waiting == 1
    retry = {"event": "COPY_RETRY", "uuid": "u", "error": "Stalled", "message": "silence"}
    assert journal.take(retry) == "a/one: silence; tries again"
    report = {"event": "COPY_REPORT", "path": path, "uuid": "u", "outcome": "landed"}
    assert "a/one landed" in journal.take(report)
    assert (journal.waiting, journal.settled, journal.landed) == (0, 1, {"a/one"})
    assert journal.retries == {("a/one", "Stalled"): 1}
    assert journal.take({"event": "HOLD", "level": "error", "message": "no space"}) == "HOLD: no space"
    assert journal.take({"event": "OUTPUT", "level": "error", "message": "  File x, line 1"}) == ""
    assert journal.take({"event": "OUTPUT", "level": "error", "message": "OSError: no disk"}) == "OSError: no disk"
