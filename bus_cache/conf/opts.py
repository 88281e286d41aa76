"""The groups, as oslo.config's generator discovers them (entry point ``oslo.config.opts``)."""

from __future__ import annotations

from oslo_config import cfg

from bus_cache.conf import agent, common, consumer, image_cache_weigher

WEIGHER_GROUPS = [
    (common.GROUP, common.OPTIONS),
    (image_cache_weigher.GROUP, image_cache_weigher.OPTIONS),
]
CONSUMER_GROUPS = [
    (common.GROUP, common.OPTIONS),
    (consumer.GROUP, consumer.OPTIONS),
]
AGENT_GROUPS = [(agent.GROUP, agent.OPTIONS)]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return (group, options) of what stands in bus_cache.conf."""
    # what the weigher has no need to import
    from bus_cache.conf import nova  # noqa: PLC0415

    return [*CONSUMER_GROUPS, *AGENT_GROUPS, (nova.IMAGE_CACHE_GROUP, nova.IMAGE_CACHE)]


def list_weigher_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return (group, options) of what stands in nova.conf."""
    return WEIGHER_GROUPS
