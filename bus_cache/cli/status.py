"""``bus-cache status``: is it there, is it fresh, does somebody read the bus?"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from oslo_config import cfg

import bus_cache
from bus_cache.cli import command
from bus_cache.cli.app import without_credentials
from bus_cache.cli.output import Age, Column, Rows, Time
from bus_cache.conf import consumer


class Status(command.Show):
    """Show versions, counts, how fresh the index is, and our queues on the buses.

    "images" are known, "images_held" are held by at least one host, "memberships" are
    pairs of an image and a host that holds it. What a host holds is told by its
    bus-cache-agent ("hosts_by_agent") or else by Nova's notifications
    ("hosts_by_notifications"); of the latter, "agents_silent" had an agent. "agent_gaps"
    are agents of whose words a part was lost: they are asked again. "limits_reached"
    has the limits of the index that were reached since it was begun, each with how
    many statements were left out (docs/bounds.md).

    "queues" has, for each message bus that bus-cache-consumer is configured to read, how
    many messages wait in its queue and in the one of the agents, bus_cache.info, and how
    many consumers read it: 0 consumers mean that no bus-cache-consumer runs. A bus that
    can't be asked says why in "error", and is no error of this command.
    """

    examples = """\
examples:
  bus-cache status
  bus-cache status --config-file /etc/nova/nova.conf --config-file /etc/bus_cache/bus_cache.conf
  bus-cache status -f value -c newest_evidence_age       (seconds)
"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Ask Redis, then the buses."""
        with self.index() as index:
            counts = index.listing.counts()
            server = index.listing.server()
        newest = counts.newest
        age = None if newest is None else round(time.time() - newest / 1000)
        fields = {
            "version": bus_cache.__version__,
            "redis": index.where,
            "server": server,
            "keyspace": index.keyspace,
            "schema": Column(counts.schema),
            "images": counts.images,
            "images_held": counts.held,
            "hosts": counts.hosts,
            "hosts_by_agent": counts.by_agent,
            "hosts_by_notifications": max(0, counts.hosts - counts.by_agent),
            "agents_silent": counts.silent,
            "agent_gaps": counts.gaps,
            "limits_reached": Column(
                ", ".join(f"{limit} {left_out}" for limit, left_out in counts.full) or None
            ),
            "memberships": counts.memberships,
            "newest_evidence": Time(newest),
            "newest_evidence_age": Age(age),
            "queues": Rows(
                ("bus", "queue", "messages", "consumers", "error"), self._queues(index.conf)
            ),
        }
        return tuple(fields), tuple(fields.values())

    def _queues(self, conf: cfg.ConfigOpts) -> list[tuple[Any, ...]]:
        """Ask every bus for our queues; whatever is wrong there is told in a row."""
        unknown = ("", conf[consumer.GROUP].pool, None, None)
        try:
            with warnings.catch_warnings():  # oslo.messaging's imports speak of eventlet
                warnings.simplefilter("ignore")
                from bus_cache.conf import messaging  # noqa: PLC0415 (an extra, not always there)
                from consumers import bus  # noqa: PLC0415
        except ImportError as error:
            return [(*unknown, f"asking a bus needs pip install 'bus-cache[consumer]' ({error})")]
        try:
            messaging.register(conf)
            return [
                (*depth[:-1], without_credentials(depth.error)) for depth in bus.queue_depths(conf)
            ]
        except Exception as error:  # a bus may be broken in any way; the rest is worth showing
            reason = " ".join(str(error).split()) or type(error).__name__
            return [(*unknown, without_credentials(reason))]
