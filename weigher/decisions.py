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
import itertools
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from weigher import native

COUNTS = 10.0
"""Seconds for which a decision counts: by then the host's own record has the build, and the index
that the image is on its way; and for which one is waited for: a request is through, or has failed.
"""
BURST = 2.0
"""Seconds after which a server of the same image is no longer of the same burst."""
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
    begun: frozenset[str]
    """Hosts of these to which one went within :data:`BURST`."""


class _Shown(NamedTuple):
    at: float
    image_id: str
    request: int
    """Its ``id()``."""
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
        self._numbers = itertools.count()
        self._shown: dict[int, _Shown] = {}  # by a number that is never used again
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
            self._look(now, id(request))
            number = next(self._numbers)
            over = functools.partial(_see, self._shown, self._made, number)
            try:
                first, alive = vars(states[0]), weakref.ref(states[0], over)
            except (IndexError, TypeError):  # none, or none of Nova's
                pass
            else:
                self._shown[number] = _Shown(
                    now, image_id, id(request), first, states[1:], instances, alive
                )
            made = [each for each in list(self._made) if now - each.at < COUNTS]
        return Fresh(
            Counter(each.host for each in made),
            frozenset(each.host for each in made if each.image_id == image_id),
            frozenset(
                each.host for each in made if each.image_id == image_id and now - each.at < BURST
            ),
        )

    def _look(self, now: float, request: int) -> None:
        """See what came of a request's last server, and of what is waited for no longer: it takes
        too long, or there is no room."""
        # a list of pairs may begin the collection of garbage while it is made, and so change this
        waiting = list(self._shown)
        for rank, number in enumerate(waiting):
            shown = self._shown.get(number)
            if shown is not None and (
                shown.request == request
                or now - shown.at >= COUNTS
                or len(waiting) - rank >= MOST_REQUESTS
            ):
                _see(self._shown, self._made, number)
        while self._made and now - self._made[0].at >= COUNTS:
            self._made.popleft()


def _see(shown: dict[int, _Shown], made: deque[_Made], number: int, _: Any = None) -> None:
    """Note what came of what was shown, if it was, and let its HostStates go.

    Takes no lock: it is called, too, where the last reference to a HostState goes, which may be in
    the collection of garbage, in a thread that holds the lock. Each step is atomic in CPython.
    """
    found = shown.pop(number, None)
    if found is not None:
        for host in _grown(found):
            made.append(_Made(found.at, found.image_id, host))


def _grown(shown: _Shown) -> list[str]:
    """Return the hosts on which instances came, once for each: mostly one, or none."""
    try:
        first = shown.first["num_instances"]
        instances = [first, *[state.num_instances for state in shown.others]]
        if instances == shown.instances:
            return []
        found: list[str] = []
        for place, (before, after) in enumerate(zip(shown.instances, instances, strict=True)):
            if after > before:
                state = vars(shown.others[place - 1]) if place else shown.first
                # taken back where a request finds no host for one of its servers: Nova has the
                # HostState read anew then (_ensure_sufficient_hosts in nova/scheduler/manager.py)
                if state.get("updated", "never told") is not None:
                    # several: Nova does not weigh for a server that has one candidate
                    found += [state["host"]] * min(after - before, MOST_MADE)
        return found
    except (AttributeError, KeyError, TypeError, ValueError):  # none of Nova's
        return []
