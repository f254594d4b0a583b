"""The command as a process: exit codes, words, what it imports, how a daemon ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dcalqr
from dcalqr.testing.door import Fault
from tests.support.kafka import KafkaBroker
from tests.support.ports import free_ports
from tests.support.site import FOLDER, SETTLE_SECONDS, Site

SLOW = {"stallseconds": 50, "timeout": 50}


def dcalqr_command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcalqr", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SETTLE_SECONDS,
        check=False,
        env={**os.environ, **environment},
    )


# --- without a configuration --------------------------------------------------------------------------------------


def test_the_version_is_the_packages() -> None:
    done = dcalqr_command("--version")
    assert (done.returncode, done.stdout) == (0, f"dcalqr {dcalqr.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["run", "--help"], ["check", "--help"], ["replay", "-h"], ["offsets", "-h"]],
)
def test_a_word_of_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom dcalqr.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'aiokafka', 'httpx', 'pydantic', 'msgspec', 'structlog', 'cryptography', 'rich', 'confluent_kafka'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


def test_an_offline_check_needs_no_network_library(site: Site) -> None:
    arguments = ["check", "--config", str(site.write_config())]
    program = (
        "import sys\nfrom dcalqr.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('heavy:', sorted({'aiokafka', 'httpx', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


def test_a_daemon_leaves_to_its_workers_what_only_attempts_need_and_loads_no_command_line_of_others(site: Site) -> None:
    file = site.folder / "file"
    file.write_text("")
    config = site.write_config(local={"statefolder": str(file / "state")})  # it ends when all is loaded
    done = dcalqr_command("run", "--config", config, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 73
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"dcalqr.service.assembly", "aiokafka", "httpx"} <= loaded
    assert loaded & {"dcalqr.attempt", "OpenSSL", "cryptography", "rich.text"} == set()


@pytest.mark.parametrize("content", [None, "[kafka]\ntopik = 1\n"])
def test_garbage_is_collected_however_a_start_ends(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "dcalqr.toml"
    if content is not None:
        path.write_text(content)
    program = (
        "import gc\nfrom dcalqr.cli import main\n"
        f"try:\n    main(['run', '--config', {str(path)!r}])\nexcept SystemExit:\n    print('enabled:', gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "enabled: True\n"


def test_the_help_names_every_command_and_exit_code() -> None:
    done = dcalqr_command("--help")
    for word in (
        "run",
        "check",
        "replay",
        "status",
        "top",
        "where",
        "offsets",
        "--version",
        "65 bad data",
        "78 configuration",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["check"],
        ["runn", "--config", "x"],
        ["run", "--confg", "x"],
        ["run", "--config"],
        ["offsets", "--config", "x", "--partition", "three"],
        ["offsets", "--config", "x", "--partition", "3"],
        ["offsets", "--config", "x", "--to", "latest"],
        ["check", "--config", "x", "more"],
    ],
)
def test_wrong_usage_ends_with_2_and_a_word(arguments: list[str]) -> None:
    done = dcalqr_command(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "check", "replay", "status", "top", "offsets"])
@pytest.mark.parametrize("content", [None, "[kafka]\ntopik = 1\n"])
def test_every_command_refuses_a_bad_configuration_in_words(tmp_path: Path, command: str, content: str | None) -> None:
    path = tmp_path / "dcalqr.toml"
    if content is not None:
        path.write_text(content)
    done = dcalqr_command(command, "--config", path)
    assert done.returncode == 78
    assert "the configuration is refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == ([path] if content is not None else [])


# --- what stands in the way of a daemon ---------------------------------------------------------------------------


def refused(site: Site, code: int, words: str, **changes: Any) -> None:
    done = dcalqr_command("run", "--config", site.write_config("second.toml", **changes))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_two_daemons_cannot_share_a_csv_or_a_state_folder(site: Site) -> None:
    with site.daemon() as first:
        first.wait_for("START")
        other = {"local": {"statefolder": str(site.folder / "other.state")}, "daemon": {"instance": "two"}}
        refused(site, 73, "failed.csv: another dcalqr writes it; put {instance} into the path", **other)
        state = {"statefolder": str(site.folder / "failed.state"), "failedtasksfile": str(site.folder / "two.csv")}
        refused(
            site,
            73,
            "failed.state: another dcalqr is running with this folder (local.statefolder); stop that one, or,",
            local=state,
        )
        assert first.process.poll() is None


def test_a_csv_of_another_form_is_not_appended_to(site: Site) -> None:
    (site.folder / "failed.csv").write_text("path;size\n/a;1\n")
    refused(site, 73, "not the header of this dcalqr; move the file away")
    assert (site.folder / "failed.csv").read_text() == "path;size\n/a;1\n"


def test_a_folder_for_the_csv_that_is_missing_cannot_be_created(site: Site) -> None:
    rows = {"failedtasksfile": str(site.folder / "no" / "failed.csv"), "statefolder": str(site.folder / "state")}
    refused(site, 73, "no/failed.csv: No such file", local=rows)


def test_a_state_folder_below_a_file_cannot_be_created(site: Site) -> None:
    (site.folder / "file").touch()
    refused(site, 73, "file/state: Not a directory", local={"statefolder": str(site.folder / "file" / "state")})


def test_a_password_file_that_cannot_be_read_is_no_permission(site: Site) -> None:
    sasl = {
        "security": "sasl_plaintext",
        "saslmechanism": "PLAIN",
        "sasluser": "u",
        "saslpasswordfile": str(site.folder / "none"),
    }
    done = dcalqr_command("offsets", "--config", site.write_config(kafka=sasl))
    assert done.returncode == 77
    assert "the password cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


# --- how a daemon ends --------------------------------------------------------------------------------------------


def test_term_lets_the_running_copy_end_and_commits_it(site: Site) -> None:
    site.door.faults.add(Fault("pool", stall_after=1000))
    config = site.write_config(dcache=SLOW, kafka={"commitseconds": 600}, daemon={"drainseconds": 50})
    with site.daemon(config) as daemon:
        site.upload("x", b"a" * 5000)
        daemon.wait_for("COPY_RUN")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("DRAIN")
        assert daemon.process.poll() is None
        site.door.calm()
        assert daemon.wait() == 0
        assert daemon.lines("STOPPED")
    assert site.landed("x") == b"a" * 5000
    assert site.committed_all()
    assert not site.parts()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_and_leaves_no_part(site: Site, number: signal.Signals) -> None:
    site.door.faults.add(Fault("pool", stall_after=1000))
    config = site.write_config(dcache=SLOW, daemon={"drainseconds": 3600})
    with site.daemon(config) as daemon:
        site.upload("x", b"a" * 5000)
        daemon.wait_for("COPY_RUN")
        daemon.signal(number)
        daemon.wait_for("DRAIN")
        assert site.parts()
        daemon.signal(number)
        assert daemon.wait() == 0
    assert not site.parts()
    assert site.landed("x") is None
    assert not site.committed_all()

    site.door.calm()
    with site.daemon():
        site.wait_settled()
    assert site.landed("x") == b"a" * 5000
    assert site.rows() == []


def test_after_its_grace_a_drain_stops_what_still_runs(site: Site) -> None:
    site.door.faults.add(Fault("pool", stall_after=1000))
    with site.daemon(site.write_config(dcache=SLOW, daemon={"drainseconds": 0.2})) as daemon:
        site.upload("x", b"a" * 5000)
        daemon.wait_for("COPY_RUN")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert not site.parts()
    assert not site.committed_all()
    assert site.rows() == []


def test_a_drain_does_not_wait_for_who_only_waits(site: Site) -> None:
    config = site.write_config(dcache={"visibleseconds": 600}, daemon={"drainseconds": 3600})
    with site.daemon(config) as daemon:
        site.upload("x", b"abc", staged=True)
        daemon.wait_for("WAIT_VISIBLE")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert not site.committed_all()
    assert site.rows() == []


def test_a_daemon_without_kafka_waits_for_it_and_ends_at_term(site: Site) -> None:
    [port] = free_ports(1)
    with site.daemon(site.write_config(kafka={"servers": [f"127.0.0.1:{port}"]})) as daemon:
        daemon.wait_for("KAFKA_UNAVAILABLE")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_a_thread_on_a_dead_disk_does_not_keep_the_process() -> None:
    program = (
        "import threading\nfrom concurrent.futures import ThreadPoolExecutor\nfrom dcalqr import exits\n"
        "exits.THREADS_SECONDS = 0.1\n"
        "ThreadPoolExecutor(1).submit(threading.Event().wait)\n"
        "print('said', end='')\n"
        "exits._leave(73)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SETTLE_SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (73, "said")


# --- offsets ------------------------------------------------------------------------------------------------------


def offsets(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return dcalqr_command("offsets", "--config", config, *arguments)


def test_the_offsets_are_an_aligned_table(site: Site, kafka: KafkaBroker) -> None:
    kafka.produce(site.topic, [b"{}"] * 1200, partition=1)
    kafka.delete_records(site.topic, {1: 1000})
    kafka.set_committed(site.group, site.topic, {0: 0, 1: 900})
    done = offsets(site.write_config())
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    assert cells[0] == ["partition", "begin", "end", "committed", "lag", "deleted unread"]
    assert cells[1] == ["0", "0", "0", "0", "0", "0"]
    assert cells[2] == ["1", "1000", "1200", "900", "200", "100"]
    assert cells[3] == ["2", "0", "0", "none", "?", "0"]
    assert done.stderr == ""


def test_an_offset_is_set_by_name_number_or_time_and_only_with_yes(site: Site, kafka: KafkaBroker) -> None:
    now = time.time()
    for age in (300, 200, 100):
        kafka.produce(site.topic, [b"{}"], partition=2, timestamp_ms=int((now - age) * 1000))
    config = site.write_config()

    def set_to(to: str, *more: str) -> int | None:
        done = offsets(config, "--partition", "2", "--to", to, *more)
        assert done.returncode == 0, done.stderr
        return kafka.committed(site.group, site.topic).get(2)

    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 250))
    assert set_to("latest") is None
    assert (
        "would set partition 2 to offset 3; do it with --yes"
        in offsets(config, "--partition", "2", "--to", "latest").stdout
    )
    assert set_to("latest", "--yes") == 3
    assert set_to("earliest", "--yes") == 0
    assert set_to("2", "--yes") == 2
    assert set_to(moment, "--yes") == 1
    assert set_to("2099-01-01T00:00:00+01:00", "--yes") == 3
    assert set_to("1970-01-01T00:00:00Z", "--yes") == 0
    assert kafka.committed(site.group, site.topic) == {2: 0}


@pytest.mark.parametrize(
    ("partition", "to", "words"),
    [
        ("2", "yesterday", "neither earliest, latest, an offset nor a time"),
        ("2", "2026-01-31T12:00:00", "a time looks like"),
        ("2", "2026-01-31", "a time looks like"),
        ("2", "-1", "neither earliest"),
        ("2", "1", "not between 0 and 0"),
        ("2", "9" * 5000, "not between 0 and 0"),
        ("9", "latest", "no partition 9"),
        ("-1", "latest", "no partition -1"),
    ],
)
def test_a_wrong_offset_is_wrong_usage(site: Site, partition: str, to: str, words: str) -> None:
    done = offsets(site.write_config(), f"--partition={partition}", f"--to={to}", "--yes")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_offset_is_set_under_active_members(site: Site) -> None:
    with site.daemon():
        site.upload("x", b"abc")
        site.wait_settled()
        before = site.kafka.committed(site.group, site.topic)
        for more in ([], ["--yes"]):
            done = offsets(site.write_config(), "--partition", "0", "--to", "earliest", *more)
            assert done.returncode == 69
            assert "has 1 active members: stop all instances first" in done.stderr
        assert site.kafka.committed(site.group, site.topic) == before


def test_offsets_without_kafka_or_topic_are_not_available(site: Site) -> None:
    [port] = free_ports(1)
    for change, why in (
        ({"servers": [f"127.0.0.1:{port}"]}, "Connect call failed"),
        ({"topic": "nobody-made-this"}, "nobody-made-this"),
    ):
        done = offsets(site.write_config(kafka=change))
        assert done.returncode == 69
        assert "dcalqr: Kafka is not available: " in done.stderr
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1


# --- secrets ------------------------------------------------------------------------------------------------------


def test_no_secret_appears_in_any_output(site: Site, kafka_sasl: KafkaBroker) -> None:
    password = site.folder / "password"
    password.write_text("canary-in-password-file\n")
    key = site.pki.proxy.read_text().partition("PRIVATE KEY-----\n")[2].splitlines()[1]
    proxy = site.folder / "proxy"
    proxy.write_text(site.pki.proxy.read_text())
    sasl = {
        "servers": [kafka_sasl.bootstrap],
        "security": "sasl_plaintext",
        "saslmechanism": "PLAIN",
        "sasluser": "alice",
        "saslpasswordfile": str(password),
    }
    config = site.write_config(kafka=sasl, local={"proxy": str(proxy)})
    broken = site.write_config(
        "broken.toml",
        dcache={"url": "https://user:canary-in-url@door/"},
        kafka={"saslpassword": "canary-in-key", "servers": ["user:canary-in-server@kafka:9092"]},
    )
    said = []
    for path in (config, broken):
        for command in (["check"], ["check", "--online"], ["offsets"], ["status"], ["replay"], ["replay", "--dry-run"]):
            done = dcalqr_command(*command, "--config", path)
            assert done.returncode != 1, done.stderr
            said.append(done.stdout + done.stderr)
    with site.daemon(config) as daemon:
        daemon.wait_for("KAFKA_UNAVAILABLE")
    said.append(daemon.log_path.read_text())
    with site.daemon(site.write_config("good.toml", local={"proxy": str(proxy)})) as daemon:
        site.door.faults.add(Fault("door", redirect="https://u:canary-in-redirect@localhost:1/x?authz=canary-token"))
        site.upload("x", b"abc")
        daemon.wait_for("COPY_RETRY")
        proxy.write_text(site.pki.proxy.read_text()[:-200])  # torn: somebody may quote what cannot be parsed
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("RELOAD")
    said.append(daemon.log_path.read_text())
    said += [path.read_text() for path in site.folder.rglob("*") if path.suffix in (".csv", ".jsonl", ".json")]
    everything = "\n".join(said)
    assert "sasl" in everything.lower()
    assert f"{FOLDER}/x" in everything
    assert "canary" not in everything
    assert key not in everything
