"""Removing the parts that a former run of this instance left behind."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

from dcalqr import errors, log
from dcalqr.local import leftovers, paths
from dcalqr.local.oserrors import translating
from dcalqr.service.assembly import Assembly
from dcalqr.transfer import Transfer

# A part this old belongs to no order that runs: attempts end by their stall limits within minutes.
OLD_PART_SECONDS = 24 * 3600.0
WALK_SECONDS = 24 * 3600.0
RETRY_SECONDS = 30.0


async def sweep(assembly: Assembly) -> None:
    """Sweep at once where the state folder knows of parts, then walk the whole tree once a day, for ever."""
    with_thread = ThreadPoolExecutor(1, thread_name_prefix="sweep")
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                await loop.run_in_executor(with_thread, sweep_known, assembly)
                found = await loop.run_in_executor(with_thread, _walk, assembly)
            except errors.TryError as error:
                log.get().warning("SWEEP", error=error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if found:
                log.get().info("SWEEP", parts=found, older_than_seconds=OLD_PART_SECONDS)
            await asyncio.sleep(WALK_SECONDS)
    finally:
        with_thread.shutdown(wait=False, cancel_futures=True)


class _Outstanding:
    """The parts of the orders outstanding at the moment it is asked: new ones begin while a sweep goes on."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def __contains__(self, name: object) -> bool:
        return name in self._transfer.part_names


@translating("sweep")
def sweep_known(assembly: Assembly) -> None:
    """Remove own parts, whatever their age, where a former run had some open.

    A directory where a part stays, or that refuses us, is left to the next sweep.

    Raises
    ------
    TryError
        The sweep ended early: sweep again later.
    """
    known = sorted(assembly.state.left_parts)
    if not known:
        return
    assembly.destination.check_presence()  # parts may be what fills the disk
    count, ours, keep = 0, paths.instance8(assembly.instance), _Outstanding(assembly.transfer)
    for directory in known:
        try:
            found = leftovers.sweep(assembly.destination.root_fd, directory, ours, keep)
        except errors.PermanentError as error:  # concerns this directory only
            log.get().warning("SWEEP", error=error)
            continue
        count += sum(found.values())
        if all(found.values()):
            assembly.state.swept(directory)
    log.get().info("SWEEP", parts=count, directories=len(known))


@translating("sweep")
def _walk(assembly: Assembly) -> int:
    """Look through the whole tree for own parts that are old; slow on large trees. Returns how many went."""
    assembly.destination.check_presence()  # parts may be what fills the disk
    root_fd = os.dup(assembly.destination.root_fd)
    try:
        old = leftovers.old_parts(root_fd, paths.instance8(assembly.instance), time.time() - OLD_PART_SECONDS)
        return sum(leftovers.remove_part(root_fd, part.directory, part.name) for part in old)
    finally:
        os.close(root_fd)
