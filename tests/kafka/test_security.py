from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from dcalqr import errors
from dcalqr.config import Kafka
from dcalqr.kafka import membership, settings
from tests.kafka.reading import numbers, running, section, until, until_all_committed
from tests.support.kafka import KafkaBroker
from tests.support.kafka_properties import USERS

pytestmark = pytest.mark.usefixtures("nothing_left", "quick")


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(USERS["alice"] + "\n")
    return path


def write(path: Path, text: str) -> None:
    path.write_text(text)


def sasl(broker: KafkaBroker, topic: str, password: Path, **changes: Any) -> Kafka:
    keys = {"security": "sasl_plaintext", "saslmechanism": "PLAIN", "sasluser": "alice"}
    return section(broker, topic, topic, **{**keys, "saslpasswordfile": str(password), **changes})


def tls(broker: KafkaBroker, topic: str, **changes: Any) -> Kafka:
    pki = broker.pki
    keys = {"cafile": str(pki.ca), "certfile": str(pki.user_certificate), "keyfile": str(pki.user_key)}
    return section(broker, topic, topic, security="ssl", **{**keys, **changes})


# --- TLS ----------------------------------------------------------------------------------------------------------


async def test_a_certificate_opens_the_door(kafka_tls: KafkaBroker, group: str) -> None:
    kafka_tls.create_topic(group)
    kafka_tls.produce(group, numbers(8))
    async with running(tls(kafka_tls, group)) as run:
        await until_all_committed(kafka_tls, group, group)
    assert len(run.reader.values) == 8


async def test_a_certificate_of_an_unknown_authority_is_refused_and_the_complaint_says_so(
    kafka_tls: KafkaBroker, group: str
) -> None:
    kafka_tls.create_topic(group)
    stranger = str(kafka_tls.pki.host_unknown_ca)
    async with running(tls(kafka_tls, group, certfile=stranger, keyfile=stranger)) as run:
        await until(lambda: run.consumer.rebuilds >= 2, "two tries")
        trouble = run.consumer.trouble.lower()
    assert "alert" in trouble or "certificate" in trouble


async def test_no_certificate_at_all_is_refused_and_the_complaint_says_so(kafka_tls: KafkaBroker, group: str) -> None:
    kafka_tls.create_topic(group)
    async with running(tls(kafka_tls, group, certfile=None, keyfile=None)) as run:
        await until(lambda: run.consumer.rebuilds >= 2, "two tries")
        trouble = run.consumer.trouble.lower()
    assert "alert" in trouble or "certificate" in trouble


async def test_a_broker_of_an_unknown_authority_is_refused(kafka_tls: KafkaBroker, group: str) -> None:
    kafka_tls.create_topic(group)
    async with running(tls(kafka_tls, group, cafile=str(kafka_tls.pki.unknown_ca))) as run:
        await until(lambda: run.consumer.rebuilds >= 2, "two tries")
        assert "CERTIFICATE_VERIFY_FAILED" in run.consumer.trouble


async def test_a_certificate_that_is_missing_now_is_waited_for(
    kafka_tls: KafkaBroker, group: str, tmp_path: Path
) -> None:
    kafka_tls.create_topic(group)
    kafka_tls.produce(group, numbers(8))
    late, content = tmp_path / "late.pem", kafka_tls.pki.user_certificate.read_bytes()
    async with running(tls(kafka_tls, group, certfile=str(late))) as run:
        await until(lambda: run.consumer.rebuilds >= 2, "two tries")
        assert str(late) in run.consumer.trouble
        late.write_bytes(content)
        await until_all_committed(kafka_tls, group, group)


# --- SASL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_opens_the_door(kafka_sasl: KafkaBroker, group: str, password: Path, mechanism: str) -> None:
    kafka_sasl.create_topic(group)
    kafka_sasl.produce(group, numbers(8))
    async with running(sasl(kafka_sasl, group, password, saslmechanism=mechanism)) as run:
        await until_all_committed(kafka_sasl, group, group)
    assert len(run.reader.values) == 8


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_named_tried_slowly_and_taken_when_it_is_mended(
    kafka_sasl: KafkaBroker, group: str, password: Path, mechanism: str
) -> None:
    kafka_sasl.create_topic(group)
    kafka_sasl.produce(group, numbers(8))
    write(password, "canary-secret")
    with structlog.testing.capture_logs() as logs:
        async with running(sasl(kafka_sasl, group, password, saslmechanism=mechanism)) as run:
            await until(lambda: run.consumer.rebuilds >= 2, "two tries")
            assert "uthentication" in run.consumer.trouble
            write(password, USERS["alice"])
            await until_all_committed(kafka_sasl, group, group)
            assert run.consumer.trouble == ""
    assert [line["event"] for line in logs].count("KAFKA_UNAVAILABLE") == 1
    assert "canary-secret" not in str(logs)


