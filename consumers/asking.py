"""Asks agents over one bus: for a snapshot, and tells them that somebody reads."""

from __future__ import annotations

import queue
import threading
from typing import Any

from oslo_config import cfg
from oslo_log import log as logging

from bus_cache import protocol, rabbit
from bus_cache.conf.messaging import oslo_messaging
from bus_cache.conf.text import one_line
from consumers.transport import Transport

LOG = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Questions that wait while the bus is slow; what does not fit is asked again later."""


class Asker:
    """Sends RPC casts from a thread of its own, so that a slow broker does not hold up reading.

    A cast that fails is not repeated: who needs an answer asks again.
    """

    def __init__(self, conf: cfg.ConfigOpts, transport: Transport) -> None:
        """Take oslo.messaging's options and the bus; nothing is sent yet."""
        self._conf = conf
        self._transport = transport
        self._waiting: queue.Queue[tuple[str, str, dict[str, Any]] | None] = queue.Queue(
            MOST_WAITING
        )
        self._thread: threading.Thread | None = None
        self._failing = False

    def snapshot(self, host: str, after: int) -> None:
        """Ask one host's agent for a snapshot, now.

        :param after: the newest epoch that is known of it.
        """
        self._put(host, "snapshot", {"after": max(after, 0), "spread": 0})

    def snapshots(self, spread: float) -> None:
        """Ask all agents of the bus for snapshots, spread over so many seconds."""
        self._put("", "snapshot", {"after": 0, "spread": spread})

    def listening(self) -> None:
        """Tell all agents of the bus that somebody reads what they say."""
        self._put("", "listening", {})

    def stop(self) -> None:
        """Send nothing more. What hangs in a broker that is away is left behind."""
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                pass

    def _put(self, host: str, method: str, arguments: dict[str, Any]) -> None:
        if not self._transport.text:  # an embedded bus: there are no agents
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="asking", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((host, method, arguments))
        except queue.Full:
            LOG.debug("too many questions to agents wait; %s is not asked now", host or "nobody")

    def _run(self) -> None:
        client: Any = None
        while True:
            item = self._waiting.get()
            if item is None:
                return
            host, method, arguments = item
            failure = ""
            try:
                client = client or self._client()
                context = client.prepare(server=host) if host else client.prepare(fanout=True)
                context.cast({}, method, **arguments)
            except Exception as error:  # whatever it is, the bus is read all the same
                failure = one_line(error)
            if failure and not self._failing:
                LOG.warning("%s: agents can't be asked: %s", self._transport.shown, failure)
            elif self._failing and not failure:
                LOG.info("%s: agents can be asked again", self._transport.shown)
            self._failing = bool(failure)

    def _client(self) -> Any:
        transport = oslo_messaging.get_rpc_transport(self._conf, url=self._transport.text)
        target = oslo_messaging.Target(
            exchange=protocol.ASK_EXCHANGE,
            topic=protocol.ASK_TOPIC,
            version=protocol.ASK_VERSION,
        )
        # the function came with 14.1, which warns where the class is used
        make = getattr(oslo_messaging, "get_rpc_client", None) or oslo_messaging.RPCClient
        return make(rabbit.use_own_connections(transport), target, retry=1)
