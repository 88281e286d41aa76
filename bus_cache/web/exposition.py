"""Samples as text that Prometheus reads. The only place that needs prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from bus_cache.measure import Histogram, Metric, Samples

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What generate_latest makes; the library has a name for it since 0.23 only."""


class _Collector(Collector):
    """Asks for all samples at each scrape: what is measured is not kept twice."""

    def __init__(self, metrics: Sequence[Metric], samples: Callable[[], Samples]) -> None:
        self._metrics = metrics
        self._samples = samples

    def collect(self) -> Iterable[Family]:
        """Yield each metric of the table, those without a sample, too."""
        samples = self._samples()
        for metric in self._metrics:
            yield _family(metric, samples)

    def describe(self) -> Iterable[Family]:
        """Yield the names, so that the registry need not ask for samples."""
        return [_family(metric, {}) for metric in self._metrics]


def _family(metric: Metric, samples: Samples) -> Family:
    about = (metric.name, metric.help)
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(*about, labels=metric.labels)
        for labels, value in samples.get(metric, ()):
            assert isinstance(value, Histogram)
            bounds = [*(str(each) for each in value.bounds), "+Inf"]
            counts = list(zip(bounds, value.cumulative, strict=True))
            histogram.add_metric(labels, counts, value.total)
        return histogram
    of_kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = of_kind(*about, labels=metric.labels)
    for labels, value in samples.get(metric, ()):
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


def exporter(metrics: Sequence[Metric], samples: Callable[[], Samples]) -> Callable[[], bytes]:
    """Return what makes the text of a program's metrics, and of its process, as of now.

    :param samples: is called for each text, in the thread that wants it.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(metrics, samples))
    ProcessCollector(registry=registry)

    def text() -> bytes:
        return generate_latest(registry)

    return text
