"""One attempt against a real XRootD: a second opinion on TLS, proxies and sums beside our own fake door."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcalqr import errors
from dcalqr.attempt import StopFlag, copy_once
from dcalqr.dcache.door import Door
from dcalqr.dcache.fetch import Doors
from dcalqr.orders import Landed
from dcalqr.testing import samples
from dcalqr.testing.pki import Pki
from tests.support.attempts import SOON_SECONDS, Notes, connections_to, order_of, trust_of
from tests.support.xrootd import XrootdServer

LARGE = samples.content(200_000_000)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def own(pki: Pki) -> Iterator[XrootdServer]:
    """A server that the test may kill, or give another certificate."""
    folder = Path(tempfile.mkdtemp(prefix="xrootd-"))
    server = XrootdServer(folder, pki)
    yield server
    server.stop()
    shutil.rmtree(folder)


@contextlib.contextmanager
def clients(pki: Pki, proxy: Path | None = None) -> Iterator[Doors]:
    doors = Doors(trust_of(pki, proxy=proxy, crl_check=True))
    yield doors
    doors.close()


def fetched(doors: Doors, url: str, root: int, notes: Notes | None = None) -> Landed:
    return copy_once(order_of(url), doors, root, StopFlag(), notes or Notes())


def test_a_large_file_lands_with_the_sum_that_xrootd_computes(xrootd: XrootdServer, pki: Pki, root: int) -> None:
    url = xrootd.put("large", bytes(LARGE), keep_sum=False)
    with clients(pki) as doors:
        landed = fetched(doors, url, root)
    assert (landed.size_bytes, landed.adler32, landed.verified) == (LARGE.size_bytes, LARGE.adler32, True)
    assert os.stat("run/f.fits", dir_fd=root).st_size == LARGE.size_bytes


def test_an_empty_file_lands_verified(xrootd: XrootdServer, pki: Pki, root: int) -> None:
    with clients(pki) as doors:
        landed = fetched(doors, xrootd.put("empty", b""), root)
    assert (landed.size_bytes, landed.adler32, landed.verified) == (0, 1, True)


def test_a_wrong_sum_is_found(xrootd: XrootdServer, pki: Pki, root: int, tmp_path: Path) -> None:
    url = xrootd.put("changed", b"as it was")
    with clients(pki) as doors:
        fetched(doors, url, root)
        (tmp_path / "run/f.fits").unlink()
        file = xrootd.files / "changed"
        before = file.stat()
        with file.open("r+b") as stream:
            stream.write(b"as it IS.")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the sum it keeps still counts as fresh
        with pytest.raises(errors.ChecksumMismatch):
            fetched(doors, url, root)
    assert list((tmp_path / "run").iterdir()) == []


async def test_head_sees_a_file_and_misses_a_missing_one(xrootd: XrootdServer, pki: Pki) -> None:
    url = xrootd.put("seen", b"seen")
    door = Door(xrootd.url, lambda: trust_of(pki, crl_check=True))
    shown = await door.head(url)
    assert (shown.size_bytes, shown.pnfsid) == (4, "")
    with pytest.raises(errors.NotFound):
        await door.head(f"{xrootd.url}/missing")
    await door.aclose()


async def test_a_look_at_a_folder_is_always_answered(xrootd: XrootdServer, pki: Pki) -> None:
    xrootd.put("in/seen", b"seen")
    door = Door(xrootd.url, lambda: trust_of(pki, crl_check=True))
    async with asyncio.timeout(SOON_SECONDS):
        for _ in range(20):  # had it wanted a sum: 409, or no answer ever
            await door.head(f"{xrootd.url}/in", wants_sum=False)
    await door.aclose()


def test_a_missing_file_is_an_error_and_leaves_nothing(
    xrootd: XrootdServer, pki: Pki, root: int, tmp_path: Path
) -> None:
    with clients(pki) as doors, pytest.raises((errors.NotFound, errors.ServerError)):
        fetched(doors, f"{xrootd.url}/missing", root)
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_swapped_while_a_copy_runs_disturbs_nobody(
    xrootd: XrootdServer, pki: Pki, root: int, tmp_path: Path
) -> None:
    url = xrootd.put("large", bytes(LARGE))
    proxy = tmp_path / "proxy.pem"
    shutil.copy(pki.proxy, proxy)

    class Swap(Notes):
        def phase(self, name: str) -> None:
            if name == "body":
                pki.new_proxy(proxy)

    with clients(pki, proxy) as doors:
        assert fetched(doors, url, root, Swap()).verified
    (tmp_path / "run/f.fits").unlink()
    with clients(pki, proxy) as doors:
        assert fetched(doors, url, root).verified


def test_a_server_killed_in_the_middle_of_a_body_leaves_nothing(
    own: XrootdServer, pki: Pki, root: int, tmp_path: Path
) -> None:
    own.start()
    url = own.put("large", bytes(LARGE))

    class Kill(Notes):
        def received(self, total_bytes: int) -> None:
            if own.process.running:
                own.process.kill()

    with clients(pki) as doors:
        with pytest.raises((errors.ShortBody, errors.ConnectionLost)):
            fetched(doors, url, root, Kill())
        assert list((tmp_path / "run").iterdir()) == []
        assert connections_to(own.port) == 0
        with pytest.raises(errors.Unreachable):
            fetched(doors, url, root)
        own.start()
        assert fetched(doors, url, root).verified


@pytest.mark.parametrize("proxy", ["proxy_expired", "proxy_unknown_ca"])
async def test_a_refused_proxy_is_a_credential_or_a_lost_connection_and_nothing_else(
    xrootd: XrootdServer, pki: Pki, root: int, tmp_path: Path, proxy: str
) -> None:
    # Its alert comes after the handshake of TLS 1.3 and is often overtaken by the connection's end, which is why the
    # daemon looks at the proxy's dates before use.
    url = xrootd.put("private", b"private")
    door = Door(xrootd.url, lambda: trust_of(pki, proxy=getattr(pki, proxy)))
    with clients(pki, getattr(pki, proxy)) as doors:
        for _ in range(10):
            with pytest.raises((errors.CredentialRefused, errors.ConnectionLost)):
                fetched(doors, url, root)
            with pytest.raises((errors.CredentialRefused, errors.ConnectionLost)):
                await door.head(url)
    await door.aclose()
    assert os.listdir(root) == []
    assert connections_to(xrootd.port) == 0


def test_a_host_certificate_for_another_host_is_refused(own: XrootdServer, pki: Pki, root: int, tmp_path: Path) -> None:
    shutil.copy(pki.host_wrong_name, own.folder / "host-certificate.pem")
    shutil.copy(pki.host_wrong_name, own.folder / "host-key.pem")
    own.start()
    with clients(pki) as doors, pytest.raises(errors.Unreachable, match="Hostname mismatch"):
        fetched(doors, f"{own.url}/x", root)
    assert list(tmp_path.iterdir()) == []
