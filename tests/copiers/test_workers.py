from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

import dcalqr
from dcalqr import errors
from dcalqr.copiers import crew, workers
from dcalqr.copiers.crew import Worker
from dcalqr.copiers.workers import WorkersCopier
from dcalqr.local.state import State
from dcalqr.orders import Landed
from dcalqr.testing.door import Door
from dcalqr.testing.pki import Pki
from tests.contract.copier import DATA, PHASES, SLOTS, CopierContract, MakeCopier, Watch, World, until
from tests.support.attempts import SOON_SECONDS
from tests.support.disk import FaultyDisk


class Book:
    """A `PartsBook` over a real one that remembers what is open."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.open: list[tuple[bytes, ...]] = []

    def part_opened(self, directory: tuple[bytes, ...]) -> None:
        self._state.part_opened(directory)
        self.open.append(directory)

    def part_closed(self, directory: tuple[bytes, ...]) -> None:
        self._state.part_closed(directory)
        self.open.remove(directory)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    state = State(str(tmp_path / "state"))
    state.open()
    yield Book(state)
    state.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace lost workers soon."""
    monkeypatch.setattr(crew, "FIRST_WAIT_SECONDS", 0.02)


@pytest.mark.parametrize("count", [1, 2])
class TestWorkersCopier(CopierContract):
    @pytest.fixture
    def make(self, count: int, book: Book) -> MakeCopier:
        def made(slots: int, trust: Any, root_fd: Callable[[], int]) -> WorkersCopier:
            return WorkersCopier(count, slots, trust, root_fd, lambda: 1, book)

        return made


# --- what happens to workers ---------------------------------------------------------------------------------------


class Site(World):
    """A World whose copier has two workers, and whose download folder may be exchanged."""

    copier: WorkersCopier

    def __init__(self, folder: Path, door: Door, pki: Pki, book: Book, count: int) -> None:
        super().__init__(folder, door, pki)
        self.book, self.root_generation = book, 1
        self.copier = WorkersCopier(count, SLOTS, self.trust, lambda: self.root_fd, lambda: self.root_generation, book)

    @property
    def worker(self) -> Worker:
        """The one that has orders."""
        (found,) = set(self.copier._running.values())
        return found

    async def works(self) -> None:
        """See that an order lands, and that nothing else is left."""
        self.door.calm()
        landed = await self.copier.copy(self.order(), Watch())
        assert landed.adler32 == DATA.adler32
        assert self.parts() == []
        assert (self.copier.running, self.copier.stuck, self.book.open) == (0, 0, [])


@pytest.fixture
def served(pki: Pki) -> Iterator[Door]:
    with Door(pki) as door:
        door.put("/lsst/f.fits", DATA)
        door.put("/lsst/slow", DATA)
        yield door


@pytest.fixture
def count() -> int:
    return 2


async def site_in(folder: Path, served: Door, pki: Pki, book: Book, count: int) -> AsyncIterator[Site]:
    site = Site(folder, served, pki, book, count)
    yield site
    served.calm()
    pids = site.copier.pids
    await site.copier.aclose(SOON_SECONDS)
    assert not any(psutil.pid_exists(pid) for pid in pids), "no process and no zombie is left"
    site.close()


@pytest.fixture
async def site(tmp_path: Path, served: Door, pki: Pki, book: Book, count: int) -> AsyncIterator[Site]:
    async for made in site_in(tmp_path / "download", served, pki, book, count):
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    with FaultyDisk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
async def on_disk(disk: FaultyDisk, served: Door, pki: Pki, book: Book, count: int) -> AsyncIterator[Site]:
    async for made in site_in(disk.path / "download", served, pki, book, count):
        yield made
        disk.calm()


async def lost(task: asyncio.Task[Landed]) -> errors.WorkerLost:
    with pytest.raises(errors.WorkerLost) as caught:
        async with asyncio.timeout(SOON_SECONDS):
            await task
    return caught.value


