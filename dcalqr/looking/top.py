"""`dcalqr top`: the running instance, live, from its status file. Read-only; needs no port and no login.

On a terminal it draws until q; elsewhere it writes one frame. However it ends (q, Ctrl-C, TERM, a closed terminal, a
mistake of ours), the terminal is as it was.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from rich.console import Console, Group
from rich.live import Live

from dcalqr import errors
from dcalqr.config import Config
from dcalqr.looking import status
from dcalqr.looking.screen import Speeds, absent, frame

# The instance writes its status every other second; a new one is drawn half a second later at most.
LOOK_SECONDS = 0.5
_PIPE_CELLS = 80


def run(config: Config) -> None:
    """Draw until somebody has seen enough; one frame where nobody can press a key.

    Raises
    ------
    ServiceUnavailable, NoPermission
        There is nothing to write one frame of.
    """
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        _once(config)
        return
    with _ended_by_signals(), _keys() as keys, contextlib.suppress(KeyboardInterrupt):
        _draw(config, console, keys)


def _once(config: Config) -> None:
    now = status.read(str(config.local.statefolder), config.daemon.instance)
    width = int(os.environ.get("COLUMNS") or _PIPE_CELLS)
    for line in frame(now, status.complaints(now), Speeds(), width):
        print(line.plain.rstrip())  # noqa: T201 - the answer of the command


def _draw(config: Config, console: Console, keys: int | None) -> None:
    speeds = Speeds()
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            width, height = console.size
            try:
                now = status.read(str(config.local.statefolder), config.daemon.instance)
                speeds.note(now)
                lines = frame(now, status.complaints(now), speeds, width, height)
            except errors.StartError as error:
                lines = absent(str(error), width)
            live.update(Group(*lines), refresh=True)
            if _quits(keys):
                return


def _quits(keys: int | None) -> bool:
    """Wait until it is time to look again; whether q was pressed meanwhile."""
    until = time.monotonic() + LOOK_SECONDS
    while (left := until - time.monotonic()) > 0:
        if keys is None:
            time.sleep(left)
        elif select.select([keys], [], [], left)[0]:
            pressed = os.read(keys, 64)
            if not pressed or b"q" in pressed.lower():  # nothing: the terminal is closed
                return True
    return False


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Give the terminal's keys one by one and unseen, as long as this lasts; None: nobody can press one."""
    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        yield fd
    finally:
        with contextlib.suppress(termios.error, OSError):  # it may be gone
            termios.tcsetattr(fd, termios.TCSANOW, before)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """TERM and HUP end it as Ctrl-C does; it is not to be stopped in the middle of a screen."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
