from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dcalqr import errors
from dcalqr.local import leftovers, paths
from dcalqr.local.state import State
from dcalqr.service import sweeping
from dcalqr.service.sweeping import sweep, sweep_known
from dcalqr.testing.door import Fault
from tests.support.rig import Rig, until


def killed_run(rig: Rig) -> Path:
    """Leave what a kill -9 leaves: a part, and the hint in which directory; returns the part."""
    state = State(str(rig.folder / "state"))
    state.open()
    state.part_opened((b"run",))
    state.close()
    part = rig.download / "run" / paths.part_name(b"file", paths.instance8("one"), "0123abcd").decode()
    part.parent.mkdir()
    part.write_bytes(b"half")
    return part


async def test_the_parts_of_a_killed_run_go_and_those_of_this_run_stay(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the part of an order that begins after the sweep did."""
    left = killed_run(rig)
    loop, scan = asyncio.get_running_loop(), leftovers._scan
    settings = {"stallseconds": 60, "timeout": 60}
    async with rig.running(dcache=settings, local={"statefolder": str(rig.folder / "state")}) as parts:
        rig.door.faults.add(Fault("pool", stall_after=50_000))

        async def begin() -> None:
            rig.upload("run/file", b"x" * 100_000)
            await until(lambda: len(rig.parts()) == 2, "the body")

        def scan_later(fd: int, instance8: str) -> tuple[list[bytes], list[bytes]]:
            asyncio.run_coroutine_threadsafe(begin(), loop).result()
            return scan(fd, instance8)

        monkeypatch.setattr(leftovers, "_scan", scan_later)
        await asyncio.to_thread(sweep_known, parts)
        assert len(rig.parts()) == 1
        assert not left.exists()
        rig.door.calm()
        await until(lambda: rig.landed("run/file"), "the file")


def knowing(rig: Rig) -> dict[str, dict[str, str]]:
    return {"local": {"statefolder": str(rig.folder / "state")}}


async def test_a_directory_whose_part_stays_is_swept_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed_run(rig)
    real_unlink = os.unlink

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(16, f"Device or resource busy: {path!r}")

    async with rig.running(**knowing(rig)) as parts:
        monkeypatch.setattr(os, "unlink", refuse)
        await asyncio.to_thread(sweep_known, parts)
        assert parts.state.left_parts == {(b"run",)}
        assert left.exists()
        monkeypatch.setattr(os, "unlink", real_unlink)
        await asyncio.to_thread(sweep_known, parts)
        assert parts.state.left_parts == set()
        assert not left.exists()


async def test_a_directory_that_refuses_us_does_not_keep_the_sweep_from_the_others(rig: Rig) -> None:
    left = killed_run(rig)
    (rig.download / "file").touch()
    async with rig.running(**knowing(rig)) as parts:
        parts.state.left_parts.add((b"file", b"below"))
        await asyncio.to_thread(sweep_known, parts)
        assert parts.state.left_parts == {(b"file", b"below")}
    assert not left.exists()


async def test_a_sweep_without_descriptors_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the operating system refuses: it is the sweep's matter and never the daemon's end."""
    refused: list[int] = []
    real_dup, real_scan = os.dup, leftovers._scan

    def dup(fd: int) -> int:
        if len(refused) < 2:
            refused.append(fd)
            raise OSError(24, "Too many open files")
        return real_dup(fd)

    walked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def scan(fd: int, instance8: str) -> tuple[list[bytes], list[bytes]]:
        loop.call_soon_threadsafe(walked.set)
        return real_scan(fd, instance8)

    monkeypatch.setattr(sweeping, "RETRY_SECONDS", 0.01)
    async with rig.running() as parts:
        monkeypatch.setattr(os, "dup", dup)
        monkeypatch.setattr(leftovers, "_scan", scan)
        task = asyncio.ensure_future(sweep(parts))
        walks = asyncio.ensure_future(walked.wait())
        await asyncio.wait({task, walks}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done()
        assert walks.done()
        assert len(refused) == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_known_directory_that_the_system_does_not_tell_of_is_one_of_our_errors(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> os.statvfs_result:
        raise OSError(116, "Stale file handle")

    killed_run(rig)
    async with rig.running(**knowing(rig)) as parts:
        monkeypatch.setattr(os, "fstatvfs", refuse)
        with pytest.raises(errors.MountMissing):
            await asyncio.to_thread(sweep_known, parts)


async def test_own_leftovers_on_a_full_disk_are_swept_although_there_is_no_room(rig: Rig) -> None:
    async with rig.running(local={"minfree": 99}) as parts:
        with pytest.raises(errors.NoSpace):
            parts.destination.check()
        left = rig.download / f"x.{paths.instance8(parts.instance)}-00000000.part"
        left.write_bytes(b"x")
        parts.state.left_parts.add(())
        sweep_known(parts)
        assert not left.exists()
