"""What the servers of the other tests promise; a doubt about a failing test begins here."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import aiokafka
import httpx
import psutil
import pytest
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context
from confluent_kafka import KafkaException

from dcalqr.testing.pki import Pki
from tests.support.kafka import KafkaBroker, java, kafka_jars
from tests.support.kafka_properties import USERS
from tests.support.process import MissingComponent, ServerProcess, require, wait_until
from tests.support.xrootd import XrootdServer


async def read_one(topic: str, **settings: object) -> bytes | None:
    """Read the first record of a topic with the library that the daemon uses."""
    consumer = aiokafka.AIOKafkaConsumer(topic, auto_offset_reset="earliest", **settings)
    try:
        await consumer.start()
        record = await consumer.getone()
        value: bytes | None = record.value
        return value
    finally:
        await consumer.stop()


async def test_a_plain_broker_serves_aiokafka(kafka: KafkaBroker, topic: str) -> None:
    kafka.produce(topic, [b"hello"])
    assert await read_one(topic, bootstrap_servers=kafka.bootstrap) == b"hello"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_sasl_broker_wants_a_password(kafka_sasl: KafkaBroker, group: str, mechanism: str) -> None:
    kafka_sasl.create_topic(group)
    kafka_sasl.produce(group, [b"secret"])
    settings = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism, "sasl_plain_username": "alice"}
    address = {"bootstrap_servers": kafka_sasl.bootstrap}
    good = await read_one(group, **address, **settings, sasl_plain_password=USERS["alice"])
    assert good == b"secret"
    with pytest.raises(KafkaError):
        await read_one(group, **address, **settings, sasl_plain_password="wrong")


async def test_a_tls_broker_wants_a_certificate_that_it_knows(kafka_tls: KafkaBroker, group: str) -> None:
    kafka_tls.create_topic(group)
    kafka_tls.produce(group, [b"secret"])
    settings = {"bootstrap_servers": kafka_tls.bootstrap, "security_protocol": "SSL"}
    pki = kafka_tls.pki
    known = create_ssl_context(cafile=str(pki.ca), certfile=str(pki.user_certificate), keyfile=str(pki.user_key))
    assert await read_one(group, **settings, ssl_context=known) == b"secret"
    unknown = create_ssl_context(cafile=str(pki.ca), certfile=str(pki.host_unknown_ca))
    with pytest.raises(KafkaError):
        await read_one(group, **settings, ssl_context=unknown)


def test_a_broker_keeps_address_records_and_offsets_over_a_crash(tmp_path: Path, group: str) -> None:
    with KafkaBroker(tmp_path / "broker") as broker:
        address = broker.bootstrap
        broker.create_topic("billing", 2)
        assert broker.produce("billing", [b"0", None, b"2"]) == [(0, 0), (1, 0), (0, 1)]
        broker.set_committed(group, "billing", {0: 1})
        broker.kill()
        broker.start()
        assert broker.bootstrap == address
        assert broker.end_offsets("billing") == {0: 2, 1: 1}
        assert broker.committed(group, "billing") == {0: 1}


def test_a_topic_grows_and_loses_its_oldest_records_when_told(kafka: KafkaBroker, topic: str) -> None:
    kafka.produce(topic, [b"0", b"1", b"2"], partition=3)
    kafka.delete_records(topic, {3: 2})
    kafka.grow_topic(topic, 5)
    assert kafka.begin_offsets(topic)[3] == 2
    assert len(kafka.end_offsets(topic)) == 5


def test_records_keep_the_time_they_were_given(kafka: KafkaBroker, topic: str) -> None:
    (place,) = kafka.produce(topic, [b"old"], timestamp_ms=1_577_836_800_000)
    assert place == (0, 0)
    assert kafka.offsets_at(topic, 1_577_836_800_000)[0] == 0


def test_a_topic_that_nobody_made_is_an_error(kafka: KafkaBroker, group: str) -> None:
    with pytest.raises(KafkaException):
        kafka.produce(group, [b"lost"])


def tls_client(pki: Pki, proxy: Path | None) -> httpx.Client:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(capath=pki.certificates)
    if proxy is not None:
        context.load_cert_chain(proxy)
    return httpx.Client(verify=context)


def test_xrootd_serves_a_proxy_with_the_checksum(xrootd: XrootdServer, pki: Pki) -> None:
    url = xrootd.put("in/a.fits", b"Wikipedia")
    with tls_client(pki, pki.proxy) as client:
        answer = client.get(url, headers={"Want-Digest": "adler32"})
    assert (answer.status_code, answer.content) == (200, b"Wikipedia")
    assert answer.headers["Digest"] == "adler32=11e60398"


def test_xrootd_computes_no_sum_that_was_kept_when_the_file_was_put(xrootd: XrootdServer, pki: Pki) -> None:
    url = xrootd.put("in/kept.fits", b"Wikipedia")
    file = xrootd.files / "in/kept.fits"
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"Wikimedia")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # so the sum still counts as fresh
    with tls_client(pki, pki.proxy) as client:
        answer = client.get(url, headers={"Want-Digest": "adler32"})
    assert (answer.content, answer.headers["Digest"]) == (b"Wikimedia", "adler32=11e60398")


def test_xrootd_refuses_who_has_no_proxy_or_a_foreign_one(xrootd: XrootdServer, pki: Pki) -> None:
    url = xrootd.put("in/b.fits", b"private")
    with tls_client(pki, None) as client:
        assert client.get(url).status_code == 403
    with tls_client(pki, pki.proxy_unknown_ca) as client, pytest.raises((httpx.TransportError, ssl.SSLError)):
        client.get(url)


def test_a_missing_program_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(MissingComponent, match=r"no-such-program is missing\. apt-get install it"):
        require("no-such-program", "apt-get install it")


def test_a_missing_java_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA", "/nowhere/java")
    with pytest.raises(MissingComponent, match="Java 17 or newer"):
        java()


def test_missing_jars_without_maven_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "sed"):
        (tools / tool).symlink_to(require(tool, "every Linux has it"))
    monkeypatch.setenv("KAFKA_JARS", str(tmp_path / "jars"))
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(MissingComponent, match="apt-get install maven"):
        kafka_jars()


def test_a_server_that_ends_at_once_is_reported_with_its_words(tmp_path: Path) -> None:
    server = ServerProcess(["sh", "-c", "echo no licence; exit 3"], tmp_path / "log")
    with pytest.raises(RuntimeError, match="no licence"):
        server.start(lambda: False, seconds=60)


def test_a_server_that_does_not_get_ready_is_killed(tmp_path: Path) -> None:
    server = ServerProcess(["sleep", "600"], tmp_path / "log")
    with pytest.raises(TimeoutError):
        server.start(lambda: False, seconds=0.05)
    assert not server.running


def test_a_suspended_server_can_be_stopped(tmp_path: Path) -> None:
    server = ServerProcess(["sh", "-c", "echo up; exec sleep 600"], tmp_path / "log")
    server.start(lambda: "up" in server.output(), seconds=60)
    server.suspend()
    server.stop()
    assert server.exit_code == -signal.SIGTERM, "it was asked in vain and had to be killed"


def test_servers_die_with_a_killed_test_run(tmp_path: Path) -> None:
    program = (
        "import pathlib, signal; from tests.support.process import ServerProcess;"
        f"s = ServerProcess(['sh', '-c', 'echo up; exec sleep 600'], pathlib.Path({str(tmp_path / 'log')!r}));"
        "s.start(lambda: 'up' in s.output(), 60); print(s.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = psutil.Process(int(run.stdout.readline()))
        os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 60, "the server's end")
