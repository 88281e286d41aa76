"""The agent: looks at the cache when something changed, says what is new, and all at an interval.

One thread looks and publishes, and may wait for a broker as long as that takes. Others only note
what it is to do: that an image may have changed, that a snapshot is wanted. So what waits is never
a queue of messages, only which images to look at again.
"""

from __future__ import annotations

import collections
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from bus_cache import protocol
from bus_cache.agent import state
from bus_cache.agent.epoch import Epochs
from bus_cache.agent.inventory import Driver, Unreadable
from bus_cache.agent.publisher import Publisher, PublishError
from bus_cache.protocol import CachedImage, Inventory

LOG = logging.getLogger(__name__)

MANY = 100
"""Changes seen together that are told as a snapshot: one message instead of so many."""

LISTENING_SPREAD = 10.0
"""Seconds over which agents that were silent begin to speak again, all having heard it at once."""

MOST_LOOKS = 1000
"""Images to look at one by one; with more, listing all is cheaper."""

EPOCH_SECONDS = 3600.0
"""How long an epoch lasts. Had consumers a message of it with a sequence that the agent does not
reach, what it says counts again with the next one."""

_APART = 1.0
"""Seconds between snapshots that are asked for, however often they are."""

_LOOK_AGAIN = 5.0
"""Seconds until a cache that can't be read is tried again."""

_LONGEST_PAUSE = 15.0
"""Seconds between tries to publish, at the most."""


class Intervals(NamedTuple):
    """Of ``[agent]``, in seconds."""

    scan: float
    snapshot: float


