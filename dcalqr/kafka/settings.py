"""How we connect to Kafka: the same for the consumer, and for the commands that look at groups and offsets."""

from __future__ import annotations

import logging
import ssl
from typing import Any, Self

from aiokafka.errors import KafkaConnectionError

from dcalqr import errors
from dcalqr.config import Kafka

# aiokafka uses the request time-out for JoinGroup too, so it exceeds the rebalance time-out; we watch our own progress,
# so max.poll.interval never ends a membership.
SESSION_SECONDS = 15.0
HEARTBEAT_SECONDS = 3.0
REBALANCE_SECONDS = 15.0
REQUEST_SECONDS = 20.0
POLL_INTERVAL_SECONDS = 24 * 3600.0
METADATA_SECONDS = 60.0
# An answer is copied three times before its records are read. With blocks that stay in the processor's cache a record
# costs a third less than with 1 MiB a partition, and no answer keeps the event loop for more than a few milliseconds.
FETCH_BYTES = 2 * 1024 * 1024
PARTITION_FETCH_BYTES = 256 * 1024


def connection(kafka: Kafka) -> dict[str, Any]:
    """Return aiokafka's arguments for reaching the brokers; reads the files that are named, each time anew.

    Raises
    ------
    NoPermission
        A certificate, key or password file cannot be read.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": list(kafka.servers),
        "security_protocol": kafka.security.upper(),
        "request_timeout_ms": int(REQUEST_SECONDS * 1000),
        "metadata_max_age_ms": int(METADATA_SECONDS * 1000),
        "client_id": "dcalqr",
    }
    if "ssl" in kafka.security:
        arguments["ssl_context"] = _context(kafka)
    if "sasl" in kafka.security:
        arguments |= {
            "sasl_mechanism": kafka.saslmechanism,
            "sasl_plain_username": kafka.sasluser,
            "sasl_plain_password": _password(str(kafka.saslpasswordfile)),
        }
    return arguments


def _context(kafka: Kafka) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    path = str(kafka.cafile or "the system's CA certificates")
    try:
        if kafka.cafile is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=kafka.cafile)
        if kafka.certfile is not None:
            path = f"{kafka.certfile} with {kafka.keyfile}"
            context.load_cert_chain(kafka.certfile, kafka.keyfile)
    except OSError as error:
        raise errors.NoPermission(path=path, why=f"it cannot be loaded for Kafka: {error}") from error
    return context


def _password(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.NoPermission(path=path, why=f"the password cannot be read: {error}") from error


class LastComplaint(logging.Handler):
    """Remembers aiokafka's last complaint: a refused login is a bare "Unable to bootstrap" to its caller."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # A refused certificate is a bare "connection closed": the alert is in the error's cause.
        raised = [each for each in record.args or () if isinstance(each, BaseException)]
        causes = [str(error.__cause__) for error in raised if error.__cause__ is not None]
        self.text = ": ".join([text, *causes])

    def __enter__(self) -> Self:
        logging.getLogger("aiokafka").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("aiokafka").removeHandler(self)

    def explain(self, error: BaseException) -> str:
        """Return an error's text with the complaint behind it."""
        unreachable = isinstance(error, KafkaConnectionError)  # its own text is a list of Python tuples
        text = "no broker can be reached" if unreachable else str(error) or type(error).__name__
        return f"{text} ({self.text})" if self.text and self.text not in text else text
