"""Publishes an agent's messages with oslo.messaging's notifier, and knows when it could not.

oslo.messaging's own driver logs a failure and swallows it. Ours is the same, but hands the failure
on: the agent must know, since it has to tell all again then.
"""

from __future__ import annotations

import threading
from typing import Any

from oslo_config import cfg
from oslo_messaging.notify import messaging

from bus_cache import conf as configuration
from bus_cache import protocol, rabbit
from bus_cache.agent.state import Message
from bus_cache.conf import ConfigurationError
from bus_cache.conf import messaging as messaging_options
from bus_cache.conf.messaging import oslo_messaging
from bus_cache.conf.text import one_line

DRIVER = "bus_cache"
"""Our driver's entry point in ``oslo.messaging.notify.drivers``."""

RETRIES = 0
"""Tries after the first, within one sending: a broker that was away may have lost what was in its
queue, so what comes next is not the same message but a snapshot."""

OPTIONS: dict[str | None, list[cfg.Opt]] = {
    group: list(messaging_options.OPTIONS[group].values())
    for group in (None, "oslo_messaging_notifications", "oslo_messaging_rabbit")
}
"""Those of oslo.messaging's options that an agent depends on."""

_outcome = threading.local()


class PublishError(Exception):
    """A message was not published, for all that is known; the text says why, on one line."""


class Driver(messaging.MessagingV2Driver):  # type: ignore[misc] # oslo.messaging has no types
    """oslo.messaging's ``messagingv2``, on our exchange; a failure is kept for who sent."""

    def notify(self, ctxt: Any, message: Any, priority: str, retry: int) -> None:
        """Send a message. The notifier calls this in the thread that notifies."""
        try:
            for topic in self.topics:
                target = oslo_messaging.Target(
                    exchange=protocol.EXCHANGE, topic=f"{topic}.{priority.lower()}"
                )
                self.transport._send_notification(
                    target, ctxt, message, version=self.version, retry=retry
                )
            _outcome.failure = ""
        except Exception as error:  # whatever kombu and py-amqp raise
            _outcome.failure = one_line(error)


def is_set(conf: cfg.ConfigOpts, group: str | None, name: str) -> bool:
    """Tell whether an option stands in a file, and does not only have its default."""
    where = conf.get_location(name, group)
    return where is not None and where.location in (cfg.Locations.user, cfg.Locations.environment)


def bus_url(conf: cfg.ConfigOpts) -> str:
    """Return the URL of the bus that agents speak on.

    :raises ConfigurationError: there is none.
    """
    url = conf.agent.transport_url or conf.oslo_messaging_notifications.transport_url
    if not url and is_set(conf, None, "transport_url"):
        url = conf.transport_url
    if not url:
        raise ConfigurationError(
            "transport_url is missing: give the host's nova.conf as a further --config-file."
        )
    return str(url)


def prepare(conf: cfg.ConfigOpts) -> None:
    """Set up the configuration for oslo.messaging: one thread is enough for what is asked.

    :raises ConfigurationError: an option of oslo.messaging's can't be used.
    """
    messaging_options.register(conf)
    for group, options in OPTIONS.items():
        for option in options:
            configuration.value(conf, group, option)
    conf.set_override("executor_thread_pool_size", 1)


class Publisher:
    """Publishes one host's messages. Not for several threads."""

    def __init__(self, conf: cfg.ConfigOpts, host: str) -> None:
        """Take the configuration; nothing is connected yet.

        :raises ConfigurationError: the transport URL can't be used.
        """
        url = bus_url(conf)
        try:
            if url.partition("://")[0].partition("+")[0] not in ("rabbit", "kombu"):
                raise ValueError("not RabbitMQ")
            transport = oslo_messaging.get_notification_transport(conf, url=url)
        except (
            oslo_messaging.InvalidTransportURL,
            oslo_messaging.DriverLoadFailure,
            ValueError,
        ):  # their texts have the password
            raise ConfigurationError(
                "The transport_url can't be used: it has not the form "
                "rabbit://user:password@host:port,.../virtual_host."
            ) from None
        self._transport = rabbit.use_own_connections(transport)
        self._notifier = oslo_messaging.Notifier(
            self._transport,
            publisher_id=protocol.publisher(host),
            driver=DRIVER,
            topics=[protocol.TOPIC],
            retry=RETRIES,
        )

    def send(self, message: Message) -> None:
        """Publish a message; it is in the broker when this returns.

        :raises PublishError: it may not be.
        """
        _outcome.failure = f"oslo.messaging did not find the notification driver {DRIVER}"
        self._notifier.info({}, message.event, message.payload)
        if _outcome.failure:
            raise PublishError(_outcome.failure)

    def close(self) -> None:
        """Leave the bus."""
        self._transport.cleanup()