@pytest.mark.parametrize("phase", PHASES)
async def test_a_worker_killed_in_any_phase_costs_its_orders_a_retry_and_nothing_else(site: Site, phase: str) -> None:
    task = await site.lingering(phase)
    before = site.worker.process.pid
    with structlog.testing.capture_logs() as logs:
        os.kill(before, signal.SIGKILL)
        error = await lost(task)
    assert "SIGKILL" in str(error)
    assert site.files() == []
    assert site.copier.running == 0
    (line,) = [line for line in logs if line["event"] == "WORKER"]
    assert (line["pid"], line["orders"]) == (before, 1)
    assert site.copier.deaths == 1
    await until(lambda: site.copier.alive == 2, "another worker is there")
    assert before not in site.copier.pids
    await site.works()


@pytest.mark.parametrize(("phase", "operation"), [("sync", "fsync"), ("publish", "link")])
async def test_a_worker_killed_while_it_syncs_or_publishes_leaves_no_part(
    on_disk: Site, disk: FaultyDisk, phase: str, operation: str
) -> None:
    watch = Watch()
    disk.hang(**{operation: "*"})
    task = on_disk.start("/lsst/slow", watch)
    await until(lambda: watch.phases[-1:] == [phase], f"phase {phase}")
    on_disk.worker.process._process.kill()
    disk.calm()  # what is inside the kernel ends first; only then does the process
    await lost(task)
    assert on_disk.parts() == []
    assert all(path.read_bytes() == bytes(DATA) for path in on_disk.files()), "a final name is whole or absent"
    await on_disk.works()


@pytest.mark.parametrize("count", [1])
async def test_a_worker_that_cannot_be_told_is_killed_and_its_orders_are_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.works()

    class Full:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def send(self, _: bytes) -> int:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    with monkeypatch.context() as patch:
        (worker,) = site.copier._crew._serving
        patch.setattr(worker.process, "_sock", Full(worker.process._sock))
        with pytest.raises(errors.WorkerLost, match="could not be told"):
            await site.copier.copy(site.order(), Watch())
    await site.works()


async def test_orders_of_other_workers_do_not_notice(site: Site) -> None:
    first = await site.lingering("body")
    victim = site.worker
    second = await site.lingering("body")
    others = set(site.copier._running.values()) - {victim}
    assert len(others) == 1, "the least loaded worker got the second order"
    os.kill(victim.process.pid, signal.SIGKILL)
    await lost(first)
    site.door.calm()
    assert (await second).adler32 == DATA.adler32


@pytest.mark.parametrize("count", [1])
async def test_a_cancel_is_bounded_although_the_worker_is_stopped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ANSWER_SECONDS", 0.2)
    task = await site.lingering("body")
    other = site.start("/lsst/slow")
    await until(lambda: site.copier.running == 2, "two orders")
    stopped = site.worker.process.pid
    os.kill(stopped, signal.SIGSTOP)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (site.copier.running, site.copier.stuck) == (1, 1)
    assert site.book.open == [(b"run",)], "the sweep knows of the part that may be there"
    await until(lambda: site.copier.alive == 1, "another worker is there")
    assert stopped in site.copier.pids, "it keeps its other order"
    assert stopped not in {worker.process.pid for worker in site.copier._crew._serving}
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    await until(lambda: not psutil.pid_exists(stopped), "it is killed when it has nothing left")
    await until(lambda: not site.parts() and not site.book.open, "its parts are removed")
    await site.works()


async def test_a_stopped_worker_that_nobody_cancels_is_killed_when_it_gives_no_sign_of_life(site: Site) -> None:
    task = await site.lingering("body")
    worker = site.worker
    os.kill(worker.process.pid, signal.SIGSTOP)
    worker.process.heard_at -= 2 * crew.SILENT_SECONDS
    site.copier._crew._look()
    assert "silent" in str(await lost(task))
    await site.works()


