from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import stat
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcalqr import errors
from dcalqr.checksum import Adler32
from dcalqr.local import attributes, landing, leftovers, paths, publish, standing
from dcalqr.orders import CopyOrder, Deadlines, Seen

OURS = paths.instance8("node1")
DATA = b"raw image " * 1000
PNFSID = "0000A1B2C3D4E5F60718293A4B5C6D7E8F90"


def order(
    directory: tuple[bytes, ...] = (b"run", b"23003"),
    final: bytes = b"f.fits",
    order8: str = "00000001",
    seen: Seen | None = None,
    directory_mode: int = 0o755,
    file_mode: int = 0o644,
) -> CopyOrder:
    return CopyOrder(
        order_id=order8,
        url="https://door/f",
        directory=directory,
        final_name=final,
        part_name=paths.part_name(final, OURS, order8),
        size_bytes=None,
        adler32=None,
        pnfsid=PNFSID,
        seen=seen,
        directory_mode=directory_mode,
        file_mode=file_mode,
        require_checksum=True,
        allow_http=False,
        redirect_hosts=frozenset(),
        deadlines=Deadlines(1, 1, 1, 1, 1),
    )


def land(root_fd: int, this: CopyOrder, data: bytes = DATA) -> None:
    with landing.Part.create(root_fd, this) as part:
        part.write(memoryview(data))
        part.finish(PNFSID, zlib.adler32(data))
        part.publish()


def look(root_fd: int, this: CopyOrder) -> standing.Existing:
    found = standing.look(root_fd, this.directory, this.final_name, sync=True)
    assert found is not None
    return found


@contextlib.contextmanager
def mounted(folder: Path, options: str = "size=1m") -> Iterator[Path]:
    assert os.geteuid() == 0, "these tests mount file systems: run them as root"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    assert os.geteuid() == 0, "these tests change the user: run them as root"
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = landing.open_root(str(root))
    yield fd
    os.close(fd)


@pytest.fixture
def small_fd(tmp_path: Path) -> Iterator[int]:
    with mounted(tmp_path / "small") as folder:
        fd = landing.open_root(str(folder))
        yield fd
        os.close(fd)


