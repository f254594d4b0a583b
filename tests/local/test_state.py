from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcalqr import errors
from dcalqr.local import state as module
from dcalqr.local.state import State

A = (b"a",)
B = (b"a", b"b c%\xff")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[[], State]]:
    """Start a run on the state folder; it ends when the next one starts."""
    runs: list[State] = []

    def start() -> State:
        for former in runs:
            former.close()
        runs.append(State(str(folder)))
        runs[-1].open()
        return runs[-1]

    yield start
    for former in runs:
        former.close()


Run = Callable[[], State]


def test_the_folder_is_made_for_its_owner_only(folder: Path, run: Run) -> None:
    run()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(entry.stat().st_mode) == 0o600 for entry in folder.iterdir())


def test_a_second_instance_is_told_to_take_a_name_of_its_own(folder: Path, run: Run) -> None:
    run()
    with pytest.raises(errors.CannotCreate, match=r"daemon\.instance") as caught:
        State(str(folder)).open()
    assert caught.value.exit_code == 73


def test_the_lock_of_a_killed_instance_is_free(folder: Path, run: Run) -> None:
    program = (
        "import sys, time; from dcalqr.local.state import State; s = State(sys.argv[1]); s.open();"
        "s.part_opened((b'a',)); print('open', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    with pytest.raises(errors.CannotCreate):
        State(str(folder)).open()
    child.kill()
    child.communicate()
    assert run().left_parts == {A}


def test_a_folder_that_cannot_be_made_is_said_before_the_work_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.CannotCreate):
        State(str(tmp_path / "file" / "state")).open()


def test_a_group_once_seen_is_seen_by_the_next_run(run: Run) -> None:
    first = run()
    assert not first.group_seen("g", "t")
    first.remember_group("g", "t")
    second = run()
    assert second.group_seen("g", "t")
    assert not second.group_seen("g", "other")


def test_group_and_mount_point_do_not_overwrite_each_other(run: Run) -> None:
    first = run()
    first.remember_mount_point("/sps")
    first.remember_group("g", "t")
    first.remember_mount_point("/sps/lsst")
    second = run()
    assert second.group_seen("g", "t")
    assert second.mount_point == "/sps/lsst"


def test_a_group_that_could_not_be_written_is_not_taken_for_remembered(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError):
            first.remember_group("g", "t")
    assert not first.group_seen("g", "t")
    first.remember_group("g", "t")
    assert run().group_seen("g", "t")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"groups": 3}'])
def test_broken_hints_are_a_warning_and_empty(folder: Path, run: Run, content: bytes) -> None:
    run().remember_group("g", "t")
    (folder / module.HINTS).write_bytes(content)
    again = run()
    assert not again.group_seen("g", "t")
    assert len(again.warnings) == (1 if content else 0)


def test_a_directory_with_open_parts_is_left_to_the_next_run(run: Run) -> None:
    first = run()
    first.part_opened(A)
    first.part_opened(B)
    first.part_opened(())
    first.part_closed(A)
    assert run().left_parts == {B, ()}


def test_a_directory_is_written_only_for_its_first_and_last_part(folder: Path, run: Run) -> None:
    first = run()
    for _ in range(3):
        first.part_opened(A)
    for _ in range(3):
        first.part_closed(A)
    assert (folder / module.PARTS).read_bytes() == b"+a\n-a\n"


def test_a_swept_directory_is_not_swept_again(run: Run) -> None:
    run().part_opened(A)
    second = run()
    second.swept(A)
    assert second.left_parts == set()
    assert run().left_parts == set()


def test_what_was_not_swept_is_left_to_the_run_after_next(run: Run) -> None:
    run().part_opened(A)
    second = run()
    second.part_opened(A)
    second.part_closed(A)
    assert run().left_parts == {A}


def test_a_sweep_does_not_forget_the_parts_of_this_run(run: Run) -> None:
    run().part_opened(A)
    second = run()
    second.part_opened(A)
    second.swept(A)
    assert run().left_parts == {A}


def test_a_torn_last_line_is_ignored(folder: Path, run: Run) -> None:
    first = run()
    first.part_opened(A)
    first.part_opened(B)
    with (folder / module.PARTS).open("ab") as file:
        file.write(b"-a")
    assert run().left_parts == {A, B}


