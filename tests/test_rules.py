"""The twelve rules of the design, each with tests that fail without it.

Where it is cheap the same test runs a second time with the rule taken away, and must then see the harm: `without`.

==== =============================================================== ==================================================
rule tests here                                                      tests elsewhere
==== =============================================================== ==================================================
1    test_an_orphan_never_puts_the_old_version_over_the_new_one      local/test_landing.py:
                                                                     test_a_file_that_appeared_since_the_plan_is_never_overwritten
                                                                     test_a_version_that_changed_since_the_plan_is_not_replaced
2    test_a_redelivery_after_a_restart_costs_no_request              local/test_landing.py:
     test_a_file_whose_attributes_are_gone_is_known_by_its_sum       test_attributes_that_no_longer_fit_are_not_believed
     test_equal_size_is_never_taken_for_the_same_file
     test_a_file_that_was_changed_here_is_copied_again
     test_a_file_that_cannot_be_made_durable_is_copied_again
3    test_versions_in_any_order_end_with_what_the_door_holds         test_inflight.py:
     test_versions_one_after_another_end_with_what_the_door_holds    test_what_joined_before_the_try_is_settled_by_it
     test_a_later_version_makes_the_task_run_once_more
4    test_a_staged_overwrite_is_not_taken_for_the_old_file
     test_a_staged_upload_that_is_late_leaves_a_copy_and_a_row
     test_the_commit_message_wakes_who_waits
5    test_a_length_that_differs_costs_no_body
6    test_a_plain_upload_that_is_not_there_is_gone_without_a_row
     test_a_staged_upload_that_never_appears_is_a_row
     test_a_staged_upload_that_was_removed_is_gone
     test_a_staged_overwrite_that_was_removed_is_gone
7                                                                    kafka/test_membership.py:
                                                                     test_the_tail_of_an_older_batch_is_dropped_whole
                                                                     test_a_batch_cut_by_a_rebalance_is_read_again_from_the_committed_offset
                                                                     kafka/test_consumer.py:
                                                                     test_what_is_open_at_a_rebalance_comes_again_and_late_ends_move_nothing
                                                                     kafka/test_offsets_machine.py:
                                                                     test_a_late_ack_never_closes_the_same_offset_of_another_assignment
8    test_a_thousand_duplicates_are_one_get
     test_failures_are_not_remembered
9    test_nothing_is_settled_before_its_row_is_durable               local/test_failures.py:
                                                                     test_a_torn_tail_is_cut_at_open
                                                                     test_a_row_goes_to_the_path_when_the_file_is_moved_away
                                                                     test_a_second_instance_is_told_to_put_the_instance_into_the_path
10   test_a_refused_credential_holds_until_it_is_renewed
     test_403_for_one_file_is_a_row_and_for_the_folder_a_hold
     test_an_unreachable_door_is_waited_for
     test_a_full_disk_is_waited_for
     test_a_read_only_file_system_is_waited_for
     test_a_mount_that_went_away_is_waited_for
11   test_whoever_waits_takes_no_slot
12                                                                   test_daemon.py:
                                                                     test_a_group_whose_offsets_are_gone_halts_whatever_startfrom_says
                                                                     kafka/test_startpoints.py:
                                                                     test_a_group_that_had_offsets_halts_although_startfrom_says_latest
                                                                     kafka/test_membership.py:
                                                                     test_a_partition_whose_offset_is_gone_is_halted_and_named_and_the_others_go_on
==== =============================================================== ==================================================
"""

from __future__ import annotations

import ast
import asyncio
import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcalqr import dispatcher, errors, transfer
from dcalqr.delivery import rows
from dcalqr.inflight import Job
from dcalqr.local import attributes, landing, publish, standing
from dcalqr.orders import CopyOrder
from dcalqr.service import assembly
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from tests.support.rig import Rig, until
from tests.support.site import FOLDER

NAME = "23003/fits_1.tar"
# Raw images have constant sizes.
OLD, NEW, NEWER = b"o" * 200_000, b"n" * 200_000, b"x" * 200_000

without = pytest.mark.parametrize("rule", [True, False], ids=["", "without"])


@pytest.fixture
def disk(rig: Rig) -> Iterator[Path]:
    """The download folder, mounted: 4 MiB of memory."""
    mount(rig.download)
    yield rig.download
    umount(rig.download)


def mount(folder: Path, size: str = "4m") -> None:
    assert os.geteuid() == 0, "these tests mount file systems: run them as root"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def umount(folder: Path) -> None:
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free; returns the file to remove."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 65536):
                pass
        except OSError:
            return ballast
    raise AssertionError("a file system without an end")


