from __future__ import annotations

import io
import itertools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcalqr import errors, log, logtext
from dcalqr.log import line
from dcalqr.log.line import line_of

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIcanary\n-----END RSA PRIVATE KEY-----"


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


class Lines:
    """What was written, as bytes and as parsed JSON."""

    def __init__(self, level: str = "info", format: str | None = "json") -> None:  # noqa: A002 -- as configure's
        self.stream = io.BytesIO()
        log.configure(level, format, self.stream)

    @property
    def raw(self) -> list[bytes]:
        return self.stream.getvalue().splitlines()

    @property
    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw]


def test_a_json_line_bears_time_level_event_and_fields() -> None:
    lines = Lines()
    log.get(uuid="u1").info("COPY_START", url="https://d/x", partition=0, offset=7, size_bytes=None, rate=1.5)
    (line,) = lines.parsed
    assert list(line)[:3] == ["time", "level", "event"]
    time = line.pop("time")
    assert len(time) == len("2026-01-31T12:00:00.000Z")
    assert time.endswith("Z")
    assert line == {
        "level": "info",
        "event": "COPY_START",
        "uuid": "u1",
        "url": "https://d/x",
        "partition": 0,
        "offset": 7,
        "size_bytes": None,
        "rate": 1.5,
    }


def test_a_console_line_is_readable_and_quotes_what_could_be_misread() -> None:
    lines = Lines(format="console")
    log.get().warning("HOLD", why="no space", path="/a=b", count=3, hosts=["p1"], quote='a"b')
    (line,) = (raw.decode() for raw in lines.raw)
    assert line[24:] == ' warning [HOLD] why="no space" path="/a=b" count=3 hosts=["p1"] quote="a\\"b"'


def test_the_format_follows_the_stream_unless_it_is_said() -> None:
    terminal, pipe = Terminal(), io.BytesIO()
    log.configure("info", None, terminal)
    log.get().error("COPY_FAILED")
    log.configure("info", None, pipe)
    log.get().error("COPY_FAILED")
    assert b"[COPY_FAILED]\x1b[0m" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "COPY_FAILED"


FORGERIES = ["\n", "\r", "\x1b[2J", "\x00", "\x7f", "\x85", "\x9b31m", "\u202e", "\u2066", "\u2028", "\u200f", "\udc80"]


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("forgery", FORGERIES, ids=[repr(each) for each in FORGERIES])
def test_a_name_cannot_forge_a_line_or_steer_a_terminal(format: str, forgery: str) -> None:  # noqa: A002 -- as above
    lines = Lines(format=format)
    name = f'x{forgery}2026-01-31T12:00:00.000Z info [COPY_OVER] path="/y"'
    log.get(path=name).info("UPLOAD", names=[name], facts={name: name}, sample=name.encode("utf-8", "surrogateescape"))
    (line,) = lines.stream.getvalue().split(b"\n")[:-1]
    text = line.decode()
    assert [char for char in text if logtext.escape(char) != char] == []
    if format == "json":
        assert all(logtext.escape(each) == each for each in [json.loads(text)["path"], *json.loads(text)["facts"]])


def test_fields_cannot_replace_time_level_or_event() -> None:
    lines = Lines()
    log.get().info("UPLOAD", level="fatal", time="never")
    (line,) = lines.parsed
    assert (line["level"], line["level_"], line["time_"]) == ("info", "fatal", "never")


def test_long_values_are_cut_with_a_mark_and_long_lists_are_short() -> None:
    lines = Lines()
    log.get().info("UPLOAD", path="a" * 5000, raw=b"\xff" * 100_000, subject=["x"] * 10_000, escapes="\x1b" * 2000)
    (line,) = lines.parsed
    assert line["path"] == "a" * 2048 + "...[cut, 5000 characters]"
    assert line["raw"].startswith(r"\xff\xff")
    assert line["raw"].endswith("...[cut, 100000 bytes]")
    assert len(line["escapes"]) < 2100
    assert len(line["subject"]) == 50


def test_values_of_every_kind_can_be_said() -> None:
    lines = Lines()
    log.get().info(
        "X", path=Path("/a\nb"), big=2**70, nan=float("nan"), error=errors.NoSpace(why="full"), raw=b"a\xff\n"
    )
    (line,) = lines.parsed
    assert line["path"] == r"/a\nb"
    assert line["big"] == str(2**70)
    assert line["nan"] is None
    assert line["raw"] == r"a\xff\n"


