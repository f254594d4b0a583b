from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcalqr import errors
from dcalqr.local import destination as module
from dcalqr.local import landing
from dcalqr.local.destination import Destination
from dcalqr.local.mounts import MountTable, mount_point
from dcalqr.local.state import State
from tests.support.mounts import mount, tmpfs, umount


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(str(tmp_path / "state"))
    opened.open()
    yield opened
    opened.close()


def destination(folder: Path, state: State, *, requiremount: bool = False, minfree_percent: float = 0) -> Destination:
    return Destination(str(folder), minfree_percent=minfree_percent, requiremount=requiremount, state=state)


def inode_of(opened: Destination) -> tuple[int, int]:
    found = os.fstat(opened.root_fd)
    return found.st_dev, found.st_ino


def test_a_folder_that_is_there_is_opened(tmp_path: Path, state: State) -> None:
    opened = destination(tmp_path, state)
    opened.check()
    assert os.path.samestat(os.fstat(opened.root_fd), tmp_path.stat())
    assert opened.root_generation == 1
    assert 0 < opened.free_bytes <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    opened.close()
    opened.close()


def test_a_missing_folder_is_held_and_taken_when_it_comes(tmp_path: Path, state: State) -> None:
    late = destination(tmp_path / "late", state)
    with pytest.raises(errors.MountMissing):
        late.check()
    with pytest.raises(errors.MountMissing):
        _ = late.root_fd
    (tmp_path / "late").mkdir()
    late.check()
    assert late.root_fd >= 0
    late.close()


def test_too_little_room_for_the_file_is_no_space(point: Path, state: State) -> None:
    tmpfs(point)
    opened = destination(point, state)
    opened.check(1024 * 1024)
    with pytest.raises(errors.NoSpace):
        opened.check(1024 * 1024 + 1)
    opened.close()


def test_below_the_minimum_is_no_space_until_room_is_made(point: Path, state: State) -> None:
    tmpfs(point)
    opened = destination(point, state, minfree_percent=50)
    opened.check()
    (point / "big").write_bytes(b"x" * 600 * 1024)
    with pytest.raises(errors.NoSpace):
        opened.check()
    (point / "big").unlink()
    opened.check()
    opened.close()


def test_no_inode_left_is_no_space(point: Path, state: State) -> None:
    mount(point, "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs")
    (point / "last").touch()
    opened = destination(point, state)
    with pytest.raises(errors.NoSpace):
        opened.check()
    opened.close()


def test_a_read_only_file_system_is_held(point: Path, state: State) -> None:
    tmpfs(point)
    opened = destination(point, state)
    opened.check()
    subprocess.run(["mount", "-o", "remount,ro", point], check=True)
    with pytest.raises(errors.MountMissing):
        opened.check()
    subprocess.run(["mount", "-o", "remount,rw", point], check=True)
    opened.check()
    opened.close()


def test_a_folder_we_may_not_write_is_held(tmp_path: Path, state: State) -> None:
    opened = destination(tmp_path, state)
    opened.check()
    tmp_path.chmod(0o755)
    with nobody(), pytest.raises(errors.MountMissing):
        opened._check_writable()
    opened.close()


