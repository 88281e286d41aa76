"""Compares the public sets with the truth all the time, and keeps for how long each was wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from tests.chaos.truth import Pair, Sets, Truth, wrong

EACH = 0.2
"""Seconds between two looks."""

LATE = 0.5
"""Seconds for which a member may be wrong while what says so is on its way."""


class Watch(threading.Thread):
    """Looks until it is stopped.

    :ivar longest: seconds for which one member of one set was wrong, at the most. While Redis can't
        be read nothing is known: what is wrong after that was wrong since it changed.
    :ivar last_late: when something was wrong for longer than :data:`LATE`, the last time.
    """

    def __init__(self, truth: Truth, read: Callable[[Iterable[str]], Sets]) -> None:
        """Take the truth, and what reads the sets of some images."""
        super().__init__(name="watch", daemon=True)
        self.longest = 0.0
        self.last_late = 0.0
        self.looks = self.blind = 0
        self.now_wrong: set[Pair] | None = None
        self._truth = truth
        self._read = read
        self._since: dict[Pair, float] = {}
        self._last_look = time.monotonic()
        self._stop_it = threading.Event()

    def run(self) -> None:
        while not self._stop_it.wait(EACH):
            self.look()

    def stop(self) -> None:
        self._stop_it.set()
        self.join()

    def look(self) -> None:
        """Compare once."""
        began = time.monotonic()
        images = self._truth.sets().keys()
        try:
            index = self._read(images)
        except Exception:  # whatever a client raises while Redis is away
            self.blind += 1
            self.now_wrong = None
            return
        truth = self._truth.sets()
        found = wrong({image: truth[image] for image in images}, index)
        now = time.monotonic()
        self.looks += 1
        for pair in self._since.keys() - found:
            self.longest = max(self.longest, now - self._since.pop(pair))
        for pair in found:
            since = self._since.setdefault(
                pair, max(self._truth.changed(pair), min(self._last_look, now))
            )
            self.longest = max(self.longest, now - since)
            if now - since > LATE:
                self.last_late = now
        self._last_look = began
        self.now_wrong = found

    def begin(self) -> None:
        """Forget what was until now."""
        self.longest = self.last_late = 0.0
