"""The sinks that a configuration asks for, and what the log says when one of them is not well."""

from __future__ import annotations

import importlib.util
import time

from dcalqr import errors, log
from dcalqr.config import Config
from dcalqr.metrics import elastic, opensearch
from dcalqr.metrics.reports import JsonLinesSink, Reports, Sink, Undelivered

# A sink that is away fails several times a minute.
LINE_SECONDS = 60.0


def start(config: Config) -> Reports:
    """Begin to take reports; called in the event loop.

    Raises
    ------
    ConfigError
        A sink's library is not installed.
    """
    sinks: list[Sink] = []
    if config.reports.file:
        sinks.append(JsonLinesSink(config.reports.file))
    if config.elasticsearch.urls:
        _need("elasticsearch", "elasticsearch")
        sinks.append(elastic.sink(config.elasticsearch))
    if config.opensearch.urls:
        _need("opensearch", "opensearchpy")
        sinks.append(opensearch.sink(config.opensearch))
    complaints = Complaints()
    complaints.reports = Reports(sinks, complaints)
    return complaints.reports


def _need(section: str, library: str) -> None:
    # Looked for and not loaded: a library costs 20 MB and 0.2 s, and the first poll is not to wait for it.
    if importlib.util.find_spec(library) is None:
        how = f"[{section}]: its library is not installed here: pip install 'dcalqr[{section}]'"
        raise errors.ConfigError(complaints=how)


class Complaints:
    """Says what is wrong with a sink and how many reports it has lost: each sink and reason once a minute."""

    def __init__(self) -> None:
        self.reports: Reports | None = None
        self._said_at: dict[tuple[str, str], float] = {}

    def __call__(self, sink: str, error: Exception) -> None:
        problems = error.problems if isinstance(error, Undelivered) else {type(error).__name__: str(error)}
        for reason, message in problems.items():
            now = time.monotonic()
            if now - self._said_at.get((sink, reason), float("-inf")) >= LINE_SECONDS:
                self._said_at[sink, reason] = now
                self._say(sink, reason, message)

    def _say(self, sink: str, reason: str, message: str) -> None:
        queued = self.reports.queued[sink] if self.reports else 0
        dropped = self.reports.lost[sink] if self.reports else {}
        log.get().warning("SINK", sink=sink, reason=reason, message=message, queued=queued, dropped=dropped)


async def stop(reports: Reports) -> None:
    """Deliver what is queued, within a few seconds, and say what was lost in all."""
    await reports.aclose()
    for sink, lost in reports.lost.items():
        if lost:
            log.get().warning("SINK_END", sink=sink, message="reports were lost", dropped=lost)
