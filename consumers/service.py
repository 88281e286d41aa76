"""``bus-cache-consumer``: the program. Reads configuration, then one consumer per bus until
SIGTERM.

Under cotyledon: SIGTERM drains and ends with 0, SIGHUP reads mutable options again, a
process that dies is started again.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cotyledon
from oslo_config import cfg
from oslo_log import log as logging

import bus_cache
from bus_cache import conf as configuration
from bus_cache import connect
from bus_cache.conf import common, log, messaging, nova, opts
from bus_cache.conf import consumer as consumer_group
from bus_cache.conf.types import address
from bus_cache.index.writer import SchemaError, Unavailable, Writer
from consumers import ageing, health, transport
from consumers.agents import Agents, Times
from consumers.asking import Asker
from consumers.bus import Topology
from consumers.consumer import Consumer, Rules
from consumers.nova_api import NovaApi
from consumers.reconcile import Reconciler
from consumers.shown import Shown
from consumers.sweep import Sweep

LOG = logging.getLogger(__name__)

PROGRAM = "bus-cache-consumer"

_CHECK = cfg.BoolOpt(
    "check-config",
    default=False,
    help="Read and check the configuration, say what it means, and end: with 1 where something in "
    "it can't be used or is unknown. Nothing is connected to.",
)

GRACE = 5
"""Seconds after SIGTERM in which what is in hand may be written and acknowledged; what is not comes
again. A broker or a Redis that hangs is not waited for any longer."""


def load(arguments: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """Read and check the configuration; :class:`~bus_cache.conf.ConfigurationError` where it is
    wrong."""

    def register(conf: cfg.ConfigOpts) -> None:
        logging.register_options(conf)
        messaging.register(conf)
        nova.register(conf, [nova.IMAGE_CACHE_GROUP])
        conf.register_cli_opt(_CHECK)

    conf = configuration.load(PROGRAM, arguments, opts.CONSUMER_GROUPS, register)
    nova.check(conf, [nova.IMAGE_CACHE_GROUP])
    return conf


def rules(conf: cfg.ConfigOpts) -> Rules:
    """Return what ``[consumer]`` says about evidence."""
    group = conf[consumer_group.GROUP]
    return Rules(group.ignore_hosts, group.live_migration_evidence)


def times(conf: cfg.ConfigOpts) -> Times:
    """Return what ``[consumer]`` says about agents."""
    group = conf[consumer_group.GROUP]
    return Times(group.gap_grace, group.agent_timeout, group.host_timeout)


def ageing_policy(conf: cfg.ConfigOpts) -> ageing.Policy:
    """Return by what rule the computes remove images, as ``[image_cache]`` of their nova.conf has
    it."""
    group = conf[nova.IMAGE_CACHE_GROUP]
    return ageing.Policy.of(
        group.manager_interval,
        group.remove_unused_base_images,
        group.remove_unused_original_minimum_age_seconds,
    )


def writer(conf: cfg.ConfigOpts, **options: Any) -> Writer:
    """Return what writes the configured keyspace, with options of :class:`Writer`; it connects at
    the first need."""
    connect_to_redis = functools.partial(configuration.redis_client, conf, client_name=PROGRAM)
    return Writer(connect_to_redis, conf[common.GROUP].keyspace, **options)


def consumers(conf: cfg.ConfigOpts, on_loss: Callable[[str], None] | None = None) -> list[Consumer]:
    """Return a consumer for each configured bus, not yet running.

    :param on_loss: is told why the index may lack something.
    """
    topology = Topology.from_conf(conf)
    found: list[Consumer] = []

    def all_caught_up() -> bool:
        return all(each.caught_up for each in found)

    for each in transport.transports(conf):
        agents = Agents(Asker(conf, each), times(conf))
        found.append(
            Consumer(
                each,
                topology,
                writer(conf, bus=each.identity, on_switch=agents.switched),
                rules(conf),
                agents=agents,
                sweep=Sweep(ageing_policy(conf)),
                may_sweep=all_caught_up,
                on_loss=on_loss,
            )
        )
    return found


def reconciler(conf: cfg.ConfigOpts) -> Reconciler | None:
    """Return what compares the index with Nova's API, not yet running; None without
    credentials."""
    group = conf[consumer_group.GROUP]
    if not group.cloud:
        return None
    return Reconciler(
        functools.partial(NovaApi, group.cloud),
        writer(conf),
        interval=group.reconcile_interval,
        ignore_hosts=lambda: conf[consumer_group.GROUP].ignore_hosts,
    )


def shown(
    conf: cfg.ConfigOpts, running: Sequence[Consumer], reconciler: Reconciler | None
) -> Shown | None:
    """Return what shows the consumers over HTTP, not yet listening; None where it is switched
    off."""
    listen = conf[consumer_group.GROUP].http_listen
    if not listen:
        return None
    client = functools.partial(configuration.redis_client, conf, client_name=PROGRAM)
    return Shown(address(listen), running, reconciler, client, conf[common.GROUP].keyspace)


class ConsumerService(cotyledon.Service):
    """The consumers of all buses, each in a thread of one process."""

    name = PROGRAM

    def __init__(
        self,
        worker_id: Any,
        conf: cfg.ConfigOpts,
        arguments: Sequence[str] | None,
        systemd: str = "",
    ) -> None:
        """Take the configuration, the command line that it was read from, and systemd's socket.

        Called in the process that will run. Where that one takes the place of another that died,
        the files may have changed since the program was started.
        """
        super().__init__(worker_id)
        self._arguments = arguments
        self._conf = self._read() or conf
        self._reconciler = reconciler(self._conf)
        on_loss = None if self._reconciler is None else self._lost
        self._consumers = consumers(self._conf, on_loss)
        self._shown = shown(self._conf, self._consumers, self._reconciler)
        self._systemd = health.Systemd(systemd, self._consumers)
        programs: list[Consumer | Reconciler] = [*self._consumers]
        if self._reconciler is not None:
            programs.append(self._reconciler)
        self._threads = [
            threading.Thread(target=self._run_one, args=(each,), name=f"part-{i}", daemon=True)
            for i, each in enumerate(programs)
        ]

    def run(self) -> None:
        """Start reading."""
        for thread in self._threads:
            thread.start()
        self._systemd.start()
        if self._shown is not None:
            self._shown.start()

    def _lost(self, reason: str) -> None:
        assert self._reconciler is not None
        # each bus tells of a new keyspace, and each consumer does
        self._reconciler.request(reason, once=reason == "the keyspace was new")

    def _run_one(self, part: Consumer | Reconciler) -> None:
        try:
            part.run()
        except BaseException:
            LOG.exception(
                "a part of this program failed in a way that it does not know; starting anew"
            )
            # the parent starts another process: nothing is lost, what is unacknowledged comes again
            os._exit(os.EX_SOFTWARE)

    def terminate(self) -> None:
        """Write and acknowledge what is in hand, then end."""
        self._systemd.stop()
        for consumer in self._consumers:
            consumer.stop()
        if self._reconciler is not None:
            self._reconciler.stop()
        if self._shown is not None:
            self._shown.stop()
        deadline = time.monotonic() + GRACE
        for thread in self._threads[: len(self._consumers)]:  # what waits for an API may be left
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def reload(self) -> None:
        """Go on with the mutable options as the files have them; where one is wrong, as before."""
        if self._read() is None:
            return
        self._conf.mutate_config_files()
        LOG.info("configuration read again")
        for consumer in self._consumers:
            consumer.use(rules(self._conf))

    def _read(self) -> cfg.ConfigOpts | None:
        failure = ""
        try:
            conf = load(self._arguments)
            transport.transports(conf)
            return conf
        except configuration.ConfigurationError as error:
            failure = str(error)
        LOG.error("Going on with the configuration as it was: %s", failure)
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 0 after SIGTERM, 1 where it can't start."""
    try:
        conf = load(arguments)
        if conf.check_config:  # makes no file, which would be root's where root checks
            conf.set_override("log_file", None)
            conf.set_override("log_dir", None)
        log.set_up(conf, PROGRAM)
        buses = transport.transports(conf)
        unknown = configuration.unknown(conf, opts.CONSUMER_GROUPS)
        if conf.check_config:
            return check(conf, buses, unknown)
        refuse_other_schema(conf)
    except (configuration.ConfigurationError, SchemaError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    for each in unknown:
        LOG.warning("%s", each)
    LOG.info(
        "bus-cache %s: %s -> %s, keyspace %s",
        bus_cache.__version__,
        ", ".join(each.shown for each in buses),
        connect.parse(conf[common.GROUP].redis_url),
        conf[common.GROUP].keyspace,
    )
    policy = ageing_policy(conf)
    LOG.info(
        "where no agent reports, an image %s",
        f"counts as removed {policy.wait / 1000:.0f} s after its last use ([image_cache])"
        if policy.enabled
        else "is never removed by Nova ([image_cache])",
    )
    conf.log_opt_values(LOG, logging.DEBUG)
    if sys.stderr is not None:
        faulthandler.enable()  # at SIGABRT, which systemd's watchdog sends, each thread's place
    systemd = os.environ.get("NOTIFY_SOCKET", "")  # cotyledon takes it away when it has used it
    manager = cotyledon.ServiceManager(graceful_shutdown_timeout=2 * GRACE)
    manager.add(ConsumerService, workers=1, args=(conf, arguments, systemd))
    manager.run()
    return 0


def check(
    conf: cfg.ConfigOpts, buses: Sequence[transport.Transport], unknown: Sequence[str]
) -> int:
    """Print what the configuration means, and what in it is unknown; returns the exit code."""
    for each in buses:
        print(f"reads {each.shown}")
    redis, keyspace = connect.parse(conf[common.GROUP].redis_url), conf[common.GROUP].keyspace
    print(f"writes {redis}, keyspace {keyspace}")
    print(f"listens on {conf[consumer_group.GROUP].http_listen or 'no port'}")
    for line in unknown:
        print(f"{PROGRAM}: {line}", file=sys.stderr)
    return 1 if unknown else 0


def refuse_other_schema(conf: cfg.ConfigOpts) -> None:
    """Raise :class:`SchemaError` where Redis answers that another version's keys are there."""
    try:
        writer(conf).check()
    except Unavailable:
        LOG.debug("Redis is away; it is waited for")
