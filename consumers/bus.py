"""One message bus, read with kombu: connection, declarations, our queue, acknowledgement.

One code path for RabbitMQ and for kombu's in-memory transport.
"""

from __future__ import annotations

import bz2
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import kombu.exceptions
from amqp import exceptions as amqp_exceptions
from amqp import serialization
from kombu.connection import Connection
from kombu.entity import Exchange
from oslo_config import cfg
from oslo_log import log as logging

from bus_cache import protocol
from bus_cache.conf import consumer
from bus_cache.conf.text import one_line
from consumers import events, frames
from consumers import transport as transports
from consumers.transport import Transport

LOG = logging.getLogger(__name__)

PRIORITIES = ("info", "error")
"""Nova publishes what a host did on ``<topic>.info`` and what failed on ``<topic>.error``."""

_DROPPED_BYTES = 1024 * 1024

_DEATHS = ("maxlen", "delivery_limit", "expired", "rejected")
"""Why RabbitMQ moves a message from our queue. Whoever may publish can claim anything."""

_BASIC = 60
"""AMQP's class of methods and properties for messages."""

_OPTION_OF_ARGUMENT = {
    "x-max-length-bytes": "[consumer] queue_max_bytes",
    "x-overflow": "[consumer] queue_max_bytes",
    "x-dead-letter-exchange": "this version of bus-cache",
    "x-dead-letter-routing-key": "this version of bus-cache",
    "x-expires": "[consumer] queue_expires",
    "x-queue-type": "[oslo_messaging_rabbit] rabbit_quorum_queue",
    "durable": "[oslo_messaging_rabbit] amqp_durable_queues",
    "auto_delete": "[oslo_messaging_rabbit] amqp_auto_delete",
}


def _tolerate_broken_properties() -> None:
    """Have py-amqp hand out a message whose properties can't be decoded, without properties.

    It decodes them while it reads the frame, so one such message, which any publisher can send,
    would break the connection, come again, and break the next one.
    """
    decode = serialization.PROPERTY_CLASSES[_BASIC]

    @functools.wraps(decode)
    def tolerant(buffer: bytes, offset: int) -> tuple[dict[str, Any], int]:
        try:
            found: tuple[dict[str, Any], int] = decode(buffer, offset)
        except Exception:  # whatever is in them
            return {}, offset
        return found

    if not hasattr(decode, "__wrapped__"):
        serialization.PROPERTY_CLASSES[_BASIC] = tolerant


_tolerate_broken_properties()


class BusError(Exception):
    """The bus can't be used for now; the text says why, on one line and without a password."""


class Delivery(NamedTuple):
    """A message as it came: its raw body, and where it was."""

    body: bytes
    exchange: str
    queue: str


@dataclasses.dataclass(frozen=True)
class Topology:
    """What to read on a bus. ``pool`` empty: the topics' default queues themselves.

    ``max_bytes`` and ``expires`` (seconds) bound our own queue; 0: no bound. ``agents``: read what
    agents say, too.
    """

    topics: tuple[str, ...]
    exchanges: tuple[str, ...]
    pool: str
    max_bytes: int = 0
    expires: int = 0
    prefetch: int = 500
    agents: bool = True

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Topology:
        """Return what ``[consumer]`` says."""
        group = conf[consumer.GROUP]
        return cls(
            tuple(group.topics),
            tuple(group.exchanges),
            group.pool,
            group.queue_max_bytes,
            group.queue_expires,
            group.prefetch,
        )

    @property
    def default_queues(self) -> list[str]:
        """The queues that Nova's and Glance's publishers declare themselves; also the routing
        keys.
        """
        return [f"{topic}.{priority}" for topic in self.topics for priority in PRIORITIES]

    @property
    def queues(self) -> list[str]:
        """The queues that notifications are read from."""
        return [self.pool] if self.pool else self.default_queues

    @property
    def dropped_queue(self) -> str:
        """The queue to which the broker moves what our own queue could not hold; empty: none."""
        return f"{self.pool}.dropped" if self.pool and self.max_bytes else ""


