"""What stands under a final name: which file, what it says of itself, and the sum of its bytes. Blocking."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from dcalqr import errors
from dcalqr.checksum import Adler32
from dcalqr.local import attributes
from dcalqr.local.directories import opened
from dcalqr.local.oserrors import border
from dcalqr.orders import Seen

BLOCK_BYTES = 1024 * 1024  # larger reads gain nothing measurable, smaller ones cost system calls
# By then the kernel has written everything by itself: names after 5 s (ext4) or 30 s (xfs, btrfs), data after 35 s.
# Far longer, for kernels that are told to wait (laptop mode: 10 min) and for a file server whose clock is behind ours.
YOUNG_SECONDS = 600.0

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a FIFO must not hold us


class Existing(NamedTuple):
    """What stands under a final name. `pnfsid` and `adler32` are given only if size and mtime still vouch for them."""

    seen: Seen
    size_bytes: int
    is_file: bool
    pnfsid: str | None = None
    adler32: int | None = None
    is_durable: bool = False  # with its name, as far as `look` was to see to it


# What a look found, or what came in its way.
Found: TypeAlias = Existing | errors.TryError | None


def look(root_fd: int, directory: tuple[bytes, ...], name: bytes, *, sync: bool = False) -> Existing | None:
    """Tell what stands under a name; None: nothing, or its directory is missing.

    Parameters
    ----------
    sync
        Whether a file that is not known to be durable is made so: somebody may have been killed between its rename and
        the fsync of its directory. Where that fails it is not believed: what a failed fsync has lost, a second one
        does not tell.

    Raises
    ------
    NotAFile
        A parent is a symbolic link or a file.
    NameTooLong, MountMissing, PermanentError, TransientError
        As the operating system answered.
    """
    with border(root_fd, "look"), contextlib.suppress(FileNotFoundError), opened(root_fd, directory) as fd:
        return _standing(fd, name, sync=sync)
    return None


def looks(root_fd: int, files: Sequence[tuple[tuple[bytes, ...], bytes]], *, sync: bool = False) -> list[Found]:
    """Tell what stands under many names, each with its directory: what `look` returns or raises for it.

    Files come by directories, and one that is walked to once costs its files a system call each. With threads, what
    costs is less the call than that each gives the interpreter away.
    """
    by_directory: defaultdict[tuple[bytes, ...], list[bytes]] = defaultdict(list)
    for directory, name in files:
        by_directory[directory].append(name)
    found: dict[tuple[tuple[bytes, ...], bytes], Found] = {}
    for directory, names in by_directory.items():
        try:
            with border(root_fd, "look"), contextlib.suppress(FileNotFoundError), opened(root_fd, directory) as fd:
                for name in names:
                    found[directory, name] = _found(root_fd, partial(_standing, fd, name, sync=sync))
        except errors.TryError:  # the directory's: each file gets an error of its own, and none is synced twice
            for name in (name for name in names if (directory, name) not in found):
                found[directory, name] = _found(root_fd, partial(look, root_fd, directory, name, sync=sync))
    return [found.get(file) for file in files]


def _found(root_fd: int, looking: Callable[[], Existing | None]) -> Found:
    try:
        with border(root_fd, "look"):
            return looking()
    except errors.TryError as error:
        return error


def _standing(directory_fd: int, name: bytes, *, sync: bool) -> Existing | None:
    try:
        found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            return _described(directory_fd, name, found, sync=sync)
    except FileNotFoundError:
        return None
    return Existing(seen_of(found), found.st_size, is_file=False)


def _described(directory_fd: int, name: bytes, found: os.stat_result, *, sync: bool) -> Existing:
    plain = Existing(seen_of(found), found.st_size, is_file=True)
    try:
        fd = os.open(name, _READ, dir_fd=directory_fd)
    except PermissionError:
        return plain
    try:
        now = os.fstat(fd)
        if seen_of(now) != plain.seen:
            return plain
        pnfsid, adler32 = attributes.read(fd, now)
        is_old = now.st_ctime <= time.time() - YOUNG_SECONDS  # the time of its rename, or later
        is_durable = is_old or (sync and _is_synced(fd, directory_fd))
        return plain._replace(pnfsid=pnfsid, adler32=adler32, is_durable=is_durable)
    finally:
        os.close(fd)


def _is_synced(fd: int, directory_fd: int) -> bool:
    try:
        os.fsync(fd)  # it may be another program's, which has synced nothing
        os.fsync(directory_fd)
    except OSError:
        return False
    return True


def sum_of(root_fd: int, directory: tuple[bytes, ...], name: bytes) -> tuple[int, Seen]:
    """Read a file and return its Adler32, and which file that was.

    Raises
    ------
    FinalNameChanged
        It is not there, or changed while it was read.
    NotAFile
        It is no regular file.
    """
    with border(root_fd, "read"), contextlib.suppress(FileNotFoundError), opened(root_fd, directory) as fd:
        before = what_stands(fd, name)
        adler32 = _read_through(fd, name)
        if before is not None and what_stands(fd, name) == before:
            return adler32, before
    raise errors.FinalNameChanged


def _read_through(directory_fd: int, name: bytes) -> int:
    adler32 = Adler32()
    block = memoryview(bytearray(BLOCK_BYTES))
    with open(os.open(name, _READ, dir_fd=directory_fd), "rb", buffering=0) as file:
        while count := file.readinto(block):
            adler32.update(block[:count])
    return adler32.value


def seen_now(root_fd: int, directory: tuple[bytes, ...], name: bytes) -> Seen | None:
    """Tell which file stands under a name; None: nothing. Cheaper than `look`, raises alike."""
    with border(root_fd, "look"), contextlib.suppress(FileNotFoundError), opened(root_fd, directory) as fd:
        return what_stands(fd, name)
    return None


def what_stands(fd: int, name: bytes) -> Seen | None:
    """Say which regular file stands under a name; None: nothing does.

    Raises
    ------
    NotAFile
        Something else stands there.
    OSError
        As the operating system answered.
    """
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise errors.NotAFile(what="is a directory" if stat.S_ISDIR(found.st_mode) else "is no regular file")
    return seen_of(found)


def seen_of(found: os.stat_result) -> Seen:
    """Tell one file, and one state of it, from another."""
    return Seen(found.st_dev, found.st_ino, found.st_mtime_ns)