# Where a test puts something in the place of what attempts do.
IN_THIS_PROCESS = {"workers": 0}


def strip(path: Path) -> None:
    """Take the attributes away, as tar and cp do."""
    for name in os.listxattr(path):
        os.removexattr(path, name)


# --- 1: publish only over what the plan saw -----------------------------------------------------------------------


@without
@pytest.mark.parametrize("planned_on", [None, OLD], ids=["nothing", "a-file"])
async def test_an_orphan_never_puts_the_old_version_over_the_new_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, planned_on: bytes | None, *, rule: bool
) -> None:
    if not rule:
        monkeypatch.setattr(publish, "rename", rename_over_anything)
    final = rig.download / NAME
    final.parent.mkdir()
    if planned_on:
        final.write_bytes(planned_on)
    async with rig.running(dcache={"stallseconds": 60, "timeout": 60, **IN_THIS_PROCESS}):
        rig.door.faults.add(Fault("pool", stall_after=150_000))
        first, delivery = rig.upload(NAME, NEW)
        await until(rig.parts, "the orphan's body")
        another_node = rig.download / "another-node"
        rig.door.put(first.path, NEWER)
        another_node.write_bytes(NEWER)
        another_node.rename(final)
        rig.door.calm()
        ends = await rig.ends(delivery)
    assert rig.landed(NAME) == (NEWER if rule else NEW)
    assert ends == (["replaced"] if rule else ["landed"])
    assert not rig.parts()


def rename_over_anything(fd: int, order: CopyOrder) -> None:
    os.rename(order.part_name, order.final_name, src_dir_fd=fd, dst_dir_fd=fd)


# --- 2: already there ---------------------------------------------------------------------------------------------


async def test_a_redelivery_after_a_restart_costs_no_request(rig: Rig) -> None:
    async with rig.running():
        file, delivery = rig.upload(NAME, NEW)
        assert await rig.ends(delivery) == ["landed"]
    before = len(rig.door.requests)
    async with rig.running():
        assert await rig.ends(rig.deliver(file)) == ["already"]
    assert len(rig.door.requests) == before


async def test_a_file_whose_attributes_are_gone_is_known_by_its_sum(rig: Rig) -> None:
    async with rig.running():
        file, delivery = rig.upload(NAME, NEW)
        await rig.ends(delivery)
    strip(rig.download / NAME)
    async with rig.running():
        assert await rig.ends(rig.deliver(file)) == ["already"]
    assert len(rig.asked("GET")) == 1
    assert len(rig.asked("HEAD")) == 1


async def test_an_old_version_that_is_here_does_not_settle_the_new_one(rig: Rig) -> None:
    async with rig.running():
        old, delivery = rig.upload(NAME, b"o" * 1000)
        await rig.ends(delivery)
    new = rig.put(NAME, b"n" * 1000)
    async with rig.running():  # nothing is remembered: the two join one job, the older one last
        ends = await rig.ends(*[rig.deliver(file) for file in (new, old)])
        assert sorted(ends) == ["landed", "replaced"]
    assert rig.landed(NAME) == b"n" * 1000


@without
async def test_equal_size_is_never_taken_for_the_same_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, rule: bool
) -> None:
    if not rule:

        async def same_size(_: object, plan: transfer.Plan) -> bool:
            return bool(plan.existing and plan.shown and plan.existing.size_bytes == plan.shown.size_bytes)

        monkeypatch.setattr(transfer.Transfer, "_same_bytes", same_size)
    final = rig.download / NAME
    final.parent.mkdir()
    final.write_bytes(OLD)
    async with rig.running():
        _, delivery = rig.upload(NAME, NEW)
        assert await rig.ends(delivery) == (["landed"] if rule else ["already"])
    assert rig.landed(NAME) == (NEW if rule else OLD)


async def test_a_file_that_cannot_be_made_durable_is_copied_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig.running():
        file, delivery = rig.upload(NAME, NEW)
        await rig.ends(delivery)
    monkeypatch.setattr(standing, "_is_synced", lambda *_: False)
    async with rig.running():
        assert await rig.ends(rig.deliver(file)) == ["landed"]
    assert len(rig.asked("GET")) == 2


