"""What operators have configured for oslo.messaging, as kombu wants it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import ssl
from typing import Any
from urllib.parse import quote

from oslo_config import cfg

from bus_cache.conf import ConfigurationError, consumer, value
from bus_cache.conf.messaging import OPTIONS, oslo_messaging


class NoBus(ConfigurationError):
    """The configuration names no message bus."""


@dataclasses.dataclass(frozen=True)
class Transport:
    """One message bus: how to connect, and how OpenStack declares things there.

    ``urls`` are kombu's, one per broker of the cluster; ``shown`` is for people and has no password
    in it; ``options`` are further arguments of ``kombu.Connection``. ``durable``, ``auto_delete``
    and ``queue_arguments`` are those of the exchanges and default queues of Nova and Glance.
    """

    urls: tuple[str, ...]
    shown: str
    options: dict[str, Any]
    durable: bool = False
    auto_delete: bool = False
    queue_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    quorum: bool = False
    text: str = dataclasses.field(default="", repr=False)
    """The URL as oslo.messaging takes it, with its secrets; empty for the embedded bus."""

    @property
    def brokers(self) -> tuple[str, ...]:
        """What tells one bus from another: its brokers, in whatever order, and its virtual host."""
        return tuple(sorted(url.rpartition("@")[2] for url in self.urls))

    @property
    def identity(self) -> str:
        """A short name of the bus, the same for every consumer that reads it."""
        return hashlib.sha1(" ".join(self.brokers).encode(), usedforsecurity=False).hexdigest()[:8]


_SSL_VERSIONS = {
    "tlsv1": "PROTOCOL_TLSv1",
    "sslv23": "PROTOCOL_TLS",
    "sslv2": "PROTOCOL_SSLv2",
    "sslv3": "PROTOCOL_SSLv3",
    "tlsv1_1": "PROTOCOL_TLSv1_1",
    "tlsv1_2": "PROTOCOL_TLSv1_2",
}
"""As in oslo_messaging/_drivers/impl_rabbit.py."""


def transports(conf: cfg.ConfigOpts) -> list[Transport]:
    """Return the buses to read: ``[consumer] transport_url``, else what notifications use, else
    RPC's.

    :raises NoBus: none is given.
    :raises ConfigurationError: one can't be used.
    """
    section = "oslo_messaging_notifications"
    given: list[tuple[str, str]] = []
    for group, option in (
        (consumer.GROUP, consumer.TRANSPORT_URL),
        (section, OPTIONS[section]["transport_url"]),
        (None, OPTIONS[None]["transport_url"]),
    ):
        if not given and _is_set(conf, group):
            found = value(conf, group, option)
            urls = found if isinstance(found, list) else [found]
            where = f"[{group or 'DEFAULT'}] transport_url"
            given = [(where, url) for url in urls if url]
    if not given:
        raise NoBus(
            f"[{consumer.GROUP}] transport_url is missing: name the message bus that Nova "
            "publishes to, or give nova.conf as a further --config-file."
        )
    buses = [_transport(conf, where, url) for where, url in given]
    seen: set[tuple[str, ...]] = set()
    for bus in buses:
        if bus.brokers in seen:
            raise ConfigurationError(
                f"[{consumer.GROUP}] transport_url names {bus.shown} twice: each bus once."
            )
        seen.add(bus.brokers)
    return buses


def _is_set(conf: cfg.ConfigOpts, group: str | None) -> bool:
    """Tell whether a transport_url stands in a file, and does not only have its default."""
    try:
        where = conf.get_location("transport_url", group)
    except cfg.NoSuchOptError:  # it refers to another option, which is not there
        return True
    return where is not None and where.location not in (
        cfg.Locations.opt_default,
        cfg.Locations.set_default,
    )


class _Rabbit:
    """The options of ``[oslo_messaging_rabbit]``; those in a URL's query win over the files'.

    As ``ConfigOptsProxy`` in oslo_messaging/_drivers/common.py has it.
    """

    def __init__(self, conf: cfg.ConfigOpts, query: dict[str, str], where: str) -> None:
        self._conf = conf
        self._query = query
        self._where = where

    def __getattr__(self, name: str) -> Any:
        option = OPTIONS["oslo_messaging_rabbit"][name]
        if name not in self._query:
            return value(self._conf, "oslo_messaging_rabbit", option)
        try:
            return option.type(self._query[name])
        except ValueError as error:
            raise ConfigurationError(f"{self._where} can't be used: {name}: {error}.") from None


def _transport(conf: cfg.ConfigOpts, where: str, text: str) -> Transport:
    try:
        url = oslo_messaging.TransportURL.parse(conf, text)
        scheme = url.transport
        hosts = url.hosts or [oslo_messaging.TransportHost("localhost")]
    except (oslo_messaging.InvalidTransportURL, ValueError):
        scheme, hosts = "", []
    if not scheme or not _is_whole(text) or any((host.port or 0) > 65535 for host in hosts):
        raise ConfigurationError(
            f"{where} can't be used: it has not the form scheme://user:password@host:port,.../"
            "virtual_host; in a password, write '/' as %2F, ',' as %2C, '#' as %23, '?' as %3F."
        )
    if scheme in ("memory", "kombu+memory"):
        return Transport(("memory://",), "memory://", {})
    if scheme not in ("rabbit", "kombu", "amqp"):
        raise ConfigurationError(
            f"{where} can't be used: {scheme}:// is none of rabbit:// and memory://."
        )
    rabbit = _Rabbit(conf, url.query, where)
    if rabbit.rabbit_quorum_queue and rabbit.rabbit_ha_queues:
        raise ConfigurationError(
            "[oslo_messaging_rabbit] rabbit_ha_queues can't be used with rabbit_quorum_queue."
        )
    vhost = url.virtual_host or "/"
    urls, shown = [], []
    for host in hosts:
        name = host.hostname or "localhost"
        address = f"[{name}]" if ":" in name else name
        user = quote(host.username or "guest", safe="")
        password = quote(host.password or "guest", safe="")
        shown.append(f"{address}:{host.port or 5672}")
        urls.append(f"amqp://{user}:{password}@{shown[-1]}/{quote(vhost, safe='')}")
    tail = "" if vhost == "/" else vhost
    return Transport(
        tuple(urls),
        f"rabbit://{','.join(shown)}/{tail}",
        {
            "ssl": _ssl(rabbit),
            "heartbeat": rabbit.heartbeat_timeout_threshold,
            "login_method": rabbit.rabbit_login_method,
        },
        durable=rabbit.amqp_durable_queues or rabbit.rabbit_quorum_queue,
        auto_delete=rabbit.amqp_auto_delete,
        queue_arguments=_queue_arguments(rabbit),
        quorum=rabbit.rabbit_quorum_queue,
        text=text,
    )


def _is_whole(text: str) -> bool:
    """Tell whether a URL's password was not cut in two by a character that means something else."""
    rest = text.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    hosts = authority.split(",")
    return "@" not in rest[len(authority) :] and ("@" in hosts[0] or "@" not in authority)


