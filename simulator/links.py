"""Bandwidth shared fairly: max-min among flows that share one link and, in groups, another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import simpy

_LEFT_OVER = 1e-6
"""Bytes: less than this is rounding, not a rest to transfer."""


def fair_rates(
    counts: Mapping[int, int], total: float, per_group: float, per_flow: float
) -> dict[int, float]:
    """Return the rate of each flow in a group: max-min fair.

    All flows share ``total``, those of one group ``per_group``, and none is above ``per_flow``.
    What one cannot use the others get: the rates rise together until something bounds them
    (water-filling; exact here, as each flow passes one group and the one link).

    :param counts: group → number of its flows, none 0.
    :param total, per_group, per_flow: bytes per second.
    """
    limits = sorted((min(per_group / count, per_flow), group) for group, count in counts.items())
    left, flows = total, sum(counts.values())
    rates: dict[int, float] = {}
    for limit, group in limits:
        rate = min(limit, left / flows)
        rates[group] = rate
        left -= rate * counts[group]
        flows -= counts[group]
    return rates


@dataclasses.dataclass(eq=False)
class _Flow:
    group: int
    left: float
    done: simpy.Event


class Link:
    """Transfers on a shared link, on simpy's clock."""

    def __init__(
        self,
        env: simpy.Environment,
        *,
        total: float = math.inf,
        per_group: float,
        per_flow: float,
        observe: Callable[[float, float, float], None] = lambda begin, end, sent: None,
    ) -> None:
        """:param observe: told what was sent between two times, in bytes."""
        self._env = env
        self._bounds = total, per_group, per_flow
        self._observe = observe
        self._flows: list[_Flow] = []
        self._rates: dict[int, float] = {}
        self._since = 0.0
        self._plan = 0

    def transfer(self, group: int, size: float) -> simpy.Event:
        """Begin a transfer of so many bytes; the event comes when it is through."""
        done = self._env.event()
        self._advance()
        self._flows.append(_Flow(group, size, done))
        self._replan()
        return done

    def _advance(self) -> None:
        """Take off what was sent since the last time."""
        now = self._env.now
        elapsed = now - self._since
        if elapsed > 0 and self._flows:
            sent = 0.0
            for flow in self._flows:
                part = self._rates[flow.group] * elapsed
                flow.left -= part
                sent += part
            self._observe(self._since, now, sent)
        self._since = now

    def _replan(self) -> None:
        """Share the link anew, and wake when the next transfer is through."""
        self._plan += 1
        if not self._flows:
            return
        counts: dict[int, int] = {}
        for flow in self._flows:
            counts[flow.group] = counts.get(flow.group, 0) + 1
        self._rates = fair_rates(counts, *self._bounds)
        wait = min(flow.left / self._rates[flow.group] for flow in self._flows)
        wake: Any = self._env.timeout(max(0.0, wait), self._plan)
        wake.callbacks.append(self._wake)

    def _wake(self, event: simpy.Event) -> None:
        if event.value != self._plan:
            return  # something began meanwhile, and another wake is planned
        self._advance()
        # what is left for less than a microsecond is rounding of the clock
        through = [f for f in self._flows if f.left <= max(_LEFT_OVER, self._rates[f.group] * 1e-6)]
        self._flows = [flow for flow in self._flows if flow not in through]
        for flow in through:
            flow.done.succeed()
        self._replan()