def test_a_broken_parts_file_is_a_warning_and_empty(folder: Path, run: Run) -> None:
    run().part_opened(A)
    (folder / module.PARTS).write_bytes(b"+a\nnonsense\n")
    again = run()
    assert again.left_parts == set()
    assert len(again.warnings) == 1


def test_the_parts_file_stays_small_and_loses_nothing(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_BYTES", 1000)
    first = run()
    first.part_opened(B)
    for _ in range(1000):
        first.part_opened(A)
        first.part_closed(A)
    assert (folder / module.PARTS).stat().st_size < 1100
    assert run().left_parts == {B}


def test_a_hint_that_cannot_be_written_is_a_warning_and_written_later(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()

    def torn(fd: int, line: bytes) -> int:
        return real_write(fd, line[:1])

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        first.part_opened(A)
        patch.setattr(os, "write", refuse)
        first.part_opened(B)
    first.part_opened((b"c",))
    assert len(first.warnings) == 1
    assert run().left_parts == {A, B, (b"c",)}


def test_the_status_is_replaced_whole_and_read_without_a_lock(folder: Path, run: Run) -> None:
    first = run()
    assert State.read_status(str(folder)) is None
    first.write_status({"landed": 1, "holds": ["space"]})
    first.write_status({"landed": 2})
    assert State.read_status(str(folder)) == {"landed": 2}
    (folder / module.STATUS).write_bytes(b"{")
    assert State.read_status(str(folder)) is None


def test_a_hint_never_goes_into_another_file_when_the_parts_file_cannot_be_opened_again(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    real_open = os.open

    def refuse(path: str, flags: int, *mode: int) -> int:
        if str(path).endswith(module.PARTS):
            raise OSError(24, "Too many open files")
        return real_open(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_COMPACT_BYTES", 0)
        first.part_opened(A)
        patch.setattr(os, "open", refuse)
        first.part_opened(B)
    numbers = [os.open(folder / f"another-{n}", os.O_WRONLY | os.O_CREAT) for n in range(3)]
    monkeypatch.setattr(module, "_COMPACT_BYTES", 10**9)
    first.part_opened((b"c",))
    first.part_closed((b"c",))
    assert [os.fstat(fd).st_size for fd in numbers] == [0, 0, 0]
    for fd in numbers:
        os.close(fd)
    monkeypatch.setattr(module, "_COMPACT_BYTES", 0)
    first.part_opened((b"c",))
    assert run().left_parts == {A, B, (b"c",)}


class Paused:
    """Stops the first thread that comes to a call, until the others have had their time."""

    def __init__(self, real: Callable[..., None]) -> None:
        self.real = real
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, *args: object, **places: object) -> None:
        first = not self.entered.is_set()
        self.entered.set()
        if first:
            assert self.go.wait(10)
        self.real(*args, **places)


def test_what_is_swept_while_the_parts_file_is_rewritten_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run().part_opened(A)
    second = run()
    rename = Paused(os.rename)
    monkeypatch.setattr(os, "rename", rename)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_COMPACT_BYTES", -1)
        loop = threading.Thread(target=second.part_opened, args=(B,))
        loop.start()
        assert rename.entered.wait(10)
    sweep = threading.Thread(target=second.swept, args=(A,))
    sweep.start()
    sweep.join(0.05)  # without a lock it has written into the old file by now
    rename.go.set()
    loop.join()
    sweep.join()
    assert run().left_parts == {B}


def test_a_hint_does_not_wait_for_the_sync_of_the_other_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints are written by the event loop."""
    first = run()
    fsync = Paused(os.fsync)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(module, "_COMPACT_BYTES", -1)
    slow = threading.Thread(target=first.remember_mount_point, args=("/sps",))
    slow.start()
    assert fsync.entered.wait(10)
    hint = threading.Thread(target=first.part_opened, args=(A,))
    hint.start()
    hint.join(10)
    waited = hint.is_alive()
    fsync.go.set()
    slow.join()
    hint.join()
    assert not waited
    assert run().left_parts == {A}


def test_a_sweep_that_outlives_the_run_writes_nothing(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run().part_opened(A)
    second = run()
    monkeypatch.setattr(module, "_COMPACT_BYTES", -1)
    second.close()
    inode = (folder / module.PARTS).stat().st_ino
    second.swept(A)
    assert (folder / module.PARTS).stat().st_ino == inode
    assert second.warnings == []
    assert run().left_parts == {A}
