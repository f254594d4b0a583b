"""One line per event, as JSON or for a terminal; structlog's native chain, with the libraries' loggers led into it.

A line bears `time` (RFC 3339, UTC, milliseconds), `level`, `event` (an upper-case name such as COPY_START) and fields.
No value can forge a line, whatever name a file has; secrets are redacted (`logtext`). Writing a line never fails:
the work goes on although nobody can read about it.

structlog is imported on first use: its import costs as much as that of everything else here together.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import orjson

from dcalqr import errors, logtext
from dcalqr.log import journal

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

Fields = MutableMapping[str, Any]
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
_CHATTY = ("httpx", "httpcore", "aiokafka")  # a line per request, ten per rebalance; we write our own
_SHOWN_ITEMS = 50  # of a list or mapping; the longest of ours are the partitions of a topic
_SHOWN_DEPTH = 3
_TRACEBACK_LINES = 60  # the last ones: where it happened
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_TEXTS = (str, bytes)
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

    stream = stream or sys.stderr.buffer
    terminal = stream.isatty()
    console = format == "console" or (format is None and terminal)
    render: Any = format if callable(format) else _render_console(colours=terminal) if console else _render_json
    lines: Any = _Lines(stream)
    if journal.leads_there(stream):
        render, lines = journal.keeping_fields(render), journal.JournalLines(journal.new_socket(), lines)
    structlog.configure(
        processors=[_threshold, _explain, _clean, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=lines,
        cache_logger_on_first_use=False,  # loggers made before this call must obey it
    )
    _lead_libraries_here()
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of all loggers, those bound already included."""
    number = LEVELS[level]
    _ours.setLevel(number)
    logging.getLogger().setLevel(max(number, logging.INFO))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def get(**fields: object) -> FilteringBoundLogger:
    """A logger that adds `fields` to each line: `log.get(uuid=...).info("COPY_START", url=...)`.

    A `DcalqrError` given as `error=` becomes its class's name, its message and its facts.
    """
    import structlog

    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


# --- the chain ------------------------------------------------------------------------------------------------


def _threshold(_logger: object, method: str, fields: Fields) -> Fields:
    import structlog

    if _ours.isEnabledFor(LEVELS[method]):
        return fields
    raise structlog.DropEvent


def _explain(_logger: object, _method: str, fields: Fields) -> Fields:
    error = fields.get("error")
    if isinstance(error, BaseException):
        fields["error"] = type(error).__name__
        fields.setdefault("message", str(error))
        if isinstance(error, errors.DcalqrError):
            for name, fact in error.facts.items():
                fields.setdefault(name, fact)
    return fields


def _clean(_logger: object, method: str, fields: Fields) -> Fields:
    trace = _traceback(fields.pop("exc_info", None))
    event = fields.pop("event", "")
    line: Fields = {"time": _now(), "level": method, "event": event if _is_harmless("event", event) else _safe(event)}
    for name, value in fields.items():
        # A field cannot replace what says when, how bad and what.
        line[f"{name}_" if name in line else name] = value if _is_harmless(name, value) else _field(name, value)
    if trace:
        line["exception"] = trace
    return line


def _render_json(_logger: object, _method: str, line: Fields) -> bytes:
    return orjson.dumps(line)


def _render_console(*, colours: bool) -> Callable[[object, str, Fields], bytes]:
    def render(_logger: object, method: str, line: Fields) -> bytes:
        trace = line.pop("exception", "")
        head = f"{line.pop('time')} {line.pop('level'):<8}[{line.pop('event')}]"
        if colours and method in _COLOURS:
            head = f"{_COLOURS[method]}{head}\x1b[0m"
        text = " ".join([head, *(f"{name}={_quoted(value)}" for name, value in line.items())])
        # Indented, so that no line of it can pass for a log line.
        return "\n    | ".join([text, *trace.splitlines()]).encode()

    return render


def _now() -> str:
    seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """The date of many lines: those of one second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if not isinstance(value, str) or _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _field(name: str, value: object, depth: int = 0) -> object:
    if isinstance(value, _TEXTS) and logtext.is_secret_name(name):
        return logtext.HIDDEN
    return _safe(value, depth)


def _is_harmless(name: str, value: Any) -> bool:
    """Whether a field can stand as it is. Nearly all can, and a file costs seven lines: `_field`'s short cut."""
    kind = type(value)
    if kind is str:
        return logtext.is_plain(value) and not logtext.is_secret_name(name)
    return value is None or kind is float or kind is bool or (kind is int and -(2**63) <= value < 2**63)


def _safe(value: object, depth: int = 0) -> object:
    """What JSON can say of a value, without anything that could forge a line or betray a secret."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str | bytes):
        return logtext.show(value)
    if depth < _SHOWN_DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:_SHOWN_ITEMS]
        return {logtext.show(str(name)): _field(str(name), item, depth + 1) for name, item in items}
    if depth < _SHOWN_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_safe(item, depth + 1) for item in list(value)[:_SHOWN_ITEMS]]
    return logtext.show(os.fsencode(value) if isinstance(value, os.PathLike) else str(value))


def _traceback(exc_info: object) -> str:
    """The traceback behind an `exc_info` argument, each line made safe; empty when there is none."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    if not isinstance(exc_info, BaseException):
        return ""
    text = logtext.redact("".join(traceback.format_exception(exc_info)))  # whole: a PEM block has many lines
    return "\n".join(logtext.show(line) for line in text.rstrip("\n").split("\n")[-_TRACEBACK_LINES:])


class _Lines:
    """Where structlog's chain ends. The reader may be gone or full: a line that cannot be written is dropped.

    One for all loggers, as its own factory: structlog would make one for each line of an unbound logger.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __call__(self, *_: object) -> _Lines:
        return self

    def msg(self, line: bytes) -> None:
        try:
            self._stream.write(line + b"\n")  # whole, whatever other threads write
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: closed
            return

    debug = info = warning = error = critical = msg


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
        level = next((number for number in reversed(LEVELS.values()) if number <= record.levelno), logging.DEBUG)
        get().log(level, "LIBRARY", exc_info=record.exc_info, **fields)


def _lead_libraries_here() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    bridge = _Bridge()
    bridge.addFilter(RateLimit("aiokafka"))
    root.addHandler(bridge)
