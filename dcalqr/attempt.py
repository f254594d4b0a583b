"""ONE attempt, blocking: fetch, write beside, verify, publish. Knows neither asyncio nor the configuration.

On every exit but `Landed` the part is gone and the connection closed. Runs in a thread of the daemon or in a worker
process; the asyncio side gives the numbers, this function enforces them.
"""

from __future__ import annotations

import threading
import time

from dcalqr import checksum, errors
from dcalqr.dcache import fetch
from dcalqr.dcache.stall import StallWatch
from dcalqr.local import landing, standing
from dcalqr.orders import CopyOrder, Deadlines, Landed, Phases, Progress, SocketShutdown, Stop

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
    body = _Body(answer, order.deadlines, stop, watch)
    block = memoryview(bytearray(min(BLOCK_BYTES, answer.size_bytes)))
    adler32 = checksum.Adler32()
    while filled := body.fill(block):
        adler32.update(block[:filled])
        part.write(block[:filled])
    return adler32.value


class _Body:
    """Reads the body by blocks, obeys stop flag and stall limits, and raises only our errors."""

    def __init__(self, answer: fetch.Answer, limits: Deadlines, stop: Stop, watch: _Stopwatch) -> None:
        self._answer = answer
        self._limits = limits
        self._stop = stop
        self._watch = watch
        self._stall = StallWatch(limits.min_rate, limits.timeout_seconds, time.monotonic())
        self._received = 0  # bytes of the blocks before this one
        self._known = 0  # and of this one, as far as is known

    def fill(self, block: memoryview) -> int:
        """Read the next block, whole; returns its size in bytes, 0 after the last one."""
        wanted = min(len(block), self._answer.size_bytes - self._received)
        try:
            filled = self._answer.fill(block[:wanted], self._waiting)
        except TimeoutError as error:
            raise self._stalled(self._limits.stall_seconds) from error
        except OSError as error:
            if self._stop.is_set():
                raise errors.Cancelled from error
            raise errors.ConnectionLost(host=self._answer.host, phase="body", why=str(error)) from error
        if self._stop.is_set():
            raise errors.Cancelled
        self._received += filled
        if filled < wanted:
            raise errors.ShortBody(
                host=self._answer.host, received_bytes=self._received, expected_bytes=self._answer.size_bytes
            )
        self._watch.received(self._received)
        return filled

    def _waiting(self, filled: int) -> None:
        """Look at flag and limits: only who has to wait for the server can have stalled."""
        if self._stop.is_set():
            raise errors.Cancelled
        self._known = self._received + filled
        self._watch.received(self._known)
        if self._stall.stalled(self._known, time.monotonic()):
            raise self._stalled(self._limits.timeout_seconds)

    def _stalled(self, seconds: float) -> errors.Stalled:
        return errors.Stalled(
            host=self._answer.host,
            received_bytes=self._known,
            expected_bytes=self._answer.size_bytes,
            seconds=seconds,
        )


def _verify(answer: fetch.Answer, adler32: int) -> None:
    if answer.adler32 is not None and adler32 != answer.adler32:
        raise errors.ChecksumMismatch(
            received=checksum.hex8(adler32), expected=checksum.hex8(answer.adler32), host=answer.host
        )
