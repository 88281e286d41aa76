"""Where this process of nova-scheduler sent servers that no host has reported yet.

A weigher is never told which host was chosen. But Nova consumes from the chosen HostState
(``consume_from_request`` in nova/scheduler/host_manager.py adds 1 to ``num_instances``) and makes
HostStates anew for each request: so of those that the weigher was shown, the one that has grown
since is where that server went. What other processes decide is seen when the build begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from weigher import native

COUNTS = 10.0
"""Seconds for which a decision counts: by then the host's own record has the build, and the index
that the image is on its way; and for which one is waited for: a request is through, or has failed.
"""
MOST_SHOWN = 4_000
"""HostStates of several calls that are kept to see what becomes of them. Those of the last call are
kept whatever their number, until the next one."""
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
    states: Sequence[Any]
    instances: list[Any]


class Decisions(native.PerProcess):
    """Sees what became of what the weigher was shown; for all threads of a process."""

    def begin(self) -> None:
        """Begin anew."""
        super().begin()
        self._shown: list[_Shown] = []
        self._made: list[tuple[float, str, str]] = []

    def show(self, now: float, image_id: str, states: Sequence[Any], instances: list[Any]) -> Fresh:
        """Take the candidates for a server, and return what was decided before.

        :param now: seconds of a clock that only grows.
        :param image_id: what the server's host will fetch; empty: nothing.
        :param instances: of each HostState, its ``num_instances``.
        """
        with self._lock:
            self._learn(now)
            self._shown.append(_Shown(now, image_id, states, instances))
            made = [each[1:] for each in self._made]
        return Fresh(
            Counter(host for _, host in made),
            frozenset(host for image, host in made if image == image_id),
        )

    def _learn(self, now: float) -> None:
        """See what came of what was shown, as far as room and time allow to wait for it."""
        kept: list[_Shown] = []
        room = MOST_SHOWN
        for shown in reversed(self._shown):
            grown = _grown(shown)
            self._made += [(shown.at, shown.image_id, host) for host in grown]
            room -= len(shown.states)
            if not grown and now - shown.at < COUNTS and room >= 0:
                kept.append(shown)
        self._shown = kept[::-1]
        self._made = [made for made in self._made[-MOST_MADE:] if now - made[0] < COUNTS]


def _grown(shown: _Shown) -> list[str]:
    """Return the hosts on which an instance came: mostly one, or none yet."""
    try:
        instances = [state.num_instances for state in shown.states]
        if instances == shown.instances:
            return []
        pairs = zip(shown.states, shown.instances, instances, strict=True)
        return [state.host for state, before, after in pairs if after > before]
    except (AttributeError, TypeError):  # none of Nova's
        return []
