"""``[agent]``: what bus-cache-agent reports, and how often. The rest it reads from nova.conf."""

from __future__ import annotations

from oslo_config import cfg

from bus_cache.conf.text import paragraphs
from bus_cache.conf.types import FiniteFloat, ListenAddress

GROUP = "agent"

OPTIONS = [
    cfg.StrOpt(
        "inventory",
        default="",
        help=paragraphs(
            """
            Driver that lists the host's image cache: libvirt, vmware, or one that another package
            adds (entry points bus_cache.inventory). Empty: the one for Nova's compute_driver, as
            nova.conf names it; a compute_driver for which there is none caches no images. Also
            empty, with [libvirt] images_type = rbd: nothing is reported, since Nova clones images
            within Ceph. Where Glance keeps them elsewhere, Nova does fetch them into the cache:
            then write libvirt here.
            """
        ),
    ),
    cfg.StrOpt(
        "transport_url",
        default="",
        secret=True,
        help=paragraphs(
            """
            The message bus to publish to, as oslo.messaging writes it. Empty, as almost always:
            [oslo_messaging_notifications] transport_url, then [DEFAULT] transport_url, of
            nova.conf. Name one to give the agent a user of its own at the broker, with fewer
            permissions than nova-compute's. TLS, and how exchanges and queues are declared, are as
            [oslo_messaging_rabbit] says.
            """
        ),
    ),
    cfg.StrOpt(
        "state_path",
        default="/var/lib/bus_cache",
        help=paragraphs(
            """
            Directory of a small file that keeps the agent's epoch, which must grow at each start
            even where the clock was set back. Where it can't be written the clock alone is used,
            and should that go back, a consumer tells the agent so within seconds.
            """
        ),
    ),
    cfg.Opt(
        "scan_interval",
        type=FiniteFloat(min=1, max=3600),
        default=60.0,
        mutable=True,
        help=paragraphs(
            """
            Seconds between full listings of the cache. Changes are seen within milliseconds
            without; a listing finds what can't be seen so: what another host does on shared
            storage (NFS), or what happens while the folder can't be watched. Once a minute bounds
            how long such a change stays unknown, and with 10,000 images costs less than 0.1 % of
            one core.
            """
        ),
    ),
    cfg.Opt(
        "snapshot_interval",
        type=FiniteFloat(min=10, max=3600),
        default=300.0,
        mutable=True,
        help=paragraphs(
            """
            Seconds between reports of the whole cache, +-10 % so that hosts that started together
            do not report together. It tells consumers that the host still lives: keep it below a
            third of their [consumer] agent_timeout. Shorter: what was lost is repaired sooner
            where nobody noticed, and the bus carries more, about 60 bytes for each image.
            """
        ),
    ),
    cfg.Opt(
        "http_listen",
        type=ListenAddress(),
        default="",
        help=paragraphs(
            """
            IP address and port, such as 127.0.0.1:9878, at which the agent shows its metrics
            (/metrics, which needs prometheus-client), read-only and without a password. Empty:
            none. Nothing listens on compute hosts unless it is wanted: the consumer's metrics tell
            of agents that are silent, too.
            """
        ),
    ),
]
