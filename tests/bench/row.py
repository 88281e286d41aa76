"""A figure of ours beside its peer's, and how the two are taken in turns."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    ``goal`` is the most that ``ratio`` (ours to the peer's) may be; with ``bounds="ours"`` the most
    that ``ours`` may be, with ``at_least`` the least of it. None: no goal, the figure is for
    reading. ``spread``: the smallest and largest ratio of all rounds.
    """

    figure: str
    ours: float
    peer: float | None
    unit: str
    goal: float | None = None
    bounds: str = "ratio"
    at_least: bool = False
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None: there is none."""
        judged = self.ratio if self.bounds == "ratio" else self.ours
        if self.goal is None or judged is None:
            return None
        return judged >= self.goal if self.at_least else judged <= self.goal

    @property
    def says(self) -> str:
        """The goal for people."""
        if self.goal is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.goal:.3g} " + (
            "x" if self.bounds == "ratio" else self.unit
        )

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "figure": self.figure,
            "ours": self.ours,
            "peer": self.peer,
            "unit": self.unit,
            "ratio": self.ratio,
            "goal": self.says,
            "holds": self.holds,
            "spread": self.spread,
            "note": self.note,
        }


def beside(
    figure: str, rounds: Iterable[Sequence[float]], unit: str, goal: float | None, **more: Any
) -> Row:
    """Return the row of some rounds of (ours, peer): medians, and the median of the ratios."""
    rounds = list(rounds)
    ratios = [ours / peer for ours, peer in rounds]
    return Row(
        figure,
        statistics.median(ours for ours, _ in rounds),
        statistics.median(peer for _, peer in rounds),
        unit,
        goal,
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        **more,
    )


def alternate(rounds: int, *measures: Callable[[], float]) -> list[tuple[float, ...]]:
    """Measure in turns, A B A B: what else the machine does meets all of them alike.

    Each round begins with another one, since the first may find the caches cold.
    """
    found = []
    for number in range(rounds):
        figures = [0.0] * len(measures)
        for step in range(len(measures)):
            place = (number + step) % len(measures)
            gc.collect()  # the garbage of one is not the other's work
            figures[place] = measures[place]()
        found.append(tuple(figures))
    return found


clock = time.perf_counter
"""The wall's; ``--processor-time`` puts that of this process' threads here."""


def milliseconds(call: Callable[[], object], times: int = 1) -> float:
    """Return what a call takes by :data:`clock`, the median of some times.

    Of more than one; a first one that is not counted fills the processor's caches.
    """
    took = []
    if times > 1:
        call()
    for _ in range(times):
        start = clock()
        call()
        took.append(1000 * (clock() - start))
    return statistics.median(took)