@without
async def test_a_file_that_was_changed_here_is_copied_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, rule: bool
) -> None:
    if not rule:
        names = attributes.XATTR_PNFSID, attributes.XATTR_ADLER32

        def believed(fd: int, _: os.stat_result) -> attributes.Attributes:
            pnfsid, adler32 = (os.getxattr(fd, name).decode() for name in names)
            return attributes.Attributes(pnfsid, int(adler32, 16))

        monkeypatch.setattr(attributes, "read", believed)
    async with rig.running():
        file, delivery = rig.upload(NAME, NEW)
        await rig.ends(delivery)
    with (rig.download / NAME).open("r+b") as landed:
        landed.write(b"somebody else")
    async with rig.running():
        assert await rig.ends(rig.deliver(file)) == (["landed"] if rule else ["already"])
    assert (rig.landed(NAME) == NEW) is rule


# --- 3: the door decides between versions -------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_versions_in_any_order_end_with_what_the_door_holds(rig: Rig, order: tuple[int, ...]) -> None:
    files = [rig.put(NAME, content) for content in (OLD, NEW, NEWER)]
    async with rig.running():
        deliveries = {place: rig.deliver(files[place]) for place in order}
        ends = await rig.ends(*(deliveries[place] for place in range(3)))
    assert rig.landed(NAME) == NEWER
    assert ends == ["replaced", "replaced", "landed"]
    assert len(rig.asked("GET")) == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_versions_one_after_another_end_with_what_the_door_holds(rig: Rig, order: tuple[int, ...]) -> None:
    files = [rig.put(NAME, content) for content in (OLD, NEW, NEWER)]
    ends = {}
    async with rig.running():
        for place in order:
            ends[place] = (await rig.ends(rig.deliver(files[place])))[0]
    assert rig.landed(NAME) == NEWER
    # The first of an old version cannot know; its length and sum are those of what the door holds.
    assert ends[2] in ("landed", "already")
    assert len(rig.asked("GET")) == 1


@without
async def test_a_later_version_makes_the_task_run_once_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, rule: bool
) -> None:
    if not rule:
        monkeypatch.setattr(Job, "covered", lambda job: list(job.deliveries))
    async with rig.running(dcache={"stallseconds": 60, "timeout": 60}):
        rig.door.faults.add(Fault("pool", stall_after=150_000, times=1))
        first, delivery = rig.upload(NAME, OLD)
        await until(rig.parts, "the first body")
        again = rig.deliver(first)
        _, later = rig.upload(NAME, NEW)
        rig.door.calm()
        ends = await rig.ends(delivery, again, later)
    assert ends[:2] == ["landed", "already"]
    assert ends[2] == ("landed" if rule else "replaced")
    assert rig.landed(NAME) == (NEW if rule else OLD)
    assert len(rig.asked("GET")) == (2 if rule else 1)


# --- 4: a staged upload -------------------------------------------------------------------------------------------


@without
async def test_a_staged_overwrite_is_not_taken_for_the_old_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, rule: bool
) -> None:
    if not rule:
        monkeypatch.setattr(transfer, "is_shown", lambda *_: True)
    rig.put(NAME, OLD)
    async with rig.running(dcache={"visibleseconds": 60}):
        file, delivery = rig.upload(NAME, NEW, staged=True)
        if rule:
            await until(lambda: len(rig.asked("HEAD", NAME)) >= 2, "a second look")
            assert rig.landed(NAME) is None
            rig.door.commit(file.path)
        assert await rig.ends(delivery) == (["landed"] if rule else ["replaced"])
    assert rig.landed(NAME) == (NEW if rule else OLD)
    assert not rig.rows()


@pytest.mark.parametrize("had", [None, OLD], ids=["nothing-here", "the-same-here"])
async def test_a_staged_upload_that_is_late_leaves_a_copy_and_a_row(rig: Rig, had: bytes | None) -> None:
    rig.put(NAME, OLD)
    if had:
        (rig.download / NAME).parent.mkdir()
        (rig.download / NAME).write_bytes(had)
    async with rig.running(dcache={"visibleseconds": 1}):
        file, delivery = rig.upload(NAME, NEW, staged=True)
        assert await rig.ends(delivery) == ["failed"]
    assert rig.landed(NAME) == OLD
    assert [(row.error_class, row.pnfsid) for row in rig.rows()] == [("never_visible", file.pnfsid)]
    assert len(rig.asked("GET")) == (0 if had else 1)


