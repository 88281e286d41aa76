"""Which host holds which image, as far as each of Nova's notification formats tells it.

Kept by hand while the scenario drives Nova: from what was done and from what Nova's API says about
it, never from a message. What a format can't tell is left out of its table.
"""

from __future__ import annotations

UNVERSIONED = "unversioned"
VERSIONED = "versioned"
BOTH = "both"

#: What the unversioned format tells, both others tell as well.
ALL = (UNVERSIONED, VERSIONED, BOTH)
#: Rescue images, pre-caching and deleted services are told by the versioned format only.
VERSIONED_ONLY = (VERSIONED, BOTH)

#: Image id -> the hosts that hold it, sorted.
Table = dict[str, list[str]]


class Truth:
    """One table for each value of Nova's option ``notification_format``."""

    def __init__(self) -> None:
        self._held: dict[str, set[tuple[str, str]]] = {name: set() for name in ALL}

    def holds(self, image: str, host: str, told_by: tuple[str, ...] = ALL) -> None:
        """A host has fetched an image."""
        for name in told_by:
            self._held[name].add((image, host))

    def host_gone(self, host: str, told_by: tuple[str, ...] = VERSIONED_ONLY) -> None:
        """A host's compute service was deleted."""
        for name in told_by:
            self._held[name] = {(i, h) for i, h in self._held[name] if h != host}

    def image_gone(self, image: str) -> None:
        """An image was deleted in Glance, which has a format of its own: all tables know it."""
        for name in ALL:
            self._held[name] = {(i, h) for i, h in self._held[name] if i != image}

    def table(self, notification_format: str) -> Table:
        table: Table = {}
        for image, host in sorted(self._held[notification_format]):
            table.setdefault(image, []).append(host)
        return table
