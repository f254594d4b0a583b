"""Holds at work: everybody waits while one is set, one probe looks whether it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from dcalqr import errors, log
from dcalqr.cancels import was_asked_to_end
from dcalqr.holds import Hold, Holds, domain_of
from dcalqr.metrics.counters import Counters


class Holding:
    """The holds of one dispatcher, with their probes.

    Parameters
    ----------
    probe
        Looks whether a domain ("door", "destination") works; raises `HeldError` if not.
    counters
        Where holds are counted.
    """

    def __init__(self, probe: Callable[[str], Awaitable[None]], counters: Counters) -> None:
        self.holds = Holds()
        self._probe, self._counters = probe, counters
        self._log = log.get()
        self.releases = 0
        self._free = asyncio.Event()
        self._free.set()
        self._probing: set[asyncio.Task[None]] = set()

    @property
    def is_free(self) -> bool:
        return self._free.is_set()

    async def free(self) -> None:
        """Return when nothing is held."""
        await self._free.wait()

    def failed(self, error: errors.HeldError) -> bool:
        """Take note of a try that met a hold; returns whether everybody has to wait now."""
        hold = self.holds.failed(error, time.monotonic())
        if hold is not None:
            self._begin(hold)
        return bool(self.holds)

    def door_reached(self) -> None:
        """The door answered something."""
        self.holds.door_reached()

    def _begin(self, hold: Hold) -> None:
        self._free.clear()
        self._counters.holds[hold.reason] += 1
        self._log.error("HOLD", domain=hold.domain, reason=hold.reason, message=hold.message)
        probing = asyncio.create_task(self._look(hold), name=f"probe-{hold.domain}")
        self._probing.add(probing)
        probing.add_done_callback(self._probing.discard)

    async def _look(self, hold: Hold) -> None:
        """Probe now and then until the domain works again; then let everybody go on."""
        while await self._is_held(hold):
            pass
        self.holds.release(hold.domain, time.monotonic())
        self.releases += 1
        held = round(time.monotonic() - hold.since, 1)
        self._log.warning("RELEASE", domain=hold.domain, reason=hold.reason, held_seconds=held)
        if not self.holds:
            self._free.set()

    async def _is_held(self, hold: Hold) -> bool:
        await asyncio.sleep(max(0.0, hold.probe_at - time.monotonic()))
        try:
            await self._probe(hold.domain)
        except errors.HeldError as error:
            if domain_of(error) == hold.domain:
                self.holds.probe_failed(hold.domain, error, time.monotonic())
                return True
        except errors.TryError as error:
            self._log.info("PROBE", domain=hold.domain, error=error)  # it answers: that is all a probe asks
        except (Exception, asyncio.CancelledError) as error:
            # A plug-in's mistake, or a cancel that nobody sent: released, or everything would wait for ever.
            if isinstance(error, asyncio.CancelledError) and was_asked_to_end():
                raise
            self._log.error("PROBE_RAISED", domain=hold.domain, exc_info=error)
        return False

    async def aclose(self) -> None:
        """End the probes."""
        probing = list(self._probing)
        for probe in probing:
            probe.cancel()
        if probing:
            await asyncio.wait(probing)
