"""Looks after agents: asks for what is missing, gives up those that are silent, tells both."""

from __future__ import annotations

import collections
import time
from typing import NamedTuple

from oslo_log import log as logging

from bus_cache.index.changes import HostDeleted
from bus_cache.index.writer import Writer
from consumers.asking import Asker
from consumers.pacing import Limit

LOG = logging.getLogger(__name__)

ASK_AGAIN = 10.0
"""Seconds after which an agent that was asked and did not answer is asked again."""

TELL = 300.0
"""Seconds after which agents are told again that somebody reads: a third of the time after which
they fall silent (:data:`bus_cache.protocol.UNHEARD`)."""

SPREAD = 30.0
"""Seconds over which all agents of a bus answer, when the index knows nothing: 10,000 of them make
330 snapshots a second, which one consumer takes."""

LOOK_FOR_LOST = 60.0
"""Seconds between two looks for hosts that have vanished."""

_LINES = 20
"""Lines a minute about single hosts; the rest is counted."""


class Times(NamedTuple):
    """The options of these names in ``[consumer]``; seconds."""

    gap_grace: float = 5.0
    agent_timeout: float = 900.0
    host_timeout: float = 86_400.0


class Agents:
    """Looks after the agents of one bus, for one consumer."""

    def __init__(self, asker: Asker | None, times: Times) -> None:
        """Take who asks (None: nobody is asked).

        :ivar counts: ``asked`` (agents, for a snapshot), ``managed`` and ``inferred`` (hosts that
            became so), ``vanished`` (hosts taken out).
        """
        self.counts: collections.Counter[str] = collections.Counter()
        self._asker = asker
        self._times = times
        self._next_lost = 0.0
        self._lines = Limit(_LINES)

    def switched(self, host: str, managed: bool) -> None:
        """Note that a host's agent now decides what it holds, or no longer does."""
        self.counts["managed" if managed else "inferred"] += 1
        self._tell(
            "%s: its agent reports, and decides what the host holds"
            if managed
            else "%s: its agent ended; Nova's notifications decide from now on what the host holds",
            host,
        )

    def attend(self, writer: Writer, steady: float) -> bool:
        """Do what is due; True where the index knew nothing of this bus.

        :param steady: seconds for which everything that comes was read and written.
        :raises bus_cache.index.writer.Unavailable: Redis is away or refuses to write for now.
        """
        times = self._times
        now = time.monotonic()
        look_for_lost = now >= self._next_lost
        if look_for_lost:
            self._next_lost = now + LOOK_FOR_LOST
        due = writer.attend(
            gap_grace=times.gap_grace,
            ask_again=ASK_AGAIN,
            silent=times.agent_timeout if steady >= times.agent_timeout else None,
            tell=TELL,
            lost=times.host_timeout if look_for_lost else None,
        )
        if self._asker is not None:
            if due.listening:
                self._asker.listening()
            if due.listening == "new":
                self.ask_all()
            for host, epoch in due.ask:
                self.counts["asked"] += 1
                LOG.debug("%s: asking its agent for what is missing", host)
                self._asker.snapshot(host, epoch)
        for host in due.silent:
            if writer.fall_back(host, times.agent_timeout):
                self.counts["inferred"] += 1
                self._tell(
                    "%s: nothing was heard of its agent for %.0f s. Nova's notifications decide "
                    "from now on what the host holds",
                    host,
                    times.agent_timeout,
                )
        if due.vanished:
            writer.apply(HostDeleted(host, stamp) for host, stamp in due.vanished)
            for host, _ in due.vanished:
                self.counts["vanished"] += 1
                self._tell("%s: no compute service, and its agent is long silent: gone", host)
        return due.listening == "new"

    def ask_all(self) -> None:
        """Ask all agents of the bus for snapshots, spread over :data:`SPREAD`."""
        if self._asker is not None:
            self._asker.snapshots(SPREAD)

    def stop(self) -> None:
        """Ask nobody any more."""
        if self._asker is not None:
            self._asker.stop()

    def _tell(self, text: str, *arguments: object) -> None:
        """Log about one host, unless there is much to say: then the counts must do."""
        if self._lines.allow():
            LOG.info(text + "%s", *arguments, self._lines.held_back())