def _ssl(rabbit: Any) -> dict[str, Any] | bool:
    """Return kombu's ``ssl`` argument, as oslo_messaging/_drivers/impl_rabbit.py makes it.

    But without ``ssl_ca_file``, too, the broker's name must be in its certificate.
    """
    if not rabbit.ssl:
        return False
    # kombu fills in the name of the broker that it connects to
    given: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    if rabbit.ssl_version:
        attribute = _SSL_VERSIONS.get(rabbit.ssl_version.lower(), "")
        version = getattr(ssl, attribute, None)
        if version is None:
            raise ConfigurationError(
                f"[oslo_messaging_rabbit] ssl_version = {rabbit.ssl_version} can't be used: it "
                "is unknown."
            )
        given["ssl_version"] = version
    if rabbit.ssl_key_file:
        given["keyfile"] = rabbit.ssl_key_file
    if rabbit.ssl_cert_file:
        given["certfile"] = rabbit.ssl_cert_file
    if rabbit.ssl_ca_file:
        given["ca_certs"] = rabbit.ssl_ca_file
    return given


def _queue_arguments(rabbit: Any) -> dict[str, Any]:
    """Return the arguments of a default queue, as oslo_messaging/_drivers/impl_rabbit.py makes
    them."""
    arguments: dict[str, Any] = {}
    if rabbit.rabbit_ha_queues:
        arguments["x-ha-policy"] = "all"
    if rabbit.rabbit_quorum_queue:
        arguments["x-queue-type"] = "quorum"
        for key, value in (
            ("x-delivery-limit", rabbit.rabbit_quorum_delivery_limit),
            ("x-max-in-memory-length", rabbit.rabbit_quorum_max_memory_length),
            ("x-max-in-memory-bytes", rabbit.rabbit_quorum_max_memory_bytes),
        ):
            if value:
                arguments[key] = value
    return arguments
