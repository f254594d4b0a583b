from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcalqr import errors
from dcalqr.local import mounts
from dcalqr.local.mounts import MountTable, mount_point
from tests.support.mounts import mount, tmpfs, umount


def test_a_bind_mount_counts_as_a_mount(tmp_path: Path, point: Path) -> None:
    (tmp_path / "source").mkdir()
    mount(point, "--bind", str(tmp_path / "source"))
    assert mount_point(str(point / "x")) == str(point)


def test_a_folder_bound_onto_itself_is_not_a_mount(tmp_path: Path, point: Path) -> None:
    """As systemd's ReadWritePaths= does it: what is below the mount point must not pass for what belongs there."""
    before = mount_point(str(point))
    mount(point, "--bind", str(point))
    try:
        assert mount_point(str(point / "x")) == before
        tmpfs(point)
        assert mount_point(str(point / "x")) == str(point)
        (point / "inner").mkdir()
        mount(point / "inner", "--bind", str(point / "inner"))
        assert mount_point(str(point / "inner" / "x")) == str(point)
        umount(point / "inner")
        umount(point)
    finally:
        umount(point)


def test_an_automounter_that_waits_is_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    root = "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
    waiting = "40 22 0:35 / /sps rw shared:1 - autofs systemd-1 rw,fd=29\n"
    monkeypatch.setattr("dcalqr.local.mounts._MOUNTINFO", str(table))
    table.write_text(root + waiting)
    assert mount_point("/sps/lsst") == "/"
    table.write_text(root + waiting + "41 40 0:52 / /sps rw - nfs4 server:/sps rw\n")
    assert mount_point("/sps/lsst") == "/sps"
    assert mount_point("/sps2/lsst") == "/"


# --- the table that is read again only when it changed -----------------------------------------------------------


@pytest.fixture
def table() -> Iterator[MountTable]:
    made = MountTable()
    yield made
    made.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Takes note of each time the table is read."""
    sizes: list[int] = []
    real: Callable[[bytes], list[str]] = mounts._points_of

    def noted(text: bytes) -> list[str]:
        sizes.append(len(text))
        return real(text)

    monkeypatch.setattr(mounts, "_points_of", noted)
    return sizes


def test_each_change_is_seen_at_once_and_nothing_is_read_without_one(
    table: MountTable, point: Path, reads: list[int]
) -> None:
    before = table.point_of(str(point))
    assert before != str(point)
    for _ in range(2):
        tmpfs(point)
        assert table.point_of(str(point)) == str(point)
        count = len(reads)
        assert {table.point_of(str(point / "x")) for _ in range(100)} == {str(point)}
        assert len(reads) == count
        umount(point)
        assert table.point_of(str(point)) == before


def test_of_many_threads_none_gets_a_table_that_another_knows_to_be_old(table: MountTable, point: Path) -> None:
    table.point_of(str(point))
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            tmpfs(point)
            assert set(threads.map(table.point_of, [str(point)] * 50)) == {str(point)}
            umount(point)


def test_a_table_that_could_not_be_read_is_read_again(
    table: MountTable, point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = table.point_of(str(point))
    tmpfs(point)
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", broken)
        with pytest.raises(errors.TransientError):
            table.point_of(str(point))
    assert table.point_of(str(point)) == str(point) != before
