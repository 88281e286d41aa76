"""When Redis is asked, probed, and written about in the log: pure, times and outcomes are given."""

from __future__ import annotations

import math

LEAST_PAUSE = 0.1
"""Seconds from a failure to the first probe: a restart or a failover costs few boots."""
MOST_PAUSE = 5.0
"""Seconds between probes of a Redis that stays away: so late its return is noticed at the most."""
LINES_PER_MINUTE = 6
"""Of changes of state in the log: three times lost and found."""


class Breaker:
    """Opens at the first failure, closes at the first good probe.

    While it is open nobody asks; what probes does so at ``probe_at``. Pauses between probes double
    from :data:`LEAST_PAUSE` to :data:`MOST_PAUSE`. They start anew only after it was closed
    for the longest of them: so a Redis that comes and goes costs a call each few seconds, not ten
    each second.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why it is open; None: it is closed."""
        self.probe_at = math.inf
        """When to probe, in seconds of the caller's clock."""
        self.opened = 0
        self.closed = 0
        self._pause = LEAST_PAUSE
        self._closed_at = -math.inf

    def failed(self, now: float, reason: str, dice: float) -> None:
        """Take a call that failed. Of several at once the first one counts.

        :param now: seconds of a clock that only grows.
        :param reason: for people.
        :param dice: from 0 to 1; many schedulers must not probe all at once.
        """
        if self.reason is None:
            self.opened += 1
            well = now - self._closed_at >= MOST_PAUSE
            self._open(now, reason, dice, LEAST_PAUSE if well else 2 * self._pause)

    def probe_failed(self, now: float, reason: str, dice: float) -> None:
        """Take a probe that failed; see :meth:`failed`."""
        self._open(now, reason, dice, 2 * self._pause)

    def _open(self, now: float, reason: str, dice: float, pause: float) -> None:
        self._pause = min(MOST_PAUSE, pause)
        self.reason, self.probe_at = reason, now + self._pause * (0.5 + dice / 2)

    def probed_well(self, now: float) -> None:
        """Take a probe that was answered in time: it closes."""
        if self.reason is not None:
            self.closed += 1
            self.reason, self.probe_at, self._closed_at = None, math.inf, now


class Telling:
    """Which changes between good and bad are written to the log.

    Each once, as long as they are few; of a flapping state so many each minute, and the one that
    lasts in the end.
    """

    def __init__(self) -> None:
        self._bad = False
        self._told = 0
        self._lines: list[float] = []

    def change(self, now: float, *, bad: bool, changes: int) -> int | None:
        """Return None where there is nothing to write; else how many changes were passed over.

        :param now: seconds of a clock that only grows.
        :param bad: the present state.
        :param changes: how often it changed so far.
        """
        if bad == self._bad:
            return None
        self._lines = [line for line in self._lines if now - line < 60.0]
        if len(self._lines) >= LINES_PER_MINUTE:
            return None
        self._lines.append(now)
        self._bad = bad
        withheld, self._told = changes - self._told - 1, changes
        return max(0, withheld)
