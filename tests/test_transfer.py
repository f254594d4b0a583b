"""What one try of the bundled Task says, with a real door and a real folder."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import time
from pathlib import Path

import pytest

from dcalqr import dispatcher, errors
from dcalqr.local import attributes
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.rig import Rig, until
from tests.support.site import FOLDER, ROOT

NAME = "23003/fits_1.tar"
CONTENT = b"c" * 100_000


# --- the checksum -------------------------------------------------------------------------------------------------


async def test_a_wrong_checksum_is_tried_again_at_once_and_may_be_right_then(rig: Rig) -> None:
    rig.door.faults.add(Fault("pool", digest="adler32=00000001", times=1))
    async with rig.running(dcache={"retryseconds": 300}) as parts:
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["landed"]
        assert parts.counters.retries == {"ChecksumMismatch": 1}
    assert not rig.parts()


async def test_the_same_wrong_checksum_twice_is_the_file(rig: Rig) -> None:
    rig.door.faults.add(Fault("pool", digest="adler32=00000001"))
    async with rig.running(dcache={"retrytimes": 10}):
        file, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["failed"]
    (row,) = rig.rows()
    assert (row.error_class, row.attempts) == ("checksum", 2)
    assert f"{file.adler32:08x}" in row.message
    assert "00000001" in row.message
    assert rig.landed(NAME) is None
    assert not rig.parts()


async def test_without_a_sum_at_the_pool_the_doors_counts(rig: Rig) -> None:
    rig.door.faults.add(Fault("pool", digest=""))
    async with rig.running() as parts:
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["landed"]
        assert parts.counters.unverified == 0
    assert len(rig.asked("HEAD", NAME)) == 1


@pytest.mark.parametrize(("required", "end"), [(True, "failed"), (False, "landed")])
async def test_without_any_sum_requirechecksum_decides_at_the_deadline(rig: Rig, end: str, *, required: bool) -> None:
    rig.door.faults.add(Fault("pool", digest=""), Fault("door", method="HEAD", digest="", status=200))
    async with rig.running(dcache={"requirechecksum": required, "visibleseconds": 1, "retrytimes": 0}) as parts:
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == [end]
        assert parts.counters.unverified == (not required)
    assert [row.error_class for row in rig.rows()] == (["no_checksum"] if required else [])
    assert rig.landed(NAME) == (None if required else CONTENT)


async def test_a_sum_that_comes_late_is_waited_for(rig: Rig) -> None:
    rig.door.faults.add(Fault("pool", digest=""), Fault("door", method="HEAD", digest="", status=200, times=2))
    async with rig.running(dcache={"visibleseconds": 60, "retrytimes": 0}) as parts:
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["landed"]
        assert parts.counters.unverified == 0


# --- what stands in the way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
async def test_what_is_no_file_is_never_replaced(rig: Rig, tmp_path: Path, kind: str) -> None:
    final = rig.download / NAME
    final.parent.mkdir()
    match kind:
        case "directory":
            final.mkdir()
        case "link":
            final.symlink_to(tmp_path / "elsewhere")
        case _:
            os.mkfifo(final)
    async with rig.running(dcache={"retrytimes": 0}):
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["failed"]
    assert [row.error_class for row in rig.rows()] == ["not_a_file"]
    assert not rig.asked("GET")
    assert not stat.S_ISREG(final.lstat().st_mode)


@pytest.mark.parametrize(
    ("name", "error_class"),
    [("n" * 256, "name_too_long"), ("file.0123abcd-0123abcd.part", "reserved_name")],
)
async def test_a_name_that_cannot_be_here_is_a_row_and_stops_no_other(rig: Rig, name: str, error_class: str) -> None:
    async with rig.running():
        _, impossible = rig.upload(name, CONTENT)
        _, fine = rig.upload("file.part", CONTENT)
        assert await rig.ends(impossible, fine) == ["failed", "landed"]
    assert [row.error_class for row in rig.rows()] == [error_class]
    assert rig.landed("file.part") == CONTENT


async def test_modes_are_those_configured(rig: Rig) -> None:
    async with rig.running(local={"permissions": "2750", "filepermissions": "0440"}):
        await rig.ends(rig.upload(NAME, CONTENT)[1])
    assert stat.S_IMODE((rig.download / NAME).stat().st_mode) == 0o440
    assert stat.S_IMODE((rig.download / NAME).parent.stat().st_mode) == 0o2750


# --- what the event does not know ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", CONTENT], ids=["empty", "size-missing"])
async def test_a_size_that_the_event_does_not_know_is_taken_from_the_door(rig: Rig, content: bytes) -> None:
    async with rig.running():
        file = rig.put(NAME, content)
        assert await rig.ends(rig.deliver(file, size_bytes=0)) == ["landed"]
        assert rig.landed(NAME) == content


async def test_what_landed_bears_the_pnfsid_of_what_was_copied(rig: Rig) -> None:
    old = rig.put(NAME, b"short")
    new = rig.put(NAME, CONTENT)
    async with rig.running():
        assert await rig.ends(rig.deliver(old)) == ["replaced"]
    assert os.getxattr(rig.download / NAME, attributes.XATTR_PNFSID).decode() == new.pnfsid


async def test_the_newest_of_two_writes_over_nfs_is_copied(rig: Rig) -> None:
    """NFS reports one pnfsid several times, with growing sizes."""
    file = rig.door.put(f"{FOLDER}/{NAME}", CONTENT, pnfsid="A" * 36)
    async with rig.running():
        ends = await rig.ends(rig.deliver(file, size_bytes=10), rig.deliver(file))
        assert ends == ["replaced", "landed"]
        later = await rig.ends(rig.deliver(file, size_bytes=10))
        assert later == ["replaced"]
    assert rig.landed(NAME) == CONTENT
    assert len(rig.asked("GET")) == 1


# --- the door's moods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("pool", cut_after=50_000, times=1),
        Fault("pool", cut_after=50_000, reset=True, times=1),
        Fault("pool", status=503, times=1),
        Fault("door", method="GET", status=500, times=1),
        Fault("door", method="GET", status=429, headers=(("Retry-After", "0"),), times=1),
        Fault("door", method="GET", redirect="loop", times=10),
        Fault("door", method="GET", redirect="wrong-name", times=1),
        Fault("pool", lengths=("-1",), times=1),
        Fault("pool", lengths=("100000", "5"), times=1),
        Fault("pool", status=206, times=1),
        Fault("pool", accept="reset", times=1),
        Fault("pool", stall_after=10, times=1),
    ],
    ids=lambda fault: str(fault.accept or fault.redirect or fault.status or fault.lengths or "body"),
)
async def test_a_mood_of_the_door_costs_a_retry_and_nothing_else(rig: Rig, fault: Fault) -> None:
    rig.door.faults.add(fault)
    async with rig.running(dcache={"stallseconds": 1, "retrytimes": 10}):
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["landed"]
    assert rig.landed(NAME) == CONTENT
    assert not rig.parts()
    assert not rig.rows()


async def test_a_door_that_changes_its_mind_in_every_answer_is_not_followed_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = itertools.count(5)
    async with rig.running(dcache={"retrytimes": 1}) as parts:
        head = parts.door.head

        async def restless(url: str) -> object:
            return (await head(url))._replace(size_bytes=next(sizes))

        monkeypatch.setattr(parts.door, "head", restless)
        file = rig.put(NAME, CONTENT)
        assert await rig.ends(rig.deliver(file, size_bytes=3)) == ["failed"]
    assert "changed its mind" in rig.rows()[0].message
    assert len(rig.asked("GET")) == 6


async def test_a_length_that_only_the_get_has_is_no_new_version(rig: Rig) -> None:
    rig.door.faults.add(Fault("pool", lengths=("7",)))
    async with rig.running(dcache={"retrytimes": 1}):
        _, delivery = rig.upload(NAME, CONTENT)
        assert await rig.ends(delivery) == ["failed"]
    assert rig.rows()[0].error_class == "transient"
    assert rig.landed(NAME) is None


# --- probes -------------------------------------------------------------------------------------------------------


async def test_a_probe_tells_what_is_held_from_what_answers(rig: Rig) -> None:
    async with rig.running() as parts:
        await parts.transfer.probe("destination")
        await parts.transfer.probe("door")
        for status, held in (
            (401, errors.CredentialRefused),
            (403, errors.CredentialRefused),
            (404, errors.FolderMissing),
        ):
            rig.door.faults.add(Fault("door", status=status))
            with pytest.raises(held):
                await parts.transfer.probe("door")
            rig.door.calm()
        rig.door.faults.add(Fault("door", status=500))
        await parts.transfer.probe("door")
        rig.door.calm()
        await asyncio.to_thread(rig.door.stop)
        with pytest.raises(errors.Unreachable):
            await parts.transfer.probe("door")
        rig.download.rmdir()
        with pytest.raises(errors.MountMissing):
            await parts.transfer.probe("destination")


# --- several at once ----------------------------------------------------------------------------------------------


async def test_never_more_downloads_than_configured(rig: Rig) -> None:
    async with rig.running(dcache={"maxdownloads": 3}):
        rig.door.faults.add(Fault("pool", delay_seconds=0.02))
        deliveries = [rig.upload(f"{number}.tar", samples.content(300_000, number))[1] for number in range(30)]
        assert await rig.ends(*deliveries) == ["landed"] * 30
    assert rig.door.running_max <= 3


async def test_what_is_told_to_stop_leaves_no_part_and_no_row(rig: Rig) -> None:
    async with rig.running(dcache={"stallseconds": 60, "timeout": 60}) as parts:
        rig.door.faults.add(Fault("pool", stall_after=50_000))
        deliveries = [rig.upload(f"{number}.tar", CONTENT)[1] for number in range(20)]
        await until(lambda: len(rig.parts()) == 10, "ten bodies")
        assert len(parts.transfer.part_names) >= 10
        began = time.monotonic()
        await parts.dispatcher.drain(0.1)
        assert time.monotonic() - began < 20
        assert parts.copier.running == 0
    assert {delivery.settled for delivery in deliveries} == {None}
    assert not rig.parts()
    assert not rig.rows()


async def test_a_hint_about_another_upload_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "look_wait_seconds", lambda _: 3600.0)
    async with rig.running(dcache={"visibleseconds": 7200}):
        _, delivery = rig.upload(NAME, CONTENT, staged=True)
        await until(lambda: rig.asked("HEAD", NAME), "the first look")
        rig.hint(samples.remove(ROOT + f"{FOLDER}/{NAME}", 10, "B" * 36))
        _, other = rig.upload("other.tar", CONTENT)
        assert await rig.ends(other) == ["landed"]
        assert delivery.settled is None
        assert len(rig.asked("HEAD", NAME)) == 1
