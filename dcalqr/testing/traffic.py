"""What a door saw: the requests, and how many GETs were outstanding. Safe to use from any thread."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator

from dcalqr.testing.connection import Connection, Request


class Traffic:
    """Requests that have come and GETs that go on; the properties are those of `Door`."""

    def __init__(self) -> None:
        self.gets: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._running: set[Connection] = set()
        self._running_max = 0

    @property
    def requests(self) -> tuple[Request, ...]:
        """As `Door.requests`."""
        with self._lock:
            return tuple(self._requests)

    @property
    def running_max(self) -> int:
        """As `Door.running_max`."""
        with self._lock:
            return self._running_max

    @property
    def running(self) -> int:
        """As `Door.running`."""
        with self._lock:
            return sum(not connection.gone() for connection in self._running)

    @contextlib.contextmanager
    def outstanding(self, connection: Connection, request: Request) -> Iterator[None]:
        """Count a request for as long as it is answered."""
        with self._lock:
            self._requests.append(request)
            if request.method == "GET":
                self._running.add(connection)
                others = sum(not other.gone() for other in self._running if other is not connection)
                self._running_max = max(self._running_max, others + 1)
                self.gets[request.path] += request.where == "door"
        try:
            yield
        finally:
            self.ended(connection)

    def ended(self, connection: Connection) -> None:
        """Count its GET no more; may be called again."""
        with self._lock:
            self._running.discard(connection)
