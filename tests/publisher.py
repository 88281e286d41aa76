"""Publishes notifications as OpenStack's services do: with oslo.messaging's notifier and driver."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import oslo_messaging
import oslo_messaging.opts
from oslo_config import cfg

DATA = Path(__file__).parent / "data"


def recorded(name: str = "nova-34-both") -> list[dict[str, Any]]:
    """Return recorded messages of a real Nova and Glance: exchange, routing_key, body, op, ..."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def of_format(messages: Iterable[dict[str, Any]], form: str) -> Iterator[dict[str, Any]]:
    """Yield the messages that a cloud with this ``notification_format`` would send."""
    for message in messages:
        versioned = message["routing_key"].startswith("versioned_")
        if form == "both" or message["exchange"] != "nova" or versioned == (form == "versioned"):
            yield message


def content(message: dict[str, Any]) -> dict[str, Any]:
    """Return what is inside a recorded message's envelope."""
    inner: dict[str, Any] = json.loads(json.loads(message["body"])["oslo.message"])
    return inner


class Publisher:
    """The notifiers of one cloud's services, on one bus.

    :param options: of ``[oslo_messaging_rabbit]``, as in the services' configuration.
    :param driver: ``messagingv2`` (with an envelope) or ``messaging``.
    """

    def __init__(self, url: str, driver: str = "messagingv2", **options: Any) -> None:
        self._url = url
        self._driver = driver
        self._options = options
        self._notifiers: dict[tuple[str, str], oslo_messaging.Notifier] = {}
        self._transports: list[Any] = []

    def _notifier(self, exchange: str, topic: str) -> oslo_messaging.Notifier:
        if (exchange, topic) not in self._notifiers:
            conf = cfg.ConfigOpts()
            for group, opts in oslo_messaging.opts.list_opts():
                conf.register_opts(opts, group=group)
            conf([], default_config_files=[])
            conf.set_override("control_exchange", exchange)
            for name, value in self._options.items():
                conf.set_override(name, value, group="oslo_messaging_rabbit")
            transport = oslo_messaging.get_notification_transport(conf, url=self._url)
            self._transports.append(transport)
            self._notifiers[exchange, topic] = oslo_messaging.Notifier(
                transport, driver=self._driver, topics=[topic], retry=10
            )
        return self._notifiers[exchange, topic]

    def send(
        self, publisher_id: str, event_type: str, payload: dict[str, Any], **where: str
    ) -> None:
        """Publish one notification; ``exchange``, ``topic`` and ``priority`` as named."""
        exchange, topic = where.get("exchange", "nova"), where.get("topic", "notifications")
        notifier = self._notifier(exchange, topic).prepare(publisher_id=publisher_id)
        getattr(notifier, where.get("priority", "info"))({}, event_type, payload)

    def replay(self, messages: Iterable[dict[str, Any]]) -> int:
        """Publish recorded messages again, in their order; returns how many."""
        count = 0
        for message in messages:
            said = content(message)
            topic, _, priority = message["routing_key"].rpartition(".")
            self.send(
                said["publisher_id"],
                said["event_type"],
                said["payload"],
                exchange=message["exchange"],
                topic=topic,
                priority=priority,
            )
            count += 1
        return count

    def created(self, host: str, image: str, **where: str) -> None:
        """Publish that a server of an image was built on a host."""
        self.send(
            f"compute.{host}",
            "compute.instance.create.end",
            {"host": host, "node": host, "image_ref_url": f"http://glance/images/{image}"},
            **where,
        )

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports:
            transport.cleanup()