async def test_the_commit_message_wakes_who_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "look_wait_seconds", lambda _: 3600.0)
    async with rig.running(dcache={"visibleseconds": 7200}):
        file, delivery = rig.upload(NAME, NEW, staged=True)
        await until(lambda: rig.asked("HEAD", NAME), "the first look")
        rig.commit(file)
        assert await rig.ends(delivery) == ["landed"]
    assert rig.landed(NAME) == NEW


# --- 5: Content-Length against the event, before the body ---------------------------------------------------------


async def test_a_length_that_differs_costs_no_body(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    create = landing.Part.create

    def counted(root_fd: int, order: CopyOrder) -> landing.Part:
        made.append(order.size_bytes)
        return create(root_fd, order)

    monkeypatch.setattr(landing.Part, "create", counted)
    old = rig.put(NAME, b"short")
    new = rig.put(NAME, NEW)
    async with rig.running(dcache=IN_THIS_PROCESS):
        assert await rig.ends(rig.deliver(old)) == ["replaced"]
        assert rig.landed(NAME) == NEW
        assert made == [len(NEW)]
        assert len(rig.asked("HEAD")) == 1
        assert await rig.ends(rig.deliver(new)) == ["already"]
    assert len(rig.asked("GET")) == 2


# --- 6: 404 at the deadline ---------------------------------------------------------------------------------------


async def test_a_plain_upload_that_is_not_there_is_gone_without_a_row(rig: Rig) -> None:
    async with rig.running(dcache={"visibleseconds": 1, "retrytimes": 0}):
        file = rig.put(NAME, NEW)
        rig.door.remove(file.path)
        assert await rig.ends(rig.deliver(file)) == ["gone"]
    assert len(rig.asked("GET")) == 1
    assert len(rig.asked("HEAD")) >= 2
    assert not rig.rows()


async def test_a_staged_upload_that_never_appears_is_a_row(rig: Rig) -> None:
    async with rig.running(dcache={"visibleseconds": 1, "retrytimes": 0}):
        _, delivery = rig.upload(NAME, NEW, staged=True)
        assert await rig.ends(delivery) == ["failed"]
    assert [(row.error_class, row.http_status) for row in rig.rows()] == [("never_visible", 404)]
    assert not rig.asked("GET")


async def test_a_staged_upload_that_was_removed_is_gone(rig: Rig) -> None:
    async with rig.running(dcache={"visibleseconds": 3600}):
        file, delivery = rig.upload(NAME, NEW, staged=True)
        await until(lambda: rig.asked("HEAD", NAME), "the first look")
        rig.removed(file)
        assert await rig.ends(delivery) == ["gone"]
    assert not rig.rows()


async def test_a_staged_overwrite_that_was_removed_is_gone(rig: Rig) -> None:
    rig.put(NAME, OLD)
    async with rig.running(dcache={"visibleseconds": 3600}):
        file, delivery = rig.upload(NAME, NEW, staged=True)
        await until(lambda: rig.asked("HEAD", NAME), "the first look")
        rig.removed(file)
        assert await rig.ends(delivery) == ["gone"]
    assert not rig.rows()


# --- 8: a job lives while one of its deliveries lives -------------------------------------------------------------


async def test_a_thousand_duplicates_are_one_get(rig: Rig) -> None:
    async with rig.running() as parts:
        file, first = rig.upload(NAME, NEW)
        deliveries = [first, *(rig.deliver(file) for _ in range(499))]
        await rig.ends(first)
        deliveries += [rig.deliver(file) for _ in range(500)]
        ends = await rig.ends(*deliveries)
        assert parts.dispatcher.window.open == 0
        assert not parts.dispatcher.inflight.jobs
    assert (ends.count("landed"), ends.count("already")) == (1, 999)
    assert len(rig.asked("GET")) == 1


async def test_failures_are_not_remembered(rig: Rig) -> None:
    async with rig.running(dcache={"retrytimes": 0}):
        rig.door.faults.add(Fault("door", method="GET", status=500, times=1))
        file, delivery = rig.upload(NAME, NEW)
        assert await rig.ends(delivery) == ["failed"]
        assert await rig.ends(rig.deliver(file)) == ["landed"]
    assert len(rig.rows()) == 1


# --- 9: the row before the ack ------------------------------------------------------------------------------------


@without
async def test_nothing_is_settled_before_its_row_is_durable(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, rule: bool
) -> None:
    monkeypatch.setattr(rows, "ROW_RETRY_SECONDS", 0.05)
    if not rule:

        async def hopeful(writer: rows.RowWriter, row: Any, _: Any) -> None:
            try:
                await writer.append(row)
            except errors.TryError:
                return

        monkeypatch.setattr(dispatcher, "write_row", hopeful)
    small = tmp_path / "small"
    small.mkdir()
    mount(small, "64k")
    rig.settings["local"] |= {"failedtasksfile": str(small / "failed.csv"), "statefolder": str(tmp_path / "state")}
    try:
        async with rig.running(dcache={"retrytimes": 0}) as parts:
            ballast = fill(small)
            said = watch_rows(monkeypatch, parts)
            rig.door.faults.add(Fault("door", method="GET", status=500))
            # More than the file's last page has room for.
            delivery = rig.deliver(rig.put(NAME, NEW), record=b"x" * 8192)
            if not rule:
                assert await rig.ends(delivery) == ["failed"]
                assert not rig.rows()
                return
            await until(lambda: len(said) >= 2, "two appends that fail")
            assert delivery.settled is None
            ballast.unlink()
            assert await rig.ends(delivery) == ["failed"]
            assert [row.path for row in rig.rows()] == [delivery.event.path]
    finally:
        umount(small)


def watch_rows(monkeypatch: pytest.MonkeyPatch, parts: assembly.Assembly) -> list[errors.TryError]:
    """Return the list in which the errors of appends will be."""
    failed: list[errors.TryError] = []
    append = parts.rows.append

    async def watched(row: Any) -> None:
        try:
            await append(row)
        except errors.TryError as error:
            failed.append(error)
            raise

    monkeypatch.setattr(parts.rows, "append", watched)
    return failed


# --- 10: holds ----------------------------------------------------------------------------------------------------


def reason_held(parts: assembly.Assembly) -> str:
    return ",".join(hold.reason for hold in parts.dispatcher.holding.holds.active.values())


async def test_a_refused_credential_holds_until_it_is_renewed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(assembly, "CREDENTIALS_SECONDS", 0.1)
    proxy = rig.pki.new_proxy(tmp_path / "proxy")
    async with rig.running(local={"proxy": str(proxy)}, dcache={"retrytimes": 0}) as parts:
        watching = asyncio.create_task(parts.watch_credentials())
        rig.door.accept_only_after(time.time_ns())
        deliveries = [rig.upload(f"{number}.tar", NEW)[1] for number in range(3)]
        await until(lambda: reason_held(parts) == "credential", "the hold")
        # A file whose 401 is judged after the renewal is rightly put down to the file: see that each was judged before.
        await until(lambda: sum(each.path.rstrip("/") == FOLDER for each in rig.door.requests) >= 3, "three judgements")
        rig.pki.new_proxy(proxy)
        assert await rig.ends(*deliveries) == ["landed"] * 3
        watching.cancel()
        assert parts.counters.holds["credential"] == 1
        assert not parts.counters.retries
    assert not rig.rows()


async def test_403_for_one_file_is_a_row_and_for_the_folder_a_hold(rig: Rig) -> None:
    async with rig.running(dcache={"retrytimes": 0}) as parts:
        rig.door.faults.add(Fault("door", path=f"{FOLDER}/private.tar", status=403))
        _, private = rig.upload("private.tar", NEW)
        _, other = rig.upload("other.tar", NEW)
        assert await rig.ends(private, other) == ["failed", "landed"]
        assert [row.error_class for row in rig.rows()] == ["forbidden"]
        rig.door.calm()
        rig.door.faults.add(Fault("door", status=403))
        _, held = rig.upload("held.tar", NEW)
        await until(lambda: reason_held(parts) == "credential", "the hold")
        rig.door.calm()
        assert await rig.ends(held) == ["landed"]
    assert len(rig.rows()) == 1


@without
async def test_an_unreachable_door_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch, *, rule: bool) -> None:
    monkeypatch.setattr(dispatcher, "UNREACHABLE_WAIT_SECONDS", 0.1)
    if not rule:

        async def as_any_other(self: dispatcher.Dispatcher, job: Job, context: Any, error: errors.HeldError) -> None:
            await self._retry(job, context, errors.TransientError(why=str(error)))

        monkeypatch.setattr(dispatcher.Dispatcher, "_held", as_any_other)
    async with rig.running(dcache={"retrytimes": 2}) as parts:
        await asyncio.to_thread(rig.door.stop)
        deliveries = [rig.upload(f"{number}.tar", NEW)[1] for number in range(4)]
        if rule:
            await until(lambda: reason_held(parts) == "unreachable", "the hold")
            rig.door.start()
        ends = await rig.ends(*deliveries)
    assert ends == ["landed" if rule else "failed"] * 4
    assert len(rig.rows()) == (0 if rule else 4)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_full_disk_is_waited_for(rig: Rig, disk: Path, when: str) -> None:
    settings = {"retrytimes": 0, "stallseconds": 60, "timeout": 60}
    async with rig.running(dcache=settings, local={"minfree": 5}) as parts:
        ballast = fill(disk) if when == "before" else disk / "ballast"
        rig.door.faults.add(Fault("pool", stall_after=150_000))
        _, delivery = rig.upload(NAME, NEW)
        if when == "meanwhile":
            await until(rig.parts, "the body")
            fill(disk)
            rig.door.calm()
        await until(lambda: reason_held(parts) == "space", "the hold")
        assert not rig.parts()
        ballast.unlink()
        rig.door.calm()
        assert await rig.ends(delivery) == ["landed"]
    assert rig.landed(NAME) == NEW
    assert not rig.rows()


