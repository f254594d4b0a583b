# ruff: noqa: ASYNC240 - the files of these tests are small and on no hung disk
from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcalqr import errors
from dcalqr.local import failedtask, failures
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.failures import DoneFile, FailedTasksFile, UnreadableFile

REPOSITORY = Path(__file__).parents[2]
PATH = "/pnfs/in2p3.fr/data/lsst/f.fits"
ROW = FailedTask(
    id="f9c82897-0976-ed88-61d8-0db305308527",
    time=1579798034.25,
    task="transfer",
    topic="billingEGEE",
    partition=0,
    offset=42,
    date=1579798033.5,
    pnfsid="0000A1B2",
    path=PATH,
    transferpath="/upload/1/x/f.fits",
    size=1000,
    attempts=11,
    error_class="transient",
    http_status=503,
    message="gave up after 11 attempts: door answered HTTP 503",
    event=b'{"msgType": "transfer"}',
)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "failed.csv"


@pytest.fixture
async def file(path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[FailedTasksFile]:
    opened = FailedTasksFile(str(path), executor)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    assert os.geteuid() == 0, "these tests mount file systems: run them as root"
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def numbered(offset: int) -> FailedTask:
    return msgspec.structs.replace(ROW, id=str(offset), offset=offset)


def rows(path: Path) -> list[FailedTask]:
    return list(failures.read_rows(str(path), path.stat().st_size))


# --- rows -------------------------------------------------------------------------------------------------------


def test_the_columns_are_those_of_the_contract() -> None:
    assert failedtask.HEADER == (
        b"id,version,time,task,topic,partition,offset,date,pnfsid,path,transferpath,size,attempts,class,http_status,"
        b"message,event\n"
    )


def test_a_row_comes_back_as_it_went(path: Path) -> None:
    assert failedtask.decode_row(failedtask.encode_row(ROW)[:-1]) == ROW


_TEXT = st.text(st.characters(exclude_categories=()))
_WHEN = st.integers(0, 2**32 * 1000).map(lambda milliseconds: milliseconds / 1000)


@given(
    st.builds(
        FailedTask,
        id=_TEXT,
        version=st.just(1),
        time=_WHEN,
        task=_TEXT,
        topic=_TEXT,
        partition=st.integers(-1, 2**31 - 1),
        offset=st.integers(-1, 2**63 - 1),
        date=st.none() | _WHEN,
        pnfsid=_TEXT,
        path=_TEXT,
        transferpath=_TEXT,
        size=st.none() | st.integers(0, 2**63 - 1),
        attempts=st.integers(0, 1000),
        error_class=_TEXT,
        http_status=st.none() | st.integers(100, 599),
        message=_TEXT,
        event=st.binary(),
    )
)
def test_any_row_is_one_line_of_harmless_cells_and_comes_back(row: FailedTask) -> None:
    line = failedtask.encode_row(row)
    assert line.count(b"\n") == 1
    assert line.isascii()
    (cells,) = csv.reader([line.decode("ascii")])
    assert len(cells) == 17
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", " ", "'", '"')) for cell in cells)
    assert not set(line) & set(b"\"';=+@\t\r")
    assert failedtask.decode_row(line[:-1]) == row


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "a;=1", "a\n=1", "a\t=1", "a -1"])
def test_no_name_becomes_a_formula_whatever_the_separator(name: str) -> None:
    encoded = failedtask.percent_encode(name.encode()).decode()
    for cell in encoded.replace(";", " ").replace(",", " ").split(" "):
        assert not cell.startswith(("=", "+", "-", "@"))


def test_a_record_above_64_kib_is_left_out_and_one_of_64_kib_is_kept() -> None:
    for size, kept in ((failedtask.EVENT_LIMIT_BYTES, True), (failedtask.EVENT_LIMIT_BYTES + 1, False)):
        record = b"\xff" * size
        again = failedtask.decode_row(failedtask.encode_row(msgspec.structs.replace(ROW, event=record))[:-1])
        assert again.event == (record if kept else b"")


def test_the_row_alone_rebuilds_the_event() -> None:
    event = ROW.to_event()
    assert (event.path, event.transfer_path, event.pnfsid, event.size_bytes) == (
        PATH,
        ROW.transferpath,
        "0000A1B2",
        1000,
    )
    assert event.date == ROW.date
    assert event.write
    assert event.code == 0


def test_a_date_no_calendar_has_is_left_out() -> None:
    again = failedtask.decode_row(failedtask.encode_row(msgspec.structs.replace(ROW, date=1e18))[:-1])
    assert again.date is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b",42,", b",forty-two,"),
        (b",42,", b",42,43,"),
        (b",1,2020", b",2,2020"),
        (b"2020-01-23T", b"yesterday"),
        (b"/f.fits", b"/%FF"),
    ],
)
async def test_a_malformed_row_is_named_by_its_line(file: FailedTasksFile, path: Path, old: bytes, new: bytes) -> None:
    await file.append(ROW)
    await file.append(ROW)
    first, line, last = path.read_bytes().splitlines(keepends=True)
    assert line.replace(old, new) != line
    path.write_bytes(first + line + last.replace(old, new))
    reader = failures.read_rows(str(path), path.stat().st_size)
    assert next(reader) == ROW
    with pytest.raises(errors.BadData, match="line 3"):
        next(reader)


