"""One line per event, as JSON or for a terminal; structlog's native chain, with the libraries' loggers led into it.

A line bears `time` (RFC 3339, UTC, milliseconds), `level`, `event` (an upper-case name such as COPY_START) and fields.
No value can forge a line, whatever name a file has; secrets are redacted (`logtext`). Writing a line never fails:
the work goes on although nobody can read about it.

structlog is imported on first use: its import costs as much as that of everything else here together.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import orjson

from dcalqr.log import journal
from dcalqr.log.line import Fields, line_of

if TYPE_CHECKING:
    from dcalqr.log.logger import Logger

Render = Callable[[object, str, Fields], bytes]

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

# Keeps the level of our own lines, so that loggers bound already see it change.
_ours = logging.getLogger("dcalqr")
_steps: list[Any] = []  # structlog's processors
_CHATTY = ("httpx", "httpcore", "aiokafka")  # a line per request, ten per rebalance; we write our own
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN = re.compile(r"[^\s\"=]+")


def configure(level: str = "info", format: str | Render | None = None, stream: BinaryIO | None = None) -> None:  # noqa: A002 -- the key's name
    """Send every line of the process to `stream`; may be called again.

    Parameters
    ----------
    level
        debug, info, warning or error. Libraries never say more than info: their debug is not about our work.
    format
        "json", "console" or what makes a line of its fields; None: console when the stream is a terminal.
    stream
        Where the lines go; None: standard error. Where that leads to systemd's journal, the fields go along.
    """
    import structlog

    from dcalqr.log.logger import Logger

    stream = stream or sys.stderr.buffer
    terminal = stream.isatty()
    render: Render | None = format if callable(format) else None  # JSON is what lines are made as
    if format == "console" or (format is None and terminal):
        render = _render_console(colours=terminal)
    sink: journal.Sink = _Lines(stream)
    if journal.leads_there(stream):
        sink = journal.JournalLines(journal.new_socket(), sink)
    # One list for life: loggers keep it, and those made or used before this call must obey it.
    _steps[:] = [_Chain(render, sink)]
    structlog.configure(processors=_steps, wrapper_class=Logger, cache_logger_on_first_use=True)
    _lead_libraries_here()
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of all loggers, those bound already included."""
    number = LEVELS[level]
    _ours.setLevel(number)
    logging.getLogger().setLevel(max(number, logging.INFO))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def get(**fields: object) -> Logger:
    """A logger that adds `fields` to each line: `log.get(uuid=...).info("COPY_START", url=...)`.

    A `DcalqrError` given as `error=` becomes its class's name, its message and its facts.
    """
    import structlog

    return cast("Logger", structlog.get_logger(**fields))


# --- the chain ------------------------------------------------------------------------------------------------


class _Chain:
    """All that stands between a logger and the log: one step of structlog's, so that a line takes as few as it can."""

    def __init__(self, render: Render | None, sink: journal.Sink) -> None:
        self._render, self._sink = render, sink

    def __call__(self, logger: object, level: str, fields: Fields) -> Fields:
        if _ours.isEnabledFor(LEVELS[level]):
            line, text = line_of(level, fields.pop("event"), fields)
            if self._render is not None:
                text = self._render(logger, level, dict(line))  # a renderer may take it apart
            self._sink.write(text, line)
        return fields


def _render_console(*, colours: bool) -> Render:
    def render(_logger: object, method: str, line: Fields) -> bytes:
        trace = line.pop("exception", "")
        head = f"{line.pop('time')} {line.pop('level'):<8}[{line.pop('event')}]"
        if colours and method in _COLOURS:
            head = f"{_COLOURS[method]}{head}\x1b[0m"
        text = " ".join([head, *(f"{name}={_quoted(value)}" for name, value in line.items())])
        # Indented, so that no line of it can pass for a log line.
        return "\n    | ".join([text, *trace.splitlines()]).encode()

    return render


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if not isinstance(value, str) or _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


class _Lines:
    """Where the chain ends. The reader may be gone or full: a line that cannot be written is dropped."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, text: bytes, line: Mapping[str, Any]) -> None:
        try:
            self._stream.write(text + b"\n")  # whole, whatever other threads write
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: closed
            return


# --- the libraries --------------------------------------------------------------------------------------------


class RateLimit(logging.Filter):
    """Lets two lines a minute of each message template pass; the next one tells how many were `suppressed`.

    aiokafka writes 40 to 60 errors a second while a broker is away.

    Parameters
    ----------
    name
        The logger, with those below it, that is limited; others pass.
    clock
        Monotonic seconds.
    """

    LINES = 2
    WINDOW_SECONDS = 60.0
    TEMPLATES = 500  # aiokafka has about 150; a template that bears values must not fill the memory

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name)
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # (logger, template) -> window's begin, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        begin, lines = self._seen.pop(key, (now, 0))
        if now - begin >= self.WINDOW_SECONDS:
            record.__dict__["suppressed"] = max(0, lines - self.LINES)
            begin, lines = now, 0
        self._seen[key] = begin, lines + 1  # last in the dictionary: the first one is the longest unheard of
        if len(self._seen) > self.TEMPLATES:
            del self._seen[next(iter(self._seen))]
        return lines < self.LINES


class _Bridge(logging.Handler):
    """Leads the records of the standard library's loggers into our chain, as event LIBRARY."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 -- wrong arguments in a library's log call: its template is better than nothing
            message = str(record.msg)
        fields = {"logger": record.name, "message": message}
        if suppressed := record.__dict__.get("suppressed"):
            fields["suppressed"] = suppressed
        level = next((name for name in reversed(LEVELS) if LEVELS[name] <= record.levelno), "debug")
        get().log(level, "LIBRARY", exc_info=record.exc_info, **fields)


def _lead_libraries_here() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    bridge = _Bridge()
    bridge.addFilter(RateLimit("aiokafka"))
    root.addHandler(bridge)
