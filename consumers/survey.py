"""Counts what is in the index from time to time: too slow to be done at each scrape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from oslo_log import log as logging

from bus_cache import connect
from bus_cache.index.listing import Counts, Listing

LOG = logging.getLogger(__name__)

INTERVAL = 30.0
"""Seconds between two counts."""

SHARE = 50
"""A count is followed by a pause of so many times as long as it took: 2 % of a core at the most."""


class Survey(NamedTuple):
    """What was counted, when (seconds since 1970), and how many seconds it took."""

    counts: Counts
    at: float
    seconds: float


class Surveyor:
    """Counts, in a thread of its own with a client of its own.

    :ivar latest: what was counted last; None: not yet.
    """

    def __init__(self, client: Callable[[], connect.Client], keyspace: str) -> None:
        """Take what makes a client for Redis, which may be away, and the keyspace's name."""
        self._make = client
        self._keyspace = keyspace
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._made: connect.Client | None = None
        self.latest: Survey | None = None

    def listing(self) -> Listing:
        """Return what lists the index; any of :data:`bus_cache.connect.AWAY`. From any thread."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
        return Listing(self._made, self._keyspace, _say)

    def start(self) -> None:
        """Count until :meth:`stop`."""
        threading.Thread(target=self._run, name="survey", daemon=True).start()

    def stop(self) -> None:
        """Count no more. From any thread."""
        self._stop.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.monotonic()
            try:
                counts = self.listing().counts()
                took = time.monotonic() - began
                self.latest = Survey(counts, time.time(), took)
            except Exception as error:  # who reads the bus says that Redis is away
                LOG.debug("the index can't be counted: %s", error)
            pause = max(INTERVAL, SHARE * (time.monotonic() - began))


def _say(complaint: str) -> None:
    LOG.debug("while the index was counted: %s", complaint)
