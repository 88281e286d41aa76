"""What the lab writes into the services' configuration files; nothing here does anything else.

What concerns bus-cache is what its README tells an operator to write: ``notifications`` of Nova
and Glance, the consumer's own file, the weigher's lines in ``nova.conf``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.libvirt import Libvirt

#: Section -> option -> value; a None leaves the option out, a tuple gives it several times.
Sections = dict[str, dict[str, object]]

REGION = "RegionOne"
ADMIN = "admin"
PASSWORD = "lab"  # of every user of this cloud, which only its own machine can reach

#: What a compute host's node is called, after the host's name.
NODE_SUFFIX = ".node.example"

#: The services that Keystone's catalog lists: user name -> service type.
CATALOG = {"nova": "compute", "glance": "image", "placement": "placement", "neutron": "network"}

#: How Nova and Glance publish notifications.
NOTIFIER: dict[str, object] = {"driver": "messagingv2", "retry": 3}
#: What bounds the queues that they declare and that nobody reads here: rabbitmqctl's arguments.
QUEUE_POLICY = (
    "set_operator_policy",
    *("-p", "/"),
    *("--apply-to", "queues"),
    "notifications-bound",
    r"^(versioned_)?notifications\.(info|error)$",
    '{"max-length-bytes": 268435456}',
)

#: Where packages put the files that services need beside their code.
SHIPPED = Path(sys.prefix) / "etc"


@dataclass(frozen=True)
class Addresses:
    """Where everything listens. Ports are of 127.0.0.1; ``urls`` by service name."""

    database: str
    transport: str
    redis: str
    ports: Mapping[str, int]

    @property
    def urls(self) -> dict[str, str]:
        suffix = {"keystone": "/v3", "nova": "/v2.1"}
        return {
            name: f"http://127.0.0.1:{port}{suffix.get(name, '')}"
            for name, port in self.ports.items()
        }


@dataclass(frozen=True)
class NovaOptions:
    """What one run of the lab wants otherwise than the next."""

    #: ``[notifications] notification_format``: both, unversioned or versioned.
    notification_format: str = "both"
    #: ``[notifications] notify_on_state_change``; None is Nova's default: unset.
    notify_on_state_change: str | None = None
    #: Whether bus-cache's weigher is among the scheduler's.
    weigher: bool = False
    #: More for nova.conf, over everything else.
    extra: Sections = field(default_factory=dict)


def merge(*parts: Sections) -> Sections:
    """One configuration out of several, later ones over earlier ones."""
    merged: Sections = {}
    for part in parts:
        for section, options in part.items():
            merged.setdefault(section, {}).update(options)
    return merged


def write(path: Path, sections: Sections) -> Path:
    """Write an oslo.config file."""
    lines = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        for name, value in options.items():
            values = value if isinstance(value, tuple) else (value,)
            lines += [f"{name} = {each}" for each in values if each is not None]
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def credentials(addresses: Addresses, user: str) -> dict[str, object]:
    """How one service logs in to another."""
    return {
        "auth_type": "password",
        "auth_url": addresses.urls["keystone"],
        "username": user,
        "password": PASSWORD,
        "project_name": "service",
        "user_domain_id": "default",
        "project_domain_id": "default",
        "region_name": REGION,
    }


def _token_check(addresses: Addresses, user: str) -> dict[str, object]:
    """How a service checks the tokens that are shown to it."""
    return {
        "www_authenticate_uri": addresses.urls["keystone"],
        "service_token_roles": "service",
        "service_token_roles_required": True,
        **credentials(addresses, user),
    }


def keystone(addresses: Addresses, directory: Path) -> Sections:
    return {
        "database": {"connection": f"{addresses.database}/keystone"},
        "token": {"provider": "fernet", "expiration": 86400},
        "fernet_tokens": {"key_repository": directory / "fernet"},
        "credential": {"key_repository": directory / "credential"},
    }


def placement(addresses: Addresses) -> Sections:
    return {
        "api": {"auth_strategy": "keystone"},
        "placement_database": {"connection": f"{addresses.database}/placement"},
        "keystone_authtoken": _token_check(addresses, "placement"),
    }


def glance(addresses: Addresses, directory: Path) -> Sections:
    staging = directory / "staging"
    return {
        "DEFAULT": {
            "transport_url": addresses.transport,
            "enabled_backends": "files:file",
            "node_staging_uri": staging.as_uri(),
        },
        "database": {"connection": f"{addresses.database}/glance"},
        "glance_store": {"default_backend": "files"},
        "files": {"filesystem_store_datadir": directory / "images"},
        "os_glance_staging_store": {"filesystem_store_datadir": staging},
        "os_glance_tasks_store": {"filesystem_store_datadir": directory / "tasks"},
        "oslo_messaging_notifications": NOTIFIER,
        "paste_deploy": {
            "flavor": "keystone",
            "config_file": SHIPPED / "glance" / "glance-api-paste.ini",
        },
        "keystone_authtoken": _token_check(addresses, "glance"),
    }


def nova(addresses: Addresses, host: str, state: Path, options: NovaOptions) -> Sections:
    """``nova.conf`` of a compute host; the control plane's has :func:`nova_control` over it."""
    own: Sections = {
        "DEFAULT": {
            "host": host,
            "my_ip": "127.0.0.1",
            "transport_url": addresses.transport,
            "state_path": state,
            "rootwrap_config": SHIPPED / "nova" / "rootwrap.conf",
            "compute_driver": "bus_cache_lab.LabDriver",
            "periodic_fuzzy_delay": 0,  # else the first periodic task comes up to a minute late
            "report_interval": 5,
            # Never by itself: where a host is to be down, the lab says so to Nova.
            "service_down_time": 3600,
            "sync_power_state_interval": -1,  # the fake guests end with their host's process
            "graceful_shutdown_timeout": 5,
            "manager_shutdown_timeout": 2,
        },
        "notifications": {
            "notification_format": options.notification_format,
            "notify_on_state_change": options.notify_on_state_change,
        },
        "oslo_messaging_notifications": NOTIFIER,
        "oslo_concurrency": {"lock_path": state / "lock"},
        "keystone_authtoken": _token_check(addresses, "nova"),
        "service_user": {"send_service_user_token": True, **credentials(addresses, "nova")},
        "placement": credentials(addresses, "nova"),
        "neutron": credentials(addresses, "nova"),
        "glance": {"region_name": REGION},
        "vnc": {"enabled": False},
    }
    return merge(own, options.extra)


