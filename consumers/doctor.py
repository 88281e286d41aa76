"""Looks at a set-up from outside for :mod:`consumers.diagnosis`, and changes nothing there.

Each outside system is looked at in a thread of its own, which is left behind where it hangs: what
it saw until then is judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amqp import exceptions as amqp_exceptions
from kombu.connection import Connection
from oslo_config import cfg

from bus_cache import conf as configuration
from bus_cache import connect, names, protocol
from bus_cache.conf import common, image_cache_weigher, messaging, nova, opts
from bus_cache.conf import consumer as consumer_group
from bus_cache.conf.text import one_line
from bus_cache.index.listing import Listing
from bus_cache.index.writer import SchemaError, Unavailable, Writer
from consumers import bus as buses
from consumers import nova_api, reconcile, service, symptoms, tap, transport

PATIENCE = 30.0
"""Seconds for each outside system, beside those for which the buses are listened to."""

BROKER = 3.0
"""Seconds for a connection to a broker, and for each of its answers."""

MOST_HEARD = 20_000
"""Messages that are looked at on each bus: a busy one has more than tell anything new."""

SAMPLE = 5
"""Hosts of which Nova's API is asked for servers."""

_NAME = "bus-cache-doctor"
_CREDENTIALS = {"OS_CLOUD", "OS_AUTH_URL"}


def options(arguments: Sequence[str]) -> tuple[cfg.ConfigOpts | None, symptoms.Options]:
    """Read our configuration as bus-cache-consumer does; None where it can't be used.

    :param arguments: of a command line that names its files.
    """
    try:
        conf = service.load(arguments)
    except configuration.ConfigurationError as error:
        return None, symptoms.Options(trouble=str(error))
    group = conf[consumer_group.GROUP]
    return conf, symptoms.Options(
        unknown=configuration.unknown(conf, opts.CONSUMER_GROUPS),
        topics=group.topics,
        exchanges=group.exchanges,
        pool=group.pool,
    )


def examine(
    conf: cfg.ConfigOpts | None,
    read: symptoms.Options,
    *,
    nova_files: Sequence[str],
    cloud: str,
    seconds: int,
) -> symptoms.Facts:
    """Look at everything that the configuration names.

    :param conf: with what :func:`options` returned beside it.
    :param nova_files: a nova.conf, in one or several files; empty: none.
    :param cloud: in clouds.yaml; empty: ``[consumer] cloud``, then ``OS_*``.
    :param seconds: for which the buses are listened to.
    """
    facts = symptoms.Facts(read, symptoms.Redis(), [])
    parts: dict[str, Callable[[], None]] = {}
    if nova_files:
        facts.nova = nova_conf(nova_files)
    if conf is None:
        return facts
    group = conf[common.GROUP]
    facts.redis_target, facts.keyspace = _target(group.redis_url), group.keyspace
    facts.redis.where = str(connect.parse(group.redis_url))
    parts["redis"] = lambda: _look_at_redis(conf, facts.redis)
    try:
        found = transport.transports(conf)
    except configuration.ConfigurationError as error:
        found, read.bus_trouble = [], str(error)
    facts.ours = [_rabbit(each) for each in found]
    facts.buses = [symptoms.Bus(each.shown, each.identity, seconds=seconds) for each in found]
    topology = buses.Topology.from_conf(conf)
    for each, seen in zip(found, facts.buses, strict=True):
        parts[each.shown] = _looker(each, topology, seen)
    cloud = cloud or conf[consumer_group.GROUP].cloud
    facts.api.asked = bool(cloud or _CREDENTIALS & os.environ.keys())
    if facts.api.asked:
        parts["api"] = lambda: _ask_nova(conf, cloud, facts.api)
    troubles = _within(seconds + PATIENCE, parts)
    facts.redis.trouble = facts.redis.trouble or troubles["redis"]
    facts.api.trouble = facts.api.trouble or troubles.get("api", "")
    for seen in facts.buses:
        seen.trouble = troubles[seen.where]
    if not facts.redis.trouble:
        # once more: a consumer that came meanwhile may have been seen on its bus
        _within(PATIENCE, {"redis": lambda: _look_for_readers(conf, facts.redis)})
    return facts


