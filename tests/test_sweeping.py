from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dcalqr.local import leftovers, paths
from dcalqr.local.state import State
from dcalqr.sweeping import sweep_known
from dcalqr.testing.door import Fault
from dcalqr.testing.pki import Pki
from tests.support.rig import Rig, until


@pytest.fixture
async def rig(tmp_path: Path, pki: Pki) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, pki)
    yield made
    await asyncio.to_thread(made.close)


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
