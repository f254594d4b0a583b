"""Everything of an instance but Kafka, in the test's own process, with a real door: `Rig`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dcalqr.config import load
from dcalqr.dcache.events import EventReader
from dcalqr.local.failedtask import FailedTask
from dcalqr.local.failures import FailedTasksFile, complete_length, read_rows
from dcalqr.local.state import State
from dcalqr.model import Delivery, Origin, Settled, StorageEvent
from dcalqr.service.assembly import Assembly, assembled
from dcalqr.testing import samples
from dcalqr.testing.door import Door, Request, StoredFile
from dcalqr.testing.pki import Pki
from tests.support.site import FOLDER, ROOT, merged, settings, write_toml

# Generous: two busy cores are slow, and no promise is about speed.
SECONDS = 30.0


class Rig:
    """Door, download folder and the parts that copy; one dispatcher at a time.

    Parameters
    ----------
    folder
        Its own.
    pki
        Whom the door trusts.
    """

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.folder, self.pki = folder, pki
        self.door = Door(pki)
        self.door.start()
        self.door.make_folder(FOLDER)
        self.download = folder / "download"
        self.download.mkdir()
        self.settings = settings(folder, self.door.url, pki)
        self._reader = EventReader(ROOT + FOLDER)
        self._random = random.Random(1)
        self._offset = 0
        self._parts: Assembly | None = None

    @contextlib.asynccontextmanager
    async def running(self, **changes: dict[str, Any]) -> AsyncIterator[Assembly]:
        """Run the parts with changes of the configuration by section; what they remember ends with them."""
        path = self.folder / "dcalqr.toml"
        write_toml(path, merged(self.settings, changes))
        config = load(path)
        threads = ThreadPoolExecutor(2)
        state = State(str(config.local.statefolder))
        state.open()
        rows = FailedTasksFile(str(config.local.failedtasksfile), threads)
        await rows.open()
        try:
            name = config.daemon.instance
            async with assembled(config, instance=name, state=state, rows=rows, rows_threads=threads) as self._parts:
                yield self._parts
        finally:
            await rows.close()
            state.close()
            threads.shutdown()

    # --- the source -----------------------------------------------------------------------------------------------

    def put(self, name: str, content: bytes | samples.Content, **how: Any) -> StoredFile:
        """Upload a file to the door and announce nothing; `how` goes to `Door.put`."""
        return self.door.put(f"{FOLDER}/{name}", content, pnfsid=samples.new_pnfsid(self._random), **how)

    def event(self, file: StoredFile, **how: Any) -> StorageEvent:
        """Read the pool's message of an upload; `how` goes to `samples.upload`; `size_bytes` replaces the true one."""
        size_bytes = how.pop("size_bytes", file.size_bytes)
        event = self._reader.read(samples.upload(ROOT + file.path, size_bytes, file.pnfsid, **how))
        assert isinstance(event, StorageEvent)
        return event

    def deliver(self, file: StoredFile, *, staged: bool = False, record: bytes = b"{}", **how: Any) -> Delivery:
        """Announce an upload to the dispatcher; `how` as for `event`, `record` goes into a row."""
        assert self._parts is not None
        if staged:
            how["transfer_path"] = f"/upload/1/{file.pnfsid}/{file.path.rpartition('/')[2]}"
        self._offset += 1
        acks: list[Settled] = []
        delivery = Delivery(self.event(file, **how), Origin("billing", 0, self._offset), record, acks.append)
        self._parts.dispatcher.submit(delivery)
        return delivery

    def upload(self, name: str, content: bytes | samples.Content, **how: Any) -> tuple[StoredFile, Delivery]:
        """Upload a file and announce it; `how` goes to `Door.put`."""
        file = self.put(name, content, **how)
        return file, self.deliver(file, staged=how.get("staged", False))

    def hint(self, message: bytes) -> None:
        """Give the dispatcher a message that says "look now"."""
        event = self._reader.read(message)
        assert isinstance(event, StorageEvent)
        assert self._parts is not None
        self._parts.dispatcher.look_now(event)

    def commit(self, file: StoredFile) -> None:
        """Make a staged upload visible, and announce that as SrmManager does."""
        self.door.commit(file.path)
        where = f"/upload/1/{file.pnfsid}/{file.path.rpartition('/')[2]}"
        self.hint(samples.srm_commit(ROOT + file.path, file.size_bytes, file.pnfsid, where))

    def removed(self, file: StoredFile) -> None:
        """Announce that an upload was deleted."""
        self.hint(samples.remove(ROOT + file.path, file.size_bytes, file.pnfsid))

    def asked(self, method: str, name: str = "") -> list[Request]:
        """Return what the door was asked, of one file or of all."""
        path = f"{FOLDER}/{name}"
        requests = [request for request in self.door.requests if request.where == "door" and request.method == method]
        return [request for request in requests if not name or request.path == path]

    # --- the destination ------------------------------------------------------------------------------------------

    def landed(self, name: str) -> bytes | None:
        """Return what is under a final name here."""
        path = self.download / name
        return path.read_bytes() if path.exists() else None

    def parts(self) -> list[Path]:
        return [path for path in self.download.rglob("*.part") if path.is_file()]

    def rows(self) -> list[FailedTask]:
        path = self.settings["local"]["failedtasksfile"]
        return list(read_rows(path, complete_length(path)))

    async def ends(self, *deliveries: Delivery) -> list[str]:
        """Wait until all are settled; returns how each of them was."""
        await until(lambda: all(delivery.settled for delivery in deliveries), f"an end of {deliveries}")
        return [delivery.settled.value for delivery in deliveries if delivery.settled]

    def close(self) -> None:
        self.door.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as the condition holds.

    Raises
    ------
    TimeoutError
        It did not.
    """
    limit = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {SECONDS:g} s")
        await asyncio.sleep(0.01)
