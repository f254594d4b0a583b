"""A disk that hangs or fails when a test says so: `faultfs` as a process. Needs root and Debian's python3-fusepy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Self

from tests.support.process import ServerProcess, wait_until

MOUNT_SECONDS = 30.0


class FaultyDisk:
    """A mounted file system over a folder of its own. A context manager.

    Parameters
    ----------
    folder
        Its own; the mount point is `path`, what it holds is in `content` even while it hangs.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.content = folder / "mounted", folder / "content"
        self._orders = folder / "orders.json"
        for each in (self.path, self.content):
            each.mkdir(parents=True)
        program = str(Path(__file__).with_name("faultfs.py"))
        command = ["/usr/bin/python3", program, str(self.content), str(self.path), str(self._orders)]
        self._server = ServerProcess(command, folder / "faultfs.log")

    def hang(self, **patterns: str) -> None:
        """Let operations hang until `calm`, by their name at fusepy: `hang(fsync="*/slow/*")`; `_all` is any."""
        self._order({"hang": {name.replace("_all", "*"): pattern for name, pattern in patterns.items()}})

    def fail(self, **errors: str) -> None:
        """Let operations fail until `calm`, for example `fail(write="EIO")`."""
        self._order({"fail": {name: [error, "*"] for name, error in errors.items()}})

    def calm(self) -> None:
        """Work again; what hangs goes on."""
        self._orders.unlink(missing_ok=True)

    def _order(self, orders: dict[str, object]) -> None:
        fresh = self._orders.with_suffix(".new")
        fresh.write_text(json.dumps(orders))
        fresh.rename(self._orders)

    def __enter__(self) -> Self:
        self._server.start(self.path.is_mount, MOUNT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.calm()
        # Lazily: a process that was killed while it hung may still hold a file of it for a moment.
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)
        wait_until(lambda: not self._server.running, MOUNT_SECONDS, "the end of faultfs")
