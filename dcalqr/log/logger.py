"""What a logger is: structlog's, with a shorter way from a call to its line. A file costs seven lines."""

from __future__ import annotations

from typing import Any

import structlog


class Logger(structlog.BoundLoggerBase):
    """A bound logger: `bind` adds fields to all its lines, the methods write one each."""

    def debug(self, event: str, **fields: object) -> None:
        self._say("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._say("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._say("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._say("error", event, fields)

    def critical(self, event: str, **fields: object) -> None:
        self._say("critical", event, fields)

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write a line of the level of this name."""
        self._say(level, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Write an error with the traceback of the exception that is being handled."""
        self._say("error", event, {"exc_info": True, **fields})

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        line: Any = {**self._context, **fields, "event": event}
        try:
            for step in self._processors:
                line = step(self._logger, level, line)
        except structlog.DropEvent:  # a test has captured it
            return