async def test_new_credentials_are_used_and_bad_ones_do_not_cost_the_membership(
    kafka_sasl: KafkaBroker, group: str, password: Path, tmp_path: Path
) -> None:
    kafka_sasl.create_topic(group)
    good = sasl(kafka_sasl, group, password)
    async with running(good) as run:
        await run.reads(4)
        before = run.consumer.membership
        bad = tmp_path / "bad"
        write(bad, "wrong")
        with structlog.testing.capture_logs() as logs:
            run.consumer.renew(good.model_copy(update={"saslpasswordfile": bad}))
            await until(lambda: any(line["event"] == "KAFKA_CREDENTIALS" for line in logs), "it is said")
        assert run.consumer.membership is before
        kafka_sasl.produce(group, numbers(8))
        await until_all_committed(kafka_sasl, group, group)
        bob = tmp_path / "bob"
        write(bob, USERS["bob"])
        run.consumer.renew(good.model_copy(update={"sasluser": "bob", "saslpasswordfile": bob}))
        await until(lambda: run.consumer.membership not in (before, None), "it joins anew")
        await run.reads(4)
        assert run.consumer._kafka.sasluser == "bob"
        kafka_sasl.produce(group, numbers(8, 8))
        await until_all_committed(kafka_sasl, group, group)


# --- permissions --------------------------------------------------------------------------------------------------


@contextmanager
def denied(broker: KafkaBroker, kind: ResourceType, name: str, operation: AclOperation) -> Iterator[None]:
    """Take a permission from alice, for a while."""
    place = (kind, name, ResourcePatternType.LITERAL, "User:alice", "*", operation, AclPermissionType.DENY)
    admin = broker.new_admin()
    for future in admin.create_acls([AclBinding(*place)]).values():
        future.result(30)
    try:
        yield
    finally:
        for deleted in admin.delete_acls([AclBindingFilter(*place)]).values():
            deleted.result(30)


def allow_all(broker: KafkaBroker, kind: ResourceType, name: str) -> None:
    """Allow what a first ACL would forbid."""
    place = (kind, name, ResourcePatternType.LITERAL, "User:*", "*", AclOperation.ALL, AclPermissionType.ALLOW)
    admin = broker.new_admin()
    for future in admin.create_acls([AclBinding(*place)]).values():
        future.result(30)


@pytest.mark.parametrize(
    ("kind", "operation", "words"),
    [
        (ResourceType.TOPIC, AclOperation.READ, "TopicAuthorizationFailed"),
        (ResourceType.TOPIC, AclOperation.ALL, "may not be read"),
        (ResourceType.GROUP, AclOperation.READ, "GroupAuthorizationFailed"),
    ],
)
async def test_a_permission_withdrawn_at_run_time_is_named_and_recovers_when_granted_again(
    kafka_sasl: KafkaBroker,
    group: str,
    password: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: ResourceType,
    operation: AclOperation,
    words: str,
) -> None:
    # When the metadata tell before a fetch does, the topic has just vanished.
    monkeypatch.setattr(membership, "SILENCE_SECONDS", 2.5)
    kafka_sasl.create_topic(group)
    allow_all(kafka_sasl, kind, group)
    with structlog.testing.capture_logs() as logs:
        async with running(sasl(kafka_sasl, group, password)) as run:
            await run.reads(4)
            with denied(kafka_sasl, kind, group, operation):
                await until(lambda: words in run.consumer.trouble, f"{words}; {run.consumer.trouble}")
                connected = [line["event"] for line in logs].count("CONNECTED")
                before = run.consumer.rebuilds
                await until(lambda: run.consumer.rebuilds >= before + 2, "two tries")
                assert [line["event"] for line in logs].count("CONNECTED") == connected
                assert "uthorization" in run.consumer.trouble or words in run.consumer.trouble
                kafka_sasl.produce(group, numbers(8))
            await until_all_committed(kafka_sasl, group, group)
            await until(lambda: run.consumer.trouble == "", "all is well")
    assert set(run.reader.values) == set(numbers(8))
    assert [line["event"] for line in logs].count("KAFKA_UNAVAILABLE") == 1


# --- settings -----------------------------------------------------------------------------------------------------


def test_a_password_loses_its_line_end_and_nothing_else(kafka_sasl: KafkaBroker, password: Path) -> None:
    password.write_bytes(b" pass word \r\n")
    kafka = sasl(kafka_sasl, "billing", password)
    assert settings.connection(kafka)["sasl_plain_password"] == " pass word "
    password.unlink()
    with pytest.raises(errors.NoPermission, match="the password cannot be read"):
        settings.connection(kafka)


def test_the_last_complaint_explains_and_is_forgotten_afterwards() -> None:
    with settings.LastComplaint() as complaint:
        logging.getLogger("aiokafka.conn").warning("no %s", "login")
    logging.getLogger("aiokafka.conn").warning("later")
    assert complaint.explain(OSError("Unable to bootstrap")) == "Unable to bootstrap (no login)"
    assert complaint.explain(TimeoutError()) == "TimeoutError (no login)"
