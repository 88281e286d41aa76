"""What is on the buses now, by queues of our own that nobody else reads and that go with us."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from amqp import exceptions as amqp_exceptions
from kombu.connection import Connection

from bus_cache import protocol
from consumers import bus
from consumers.recording import Recorded
from consumers.transport import Transport

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of such a queue, the oldest dropped first: who records slowly must not fill the broker."""

PREFETCH = 500

NAME = "bus-cache-record"
"""What the broker shows of whose connection it is."""


@contextlib.contextmanager
def tap(transports: Sequence[Transport], topology: bus.Topology) -> Iterator[Iterator[Recorded]]:
    """Yield what comes from now on: an endless iterator, with an empty :class:`Recorded` about
    five times a second so that who iterates can stop.

    What the consumers read comes to them all the same: exchanges hand out copies.

    :raises consumers.bus.BusError: a bus can't be used, or there is nothing to listen to.
    """
    with contextlib.ExitStack() as stack:
        found: list[Recorded] = []
        connections = [stack.enter_context(_tapped(each, topology, found)) for each in transports]
        yield _messages(connections, found)


IDLE = Recorded(0, "", "", b"")
"""Nothing came for a while."""


def _messages(connections: Sequence[Connection], found: list[Recorded]) -> Iterator[Recorded]:
    checked = 0.0
    while True:
        for connection in connections:
            with bus.errors():
                _drain(connection, found)
        if not found:  # then wait for one of them
            with bus.errors(), contextlib.suppress(TimeoutError):
                connections[0].drain_events(timeout=0.2 if len(connections) == 1 else 0.02)
        yield from found
        found.clear()
        now = time.monotonic()
        if now - checked >= 1:
            checked = now
            for connection in connections:
                with bus.errors():
                    connection.heartbeat_check()
        yield IDLE


def _drain(connection: Connection, found: list[Recorded]) -> None:
    """Take what is here, as much as is handed on at once."""
    with contextlib.suppress(TimeoutError):
        while len(found) < PREFETCH:
            connection.drain_events(timeout=0.0005)


@contextlib.contextmanager
def _tapped(
    transport: Transport, topology: bus.Topology, found: list[Recorded]
) -> Iterator[Connection]:
    with bus.errors():
        connection = _connect(transport)
    with connection:
        with bus.errors():
            _listen(connection, transport, topology, found)
        yield connection


def _listen(
    connection: Connection, transport: Transport, topology: bus.Topology, found: list[Recorded]
) -> None:
    channel: Any = connection.channel()
    channel.auto_decode = False
    queue = f"{topology.pool or 'bus_cache'}.record.{secrets.token_hex(4)}"
    channel.queue_declare(
        queue,
        exclusive=True,
        auto_delete=True,
        arguments={"x-max-length-bytes": MOST_BYTES, "x-overflow": "drop-head"},
    )
    keys = dict.fromkeys(topology.exchanges, topology.default_queues)
    keys[protocol.EXCHANGE] = [protocol.QUEUE]
    there = [each for each in keys if is_there(connection, each)]
    if not there:
        raise bus.BusError(f"{transport.shown} has none of the exchanges {', '.join(keys)}")
    for exchange in there:
        for key in keys[exchange]:
            channel.queue_bind(queue=queue, exchange=exchange, routing_key=key)

    def keep(message: Any) -> None:
        info = message.delivery_info
        found.append(
            Recorded(
                int(time.time() * 1000),
                info.get("exchange") or "",
                info.get("routing_key") or "",
                bus.body(message),
            )
        )

    channel.basic_qos(0, PREFETCH, False)
    channel.basic_consume(queue, no_ack=True, callback=keep)


def _connect(transport: Transport) -> Connection:
    """Return a connection to the first of a bus' brokers that takes one."""
    for url in transport.urls[:-1]:
        with contextlib.suppress(bus.BusError), bus.errors():
            return bus.connect(transport, url, NAME)
    return bus.connect(transport, transport.urls[-1], NAME)


def is_there(connection: Connection, exchange: str) -> bool:
    """Tell whether there is such an exchange: what is absent must be declared by its owner."""
    try:
        with connection.channel() as channel:
            channel.exchange_declare(exchange, "topic", passive=True)
    except amqp_exceptions.NotFound:
        return False
    return True
