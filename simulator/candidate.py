"""What a cached image is worth on a host: pure functions over plain values.

The candidate for ``weigher/policy.py``. A host's score is the product of four shares, each from 0
to 1:

- what the image saves: nothing up to ``small_image_size``, all from ``large_image_size`` on;
- 1 where the host holds it, ``ON_ITS_WAY`` where it is on its way there: the rest of the download
  is still to be waited for;
- how little the host builds: 1 with no build, 0 with ``most_builds``. Builds share the host's disk,
  network and Nova's build slots, and a burst would else fill one host;
- how much RAM the host would have left with the server on it: 1 down to the mean of the candidates,
  then falling to 0 where it lacks more than the image is worth: for an image of
  ``large_image_size``, ``most_imbalance`` of the largest free RAM; for others by the square root
  of their size, as what an unevenness costs grows with its square. So nothing is gained on hosts
  that are much fuller than others, and Nova's spread stays what it was.

So the first server of a burst goes where Nova wants it, the next ones follow it until that host has
its builds or its RAM, then one more host fetches the image, and so on: about as many hosts fetch as
the burst has servers, divided by ``most_builds``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

MULTIPLIER = 5.0
ON_ITS_WAY = 0.8


class Host(NamedTuple):
    """What is known of one candidate."""

    holds: bool
    """The image is in its cache."""
    on_its_way: bool
    """The host fetches it, or a server that needs it was sent there just now."""
    builds: int
    """Builds on it: ``num_io_ops``, or what was sent there just now, if that is more."""
    free_ram_mb: float


class Options(NamedTuple):
    """Operators' options, in bytes and shares."""

    small_image: float = 100 * 2**20
    large_image: float = 2 * 2**30
    most_builds: float = 4.0
    most_imbalance: float = 0.06


def weights(size: int, ram_mb: float, hosts: Sequence[Host], options: Options) -> list[float]:
    """Return the weight of each host, from 0 to 1; all 0 where all are alike.

    :param size: the image's, in bytes.
    :param ram_mb: the server's.
    """
    saved = saving(size, options.small_image, options.large_image)
    if saved == 0.0 or not any(host.holds or host.on_its_way for host in hosts):
        return [0.0] * len(hosts)
    mean = sum(host.free_ram_mb for host in hosts) / len(hosts)
    tolerated = (
        options.most_imbalance
        * math.sqrt(size / options.large_image)
        * max(host.free_ram_mb for host in hosts)
    )
    found = [
        saved
        * there(host)
        * idleness(host.builds, options.most_builds)
        * room(mean - (host.free_ram_mb - ram_mb), tolerated)
        for host in hosts
    ]
    return [0.0] * len(hosts) if len(set(found)) == 1 else found


def saving(size: float, small: float, large: float) -> float:
    """Return what an image saves that need not be fetched; see weigher/policy.py."""
    if size <= small:
        return 0.0
    if size >= large:
        return 1.0
    return (size - small) / (large - small)


def there(host: Host) -> float:
    """Return which part of the time to fetch the image is saved on a host."""
    if host.holds:
        return 1.0
    return ON_ITS_WAY if host.on_its_way else 0.0


def idleness(builds: float, most: float) -> float:
    """Return what is left of a host's worth with so many builds on it.

    The cube keeps it near 1 until shortly before ``most``: Nova's I/O weigher takes its evenly
    rising part already, and would else send a burst's third server to a host of its own.
    """
    return max(0.0, 1.0 - (builds / most) ** 3)


def room(lacking: float, tolerated: float) -> float:
    """Return what is left of a host's worth that lacks so much of the mean free RAM."""
    if tolerated <= 0.0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - lacking / tolerated))


class Decisions:
    """Where this process of nova-scheduler sent servers that no host has reported yet.

    A weigher is never told which host was chosen. But Nova consumes from the chosen HostState
    (``consume_from_request`` in nova/scheduler/host_manager.py adds 1 to ``num_instances``) and
    makes HostStates anew for each request: so of those that the weigher was shown, the one that
    has grown since is where that server went. What other processes decide is seen when its
    build begins.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        """:param seconds: how long one counts: until the host has surely begun to build."""
        self._seconds = seconds
        self._shown: tuple[float, str, list[tuple[State, int]]] = 0.0, "", []
        self._made: list[tuple[float, str, str]] = []

    def learn(self, now: float) -> None:
        """See what came of what was shown last."""
        when, image, shown = self._shown
        self._made += (
            (when, image, state.host) for state, before in shown if state.num_instances > before
        )
        self._shown = 0.0, "", []
        self._made = [made for made in self._made if made[0] > now - self._seconds]

    def show(self, now: float, image: str, states: Iterable[State]) -> None:
        """Remember what the weigher is shown for a server of an image."""
        self._shown = now, image, [(state, state.num_instances) for state in states]

    def count(self) -> tuple[Counter[str], set[tuple[str, str]]]:
        """Return how many servers were sent to each host, and which (image, host) that makes."""
        return Counter(host for _, _, host in self._made), {made[1:] for made in self._made}


class State(Protocol):
    """What is read of Nova's HostState."""

    host: str
    num_instances: int
