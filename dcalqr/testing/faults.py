"""What can be wrong with a dCache of ours: one way to misbehave, and the switch that plays them."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Where: TypeAlias = Literal["door", "pool"]
Headers: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fault:
    """One way to misbehave; the fields combine. The first fault that matches a request is played.

    Parameters
    ----------
    where
        At the door, or at the pools.
    path, method
        Exact, or a pattern with `*`, `?`, `[...]`.
    times
        So often, then never again; None: until `Faults.calm`.
    delay_seconds
        Wait before the answer; at the door a client that leaves meanwhile is not noticed, as in dCache.
    status
        Answer with it: 401, 429, 503 ... 200 and 206 bring the file itself, 204 and 304 no body.
    headers
        Further ones (Set-Cookie, Retry-After, ones of absurd size).
    digest
        Text of the Digest header instead of the true one, if one was wanted; empty: none.
    lengths
        Texts of the Content-Length headers instead of the true one: two of them, a negative one, none.
    chunked
        Send the body in chunks, without Content-Length (unless `lengths` gives some).
    cut_after, reset
        End the connection after so many bytes of the body; with RST instead of FIN.
    stall_after
        Send nothing more after so many bytes of the body; goes on at `Faults.calm`.
    bytes_per_second
        Trickle the body.
    redirect
        The Location of a GET at the door: "loop" (itself), "http" (a pool without TLS), "other-host" (127.0.0.1
        instead of localhost), "wrong-name", "revoked", "expired", "unknown-ca" (a pool with such a certificate), or
        any text, sent as it is.
    informational
        So many "100 Continue" before the answer.
    endless_headers
        The headers never end and come at so many bytes per second.
    accept
        Each new connection is: "reset"; answered with "garbage" instead of TLS; left "silent". `path` and `method`
        mean nothing then.
    """

    where: Where
    path: str = "*"
    method: str = "*"
    times: int | None = None
    delay_seconds: float = 0
    status: int | None = None
    headers: Headers = ()
    digest: str | None = None
    lengths: tuple[str, ...] | None = None
    chunked: bool = False
    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    bytes_per_second: int | None = None
    redirect: str | None = None
    informational: int = 0
    endless_headers: int | None = None
    accept: Literal["reset", "garbage", "silent"] | None = None

    def matches(self, where: Where, method: str, path: str) -> bool:
        """Whether this fault is for such a request."""
        here = self.where == where and self.accept is None
        return here and _fits(method, self.method) and _fits(path, self.path)


NO_FAULT = Fault("door")


def _fits(text: str, pattern: str) -> bool:
    return text == pattern or fnmatch.fnmatchcase(text, pattern)


class Faults:
    """The fault switch. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: list[tuple[Fault, list[int | None]]] = []
        self._calm = threading.Event()

    def add(self, *faults: Fault) -> None:
        """Play these from now on, after the ones there are."""
        with self._lock:
            self._left += [(fault, [fault.times]) for fault in faults]

    def calm(self) -> None:
        """Remove all faults; whatever waits or is stalled because of one goes on."""
        with self._lock:
            self._left.clear()
            self._calm.set()
            self._calm = threading.Event()

    def take(self, chosen: Callable[[Fault], bool]) -> tuple[Fault, threading.Event]:
        """Give the fault to play (`NO_FAULT`: none), counted as played, and the event of its being called off."""
        with self._lock:
            for fault, left in self._left:
                if left[0] != 0 and chosen(fault):
                    left[0] = None if left[0] is None else left[0] - 1
                    return fault, self._calm
            return NO_FAULT, self._calm