async def test_a_file_that_alone_does_not_fit_holds_no_other(
    rig: Rig, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "ROOM_LOOK_SECONDS", 0.05)
    async with rig.running(dcache={"retrytimes": 0}) as parts:
        _, large = rig.upload("large.tar", samples.content(5 << 20))
        _, small = rig.upload("small.tar", NEW)
        assert await rig.ends(small) == ["landed"]
        assert large.settled is None
        assert not parts.dispatcher.holding.holds
        remount(disk, "size=8m")
        assert await rig.ends(large) == ["landed"]


async def test_a_read_only_file_system_is_waited_for(rig: Rig, disk: Path) -> None:
    async with rig.running(dcache={"retrytimes": 0}) as parts:
        remount(disk, "ro")
        _, delivery = rig.upload(NAME, NEW)
        await until(lambda: reason_held(parts) == "mount", "the hold")
        remount(disk, "rw")
        assert await rig.ends(delivery) == ["landed"]
    assert not rig.rows()


async def test_a_mount_that_went_away_is_waited_for(rig: Rig, disk: Path) -> None:
    async with rig.running(dcache={"retrytimes": 0}) as parts:
        assert await rig.ends(rig.upload("first.tar", NEW)[1]) == ["landed"]
        umount(disk)
        _, delivery = rig.upload(NAME, NEW)
        await until(lambda: reason_held(parts) == "mount", "the hold")
        assert rig.landed("first.tar") is None
        mount(disk)
        assert await rig.ends(delivery) == ["landed"]
    assert rig.landed(NAME) == NEW
    assert not rig.rows()


