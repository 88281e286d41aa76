"""What a program measures, as plain values: counts, histograms, and the table of what it exports.

No library is needed to measure; only who exports it as Prometheus wants it needs one
(:mod:`bus_cache.web.exposition`).
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