async def test_nobody_is_killed_for_silence_when_it_was_the_daemon_that_stood_still(site: Site) -> None:
    await site.works()
    pids = site.copier.pids
    for worker in site.copier._crew._serving:
        worker.process.heard_at -= 2 * crew.SILENT_SECONDS
    site.copier._crew._looked_at -= 2 * crew.SILENT_SECONDS
    site.copier._crew._look()
    assert not any(worker.process.why for worker in site.copier._crew._serving)
    await site.works()
    assert site.copier.pids == pids


async def test_a_worker_that_a_dead_disk_has_even_killed_costs_no_slot(
    on_disk: Site, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "KILL_SECONDS", 0.1)
    disk.hang(fsync="*/slow-*")
    watch = Watch()
    task = on_disk.start("/lsst/slow", watch)
    await until(lambda: watch.phases[-1:] == ["sync"], "phase sync")
    worker = on_disk.worker
    worker.process.heard_at -= 2 * crew.SILENT_SECONDS
    on_disk.copier._crew._look()
    await lost(task)
    assert psutil.pid_exists(worker.process.pid)
    assert (on_disk.copier.running, on_disk.copier.stuck) == (0, 1)
    assert on_disk.book.open == [(b"run",)]
    assert (await on_disk.copier.copy(on_disk.order(), Watch())).adler32 == DATA.adler32
    disk.calm()
    await until(lambda: not psutil.pid_exists(worker.process.pid), "it ends with the disk's return")
    await until(lambda: not on_disk.book.open, "its part is removed")
    await on_disk.works()


async def test_a_hung_disk_costs_only_the_orders_that_touch_it(on_disk: Site, disk: FaultyDisk) -> None:
    disk.hang(fsync="*/slow-*")
    watch = Watch()
    hung = on_disk.start("/lsst/slow", watch)
    await until(lambda: watch.phases[-1:] == ["sync"], "phase sync")
    for _ in range(2 * SLOTS):
        await on_disk.copier.copy(on_disk.order(), Watch())
    assert not hung.done()
    disk.calm()
    assert (await hung).adler32 == DATA.adler32


