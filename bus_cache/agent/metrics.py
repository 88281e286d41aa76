"""What an agent exports: the table, and where each value comes from."""

from __future__ import annotations

import bus_cache
from bus_cache import protocol
from bus_cache.agent.agent import Agent
from bus_cache.measure import Metric, Samples

INFO = Metric(
    "bus_cache_agent_build_info", "gauge", "Always 1: the version of bus-cache.", ("version",)
)
IMAGES = Metric("bus_cache_agent_images", "gauge", "Images in the host's cache, as last listed.")
MESSAGES = Metric(
    "bus_cache_agent_messages_total", "counter", "Messages published, by type.", ("type",)
)
UNPUBLISHED = Metric(
    "bus_cache_agent_publish_failures_total",
    "counter",
    "Messages that the broker did not take. All is told again when it does.",
)
UNREADABLE = Metric(
    "bus_cache_agent_listing_failures_total",
    "counter",
    "Times that the cache could not be listed. Nothing is reported until it can.",
)
TOLD_ALL = Metric(
    "bus_cache_agent_snapshot_timestamp_seconds",
    "gauge",
    "When the last report of the whole cache was published, seconds since 1970; 0: never.",
)
UNHEARD = Metric(
    "bus_cache_agent_silent",
    "gauge",
    "1: no consumer was heard for 15 minutes, and nothing is published until one is.",
)

METRICS = tuple(value for value in globals().values() if isinstance(value, Metric))
"""All of them, in this order."""


def samples(agent: Agent) -> Samples:
    """Return what all metrics are now. From any thread."""
    return {
        INFO: [((bus_cache.__version__,), 1)],
        IMAGES: [((), agent.images)],
        MESSAGES: [((event,), agent.counts[event]) for event in protocol.EVENTS],
        UNPUBLISHED: [((), agent.counts["unpublished"])],
        UNREADABLE: [((), agent.counts["unreadable"])],
        TOLD_ALL: [((), agent.told_all)],
        UNHEARD: [((), agent.silent)],
    }