# --- 11: waiting takes no slot ------------------------------------------------------------------------------------


async def test_whoever_waits_takes_no_slot(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "look_wait_seconds", lambda _: 3600.0)
    async with rig.running(dcache={"maxdownloads": 1, "visibleseconds": 60}) as parts:
        invisible = [rig.upload(f"{number}.tar", NEW, staged=True) for number in range(10)]
        refused = Fault("door", path=f"{FOLDER}/busy.tar", status=503, headers=(("Retry-After", "60"),))
        rig.door.faults.add(refused)
        _, busy = rig.upload("busy.tar", NEW)
        await until(lambda: parts.counters.retries["ServerError"], "a retry")
        await until(lambda: parts.dispatcher.window.invisible == 10, "ten that wait")
        assert await rig.ends(rig.upload(NAME, NEW)[1]) == ["landed"]
        assert all(delivery.settled is None for _, delivery in invisible)
        assert busy.settled is None
        for file, _ in invisible:
            rig.commit(file)
        assert set(await rig.ends(*(delivery for _, delivery in invisible))) == {"landed"}
        assert parts.dispatcher.window.invisible == 0
    assert rig.door.running_max == 1


# --- the table ----------------------------------------------------------------------------------------------------


def test_every_test_that_the_table_names_exists() -> None:
    here = Path(__file__).parent
    table = (__doc__ or "").split("\n====")[2]
    here_named: set[str] = set()
    elsewhere_named: set[str] = set()
    named = {"test_rules.py": here_named}
    for line in table.splitlines():
        here_named |= set(re.findall(r"\btest_\w+\b(?!\.py)", line[:69]))
        for elsewhere in re.findall(r"([\w/]+\.py):", line[69:]):
            elsewhere_named = named.setdefault(elsewhere, set())
        elsewhere_named |= set(re.findall(r"\btest_\w+\b(?!\.py)", line[69:]))
    for path, names in named.items():
        tree = ast.parse((here / path).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert names
        assert not names - functions