def nova_libvirt(
    addresses: Addresses, host: str, state: Path, options: NovaOptions, libvirt: Libvirt, file: Path
) -> Sections:
    """``nova.conf`` of a compute host with real guests; ``file`` is where it will be written."""
    as_root: dict[str, object] = {
        "helper_command": f"{Path(sys.executable).parent / 'privsep-helper'} --config-file {file}"
    }
    own: Sections = {
        "DEFAULT": {
            "compute_driver": "libvirt.LibvirtDriver",
            "my_ip": libvirt.address,
            "instances_path": libvirt.common,
            "cpu_allocation_ratio": 64.0,  # guests that do nothing
            "shutdown_timeout": 1,  # there is no system in the guests that could shut down
        },
        "libvirt": {
            "connection_uri": libvirt.url,
            "live_migration_uri": libvirt.url_of_others,
            "live_migration_inbound_addr": libvirt.address,
            "virt_type": "qemu",
            "cpu_mode": "none",
            "images_type": "qcow2",
            "num_pcie_ports": 0,
        },
        "nova_sys_admin": as_root,
        "privsep_osbrick": as_root,
    }
    return merge(nova(addresses, host, state, options), own, options.extra)


def downloading(glance: str) -> Sections:
    """What a compute host with the driver that really downloads has over :func:`nova`.

    :param glance: the URL at which Nova finds Glance.
    """
    return {
        "DEFAULT": {"compute_driver": "bus_cache_lab_downloading.DownloadingDriver"},
        "glance": {"endpoint_override": glance},
    }


def nova_control(addresses: Addresses, host: str, state: Path, options: NovaOptions) -> Sections:
    """``nova.conf`` of the API, the scheduler and the conductor."""
    own: Sections = {
        "api_database": {"connection": f"{addresses.database}/nova_api"},
        "database": {"connection": f"{addresses.database}/nova"},
        "api": {"auth_strategy": "keystone"},
        "conductor": {"workers": 1},
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 2},
        "quota": {"driver": "nova.quota.NoopQuotaDriver"},
    }
    weigher: Sections = {
        "filter_scheduler": {
            "weight_classes": "nova.scheduler.weights.all_weighers,weigher.ImageCacheWeigher"
        },
        # how long each call of the weigher took is told at this level
        "DEFAULT": {"default_log_levels": "amqp=WARN,keystonemiddleware=WARN,weigher=DEBUG"},
        "bus_cache": {"redis_url": addresses.redis},
    }
    common = nova(addresses, host, state, options)
    return merge(common, own, weigher if options.weigher else {}, options.extra)


def bus_cache(addresses: Addresses) -> Sections:
    """``bus_cache.conf``, for the consumer and the command line."""
    return {
        "DEFAULT": {"transport_url": addresses.transport},
        "bus_cache": {"redis_url": addresses.redis},
    }
