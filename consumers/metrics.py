"""What a consumer exports: the table, and where each value comes from."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Union

import bus_cache
from bus_cache.measure import Histogram, Metric, Samples
from consumers.consumer import Consumer
from consumers.measures import SIZE_CLASSES
from consumers.reconcile import Reconciler
from consumers.survey import Surveyor

Value = Union[float, Histogram]

INFO = Metric("bus_cache_build_info", "gauge", "Always 1: the version of bus-cache.", ("version",))

NOTIFICATIONS = Metric(
    "bus_cache_notifications_total",
    "counter",
    "Messages received, by event type (those that teach nothing: other) and by what they were: "
    "used, ignored (teaches nothing, or of a host that is ignored), malformed.",
    ("bus", "type", "outcome"),
)
ACKNOWLEDGED = Metric(
    "bus_cache_notifications_acknowledged_total",
    "counter",
    "Messages acknowledged: what they say is in Redis.",
    ("bus",),
)
RETURNED = Metric(
    "bus_cache_notifications_returned_total",
    "counter",
    "Messages given back to the queue, since Redis was away for long. They come again.",
    ("bus",),
)
DROPPED = Metric(
    "bus_cache_notifications_dropped_total",
    "counter",
    "Messages that the broker dropped from our full queue, at least.",
    ("bus",),
)
LAG = Metric(
    "bus_cache_lag_seconds",
    "histogram",
    "From the publisher's clock when it was said until it was in Redis, of each change.",
    ("bus",),
)
BATCHES = Metric("bus_cache_batches_total", "counter", "Batches written to Redis.", ("bus",))
CHANGES = Metric(
    "bus_cache_changes_total",
    "counter",
    "Changes written (applied), or refused by Redis for good (refused).",
    ("bus", "outcome"),
)
BOOTS = Metric(
    "bus_cache_boots_total",
    "counter",
    "Servers that a host began to build, by whether the index knew then that the host holds the "
    "image (found: yes, no), and by the image's size.",
    ("bus", "size", "found"),
)
CONNECTIONS = Metric(
    "bus_cache_bus_connections_total", "counter", "Times that reading the bus began.", ("bus",)
)
BUS_UP = Metric("bus_cache_bus_up", "gauge", "1: the bus is read; 0: it is away.", ("bus",))
REDIS_UP = Metric(
    "bus_cache_redis_up",
    "gauge",
    "1: Redis took the last write; 0: it is away, or refuses to write.",
    ("bus",),
)
DEPTH = Metric(
    "bus_cache_queue_messages",
    "gauge",
    "Messages that wait in a queue of ours, not handed to a consumer yet; looked at every 10 s.",
    ("bus", "queue"),
)
REDIS_SECONDS = Metric(
    "bus_cache_redis_call_seconds",
    "histogram",
    "Time until Redis answered a call that changes the index.",
    ("bus",),
)
REDIS_ERRORS = Metric(
    "bus_cache_redis_errors_total",
    "counter",
    "Calls that Redis did not answer, or refused.",
    ("bus",),
)
ASKED = Metric(
    "bus_cache_agents_asked_total",
    "counter",
    "Agents asked for a snapshot, since a part of what they said was missing.",
    ("bus",),
)
SWITCHED = Metric(
    "bus_cache_host_switches_total",
    "counter",
    "Hosts whose agent began to decide what they hold (agent), or that fell back to Nova's "
    "notifications (notifications), or left the index with their service (gone).",
    ("bus", "to"),
)
AGED_OUT = Metric(
    "bus_cache_images_aged_out_total",
    "counter",
    "Images taken out of hosts, by Nova's rule for unused ones.",
    ("bus",),
)
RECONCILED = Metric(
    "bus_cache_reconciliations_total",
    "counter",
    "Comparisons with Nova's API (done), and tries that failed (failed).",
    ("outcome",),
)
RECONCILED_AT = Metric(
    "bus_cache_reconciliation_timestamp_seconds",
    "gauge",
    "When this consumer last compared the index with Nova's API, seconds since 1970.",
)
DRIFT = Metric(
    "bus_cache_drift_total",
    "counter",
    "Differences between index and Nova's API that were found, by kind (see docs/sync.md).",
    ("kind",),
)
MENDED = Metric("bus_cache_drift_mended_total", "counter", "Those that were mended.")
IMAGES = Metric("bus_cache_index_images", "gauge", "Images that the index knows.")
IMAGES_HELD = Metric("bus_cache_index_images_held", "gauge", "Images that at least one host holds.")
MEMBERSHIPS = Metric(
    "bus_cache_index_memberships", "gauge", "Pairs of a host and an image that it holds."
)
HOSTS = Metric(
    "bus_cache_index_hosts",
    "gauge",
    "Hosts that the index knows, by who decides what they hold: their agent, or Nova's "
    "notifications.",
    ("source",),
)
SILENT = Metric(
    "bus_cache_index_agents_silent",
    "gauge",
    "Agents that said goodbye or are thought dead: their hosts are known by notifications.",
)
GAPS = Metric(
    "bus_cache_index_agent_gaps", "gauge", "Agents of which a part of what they said is missing."
)
LEFT_OUT = Metric(
    "bus_cache_index_left_out_total",
    "counter",
    "Statements left out of the index since a limit was reached (see docs/bounds.md).",
    ("limit",),
)
EVIDENCE_AT = Metric(
    "bus_cache_index_evidence_timestamp_seconds",
    "gauge",
    "When the newest evidence in the index was told, seconds since 1970.",
)
COUNTED_AT = Metric(
    "bus_cache_index_counted_timestamp_seconds",
    "gauge",
    "When the index was counted for the figures bus_cache_index_*, seconds since 1970.",
)

METRICS = tuple(value for value in globals().values() if isinstance(value, Metric))
"""All of them, in this order."""

LIMITS = ("hosts", "images", "images_per_host", "servers_per_host")
"""Those of lua/prelude.lua."""

DRIFT_KINDS = ("image_missing", "server_missing", "server_gone", "host_gone")


def samples(
    consumers: Sequence[Consumer], surveyor: Surveyor, reconciler: Reconciler | None
) -> Samples:
    """Return what all metrics are now. From any thread: a value may be a moment old."""
    found: collections.defaultdict[Metric, list[tuple[tuple[str, ...], Value]]]
    found = collections.defaultdict(list)

    def add(metric: Metric, value: Value, *labels: str) -> None:
        found[metric].append((labels, value))

    add(INFO, 1, bus_cache.__version__)
    for each in consumers:
        _of_bus(each, add)
    if reconciler is not None:
        for outcome in ("done", "failed"):
            add(RECONCILED, reconciler.counts[outcome], outcome)
        for kind in DRIFT_KINDS:
            add(DRIFT, reconciler.drift[kind], kind)
        add(MENDED, reconciler.counts["mended"])
        if reconciler.last:
            add(RECONCILED_AT, reconciler.last)
    if surveyor.latest is not None:
        counts = surveyor.latest.counts
        add(IMAGES, counts.images)
        add(IMAGES_HELD, counts.held)
        add(MEMBERSHIPS, counts.memberships)
        add(HOSTS, counts.by_agent, "agent")
        add(HOSTS, max(0, counts.hosts - counts.by_agent), "notifications")
        add(SILENT, counts.silent)
        add(GAPS, counts.gaps)
        full = dict(counts.full)
        for limit in LIMITS:
            add(LEFT_OUT, full.get(limit, 0), limit)
        if counts.newest is not None:
            add(EVIDENCE_AT, counts.newest / 1000)
        add(COUNTED_AT, surveyor.latest.at)
    return found


def _of_bus(consumer: Consumer, add: Callable[..., None]) -> None:
    bus, counts, measures = consumer.bus, consumer.counts, consumer.measures
    kinds = dict(measures.kinds)
    ignored = sum(count for (_, outcome), count in kinds.items() if outcome == "ignored")
    # most messages are not even decoded
    undecoded = max(0, counts["irrelevant"] - ignored)
    kinds["other", "ignored"] = kinds.get(("other", "ignored"), 0) + undecoded
    kinds.setdefault(("other", "malformed"), 0)
    for (kind, outcome), count in sorted(kinds.items()):
        add(NOTIFICATIONS, count, bus, kind, outcome)
    add(ACKNOWLEDGED, counts["acknowledged"], bus)
    add(RETURNED, counts["given_back"], bus)
    add(DROPPED, counts["dropped"], bus)
    add(LAG, measures.lag, bus)
    add(BATCHES, counts["batches"], bus)
    for outcome in ("applied", "refused"):
        add(CHANGES, counts[outcome], bus, outcome)
    for size in SIZE_CLASSES:
        for held in (True, False):
            add(BOOTS, measures.boots.counts[size, held], bus, size, "yes" if held else "no")
    add(CONNECTIONS, counts["connections"], bus)
    away = consumer.waits_for
    add(BUS_UP, "bus" not in away, bus)
    add(REDIS_UP, "redis" not in away, bus)
    for queue, messages in sorted(measures.depths.items()):
        add(DEPTH, messages, bus, queue)
    add(REDIS_SECONDS, consumer.writer.calls, bus)
    add(REDIS_ERRORS, consumer.writer.failures, bus)
    add(ASKED, counts["asked"], bus)
    switches = {"agent": "managed", "notifications": "inferred", "gone": "vanished"}
    for to, name in switches.items():
        add(SWITCHED, counts[name], bus, to)
    add(AGED_OUT, counts["aged_out"], bus)
