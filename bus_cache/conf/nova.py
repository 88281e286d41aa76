"""Nova's own options that bus-cache reads, under Nova's names, with Nova's defaults.

They are read from Nova's own files, so an operator repeats nothing: a compute host's nova.conf is
given as one more ``--config-file``. Names, defaults and deprecated names as in nova/conf/ of
Nova 34 (netconf.py, paths.py, compute.py, imagecache.py, libvirt.py, vmware.py).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from oslo_config import cfg
from oslo_utils import netutils

from bus_cache import conf as configuration

IMAGE_CACHE_GROUP = "image_cache"
LIBVIRT_GROUP = "libvirt"
VMWARE_GROUP = "vmware"

DEFAULT: list[cfg.Opt] = [
    cfg.StrOpt("host", default=socket.gethostname(), help="Name of the compute host."),
    cfg.StrOpt("my_ip", default=netutils.get_my_ipv4(), help="For values with $my_ip in them."),
    # Nova's default, $pybasedir, is where Nova is installed: a place for developers. Every
    # distribution and every tool that deploys Nova sets it to this.
    cfg.StrOpt("state_path", default="/var/lib/nova", help="Directory of Nova's state."),
    cfg.StrOpt(
        "instances_path", default="$state_path/instances", help="Directory of the servers' disks."
    ),
    cfg.StrOpt("compute_driver", help="What nova-compute drives."),
]

IMAGE_CACHE: list[cfg.Opt] = [
    cfg.IntOpt(
        "manager_interval",
        default=2400,
        min=-1,
        deprecated_name="image_cache_manager_interval",
        deprecated_group="DEFAULT",
        help="Seconds between passes of Nova's cache manager; 0: 60, -1: it does not run.",
    ),
    cfg.StrOpt(
        "subdirectory_name",
        default="_base",
        deprecated_name="image_cache_subdirectory_name",
        deprecated_group="DEFAULT",
        help="Folder of the cached images, in instances_path.",
    ),
    cfg.BoolOpt(
        "remove_unused_base_images",
        default=True,
        deprecated_group="DEFAULT",
        help="Whether Nova's cache manager removes images that no server uses.",
    ),
    cfg.IntOpt(
        "remove_unused_original_minimum_age_seconds",
        default=24 * 3600,
        deprecated_group="DEFAULT",
        help="Seconds for which an image must have been unused before it is removed.",
    ),
]

LIBVIRT: list[cfg.Opt] = [
    cfg.StrOpt("images_type", default="default", help="How the servers' disks are kept.")
]

VMWARE: list[cfg.Opt] = [
    cfg.StrOpt("host_ip", help="Address of vCenter."),
    cfg.PortOpt("host_port", default=443, help="Port of vCenter."),
    cfg.StrOpt("host_username", help="User name at vCenter."),
    cfg.StrOpt("host_password", secret=True, help="Password at vCenter."),
    cfg.StrOpt("ca_file", help="File of the authorities that sign vCenter's certificate."),
    cfg.BoolOpt("insecure", default=False, help="Do not check vCenter's certificate."),
    cfg.StrOpt("cluster_name", help="Name of the cluster of ESX hosts."),
    cfg.StrOpt("datastore_regex", help="Names of the datastores that Nova uses."),
    cfg.FloatOpt("task_poll_interval", default=0.5, help="Seconds between looks at a task."),
    cfg.IntOpt("api_retry_count", default=10, min=0, help="Tries of a call of vCenter."),
    cfg.IntOpt("connection_pool_size", default=10, min=10, help="Connections to vCenter."),
    cfg.IntOpt("maximum_objects", default=100, min=0, help="Objects in one answer of vCenter."),
    cfg.StrOpt("cache_prefix", help="Prefix of the cache folder's name."),
    cfg.BoolOpt("pbm_enabled", default=False, help="Use storage policies to choose a datastore."),
]

GROUPS: list[tuple[str | None, list[cfg.Opt]]] = [
    (None, DEFAULT),
    (IMAGE_CACHE_GROUP, IMAGE_CACHE),
    (LIBVIRT_GROUP, LIBVIRT),
    (VMWARE_GROUP, VMWARE),
]
"""All of them; group None is [DEFAULT]."""


FILTER_SCHEDULER_GROUP = "filter_scheduler"
NOTIFICATIONS_GROUP = "notifications"

SPEAKING: list[tuple[str, list[cfg.Opt]]] = [
    (
        FILTER_SCHEDULER_GROUP,
        [
            cfg.ListOpt(
                "weight_classes",
                default=["nova.scheduler.weights.all_weighers"],
                help="Weighers of nova-scheduler.",
            )
        ],
    ),
    (
        NOTIFICATIONS_GROUP,
        [
            cfg.StrOpt(
                "notification_format",
                default="unversioned",
                deprecated_group="DEFAULT",
                help="What is sent: unversioned, versioned or both.",
            ),
            cfg.ListOpt(
                "versioned_notifications_topics",
                default=["versioned_notifications"],
                help="Topics of versioned notifications.",
            ),
        ],
    ),
]
"""What says whether Nova sends notifications and uses the weigher (nova/conf/scheduler.py,
notifications.py); of no matter to consumer and agent."""


def register(conf: cfg.ConfigOpts, groups: Iterable[str | None] | None = None) -> None:
    """Register the options of some groups, or of all; twice does no harm."""
    for name, options in GROUPS:
        if groups is None or name in groups:
            conf.register_opts(options, group=name)


def check(conf: cfg.ConfigOpts, groups: Iterable[str | None] | None = None) -> None:
    """Read every option of some groups, or of all, once.

    :raises bus_cache.conf.ConfigurationError: for the first that can't be used.
    """
    for name, options in GROUPS:
        if groups is None or name in groups:
            for option in options:
                configuration.value(conf, name, option)
