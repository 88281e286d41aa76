"""The groups, as oslo.config's generator discovers them (entry point ``oslo.config.opts``)."""

from __future__ import annotations

from oslo_config import cfg

from bus_cache.conf import common, consumer, image_cache_weigher

WEIGHER_GROUPS = [
    (common.GROUP, common.OPTIONS),
    (image_cache_weigher.GROUP, image_cache_weigher.OPTIONS),
]
CONSUMER_GROUPS = [
    (common.GROUP, common.OPTIONS),
    (consumer.GROUP, consumer.OPTIONS),
]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return (group, options) of what stands in bus_cache.conf."""
    return CONSUMER_GROUPS


def list_weigher_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return (group, options) of what stands in nova.conf."""
    return WEIGHER_GROUPS
