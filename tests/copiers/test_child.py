"""The worker process alone, over a socket of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dcalqr import __version__, errors
from dcalqr.copiers import child, wire
from dcalqr.orders import CopyOrder, Refused
from dcalqr.testing.door import Door, Fault
from dcalqr.testing.pki import Pki
from tests.support.attempts import SOON_SECONDS, order_of, trust_of
from tests.support.process import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
# What the daemon and all its workers may have is 150 MB.
MOST_RESIDENT_BYTES = 40 * 1024 * 1024


class Child:
    """A worker process, and the daemon's end of its socket."""

    def __init__(self, *arguments: str) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(SOON_SECONDS)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dcalqr.copiers.child", str(theirs.fileno()), *arguments],
                pass_fds=(theirs.fileno(),),
                cwd=REPOSITORY,
                stderr=subprocess.PIPE,
            )
        self._messages: wire.Messages[wire.Up] = wire.Messages(wire.Up)
        self._heard: list[wire.Up] = []

    def hear(self) -> wire.Up:
        while not self._heard:
            data = self.sock.recv(65536)
            assert data, "it has ended"
            self._heard += self._messages.feed(data)
        return self._heard.pop(0)

    def answer(self) -> wire.Answer:
        while not isinstance(message := self.hear(), wire.Answer):
            pass
        return message

    def give_root(self, folder: Path, number: int = 1) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        socket.send_fds(self.sock, [wire.encode(wire.Root(number))], [fd])
        os.close(fd)

    def ended(self) -> int:
        """Wait for its end; it has nothing to say on standard error."""
        _, said = self.process.communicate(timeout=SOON_SECONDS)
        assert said == b""
        return self.process.returncode


@pytest.fixture
def worker() -> Iterator[Child]:
    worker = Child(__version__)
    assert worker.hear() == wire.Ready()
    yield worker
    worker.sock.close()
    worker.process.kill()
    worker.process.communicate()


@pytest.fixture
def door(pki: Pki) -> Iterator[Door]:
    with Door(pki) as door:
        door.put("/f", b"x" * 100_000)
        yield door


def order(door: Door, **changes: Any) -> CopyOrder:
    return order_of(f"{door.url}/f", **changes)


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_a_worker_is_small(worker: Child, door: Door, pki: Pki, tmp_path: Path) -> None:
    worker.give_root(tmp_path)
    worker.sock.sendall(wire.encode(wire.Do(order(door), trust_of(pki))))
    assert worker.answer().landed is not None
    assert psutil.Process(worker.process.pid).memory_info().rss < MOST_RESIDENT_BYTES


def test_a_worker_loads_nothing_that_it_does_not_use() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, dcalqr.copiers.child; print(*sys.modules)"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    heavy = {"asyncio", "aiokafka", "pydantic", "structlog", "orjson", "dcalqr.config", "dcalqr.log"}
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize("arguments", [(), ("0.0.1",)], ids=["of a daemon that tells none", "another"])
def test_a_worker_does_not_work_for_a_daemon_of_another_version(arguments: tuple[str, ...]) -> None:
    worker = Child(*arguments)
    assert worker.ended() == wire.EXIT_OTHER_VERSION
    assert worker.sock.recv(1) == b""
    worker.sock.close()


def test_the_end_of_the_messages_is_the_end_of_the_worker(worker: Child) -> None:
    worker.sock.close()
    assert worker.ended() == 0


def test_the_end_of_the_messages_ends_attempts_and_removes_their_parts(
    worker: Child, door: Door, pki: Pki, tmp_path: Path
) -> None:
    door.faults.add(Fault("pool", stall_after=50_000))
    worker.give_root(tmp_path)
    worker.sock.sendall(wire.encode(wire.Do(order(door), trust_of(pki))))
    wait_until(lambda: bool(parts(tmp_path)), SOON_SECONDS, "the part")
    worker.sock.close()
    assert worker.ended() == 0
    assert not parts(tmp_path)


