"""What a program measures, as plain values: counts, histograms, and the table of what it exports.

No library is needed to measure. Who exports over HTTP uses Prometheus' own
(:mod:`bus_cache.web.exposition`); who can't have it writes :func:`text`.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Union

LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Seconds: bounds for what a server on the same network answers."""

LAG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0)
"""Seconds: bounds for what may wait in a queue."""


class Histogram:
    """How often values were up to each of some bounds. One thread writes, others may read."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Take the upper bounds, growing; what is above all of them is counted, too."""
        self.bounds = tuple(bounds)
        self.total = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value; a negative one (two clocks differ) as 0."""
        self._counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += max(0.0, value)

    @property
    def cumulative(self) -> list[int]:
        """How many values were up to each bound; the last one: how many there were."""
        count = 0
        return [count := count + each for each in tuple(self._counts)]


class Metric(NamedTuple):
    """One row of the table of what a program exports, and of docs/metrics.md.

    ``kind``: ``counter``, ``gauge`` or ``histogram``. A label has few values: never an image's or a
    server's id, nor a host.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


Samples = Mapping[Metric, Sequence[tuple[tuple[str, ...], Union[float, Histogram]]]]
"""What each metric is now: values of its labels, and a number or a histogram."""


def text(metrics: Sequence[Metric], samples: Samples) -> str:
    """Return samples in Prometheus' text format (version 0.0.4); labels are plain words."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for labels, value in samples.get(metric, ()):
            pairs = [f'{name}="{label}"' for name, label in zip(metric.labels, labels, strict=True)]
            where = "{" + ",".join(pairs) + "}" if pairs else ""
            if not isinstance(value, Histogram):
                lines.append(f"{metric.name}{where} {float(value)}")
                continue
            counts = value.cumulative
            for bound, count in zip((*value.bounds, "+Inf"), counts, strict=True):
                bucket = ",".join([*pairs, f'le="{bound}"'])
                lines.append(f"{metric.name}_bucket{{{bucket}}} {float(count)}")
            lines.append(f"{metric.name}_count{where} {float(counts[-1])}")
            lines.append(f"{metric.name}_sum{where} {value.total}")
    return "\n".join(lines) + "\n"
