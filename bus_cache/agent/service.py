"""``bus-cache-agent``: the program. Reads nova.conf and its own, then watches until SIGTERM.

One process without a master: two would double the memory on every compute host, and systemd
starts again what died.
"""

from __future__ import annotations

import functools
import logging as standard_logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from oslo_config import cfg
from oslo_log import log as logging

import bus_cache
from bus_cache import conf as configuration
from bus_cache import names
from bus_cache.agent import asked, excerpt, inventory, publisher
from bus_cache.agent.agent import Agent, Intervals
from bus_cache.agent.epoch import Epochs
from bus_cache.conf import ConfigurationError, log, nova, opts
from bus_cache.conf import agent as agent_group
from bus_cache.conf.types import address

LOG = logging.getLogger(__name__)

PROGRAM = "bus-cache-agent"

GOODBYE = 5.0
"""Seconds that the goodbye may take at SIGTERM; a broker that takes longer does without."""

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_EXCERPT = cfg.StrOpt(
    "write-excerpt",
    metavar="FILE",
    help="Write to FILE what the agent needs of nova.conf, readable by the group of its folder, "
    "and end. For an agent that may not read nova.conf.",
)


def load(arguments: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """Read and check the configuration.

    :raises ConfigurationError: it is wrong.
    """

    def register(conf: cfg.ConfigOpts) -> None:
        logging.register_options(conf)
        nova.register(conf)
        conf.register_cli_opt(_EXCERPT)

    conf = configuration.load(PROGRAM, arguments, opts.AGENT_GROUPS, register)
    nova.check(conf)
    if not names.is_valid_name(conf.host):
        raise ConfigurationError(f"host = {ascii(conf.host)[:100]} can't be used: it is no name.")
    publisher.prepare(conf)
    # nova.conf's log files are nova-compute's; the agent writes to stderr, which systemd keeps
    words = sys.argv[1:] if arguments is None else arguments
    for option in ("log-file", "log-dir", "log-config-append"):
        if not any(word.startswith(f"--{option}") for word in words):
            conf.set_override(option.replace("-", "_"), None)
    return conf


def intervals(conf: cfg.ConfigOpts) -> Intervals:
    """Return what ``[agent]`` says now."""
    group = conf[agent_group.GROUP]
    return Intervals(group.scan_interval, group.snapshot_interval)


def reload(conf: cfg.ConfigOpts, arguments: Sequence[str] | None) -> None:
    """Go on with the mutable options as the files have them; where one is wrong, as before."""
    try:
        load(arguments)
    except ConfigurationError as error:
        LOG.error("Going on with the configuration as it was: %s", error)
        return
    conf.mutate_config_files()
    LOG.info("configuration read again")


def show(conf: cfg.ConfigOpts, agent: Agent) -> None:
    """Show metrics over HTTP, where that is switched on."""
    listen = conf[agent_group.GROUP].http_listen
    if not listen:
        return
    # else it would cost a MiB on every compute host
    from bus_cache.agent import metrics  # noqa: PLC0415
    from bus_cache.web.server import Server, scraped  # noqa: PLC0415

    samples = functools.partial(metrics.samples, agent)
    routes = {"/metrics": scraped(metrics.METRICS, samples)}
    Server(address(listen), routes, "[agent] http_listen").start()


def _run(agent: Agent) -> None:
    try:
        agent.run()
    except BaseException:
        LOG.exception("the agent failed in a way that it does not know; ending")
        os._exit(os.EX_SOFTWARE)  # whoever started it starts it again: systemd does


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 1 where it can't start. After SIGTERM it ends with 0
    itself."""
    # Before any thread begins: all of them inherit it, and signals wait for this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return _main(arguments)
    finally:  # it did not start: who called it, and all that it starts, can be ended as before
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        conf = load(arguments)
        if conf.write_excerpt:
            excerpt.write(conf, Path(conf.write_excerpt))
            return 0
        log.set_up(conf, PROGRAM)
        driver = inventory.choose(conf)
        bus = publisher.Publisher(conf, conf.host)
    except ConfigurationError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    epochs = Epochs(Path(conf[agent_group.GROUP].state_path), conf.host)
    agent = Agent(conf.host, driver, bus, epochs, lambda: intervals(conf))
    LOG.info("bus-cache %s: host %s, %s", bus_cache.__version__, conf.host, driver.place)
    conf.log_opt_values(LOG, logging.DEBUG)
    thread = threading.Thread(target=_run, args=(agent,), name="agent", daemon=True)
    thread.start()
    asked.serve(conf, conf.host, agent)
    show(conf, agent)
    while signal.sigwait(_SIGNALS) == signal.SIGHUP:
        reload(conf, arguments)
    agent.stop()
    thread.join(GOODBYE)
    if thread.is_alive():
        LOG.warning("the bus did not take the goodbye within %g s", GOODBYE)
    standard_logging.shutdown()
    # Not by returning: that waits for oslo.messaging's threads, and they for a broker.
    os._exit(0)
