# ruff: noqa: ASYNC240 - the files of these tests are small and on no hung disk
"""What others do to the failed-tasks file while it is open is noticed, and no row is lost by it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcalqr import errors
from dcalqr.local import failures, lines
from dcalqr.local.failedtask import HEADER, encode_row
from dcalqr.local.failures import FailedTasksFile
from tests.local.test_failures import numbered


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "failed.csv"


@pytest.fixture
async def file(path: Path, threads: ThreadPoolExecutor) -> AsyncIterator[FailedTasksFile]:
    """A file with rows 0 to 2 of a former run, and 3 to 5 of this one."""
    path.write_bytes(HEADER + b"".join(encode_row(numbered(number)) for number in range(3)))
    opened = FailedTasksFile(str(path), threads)
    await opened.open()
    for number in range(3, 6):
        await opened.append(numbered(number))
    yield opened
    await opened.close()


def offsets(path: Path) -> list[int]:
    return [row.offset for row in failures.read_rows(str(path), failures.complete_length(str(path)))]


def remove(path: Path) -> None:
    path.unlink()


def edit_by_a_new_file(path: Path) -> None:
    """As `sed -i`: what it had read, without a row, under a name of its own, and then a rename."""
    subprocess.run(["sed", "-i", "3d", path], check=True)


def edit_with_a_backup(path: Path) -> None:
    """As vim and emacs: the old file is renamed, and a new one written."""
    text = path.read_bytes().splitlines(keepends=True)
    path.rename(f"{path}~")
    path.write_bytes(b"".join(text[:-2]))


def replace_by_an_older_state(path: Path) -> None:
    shutil.copy(path, f"{path}.new")
    os.truncate(f"{path}.new", len(HEADER))
    os.rename(f"{path}.new", path)


@pytest.mark.parametrize(
    ("touch", "how", "put_back"),
    [
        (remove, "removed", 6),
        (edit_by_a_new_file, "replaced", 1),
        (edit_with_a_backup, "replaced", 2),
        (replace_by_an_older_state, "replaced", 6),
    ],
)
async def test_rows_that_a_new_file_lacks_are_put_back(
    file: FailedTasksFile, path: Path, touch: Callable[[Path], None], how: str, put_back: int
) -> None:
    touch(path)
    assert await file.look() == [(how, put_back, "")]
    assert sorted(offsets(path)) == [0, 1, 2, 3, 4, 5]
    await file.append(numbered(6))
    assert sorted(offsets(path)) == [0, 1, 2, 3, 4, 5, 6]
    assert await file.look() == []


@pytest.mark.parametrize("touch", [remove, edit_by_a_new_file, edit_with_a_backup])
async def test_an_append_notices_it_before_the_next_look(
    file: FailedTasksFile, path: Path, touch: Callable[[Path], None]
) -> None:
    touch(path)
    await file.append(numbered(6))
    assert sorted(offsets(path)) == [0, 1, 2, 3, 4, 5, 6]
    assert len(await file.look()) == 1


async def test_a_file_that_is_moved_away_keeps_its_rows_and_its_new_name_is_said(
    file: FailedTasksFile, path: Path
) -> None:
    moved = path.with_name("failed.csv.1")
    path.rename(moved)
    assert await file.look() == [("moved away", 0, str(moved))]
    assert path.read_bytes() == HEADER
    await file.append(numbered(6))
    assert offsets(path) == [6]
    assert offsets(moved) == [0, 1, 2, 3, 4, 5]


async def test_logrotate_with_create_is_a_move(file: FailedTasksFile, path: Path) -> None:
    moved = path.with_name("failed.csv.1")
    path.rename(moved)
    path.write_bytes(b"")
    assert await file.look() == [("moved away", 0, str(moved))]
    await file.append(numbered(6))
    assert (offsets(moved), offsets(path)) == ([0, 1, 2, 3, 4, 5], [6])


async def test_rows_appended_between_copy_and_truncate_of_logrotate_survive(file: FailedTasksFile, path: Path) -> None:
    copy = path.with_name("failed.csv.1")
    shutil.copy(path, copy)
    await file.append(numbered(6))
    os.truncate(path, 0)
    assert await file.look() == [("emptied", 4, "")]
    assert set(offsets(copy)) | set(offsets(path)) == set(range(7))


async def test_rows_appended_while_an_editor_had_the_file_open_survive_its_saving(
    file: FailedTasksFile, path: Path
) -> None:
    """As nano: the same file, written from its beginning."""
    text = path.read_bytes()
    await file.append(numbered(6))
    with path.open("r+b") as editor:
        editor.truncate(0)
        editor.write(text)
    assert await file.look() == [("changed", 1, "")]
    assert offsets(path) == [0, 1, 2, 3, 4, 5, 6]


async def test_rows_that_somebody_adds_stay(file: FailedTasksFile, path: Path) -> None:
    with path.open("ab") as other:
        other.write(encode_row(numbered(50)))
    assert await file.look() == [("changed", 0, "")]
    await file.append(numbered(6))
    assert offsets(path) == [0, 1, 2, 3, 4, 5, 50, 6]


async def test_while_a_stranger_stands_in_its_place_nothing_is_appended_and_nothing_forgotten(
    file: FailedTasksFile, path: Path
) -> None:
    path.unlink()
    path.write_bytes(b"another programme's file\n")
    with pytest.raises(errors.WriteFailed, match="not the header"):
        await file.look()
    with pytest.raises(errors.WriteFailed, match="not the header"):
        await file.append(numbered(6))
    assert path.read_bytes() == b"another programme's file\n"
    path.unlink()
    await file.append(numbered(6))
    assert sorted(offsets(path)) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("touch", [remove, edit_by_a_new_file])
async def test_putting_back_that_fails_is_done_again(
    file: FailedTasksFile, path: Path, touch: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(fd: int, data: bytearray) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "no space")

    touch(path)
    with monkeypatch.context() as patch:
        patch.setattr(lines, "_write_all", half)
        for _ in range(2):
            with pytest.raises(errors.NoSpace):
                await file.look()
    await file.look()
    assert sorted(offsets(path)) == [0, 1, 2, 3, 4, 5]


async def test_newest_rows_that_cannot_be_put_back_are_put_back_later(
    file: FailedTasksFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    os.truncate(path, len(HEADER))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(errors.WriteFailed):
            await file.look()
    await file.look()
    assert offsets(path) == [3, 4, 5]


async def test_a_file_that_another_host_removed_gets_its_newest_rows_again(
    file: FailedTasksFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NFS the descriptor is stale then."""
    stale, real_fstat = os.stat(path).st_ino, os.fstat

    def fstat(fd: int) -> os.stat_result:
        found = real_fstat(fd)
        if found.st_ino == stale:
            raise OSError(errno.ESTALE, "Stale file handle")
        return found

    path.rename(path.with_name("out of sight"))
    monkeypatch.setattr(os, "fstat", fstat)
    assert await file.look() == [("removed", 3, "")]
    await file.append(numbered(6))
    monkeypatch.undo()
    assert offsets(path) == [3, 4, 5, 6]


