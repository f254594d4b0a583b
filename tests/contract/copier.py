"""The suite that every Copier enters: a subclass of `CopierContract` names how it is made."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from dcalqr import errors
from dcalqr.copiers.contract import Copier
from dcalqr.dcache import tls
from dcalqr.local import paths
from dcalqr.orders import CopyOrder, Landed
from dcalqr.testing import samples
from dcalqr.testing.door import Door, Fault
from dcalqr.testing.pki import Pki
from tests.support.attempts import SOON_SECONDS, order_of

SLOTS = 4
DATA = samples.content(200_000)
# Those in which a cancel ends an attempt; past the last verification it finishes instead.
PHASES = ("door_wait", "connect", "first_byte", "body")


class ResizableCopier(Copier, Protocol):
    """What the daemon and the status ask of a copier beside the contract."""

    stuck: int

    @property
    def running(self) -> int: ...

    def resize(self, slots: int) -> None: ...


MakeCopier = Callable[[int, Callable[[], tls.Trust], Callable[[], int]], ResizableCopier]


class Watch:
    """A Watcher that writes everything down."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.received_bytes = 0

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def received(self, total_bytes: int) -> None:
        self.received_bytes = total_bytes


class World:
    """A door, a download folder, a credential, and the copier between them."""

    def __init__(self, folder: Path, door: Door, pki: Pki) -> None:
        self.folder = folder
        folder.mkdir()
        self.door = door
        self.proxy = pki.proxy
        self.generation = 1
        self.trouble: errors.DcalqrError | None = None
        self._pki = pki
        self.root_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._numbers = itertools.count()
        self._deaf = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
        self.copier: ResizableCopier

    def trust(self) -> tls.Trust:
        if self.trouble is not None:
            raise self.trouble
        return tls.Trust(self.generation, str(self.proxy), str(self._pki.certificates), crl_check=False, expires_at=9e9)

    def order(self, path: str = "/lsst/f.fits", **changes: Any) -> CopyOrder:
        """Order a file under a name that no other order has."""
        *_, name = parts = tuple(os.fsencode(part) for part in path.split("/")[1:])
        return order_of(paths.source_target(self.door.url, parts), b"%s-%d" % (name, next(self._numbers)), **changes)

    def start(self, path: str = "/lsst/f.fits", watch: Watch | None = None) -> asyncio.Task[Landed]:
        return asyncio.ensure_future(self.copier.copy(self.order(path), watch or Watch()))

    async def lingering(self, phase: str) -> asyncio.Task[Landed]:
        """Start an order that stays in a phase until the door is calm; return when it is there."""
        self.door.faults.add(
            {
                "door_wait": Fault("door", path="/lsst/slow", delay_seconds=600),
                "connect": Fault(
                    "door", path="/lsst/slow", redirect=f"https://localhost:{self._deaf.getsockname()[1]}/"
                ),
                "first_byte": Fault("pool", path="/lsst/slow", delay_seconds=600),
                "body": Fault("pool", path="/lsst/slow", stall_after=1000),
            }[phase]
        )
        watch = Watch()
        task = self.start("/lsst/slow", watch)
        await until(lambda: watch.phases[-1:] == [phase], f"phase {phase}")
        return task

    def close(self) -> None:
        self._deaf.close()
        os.close(self.root_fd)

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def parts(self) -> list[Path]:
        return [path for path in self.files() if path.suffix == ".part"]

    def asked(self) -> int:
        """GETs that the door has had."""
        return sum(self.door.gets.values())


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(SOON_SECONDS):
            while not condition():  # noqa: ASYNC110 - it comes true in a server's thread
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it did not happen: {what}") from None


