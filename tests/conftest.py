"""The servers that tests share, each started when the first test asks for it and stopped at the end of the run."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from dcalqr.testing.pki import Pki, make_pki
from tests.support.kafka import KafkaBroker
from tests.support.kafka_properties import Mode
from tests.support.process import MissingComponent
from tests.support.rig import Rig
from tests.support.site import Site
from tests.support.xrootd import XrootdServer

# A site's own settings would make OpenSSL trust what a test says nobody trusts.
for _name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True)
def _put_logging_back() -> Iterator[None]:
    """No test hears where another sent the log: some configure it, and `log.configure` is for the whole process."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", "dcalqr", "httpx", "httpcore")}
    handlers = list(root.handlers)
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A throw-away authority with hosts, users and proxies, good and bad. Do not change it: all tests share it."""
    return make_pki(tmp_path_factory.mktemp("shared") / "pki")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker without security. Who stops or hangs it starts one of his own."""
    yield from _broker(tmp_path_factory.mktemp("kafka"), "plain")


@pytest.fixture(scope="session")
def kafka_sasl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that wants user and password."""
    yield from _broker(tmp_path_factory.mktemp("kafka-sasl"), "sasl")


@pytest.fixture(scope="session")
def kafka_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that wants a certificate."""
    yield from _broker(tmp_path_factory.mktemp("kafka-tls"), "tls")


def _broker(folder: Path, mode: Mode) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(folder, mode)
    try:
        broker.start()
    except MissingComponent as missing:
        pytest.fail(str(missing), pytrace=False)
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def topic(kafka: KafkaBroker) -> str:
    """A fresh topic of four partitions."""
    name = f"billing-{uuid.uuid4().hex[:12]}"
    kafka.create_topic(name, 4)
    return name


@pytest.fixture
def group() -> str:
    """A consumer group that nobody has used."""
    return f"dcalqr-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def xrootd(pki: Pki) -> Iterator[XrootdServer]:
    """An XRootD that serves the users of `pki`."""
    # Not below tmp_path: its folders are closed to the user that XRootD runs as, and their names too long for sockets.
    folder = Path(tempfile.mkdtemp(prefix="xrootd-"))
    server = XrootdServer(folder, pki)
    try:
        server.start()
        yield server
    except MissingComponent as missing:
        pytest.fail(str(missing), pytrace=False)
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def site(tmp_path: Path, kafka: KafkaBroker, topic: str, group: str, pki: Pki) -> Iterator[Site]:
    """Door, topic and download folder of one test."""
    made = Site(tmp_path, kafka, topic, group, pki)
    yield made
    made.close()


@pytest.fixture
async def rig(tmp_path: Path, pki: Pki) -> AsyncIterator[Rig]:
    """Everything of an instance but Kafka, in the test's own process."""
    made = Rig(tmp_path, pki)
    yield made
    await asyncio.to_thread(made.close)