@pytest.mark.parametrize("kind", ["nonsense", "order without a folder", "folder without a descriptor", "folder 2"])
def test_a_worker_that_hears_nonsense_ends(worker: Child, door: Door, pki: Pki, tmp_path: Path, kind: str) -> None:
    if kind == "folder 2":
        worker.give_root(tmp_path, number=2)
    else:
        worker.sock.sendall(
            {
                "nonsense": b"GET / HTTP/1.1\r\n\r\n",
                "order without a folder": wire.encode(wire.Do(order(door), trust_of(pki))),
                "folder without a descriptor": wire.encode(wire.Root(1)),
            }[kind]
        )
    assert worker.ended() == child.EXIT_BROKEN


def test_a_folder_arrives_with_its_own_descriptor_however_the_stream_is_cut(
    worker: Child, door: Door, pki: Pki, tmp_path: Path
) -> None:
    trust = trust_of(pki)
    folders = [tmp_path / str(number) for number in range(20)]
    for number, folder in enumerate(folders, start=1):
        folder.mkdir()
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        message = wire.encode(wire.Root(number))
        cut = number % len(message) or 1
        socket.send_fds(worker.sock, [message[:cut]], [fd])
        os.close(fd)
        told = order(door)
        stream = message[cut:] + wire.encode(wire.Do(told, trust if number == 1 else None))
        for byte in range(0, len(stream), 97):
            worker.sock.sendall(stream[byte : byte + 97])
    for _ in folders:
        assert worker.answer().landed is not None
    assert [[path.name for path in folder.rglob("*") if path.is_file()] for folder in folders] == [["f.fits"]] * 20


def test_progress_is_told_while_it_is_made_and_what_is_left_with_the_answer(
    worker: Child, door: Door, pki: Pki, tmp_path: Path
) -> None:
    door.faults.add(Fault("pool", stall_after=50_000))
    worker.give_root(tmp_path)
    worker.sock.sendall(wire.encode(wire.Do(given := order(door), trust_of(pki))))
    phases: list[str] = []
    while phases[-1:] != ["body"]:
        message = worker.hear()
        assert isinstance(message, wire.Told)
        for report in message.reports:
            assert report.order_id == given.order_id
            phases += report.phases
    door.calm()
    answer = worker.answer()
    assert [*phases, *answer.report.phases] == ["door_wait", "connect", "first_byte", "body", "sync", "publish"]
    assert answer.report.received_bytes == 100_000


def test_a_stop_ends_the_attempt_and_one_that_comes_too_late_is_harmless(
    worker: Child, door: Door, pki: Pki, tmp_path: Path
) -> None:
    door.faults.add(Fault("pool", stall_after=50_000))
    worker.give_root(tmp_path)
    given = order(door)
    worker.sock.sendall(wire.encode(wire.Do(given, trust_of(pki))))
    wait_until(lambda: bool(parts(tmp_path)), SOON_SECONDS, "the part")
    for _ in range(2):
        worker.sock.sendall(wire.encode(wire.End(given.order_id)))
    assert worker.answer().refused == Refused("Cancelled", {})
    worker.sock.sendall(wire.encode(wire.End(given.order_id)))
    door.calm()
    worker.sock.sendall(wire.encode(wire.Do(order(door), None)))
    assert worker.answer().landed is not None


def test_a_mistake_in_an_attempt_is_told_with_the_place_where_it_happened(
    worker: Child, door: Door, pki: Pki, tmp_path: Path
) -> None:
    worker.give_root(tmp_path)
    worker.sock.sendall(wire.encode(wire.Do(order(door, directory=(b"nul\0",)), trust_of(pki))))
    refused = worker.answer().refused
    assert refused is not None
    error = refused.to_error()
    assert isinstance(error, errors.TaskRaised)
    assert "copy_once" in str(error.facts["traceback"])


def test_a_worker_gives_signs_of_life(worker: Child) -> None:
    began = time.monotonic()
    assert worker.hear() == wire.Told(())
    assert time.monotonic() - began < SOON_SECONDS