class Bus:
    """A bus and our queues on it.

    Call :meth:`open`, then :meth:`drain` again and again; each delivery goes to ``on_delivery``,
    each message that the broker dropped from our queue to ``on_dropped``. Every method may raise
    :class:`BusError`: then :meth:`close` and, after a while, :meth:`open` again. What was not
    acknowledged comes again.

    :ivar missed: why something that was published before :meth:`open` may not be in our queue;
        empty: all is. For who uses this to reset.
    :ivar restarted: the broker was started anew, or lost its disk, since one of us was here: what
        agents had said may be gone, too. For who uses this to reset.
    :ivar incomplete: an exchange was absent, and :meth:`renew` may find it.
    """

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        on_delivery: Callable[[Delivery], None],
        on_dropped: Callable[[str], None],
    ) -> None:
        """Take what to connect to and what to read; nothing is sent yet.

        ``on_dropped`` is given the broker's reason: ``maxlen`` where our queue was full,
        ``delivery_limit`` where a quorum queue had handed a message out too often.
        """
        self.transport = transport
        self.topology = topology
        self._on_delivery = on_delivery
        self._on_dropped = on_dropped
        urls = list(transport.urls)
        random.shuffle(urls)
        self._urls = itertools.cycle(urls)
        self._connection: Connection | None = None
        self._channel: Any = None
        self._tags: collections.deque[Any] = collections.deque()
        self._consumer_tags: list[str] = []
        self._reads_dropped = False
        self._reads_agents = False
        self._may_read_agents = topology.agents
        self.missed = ""
        self.restarted = False
        self.incomplete = False
        self._known_queues: set[str] = set()
        self._disputed: set[str] = set()
        self._said: dict[str, str] = {}
        self._multiple = False

    def __str__(self) -> str:
        """Return the bus for people: never with a password in it."""
        return self.transport.shown

    @property
    def reads_agents(self) -> bool:
        """Whether what agents say is read, too."""
        return self.consuming and self._reads_agents

    @property
    def consuming(self) -> bool:
        """Whether messages are handed to us now."""
        return self._channel is not None

    def open(self) -> None:
        """Connect to the next broker of the bus and declare and bind what we read."""
        with self._errors():
            self._connection = connect(self.transport, next(self._urls))
            self._multiple = self._connection.transport.driver_type == "amqp"
            self._declare(self._connection)

    def consume(self) -> None:
        """Let the broker hand out messages, at most ``prefetch`` ahead of their acknowledgement."""
        with self._errors():
            assert self._connection is not None
            channel = self._connection.channel()
            channel.auto_decode = False
            channel.basic_qos(0, self.topology.prefetch, False)
            for name in self.topology.queues:
                self._subscribe(channel, name, self._deliver)
            if self._reads_agents:
                self._subscribe_to_agents(channel)
            if self._reads_dropped:
                self._subscribe(channel, self.topology.dropped_queue, self._drop)
            self._channel = channel

    def _subscribe_to_agents(self, channel: Any) -> None:
        try:
            self._subscribe(channel, protocol.QUEUE, self._deliver)
        except amqp_exceptions.AccessRefused as error:
            self._may_read_agents = self._reads_agents = False
            raise BusError(
                f"{one_line(error)}. Going on without what agents say: this user may not read "
                f"{protocol.QUEUE}"
            ) from error

    def drain(self, timeout: float) -> bool:
        """Handle what the broker sends next; False where it sends nothing for ``timeout``
        seconds. 0: handle only what is here already.
        """
        with self._errors():
            assert self._connection is not None
            if not timeout and self._connection.transport_cls is not frames.Transport:
                timeout = 0.001  # py-amqp's own reading spins where 0 finds half a frame
            try:
                self._connection.drain_events(timeout=timeout)
            except TimeoutError:
                return False
            return True

    def heartbeat(self) -> None:
        """Tell the broker that we live, and see whether it does: call about once a second."""
        with self._errors():
            if self._connection is not None and self._connection.supports_heartbeats:
                self._connection.heartbeat_check()

    def acknowledge(self) -> None:
        """Acknowledge all that was delivered so far."""
        if not self._tags:
            return
        with self._errors():
            if self._multiple:
                self._channel.basic_ack(self._tags[-1], multiple=True)
            else:
                for tag in self._tags:
                    self._channel.basic_ack(tag)
            self._tags.clear()

    def cancel(self) -> None:
        """Take no more messages. What the broker sent before is delivered before this returns."""
        with self._errors():
            for tag in self._consumer_tags:
                self._channel.basic_cancel(tag)
            self._consumer_tags.clear()

    def give_back(self) -> None:
        """Stop consuming; what was not acknowledged goes back to the queue, once."""
        channel, self._channel = self._channel, None
        self._tags.clear()
        self._consumer_tags.clear()
        if channel is not None:
            with self._errors():
                if not self._multiple:
                    channel.basic_recover(requeue=True)
                channel.close()

    def renew(self) -> None:
        """Declare and bind again while we do not read, so that our queue does not expire, and is
        there should somebody delete it. While we read, only bind."""
        with self._errors():
            assert self._connection is not None
            (self._bind if self.consuming else self._declare)(self._connection)

    def close(self) -> None:
        """Leave the bus. Never raises; what was not acknowledged goes back to the queue."""
        try:
            self.give_back()
        except BusError:
            pass
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.release()
            except Exception:  # a broken connection may fail in any way, and is gone either way
                LOG.debug("%s: closing the connection failed", self, exc_info=True)

    def waiting(self) -> int:
        """Return how many notifications wait in our queues, not handed to anyone yet."""
        if not self._multiple:
            return 0
        with self._errors():
            assert self._connection is not None
            found = [passive(self._connection, name) for name in self.topology.queues]
        return sum(each.message_count for each in found if each is not None)

    def depths(self) -> dict[str, int]:
        """Return how many messages wait in each queue that we read, not handed to anyone yet."""
        if not self._multiple:
            return {}
        names = [*self.topology.queues, *([protocol.QUEUE] if self._reads_agents else [])]
        with self._errors():
            assert self._connection is not None
            found = {name: passive(self._connection, name) for name in names}
        return {name: each.message_count for name, each in found.items() if each is not None}

    def unread(self) -> dict[str, int]:
        """Return Nova's default queues that nobody reads, with the messages waiting there.

        Empty without a pool: then they are what we read.
        """
        if not self._multiple:
            return {}
        with self._errors():
            assert self._connection is not None
            return unread(self._connection, self.topology)

    # -- declarations ----------------------------------------------------------------------

    def _declare(self, connection: Connection) -> None:
        for name in self.topology.queues:
            self._declare_queue(connection, name)
        self._bind(connection)
        if self.topology.pool and self._multiple:
            self._declare_witness(connection)
        if self._may_read_agents:
            self._declare_agents(connection)

    def _declare_witness(self, connection: Connection) -> None:
        """Find out whether the broker was started anew since one of us was here.

        Nova's exchanges then went, by default, and our queue's bindings with them. Nova's
        publishers declare their exchanges again, so that these tell nothing. An exchange of our
        own, which goes as they do and which nobody else declares, tells that what was published
        before we were back was routed nowhere.
        """
        name = f"{self.topology.pool}.witness"
        durable = self.transport.durable
        try:
            try:
                with connection.channel() as channel:
                    channel.exchange_declare(name, "fanout", passive=True)
            except amqp_exceptions.NotFound:
                with connection.channel() as channel:
                    channel.exchange_declare(name, "fanout", durable=durable, auto_delete=False)
                self.missed = self.missed or "the broker was started anew"
                self.restarted = True
        except amqp_exceptions.ChannelError as error:
            self._say_once(
                "declare witness",
                f"exchange {name} can't be used, so it is not noticed when the broker was started "
                f"anew: {one_line(error)}",
            )

    def _bind(self, connection: Connection) -> None:
        """Have what is published on the exchanges that are there come to our queues."""
        exchanges = [each for each in self.topology.exchanges if self._has(connection, each)]
        self.incomplete = len(exchanges) < len(self.topology.exchanges)
        with connection.channel() as channel:
            for name in self.topology.queues:
                keys = self.topology.default_queues if self.topology.pool else [name]
                for exchange in exchanges:
                    for key in keys:
                        channel.queue_bind(queue=name, exchange=exchange, routing_key=key)

    def _declare_agents(self, connection: Connection) -> None:
        """Declare what agents publish to, as their notifier does; do without where that fails.

        The queue has no bound of its own, since the notifier declares it without one, and would be
        refused where it had: agents fall silent when nobody reads.
        """
        transport = self.transport
        failure = ""
        try:
            self._declare_exchange(connection, protocol.EXCHANGE)
            self._declare_one(
                connection,
                protocol.QUEUE,
                transport.queue_arguments,
                transport.durable,
                transport.auto_delete,
            )
            with connection.channel() as channel:
                channel.queue_bind(
                    queue=protocol.QUEUE,
                    exchange=protocol.EXCHANGE,
                    routing_key=protocol.QUEUE,
                )
        except amqp_exceptions.ChannelError as error:
            failure = one_line(error)
        self._reads_agents = not failure
        if failure:
            self._say_once(
                "declare agents",
                f"queue {protocol.QUEUE} can't be used, so what agents say is not read. Do "
                "[oslo_messaging_rabbit] here and on the computes agree, and may this user "
                f"configure, write and read bus_cache.*? The broker says: {failure}",
            )

    def _has(self, connection: Connection, exchange: str) -> bool:
        """Have an exchange of Nova's or Glance's; False where it is absent, and not ours to
        declare."""
        reason = ""
        try:
            if not self._declare_exchange(connection, exchange):
                reason = "its service declares it otherwise than [oslo_messaging_rabbit] says here"
        except amqp_exceptions.AccessRefused:
            reason = "this user may not declare it"
        if reason:
            self._say_once(
                f"absent {exchange}",
                f"exchange {exchange} is absent, and {reason}: what is published on it is read "
                "when its service has declared it",
            )
            return False
        if self._said.pop(f"absent {exchange}", ""):
            LOG.info("%s: exchange %s is there now", self, exchange)
            self.missed = self.missed or f"exchange {exchange} was not there"
        return True

    def _declare_exchange(self, connection: Connection, name: str) -> bool:
        """Use the exchange as it is; where it is absent, declare it as OpenStack's services
        would. False: not declared, since they are known to do it otherwise.
        """
        exchange = Exchange(
            name, "topic", durable=self.transport.durable, auto_delete=self.transport.auto_delete
        )
        if self._multiple:
            with contextlib.suppress(amqp_exceptions.NotFound):
                with connection.channel() as channel:
                    exchange(channel).declare(passive=True)
                if name != protocol.EXCHANGE:
                    self._compare(connection, exchange)
                return True
        if name in self._disputed:
            return False
        with connection.channel() as channel:
            exchange(channel).declare()
        if self._multiple and name != protocol.EXCHANGE:  # that one is ours
            self._warn_of_absence(name)
        return True

    def _compare(self, connection: Connection, exchange: Exchange) -> None:
        """See whether an exchange that is there is declared as we would; it stays as it is.

        Nova calls its services by the same exchange: were it absent one day, and declared by us in
        another way, Nova would be refused, and no server would boot.
        """
        name, refusal = exchange.name, ""
        try:
            with connection.channel() as channel:
                exchange(channel).declare()
        except amqp_exceptions.PreconditionFailed as error:
            refusal = one_line(error)
        except amqp_exceptions.ChannelError:  # who may not declare it never will
            return
        if not refusal:
            self._disputed.discard(name)
            return
        self._disputed.add(name)
        self._say_once(
            f"compare {name}",
            f"exchange {name} is declared otherwise than [oslo_messaging_rabbit] says here, and is "
            "used as it is: let that group say what it says in nova.conf. While it does not, we "
            "wait for its service where the exchange is absent, and may miss what is published "
            f"meanwhile. The broker says: {refusal}",
        )

    def _warn_of_absence(self, exchange: str) -> None:
        LOG.warning(
            "%s: exchange %s was absent. Declared it, %s as [oslo_messaging_rabbit] says "
            "here: a service that declares it otherwise by its own file will be refused "
            "(406) until this exchange is deleted, so let the two agree. Where that service "
            "publishes elsewhere, correct [consumer] exchanges or the transport URL",
            self,
            exchange,
            "durable" if self.transport.durable else "not durable",
        )

    def _declare_queue(self, connection: Connection, name: str) -> None:
        existed = self._multiple and passive(connection, name) is not None
        if not self.topology.pool:
            if not existed:
                arguments = self.transport.queue_arguments
                self._declare_one(
                    connection,
                    name,
                    arguments,
                    self.transport.durable,
                    self.transport.auto_delete,
                )
            return
        if not existed and name in self._known_queues:
            LOG.warning(
                "%s: our queue %s was deleted, or the broker lost it: what was published since "
                "is lost to us",
                self,
                name,
            )
        if not existed:
            self.missed = "our queue was new"
        if not existed and name not in self._known_queues:
            LOG.info(
                "%s: declaring our queue %s; what was published before is not in it", self, name
            )
        arguments = pool_arguments(self.transport, self.topology)
        if self._multiple and self.topology.dropped_queue:
            self._declare_dropped(connection)
        self._declare_one(connection, name, arguments, True, False)
        self._known_queues.add(name)

    def _declare_dropped(self, connection: Connection) -> None:
        """Declare where the broker tells us of what it dropped; do without it where that fails.

        By an exchange of its own: the default one would need a right with which one can publish to
        every queue of Nova's.
        """
        name = self.topology.dropped_queue
        own = _own_arguments(self.transport, self.topology)
        arguments = {**own, "x-max-length-bytes": _DROPPED_BYTES}
        failure = ""
        try:
            self._declare_one(connection, name, arguments, True, False)
            with connection.channel() as channel:
                channel.exchange_declare(name, "fanout", durable=True, auto_delete=True)
                channel.queue_bind(queue=name, exchange=name)
        except amqp_exceptions.AMQPError as error:
            failure = one_line(error)
        self._reads_dropped = not failure
        if failure:
            self._say_once(
                "declare dropped",
                f"queue {self.topology.dropped_queue} can't be used, so messages that the broker "
                f"drops from our queue will not be noticed: {failure}",
            )

    def _declare_one(
        self,
        connection: Connection,
        name: str,
        arguments: Mapping[str, Any],
        durable: bool,
        auto_delete: bool,
    ) -> None:
        """Declare a queue; where it exists with other properties, say so and use it as it is."""
        refusal = ""
        try:
            with connection.channel() as channel:
                channel.queue_declare(
                    queue=name,
                    durable=durable,
                    auto_delete=auto_delete,
                    exclusive=False,
                    arguments=dict(arguments),
                )
        except amqp_exceptions.PreconditionFailed as error:
            refusal = one_line(error)
        if refusal:
            options = dict(_OPTION_OF_ARGUMENT)
            # ours are durable and stay, whatever Nova's are
            if name in (self.topology.pool, self.topology.dropped_queue):
                options["durable"] = options["auto_delete"] = "this version of bus-cache"
            option = next(
                (o for a, o in options.items() if f"'{a}'" in refusal),
                "the options of [consumer] and [oslo_messaging_rabbit]",
            )
            self._say_once(
                f"declare {name}",
                f"queue {name} exists with other properties than {option} asks for, and is used "
                f"as it is: set {option} as before, or delete the queue, with all that waits in "
                f"it, to have it declared anew (rabbitmqctl delete_queue -p VHOST {name}). The "
                f"broker says: {refusal}",
            )

    def _say_once(self, what: str, text: str) -> None:
        if self._said.get(what) != text:
            self._said[what] = text
            LOG.warning("%s: %s", self, text)

    # -- deliveries ------------------------------------------------------------------------

    def _subscribe(self, channel: Any, queue: str, callback: Callable[[str, Any], None]) -> None:
        tag = f"{self.topology.pool or 'bus_cache'}-{os.getpid()}-{queue}"
        self._consumer_tags.append(tag)
        channel.basic_consume(
            queue=queue,
            no_ack=False,
            consumer_tag=tag,
            callback=functools.partial(callback, queue),
            **({"on_cancel": self._cancelled} if self._multiple else {}),
        )

    def _deliver(self, queue: str, message: Any) -> None:
        """Take a message as py-amqp (RabbitMQ) or kombu (in memory, already unpacked) hands it."""
        self._tags.append(message.delivery_tag)
        exchange = message.delivery_info.get("exchange") or ""
        self._on_delivery(Delivery(body(message), exchange, queue))

    def _drop(self, queue: str, message: Any) -> None:
        self._tags.append(message.delivery_tag)
        headers = message.properties.get("application_headers") or {}
        reason = headers.get("x-first-death-reason", "maxlen")
        self._on_dropped(reason if reason in _DEATHS else "unknown reason")

    def _cancelled(self, consumer_tag: str) -> None:
        raise amqp_exceptions.ConsumerCancelled("the broker took the queue away from us")

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return errors()