@pytest.fixture(params=["renameat2", "link", "rename"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the three ways to publish over nothing, as file systems and C libraries offer them."""
    if request.param != "renameat2":
        monkeypatch.setattr(publish, "_renameat2", None)
    if request.param == "rename":
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    return str(request.param)


def refusing(code: int) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def names(root: Path) -> set[str]:
    return {entry.name for entry in root.rglob("*") if not entry.is_dir()}


# --- landing ----------------------------------------------------------------------------------------------------


def test_a_landed_file_is_complete_and_no_part_is_left(root: Path, root_fd: int, way: str) -> None:
    land(root_fd, order())
    assert (root / "run/23003/f.fits").read_bytes() == DATA
    assert names(root) == {"f.fits"}


def test_a_file_in_the_download_folder_itself_lands(root: Path, root_fd: int) -> None:
    land(root_fd, order(directory=()))
    assert names(root) == {"f.fits"}


def test_an_empty_file_lands(root: Path, root_fd: int) -> None:
    land(root_fd, order(), b"")
    assert (root / "run/23003/f.fits").read_bytes() == b""


def test_the_part_is_private_and_the_final_name_unseen_until_published(root: Path, root_fd: int) -> None:
    with landing.Part.create(root_fd, order()) as part:
        part.write(memoryview(DATA))
        assert part.size_bytes == len(DATA)
        (name,) = names(root)
        assert stat.S_IMODE((root / "run/23003" / name).stat().st_mode) == 0o600
        assert standing.look(root_fd, (b"run", b"23003"), b"f.fits") is None
        assert "open, 10000 bytes" in repr(part)


def test_modes_are_exact_whatever_the_umask(root: Path, root_fd: int) -> None:
    before = os.umask(0o077)
    try:
        land(root_fd, order(directory_mode=0o2755, file_mode=0o664))
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "run").stat().st_mode) == 0o2755
    assert stat.S_IMODE((root / "run/23003").stat().st_mode) == 0o2755
    assert stat.S_IMODE((root / "run/23003/f.fits").stat().st_mode) == 0o664


def test_attributes_are_written_although_the_mode_forbids_it_to_the_owner(root: Path, root_fd: int) -> None:
    root.chmod(0o777)
    with nobody():
        land(root_fd, order(file_mode=0o444))
    assert look(root_fd, order(file_mode=0o444)).pnfsid == PNFSID


def test_directories_that_exist_keep_their_mode(root: Path, root_fd: int) -> None:
    (root / "run").mkdir(mode=0o700)
    land(root_fd, order())
    assert stat.S_IMODE((root / "run").stat().st_mode) == 0o700


def test_a_dropped_setgid_bit_is_noticed(root: Path, root_fd: int) -> None:
    os.chown(root, 65534, 12345)
    root.chmod(0o2777)
    with nobody(), landing.Part.create(root_fd, order(directory_mode=0o2755)) as part:
        assert part.setgid_dropped
    land(root_fd, order(directory=(b"other",), directory_mode=0o2755))
    with landing.Part.create(root_fd, order(directory=(b"third",), directory_mode=0o2755)) as part:
        assert not part.setgid_dropped


def test_many_orders_that_make_the_same_directories_at_once_all_land(root: Path, root_fd: int) -> None:
    deep = tuple(b"d%d" % level for level in range(20))
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def one(number: int) -> None:
        try:
            barrier.wait()
            land(root_fd, order(directory=deep, final=b"f%d" % number, order8=f"{number:08x}"))
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(root) == {f"f{number}" for number in range(8)}


def test_a_discarded_part_is_gone_and_may_be_discarded_again(root: Path, root_fd: int) -> None:
    part = landing.Part.create(root_fd, order())
    part.write(memoryview(DATA))
    assert part.discard()
    assert part.discard()
    assert names(root) == set()


def test_a_part_that_somebody_else_removed_is_discarded_without_complaint(root: Path, root_fd: int) -> None:
    part = landing.Part.create(root_fd, order())
    (root / "run/23003" / os.fsdecode(order().part_name)).unlink()
    assert part.discard()


def test_a_part_of_the_same_name_is_neither_written_nor_removed(root: Path, root_fd: int) -> None:
    with landing.Part.create(root_fd, order()) as first:
        first.write(memoryview(DATA))
        with pytest.raises(errors.WriteFailed):
            landing.Part.create(root_fd, order())
        first.finish("", None)
        first.publish()
    assert (root / "run/23003/f.fits").read_bytes() == DATA


def test_no_descriptor_is_left_open_whatever_happens(root: Path, root_fd: int) -> None:
    (root / "file").touch()
    before = set(os.listdir("/proc/self/fd"))
    land(root_fd, order())
    for this in (order(), order(directory=(b"file", b"x")), order(directory=(b"new", b"x" * 256))):
        with pytest.raises(errors.DcalqrError):
            land(root_fd, this)
    assert set(os.listdir("/proc/self/fd")) == before


# --- publishing -------------------------------------------------------------------------------------------------


def test_a_file_that_appeared_since_the_plan_is_never_overwritten(root: Path, root_fd: int, way: str) -> None:
    with landing.Part.create(root_fd, order()) as part:
        part.finish("", None)
        (root / "run/23003/f.fits").write_bytes(b"another's")
        with pytest.raises(errors.FinalNameChanged):
            part.publish()
    assert (root / "run/23003/f.fits").read_bytes() == b"another's"
    assert names(root) == {"f.fits"}


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_file_is_never_replaced(root: Path, root_fd: int, way: str, kind: str) -> None:
    final = root / "run/23003/f.fits"
    with landing.Part.create(root_fd, order()) as part:
        part.finish("", None)
        if kind == "directory":
            final.mkdir()
        elif kind == "link":
            final.symlink_to("nowhere")
        else:
            os.mkfifo(final)
        before = final.lstat()
        with pytest.raises(errors.NotAFile):
            part.publish()
    assert final.lstat().st_ino == before.st_ino


def test_the_version_the_plan_saw_is_replaced(root: Path, root_fd: int) -> None:
    land(root_fd, order(), b"v1")
    land(root_fd, order(seen=look(root_fd, order()).seen), b"v2")
    assert (root / "run/23003/f.fits").read_bytes() == b"v2"
    assert names(root) == {"f.fits"}


@pytest.mark.parametrize("change", ["replaced", "touched", "removed", "directory"])
def test_a_version_that_changed_since_the_plan_is_not_replaced(root: Path, root_fd: int, change: str) -> None:
    final = root / "run/23003/f.fits"
    land(root_fd, order(), b"v1")
    with landing.Part.create(root_fd, order(seen=look(root_fd, order()).seen)) as part:
        part.finish("", None)
        if change == "replaced":
            (root / "fresh").write_bytes(b"v3")
            (root / "fresh").rename(final)
        elif change == "touched":
            os.utime(final, ns=(1, 1))
        else:
            final.unlink()
        if change == "directory":
            final.mkdir()
        with pytest.raises(errors.NotAFile if change == "directory" else errors.FinalNameChanged):
            part.publish()
    assert not any(".part" in name for name in names(root))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_noreplace_is_published_to_by_link(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    links: list[bytes] = []
    real_link = os.link

    def link(source: bytes, target: bytes, **places: Any) -> None:
        links.append(target)
        real_link(source, target, **places)

    def renameat2(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(publish, "_renameat2", renameat2)
    monkeypatch.setattr(os, "link", link)
    land(root_fd, order())
    assert links == [b"f.fits"]
    assert names(root) == {"f.fits"}


def test_a_link_that_nfs_sent_twice_is_published(root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real_link = os.link

    def link(source: bytes, target: bytes, **places: Any) -> None:
        real_link(source, target, **places)
        real_link(source, target, **places)

    monkeypatch.setattr(publish, "_renameat2", None)
    monkeypatch.setattr(os, "link", link)
    land(root_fd, order())
    assert (root / "run/23003/f.fits").read_bytes() == DATA
    assert names(root) == {"f.fits"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_links_is_checked_then_renamed(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(publish, "_renameat2", None)
    monkeypatch.setattr(os, "link", refusing(code))
    land(root_fd, order())
    assert names(root) == {"f.fits"}


def test_a_rename_shows_to_watchers_as_moved_to(root: Path, root_fd: int) -> None:
    inode = []
    with landing.Part.create(root_fd, order()) as part:
        inode.append((root / "run/23003" / os.fsdecode(order().part_name)).stat().st_ino)
        part.finish("", None)
        part.publish()
    final = (root / "run/23003/f.fits").stat()
    assert final.st_ino == inode[0]
    assert final.st_nlink == 1


def test_a_file_whose_directory_cannot_be_synced_is_not_taken_for_landed(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with landing.Part.create(root_fd, order()) as part:
        part.finish("", None)
        monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
        with pytest.raises(errors.WriteFailed):
            part.publish()
    assert names(root) == set()


def test_anothers_file_survives_our_failed_sync(root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    final = root / "run/23003/f.fits"

    def replaced_meanwhile(_: int) -> None:
        (root / "fresh").write_bytes(b"another's")
        (root / "fresh").rename(final)
        raise OSError(errno.EIO, "I/O error")

    with landing.Part.create(root_fd, order()) as part:
        part.finish("", None)
        monkeypatch.setattr(os, "fsync", replaced_meanwhile)
        with pytest.raises(errors.WriteFailed):
            part.publish()
    assert final.read_bytes() == b"another's"


def test_a_failed_fsync_is_not_tried_again(root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "I/O error")

    with landing.Part.create(root_fd, order()) as part:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(errors.WriteFailed) as caught:
            part.finish("", None)
    assert caught.value.facts["operation"] == "fsync"
    assert len(calls) == 1
    assert names(root) == set()


@pytest.mark.parametrize("size_bytes", [0, len(DATA) - 1, len(DATA) + 1])
def test_a_part_that_has_not_the_length_written_is_never_finished(root: Path, root_fd: int, size_bytes: int) -> None:
    with landing.Part.create(root_fd, order()) as part:
        part.write(memoryview(DATA))
        os.truncate(root / "run/23003" / os.fsdecode(order().part_name), size_bytes)
        with pytest.raises(errors.WriteFailed) as caught:
            part.finish(PNFSID, None)
    assert str(caught.value).endswith(f"the part has {size_bytes} bytes, {len(DATA)} were written")
    assert names(root) == set()


def test_a_directory_that_was_not_synced_is_made_anew(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refusing(errno.EIO))
        with pytest.raises(errors.WriteFailed):
            landing.Part.create(root_fd, order())
    assert not (root / "run").exists()
    land(root_fd, order())
    assert names(root) == {"f.fits"}


# --- what the operating system refuses --------------------------------------------------------------------------


def test_a_full_disk_is_no_space_and_leaves_no_part(small_fd: int, tmp_path: Path) -> None:
    with pytest.raises(errors.NoSpace):
        land(small_fd, order(), b"x" * 2 * 1024 * 1024)
    assert names(tmp_path / "small") == set()
    land(small_fd, order())
    assert names(tmp_path / "small") == {"f.fits"}


def test_no_inodes_is_no_space(tmp_path: Path) -> None:
    with mounted(tmp_path / "few", "size=1m,nr_inodes=3") as folder:
        fd = landing.open_root(str(folder))
        with pytest.raises(errors.NoSpace):
            land(fd, order())
        os.close(fd)


def test_a_read_only_file_system_is_a_missing_mount(small_fd: int, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tmp_path / "small"], check=True)
    with pytest.raises(errors.MountMissing):
        landing.Part.create(small_fd, order())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EDQUOT, errors.NoSpace),
        (errno.ESTALE, errors.MountMissing),
        (errno.ENOTCONN, errors.MountMissing),
        (errno.EIO, errors.WriteFailed),
    ],
)
def test_each_refusal_of_a_write_is_said_as_what_happens_next(
    root_fd: int, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[errors.TryError]
) -> None:
    with landing.Part.create(root_fd, order()) as part, monkeypatch.context() as patch:
        patch.setattr(os, "write", refusing(code))
        with pytest.raises(expected) as caught:
            part.write(memoryview(DATA))
    assert os.strerror(code) in str(caught.value)


def test_short_writes_lose_nothing(root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, block: real_write(fd, block[:7]))
        land(root_fd, order())
    assert (root / "run/23003/f.fits").read_bytes() == DATA


def test_a_name_that_the_file_system_cannot_hold_is_too_long(root_fd: int) -> None:
    with pytest.raises(errors.NameTooLong):
        landing.Part.create(root_fd, order(directory=(b"x" * 256,)))


def test_out_of_descriptors_is_transient(root_fd: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (root_fd + 1, hard))
    fillers = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(root_fd))
        with pytest.raises(errors.TransientError):
            landing.Part.create(root_fd, order())
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_we_may_not_write_is_held_and_a_place_inside_it_is_not(root: Path, root_fd: int) -> None:
    (root / "run").mkdir(mode=0o755)
    with nobody(), pytest.raises(errors.MountMissing):
        landing.Part.create(root_fd, order())
    root.chmod(0o777)
    with nobody(), pytest.raises(errors.PermanentError):
        landing.Part.create(root_fd, order())


def test_a_folder_that_is_missing_or_a_file_is_a_missing_mount(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        with pytest.raises(errors.MountMissing):
            landing.open_root(str(tmp_path / name))


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOSPC])
def test_a_file_lands_where_attributes_cannot_be_written(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", refusing(code))
        land(root_fd, order())
    found = look(root_fd, order())
    assert (found.pnfsid, found.adler32) == (None, None)


# --- nothing leaves the root ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["link", "file"])
def test_a_parent_that_is_a_link_or_a_file_is_refused(root: Path, root_fd: int, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "run").symlink_to(outside) if what == "link" else (root / "run").touch()
    with pytest.raises(errors.NotAFile):
        landing.Part.create(root_fd, order())
    with pytest.raises(errors.NotAFile):
        standing.look(root_fd, (b"run", b"23003"), b"f.fits")
    assert not list(outside.iterdir())


def test_who_swaps_directories_for_links_meanwhile_leads_nothing_outside(
    root: Path, root_fd: int, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "23003").mkdir(parents=True)
    (tmp_path / "link").symlink_to(outside)
    done = threading.Event()

    def race() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                (root / "run").rename(tmp_path / "aside")
                (tmp_path / "link").rename(root / "run")
                (root / "run").rename(tmp_path / "link")
                (tmp_path / "aside").rename(root / "run")

    racer = threading.Thread(target=race)
    (root / "run").mkdir()
    racer.start()
    try:
        for number in range(300):
            with contextlib.suppress(errors.TryError):
                land(root_fd, order(order8=f"{number:08x}", final=b"f%d" % number))
    finally:
        done.set()
        racer.join()
    assert not list((outside / "23003").iterdir())
    assert [entry.name for entry in outside.iterdir()] == ["23003"]


_PIECES = st.sampled_from(["..", ".", "", "etc", "a", "%2e%2e", "..%2f", "\0", "link", "é", " ", "~", "\\", "x" * 256])
_HOSTILE = st.lists(_PIECES | st.text(max_size=8), max_size=8).map("/".join)


@pytest.fixture(scope="module")
def jail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root between canaries, on a tmpfs: thousands of syncs would take long elsewhere."""
    with mounted(tmp_path_factory.mktemp("jail") / "disk", "size=64m") as disk:
        (disk / "root").mkdir()
        (disk / "etc").mkdir()
        (disk / "root" / "link").symlink_to(disk / "etc")
        yield disk


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rest=_HOSTILE)
def test_no_path_however_hostile_leaves_the_root(jail: Path, rest: str) -> None:
    root_fd = landing.open_root(str(jail / "root"))
    try:
        with contextlib.suppress(errors.TryError):
            *directory, final = paths.relative(f"/pool/{rest}", "/pool")
            land(root_fd, order(directory=tuple(directory), final=final), b"x")
    finally:
        os.close(root_fd)
    assert sorted(entry.name for entry in jail.iterdir()) == ["etc", "root"]
    assert not list((jail / "etc").iterdir())


# --- looking ----------------------------------------------------------------------------------------------------


def test_what_landed_is_vouched_for_by_its_attributes(root: Path, root_fd: int) -> None:
    land(root_fd, order())
    found = look(root_fd, order())
    standing = (root / "run/23003/f.fits").stat()
    assert found.seen == Seen(standing.st_dev, standing.st_ino, standing.st_mtime_ns)
    assert found[1:] == (len(DATA), True, PNFSID, zlib.adler32(DATA), True)


@pytest.mark.parametrize("change", ["touched", "grown", "foreign"])
def test_attributes_that_no_longer_fit_are_not_believed(root: Path, root_fd: int, change: str) -> None:
    land(root_fd, order())
    final = root / "run/23003/f.fits"
    if change == "touched":
        os.utime(final, ns=(1, 1))
    elif change == "grown":
        before = final.stat().st_mtime_ns
        final.write_bytes(DATA + b"x")
        os.utime(final, ns=(before, before))
    else:
        os.setxattr(final, attributes.XATTR_STAT, b"\xff")
    found = look(root_fd, order())
    assert (found.pnfsid, found.adler32) == (None, None)


def test_an_attribute_that_is_no_sum_counts_as_none(root: Path, root_fd: int) -> None:
    land(root_fd, order())
    os.setxattr(root / "run/23003/f.fits", attributes.XATTR_ADLER32, b"nonsense")
    found = look(root_fd, order())
    assert (found.pnfsid, found.adler32) == (PNFSID, None)


def test_nothing_stands_where_file_or_directory_is_missing(root: Path, root_fd: int) -> None:
    assert standing.look(root_fd, (b"absent", b"deep"), b"f") is None
    assert standing.look(root_fd, (), b"f") is None


def test_many_looks_say_of_each_file_what_one_look_says(root: Path, root_fd: int) -> None:
    land(root_fd, order())
    (root / "file").touch()
    (root / "run" / "link").symlink_to("23003")
    files = [
        *(((b"run", b"23003"), name) for name in (b"f.fits", b"absent", b"x" * 256)),
        *(
            ((b"absent",), b"f"),
            ((), b"file"),
            ((b"file",), b"f"),
            ((b"run", b"link"), b"f.fits"),
            ((b"run",), b"23003"),
        ),
    ]
    found = standing.looks(root_fd, files)
    for (directory, name), one in zip(files, found, strict=True):
        if isinstance(one, errors.TryError):
            with pytest.raises(type(one)):
                standing.look(root_fd, directory, name)
        else:
            assert one == standing.look(root_fd, directory, name)
    assert [type(each).__name__ for each in found] == [
        *("Existing", "NoneType", "NameTooLong", "NoneType", "Existing", "NotAFile", "NotAFile", "Existing"),
    ]


def test_each_file_of_a_directory_that_cannot_be_entered_gets_an_error_of_its_own(root: Path, root_fd: int) -> None:
    (root / "file").touch()
    first, second = standing.looks(root_fd, [((b"file",), b"a"), ((b"file",), b"b")])
    assert isinstance(first, errors.NotAFile)
    assert isinstance(second, errors.NotAFile)
    assert first is not second


def test_a_file_whose_sync_failed_is_not_synced_again_because_another_is_in_error(
    root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(root_fd, order())
    syncs: list[int] = []

    def failing_once(fd: int) -> None:
        syncs.append(fd)
        if len(syncs) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing_once)
    where = order().directory
    found, trouble = standing.looks(root_fd, [(where, order().final_name), (where, b"x" * 256)], sync=True)
    assert isinstance(found, standing.Existing)
    assert not found.is_durable
    assert len(syncs) == 1
    assert isinstance(trouble, errors.NameTooLong)


def test_a_directory_is_walked_to_once_for_all_its_files(root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    land(root_fd, order())
    opened: list[object] = []
    real_open = os.open

    def counting(path: bytes, *args: int, **where: int) -> int:
        opened.append(path)
        return real_open(path, *args, **where)

    monkeypatch.setattr(os, "open", counting)
    found = standing.looks(root_fd, [((b"run", b"23003"), b"%d" % number) for number in range(20)])
    assert found == [None] * 20
    assert opened == [b"run", b"23003"]


def test_a_directory_a_link_and_a_fifo_are_seen_as_no_files(root: Path, root_fd: int) -> None:
    (root / "dir").mkdir()
    (root / "link").symlink_to("dir")
    os.mkfifo(root / "fifo")
    for name in (b"dir", b"link", b"fifo"):
        found = standing.look(root_fd, (), name)
        assert found is not None
        assert not found.is_file


def test_a_file_we_may_not_read_is_seen_without_attributes(root: Path, root_fd: int) -> None:
    land(root_fd, order(file_mode=0o600))
    with nobody():
        found = look(root_fd, order())
    assert (found.size_bytes, found.pnfsid) == (len(DATA), None)


class Killed(BaseException):
    """What no handler may undo."""


def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take note of the inodes that are synced from here on."""
    inodes: list[int] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        real_fsync(fd)
        inodes.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    return inodes


def test_a_name_that_a_killed_run_did_not_sync_is_durable_before_the_file_counts_as_here(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: int) -> None:
        raise Killed

    part = landing.Part.create(root_fd, order())
    part.finish(PNFSID, None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(Killed):
            part.publish()
    inodes = synced(monkeypatch)
    found = look(root_fd, order())
    assert (found.pnfsid, found.is_durable) == (PNFSID, True)
    final = root / "run/23003/f.fits"
    assert inodes == [final.stat().st_ino, final.parent.stat().st_ino]
    part.discard()


@pytest.mark.parametrize(
    ("clock_seconds", "count"),
    [(1.0, 2), (standing.YOUNG_SECONDS - 30, 2), (standing.YOUNG_SECONDS + 30, 0), (-3600.0, 2)],
    ids=["new", "young", "old", "of the future"],
)
def test_only_a_young_file_is_synced(
    root_fd: int, monkeypatch: pytest.MonkeyPatch, clock_seconds: float, count: int
) -> None:
    land(root_fd, order())
    now = time.time() + clock_seconds
    monkeypatch.setattr(time, "time", lambda: now)
    inodes = synced(monkeypatch)
    assert look(root_fd, order()).is_durable
    assert len(inodes) == count


def test_a_young_file_that_cannot_be_synced_is_not_called_durable(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(root_fd, order())
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    found = look(root_fd, order())
    assert (found.pnfsid, found.is_durable) == (PNFSID, False)
    assert names(root) == {"f.fits"}


def test_who_only_looks_writes_nothing(root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    land(root_fd, order())
    inodes = synced(monkeypatch)
    found = standing.look(root_fd, order().directory, order().final_name)
    assert found is not None
    assert not found.is_durable
    assert not inodes


def test_the_sum_of_a_file_is_read_and_says_which_file(root: Path, root_fd: int) -> None:
    data = os.urandom(3 * standing.BLOCK_BYTES + 5)
    land(root_fd, order(), data)
    assert standing.sum_of(root_fd, (b"run", b"23003"), b"f.fits") == (zlib.adler32(data), look(root_fd, order()).seen)


def test_the_sum_of_what_is_missing_asks_for_a_new_plan(root: Path, root_fd: int) -> None:
    for directory in ((), (b"absent",)):
        with pytest.raises(errors.FinalNameChanged):
            standing.sum_of(root_fd, directory, b"f")


def test_the_sum_of_a_file_that_changes_meanwhile_is_not_told(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(root_fd, order())

    class Meddler(Adler32):
        def update(self, block: bytes | bytearray | memoryview) -> None:
            os.utime(root / "run/23003/f.fits", ns=(1, 1))

    monkeypatch.setattr(standing, "Adler32", Meddler)
    with pytest.raises(errors.FinalNameChanged):
        standing.sum_of(root_fd, (b"run", b"23003"), b"f.fits")


def test_the_sum_of_a_fifo_or_directory_is_refused_at_once(root: Path, root_fd: int) -> None:
    os.mkfifo(root / "fifo")
    (root / "dir").mkdir()
    for name in (b"fifo", b"dir"):
        with pytest.raises(errors.NotAFile):
            standing.sum_of(root_fd, (), name)


# --- sweeping ---------------------------------------------------------------------------------------------------


def litter(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "mine": paths.part_name(b"a", OURS, "00000001"),
        "kept": paths.part_name(b"b", OURS, "00000002"),
        "other": paths.part_name(b"a", paths.instance8("node2"), "00000001"),
        "plain": b"download.part",
        "file": b"a.fits",
    }
    for name in found.values():
        (folder / os.fsdecode(name)).touch()
    return found


def test_a_sweep_takes_our_own_parts_and_nothing_else(root: Path, root_fd: int) -> None:
    made = litter(root / "run")
    (root / "run" / f"dir.{OURS}-00000003.part").mkdir()
    assert leftovers.sweep(root_fd, (b"run",), OURS, frozenset({made["kept"]})) == {made["mine"]: True}
    left = {os.fsencode(entry.name) for entry in (root / "run").iterdir() if entry.is_file()}
    assert left == set(made.values()) - {made["mine"]}


def test_a_sweep_of_a_missing_directory_finds_nothing(root_fd: int) -> None:
    assert leftovers.sweep(root_fd, (b"absent",), OURS, frozenset()) == {}


def test_a_sweep_tells_of_a_part_that_stays(root: Path, root_fd: int) -> None:
    made = litter(root / "run")
    (root / "run").chmod(0o555)
    (root).chmod(0o777)
    with nobody():
        found = leftovers.sweep(root_fd, (b"run",), OURS, frozenset({made["kept"]}))
    assert found == {made["mine"]: False}


def test_a_dead_workers_part_goes_by_name_and_only_a_part_does(root: Path, root_fd: int) -> None:
    made = litter(root / "run")
    assert leftovers.remove_part(root_fd, (b"run",), made["mine"])
    assert leftovers.remove_part(root_fd, (b"run",), made["mine"])
    assert leftovers.remove_part(root_fd, (b"absent",), made["mine"])
    assert os.fsdecode(made["mine"]) not in names(root)
    with pytest.raises(ValueError):
        leftovers.remove_part(root_fd, (b"run",), made["file"])


def test_old_parts_are_found_in_the_whole_tree_and_links_are_not_followed(
    root: Path, root_fd: int, tmp_path: Path
) -> None:
    made = litter(root)
    for folder in (root, root / "a/b", tmp_path / "outside"):
        litter(folder)
        os.utime(folder / os.fsdecode(made["mine"]), (1000, 1000))
    (root / "a/link").symlink_to(tmp_path / "outside")
    found = set(leftovers.old_parts(root_fd, OURS, 2000))
    assert found == {((), made["mine"]), ((b"a", b"b"), made["mine"])}
    assert all(leftovers.remove_part(root_fd, *part) for part in found)
    assert not list(leftovers.old_parts(root_fd, OURS, 2000))