class CopierContract:
    """Subclass it as `Test...` and give the fixture `make`: slots, trust and root_fd in, a copier out."""

    @pytest.fixture
    def make(self) -> MakeCopier:
        raise NotImplementedError

    @pytest.fixture
    def served(self, pki: Pki) -> Iterator[Door]:
        with Door(pki) as door:
            door.put("/lsst/f.fits", DATA)
            door.put("/lsst/slow", DATA)
            yield door

    @pytest.fixture
    async def world(self, tmp_path: Path, served: Door, pki: Pki, make: MakeCopier) -> AsyncIterator[World]:
        world = World(tmp_path / "download", served, pki)
        world.copier = make(SLOTS, world.trust, lambda: world.root_fd)
        yield world
        served.calm()
        await world.copier.aclose(SOON_SECONDS)
        world.close()

    @asynccontextmanager
    async def hanging(self, world: World, count: int) -> AsyncIterator[list[asyncio.Task[Landed]]]:
        """Start so many orders whose bodies stall, as many of which as there are slots have begun."""
        world.door.faults.add(Fault("pool", path="/lsst/slow", stall_after=1000))
        watches = [Watch() for _ in range(count)]
        tasks = [world.start("/lsst/slow", watch) for watch in watches]
        begun = min(count, SLOTS)
        await until(lambda: sum("body" in watch.phases for watch in watches) == begun, "bodies begin")
        yield tasks
        world.door.calm()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what it does -----------------------------------------------------------------------------------------

    async def test_an_order_lands_and_its_watcher_is_told_of_phases_and_bytes(self, world: World) -> None:
        watch = Watch()
        landed = await world.copier.copy(world.order(), watch)
        assert (landed.size_bytes, landed.adler32, landed.verified) == (DATA.size_bytes, DATA.adler32, True)
        assert watch.phases == ["door_wait", "connect", "first_byte", "body", "sync", "publish"]
        assert watch.received_bytes == DATA.size_bytes
        assert [path.read_bytes() for path in world.files()] == [bytes(DATA)]
        assert world.copier.running == 0

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (Fault("door", status=404), errors.NotFound),
            (Fault("pool", cut_after=9), errors.ShortBody),
            (Fault("pool", digest="adler32=00000001"), errors.ChecksumMismatch),
            (Fault("door", status=503, headers=(("Retry-After", "7"),)), errors.ServerError),
        ],
        ids=["404", "short", "sum", "503"],
    )
    async def test_an_attempts_error_arrives_with_its_class_and_facts(
        self, world: World, fault: Fault, kind: type[errors.TryError]
    ) -> None:
        world.door.faults.add(fault)
        with pytest.raises(errors.TryError) as caught:
            await world.copier.copy(world.order(), Watch())
        assert type(caught.value) is kind
        assert isinstance(caught.value.facts["host" if kind is not errors.ChecksumMismatch else "received"], str)
        if isinstance(caught.value, errors.ServerError):
            assert caught.value.minimum_wait_seconds == 7
        assert world.files() == []
        assert world.copier.running == 0

    async def test_the_copier_works_on_after_any_error(self, world: World) -> None:
        for _ in range(3 * SLOTS):
            world.door.faults.add(Fault("pool", cut_after=9, times=1))
            with pytest.raises(errors.ShortBody):
                await world.copier.copy(world.order(), Watch())
        await asyncio.gather(*(world.start() for _ in range(3 * SLOTS)))

    async def test_an_order_without_a_credential_or_a_folder_takes_no_slot(
        self, world: World, make: MakeCopier
    ) -> None:
        world.trouble = errors.CredentialRefused(why="expired")
        for _ in range(2 * SLOTS):
            with pytest.raises(errors.CredentialRefused):
                await world.copier.copy(world.order(), Watch())
        world.trouble = None
        await world.copier.copy(world.order(), Watch())

        def missing() -> int:
            raise errors.MountMissing(why="gone")

        without = make(1, world.trust, missing)
        for _ in range(3):
            with pytest.raises(errors.MountMissing):
                await without.copy(world.order(), Watch())
        await without.aclose(SOON_SECONDS)

    async def test_a_destination_opened_anew_does_not_disturb_running_orders(self, world: World) -> None:
        async with self.hanging(world, 1) as tasks:
            os.close(world.root_fd)
            world.root_fd = os.open(world.folder, os.O_RDONLY | os.O_DIRECTORY)
            world.door.calm()
            assert (await tasks[0]).size_bytes == DATA.size_bytes
        assert len(world.files()) == 1

    # --- slots ------------------------------------------------------------------------------------------------

    async def test_there_are_never_more_orders_at_the_server_than_slots(self, world: World) -> None:
        async with self.hanging(world, 5 * SLOTS):
            assert world.copier.running == SLOTS
        assert world.door.running_max == SLOTS
        assert len(world.files()) == 5 * SLOTS

    async def test_slots_are_given_in_the_order_of_asking(self, world: World) -> None:
        world.copier.resize(1)
        watches = [Watch() for _ in range(6)]
        ended: list[int] = []

        async def one(number: int) -> None:
            await world.copier.copy(world.order(), watches[number])
            ended.append(number)

        await asyncio.gather(*(one(number) for number in range(6)))
        assert ended == list(range(6))

    async def test_more_slots_start_waiting_orders_and_fewer_let_running_ones_end(self, world: World) -> None:
        async with self.hanging(world, 3 * SLOTS):
            world.copier.resize(2 * SLOTS)
            await until(lambda: world.door.running == 2 * SLOTS, "the new slots are taken")
            world.copier.resize(1)
            assert world.copier.running == 2 * SLOTS
        assert world.copier.running == 0
        assert world.door.running_max == 2 * SLOTS
        async with self.hanging_one_slot(world) as running:
            assert running() == 1

    @asynccontextmanager
    async def hanging_one_slot(self, world: World) -> AsyncIterator[Callable[[], int]]:
        world.door.faults.add(Fault("pool", path="/lsst/slow", stall_after=1000))
        watch = Watch()
        tasks = [world.start("/lsst/slow", watch), world.start("/lsst/slow")]
        await until(lambda: "body" in watch.phases, "a body begins")
        yield lambda: world.copier.running
        world.door.calm()
        await asyncio.gather(*tasks)

    # --- cancels ----------------------------------------------------------------------------------------------

    async def test_a_cancel_while_waiting_for_a_slot_asks_the_server_nothing(self, world: World) -> None:
        async with self.hanging(world, SLOTS):
            asked = world.asked()
            waiting = world.start()
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert world.asked() == asked

    async def test_a_cancelled_order_ends_with_its_attempt_and_leaves_nothing(self, world: World) -> None:
        async with self.hanging(world, SLOTS) as tasks:
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            assert world.copier.running == SLOTS - 1
            assert len(world.parts()) == SLOTS - 1
            await until(lambda: world.door.running == SLOTS - 1, "the connection is closed")

    @pytest.mark.parametrize("phase", PHASES)
    async def test_a_cancel_in_any_phase_leaves_nothing_and_frees_the_slot(self, world: World, phase: str) -> None:
        world.copier.resize(1)
        for _ in range(2):
            task = await world.lingering(phase)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert world.copier.running == 0
            assert world.files() == []
            world.door.calm()
        await world.copier.copy(world.order(), Watch())

    async def test_a_second_cancel_does_not_cut_the_wait_for_the_answer(self, world: World) -> None:
        async with self.hanging(world, 1) as tasks:
            for _ in range(5):
                tasks[0].cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            assert world.copier.running == 0
            assert world.files() == []

    async def test_an_order_that_lands_in_spite_of_a_cancel_is_accepted(self, world: World) -> None:
        class CancelLate(Watch):
            def phase(self, name: str) -> None:
                super().phase(name)
                if name == "sync":
                    task.cancel()

        task = world.start(watch=CancelLate())
        landed = await task
        assert landed.adler32 == DATA.adler32
        assert len(world.files()) == 1

    async def test_a_cancel_storm_never_exceeds_the_slots_and_loses_none(self, world: World) -> None:
        dice = random.Random(7)
        world.door.put("/lsst/f.fits", samples.content(2000))
        world.door.faults.add(Fault("pool", path="/lsst/slow", stall_after=1000))
        ended = 0
        while ended < 2000:
            tasks = [world.start(dice.choice(["/lsst/f.fits", "/lsst/slow"])) for _ in range(100)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(dice.choice([0, 0, 0.001]))
                assert world.copier.running <= SLOTS
                for task in dice.sample(tasks, 25):
                    task.cancel()
            for task in tasks:
                assert task.cancelled() or isinstance(task.result(), Landed)
            ended += len(tasks)
        assert world.door.running_max <= SLOTS
        assert world.copier.running == 0
        assert world.parts() == []
        world.door.calm()
        for _ in range(5):
            await world.copier.copy(world.order(), Watch())
        async with self.hanging(world, 2 * SLOTS):
            assert world.copier.running == SLOTS, "no slot was lost"

    # --- the end ----------------------------------------------------------------------------------------------

    async def test_closing_stops_what_runs_and_begins_nothing_that_waits(self, world: World) -> None:
        async with self.hanging(world, 3 * SLOTS) as tasks:
            asked = world.asked()
            await world.copier.aclose(SOON_SECONDS)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(end) for end in ends} == {errors.Cancelled}
            assert world.asked() == asked
            assert world.copier.running == 0
            assert world.copier.stuck == 0
            assert world.files() == []
            await until(lambda: world.door.running == 0, "all connections are closed")

    async def test_closing_twice_or_unused_is_harmless(self, world: World) -> None:
        await world.copier.aclose(SOON_SECONDS)
        await world.copier.aclose(SOON_SECONDS)
        with pytest.raises(errors.Cancelled):
            await world.copier.copy(world.order(), Watch())

    # --- credentials ------------------------------------------------------------------------------------------

    async def test_a_new_generation_is_used_by_the_next_order_and_running_ones_go_on(
        self, world: World, pki: Pki, tmp_path: Path
    ) -> None:
        async with self.hanging(world, 2) as tasks:
            first = world.door.requests[0].serial
            world.proxy = pki.new_proxy(tmp_path / "proxy.pem")
            world.generation = 2
            await world.copier.copy(world.order(), Watch())
            at_door = [request for request in world.door.requests if request.where == "door"]
            assert at_door[0].serial == first
            assert at_door[-1].serial > first
            world.door.calm()
            assert all(isinstance(end, Landed) for end in await asyncio.gather(*tasks))

    async def test_a_generation_that_cannot_be_loaded_keeps_the_old_one(self, world: World, tmp_path: Path) -> None:
        await world.copier.copy(world.order(), Watch())
        world.proxy, world.generation = tmp_path / "gone.pem", 2
        await world.copier.copy(world.order(), Watch())
        assert len({request.serial for request in world.door.requests if request.where == "door"}) == 1

    async def test_without_any_generation_the_credential_is_at_fault(self, world: World, tmp_path: Path) -> None:
        world.proxy = tmp_path / "gone.pem"
        with pytest.raises(errors.CredentialRefused):
            await world.copier.copy(world.order(), Watch())
