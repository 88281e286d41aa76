"""What an agent may be asked by RPC cast: see :mod:`bus_cache.protocol`."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Protocol

import oslo_messaging
from oslo_config import cfg

from bus_cache import protocol, rabbit
from bus_cache.agent import publisher
from bus_cache.conf.text import one_line

LOG = logging.getLogger(__name__)

MOST_SPREAD = 3600.0
"""Seconds over which answers may be spread at the most."""

_AGAIN = 10.0


class Agent(Protocol):
    """Who is asked."""

    def asked(self, after: int, spread: float) -> None:
        """See ``snapshot`` of :mod:`bus_cache.protocol`."""

    def listening(self) -> None:
        """See ``listening`` of :mod:`bus_cache.protocol`."""


class Endpoint:
    """The methods that may be called. Whoever may write to the bus may call them, with anything."""

    target = oslo_messaging.Target(version=protocol.ASK_VERSION)

    def __init__(self, agent: Agent) -> None:
        """Take who is asked."""
        self._agent = agent

    def snapshot(self, context: Any, after: Any = 0, spread: Any = 0, **_: Any) -> None:
        """Have a snapshot published; what makes no sense counts as not said."""
        latest = protocol.latest_epoch(time.time_ns() // 1_000_000)
        if not isinstance(after, int) or not 0 <= after < latest:
            after = 0
        if not isinstance(spread, (int, float)) or not spread >= 0:  # NaN is not, either
            spread = 0
        self._agent.asked(after, min(spread, MOST_SPREAD))

    def listening(self, context: Any, **_: Any) -> None:
        """Note that somebody reads."""
        self._agent.listening()


def serve(conf: cfg.ConfigOpts, host: str, agent: Agent) -> None:
    """Begin to answer, in threads that end with the process; wait for a broker that is away."""

    def start() -> None:
        failures = 0
        while True:
            try:
                transport = oslo_messaging.get_rpc_transport(conf, url=publisher.bus_url(conf))
                rabbit.use_own_connections(transport)
                target = oslo_messaging.Target(
                    exchange=protocol.ASK_EXCHANGE, topic=protocol.ASK_TOPIC, server=host
                )
                oslo_messaging.get_rpc_server(
                    transport, target, [Endpoint(agent)], executor="threading"
                ).start()
                return
            except Exception as error:  # whatever kombu and py-amqp raise: it goes on without
                if not failures:
                    said = one_line(error)
                    LOG.warning("this agent can't be asked yet, trying again: %s", said)
            failures += 1
            time.sleep(_AGAIN)

    threading.Thread(target=start, name="asked", daemon=True).start()
