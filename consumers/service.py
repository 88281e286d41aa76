"""``bus-cache-consumer``: the program. Reads configuration, then one consumer per bus until
SIGTERM.

Under cotyledon: SIGTERM drains and ends with 0, SIGHUP reads mutable options again, a
process that dies is started again.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import cotyledon
from oslo_config import cfg
from oslo_log import log as logging

import bus_cache
from bus_cache import conf as configuration
from bus_cache import connect
from bus_cache.conf import common, opts
from bus_cache.conf import consumer as consumer_group
from bus_cache.index.writer import SchemaError, Unavailable, Writer
from consumers import transport
from consumers.bus import Topology
from consumers.consumer import Consumer, Rules

LOG = logging.getLogger(__name__)

PROGRAM = "bus-cache-consumer"

GRACE = 30
"""Seconds in which what is in hand must be written at SIGTERM; what is not comes again."""


def load(arguments: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """Read and check the configuration; :class:`~bus_cache.conf.ConfigurationError` where it is
    wrong."""

    def register(conf: cfg.ConfigOpts) -> None:
        logging.register_options(conf)
        transport.register(conf)

    return configuration.load(PROGRAM, arguments, opts.CONSUMER_GROUPS, register)


def rules(conf: cfg.ConfigOpts) -> Rules:
    """Return what ``[consumer]`` says about evidence."""
    group = conf[consumer_group.GROUP]
    return Rules(group.ignore_hosts, group.live_migration_evidence)


def consumers(conf: cfg.ConfigOpts) -> list[Consumer]:
    """Return a consumer for each configured bus, not yet running."""
    topology = Topology.from_conf(conf)
    keyspace = conf[common.GROUP].keyspace
    return [
        Consumer(
            each,
            topology,
            Writer(
                functools.partial(configuration.redis_client, conf, client_name=PROGRAM), keyspace
            ),
            rules(conf),
        )
        for each in transport.transports(conf)
    ]


class ConsumerService(cotyledon.Service):
    """The consumers of all buses, each in a thread of one process."""

    name = PROGRAM

    def __init__(
        self, worker_id: Any, conf: cfg.ConfigOpts, arguments: Sequence[str] | None
    ) -> None:
        """Take the configuration and the command line that it was read from.

        Called in the process that will run. Where that one takes the place of another that died,
        the files may have changed since the program was started.
        """
        super().__init__(worker_id)
        self._arguments = arguments
        self._conf = self._read() or conf
        self._consumers = consumers(self._conf)
        self._threads = [
            threading.Thread(target=self._run_one, args=(each,), name=f"bus-{i}", daemon=True)
            for i, each in enumerate(self._consumers)
        ]

    def run(self) -> None:
        """Start reading."""
        for thread in self._threads:
            thread.start()

    def _run_one(self, consumer: Consumer) -> None:
        try:
            consumer.run()
        except BaseException:
            LOG.exception("a consumer failed in a way that it does not know; starting anew")
            # the parent starts another process: nothing is lost, what is unacknowledged comes again
            os._exit(os.EX_SOFTWARE)

    def terminate(self) -> None:
        """Write and acknowledge what is in hand, then end."""
        for consumer in self._consumers:
            consumer.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

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
        logging.setup(conf, PROGRAM, bus_cache.__version__)
        buses = transport.transports(conf)
        refuse_other_schema(conf)
    except (configuration.ConfigurationError, SchemaError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    LOG.info(
        "bus-cache %s: %s -> %s, keyspace %s",
        bus_cache.__version__,
        ", ".join(each.shown for each in buses),
        connect.parse(conf[common.GROUP].redis_url),
        conf[common.GROUP].keyspace,
    )
    conf.log_opt_values(LOG, logging.DEBUG)
    manager = cotyledon.ServiceManager(graceful_shutdown_timeout=GRACE)
    manager.add(ConsumerService, workers=1, args=(conf, arguments))
    manager.run()
    return 0


def refuse_other_schema(conf: cfg.ConfigOpts) -> None:
    """Raise :class:`SchemaError` where Redis answers that another version's keys are there."""
    connect_to_redis = functools.partial(configuration.redis_client, conf, client_name=PROGRAM)
    try:
        Writer(connect_to_redis, conf[common.GROUP].keyspace).check()
    except Unavailable:
        LOG.debug("Redis is away; it is waited for")