def test_an_error_is_its_class_its_message_and_its_facts() -> None:
    lines = Lines()
    log.get().warning("COPY_RETRY", error=errors.ServerError(host="door", http_status=503), host="mine")
    log.get().warning("COPY_RETRY", error=OSError(5, "Input/output error"))
    ours, foreign = lines.parsed
    assert (ours["error"], ours["message"]) == ("ServerError", "door answered HTTP 503")
    assert (ours["http_status"], ours["host"]) == (503, "mine")
    assert (foreign["error"], foreign["message"]) == ("OSError", "[Errno 5] Input/output error")


LOOKS_SECRET = [
    f"refused: {PEM}",
    "-----BEGIN PRIVATE KEY-----\ncanary",
    "https://pool/x?authz=canary&a=1",
    "https://pool/x?dcache-http-uuid=canary",
    "next=x%3Fauthz%3Dcanary",
    "https://me:canary@door/",
    "Authorization: Bearer canary.canary-canary",
]


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("value", LOOKS_SECRET)
def test_what_looks_like_a_secret_never_reaches_a_line(format: str, value: str) -> None:  # noqa: A002 -- as above
    lines = Lines(format=format)
    log.get().info("X", why=value, raw=value.encode(), nested={"why": [value]}, error=errors.TransientError(why=value))
    logging.getLogger("library").error("%s", value)
    assert len(lines.raw) == 2
    assert all(b"redacted" in line for line in lines.raw)
    assert b"canary" not in lines.stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("name", ["password", "sasl_password", "proxy_pem", "Authorization", "token", "Set-Cookie"])
def test_a_field_named_as_a_secret_never_shows_its_value(format: str, name: str) -> None:  # noqa: A002 -- as above
    lines = Lines(format=format)
    fields: dict[str, Any] = {name: "canary"}
    nested: Any = {name: ["canary"]}
    log.get().info("X", **fields, headers={name: b"canary"}, lists=nested)
    log.get().info(nested)
    assert lines.stream.getvalue().count(b"[redacted]") == 4
    assert b"canary" not in lines.stream.getvalue()


def test_the_place_of_a_secret_is_no_secret() -> None:
    lines = Lines()
    log.get().info("RELOAD", saslpasswordfile="/etc/pw", path="/data/a@b://c", url="https://d:1/x@2.fits")
    (line,) = lines.parsed
    assert line["saslpasswordfile"] == "/etc/pw"
    assert line["url"] == "https://d:1/x@2.fits"


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_is_shown_and_cannot_forge_a_line(format: str) -> None:  # noqa: A002 -- as above
    lines = Lines(format=format)
    error = ValueError(f"x\n2026-01-31T12:00:00.000Z info [COPY_OVER]\x1b[2J {PEM}")
    log.get().error("UNEXPECTED", exc_info=error)
    written = lines.stream.getvalue().decode()
    _, *others = written.splitlines()
    assert all(line.startswith("    | ") for line in others)
    assert bool(others) == (format == "console")
    assert "\x1b" not in written
    assert "canary" not in written
    assert "ValueError: x" in written


def test_an_exception_in_flight_is_shown_with_where_it_happened() -> None:
    lines = Lines()
    try:
        os.environ["DCALQR_ABSENT"]
    except KeyError:
        log.get().exception("UNEXPECTED")
    (line,) = lines.parsed
    assert line["level"] == "error"
    assert "test_an_exception_in_flight" in line["exception"]
    assert line["exception"].endswith("KeyError: 'DCALQR_ABSENT'")


def test_a_change_of_level_reaches_loggers_that_are_bound_already() -> None:
    lines = Lines(level="warning")
    logger = log.get(uuid="u1").bind(a=1)
    logger.info("HIDDEN")
    log.set_level("debug")
    logger.debug("SHOWN")
    assert [line["event"] for line in lines.parsed] == ["SHOWN"]


def test_a_logger_made_before_configuration_obeys_it() -> None:
    logger = log.get(uuid="u1")
    lines = Lines()
    logger.info("DRAIN")
    assert lines.parsed[0]["uuid"] == "u1"


def test_a_logger_that_was_used_obeys_a_later_configuration() -> None:
    logger = log.get(uuid="u1")
    before = Lines()
    logger.info("START")
    bound = logger.bind(a=1)
    later = Lines(format="console")
    logger.info("DRAIN")
    bound.info("STOPPED")
    assert [line["event"] for line in before.parsed] == ["START"]
    drain, stopped = later.raw
    assert drain.endswith(b"[DRAIN] uuid=u1")
    assert stopped.endswith(b"[STOPPED] uuid=u1 a=1")