_BROKEN = (
    OSError,
    EOFError,
    struct.error,
    amqp_exceptions.AMQPError,
    kombu.exceptions.KombuError,
    AttributeError,  # py-amqp, where the connection is lost while it is in use
)


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn whatever kombu and py-amqp raise about a broken bus into :class:`BusError`."""
    try:
        yield
    except BusError:
        raise
    except _BROKEN as error:
        raise BusError(one_line(error)) from error


class QueueDepth(NamedTuple):
    """How many messages wait in one of our queues, and how many consumers read it; None:
    unknown.
    """

    bus: str
    queue: str
    messages: int | None
    consumers: int | None
    error: str


def queue_depths(conf: cfg.ConfigOpts) -> list[QueueDepth]:
    """Return the depth of the queues that we read, the agents' last, on each configured bus.

    A bus that is away is told in ``error``, after at most some seconds.

    :raises bus_cache.conf.ConfigurationError: no bus is configured, or a wrong one.
    """
    topology = Topology.from_conf(conf)
    found = transports.transports(conf)
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
        rows = pool.map(lambda each: _depths(each, (*topology.queues, protocol.QUEUE)), found)
        return [row for of_one in rows for row in of_one]


def _depths(transport: Transport, queues: Sequence[str]) -> list[QueueDepth]:
    rows: list[QueueDepth] = []
    for url in transport.urls:
        rows = []
        try:
            with connect(transport, url, name="bus-cache", seconds=3) as connection:
                for name in queues:
                    found = passive(connection, name)
                    if found is None:
                        rows.append(QueueDepth(transport.shown, name, None, None, "no such queue"))
                    else:
                        counts = (found.message_count, found.consumer_count)
                        rows.append(QueueDepth(transport.shown, name, *counts, ""))
                return rows
        except _BROKEN as error:
            rows = [
                QueueDepth(transport.shown, name, None, None, one_line(error)) for name in queues
            ]
    return rows


def connect(
    transport: Transport, url: str, name: str = "bus-cache-consumer", seconds: float = 15
) -> Connection:
    """Return an open connection to one broker of a bus.

    :param name: what the broker shows of whose it is.
    :param seconds: for the connection (5 at the most), and for each of the broker's answers: one
        that accepts and never answers must not hold us for ever.

    A connection of its own for each try: kombu keeps the first broker's name for checking the
    certificates of all others.
    """
    options = dict(transport.options)
    if isinstance(options.get("ssl"), dict):
        options["ssl"] = dict(options["ssl"])
    if url.startswith("memory:"):
        options["transport_options"] = {"polling_interval": 0.01}
    else:
        options["connect_timeout"] = min(5, seconds)
        options["transport_options"] = {
            "read_timeout": seconds,
            "write_timeout": seconds,
            "client_properties": {
                "connection_name": f"{name}:{os.getpid()}",
                "capabilities": {
                    "authentication_failure_close": True,
                    "connection.blocked": True,
                    "consumer_cancel_notify": True,
                },
            },
        }
    connection = Connection(url, **options)
    if not url.startswith("memory:"):
        connection.transport_cls = frames.transport() or connection.transport_cls
    try:
        connection.ensure_connection(
            max_retries=1, interval_start=0, interval_step=0, reraise_as_library_errors=False
        )
    except Exception:
        connection.release()
        raise
    return connection


def pool_arguments(transport: Transport, topology: Topology) -> dict[str, Any]:
    """Return what our own queue is declared with; it is durable, too."""
    arguments = _own_arguments(transport, topology)
    if topology.max_bytes:
        arguments["x-max-length-bytes"] = topology.max_bytes
        arguments["x-overflow"] = "drop-head"
        arguments["x-dead-letter-exchange"] = topology.dropped_queue
    return arguments


def _own_arguments(transport: Transport, topology: Topology) -> dict[str, Any]:
    """Return what all queues of ours are declared with."""
    arguments: dict[str, Any] = {}
    if transport.quorum:
        arguments["x-queue-type"] = "quorum"
    if topology.expires:
        arguments["x-expires"] = topology.expires * 1000
    return arguments


def unread(connection: Connection, topology: Topology) -> dict[str, int]:
    """Return Nova's default queues that nobody reads, with the messages waiting there.

    Empty without a pool: then they are what we read.
    """
    waiting = {}
    for name in topology.default_queues if topology.pool else ():
        found = None
        # on a broker of the cluster that is down: others' business, no reason to stop reading ours
        with contextlib.suppress(amqp_exceptions.NotFound):
            found = passive(connection, name)
        if found is not None and found.consumer_count == 0 and found.message_count:
            waiting[name] = found.message_count
    return waiting


def passive(connection: Connection, queue: str) -> Any:
    """Return (queue, message_count, consumer_count) of a queue as it is, or None where there's
    none."""
    try:
        with connection.channel() as channel:
            return channel.queue_declare(queue=queue, passive=True)
    except (amqp_exceptions.NotFound, kombu.exceptions.ChannelError) as error:
        if "home node" in str(error):  # it is there, on a broker of the cluster that is down
            raise
        return None


def body(message: Any) -> bytes:
    """Return a message's body, unpacked, of one as py-amqp or kombu's in-memory transport has
    it.
    """
    found = message.body
    if isinstance(found, str):  # kombu, which unpacked it
        return found.encode("utf-8", "surrogateescape")
    headers = message.properties.get("application_headers")
    if headers and "compression" in headers:
        return _decompress(found, headers["compression"])
    return bytes(found)


def _decompress(body: bytes, compression: object) -> bytes:
    """Undo ``[oslo_messaging_rabbit] kombu_compression``, up to what the decoder takes.

    What can't be undone is left for the decoder to refuse.
    """
    most = events.MOST_BYTES + 1
    try:
        if compression == "application/x-gzip":  # kombu says gzip and means zlib
            return zlib.decompressobj().decompress(body, most)
        if compression == "application/x-bz2":
            return bz2.BZ2Decompressor().decompress(body, most)
    except (zlib.error, OSError, EOFError):
        return b"compressed, and can't be unpacked"
    return b"compressed in an unknown way"
