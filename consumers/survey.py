"""Looks at the whole index from time to time: too slow to be done at each scrape."""

from __future__ import annotations

import bisect
import collections
import heapq
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from oslo_log import log as logging

from bus_cache import connect
from bus_cache.index.listing import Counts, ImageRow, Listing

LOG = logging.getLogger(__name__)

INTERVAL = 30.0
"""Seconds between two surveys."""

SHARE = 50
"""A survey is followed by a pause of so many times the processor's time that it took: 2 % of a core
at the most."""

IMAGES = 40
"""Images on the heat map: those that most hosts hold."""

COLUMNS = 100
"""Columns of the heat map; with more hosts than that, one stands for several."""

AGES = ((300, "5 minutes"), (3600, "an hour"), (86_400, "a day"), (7 * 86_400, "a week"))
"""Seconds since the newest evidence of a host, and their names; what is older, or unknown, is
last."""

WATCHED = 120.0
"""Seconds for which the heat map is drawn after somebody looked at it."""


class Column(NamedTuple):
    """Neighbours, by name, on the heat map."""

    first: str
    last: str
    hosts: int


class HeatMap(NamedTuple):
    """Images by hosts: for each image how many hosts of each column hold it."""

    images: list[ImageRow]
    columns: list[Column]
    cells: list[list[int]]


class Survey(NamedTuple):
    """What was found, and when (seconds since 1970).

    ``ages``: hosts by the age of their newest evidence, as :data:`AGES`, and older.
    """

    counts: Counts
    ages: list[int]
    heat: HeatMap | None
    at: float


class Surveyor:
    """Surveys, in a thread of its own with a client of its own.

    :ivar latest: what was found last; None: nothing yet.
    """

    def __init__(self, client: Callable[[], connect.Client], keyspace: str) -> None:
        """Take what makes a client for Redis, which may be away, and the keyspace's name."""
        self._make = client
        self._keyspace = keyspace
        self._listing: Listing | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._looked = -WATCHED
        self.latest: Survey | None = None

    def start(self) -> None:
        """Survey until :meth:`stop`."""
        threading.Thread(target=self._run, name="survey", daemon=True).start()

    def stop(self) -> None:
        """Survey no more. From any thread."""
        self._stop.set()
        self._wake.set()

    def look(self) -> Survey | None:
        """Return the latest survey, and have the heat map drawn from now on, for a while. From any
        thread."""
        latest = self.latest
        self._looked = time.monotonic()
        if latest is None or latest.heat is None:
            self._wake.set()
        return latest

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            began = time.thread_time()
            try:
                self.latest = self._survey(time.monotonic() - self._looked < WATCHED)
            except Exception as error:  # who reads the bus says that Redis is away
                LOG.debug("the index can't be surveyed: %s", error)
            rest = SHARE * (time.thread_time() - began)
            self._stop.wait(rest)  # whoever looks
            self._wake.wait(max(0.0, INTERVAL - rest))

    def _survey(self, draw: bool) -> Survey:
        if self._listing is None:
            self._listing = Listing(self._make(), self._keyspace, _say)
        listing = self._listing
        most: list[tuple[int, str, ImageRow]] = []

        def remember(row: ImageRow) -> None:
            if row.hosts:
                keep = heapq.heappush if len(most) < IMAGES else heapq.heappushpop
                keep(most, (row.hosts, row.fingerprint, row))

        counts = listing.counts(remember)
        heard = listing.heard()
        heat = None
        if draw:
            images = [row for _, _, row in sorted(most, reverse=True)]
            members = {row.fingerprint: listing.members(row.fingerprint) for row in images}
            heat = drawn(images, members, heard)
        return Survey(counts, by_age(heard.values(), time.time()), heat, time.time())


def by_age(stamps: Iterable[int | None], now: float) -> list[int]:
    """Count stamps (milliseconds) by their age, as :data:`AGES`, and older or unknown."""
    count = [0] * (len(AGES) + 1)
    bounds = [seconds for seconds, _ in AGES]
    for stamp in stamps:
        age = float("inf") if stamp is None else now - stamp / 1000
        count[bisect.bisect_right(bounds, age)] += 1
    return count


def drawn(
    images: Sequence[ImageRow], members: Mapping[str, Iterable[str]], hosts: Iterable[str]
) -> HeatMap:
    """Return images by hosts, in the order of the numbers in their names."""
    ordered = sorted(hosts, key=_natural)
    count = min(COLUMNS, len(ordered))
    of_host, columns = {}, []
    for number in range(count):
        part = ordered[number * len(ordered) // count : (number + 1) * len(ordered) // count]
        columns.append(Column(part[0], part[-1], len(part)))
        of_host.update(dict.fromkeys(part, number))
    cells = []
    for image in images:
        held = collections.Counter(of_host.get(host) for host in members[image.fingerprint])
        cells.append([held[number] for number in range(count)])
    return HeatMap(list(images), columns, cells)


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Order compute9 before compute10."""
    return tuple((text, int(digits or 0)) for text, digits in _PARTS.findall(name))


_PARTS = re.compile(r"(\D*)(\d{0,18})")


def _say(complaint: str) -> None:
    LOG.debug("while the index was surveyed: %s", complaint)
