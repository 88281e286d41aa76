"""How often something is tried again, and how often it is said."""

from __future__ import annotations

import time


class Backoff:
    """Growing pauses, in seconds, up to a longest one."""

    def __init__(self, longest: float, first: float = 0.1) -> None:
        self._longest = longest
        self._first = first
        self._pause = first

    def reset(self) -> None:
        self._pause = self._first

    def next(self) -> float:
        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        return pause


class Limit:
    """At most so many per minute; the rest is counted."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._minute = 0
        self._used = 0
        self._withheld = 0

    def allow(self) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += 1
        if self._used <= self._per_minute:
            return True
        self._withheld += 1
        return False

    def held_back(self) -> str:
        """Return, for the end of a line, how many lines were not written before it."""
        withheld, self._withheld = self._withheld, 0
        return f" ({withheld} more lines like this were held back)" if withheld else ""
