"""``[consumer]``: which buses bus-cache-consumer reads, and how."""

from __future__ import annotations

import fnmatch
from typing import Any

from oslo_config import cfg, types

from bus_cache import names, protocol
from bus_cache.conf.text import paragraphs
from bus_cache.conf.types import FiniteFloat, ListenAddress

GROUP = "consumer"


class BusName(types.String):
    """An oslo.config type: the name of a queue, topic or exchange; may be empty for a queue."""

    def __call__(self, value: str) -> str:
        """Return the value; ValueError where RabbitMQ would not take it, or people not read it."""
        text: str = super().__call__(value).strip()
        if text and not names.is_valid_name(text):
            raise ValueError(f"{text[:60]!r} is no name of a queue, topic or exchange")
        if text.startswith("amq."):
            raise ValueError(f"{text!r}: RabbitMQ keeps names that start with 'amq.' for itself")
        return text


class Pool(BusName):
    """An oslo.config type: the name of our queue; may be empty."""

    def __call__(self, value: str) -> str:
        """Return the value; ValueError where agents have queues of such a name."""
        text = super().__call__(value)
        if text == protocol.QUEUE or text.startswith(protocol.ASK_TOPIC):
            raise ValueError(f"{text!r} is the name of one of the agents' queues")
        return text


class BusNames(types.List):
    """An oslo.config type: names of topics or exchanges, at least one, none of them empty."""

    def __init__(self) -> None:
        """Take names."""
        super().__init__(item_type=BusName())

    def __call__(self, value: Any) -> list[str]:
        """Return the names; ValueError where there is none."""
        found: list[str] = super().__call__(value)
        if not found or not all(found):
            raise ValueError("name at least one, and no empty ones")
        return found


TRANSPORT_URL = cfg.MultiStrOpt(
    "transport_url",
    default=[],
    secret=True,
    help=paragraphs(
        """
        A message bus to read, as oslo.messaging writes it:
        rabbit://user:password@host1:5672,user:password@host2:5672/vhost. May be given several
        times: each cell has a RabbitMQ of its own, and so has the API level, where the deletion
        of a compute service and the caching of images for an aggregate are told. Default:
        [oslo_messaging_notifications] transport_url, then [DEFAULT] transport_url. TLS,
        heartbeat and how exchanges and queues are declared are as [oslo_messaging_rabbit] says.
        """
    ),
)