class Agent:
    """One host's agent.

    :ivar counts: messages published, by event; ``unpublished`` and ``unreadable``: failures.
    :ivar images: how many are in the cache, as last listed.
    :ivar told_all: when the last snapshot was published, seconds since 1970; 0: never.
    """

    def __init__(
        self,
        host: str,
        driver: Driver,
        publisher: Publisher,
        epochs: Epochs,
        intervals: Callable[[], Intervals],
    ) -> None:
        """Take its parts; ``intervals`` is asked each time."""
        self._driver = driver
        self._publisher = publisher
        self._epochs = epochs
        self._intervals = intervals
        self._state = state.State(host, epochs.next())
        now = time.monotonic()
        self._epoch_ends = now + EPOCH_SECONDS
        self._scan_at = now
        self._not_before = now  # after a failure
        self._failures = 0
        self._told = False
        self._said = ""  # why nothing is reported
        self.counts: collections.Counter[str] = collections.Counter()
        self.images = 0
        self.told_all = 0.0
        # What other threads note, under the lock of this condition:
        self._noted = threading.Condition()
        self._everything = True
        self._changed: set[str] = set()
        self._snapshot_at = now
        self._last_snapshot = now - _APART
        self._after = -1  # an epoch that must be exceeded
        self._heard = now
        self._silent = False
        self._stopping = False

    # -- what other threads note ---------------------------------------------------------------

    def changed(self, fingerprint: str | None) -> None:
        """Have one image looked at, or all."""
        with self._noted:
            if fingerprint is None or len(self._changed) >= MOST_LOOKS:
                self._everything = True
            elif not self._everything:
                self._changed.add(fingerprint)
            self._noted.notify()

    def asked(self, after: int, spread: float) -> None:
        """Have a snapshot published some time within ``spread`` seconds, of an epoch later than
        ``after``."""
        with self._noted:
            self._after = max(self._after, after)
            wanted = time.monotonic() + random.uniform(0, spread)
            earliest = self._last_snapshot + _APART
            self._snapshot_at = min(self._snapshot_at, max(wanted, earliest))
            self._is_heard(spread)

    def listening(self) -> None:
        """Note that somebody reads; who was silent tells all."""
        with self._noted:
            self._is_heard(LISTENING_SPREAD)

    def _is_heard(self, spread: float) -> None:
        self._heard = time.monotonic()
        if self._silent:
            self._silent = False
            self._not_before = self._heard + random.uniform(0, spread)
            LOG.info("a consumer reads again")
        self._noted.notify()

    @property
    def silent(self) -> bool:
        """No consumer was heard for long, so nothing is published."""
        return self._silent

    def stop(self) -> None:
        """Have goodbye said, and :meth:`run` end."""
        with self._noted:
            self._stopping = True
            self._noted.notify()

    # -- what one thread does ------------------------------------------------------------------

    def run(self) -> None:
        """Watch and tell until :meth:`stop`."""
        if self._driver.caches_nothing:
            LOG.info(
                "%s: no image is ever cached on this host, and an empty cache is reported",
                self._driver.caches_nothing,
            )
        else:
            self._driver.watch(self.changed)
        while self._wait():
            self._guarded(self._turn)
        if not self._silent:
            self._guarded(self._goodbye)
        self._driver.close()
        self._publisher.close()

    def _wait(self) -> bool:
        """Wait until there is something to do; False: to end."""
        with self._noted:
            while not self._stopping:
                now = time.monotonic()
                if not self._silent and now >= self._heard + protocol.UNHEARD:
                    self._silent = True
                    self._state.forget()
                    LOG.warning(
                        "no consumer was heard for %g minutes: nothing is published until one is",
                        protocol.UNHEARD / 60,
                    )
                until = self._heard + protocol.UNHEARD
                if self._silent:
                    self._noted.wait()
                    continue
                due = min(self._scan_at, self._snapshot_at)
                if self._everything or self._changed or self._state.snapshot_due:
                    due = now
                due = max(due, self._not_before)
                if now >= due:
                    break
                self._noted.wait(min(due, until) - now)
            return not self._stopping

    def _turn(self) -> None:
        with self._noted:
            everything, self._everything = self._everything, False
            changed, self._changed = self._changed, set()
            after, self._after = self._after, -1
            snapshot = time.monotonic() >= self._snapshot_at
        self._exceed(after)
        if snapshot or self._state.snapshot_due:
            self._tell_all()
        elif everything or time.monotonic() >= self._scan_at:
            self._tell(self._list())
        else:
            self._tell(self._look(changed), changed)

    def _list(self) -> dict[str, CachedImage | None]:
        empty = bool(self._driver.caches_nothing)
        found = state.seen(Inventory(()) if empty else self._driver.list())
        self._scan_at = time.monotonic() + self._intervals().scan
        self.images = sum(each is not None for each in found.values())
        return found

    def _look(self, changed: set[str]) -> dict[str, CachedImage | None]:
        found: dict[str, CachedImage | None] = {}
        for each in changed:
            image, coming = self._driver.look(each)
            if image or coming:
                found[each] = image
        return found

    def _tell_all(self, leaving: bool = False) -> None:
        interval = self._intervals().snapshot * random.uniform(0.9, 1.1)
        with self._noted:  # first: what is asked for from now on is asked for after this one
            self._last_snapshot = time.monotonic()
            self._snapshot_at = self._last_snapshot + interval
        found = self._list()
        if self._last_snapshot >= self._epoch_ends:
            self._begin()
        self._send(self._state.snapshot(found, leaving))
        self.told_all = time.time()
        if not self._told:
            LOG.info("told all, %d images; from now on what changes is told", len(found))
        self._told = True

    def _tell(self, found: state.Seen, among: set[str] | None = None) -> None:
        differences = self._state.differences(found, among)
        if len(differences) > MANY:
            self._tell_all()
            return
        for each in differences:
            self._send(self._state.statement(each))

    def _send(self, message: state.Message) -> None:
        self._publisher.send(message)
        self.counts[message.event] += 1
        LOG.debug("published %s %s", message.event, message.payload.get("image", ""))
        if self._failures:
            LOG.info("publishing works again")
        self._failures = 0

    def _goodbye(self) -> None:
        self._exceed(self._after)
        self._tell_all(leaving=True)

    def _exceed(self, after: int) -> None:
        """Begin an epoch after the one that the index knows, where ours is not."""
        if self._state.epoch > protocol.latest_epoch(time.time_ns() // 1_000_000):
            LOG.warning("this host's clock was set back by years: beginning another epoch")
            self._begin(after)
        elif after > self._state.epoch:
            LOG.warning("the index knows a later epoch than this agent's: beginning another")
            self._begin(after)

    def _begin(self, after: int = 0) -> None:
        self._state.begin(self._epochs.next(after))
        self._epoch_ends = time.monotonic() + EPOCH_SECONDS

    def _guarded(self, do: Callable[[], None]) -> None:
        """Do something; after a failure all is told again, when that may work."""
        pause = self._intervals().scan
        try:
            do()
        except PublishError as error:
            self.counts["unpublished"] += 1
            if not self._failures:
                LOG.warning("can't publish, trying until it works: %s", error)
            self._failures += 1
            pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures, 10)) * random.uniform(0.5, 1)
        except (Unreadable, ValueError) as error:
            self.counts["unreadable"] += 1
            pause = min(pause, _LOOK_AGAIN)
            self._told = False
            if self._said != str(error):
                LOG.error("nothing is reported until this is mended: %s", error)
            self._said = str(error)
        except Exception:
            LOG.exception("looking or publishing failed; trying again")
        else:
            self._said = ""
            return
        self._state.forget()
        self._not_before = time.monotonic() + pause
