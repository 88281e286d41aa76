"""Where this process of nova-scheduler sent servers that no host has reported yet.

A weigher is never told which host was chosen. But Nova consumes from the chosen HostState
(``consume_from_request`` in nova/scheduler/host_manager.py adds 1 to ``num_instances``) and makes
HostStates anew for each request: so of those that the weigher was shown, the one that has grown
since is where that server went. It is looked when the request is weighed for again (its next
server, or its alternates: ``_schedule`` in nova/scheduler/manager.py), or is through: Nova lets the
HostStates go then. What other processes decide is seen when the build begins.
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from weigher import native

COUNTS = 10.0
"""Seconds for which a decision counts: by then the host's own record has the build, and the index
that the image is on its way; and for which one is waited for: a request is through, or has failed.
"""
MOST_REQUESTS = 100
"""Requests that are waited for. Above the 64 that a process of nova-scheduler works at
(executor_thread_pool_size of oslo.messaging): their HostStates Nova keeps as well."""
MOST_MADE = 10_000
"""Decisions that are remembered."""


class Fresh(NamedTuple):
    """What this process decided just now."""

    sent: Counter[str]
    """Host -> servers sent there."""
    fetching: frozenset[str]
    """Hosts of them to which a server of the image went that is asked about."""


class _Shown(NamedTuple):
    at: float
    image_id: str
    first: dict[str, Any]
    """What the first HostState is made of: that one is not kept, so that it goes with Nova's last
    reference to it. A RequestSpec would not: oslo.versionedobjects' lists and dictionaries refer
    to the object that they are a field of, so it waits for the collection of garbage."""
    others: Sequence[Any]
    instances: list[Any]
    alive: weakref.ref[Any]


class _Made(NamedTuple):
    at: float
    image_id: str
    host: str


class Decisions(native.PerProcess):
    """Sees what became of what the weigher was shown; for all threads of a process."""

    def begin(self) -> None:
        """Begin anew."""
        super().begin()
        self._shown: dict[int, _Shown] = {}  # by the request's id()
        self._made: deque[_Made] = deque(maxlen=MOST_MADE)

    def show(
        self,
        now: float,
        image_id: str,
        request: Any,
        states: Sequence[Any],
        instances: list[Any],
    ) -> Fresh:
        """Take the candidates for a server, and return what was decided before.

        :param now: seconds of a clock that only grows.
        :param image_id: what the server's host will fetch; empty: nothing.
        :param request: Nova's RequestSpec, the same object for all servers of a request.
        :param states: HostStates, of this request alone.
        :param instances: of each HostState, its ``num_instances``.
        """
        with self._lock:
            _see(self._shown, self._made, id(request))
            self._forget(now)
            over = functools.partial(_see, self._shown, self._made, id(request))
            try:
                first, alive = vars(states[0]), weakref.ref(states[0], over)
            except (IndexError, TypeError):  # none, or none of Nova's
                pass
            else:
                shown = _Shown(now, image_id, first, states[1:], instances, alive)
                self._shown[id(request)] = shown
            made = [each for each in list(self._made) if now - each.at < COUNTS]
        return Fresh(
            Counter(each.host for each in made),
            frozenset(each.host for each in made if each.image_id == image_id),
        )

    def _forget(self, now: float) -> None:
        """Make room for a request, and wait no longer for what takes too long."""
        waiting = list(self._shown.items())
        room = MOST_REQUESTS - 1
        for rank, (key, shown) in enumerate(waiting):
            if now - shown.at >= COUNTS or len(waiting) - rank > room:
                self._shown.pop(key, None)
        while self._made and now - self._made[0].at >= COUNTS:
            self._made.popleft()


def _see(shown: dict[int, _Shown], made: deque[_Made], request: int, _: Any = None) -> None:
    """Note what came of what was shown for a request, if it was, and let its HostStates go.

    Takes no lock: it is called, too, where the last reference to a HostState goes, which may be in
    the collection of garbage, in a thread that holds the lock. Each step is atomic in CPython.
    """
    found = shown.pop(request, None)
    if found is not None:
        for host in _grown(found):
            made.append(_Made(found.at, found.image_id, host))


def _grown(shown: _Shown) -> list[str]:
    """Return the hosts on which an instance came: mostly one, or none."""
    try:
        first = shown.first["num_instances"]
        instances = [first, *[state.num_instances for state in shown.others]]
        if instances == shown.instances:
            return []
        hosts = [shown.first["host"], *[state.host for state in shown.others]]
        pairs = zip(hosts, shown.instances, instances, strict=True)
        return [host for host, before, after in pairs if after > before]
    except (AttributeError, KeyError, TypeError, ValueError):  # none of Nova's
        return []