def test_a_file_with_another_header_is_no_replay(path: Path) -> None:
    path.write_bytes(b"the first dcalqr's file\n")
    with pytest.raises(errors.BadData, match="line 1"):
        rows(path)


async def test_reading_stops_at_the_length_taken_at_the_start(file: FailedTasksFile, path: Path) -> None:
    await file.append(numbered(1))
    length = failures.complete_length(str(path))
    with path.open("ab") as other:
        other.write(b"torn")
    assert failures.complete_length(str(path)) == length
    assert [row.offset for row in failures.read_rows(str(path), length)] == [1]
    with pytest.raises(errors.BadData, match="line 3"):
        rows(path)


# --- appending --------------------------------------------------------------------------------------------------


async def test_a_new_file_has_its_header_and_is_not_for_everybody(file: FailedTasksFile, path: Path) -> None:
    assert path.read_bytes() == failedtask.HEADER
    assert path.stat().st_mode & 0o007 == 0


async def test_rows_of_several_runs_stand_in_order(path: Path, executor: ThreadPoolExecutor) -> None:
    for offset in range(3):
        file = FailedTasksFile(str(path), executor)
        await file.open()
        await file.append(numbered(offset))
        await file.close()
        await file.close()
    assert [row.offset for row in rows(path)] == [0, 1, 2]


