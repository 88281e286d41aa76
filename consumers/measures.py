"""What one consumer measures beside its counts: by plain values, written by its own thread."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence

from bus_cache.index.changes import Change, Fetching
from bus_cache.measure import LAG, Histogram
from consumers.events import Notification

BOOTS = ("instance.create.start", "compute.instance.create.start")
"""What Nova says when a host begins to build a server, before it fetches the image."""

REMEMBERED = 10_000
"""Servers whose boot was counted, so that it is counted once where Nova says it in both formats."""

_MIB = 1024**2

SIZES = ((100 * _MIB, "under 100 MiB"), (1024 * _MIB, "under 1 GiB"), (2048 * _MIB, "under 2 GiB"))
"""Classes of images: by default the weigher leaves the first one alone, and the last one weighs
fully."""

SIZE_CLASSES = (*(name for _, name in SIZES), "2 GiB or more", "unknown")


def size_class(size: int | None) -> str:
    """Return the class of an image of so many bytes; None: they are unknown."""
    if size is None:
        return SIZE_CLASSES[-1]
    return next((name for most, name in SIZES if size < most), SIZE_CLASSES[-2])


class Boots:
    """Counts the boots that found their image on the host, as the index knew it.

    It is asked when Nova says that a host begins to build (``create.start``), not at
    ``create.end``: by then a host's agent has told of the image that this very boot fetched. The
    answer comes with the change that is written anyway. A build that fails later counts, too.

    :ivar counts: (size class, whether it was found) -> boots.
    """

    def __init__(self) -> None:
        """Count from 0."""
        self.counts: collections.Counter[tuple[str, bool]] = collections.Counter()
        self._waiting: dict[tuple[str, str], set[str]] = {}
        self._counted: collections.OrderedDict[tuple[str, str], None] = collections.OrderedDict()

    def begins(self, said: Notification, changes: Sequence[Change]) -> None:
        """Note what ``create.start`` says, until the index has answered."""
        server = said.data.get("uuid", said.data.get("instance_id"))
        if not isinstance(server, str) or len(server) > 36:
            return
        for each in changes:
            if isinstance(each, Fetching) and (server, each.host) not in self._counted:
                self._waiting.setdefault((each.host, each.image_id), set()).add(server)

    def answered(self, fetching: Fetching, held: bool, size: int | None) -> None:
        """Count: the index knew, or did not, that the host holds the image."""
        host = fetching.host
        for server in self._waiting.pop((host, fetching.image_id), ()):
            self.counts[size_class(size), held] += 1
            self._counted[server, host] = None
            if len(self._counted) > REMEMBERED:
                self._counted.popitem(last=False)

    def forget(self) -> None:
        """Forget what was not answered: it comes again."""
        self._waiting.clear()


class Measures:
    """What one consumer measures.

    :ivar kinds: (event type, outcome) -> messages, but for those that are never decoded. Types are
        those that we know, else ``other``.
    :ivar lag: seconds from the publisher's clock until what was said is in the index.
    :ivar boots: see :class:`Boots`.
    :ivar depths: queue -> messages that wait there, as last seen.
    :ivar turn: when (monotonic) the consumer's thread last came around: it lives.
    """

    def __init__(self) -> None:
        """Measure from now on."""
        self.kinds: collections.Counter[tuple[str, str]] = collections.Counter()
        self.lag = Histogram(LAG)
        self.boots = Boots()
        self.depths: dict[str, int] = {}
        self.turn = time.monotonic()

    def written(self, changes: Sequence[Change]) -> None:
        """Note that these are in the index now."""
        now = time.time()
        for change in changes:
            self.lag.observe(now - change.stamp / 1000)
