"""What each host holds, by the rules of the contract; shares no code with the product.

A host without an agent holds what was said of it, less what was deleted; with an agent, what is in
its cache. What happens is told in any order, since one publisher may wait longer than another.
"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import NamedTuple

Sets = dict[str, set[str]]


def fingerprint(image: str) -> str:
    """Return by what name Nova caches an image."""
    return hashlib.sha1(image.encode()).hexdigest()


class Pair(NamedTuple):
    """An image on a host; empty: all of them."""

    image: str = ""
    host: str = ""


class Truth:
    """Images by fingerprint, and the hosts that hold each. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, dict[str, int]] = {}
        self._gone_hosts: dict[str, int] = {}
        self._gone_images: set[str] = set()
        self._inventories: dict[Pair, tuple[int, int]] = {}
        self._sets: Sets = {}
        self._changed: dict[Pair, float] = {}

    def held(self, host: str, image: str, stamp: int) -> None:
        """A host without an agent was said to hold an image, at a moment (ms) by its clock."""
        with self._lock:
            hosts = self._said.setdefault(image, {})
            hosts[host] = max(stamp, hosts.get(host, 0))
            holds = image not in self._gone_images and hosts[host] >= self._gone_hosts.get(host, 0)
            self._set(Pair(image, host), holds)

    def image_deleted(self, image: str) -> None:
        """Glance deleted an image: for good."""
        with self._lock:
            self._gone_images.add(image)
            for host in list(self._sets.get(image, ())):
                self._set(Pair(image, host), False)

    def host_deleted(self, host: str, stamp: int) -> None:
        """A compute service was deleted: nothing that was said before counts."""
        with self._lock:
            self._gone_hosts[host] = max(stamp, self._gone_hosts.get(host, 0))
            for image, hosts in self._said.items():
                if hosts.get(host, stamp) < stamp:
                    self._set(Pair(image, host), False)

    def cached(self, host: str, image: str, holds: bool, version: tuple[int, int]) -> None:
        """A host with an agent has an image in its cache by now, or no longer."""
        with self._lock:
            pair = Pair(image, host)
            if version > self._inventories.get(pair, (0, -1)):
                self._inventories[pair] = version
                self._set(pair, holds)

    def _set(self, pair: Pair, holds: bool) -> None:
        hosts = self._sets.setdefault(pair.image, set())
        if (pair.host in hosts) != holds:
            (hosts.add if holds else hosts.discard)(pair.host)
            self._changed[pair] = time.monotonic()

    def sets(self) -> Sets:
        """Return a copy: each image that ever was, and its hosts by now."""
        with self._lock:
            return {image: set(hosts) for image, hosts in self._sets.items()}

    def changed(self, pair: Pair) -> float:
        """Return when that last changed, by the monotonic clock; 0: never."""
        with self._lock:
            return self._changed.get(pair, 0.0)


def wrong(truth: Sets, index: Sets) -> set[Pair]:
    """Return the members that one has and the other has not."""
    return {
        Pair(image, host)
        for image in truth.keys() | index.keys()
        for host in truth.get(image, set()) ^ index.get(image, set())
    }
