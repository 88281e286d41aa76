"""How much is measured: the goals' own sizes, or, for a first look, less."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """Counts; see where each is used. ``calls`` is divided by the number of hosts."""

    candidates: tuple[int, ...] = (1000, 10_000)
    rounds: int = 15
    calls: int = 20_000
    known_images: int = 100_000
    messages: int = 20_000
    bus_rounds: int = 3
    backlog: int = 200_000
    paced: int = 20_000
    agents: int = 10_000
    densities: tuple[float, ...] = (0.01, 0.05, 0.5)


FULL = Size()
QUICK = Size(
    rounds=7,
    calls=5_000,
    messages=6_000,
    bus_rounds=2,
    backlog=20_000,
    paced=4_000,
    agents=1_000,
    densities=(0.01, 0.05),
)
