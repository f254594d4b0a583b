"""The clients that attempts share: those of the present credential generation."""

from __future__ import annotations

import threading

from dcalqr import errors
from dcalqr.dcache.fetch import Doors
from dcalqr.dcache.tls import Trust


class Clients:
    """The Doors of the present generation, and of older ones while an attempt still uses them. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doors: Doors | None = None
        self._users: dict[int, int] = {}

    def borrow(self, trust: Trust) -> Doors:
        """Lend the Doors of a generation, or of a newer one if another order has brought it already.

        Raises
        ------
        CredentialRefused
            It cannot be loaded, and there is no older one to keep.
        """
        with self._lock:
            if self._doors is None or self._doors.trust.generation < trust.generation:
                self._renew(trust)
            assert self._doors is not None
            self._users[id(self._doors)] = self._users.get(id(self._doors), 0) + 1
            return self._doors

    def _renew(self, trust: Trust) -> None:
        try:
            fresh = Doors(trust)
        except errors.CredentialRefused:
            if self._doors is None:
                raise
            return
        old, self._doors = self._doors, fresh
        self._close_unused(old)

    def give_back(self, doors: Doors) -> None:
        """Take back what `borrow` lent."""
        with self._lock:
            self._users[id(doors)] -= 1
            if doors is not self._doors:
                self._close_unused(doors)

    def _close_unused(self, doors: Doors | None) -> None:
        if doors is not None and not self._users.get(id(doors)):
            self._users.pop(id(doors), None)
            doors.close()

    def close(self) -> None:
        """Close what nobody uses; the rest when it is given back."""
        with self._lock:
            self._close_unused(self._doors)
            self._doors = None
