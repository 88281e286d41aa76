"""oslo.messaging's connection to RabbitMQ, where it asks for too much or checks too little."""

from __future__ import annotations

import contextlib
import logging
import ssl
import urllib.parse
from typing import Any

from kombu.entity import Exchange
from oslo_config import cfg
from oslo_messaging import exceptions
from oslo_messaging._drivers import amqp as oslo_amqp
from oslo_messaging._drivers import impl_rabbit

from bus_cache.conf.messaging import oslo_messaging

LOG = logging.getLogger(__name__)


class Connection(impl_rabbit.Connection):  # type: ignore[misc] # oslo.messaging has no types
    """A connection that publishes to what consumers have declared, and knows whom it talks to.

    oslo.messaging's own declares exchange and queue, and binds them, before it publishes: for that
    it needs rights with which one can read what every agent says, or delete its queue. With TLS it
    looks for the broker's name in its certificate only where ``ssl_ca_file`` is set. And a '/' in a
    password has it cut its own URL in two, and log the half.
    """

    def notify_send(
        self, exchange_name: str, topic: str, msg: Any, retry: int | None = None, **_: Any
    ) -> None:
        """Publish a message to a queue that is there; where it is absent, declare it as
        oslo.messaging does, which only works for a user who may.
        """
        try:
            self._publish_to_what_is_there(exchange_name, topic, msg, retry)
        except (oslo_amqp.AMQPDestinationNotFound, exceptions.MessageUndeliverable):
            LOG.debug("no consumer has declared the queue %s; declaring it", topic)
            self._renew()
            try:
                super().notify_send(exchange_name, topic, msg, retry=retry)
            except exceptions.MessageDeliveryFailure as error:
                self._renew()
                if "ACCESS_REFUSED" not in str(error):
                    raise
                raise exceptions.MessageDeliveryFailure(
                    f"the queue {topic} is not there yet: a consumer declares it at its start"
                ) from error
        except exceptions.MessageDeliveryFailure:
            self._renew()
            raise

    def _publish_to_what_is_there(
        self, exchange: str, topic: str, msg: Any, retry: int | None
    ) -> None:
        self._ensure_publishing(
            self._publish_and_raises_on_missing_exchange,
            Exchange(exchange, "topic", passive=True),
            msg,
            routing_key=topic,
            retry=retry,
            transport_options=oslo_messaging.TransportOptions(at_least_once=True),
        )

    def _renew(self) -> None:
        """Go on with another channel: the broker closed ours, or has something left to say on it.

        oslo.messaging would take a closed one again and again where it may not retry.
        """
        with self._connection_lock:
            self._set_current_channel(None)
            if self.connection.connected:
                self._set_current_channel(self.connection.channel())

    def _fetch_ssl_params(self) -> Any:
        given = super()._fetch_ssl_params()
        if given is False:
            return False
        # kombu fills in the name of the broker that it connects to
        verified = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
        return verified if given is True else {**verified, **given}

    def _transform_transport_url(self, url: Any, host: Any, *args: Any, **options: Any) -> str:
        made: str = super()._transform_transport_url(url, host, *args, **options)
        for each in (host.username, host.password):
            if each and "/" in each:
                made = made.replace(urllib.parse.quote(each), urllib.parse.quote(each, safe=""))
        return made


def use_own_connections(transport: Any) -> Any:
    """Have one of oslo.messaging's transports connect by :class:`Connection`, and return it.

    Where it is not RabbitMQ's, it stays as it is. Who is asked with all others reads a queue of
    its own, not a stream: a stream has the exchange's name, so who may bind it could publish, too.
    """
    if isinstance(transport._driver, impl_rabbit.RabbitDriver):
        transport._driver._connection_pool.connection_cls = Connection
        with contextlib.suppress(cfg.NoSuchOptError):  # came with oslo.messaging 14.5
            transport.conf.set_override(
                "rabbit_stream_fanout", False, group="oslo_messaging_rabbit"
            )
    return transport
