"""The engine alone: a list of files in, files out, without Kafka, policy and log; everything else as in the daemon.

Prints one line of JSON: wall, user, sys (seconds), files, bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.sets import File, read_manifest
from benchmarks.usage import cpu_of, tree
from dcalqr import errors
from dcalqr.config import Dcache
from dcalqr.copiers.contract import Copier
from dcalqr.dcache.tls import Credentials
from dcalqr.local.landing import open_root
from dcalqr.orders import CopyOrder, Deadlines, Seen

# The configuration's defaults.
DEADLINES = Deadlines(
    door_seconds=240.0, connect_seconds=30.0, stall_seconds=60.0, timeout_seconds=600.0, min_rate=10_000.0
)
# A dCache door answers with the file's id; any string of its length does for the attribute.
PNFSID = "0000" + 32 * "A"


class Unwatched:
    """A Watcher that does nothing."""

    def phase(self, name: str) -> None: ...

    def received(self, total_bytes: int) -> None: ...


class NoBook:
    """A PartsBook that writes nothing down: no sweep comes after a benchmark."""

    def part_opened(self, directory: tuple[bytes, ...]) -> None: ...

    def part_closed(self, directory: tuple[bytes, ...]) -> None: ...


def order_for(file: File, url: str) -> CopyOrder:
    """Give the order that the daemon would plan for a file that is not here yet."""
    order_id = uuid.uuid4().hex
    *directory, name = file.path.encode().split(b"/")
    return CopyOrder(
        order_id=order_id,
        url=f"{url}/{file.path}",
        directory=tuple(directory),
        final_name=name,
        part_name=b"%b.00000000-%b.part" % (name, order_id[:8].encode()),
        size_bytes=file.size_bytes,
        adler32=None,
        pnfsid=PNFSID,
        seen=None,
        directory_mode=0o755,
        file_mode=0o644,
        require_checksum=True,
        allow_http=False,
        redirect_hosts=frozenset(),
        deadlines=DEADLINES,
    )


def default_workers() -> int:
    """Give the product's default of `dcache.workers`."""
    default: int = Dcache.model_fields["workers"].default
    return default


def new_copier(workers: int, slots: int, credentials: Credentials, root_fd: int) -> Copier:
    """Make the copier: 0 workers is inline."""
    if workers:
        from dcalqr.copiers.workers import WorkersCopier

        return WorkersCopier(workers, slots, credentials.current, lambda: root_fd, lambda: 1, NoBook())
    from dcalqr.copiers.inline import InlineCopier

    return InlineCopier(slots, credentials.current, lambda: root_fd)


async def warmed(copier: Copier, file: File) -> None:
    """Let the copier start its workers and load the credentials, by an order that ends before its first request.

    The daemon's workers are there too before anything is announced; connections are not made by this.
    """
    order = msgspec.structs.replace(order_for(file, "https://localhost"), seen=Seen(device=0, inode=0, mtime_ns=0))
    with contextlib.suppress(errors.FinalNameChanged):
        await copier.copy(order, Unwatched())


async def copied(copier: Copier, orders: Sequence[CopyOrder], slots: int) -> None:
    """Carry out all orders, as many at a time as there are slots, as the dispatcher's jobs would."""
    left = iter(orders)

    async def take() -> None:
        for order in left:
            await copier.copy(order, Unwatched())

    await asyncio.gather(*(take() for _ in range(slots)))


async def measured(options: argparse.Namespace) -> dict[str, float]:
    """Copy everything; the clock runs from the first order to the last answer."""
    credentials = Credentials(str(options.client), str(options.capath), crl_check=False)
    credentials.refresh()
    files = read_manifest(options.manifest)
    orders = [order_for(file, options.url) for file in files]
    copier = new_copier(options.workers, options.slots, credentials, open_root(str(options.dest)))
    await warmed(copier, files[0])
    before, start = cpu_of(tree(os.getpid())), time.monotonic()
    await copied(copier, orders, options.slots)
    wall = time.monotonic() - start
    spent = cpu_of(tree(os.getpid())).since(before)
    await copier.aclose(grace=5.0)
    total = sum(file.size_bytes for file in files)
    return {"wall": wall, "user": spent.user, "sys": spent.system, "files": len(files), "bytes": total}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--url", required=True, help="the door; every path of the manifest stands behind it")
    parser.add_argument("--manifest", type=Path, required=True, help="lines: path, size, Adler32 in hexadecimal")
    parser.add_argument("--dest", type=Path, required=True, help="an empty folder")
    parser.add_argument("--client", type=Path, required=True, help="PEM: certificate and key")
    parser.add_argument("--capath", type=Path, required=True, help="a folder of CA certificates by hash")
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="worker processes; 0: threads of this one"
    )
    parser.add_argument("--slots", type=int, default=10, help="files at a time")
    print(json.dumps(asyncio.run(measured(parser.parse_args()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