def test_requiremount_holds_until_something_is_mounted(
    tmp_path: Path, point: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mount_point(str(tmp_path)) != "/":  # where the temporary folder is a mount of its own, pretend it is not
        monkeypatch.setattr(
            MountTable, "point_of", lambda _, path: found if (found := mount_point(path)) == str(point) else "/"
        )
    opened = destination(point / "sim", state, requiremount=True)
    (point / "sim").mkdir()
    with pytest.raises(errors.MountMissing):
        opened.check()
    tmpfs(point)
    (point / "sim").mkdir()
    opened.check()
    opened.close()


def test_a_mount_seen_once_is_missed_by_the_next_run_too(tmp_path: Path, point: Path, state: State) -> None:
    (point / "sim").mkdir()
    tmpfs(point)
    (point / "sim").mkdir()
    first = destination(point / "sim", state)
    first.check()
    first.close()
    umount(point)
    state.close()
    again = State(state.folder)
    again.open()
    second = destination(point / "sim", again)
    with pytest.raises(errors.MountMissing):
        second.check()
    tmpfs(point)
    (point / "sim").mkdir()
    second.check()
    second.close()
    again.close()


def test_another_download_folder_forgets_the_old_ones_mount_point(tmp_path: Path, point: Path, state: State) -> None:
    tmpfs(point)
    first = destination(point, state)
    first.check()
    first.close()
    umount(point)
    (tmp_path / "elsewhere").mkdir()
    second = destination(tmp_path / "elsewhere", state)
    second.check()
    second.close()
    assert state.mount_point != str(point)


def test_the_descriptor_keeps_its_number_when_the_folder_is_exchanged(point: Path, state: State) -> None:
    opened = destination(point, state)
    opened.check()
    number, before = opened.root_fd, inode_of(opened)
    tmpfs(point)
    opened.check()
    assert opened.root_fd == number
    assert inode_of(opened) != before
    assert opened.root_generation == 2
    assert os.path.samestat(os.fstat(number), point.stat())
    assert not os.get_inheritable(number)
    opened.close()


def test_checking_again_and_again_opens_no_more_descriptors(tmp_path: Path, state: State) -> None:
    opened = destination(tmp_path, state)
    opened.check()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        opened.check()
    assert len(os.listdir("/proc/self/fd")) == before
    opened.close()


def test_a_link_to_the_folder_is_resolved_once(tmp_path: Path, state: State) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("one")
    opened = destination(link, state)
    opened.check()
    link.unlink()
    link.symlink_to("two")
    opened.check()
    assert os.path.samestat(os.fstat(opened.root_fd), (tmp_path / "one").stat())
    opened.close()


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOTCONN])
def test_a_stale_mount_is_left_for_what_the_path_names_now(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As after NFS or FUSE died: the old descriptor answers nothing any more."""
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = destination(folder, state)
    opened.check()
    number, stale, real = opened.root_fd, os.fstat(opened.root_fd), os.fstat
    folder.rename(tmp_path / "gone")
    folder.mkdir()

    def fstat(fd: int) -> os.stat_result:
        found = real(fd)
        if os.path.samestat(found, stale):
            raise OSError(code, os.strerror(code))
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    opened.check()
    assert opened.root_fd == number
    assert os.path.samestat(real(number), folder.stat())
    opened.close()


def refusing(code: int) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ESTALE, errors.MountMissing),
        (errno.ENOTCONN, errors.MountMissing),
        (errno.EIO, errors.WriteFailed),
        (errno.EMFILE, errors.TransientError),
    ],
)
@pytest.mark.parametrize("call", ["fstat", "fstatvfs", "dup2"])
def test_what_the_system_refuses_is_one_of_our_errors(
    tmp_path: Path,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: type[errors.TryError],
    call: str,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = destination(folder, state)
    opened.check()
    folder.rename(tmp_path / "gone")
    folder.mkdir()
    descriptors = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing(code))
        with pytest.raises(expected):
            opened.check()
        if call == "fstatvfs":
            with pytest.raises(expected):
                _ = opened.free_bytes
    assert len(os.listdir("/proc/self/fd")) == descriptors
    opened.check()
    opened.close()


def test_no_descriptor_for_the_mount_table_is_one_of_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", refusing(errno.EMFILE))
    with pytest.raises(errors.TransientError):
        mount_point("/sps")


def test_two_first_checks_at_once_leak_no_descriptor(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have opened the folder before either has looked whether another was first, or that one waits for a lock."""
    both, looked = threading.Barrier(2), threading.Event()  # looked is never set: a pause that is no sleep

    def open_root(path: str) -> int:
        fd = landing.open_root(path)
        both.wait(10)
        return fd

    class SlowToTake(Destination):
        """Gives the other thread all the time between looking and taking."""

        _fd: int | None = None

        @property
        def _root_fd(self) -> int | None:
            found = self._fd
            if found is None:
                looked.wait(0.05)
            return found

        @_root_fd.setter
        def _root_fd(self, fd: int | None) -> None:
            self._fd = fd

    opened = SlowToTake(str(tmp_path), minfree_percent=0, requiremount=False, state=state)
    monkeypatch.setattr(module, "open_root", open_root)
    before = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=opened.check) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened.close()
    assert len(os.listdir("/proc/self/fd")) == before
