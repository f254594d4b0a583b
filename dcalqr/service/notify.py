"""What systemd hears: READY, STOPPING, STATUS, WATCHDOG, RELOADING, how long it lasts. Silent where nobody asked."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Speaks sd_notify's protocol (a datagram to $NOTIFY_SOCKET); outside systemd every call does nothing."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]

    @property
    def watchdog_seconds(self) -> float | None:
        """How often systemd wants to hear that all is well; None: it does not watch."""
        usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        if not usec.isdigit() or (pid and pid != str(os.getpid())):
            return None
        return int(usec) / 1e6

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def needs(self, seconds: float) -> None:
        """Ask for so long a time to end in, if that is more than the unit's TimeoutStopSec."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, words: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(words.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(message.encode("utf-8"), self._address)
        except OSError:
            return  # the manager restarts, or is gone: that is no reason to stop copying
