"""Orders under way, as the live view and the log see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dcalqr import checksum
from dcalqr.orders import CopyOrder, Landed
from dcalqr.plugins import TaskContext


@dataclass
class Running:
    """One order: its phase and the bytes received so far. `since` is monotonic seconds."""

    path: str
    part_name: bytes
    size_bytes: int | None
    since: float
    phase: str = "queued"
    received_bytes: int = 0

    @property
    def missing_bytes(self) -> int:
        """What this order will still write; one that waits for its slot has claimed nothing yet."""
        return 0 if self.phase == "queued" else max(0, (self.size_bytes or 0) - self.received_bytes)


class Watch:
    """Follows one order: a `Watcher` for the copier, log lines for people."""

    def __init__(self, running: Running, order: CopyOrder, say: Callable[..., None]) -> None:
        self._running, self._order, self._say = running, order, say

    def phase(self, name: str) -> None:
        self._running.phase = name
        if name == "door_wait":
            self._say("COPY_START", url=self._order.url)
        elif name == "body":
            self._say("COPY_RUN", part=self._order.part_name.decode())

    def received(self, total_bytes: int) -> None:
        self._running.received_bytes = total_bytes


def report_landed(landed: Landed, order: CopyOrder, context: TaskContext) -> None:
    """Put what an attempt measured into the delivery's report, and say that it is over."""
    phases = landed.phases
    rate = landed.size_bytes * 8 / 1e6 / phases.body if phases.body else None
    context.report(
        size_bytes=landed.size_bytes,
        adler32=checksum.hex8(landed.adler32),
        verified=landed.verified,
        pool=landed.pool,
        rate_mbit_per_s=None if rate is None else round(rate, 3),
        **{f"{name}_seconds": round(getattr(phases, name), 6) for name in phases.__struct_fields__},
    )
    checked = "ok" if landed.verified else "unverified"
    context.say("COPY_OVER", url=order.url, name=order.final_name.decode(), checksum=checked)
    if landed.setgid_dropped:
        context.say("SETGID_DROPPED", level="warning", hint="the service user is not in the directory's group")
