"""The configuration of a test's Kafka broker, per mode."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["plain", "sasl", "tls"]

USERS = {"alice": "alice-secret", "bob": "bob-secret"}
SCRAM_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")

_PROTOCOL = {"plain": "PLAINTEXT", "sasl": "SASL_PLAINTEXT", "tls": "SSL"}
_SECURITY = "org.apache.kafka.common.security"

# Each line is what makes one broker on one machine behave, or a test short.
_COMMON = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",  # a topic that nobody made is an error, as in production
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",  # by default a group's first member waits 3 s for others
    "group.min.session.timeout.ms": "1000",  # 6 s by default; tests of a lost member are to be short
    "broker.session.timeout.ms": "2000",  # after a crash the broker waits for its own old session: 9 s by default
    "broker.heartbeat.interval.ms": "500",
    "log.initial.task.delay.ms": "1000",  # retention: first after 30 s, then every 5 minutes by default
    "log.retention.check.interval.ms": "2000",
    "log.retention.ms": "-1",  # by the records' own times: the samples of a test are older than any retention
    "log.cleaner.dedupe.buffer.size": "4194304",  # 128 MiB by default, half of the heap
}


def broker_properties(mode: Mode, folder: Path, ports: tuple[int, int, int]) -> dict[str, str]:
    """All properties of a broker.

    Parameters
    ----------
    mode
        What its clients meet: nothing, SASL over plain TCP, or mutual TLS.
    folder
        Where its data go and, for TLS, its `broker.pem` (key, then certificate) and `pki/ca.pem` are.
    ports
        Of the clients, of the administrator (unused in plain mode), and of the controller.
    """
    clients, admin, controller = ports
    listeners = [f"CLIENTS://127.0.0.1:{clients}"]
    protocols = [f"CLIENTS:{_PROTOCOL[mode]}", "CONTROLLER:PLAINTEXT"]
    if mode != "plain":
        listeners.append(f"ADMIN://127.0.0.1:{admin}")
        protocols.append("ADMIN:PLAINTEXT")
    return {
        **_COMMON,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{controller}"]),
        "advertised.listeners": ",".join(listeners),
        "inter.broker.listener.name": "CLIENTS" if mode == "plain" else "ADMIN",
        "listener.security.protocol.map": ",".join(protocols),
        "log.dirs": str(folder / "data"),
        **_security(mode, folder),
    }


def _security(mode: Mode, folder: Path) -> dict[str, str]:
    if mode == "plain":
        return {}
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",  # a test that wants a refusal makes the first ACL
        "super.users": "User:ANONYMOUS",  # who comes by the administrator's listener
    }
    return authorizer | (_sasl() if mode == "sasl" else _tls(folder))


def _sasl() -> dict[str, str]:
    plain_users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
    return {
        "sasl.enabled.mechanisms": ",".join(["PLAIN", *SCRAM_MECHANISMS]),
        "listener.name.clients.plain.sasl.jaas.config": f"{_SECURITY}.plain.PlainLoginModule required {plain_users};",
        **{
            f"listener.name.clients.{mechanism.lower()}.sasl.jaas.config": (
                f"{_SECURITY}.scram.ScramLoginModule required;"
            )
            for mechanism in SCRAM_MECHANISMS
        },
    }


def _tls(folder: Path) -> dict[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "pki" / "ca.pem"),
        "listener.name.clients.ssl.client.auth": "required",
    }


def format_options(mode: Mode) -> list[str]:
    """What the formatter of a new broker must be told: the SCRAM users live in the metadata, not in the properties."""
    if mode != "sasl":
        return []
    return [
        f"--add-scram={mechanism}=[name={name},password={password}]"
        for name, password in USERS.items()
        for mechanism in SCRAM_MECHANISMS
    ]
