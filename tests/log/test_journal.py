"""Lines for systemd's journal, at the other end of its native protocol."""

from __future__ import annotations

import io
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import BinaryIO

import pytest

from dcalqr import log
from dcalqr.log import journal


class Receiver:
    """The journal's end."""

    def __init__(self, folder: str) -> None:
        self.address = f"{folder}/socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(30)

    def receive(self) -> dict[str, bytes]:
        data, fields = self._socket.recv(1 << 20), dict[str, bytes]()
        while data:
            head, _, data = data.partition(b"\n")
            name, equals, value = head.partition(b"=")
            if not equals:
                size = int.from_bytes(data[:8], "little")
                value, data = data[8 : 8 + size], data[8 + size + 1 :]
            fields[name.decode()] = value
        return fields

    def close(self) -> None:
        self._socket.close()


class Kept:
    """Keeps the lines that the journal did not take."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.fields: Mapping[str, object] = {}

    def write(self, text: bytes, line: Mapping[str, object]) -> None:
        self.lines.append(text)
        self.fields = line


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's name has at most 107 bytes
        made = Receiver(folder)
        yield made
        made.close()


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with journal.new_socket() as made:
        yield made


def test_each_field_of_a_line_is_a_field_of_the_journal(receiver: Receiver, sender: socket.socket) -> None:
    fields = {"level": "warning", "event": "COPY_RETRY", "uuid": "u1", "partition": 3, "offset": None, "applied": ["a"]}
    journal.JournalLines(sender, Kept(), receiver.address).write(b'{"event":"COPY_RETRY"}', fields)
    assert receiver.receive() == {
        "MESSAGE": b'{"event":"COPY_RETRY"}',
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"dcalqr",
        "DCALQR_LEVEL": b"warning",
        "DCALQR_EVENT": b"COPY_RETRY",
        "DCALQR_UUID": b"u1",
        "DCALQR_PARTITION": b"3",
        "DCALQR_APPLIED": b'["a"]',
    }


def test_a_value_with_lines_forges_no_field(receiver: Receiver, sender: socket.socket) -> None:
    fields = {"level": "error", "exception": "first\nPRIORITY=0\nlast", "odd name": "x", "n" * 80: "x"}
    journal.JournalLines(sender, Kept(), receiver.address).write(b"line", fields)
    found = receiver.receive()
    assert found["PRIORITY"] == b"3"
    assert found["DCALQR_EXCEPTION"] == b"first\nPRIORITY=0\nlast"
    assert set(found) == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "DCALQR_LEVEL", "DCALQR_EXCEPTION"}


def test_a_line_that_the_journal_does_not_take_is_written_as_ever(tmp_path: Path, sender: socket.socket) -> None:
    kept = Kept()
    journal.JournalLines(sender, kept, str(tmp_path / "nobody")).write(b"line", {"level": "info"})
    assert kept.lines == [b"line"]


def test_a_renderer_may_take_the_line_apart_and_its_fields_stay() -> None:
    def render(_logger: object, _method: str, line: MutableMapping[str, object]) -> bytes:
        return json.dumps(line.pop("event")).encode()

    kept = Kept()
    log.set_level("info")
    log._Chain(render, kept)(None, "info", {"event": "START", "pid": 1})
    assert kept.lines == [b'"START"']
    assert kept.fields.items() >= {"event": "START", "pid": 1}.items()


def test_the_stream_is_compared_with_what_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "x").open("wb") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert journal.leads_there(stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not journal.leads_there(stream)
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not journal.leads_there(stream)
    nothing: BinaryIO = io.BytesIO()
    assert not journal.leads_there(nothing)
