"""The daemon's end of one worker process: starts it, speaks and listens without blocking, notices its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable

import dcalqr
from dcalqr.copiers import wire

_READ_BYTES = 64 * 1024
# What a terminal or systemd may send to the whole group; see `child.main`.
_NOT_FOR_WORKERS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class WorkerProcess:
    """One worker process.

    Parameters
    ----------
    heard
        Gets each message; must not raise.
    ended
        Called once, when the process is gone, reaped, and all that it said was heard.

    Attributes
    ----------
    began_at, heard_at
        When it was started, and when it last said anything; the event loop's seconds.
    why
        Why it was killed, in words; empty: it was not.
    status
        As of `subprocess.Popen.returncode`; None: it runs.

    Raises
    ------
    OSError
        It cannot be started.
    """

    def __init__(self, heard: Callable[[wire.Up], None], ended: Callable[[], None]) -> None:
        self._heard, self._ended = heard, ended
        self._loop = asyncio.get_running_loop()
        self._messages: wire.Messages[wire.Up] = wire.Messages(wire.Up)
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self.began_at = self.heard_at = self._loop.time()
        self.why = ""
        self.status: int | None = None
        self._sock, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _start(theirs.fileno())
            self._reaping()
        except BaseException:
            self._sock.close()
            raise
        self._sock.settimeout(0)
        self._loop.add_reader(self._sock, self._listen)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _reaping(self) -> None:
        """Wait for its end in a thread: that needs no SIGCHLD handler and no recent kernel, and leaves no zombie."""

        def reap() -> None:
            self._process.wait()
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody wants to know any more
                self._loop.call_soon_threadsafe(self._reaped)

        try:
            threading.Thread(target=reap, name=f"worker-{self.pid}", daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads
            self._process.kill()
            self._process.wait()
            raise OSError(str(error)) from error

    def _reaped(self) -> None:
        self._loop.remove_reader(self._sock)
        while self._listen():  # what it said before it died still counts
            pass
        self._loop.remove_writer(self._sock)
        for _, fd in self._unsent:
            _close(fd)
        self._unsent.clear()
        self._sock.close()
        self.status = self._process.returncode
        self._ended()

    # --- listening ------------------------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Take what is there; returns whether more may come."""
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._sock)
            self._process.kill()  # it is on its way out; if it is not, it is of no use any more
            return False
        self.heard_at = self._loop.time()
        try:
            messages = self._messages.feed(data)
        except wire.Broken as error:
            self._loop.remove_reader(self._sock)
            self.kill(f"it sent nonsense: {error}")
            return False
        for message in messages:
            self._heard(message)
        return True

    # --- speaking -------------------------------------------------------------------------------------------------

    def send(self, message: bytes, fd: int | None = None) -> None:
        """Send an encoded message, with a descriptor that is closed afterwards; what is dead hears nothing."""
        if not self._unsent:
            sent = self._try(message, fd)
            if sent == len(message):
                _close(fd)
                return
            self._loop.add_writer(self._sock, self._send_rest)
            message, fd = self._cut(message, fd, sent)
        self._unsent.append((message, fd))

    def _send_rest(self) -> None:
        while self._unsent:
            message, fd = self._unsent.popleft()
            sent = self._try(message, fd)
            if sent < len(message):
                self._unsent.appendleft(self._cut(message, fd, sent))
                return
            _close(fd)
        self._loop.remove_writer(self._sock)

    def _try(self, message: bytes, fd: int | None) -> int:
        """Send what goes without waiting; returns the count (bytes)."""
        try:
            return self._sock.send(message) if fd is None else socket.send_fds(self._sock, [message], [fd])
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(message)  # it has died, as `_reaped` is about to tell
        except OSError as error:  # ENOBUFS, ENOMEM: an order that it never got would be waited for without end
            self.kill(f"it could not be told: {error.strerror}")
            return len(message)

    @staticmethod
    def _cut(message: bytes, fd: int | None, sent: int) -> tuple[bytes, int | None]:
        """What is left to send; the descriptor has gone with the first byte."""
        if sent:
            _close(fd)
        return message[sent:], None if sent else fd

    # --- the end --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let it end: it reads the end of our messages, and we still hear it."""
        with contextlib.suppress(OSError):  # it is gone already
            self._sock.shutdown(socket.SHUT_WR)

    @property
    def is_other_version(self) -> bool:
        """Whether it refused to work, because the files on the disk are of another version than this daemon."""
        return self.status == wire.EXIT_OTHER_VERSION

    def kill(self, why: str) -> None:
        """End it at once; harmless when it has ended."""
        self.why = self.why or why
        self._process.kill()

    @property
    def last_words(self) -> str:
        """How it ended, in words."""
        if self.status is None:
            return "it runs"
        if self.status >= 0:
            return f"it ended with exit status {self.status}"
        return self.why or f"it was killed by {signal.Signals(-self.status).name}"

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid} {'running' if self.status is None else self.last_words}>"


def _start(socket_fd: int) -> subprocess.Popen[bytes]:
    # Without the working folder on its path (-P), where anything might lie, but with all that is on ours: a program
    # in one file, or a source tree, need not be installed.
    environment = {
        # One heap for all threads of a worker: a heap for each kept 10 MB more, and cost no less time.
        "MALLOC_ARENA_MAX": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)  # inherited
    try:
        return subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-m", "dcalqr.copiers.child", str(socket_fd), dcalqr.__version__],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(socket_fd,),
            env=environment,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
