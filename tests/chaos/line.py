"""A publisher's connection: what it sends counts when the broker confirms it.

Each message is published as mandatory: the broker hands back what it routes to no queue. So what
was lost before our queue, because nothing was bound there, is known message by message. Persistent,
as oslo.messaging's are; and, as there, sent again until the broker has confirmed it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable

import amqp

from bus_cache import protocol
from tests.chaos.cloud import Crew, Message
from tests.chaos.truth import Pair
from tests.servers import LOOPBACK, RabbitMQ

WINDOW = 500
"""Messages on their way to the broker at once."""

PATIENCE = 6.0
"""Seconds for the confirmation of one message."""


class Account:
    """What became of what was published.

    :ivar sent: messages that the broker confirmed.
    :ivar relevant: those of them that change the sets.
    :ivar unrouted: those of them that it routed to no queue.
    :ivar kept: what the relevant ones change that it did route.
    """

    def __init__(self) -> None:
        self.sent = self.relevant = self.unrouted = 0
        self.kept: list[tuple[Pair, ...]] = []
        self._lock = threading.Lock()

    def confirmed(self, message: Message, routed: bool) -> None:
        with self._lock:
            self.sent += 1
            self.unrouted += not routed
            if message.about:
                self.relevant += 1
                if routed:
                    self.kept.append(message.about)
        if message.commit is not None:
            message.commit()


class Line(threading.Thread):
    """Publishes what comes up, every tenth of a second, until it is stopped."""

    def __init__(
        self, rabbit: RabbitMQ, make: Callable[[], list[Message]], account: Account, name: str
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._rabbit = rabbit
        self._make = make
        self._account = account
        self._connection: amqp.Connection | None = None
        self._channel: amqp.Channel | None = None
        self._ends = threading.Event()
        self._waiting: dict[int, Message] = {}
        self._returned: set[str] = set()
        self._later: set[int] = set()
        self._held = False
        self._tags = itertools.count(1)
        self.failures = 0

    def run(self) -> None:
        while not self._ends.wait(0.1):
            if not self._held:
                self.publish(self._make())
        self.close()

    def stop(self) -> None:
        """Send what was made, then end."""
        self._ends.set()

    def hold(self) -> None:
        """Make nothing more for now."""
        self._held = True

    def go_on(self) -> None:
        """Make something again."""
        self._held = False

    def publish(self, messages: list[Message]) -> None:
        """Return when the broker has confirmed them all."""
        rest = list(messages)
        while rest:
            try:
                self._send(rest)
                rest = []
            except (OSError, amqp.AMQPError, AttributeError, TimeoutError):
                self.failures += 1
                # what was confirmed is no longer waiting
                unconfirmed = set(map(id, self._waiting.values()))
                rest = [each for each in rest if id(each) in unconfirmed or id(each) in self._later]
                self.close()
                time.sleep(0.2)

    def _send(self, messages: list[Message]) -> None:
        self._later = set(map(id, messages))
        self._waiting.clear()
        self._returned.clear()
        connection, channel = self._open()
        for message in messages:
            tag = next(self._tags)
            self._waiting[tag] = message
            self._later.discard(id(message))
            content = amqp.Message(
                message.body,
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=2,
                message_id=str(tag),
            )
            channel.basic_publish(content, message.exchange, message.key, mandatory=True)
            if len(self._waiting) >= WINDOW:
                self._drain(connection, WINDOW // 2)
        self._drain(connection, 0)

    def _drain(self, connection: amqp.Connection, most: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self._waiting) > most:
            connection.drain_events(timeout=max(0.01, deadline - time.monotonic()))

    def _open(self) -> tuple[amqp.Connection, amqp.Channel]:
        if self._connection is None or self._channel is None:
            self._connection = amqp.Connection(
                f"{LOOPBACK}:{self._rabbit.port}",
                self._rabbit.user,
                self._rabbit.password,
                connect_timeout=5,
                read_timeout=10,
                write_timeout=10,
            )
            self._connection.connect()
            channel = self._channel = self._connection.channel()
            for exchange in ("nova", "glance", protocol.EXCHANGE):
                channel.exchange_declare(exchange, "topic", durable=False, auto_delete=False)
            # as the notifier does; of Nova's own queues nothing is declared here: nobody reads them
            channel.queue_declare(protocol.QUEUE, durable=False, auto_delete=False)
            channel.queue_bind(protocol.QUEUE, protocol.EXCHANGE, protocol.QUEUE)
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_return"].add(self._on_return)
            self._tags = itertools.count(1)
        return self._connection, self._channel

    def close(self) -> None:
        """Leave the broker."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is broken in whatever way
                (connection.collect if self._waiting else connection.close)()

    def _on_return(self, error: object, exchange: str, key: str, message: amqp.Message) -> None:
        self._returned.add(message.properties["message_id"])

    def _on_ack(self, tag: int, multiple: bool) -> None:
        tags = [each for each in self._waiting if each <= tag] if multiple else [tag]
        for each in tags:
            message = self._waiting.pop(each, None)
            if message is not None:
                self._account.confirmed(message, str(each) not in self._returned)
                self._returned.discard(str(each))


class Ears(threading.Thread):
    """Reads what all agents are asked, as their RPC servers would."""

    def __init__(self, rabbit: RabbitMQ, crew: Crew) -> None:
        super().__init__(name="ears", daemon=True)
        self._rabbit = rabbit
        self._crew = crew
        self._ends = threading.Event()
        self.listens = threading.Event()

    def stop(self) -> None:
        self._ends.set()
        self.join()

    def run(self) -> None:
        while not self._ends.is_set():
            with contextlib.suppress(OSError, amqp.AMQPError, AttributeError):
                self._listen()
            self._ends.wait(0.5)

    def _listen(self) -> None:
        with self._rabbit.connect() as connection:
            channel = connection.channel()
            name = channel.queue_declare(exclusive=True).queue
            asked, everybody = protocol.ASK_EXCHANGE, f"{protocol.ASK_TOPIC}_fanout"
            channel.exchange_declare(asked, "topic", durable=False, auto_delete=False)
            channel.exchange_declare(everybody, "fanout", durable=False, auto_delete=True)
            channel.queue_bind(name, asked, f"{protocol.ASK_TOPIC}.#")
            channel.queue_bind(name, everybody)
            channel.basic_consume(name, no_ack=True, callback=self._on_question)
            self.listens.set()
            while not self._ends.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)

    def _on_question(self, message: amqp.Message) -> None:
        said = json.loads(json.loads(message.body)["oslo.message"])
        if said["method"] == "snapshot":
            host = message.delivery_info["routing_key"].removeprefix(f"{protocol.ASK_TOPIC}.")
            self._crew.ask(host, said["args"]["after"], said["args"]["spread"])
