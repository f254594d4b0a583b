"""What the door does not show: how long that is waited for, and when it says nothing about the file."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from dcalqr.dcache import tls
from dcalqr.service import assembly
from dcalqr.testing.door import Fault
from dcalqr.testing.pki import Pki
from tests.support.rig import Rig, until
from tests.support.site import FOLDER

NAME = "23003/fits_1.tar"
CONTENT = b"c" * 10_000


async def test_the_time_of_an_outage_does_not_count_as_time_of_looking(rig: Rig) -> None:
    file = rig.put(NAME, CONTENT, visible=False)
    outage = [Fault("door", method=method, path=file.path, status=503) for method in ("GET", "HEAD")]
    async with rig.running(dcache={"visibleseconds": 2, "retrytimes": 100, "retryseconds": 0.1}) as parts:
        delivery = rig.deliver(file)
        await until(lambda: parts.dispatcher.window.invisible == 1, "a wait for visibility")
        rig.door.faults.add(*outage)
        begun = time.monotonic()
        await until(lambda: time.monotonic() - begun > 2.5, "the outage to last")  # longer than anything may be away
        rig.door.calm()
        seen_404 = len(rig.asked("HEAD", NAME))
        await until(lambda: len(rig.asked("HEAD", NAME)) >= seen_404 + 2, "two more looks")
        assert delivery.settled is None  # the first 404 after the outage is the first of a new row
        rig.door.commit(file.path)
        assert await rig.ends(delivery) == ["landed"]
    assert not rig.rows()


async def test_a_file_whose_whole_folder_is_missing_is_not_gone_but_held(rig: Rig) -> None:
    file = rig.put(NAME, CONTENT, visible=False)
    rig.door.faults.add(Fault("door", path=FOLDER, status=404))
    async with rig.running(dcache={"visibleseconds": 1}) as parts:
        delivery = rig.deliver(file)
        await until(lambda: not parts.dispatcher.holding.is_free, "a hold")
        assert parts.dispatcher.holding.holds.active["door"].reason == "folder"
        rig.door.calm()
        rig.door.commit(file.path)
        assert await rig.ends(delivery) == ["landed"]
    assert not rig.rows()


async def test_many_files_that_are_gone_ask_for_their_folder_once(rig: Rig) -> None:
    files = [rig.put(f"{number}.tar", CONTENT, visible=False) for number in range(20)]
    async with rig.running(dcache={"visibleseconds": 1}):
        assert await rig.ends(*[rig.deliver(file) for file in files]) == ["gone"] * 20
    (asked,) = [request for request in rig.door.requests if request.path.rstrip("/") == FOLDER]
    assert not asked.wants_digest  # a folder has none, and some servers never answer who asks for it


async def test_one_file_that_is_always_401_spends_its_budget_and_does_not_hold_the_others(rig: Rig) -> None:
    refused = rig.put("refused.tar", CONTENT)
    rig.door.faults.add(Fault("door", path=refused.path, status=401))
    async with rig.running(dcache={"retrytimes": 2}) as parts:
        assert await rig.ends(rig.deliver(refused)) == ["failed"]
        assert parts.dispatcher.holding.is_free
        assert not parts.counters.holds
    (row,) = rig.rows()
    assert (row.error_class, row.http_status, row.attempts) == ("transient", 401, 3)


async def test_a_credential_that_is_renewed_between_two_answers_costs_no_row(rig: Rig) -> None:
    file = rig.put(NAME, CONTENT)
    rig.door.faults.add(Fault("door", path=file.path, status=401, times=1))
    async with rig.running():
        assert await rig.ends(rig.deliver(file)) == ["landed"]
    assert not rig.rows()


async def test_401_for_everything_holds_and_spends_nothing(rig: Rig) -> None:
    rig.door.faults.add(Fault("door", status=401))
    async with rig.running(dcache={"retrytimes": 0}) as parts:
        _, delivery = rig.upload(NAME, CONTENT)
        await until(lambda: not parts.dispatcher.holding.is_free, "a hold")
        rig.door.calm()
        assert await rig.ends(delivery) == ["landed"]
    assert not rig.rows()


async def test_waiting_for_a_sum_starts_no_mover(rig: Rig) -> None:
    file = rig.put(NAME, CONTENT)
    rig.door.faults.add(Fault("pool", digest=""), Fault("door", method="HEAD", path=file.path, digest=""))
    async with rig.running(dcache={"visibleseconds": 3}):
        assert await rig.ends(rig.deliver(file)) == ["failed"]
    assert len(rig.asked("HEAD", NAME)) > 4
    assert len(rig.asked("GET", NAME)) == 1
    (row,) = rig.rows()
    assert row.error_class == "no_checksum"


async def test_an_expired_proxy_that_is_read_anew_ends_no_watch(
    rig: Rig, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = tmp_path / "proxy.pem"
    proxy.write_bytes(pki.proxy_expired.read_bytes())
    monkeypatch.setattr(assembly, "CREDENTIALS_SECONDS", 0.01)
    monkeypatch.setattr(tls, "CONTEXT_LIFE_SECONDS", 0.0)  # every look is an hourly one
    async with rig.running(local={"proxy": str(proxy)}) as parts:
        watching = asyncio.create_task(parts.watch_credentials())
        _, delivery = rig.upload(NAME, CONTENT)
        await until(lambda: not parts.dispatcher.holding.is_free, "a hold")
        assert not watching.done()
        pki.new_proxy(proxy)
        assert await rig.ends(delivery) == ["landed"]
        watching.cancel()
        await asyncio.wait({watching})


async def test_a_refused_folder_behind_a_404_is_a_hold_and_no_row(rig: Rig) -> None:
    file = rig.put(NAME, CONTENT, visible=False)
    rig.door.faults.add(Fault("door", path=FOLDER, status=403))
    async with rig.running(dcache={"visibleseconds": 1}) as parts:
        delivery = rig.deliver(file)
        await until(lambda: not parts.dispatcher.holding.is_free, "a hold")
        rig.door.calm()
        rig.door.commit(file.path)
        assert await rig.ends(delivery) == ["landed"]
    assert not rig.rows()


async def test_a_hold_that_came_and_went_while_a_job_slept_begins_its_time_anew(rig: Rig) -> None:
    file = rig.put(NAME, CONTENT, visible=False)
    async with rig.running(dcache={"visibleseconds": 3}) as parts:
        delivery = rig.deliver(file)
        await until(lambda: parts.dispatcher.window.invisible == 1, "a wait for visibility")
        (job,) = parts.dispatcher.inflight.jobs.values()
        await until(lambda: job.effort.looks >= 3, "some looks")
        parts.dispatcher.holding.releases += 1
        await until(lambda: job.effort.looks == 1, "the looks to begin anew")
        rig.door.commit(file.path)
        assert await rig.ends(delivery) == ["landed"]


async def test_a_probe_that_is_cancelled_by_nobody_releases_its_hold(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(_: str) -> None:
        raise asyncio.CancelledError

    rig.door.faults.add(Fault("door", status=401, times=2))  # the GET's, and the look at the folder
    async with rig.running() as parts:
        monkeypatch.setattr(parts.dispatcher.holding, "_probe", cancelled)
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["landed"]
        assert parts.counters.holds == {"credential": 1}