def _within(seconds: float, parts: Mapping[str, Callable[[], None]]) -> dict[str, str]:
    """Do all parts at once; return what went wrong with each, empty: nothing."""
    troubles = dict.fromkeys(parts, f"no answer within {seconds:.0f} s")

    def do(name: str) -> None:
        try:
            parts[name]()
        except buses.BusError as error:
            troubles[name] = str(error)
        except Exception as error:  # whatever it is, the other parts are worth showing
            troubles[name] = f"{type(error).__name__}: {one_line(error)}"
        else:
            troubles[name] = ""

    threads = [threading.Thread(target=do, args=(name,), daemon=True) for name in parts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(troubles)


# -- Redis -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _redis(conf: cfg.ConfigOpts) -> Any:
    client = configuration.redis_client(conf, client_name=_NAME)
    try:
        yield client, Listing(client, conf[common.GROUP].keyspace, lambda complaint: None)
    finally:
        client.close()


def _look_at_redis(conf: cfg.ConfigOpts, seen: symptoms.Redis) -> None:
    try:
        with _redis(conf) as (client, listing):
            writer = Writer(client, conf[common.GROUP].keyspace)
            writer.check()
            began = time.time()
            server = listing.condition()
            seen.evicts, seen.journal, seen.unsaved = server.evicts, server.journal, server.unsaved
            if server.clock is not None:
                seen.ahead = server.clock / 1000 - (began + time.time()) / 2
            counts = listing.counts()
            seen.by_agent, seen.silent = counts.by_agent, counts.silent
            seen.gaps, seen.full = counts.gaps, counts.full
            _add_readers(listing, seen)
            seen.hosts = frozenset(writer.hosts())
            if counts.schema == names.SCHEMA:  # where it is not, the probe would write it
                seen.refuses = _refusal(writer)
    except SchemaError as error:
        seen.schema_trouble = str(error)
    except (*connect.AWAY, Unavailable) as error:
        seen.trouble = connect.explain(error)


def _refusal(writer: Writer) -> str:
    try:
        writer.probe()
    except Unavailable as error:
        return str(error)
    return ""


def _look_for_readers(conf: cfg.ConfigOpts, seen: symptoms.Redis) -> None:
    with _redis(conf) as (_, listing):
        _add_readers(listing, seen)


def _add_readers(listing: Listing, seen: symptoms.Redis) -> None:
    seen.readers.update({each.name: (each.bus, each.pool) for each in listing.readers()})


# -- a bus -------------------------------------------------------------------------------------


def _looker(
    where: transport.Transport, topology: buses.Topology, seen: symptoms.Bus
) -> Callable[[], None]:
    return lambda: _look_at_bus(where, topology, seen)


def _look_at_bus(where: transport.Transport, topology: buses.Topology, seen: symptoms.Bus) -> None:
    if where.urls[0].startswith("memory:"):
        seen.brokers[where.shown] = "this bus is embedded in one program, and seen by no other"
        return
    usable = None
    for url in where.urls:
        address = url.rpartition("@")[2].partition("/")[0]
        try:
            with buses.errors():
                connection = buses.connect(where, url, _NAME, BROKER)
            connection.release()
            seen.brokers[address] = ""
            usable = usable or url
        except buses.BusError as error:
            seen.brokers[address] = str(error)
    if usable is None:
        return
    where = dataclasses.replace(where, urls=(usable,))
    _look_once(where, topology, seen, declarations=True)
    if set(seen.absent) >= set(topology.exchanges):
        seen.listening = "nothing to listen to"
        time.sleep(seen.seconds)  # two looks tell whether a queue grows
    else:
        _listen(where, topology, seen)
    _look_once(where, topology, seen, declarations=False)


def _look_once(
    where: transport.Transport,
    topology: buses.Topology,
    seen: symptoms.Bus,
    *,
    declarations: bool,
) -> None:
    with buses.errors(), buses.connect(where, where.urls[0], _NAME, BROKER) as connection:
        if declarations:
            _compare_declarations(connection, where, topology, seen)
        found = {name: buses.passive(connection, name) for name in _ours(topology)}
        seen.looks.append(
            {
                name: each and symptoms.Queue(each.message_count, each.consumer_count)
                for name, each in found.items()
            }
        )
        seen.unread.append(buses.unread(connection, topology))


def _ours(topology: buses.Topology) -> list[str]:
    return [*topology.queues, protocol.QUEUE]


def _compare_declarations(
    connection: Connection,
    where: transport.Transport,
    topology: buses.Topology,
    seen: symptoms.Bus,
) -> None:
    """Declare what is there as we would, which changes nothing: the broker tells differences."""
    asked = {"durable": where.durable, "auto_delete": where.auto_delete}
    for name in (*topology.exchanges, protocol.EXCHANGE):
        if tap.is_there(connection, name):
            _declare(connection, seen, name, "exchange", {"type": "topic", **asked})
        elif name != protocol.EXCHANGE:
            seen.absent.append(name)
    for name in _ours(topology):
        own = name == topology.pool
        if buses.passive(connection, name) is not None:
            arguments = buses.pool_arguments(where, topology) if own else where.queue_arguments
            kind = {"durable": True, "auto_delete": False} if own else asked
            _declare(connection, seen, name, "queue", {**kind, "arguments": dict(arguments)})


def _declare(
    connection: Connection, seen: symptoms.Bus, name: str, kind: str, asked: dict[str, Any]
) -> None:
    try:
        with connection.channel() as channel:
            if kind == "queue":
                channel.queue_declare(name, **asked)
            else:
                channel.exchange_declare(name, **asked)
    except amqp_exceptions.PreconditionFailed as error:
        seen.others[name] = one_line(error)
    except amqp_exceptions.ChannelError:  # above all, no right to configure it
        seen.unjudged.append(name)


def _listen(where: transport.Transport, topology: buses.Topology, seen: symptoms.Bus) -> None:
    """Listen for a while: to whatever has a notification's priority, or, with a user who may hear
    no more, to the topics that are configured."""
    wide = dataclasses.replace(topology, topics=("*",))
    sound = symptoms.Sound()
    deadline = time.monotonic() + seen.seconds
    for topics in (wide, topology):
        try:
            with tap.tap([where], topics) as messages:
                seen.refused, seen.sound = "", sound
                heard = 0
                for each in messages:
                    if each is not tap.IDLE and heard < MOST_HEARD:
                        heard += 1
                        sound.hear(each.received, each.exchange, each.routing_key, each.body)
                    if time.monotonic() >= deadline:
                        return
        except buses.BusError as error:
            seen.listening = str(error)
            if seen.sound is not None or "ACCESS_REFUSED" not in str(error):
                return
            seen.refused = str(error)


def _rabbit(where: transport.Transport) -> symptoms.Rabbit:
    declares = {
        "durable": where.durable,
        "amqp_auto_delete": where.auto_delete,
        "rabbit_quorum_queue": where.quorum,
    }
    return symptoms.Rabbit(where.shown, where.brokers, declares)


# -- nova.conf ---------------------------------------------------------------------------------


def nova_conf(files: Sequence[str]) -> symptoms.Nova:
    """Read a nova.conf."""
    seen = symptoms.Nova(", ".join(files))

    def register(conf: cfg.ConfigOpts) -> None:
        messaging.register(conf)
        nova.register(conf, [None, nova.LIBVIRT_GROUP])
        configuration.register(conf, nova.SPEAKING)
        configuration.register(conf, [*opts.WEIGHER_GROUPS, *opts.CONSUMER_GROUPS])

    try:
        conf = configuration.load("nova", [f"--config-file={each}" for each in files], [], register)
        configuration.check(conf, nova.SPEAKING)
        _notifications(conf, seen)
    except configuration.ConfigurationError as error:
        seen.trouble = str(error)
        return seen
    try:
        seen.unknown = configuration.unknown(conf, opts.WEIGHER_GROUPS)
        configuration.check(conf, opts.WEIGHER_GROUPS)
    except configuration.ConfigurationError as error:
        seen.weigher_trouble = str(error)
        return seen
    group = conf[common.GROUP]
    seen.redis, seen.keyspace = _target(group.redis_url), group.keyspace
    seen.time_budget = conf[image_cache_weigher.GROUP].time_budget
    seen.multiplier = conf[image_cache_weigher.GROUP].multiplier
    return seen


def _notifications(conf: cfg.ConfigOpts, seen: symptoms.Nova) -> None:
    section = "oslo_messaging_notifications"
    options = messaging.OPTIONS[section]
    seen.drivers = [each for each in configuration.value(conf, section, options["driver"]) if each]
    seen.topics = configuration.value(conf, section, options["topics"])
    seen.retry = configuration.value(conf, section, options["retry"])
    speaking = conf[nova.NOTIFICATIONS_GROUP]
    seen.format = speaking.notification_format
    seen.versioned_topics = speaking.versioned_notifications_topics
    seen.weight_classes = conf[nova.FILTER_SCHEDULER_GROUP].weight_classes
    seen.images_type = conf[nova.LIBVIRT_GROUP].images_type
    where = conf.get_location("host")
    if where is not None and where.location is cfg.Locations.user:
        seen.host = conf.host
    try:
        seen.rabbit = _rabbit(transport.transports(conf)[0])
    except transport.NoBus:
        seen.rabbit_trouble = "transport_url is missing: to which broker do notifications go?"
    except configuration.ConfigurationError as error:
        seen.rabbit_trouble = str(error)


def _target(redis_url: str) -> str:
    """Return what a URL names, without credentials: the same text for the same place."""
    found = connect.parse(redis_url)
    return str(dataclasses.replace(found, nodes=tuple(sorted(found.nodes))))


# -- Nova's API --------------------------------------------------------------------------------


def _ask_nova(conf: cfg.ConfigOpts, cloud: str, seen: symptoms.Api) -> None:
    try:
        _compare(conf, nova_api.NovaApi(cloud), seen)
    except nova_api.ApiError as error:
        seen.trouble = str(error)
    except (*connect.AWAY, Unavailable, SchemaError):
        seen.trouble = "the index can't be read"


def _compare(conf: cfg.ConfigOpts, api: nova_api.NovaApi, seen: symptoms.Api) -> None:
    now = int((time.time() - reconcile.MARGIN) * 1000)
    services = api.services()
    seen.ironic = api.ironic()
    picture = reconcile.Picture(conf[consumer_group.GROUP].ignore_hosts)
    with _redis(conf) as (client, _):
        writer = Writer(client, conf[common.GROUP].keyspace)
        hosts = [host for host in writer.hosts() if not picture.ignores(host)]
        known = [host for host in hosts if host in services.up]
        sample = random.sample(known, min(SAMPLE, len(known)))
        found = []
        for host in hosts:
            if host not in services.up and host not in services.unknown:
                found += reconcile.compare_unknown(host, writer.usage(host), now)
        for host in sample:
            for page in api.servers(host):
                for server in page:
                    picture.add(server)
            found += reconcile.compare(
                host,
                picture.hosts.get(host, {}),
                writer.usage(host),
                now,
                moving=picture.moving,
                complete=not services.unknown,
            )
    seen.sampled = len(sample)
    for each in found:
        seen.drift[each.kind] += 1
        subject = f" {each.subject}" if each.subject else ""
        seen.examples.append(one_line(f"{each.host}{subject}: {each.indexed}, {each.listed}"))
