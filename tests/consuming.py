"""A consumer in a thread of the test's own process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from bus_cache import connect
from bus_cache.index.writer import Writer
from consumers.bus import Topology
from consumers.consumer import Consumer, Rules
from consumers.transport import Transport
from tests import servers
from tests.program import wait_for

TOPOLOGY = Topology(("notifications", "versioned_notifications"), ("nova", "glance"), "bus_cache")


def rabbit_transport(rabbit: servers.RabbitMQ) -> Transport:
    return Transport((rabbit.amqp_url,), "rabbit", {"heartbeat": 2})


@contextlib.contextmanager
def running(where: Transport, store: servers.Redis, **more: Any) -> Iterator[Consumer]:
    """A consumer in a thread, reading."""
    client = connect.connect(connect.parse(store.url), connect_timeout=2, read_timeout=5)
    consumer = Consumer(where, TOPOLOGY, Writer(client, "bus_cache"), Rules(), **more)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        wait_for(lambda: consumer.counts["connections"])
        yield consumer
    finally:
        consumer.stop()
        thread.join(30)
        assert not thread.is_alive()