async def test_a_file_that_nfs_keeps_for_us_counts_as_removed(file: FailedTasksFile, path: Path) -> None:
    path.rename(path.with_name(".nfs000000000000abcd00000001"))
    assert await file.look() == [("removed", 6, "")]
    assert sorted(offsets(path)) == [0, 1, 2, 3, 4, 5]


async def test_a_look_that_is_cancelled_ends_before_the_file_is_closed(
    file: FailedTasksFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    real = lines.put_back

    def slow(old_fd: int, old_length: int, fd: int) -> int:
        entered.set()
        assert leave.wait(60)
        return real(old_fd, old_length, fd)

    monkeypatch.setattr(lines, "put_back", slow)
    path.unlink()
    look = asyncio.create_task(file.look())
    await asyncio.to_thread(entered.wait, 60)
    look.cancel()
    closing = asyncio.create_task(file.close())
    await asyncio.wait({closing}, timeout=0.05)
    assert not closing.done()
    leave.set()
    await closing
    assert sorted(offsets(path)) == [0, 1, 2, 3, 4, 5]


def test_the_newest_lines_take_bounded_memory() -> None:
    newest = lines.Newest()
    for number in range(100):
        newest.add([b"%d" % number + b"x" * 100_000])
    assert sum(map(len, newest.all())) <= 1024 * 1024
    assert newest.all()[-1].startswith(b"99x")
