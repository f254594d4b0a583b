"""A worker process: takes orders from the daemon and answers each. Knows neither asyncio nor the configuration.

The main thread reads; each attempt runs in a thread of a pool that grows to as many as are outstanding at once, so one
that hangs on a dead disk costs only itself. The end of the daemon's messages is the end of this process, whatever it
does: the daemon closes them, or the kernel does for a daemon that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from queue import SimpleQueue
from typing import NoReturn

from dcalqr import __version__, errors
from dcalqr.attempt import StopFlag, copy_once
from dcalqr.copiers import wire
from dcalqr.copiers.clients import Clients
from dcalqr.dcache.tls import Trust
from dcalqr.local.oserrors import translated
from dcalqr.orders import CopyOrder, Landed, Refused

# For people who look at progress, and for the free space that orders have claimed; small files end before it.
TELL_SECONDS = 0.2
# A sign of life for the daemon, which kills a worker that is silent much longer than this.
ALIVE_SECONDS = 5.0
# A stopped attempt removes its part as soon as its socket is shut down; only a hung disk takes longer.
LAST_SECONDS = 2.0
# sysexits.h's EX_PROTOCOL.
EXIT_BROKEN = 76
_READ_BYTES = 64 * 1024
_MOST_DESCRIPTORS = 4
_MOST_TRACEBACK = 4000
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class _Running:
    """One order under way: takes its progress, and reports what was not told yet."""

    __slots__ = ("_received_told", "_told", "order", "phases", "received_bytes", "root_fd", "stop", "trust")

    def __init__(self, order: CopyOrder, trust: Trust, root_fd: int) -> None:
        self.order, self.trust, self.root_fd = order, trust, root_fd
        self.stop = StopFlag()
        self.phases: list[str] = []
        self.received_bytes = 0
        self._told = self._received_told = 0

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def received(self, total_bytes: int) -> None:
        self.received_bytes = total_bytes

    @property
    def has_news(self) -> bool:
        return self._told < len(self.phases) or self._received_told != self.received_bytes

    def report(self) -> wire.Report:
        """Return what is new; whoever takes it must send it before anyone takes the next."""
        phases = tuple(self.phases[self._told :])
        self._told += len(phases)
        self._received_told = self.received_bytes
        return wire.Report(self.order.order_id, phases, self._received_told)


class Worker:
    """All of a worker process.

    Parameters
    ----------
    sock
        To the daemon; blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._mouth = threading.Lock()
        self._messages: wire.Messages[wire.Down] = wire.Messages(wire.Down)
        self._descriptors: deque[int] = deque()
        self._root_fd, self._root_number = -1, 0
        self._trust: Trust | None = None
        self._clients = Clients()
        self._running: dict[str, _Running] = {}
        self._waiting: SimpleQueue[_Running] = SimpleQueue()
        self._threads = 0
        self._tell_at = self._alive_at = 0.0

    # --- listening ------------------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Work until the daemon is gone."""
        self._say(wire.Ready())
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            wait_seconds = TELL_SECONDS if self._running else ALIVE_SECONDS
            if poll.poll(wait_seconds * 1000):
                self._listen()
            if time.monotonic() >= self._tell_at:
                self._tell()

    def _listen(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _READ_BYTES, socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            data, ancillary, flags = b"", [], 0
        if not data:
            self._die(errors.EXIT_OK)
        if flags & socket.MSG_CTRUNC:
            self._die(EXIT_BROKEN)  # a descriptor was lost
        for _, _, content in ancillary:
            self._descriptors.extend(memoryview(content).cast("i"))
        try:
            for message in self._messages.feed(data):
                self._take(message)
        except wire.Broken:
            self._die(EXIT_BROKEN)

    def _take(self, message: wire.Down) -> None:
        if isinstance(message, wire.Do):
            self._begin(message)
        elif isinstance(message, wire.End):
            running = self._running.get(message.order_id)
            if running is not None:  # else it has answered meanwhile
                running.stop.set()
        else:
            self._take_root(message)

    def _take_root(self, message: wire.Root) -> None:
        if message.number != self._root_number + 1 or not self._descriptors:
            raise wire.Broken("a folder without its descriptor")
        former, self._root_fd = self._root_fd, self._descriptors.popleft()
        self._root_number = message.number
        if former >= 0:  # in a thread: it may hang on a dead mount, and the daemon must be heard
            threading.Thread(target=os.close, args=(former,), daemon=True).start()

    def _begin(self, message: wire.Do) -> None:
        self._trust = message.trust or self._trust
        if self._trust is None or self._root_fd < 0:
            raise wire.Broken("an order before credential and folder")
        running = _Running(message.order, self._trust, -1)
        self._running[message.order.order_id] = running
        try:
            running.root_fd = os.dup(self._root_fd)  # its own: the folder may be exchanged meanwhile
            if self._threads < len(self._running):
                threading.Thread(target=self._work, daemon=True).start()
                self._threads += 1
        except OSError as error:
            self._answer(running, translated("dup", error))
        except RuntimeError as error:  # the system gives no more threads
            os.close(running.root_fd)
            self._answer(running, errors.WorkerLost(why=str(error)))
        else:
            self._waiting.put(running)

    # --- working --------------------------------------------------------------------------------------------------

    def _work(self) -> NoReturn:
        """The life of one thread of the pool."""
        while True:
            running = self._waiting.get()
            end = self._attempt(running)
            with contextlib.suppress(OSError):  # nothing was written by it
                os.close(running.root_fd)
            try:
                self._answer(running, end)
            except BaseException:  # noqa: BLE001 - no memory, or an answer that cannot be said
                os._exit(EXIT_BROKEN)  # the daemon takes that for a lost worker; for a lost answer it would wait

    def _attempt(self, running: _Running) -> Landed | errors.DcalqrError:
        try:
            doors = self._clients.borrow(running.trust)
            try:
                return copy_once(running.order, doors, running.root_fd, running.stop, running)
            finally:
                self._clients.give_back(doors)
        except errors.DcalqrError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a mistake of ours: the daemon logs it, with where it happened
            where = traceback.format_exc()[-_MOST_TRACEBACK:]
            return errors.TaskRaised(what=f"{type(error).__name__}: {error}", traceback=where)
        except BaseException as error:  # noqa: BLE001 - SystemExit and its like end this order, not the thread
            return errors.WorkerLost(why=repr(error))

    # --- speaking -------------------------------------------------------------------------------------------------

    def _answer(self, running: _Running, end: Landed | errors.DcalqrError) -> None:
        landed = end if isinstance(end, Landed) else None
        refused = None if isinstance(end, Landed) else Refused(type(end).__name__, _sayable(end.facts))
        with self._mouth:
            del self._running[running.order.order_id]
            self._send(wire.Answer(running.report(), landed, refused))

    def _tell(self) -> None:
        """Say where the running orders are, if that has changed or nothing was said for long."""
        now = time.monotonic()
        self._tell_at = now + TELL_SECONDS
        with self._mouth:
            reports = tuple(each.report() for each in list(self._running.values()) if each.has_news)
            if reports or now >= self._alive_at:
                self._alive_at = now + ALIVE_SECONDS
                self._send(wire.Told(reports))

    def _say(self, message: wire.Up) -> None:
        with self._mouth:
            self._send(message)

    def _send(self, message: wire.Up) -> None:
        try:
            self._sock.sendall(wire.encode(message))
        except (BrokenPipeError, ConnectionResetError):
            return  # the daemon is gone: the main thread is about to read that
        except OSError:
            os._exit(EXIT_BROKEN)  # an answer that it never got would be waited for without end

    # --- the end --------------------------------------------------------------------------------------------------

    def _die(self, status: int) -> NoReturn:
        """Tell the attempts to stop, give them a moment to remove their parts, and end this process at any rate."""
        for running in list(self._running.values()):
            running.stop.set()
        until = time.monotonic() + LAST_SECONDS
        while self._running and time.monotonic() < until:
            time.sleep(0.01)
        os._exit(status)  # a thread that hangs would keep the interpreter for ever


def _sayable(facts: dict[str, errors.Fact]) -> dict[str, errors.Fact]:
    """Make of facts what a message can carry: a server may send, and a path may have, bytes that are no text."""
    return {
        name: fact.encode("utf-8", "backslashreplace").decode() if isinstance(fact, str) else fact
        for name, fact in facts.items()
    }


def main() -> NoReturn:
    """Be a worker; the arguments are the number of the socket and the daemon's version."""
    if sys.argv[2:] != [__version__]:
        os._exit(wire.EXIT_OTHER_VERSION)
    # The daemon alone decides when a worker ends. A terminal sends INT and HUP, and systemd (KillMode=control-group)
    # sends TERM, to the whole group: the daemon drains then, and its workers are what it drains. They were blocked
    # before this process began, so not even its first moments are in danger.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The daemon's end is read off the socket, but a process that is stopped (SIGSTOP) reads nothing: so let it go on.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
