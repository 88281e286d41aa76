"""What operators have configured for oslo.messaging, as kombu wants it."""

from __future__ import annotations

import dataclasses
import ssl
import warnings
from typing import Any
from urllib.parse import quote

from oslo_config import cfg

from bus_cache.conf import ConfigurationError, consumer

with warnings.catch_warnings():
    # oslo.messaging's server imports oslo.service, and that eventlet where it is installed, which
    # warns of itself. Nothing here uses either.
    warnings.simplefilter("ignore")
    import oslo_messaging
    import oslo_messaging.opts


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


def register(conf: cfg.ConfigOpts) -> None:
    """Register oslo.messaging's own options, as in every OpenStack service."""
    for group, options in oslo_messaging.opts.list_opts():
        conf.register_opts(options, group=group)


def transports(conf: cfg.ConfigOpts) -> list[Transport]:
    """Return the buses to read: ``[consumer] transport_url``, else what notifications use, else
    RPC's.

    :raises ConfigurationError: none is given, or one can't be used.
    """
    urls: list[tuple[str, str]] = [
        (f"[{consumer.GROUP}] transport_url", url) for url in conf[consumer.GROUP].transport_url
    ]
    if not urls and conf.oslo_messaging_notifications.transport_url:
        urls = [
            (
                "[oslo_messaging_notifications] transport_url",
                conf.oslo_messaging_notifications.transport_url,
            )
        ]
    if not urls and _is_set(conf, "transport_url"):
        urls = [("[DEFAULT] transport_url", conf.transport_url)]
    if not urls:
        raise ConfigurationError(
            f"[{consumer.GROUP}] transport_url is missing: name the message bus that Nova "
            "publishes to, or give nova.conf as a further --config-file."
        )
    found = [_transport(conf, option, url) for option, url in urls]
    for index, transport in enumerate(found):
        if transport.shown in [other.shown for other in found[:index]]:
            raise ConfigurationError(
                f"[{consumer.GROUP}] transport_url names {transport.shown} twice: each bus once."
            )
    return found


def _is_set(conf: cfg.ConfigOpts, option: str) -> bool:
    """Tell whether an option stands in a file, and does not only have its default."""
    where = conf.get_location(option)
    return bool(where and where.location.is_user_controlled)


def _transport(conf: cfg.ConfigOpts, option: str, text: str) -> Transport:
    try:
        url = oslo_messaging.TransportURL.parse(conf, text)
    except (oslo_messaging.InvalidTransportURL, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigurationError(f"{option} can't be used: {reason}.") from None
    scheme = url.transport
    if scheme in ("memory", "kombu+memory"):
        return Transport(("memory://",), "memory://", {})
    if scheme not in ("rabbit", "kombu", "amqp"):
        raise ConfigurationError(
            f"{option} can't be used: {scheme}:// is none of rabbit:// and memory://."
        )
    rabbit = conf.oslo_messaging_rabbit
    vhost = url.virtual_host or "/"
    hosts = url.hosts or [oslo_messaging.TransportHost("localhost")]
    urls, shown = [], []
    for host in hosts:
        name = host.hostname or "localhost"
        address = f"[{name}]" if ":" in name else name
        port = host.port or (5671 if rabbit.ssl else 5672)
        user = quote(host.username or "guest", safe="")
        password = quote(host.password or "guest", safe="")
        urls.append(f"amqp://{user}:{password}@{address}:{port}/{quote(vhost, safe='')}")
        shown.append(f"{address}:{port}")
    return Transport(
        tuple(urls),
        f"rabbit://{','.join(shown)}/{vhost.lstrip('/')}",
        {
            "ssl": _ssl(rabbit),
            "heartbeat": rabbit.heartbeat_timeout_threshold,
            "login_method": rabbit.rabbit_login_method,
        },
        durable=rabbit.amqp_durable_queues or rabbit.rabbit_quorum_queue,
        auto_delete=rabbit.amqp_auto_delete,
        queue_arguments=_queue_arguments(rabbit),
        quorum=rabbit.rabbit_quorum_queue,
    )


def _ssl(rabbit: Any) -> dict[str, Any] | bool:
    """Return kombu's ``ssl`` argument, as oslo_messaging/_drivers/impl_rabbit.py makes it."""
    if not rabbit.ssl:
        return False
    given: dict[str, Any] = {}
    if rabbit.ssl_version:
        version = getattr(ssl, f"PROTOCOL_{rabbit.ssl_version}", None) or {
            "tlsv1": ssl.PROTOCOL_TLSv1,
            "sslv23": ssl.PROTOCOL_TLS_CLIENT,
        }.get(rabbit.ssl_version.lower())
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
        given["cert_reqs"] = ssl.CERT_REQUIRED
        # kombu fills in the name of the broker that it connects to
        given["server_hostname"] = None
    return given or True


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
