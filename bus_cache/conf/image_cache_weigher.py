"""``[image_cache_weigher]``: how much a cached image weighs, in nova-scheduler's nova.conf."""

from __future__ import annotations

from oslo_config import cfg

from bus_cache.conf.text import paragraphs
from bus_cache.conf.types import FiniteFloat

GROUP = "image_cache_weigher"

OPTIONS = [
    cfg.Opt(
        "multiplier",
        type=FiniteFloat(min=0.0),
        default=7.0,
        mutable=True,
        help=paragraphs(
            """
            Multiplier of the weigher: what a host that holds a large image gains over one that does
            not. The default is just above what Nova's RAM, CPU, disk, PCI, hypervisor version and
            I/O weighers can add up to with their default multipliers (1.0 each), so that a held
            image decides while the host has room, and Nova's BuildFailureWeigher (1000000) still
            wins. 0 turns it off. An aggregate's metadata ``image_cache_weight_multiplier``
            overrides it for the aggregate's hosts: set it to 0 where hosts cache no images (Ceph).
            """
        ),
    ),
    cfg.IntOpt(
        "small_image_size",
        default=100,
        min=0,
        mutable=True,
        help=paragraphs(
            """
            MiB. An image of at most this size weighs nothing: it is fetched in about a second,
            which is less than a worse spread costs.
            """
        ),
    ),
    cfg.IntOpt(
        "large_image_size",
        default=4096,
        min=1,
        mutable=True,
        help=paragraphs(
            """
            MiB. An image of at least this size weighs fully; between small_image_size and this one
            the weight grows evenly. 4 GiB take about half a minute over 1 Gbit/s link, and
            longer with conversion to raw. A value not above small_image_size makes a step at
            small_image_size.
            """
        ),
    ),
    cfg.Opt(
        "time_budget",
        type=FiniteFloat(min=0.001, max=10.0),
        default=0.05,
        mutable=False,
        help=paragraphs(
            """
            Seconds that a call of the weigher takes at the most, all in all. When they are over,
            nobody holds the image for this one instance, and Nova schedules as without the
            weigher; so for the next ones, without waiting, until Redis answers within this
            time again. A good answer takes about one millisecond for 1000 hosts.
            """
        ),
    ),
]