async def test_an_append_is_synced_before_it_returns(
    file: FailedTasksFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        real_fsync(fd)
        synced.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    await file.append(ROW)
    assert synced == [path.stat().st_size]


async def test_a_thousand_appends_at_once_share_a_few_syncs_and_lose_none(
    file: FailedTasksFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        calls.append(fd)
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await asyncio.gather(*(file.append(numbered(offset)) for offset in range(1000)))
    assert sorted(row.offset for row in rows(path)) == list(range(1000))
    assert len(calls) < 100


async def test_a_caller_who_is_cancelled_harms_no_other(file: FailedTasksFile, path: Path) -> None:
    tasks = [asyncio.create_task(file.append(numbered(offset))) for offset in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await file.append(numbered(1000))
    assert {*range(1, 100, 2), 1000} <= {row.offset for row in rows(path)}


async def test_close_waits_for_appends_under_way(file: FailedTasksFile, path: Path) -> None:
    task = asyncio.create_task(file.append(ROW))
    await asyncio.sleep(0)
    await file.close()
    assert rows(path) == [ROW]
    await task


async def test_a_second_instance_is_told_to_put_the_instance_into_the_path(
    file: FailedTasksFile, path: Path, executor: ThreadPoolExecutor
) -> None:
    with pytest.raises(errors.CannotCreate, match=r"\{instance\}") as caught:
        await FailedTasksFile(str(path), executor).open()
    assert caught.value.exit_code == 73


@pytest.mark.parametrize(
    "content", [b"the first dcalqr's line\n", b"x", failedtask.HEADER[:-1] + b",more\n", b"id,ver\n"]
)
async def test_a_file_that_is_not_ours_is_neither_appended_to_nor_cut(
    path: Path, executor: ThreadPoolExecutor, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(errors.CannotCreate, match="move the file away"):
        await FailedTasksFile(str(path), executor).open()
    assert path.read_bytes() == content


@pytest.mark.parametrize("torn", [b"half a row", b"x" * 200_000])
async def test_a_torn_tail_is_cut_at_open(path: Path, executor: ThreadPoolExecutor, torn: bytes) -> None:
    path.write_bytes(failedtask.HEADER + failedtask.encode_row(ROW) + torn)
    file = FailedTasksFile(str(path), executor)
    await file.open()
    await file.append(ROW)
    await file.close()
    assert rows(path) == [ROW, ROW]


async def test_a_torn_header_is_written_anew(path: Path, executor: ThreadPoolExecutor) -> None:
    path.write_bytes(failedtask.HEADER[:20])
    file = FailedTasksFile(str(path), executor)
    await file.open()
    await file.close()
    assert path.read_bytes() == failedtask.HEADER


async def test_a_full_disk_is_no_space_and_tears_nothing(small: Path, executor: ThreadPoolExecutor) -> None:
    path = small / "failed.csv"
    file = FailedTasksFile(str(path), executor)
    await file.open()
    big = msgspec.structs.replace(ROW, event=b"\xff" * 20_000)
    appended = 0
    with contextlib.suppress(errors.NoSpace):
        while appended < 100:  # some six of these fill the disk
            await file.append(big)
            appended += 1
    assert rows(path) == [big] * appended
    await file.append(ROW)
    await file.close()
    assert rows(path) == [big] * appended + [ROW]
    assert 1 < appended < 100


async def test_all_who_waited_for_a_failed_append_hear_of_it(
    file: FailedTasksFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        results = await asyncio.gather(*(file.append(numbered(n)) for n in range(10)), return_exceptions=True)
    assert [type(result) for result in results] == [errors.WriteFailed] * 10
    assert rows(path) == []
    await file.append(ROW)
    assert rows(path) == [ROW]


async def test_a_tail_that_could_not_be_cut_is_cut_before_the_next_append(
    file: FailedTasksFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "I/O error")

    raw = file._appender._file
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        patch.setattr(raw, "truncate", refuse, raising=False)
        with pytest.raises(errors.WriteFailed):
            await file.append(numbered(1))
    assert path.stat().st_size > len(failedtask.HEADER)
    await file.append(numbered(2))
    assert [row.offset for row in rows(path)] == [2]


async def test_a_row_goes_to_the_path_when_the_file_is_moved_away(file: FailedTasksFile, path: Path) -> None:
    await file.append(numbered(1))
    path.rename(path.with_suffix(".old"))
    await file.append(numbered(2))
    await file.append(numbered(3))
    assert [row.offset for row in rows(path)] == [2, 3]
    assert rows(path.with_suffix(".old"))[0].offset == 1


async def test_another_file_under_the_path_is_not_appended_to(file: FailedTasksFile, path: Path) -> None:
    path.unlink()
    path.write_bytes(b"not ours\n")
    with pytest.raises(errors.WriteFailed, match="move the file away"):
        await file.append(ROW)
    assert path.read_bytes() == b"not ours\n"
    path.unlink()
    await file.append(ROW)
    assert rows(path) == [ROW]


async def test_an_emptied_file_gets_its_header_and_newest_rows_again(file: FailedTasksFile, path: Path) -> None:
    await file.append(numbered(1))
    os.truncate(path, 0)
    await file.append(numbered(2))
    assert [row.offset for row in rows(path)] == [1, 2]
    assert await file.look() == [("emptied", 1, "")]


async def test_a_folder_that_is_missing_is_said_at_open(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(errors.CannotCreate):
        await FailedTasksFile(str(tmp_path / "absent/failed.csv"), executor).open()


async def test_a_folder_that_is_forbidden_is_said_at_open(path: Path, executor: ThreadPoolExecutor) -> None:
    path.parent.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(errors.NoPermission):
            await FailedTasksFile(str(path), executor).open()
    finally:
        os.seteuid(0)


def test_a_kill_in_the_middle_of_appends_leaves_whole_rows_only(path: Path) -> None:
    program = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.failures import FailedTasksFile
import msgspec

async def main():
    file = FailedTasksFile(sys.argv[1], ThreadPoolExecutor(1))
    row = msgspec.json.decode(sys.argv[2], type=FailedTask)
    await file.open()
    for offset in range(10**9):
        await file.append(msgspec.structs.replace(row, offset=offset))
        print(offset, flush=True)

asyncio.run(main())
"""
    row = msgspec.json.encode(msgspec.structs.replace(ROW, event=b"x" * 60_000)).decode()
    command = [sys.executable, "-c", program, str(path), row]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert child.stdout is not None
    for _ in range(20):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    told = int(([*rest.split()] or ["19"])[-1])
    with path.open("ab") as torn:
        torn.write(failedtask.encode_row(ROW)[:50])
    asyncio.run(reopen(path))
    offsets = [row.offset for row in rows(path)]
    assert offsets == list(range(len(offsets)))
    assert offsets[-1] >= told


async def reopen(path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        file = FailedTasksFile(str(path), executor)
        await file.open()
        await file.close()


# --- the neighbours ---------------------------------------------------------------------------------------------


async def test_an_unreadable_record_is_kept_byte_for_byte(path: Path, executor: ThreadPoolExecutor) -> None:
    file = UnreadableFile(str(path), executor)
    await file.open()
    records = [b"", b'{"a', b"\xff\x00\n=", b"x" * 2_000_000]
    for offset, record in enumerate(records):
        await file.append(topic="t", partition=3, offset=offset, time=ROW.time, reason="json", record=record)
    await file.close()
    assert file.path == str(path.with_suffix(".unreadable"))
    lines = [msgspec.json.decode(line) for line in Path(file.path).read_bytes().splitlines()]
    assert [unquote_to_bytes(line["record"]) for line in lines] == records
    assert lines[0]["time"] == "2020-01-23T16:47:14.250000Z"
    assert [(line["topic"], line["partition"], line["offset"], line["reason"]) for line in lines] == [
        ("t", 3, offset, "json") for offset in range(4)
    ]


async def test_what_a_replay_is_done_with_is_known_to_the_next(path: Path, executor: ThreadPoolExecutor) -> None:
    ids = {"f9c82897", "odd,\n=id"}
    first = DoneFile(str(path), executor)
    await first.open()
    assert first.done == set()
    for row_id in ids:
        await first.add(row_id)
    assert first.done == ids
    await first.close()
    second = DoneFile(str(path), executor)
    await second.open()
    assert second.done == ids
    with pytest.raises(errors.CannotCreate):
        await DoneFile(str(path), executor).open()
    await second.close()
    assert second.path == f"{path}.done"


async def test_a_path_that_is_no_file_is_refused_at_once(path: Path, executor: ThreadPoolExecutor) -> None:
    os.mkfifo(path)
    with pytest.raises(errors.CannotCreate):
        await FailedTasksFile(str(path), executor).open()
