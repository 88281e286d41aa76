"""What Redis said a moment ago: an image's hosts are asked for once per moment, not per server."""

from __future__ import annotations

import math

from bus_cache.index import reader

FRESH = 1.0
"""Seconds for which an answer counts, from before its question was sent.

A request for 100 servers asks for one image's hosts 100 times within some seconds, and what changes
meanwhile is mostly what nova-scheduler decides itself (:mod:`weigher.decisions`). A host that is
taken for a holder up to a second after it lost the image fetches it again; Nova's own records
of hosts are often as old.
"""
MOST_HOSTS = 200_000
"""Hosts asked about that are remembered at the most, of all images: some 25 MB."""


class Recent:
    """Remembers answers. No clock: times are given, in seconds that only grow. Not for several
    threads at once."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, reader.Found]] = {}
        self._hosts = 0

    def look(self, image_id: str, now: float) -> reader.Found | None:
        """Return what is known freshly of an image; None: nothing."""
        at, found = self._answers.get(image_id, (-math.inf, None))
        return found if now - at < FRESH else None

    def learn(self, image_id: str, found: reader.Found, now: float) -> reader.Found:
        """Take an answer, and return all that is known freshly of the image.

        What was known of other hosts is kept, and nothing counts longer for that.

        :param now: from before the question was sent.
        """
        at = now
        known = self.look(image_id, now)
        if known is not None:
            at = min(at, self._answers[image_id][0])
            held = known.held - found.asked | found.held
            found = reader.Found(known.asked | found.asked, held, found.coming)
        for each, (before, _) in list(self._answers.items()):
            if each == image_id or now - before >= FRESH:
                self._hosts -= len(self._answers.pop(each)[1].asked)
        if self._hosts + len(found.asked) > MOST_HOSTS:
            self._answers.clear()
            self._hosts = 0
        if len(found.asked) <= MOST_HOSTS:
            self._answers[image_id] = at, found
            self._hosts += len(found.asked)
        return found
