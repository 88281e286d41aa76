"""What a consumer shows over HTTP: metrics and health."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from bus_cache.web.server import Routes, scraped
from consumers import health, metrics
from consumers.consumer import Consumer
from consumers.reconcile import Reconciler
from consumers.survey import Surveyor


def routes(
    consumers: Sequence[Consumer], surveyor: Surveyor, reconciler: Reconciler | None
) -> Routes:
    """Return what answers each path."""
    samples = functools.partial(metrics.samples, consumers, surveyor, reconciler)
    return {
        "/metrics": scraped(metrics.METRICS, samples),
        "/healthz": functools.partial(health.alive, consumers),
        "/readyz": functools.partial(health.ready, consumers),
    }