def test_the_libraries_speak_through_the_same_chain() -> None:
    lines = Lines(level="debug")
    logging.getLogger("asyncio").error("Task %s\nfailed", "t1", exc_info=ValueError("why"))
    logging.getLogger("asyncio").debug("chatter")
    logging.getLogger("httpx").info("HTTP Request: GET")
    logging.getLogger("httpx").warning("odd %d")
    logging.getLogger("other").log(35, "between")
    task, odd, between = lines.parsed
    assert (task["event"], task["logger"], task["level"]) == ("LIBRARY", "asyncio", "error")
    assert task["message"] == r"Task t1\nfailed"
    assert task["exception"].endswith("ValueError: why")
    assert odd["message"] == "odd %d"
    assert (between["level"], between["message"]) == ("warning", "between")


def test_configuring_twice_does_not_double_the_libraries_lines() -> None:
    Lines()
    lines = Lines()
    logging.getLogger("aiokafka").error("gone")
    assert len(lines.raw) == 1


def test_an_outage_writes_two_lines_a_minute_per_template_and_counts_the_rest() -> None:
    now = [0.0]
    limit = log.RateLimit("aiokafka", clock=lambda: now[0])

    def passed(template: str, node: int, name: str = "aiokafka.client") -> logging.LogRecord | None:
        record = logging.LogRecord(name, logging.ERROR, "", 0, template, (node,), None)
        return record if limit.filter(record) else None

    first = [passed("Unable connect to node with id %s", node) for node in range(500)]
    assert [record is not None for record in first[:3]] == [True, True, False]
    assert sum(record is not None for record in first) == 2
    assert passed("Another %s", 1) is not None
    assert passed("Unable connect to node with id %s", 1, name="asyncio") is not None
    now[0] = 59.9
    assert passed("Unable connect to node with id %s", 1) is None
    now[0] = 60.0
    again = passed("Unable connect to node with id %s", 1)
    assert again is not None
    assert again.__dict__["suppressed"] == 499


def test_templates_that_bear_values_do_not_fill_the_memory() -> None:
    limit = log.RateLimit("aiokafka", clock=itertools.count().__next__)
    for number in range(3 * limit.TEMPLATES):
        limit.filter(logging.LogRecord("aiokafka", logging.ERROR, "", 0, f"node {number}", (), None))
    assert len(limit._seen) == limit.TEMPLATES


def test_the_limit_stands_in_the_way_of_aiokafka_and_says_how_much_it_held_back() -> None:
    lines = Lines()
    for _ in range(50):
        logging.getLogger("aiokafka.conn").error("lost")
        logging.getLogger("asyncio").error("other")
    assert [line["logger"] for line in lines.parsed].count("aiokafka.conn") == 2
    assert [line["logger"] for line in lines.parsed].count("asyncio") == 50


class Full(io.BytesIO):
    def write(self, _data: object) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_log_that_cannot_be_written_never_stops_the_work() -> None:
    closed = io.BytesIO()
    for stream in (Full(), closed):
        log.configure("info", "json", stream)
        if stream is closed:
            closed.close()
        log.get().error("HOLD")
        logging.getLogger("aiokafka").error("gone")


def test_importing_the_module_does_not_import_structlog() -> None:
    program = "import sys, dcalqr.log; sys.exit('structlog' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2]).returncode == 0


@given(st.text(st.sampled_from("aZ0/.-_ =@:%3DdB\x00\n\u202eé?&;authzbearer"), max_size=40))
def test_a_plain_text_is_shown_as_the_patterns_would_show_it(text: str) -> None:
    """Most texts never meet the patterns, because they cannot match."""
    assert logtext.show(text) == logtext.escape(logtext.redact(text))


@pytest.mark.parametrize(
    "secret", ["authz=canary", "AUTHZ%3dcanary", "Bearer canary", "https://canary@host/", PEM.replace("\n", " ")]
)
def test_no_secret_passes_for_a_plain_text(secret: str) -> None:
    assert "canary" not in logtext.show(secret)


_NAMES = ["path", "uuid", "time", "level", "token", "proxyfile", "error", "message", "exc_info"]
_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(st.sampled_from('aZ0/.-_ =@:%3D\\"\x00\n\x7f\u202eé\ud800'), max_size=20)
    | st.sampled_from(["x" * 2048, "x" * 2049, b"name", ["a"], {"token": "canary"}])
)


@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES))
def test_a_line_that_is_looked_at_as_a_whole_says_what_one_looked_at_value_by_value_says(
    fields: dict[str, Any],
) -> None:
    text = line_of("info", "UPLOAD", dict(fields))[1]
    said = json.loads(text)
    head = {"time": said["time"], "level": "info", "event": "UPLOAD"}
    assert said == orjson.loads(orjson.dumps(line._cleaned(head, line._explained(dict(fields)))))
    assert b"canary" not in text