OPTIONS = [
    TRANSPORT_URL,
    cfg.Opt(
        "topics",
        type=BusNames(),
        default=["notifications", "versioned_notifications"],
        help=paragraphs(
            """
            Topics to read. Nova's unversioned notifications are on those of
            [oslo_messaging_notifications] topics, its versioned ones on those of [notifications]
            versioned_notifications_topics. One format is enough; where both are sent, the same fact
            in both is one fact.
            """
        ),
    ),
    cfg.Opt(
        "exchanges",
        type=BusNames(),
        default=["nova", "glance"],
        help=paragraphs(
            """
            Exchanges that notifications are published to: the control_exchange of Nova and of
            Glance.
            """
        ),
    ),
    cfg.Opt(
        "pool",
        type=Pool(),
        default="bus_cache",
        help=paragraphs(
            """
            Name of our own queue on those exchanges, as oslo.messaging names a listener pool's.
            Processes with the same name share its messages. Empty: read the topics' default queues
            themselves, for topics that nobody else reads: two readers of one queue take each
            other's messages.
            """
        ),
    ),
    cfg.IntOpt(
        "prefetch",
        default=500,
        min=1,
        max=65535,
        help=paragraphs(
            """
            Messages that the broker hands out ahead of their acknowledgement, on each bus. It
            bounds memory and the size of a batch; below 100 reading gets slower, above 1000 no
            faster.
            """
        ),
    ),
    cfg.IntOpt(
        "queue_max_bytes",
        default=256 * 1024 * 1024,
        min=0,
        max=2**63 - 1,
        help=paragraphs(
            """
            Bytes that our own queue may hold; beyond, the broker drops the oldest messages first,
            and the consumer notices. 256 MiB are about 60,000 notifications. The queue lives in the
            broker, which all of OpenStack needs: without a bound a consumer that is stopped for
            long would fill it. 0: no bound. A queue that exists is not changed: delete it, or set a
            RabbitMQ policy.
            """
        ),
    ),
    cfg.IntOpt(
        "queue_expires",
        default=3 * 24 * 3600,
        min=0,
        max=6 * 24 * 3600,
        help=paragraphs(
            """
            Seconds after which the broker deletes our own queue when no consumer reads it: a
            bus-cache that was taken out leaves nothing behind. 3 days outlast a weekend. At most 6
            days, since deletions of images and hosts are remembered for 7, to know late messages
            about them. 0: never.
            """
        ),
    ),
    cfg.ListOpt(
        "ignore_hosts",
        default=[],
        mutable=True,
        help=paragraphs(
            """
            Patterns, as in a shell (*, ?, [...]), of hosts that cache no images and so never enter
            the index: nova-compute for Ironic, or on Ceph with images_type = rbd and images in the
            same Ceph. Hosts in the index that match are taken out at start and at SIGHUP.
            """
        ),
    ),
    cfg.BoolOpt(
        "live_migration_evidence",
        default=True,
        mutable=True,
        help=paragraphs(
            """
            Whether a live migration tells that the destination holds the server's image. True where
            disks are qcow2 over a cached base image (Nova's default): Nova fetches the base to the
            destination first. Set it to False with images_type raw or flat, where it does not.
            """
        ),
    ),
    cfg.Opt(
        "gap_grace",
        type=FiniteFloat(min=0, max=600),
        default=5.0,
        help=paragraphs(
            """
            Seconds for which a part of what an agent said may be missing before the agent is asked
            for everything. Several consumers read one queue, so a message may overtake another.
            """
        ),
    ),
    cfg.Opt(
        "agent_timeout",
        type=FiniteFloat(min=1, max=1800),
        default=900.0,
        help=paragraphs(
            """
            Seconds without a word after which an agent counts as dead: what its host holds is from
            then on told by Nova's notifications. Three times [agent] snapshot_interval, so that one
            lost message does no harm. Where the bus or Redis was away, the time begins anew.
            """
        ),
    ),
    cfg.Opt(
        "host_timeout",
        type=FiniteFloat(min=1, max=6 * 24 * 3600),
        default=86400.0,
        help=paragraphs(
            """
            Seconds without a word of its agent after which a host leaves the index, where its
            compute service was deleted. At most 6 days, since deletions are remembered for 7. A
            host that never had an agent may be quiet for ever.
            """
        ),
    ),
    cfg.StrOpt(
        "cloud",
        default="",
        help=paragraphs(
            """
            Name of a cloud in clouds.yaml (or envvars, for the OS_* variables in the consumer's
            environment), whose Nova API the index is compared with and mended by: on an empty
            keyspace, after messages were dropped from our queue, and at reconcile_interval. Its
            user needs the role admin. Empty: the consumer never asks Nova's API. bus-cache sync
            asks the same cloud.
            """
        ),
    ),
    cfg.IntOpt(
        "reconcile_interval",
        default=3600,
        min=0,
        max=30 * 24 * 3600,
        help=paragraphs(
            """
            Seconds between two comparisons with Nova's API; one consumer of a keyspace does it for
            all. Each lists all servers: some seconds of work of one of Nova's API processes for
            every thousand. 0: only where the index is known to have lost something.
            """
        ),
    ),
    cfg.Opt(
        "http_listen",
        type=ListenAddress(),
        default="127.0.0.1:9877",
        help=paragraphs(
            """
            IP address and port at which this consumer shows a page to look at (/), its metrics
            (/metrics, which needs prometheus-client) and its health (/healthz, /readyz), read-only
            and without a password. This machine only by default: hosts and images are nobody else's
            business. For a Prometheus elsewhere take an address of the management network. Each
            consumer of a machine needs its own. Empty: none.
            """
        ),
    ),
]


def matches(host: str, patterns: list[str]) -> bool:
    """Tell whether a host is one of those that ``ignore_hosts`` names."""
    return any(fnmatch.fnmatchcase(host, pattern) for pattern in patterns)
