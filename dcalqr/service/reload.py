"""HUP: the log file is reopened, and what may change in a running daemon is taken over from the configuration file.

A broken file changes nothing. What came of it is in the log (RELOAD), in the status and metrics, and in systemd's
STATUS.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

from dcalqr import errors, log
from dcalqr.config import RELOADABLE, Config, Kafka, load
from dcalqr.log.file import LogFile
from dcalqr.looking import status
from dcalqr.service.assembly import Assembly
from dcalqr.service.notify import Notifier


class Reloader:
    """Reloads one running instance.

    Parameters
    ----------
    config, path
        What it runs with, and the file that came from.
    assembly, renew
        What takes over new values: the parts that copy, and who speaks to Kafka.
    notifier
        Tells systemd.
    log_file
        None: the log goes to standard error, which nobody rotates.
    """

    def __init__(
        self,
        config: Config,
        path: Path,
        assembly: Assembly,
        renew: Callable[[Kafka], None],
        notifier: Notifier,
        log_file: LogFile | None,
    ) -> None:
        self.config = config
        self._path, self._assembly, self._renew, self._notifier = path, assembly, renew, notifier
        self._log_file = log_file
        self._log = log.get()
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    def obey_hup(self) -> None:
        """From now on HUP reloads."""

        def reload() -> None:
            task = asyncio.create_task(self.reload(), name="reload")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)

    async def reload(self) -> None:
        """Reload once; two at once come one after the other."""
        async with self._turn:
            self._notifier.reloading()
            await self._reopen_log()
            loop = asyncio.get_running_loop()
            try:
                fresh = await loop.run_in_executor(self._assembly.rows_threads, load, self._path)
            except errors.ConfigError as error:
                self._refused(error)
            else:
                await self._take_over(fresh)
            self._notifier.status(status.reload_words(self._assembly.counters.reload))
            self._notifier.ready()

    async def _reopen_log(self) -> None:
        """Whoever rotates the log needs it whatever became of the configuration."""
        if self._log_file is None:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._assembly.rows_threads, self._log_file.reopen)
        except OSError as error:
            path = str(self._log_file.path)
            self._log.error("LOG_FILE", path=path, message=f"cannot be reopened, the old one goes on: {error.strerror}")

    def _refused(self, error: errors.ConfigError) -> None:
        head, *complaints = (line.strip() for line in str(error).split("\n"))
        message = f"{head} {complaints[0]}; all goes on as before, but a restart would fail"
        self._assembly.counters.reloaded(time.time(), ok=False, message=message)
        self._log.error("RELOAD", ok=False, message=message, complaints=complaints[1:] or None)

    async def _take_over(self, fresh: Config) -> None:
        changed = self.config.changed(fresh)
        waiting = [key for key in changed if key not in RELOADABLE]
        applied = [key for key in changed if key in RELOADABLE]
        config = self.config = self.config.taking_over(fresh)
        assembly = self._assembly
        log.set_level(config.log.level)
        assembly.copier.resize(config.dcache.maxdownloads)
        assembly.transfer.use_min_rate(config.dcache.minrate)
        assembly.credentials.use(str(config.local.proxy), str(config.local.capath))
        if config.kafka.security != "plaintext":
            self._renew(config.kafka)
        await assembly.refresh_credentials()
        message = f"waiting for a restart: {', '.join(waiting)}" if waiting else ""
        assembly.counters.reloaded(time.time(), ok=True, message=message)
        self._log.warning("RELOAD", ok=True, applied=applied, waiting_for_restart=waiting)
