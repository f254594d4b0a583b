"""The page /metrics, made of a snapshot when somebody asks: nothing is counted on the way of a copy for it.

This module alone loads prometheus-client, and is itself loaded only where a port is configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dcalqr.metrics.series import SERIES, Series, Snapshot
from dcalqr.metrics.web import Answer

# Not prometheus-client's newest: every Prometheus since 2.0 reads this one.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Makes the page.

    Parameters
    ----------
    snapshot
        Gives all that is known of the instance now.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._registry = CollectorRegistry()  # not the global one: what a library registers would come along
        self._registry.register(_FromSnapshot(snapshot))
        ProcessCollector(registry=self._registry)

    def __call__(self) -> Answer:
        return Answer(200, generate_latest(self._registry), CONTENT_TYPE)


class _FromSnapshot(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return []  # or registering it would take a snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        return (_family(series, snapshot) for series in SERIES)


def _family(series: Series, snapshot: Snapshot) -> Metric:
    name = f"dcalqr_{series.name}"
    values = [(labels, value) for labels, value in series.read(snapshot) if value is not None]
    if series.kind == "histogram":
        histogram = HistogramMetricFamily(name, series.text, labels=series.labels)
        for labels, value in values:
            histogram.add_metric(labels, _buckets(value), value["sum"])
        return histogram
    made = (CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily)(
        name, series.text, labels=series.labels
    )
    for labels, value in values:
        made.add_metric(labels, float(value))
    return made


def _buckets(histogram: dict[str, Any]) -> list[tuple[str, float]]:
    bounds = [*(repr(float(bound)) for bound in histogram["bounds"]), "+Inf"]
    return list(zip(bounds, accumulate(histogram["counts"]), strict=True))