async def test_closing_with_a_dead_disk_ends_and_leaves_the_directory_in_the_book(
    on_disk: Site, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("END_SECONDS", "KILL_SECONDS"):
        monkeypatch.setattr(crew, name, 0.1)
    disk.hang(fsync="*")
    watch = Watch()
    task = on_disk.start("/lsst/slow", watch)
    await until(lambda: watch.phases[-1:] == ["sync"], "phase sync")
    await on_disk.copier.aclose(0.1)
    with pytest.raises(errors.Cancelled):
        await task
    assert on_disk.book.open == [(b"run",)]
    assert on_disk.copier.stuck == 1
    disk.calm()
    await until(lambda: not on_disk.copier.pids, "it ends with the disk's return")


# --- workers that cannot be had -------------------------------------------------------------------------------------


class Program:
    """Takes the place of the interpreter that workers are started with."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "python"
        monkeypatch.setattr(sys, "executable", str(self.path))
        self._python = f'exec "{sys.prefix}/bin/python"'

    def is_(self, script: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"#!/bin/sh\n{script}\n")
        fresh.chmod(fresh.stat().st_mode | stat.S_IXUSR)
        fresh.rename(self.path)

    def mend(self) -> None:
        self.is_(f'{self._python} "$@"')

    def speaks(self, lines: str) -> None:
        """Let workers be a program that has said it is ready, and got `order` and the socket `daemon`."""
        script = self.path.with_name("worker.py")
        script.write_text(SPEAKING + lines)
        self.is_(f'{self._python} "{script}" "$4"')


SPEAKING = """
import os, signal, socket, sys, time
from dcalqr.copiers import wire
from dcalqr.orders import Landed, Phases

def answer(order_id):
    landed = Landed(size_bytes=1, adler32=2, verified=True, pool="", phases=Phases())
    return wire.encode(wire.Answer(wire.Report(order_id, ("door_wait",), 1), landed, None))

signal.signal(signal.SIGTERM, signal.SIG_IGN)
daemon = socket.socket(fileno=int(sys.argv[1]))
daemon.sendall(wire.encode(wire.Ready()))
messages, order = wire.Messages(wire.Down), None
while order is None:
    for message in messages.feed(daemon.recv(65536) or sys.exit()):
        order = message.order if isinstance(message, wire.Do) else None
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(tmp_path, monkeypatch)


@pytest.mark.parametrize("trouble", ["exit 3", None], ids=["dies", "cannot start"])
async def test_workers_that_die_at_once_back_off_and_say_so_and_orders_wait(
    site: Site, program: Program, trouble: str | None
) -> None:
    if trouble is not None:
        program.is_(trouble)
    with structlog.testing.capture_logs() as logs:
        tasks = [site.start() for _ in range(2 * SLOTS)]
        await until(lambda: len(logs) >= 5, "five deaths are said")
    assert {line["event"] for line in logs} == {"WORKER"}
    assert all(("exit status 3" if trouble else "No such file") in line["message"] for line in logs)
    failures = [line["failures"] for line in logs]
    assert failures == sorted(failures)
    assert logs[-1]["wait_seconds"] > 0 or failures[-1] < 4
    assert not any(task.done() for task in tasks)
    assert not site.door.requests
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    program.mend()
    assert all(landed.adler32 == DATA.adler32 for landed in await asyncio.gather(*tasks[1:]))
    await site.works()


async def test_after_an_upgrade_on_the_disk_one_line_asks_for_a_restart_and_orders_wait_at_no_cost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.works()
    victim, survivor = site.copier.pids
    served = len(site.door.requests)
    with structlog.testing.capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(dcalqr, "__version__", "0.0.1")  # what is on the disk is another one
        os.kill(victim, signal.SIGKILL)
        await until(lambda: site.copier._crew._failures >= 4, "workers that refuse")
        assert site.copier.is_outdated
        assert site.copier.alive == 1, "who was started before works on"
        assert (await site.copier.copy(site.order(), Watch())).adler32 == DATA.adler32
        os.kill(survivor, signal.SIGKILL)
        await until(lambda: site.copier.alive == 0, "none is left")
        tasks, failures = [site.start() for _ in range(SLOTS)], site.copier._crew._failures
        await until(lambda: site.copier._crew._failures >= failures + 2, "workers that refuse")
        assert not any(task.done() for task in tasks)
        assert len(site.door.requests) <= served + 2
    (line,) = [line for line in logs if line["event"] == "RESTART_NEEDED"]
    assert (line["log_level"], line["version"], line["workers"]) == ("error", dcalqr.__version__, 1)
    assert "until this daemon is restarted" in line["message"]
    assert {line["pid"] for line in logs if line["event"] == "WORKER"} == {victim, survivor}
    assert site.copier.deaths == 2, "who refuses has not died"
    assert all(landed.adler32 == DATA.adler32 for landed in await asyncio.gather(*tasks))  # put back on the disk
    await site.works()
    assert not site.copier.is_outdated


async def test_a_worker_that_never_gets_ready_is_killed_and_keeps_nobody_waiting(site: Site, program: Program) -> None:
    program.is_("exec sleep 600")
    task = site.start()
    await until(lambda: len(site.copier.pids) == 2, "both are started")
    program.mend()
    for worker in site.copier._crew._serving:
        worker.process.heard_at -= 2 * crew.SILENT_SECONDS
    site.copier._crew._look()
    assert (await task).adler32 == DATA.adler32


async def test_closing_while_no_worker_can_be_had_ends_those_who_wait(site: Site, program: Program) -> None:
    program.is_("exit 3")
    tasks = [site.start() for _ in range(2 * SLOTS)]
    await until(lambda: site.copier.deaths > 2, "workers die")
    await site.copier.aclose(SOON_SECONDS)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {errors.Cancelled}
    assert site.copier.slots.taken == 0


@pytest.mark.parametrize("count", [1])
async def test_an_answer_that_was_sent_before_the_death_counts(site: Site, program: Program) -> None:
    program.speaks("daemon.sendall(answer(order.order_id)); os._exit(1)")
    watch = Watch()
    landed = await site.copier.copy(site.order(), watch)
    assert (landed.adler32, watch.phases, watch.received_bytes) == (2, ["door_wait"], 1)
    await until(lambda: site.copier.deaths == 1, "it has died")


@pytest.mark.parametrize("count", [1])
async def test_a_worker_that_speaks_nonsense_is_killed_and_its_order_lost(site: Site, program: Program) -> None:
    program.speaks("daemon.sendall(b'HTTP/1.1 200 OK'); time.sleep(600)")
    task = site.start()
    assert "nonsense" in str(await lost(task))
    program.mend()
    await until(lambda: site.copier.deaths > 0, "it is killed")
    await site.works()


@pytest.mark.parametrize("count", [1])
async def test_a_worker_that_closes_its_socket_is_killed(site: Site, program: Program) -> None:
    program.speaks("daemon.close(); time.sleep(600)")
    await lost(site.start())


@pytest.mark.parametrize("count", [1])
async def test_an_answer_that_nobody_asked_for_is_ignored_and_counted(site: Site, program: Program) -> None:
    program.speaks("daemon.sendall(answer('other') + answer(order.order_id)); daemon.recv(1)")
    assert (await site.copier.copy(site.order(), Watch())).adler32 == 2
    assert (site.copier.unknown_answers, site.copier.running) == (1, 0)


@pytest.mark.parametrize("count", [1])
async def test_an_error_that_this_version_does_not_know_is_a_lost_worker(site: Site, program: Program) -> None:
    program.speaks(
        "from dcalqr.orders import Refused\n"
        "report = wire.Report(order.order_id, (), 0)\n"
        "daemon.sendall(wire.encode(wire.Answer(report, None, Refused('Nonesuch', {})))); daemon.recv(1)"
    )
    assert "Nonesuch" in str(await lost(site.start()))


@pytest.mark.parametrize("count", [1])
async def test_a_worker_that_does_not_end_is_killed_at_the_close(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "END_SECONDS", 0.1)
    program.speaks("daemon.sendall(answer(order.order_id)); time.sleep(600)")
    await site.copier.copy(site.order(), Watch())
    await site.copier.aclose(SOON_SECONDS)
    assert site.copier.pids == ()


async def test_a_watcher_that_raises_costs_nobody_an_answer(site: Site) -> None:
    class Raising(Watch):
        def phase(self, name: str) -> None:
            raise ValueError(name)

    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    assert (await site.copier.copy(site.order(), Raising())).adler32 == DATA.adler32
    assert said


async def test_orders_go_into_the_folder_that_was_checked_last_and_running_ones_end_in_theirs(
    site: Site, tmp_path: Path
) -> None:
    task = await site.lingering("body")
    former, site.folder = site.folder, tmp_path / "remounted"
    site.folder.mkdir()
    site.folder.rename(tmp_path / "renamed")  # the descriptor counts, not the name
    site.folder = tmp_path / "renamed"
    fresh = os.open(site.folder, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(fresh, site.root_fd, inheritable=False)
    os.close(fresh)
    site.root_generation += 1
    for _ in range(2 * SLOTS):
        await site.copier.copy(site.order(), Watch())
    assert len(site.files()) == 2 * SLOTS
    site.door.calm()
    await task
    assert len([path for path in former.rglob("slow-*") if path.is_file()]) == 1


async def test_signals_to_the_whole_group_do_not_reach_workers(site: Site) -> None:
    await site.works()
    pids = site.copier.pids
    for pid in pids:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    await site.works()
    assert (site.copier.pids, site.copier.deaths) == (pids, 0)


def test_the_back_off_grows_to_a_limit_and_a_worker_that_lived_well_is_replaced_at_once() -> None:
    waits = [crew.wait_seconds(failures, 1.0) for failures in range(12)]
    assert waits[0] == 0
    assert waits[1:4] == [0.02, 0.04, 0.08]
    assert crew.wait_seconds(1000, 1.0) == crew.LONGEST_WAIT_SECONDS
    assert crew.wait_seconds(3, 0.0) == 0.04, "half of it is chance"
