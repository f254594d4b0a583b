"""ONE attempt, blocking: fetch, write beside, verify, publish. Knows neither asyncio nor the configuration.

On every exit but `Landed` the part is gone and the connection closed. Runs in a thread of the daemon or in a worker
process; the asyncio side gives the numbers, this function enforces them.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable

from dcalqr import checksum, errors
from dcalqr.dcache import fetch
from dcalqr.dcache.stall import StallWatch
from dcalqr.local import landing, standing
from dcalqr.orders import CopyOrder, Landed, Phases, Progress, SocketShutdown, Stop

# One system call and one checksum call per MiB; larger blocks measured no faster, and this one stays in the cache.
BLOCK_BYTES = 1024 * 1024


class StopFlag:
    """A `Stop` for an attempt in another thread: setting it shuts the attempt's socket down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._shutdown: SocketShutdown | None = None

    def is_set(self) -> bool:
        return self._set

    def attach(self, shutdown: SocketShutdown | None) -> None:
        with self._lock:
            self._shutdown = shutdown
            if self._set:
                self._cut()

    def set(self) -> None:
        """Ask the attempt to end; safe from any thread, any number of times."""
        with self._lock:
            self._set = True
            self._cut()

    def _cut(self) -> None:
        if self._shutdown is None:
            return
        try:
            self._shutdown()
        except OSError:
            return  # it was closed meanwhile: nothing blocks there


class _Stopwatch:
    """Passes phases on and adds up their durations, in seconds."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._name = ""
        self._since = time.monotonic()
        self._spent: dict[str, float] = {}

    def phase(self, name: str) -> None:
        self._end()
        self._name = name
        self._progress.phase(name)

    def received(self, total_bytes: int) -> None:
        self._progress.received(total_bytes)

    def _end(self) -> None:
        now = time.monotonic()
        if self._name:
            self._spent[self._name] = self._spent.get(self._name, 0.0) + now - self._since
        self._since = now

    def phases(self) -> Phases:
        self._end()
        return Phases(**self._spent)


def copy_once(order: CopyOrder, doors: fetch.Doors, root_fd: int, stop: Stop, progress: Progress) -> Landed:
    """Copy one file.

    Parameters
    ----------
    order
        What to do.
    doors
        The clients of one credential generation.
    root_fd
        The download folder, open.
    stop
        Asked at every block; past the last verification the attempt finishes instead.
    progress
        Told of phases and bytes.

    Raises
    ------
    dcalqr.errors.TryError, dcalqr.errors.Cancelled
        The part is gone and the connection closed.
    """
    if standing.seen_now(root_fd, order.directory, order.final_name) != order.seen:
        # While this order waited for its slot another instance put something there: publishing would refuse anyway,
        # so the body is spared.
        raise errors.FinalNameChanged
    watch = _Stopwatch(progress)
    with fetch.get(doors, order, stop, watch) as answer:
        if stop.is_set():
            raise errors.Cancelled
        part = landing.Part.create(root_fd, order)
        try:
            watch.phase("body")
            adler32 = _receive(answer, part, order, stop, watch)
            _verify(answer, adler32)
            watch.phase("sync")
            part.finish(order.pnfsid, adler32)
            watch.phase("publish")
            part.publish()
        except BaseException:
            part.discard()
            raise
    part.discard()  # it bears its final name: this closes its directory
    return Landed(
        size_bytes=answer.size_bytes,
        adler32=adler32,
        verified=answer.adler32 is not None,
        pool=answer.host,
        phases=watch.phases(),
        setgid_dropped=part.setgid_dropped,
    )


def _receive(answer: fetch.Answer, part: landing.Part, order: CopyOrder, stop: Stop, watch: _Stopwatch) -> int:
    """Write the body to the part; returns its Adler32."""
    read = _reader(answer, order, stop)
    block = memoryview(bytearray(min(BLOCK_BYTES, max(answer.size_bytes, 1))))
    adler32, received = checksum.Adler32(), 0
    while received < answer.size_bytes:
        filled = 0
        wanted = min(len(block), answer.size_bytes - received)
        while filled < wanted:
            count = read(block[filled:wanted], received + filled)
            if not count:
                raise errors.ShortBody(
                    host=answer.host, received_bytes=received + filled, expected_bytes=answer.size_bytes
                )
            filled += count
        adler32.update(block[:filled])
        part.write(block[:filled])
        received += filled
        watch.received(received)
    return adler32.value


def _reader(answer: fetch.Answer, order: CopyOrder, stop: Stop) -> Callable[[memoryview, int], int]:
    """Return one read of the body that obeys stop flag and stall limits and raises only our errors."""
    limits = order.deadlines
    stall = StallWatch(limits.min_rate, limits.timeout_seconds, time.monotonic())

    def stalled(received: int, seconds: float) -> errors.Stalled:
        return errors.Stalled(
            host=answer.host, received_bytes=received, expected_bytes=answer.size_bytes, seconds=seconds
        )

    def read(view: memoryview, received: int) -> int:
        try:
            count = answer.readinto(view)
        except TimeoutError as error:
            raise stalled(received, limits.stall_seconds) from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ssl.SSLError is an OSError
            if stop.is_set():
                raise errors.Cancelled from error
            raise errors.ConnectionLost(host=answer.host, phase="body", why=str(error)) from error
        if stop.is_set():
            raise errors.Cancelled
        if stall.stalled(received + count, time.monotonic()):
            raise stalled(received + count, limits.timeout_seconds)
        return count

    return read


def _verify(answer: fetch.Answer, adler32: int) -> None:
    if answer.adler32 is not None and adler32 != answer.adler32:
        raise errors.ChecksumMismatch(
            received=checksum.hex8(adler32), expected=checksum.hex8(answer.adler32), host=answer.host
        )
