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
        default=5.0,
        mutable=True,
        help=paragraphs(
            """
            Multiplier of the weigher: what a host gains at the most that holds a large image. The
            default is above what Nova's RAM, CPU, disk and I/O weighers (1.0 each at the most) make
            of the differences between hosts that are about as full, so that a held image decides
            among these; a host that is much fuller than others gains nothing by an image, whatever
            the multiplier (see most_imbalance; hosts whose multiplier is 0 are none of these
            others), and Nova's BuildFailureWeigher (1000000) still wins. It outweighs Nova's
            weighers of hypervisor versions and PCI devices (1.0 each), too; a server of a group
            with soft affinity or anti-affinity it leaves alone. 0 turns it off. 2.5 keeps RAM more
            evenly used in a cloud with fewer hosts than a burst has servers, and fetches a little
            more (docs/placement.md). An aggregate's metadata ``image_cache_weight_multiplier``
            overrides it for the aggregate's hosts: set it to 0 where hosts cache no images (Ceph),
            or where other servers should not be drawn to (GPUs).
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
        default=2048,
        min=1,
        mutable=True,
        help=paragraphs(
            """
            MiB. An image of at least this size weighs fully; between small_image_size and this one
            the weight grows evenly. 2 GiB take about 20 seconds over a 1 Gbit/s link, and longer
            with conversion to raw. A value not above small_image_size makes a step at
            small_image_size. What most_imbalance allows goes by it, too.
            """
        ),
    ),
    cfg.IntOpt(
        "most_builds",
        default=4,
        min=1,
        mutable=True,
        help=paragraphs(
            """
            Builds on a host, those that wait for the image's download too, with which it gains
            nothing any more (Nova's num_io_ops: snapshots, rebuilds, resizes and the like count
            too): so a burst of servers of one image fills no host, and about one host for so many
            servers fetches the image. Fewer spread a burst, and fetch more; more of them have
            builds share the host's disk and network. From nova-compute's max_concurrent_builds (10)
            on, builds wait for each other. 4: with 6 a few per cent less is fetched, and hosts are
            less even; with 2 a fifth more is fetched (docs/placement.md). While a scheduler process
            sent so many to a host whose record does not have them yet, hosts with fewer gain a
            fifth of the multiplier, whatever they have; not where aggregates say several
            multipliers besides 0.
            """
        ),
    ),
    cfg.Opt(
        "most_imbalance",
        type=FiniteFloat(min=0.0, max=1.0),
        default=0.03,
        mutable=True,
        help=paragraphs(
            """
            A share of the largest free RAM among the candidates. A host that, with half of the
            server on it, has so much less free RAM than the candidates' mean gains nothing; with
            half of it less, half. It is for an image of large_image_size; for others it goes by the
            square root of their size, up to twice as much. So hosts stay about as evenly full as by
            Nova alone where they are many; what fills few hosts are bursts (most_builds). 0: only
            hosts gain that have more than the mean even so; 1: RAM hardly matters, and hosts that
            hold images are filled first. A host to which a server of the image was sent within 2
            seconds may lack most_builds such servers, if that is more. 0.03: with 0.06 a seventh
            less is fetched, and RAM is less evenly used; less than 0.03 costs bytes and makes
            little more even (docs/placement.md). Where half of a server is more than that, only
            hosts with more free RAM than the mean gain.
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
            nobody holds the image for this one instance, and Nova schedules as without the weigher;
            so for the next ones, without waiting, until Redis answers within this time again. A
            good answer takes about one millisecond for 1000 hosts.
            """
        ),
    ),
    cfg.StrOpt(
        "metrics_folder",
        default="",
        help=paragraphs(
            """
            Folder in which each process of nova-scheduler writes its metrics every 10 seconds, as a
            file that node_exporter's textfile collector reads (its option
            --collector.textfile.directory). nova-scheduler's user must be able to write there.
            Empty: none are written.
            """
        ),
    ),
]
