"""Plays recorded messages into an index, by the consumer itself on an embedded bus."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable

from kombu.connection import Connection

from bus_cache import protocol
from bus_cache.index.writer import Unavailable, Writer
from consumers.agents import Agents, Times
from consumers.bus import Topology
from consumers.consumer import Consumer, Rules
from consumers.recording import Recorded
from consumers.transport import Transport

_TOLD = ("received", "irrelevant", "malformed", "applied", "refused")
_AHEAD = 1000
"""Messages on the embedded bus that the consumer has not taken yet: it has no bound of its own."""

PATIENCE = 30.0
"""Seconds without progress after which it is given up."""


def replay(messages: Iterable[Recorded], writer: Writer) -> list[tuple[str, int]]:
    """Have a consumer read messages and write what they say; return its counts, by name.

    :raises consumers.recording.Unreadable: from ``messages``; what came before it is written.
    :raises Unavailable: Redis is away, or refuses to write.
    """
    rest = iter(messages)
    first = list(
        itertools.islice(rest, 1)
    )  # what is none at all is told before anything is written
    writer.probe()
    topology = Topology(("notifications", "versioned_notifications"), ("nova", "glance"), "replay")
    where = Transport(("memory://",), "the recording", {})
    consumer = Consumer(where, topology, writer, Rules(), agents=Agents(None, Times()))
    thread = threading.Thread(target=consumer.run)
    thread.start()
    sent = 0
    try:
        _wait(consumer, "connections", 1)
        with Connection("memory://") as connection, connection.channel() as channel:
            for message in itertools.chain(first, rest):
                exchange, key = _routed(message)
                body = channel.prepare_message(
                    message.body, content_type="application/json", content_encoding="binary"
                )
                channel.basic_publish(body, exchange=exchange, routing_key=key)
                sent += 1
                if sent % 100 == 0:
                    _wait(consumer, "received", sent - _AHEAD)
            _wait(consumer, "received", sent)
    finally:
        consumer.stop()
        thread.join()
    if reason := consumer.waits_for.get("redis"):
        raise Unavailable(reason)
    return [(name, consumer.counts[name]) for name in _TOLD]


def _routed(message: Recorded) -> tuple[str, str]:
    """Return exchange and routing key on the embedded bus; a cloud may have names of its own."""
    if message.exchange == protocol.EXCHANGE:
        return protocol.EXCHANGE, protocol.QUEUE
    return ("glance" if message.exchange == "glance" else "nova"), "notifications.info"


def _wait(consumer: Consumer, count: str, least: int) -> None:
    """Wait until one of the consumer's counts is so high.

    :raises Unavailable: it does not come any further, as when Redis is away.
    """
    before, since = -1, time.monotonic()
    while (now := consumer.counts[count]) < least:
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise Unavailable(f"nothing was written for {PATIENCE:.0f} s")
        time.sleep(0.005)
