"""To compare with, not a policy: who knows the whole trace puts each image on few hosts.

It knows each image's largest demand (the RAM of its servers at the fullest moment, were they to
live from the request on), sees allocations without lag, and ignores Nova's weighers. Each image has
its own hosts: its servers go to the one of them with most free RAM, and when none has room another
host is added, the one with the least demand assigned so far. So an image is fetched again only when
its hosts are full or its file aged out. It is greedy, so no bound: a better placement may exist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from simulator.cloud import Host
from simulator.trace import Request


def demands(requests: Sequence[Request]) -> dict[str, int]:
    """Return for each image the RAM in MiB of its servers at the fullest moment."""
    changes: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for request in requests:
        ram = request.ram_mb * request.count
        changes[request.image].append((request.time_s, ram))
        if request.lifetime_s is not None:
            changes[request.image].append((request.time_s + request.lifetime_s, -ram))
    found = {}
    for image, each in changes.items():
        used = most = 0
        for _, change in sorted(each):
            used += change
            most = max(most, used)
        found[image] = most
    return found


class Choice:
    """Hosts for one request: as :class:`simulator.nova_scheduler.Choice`."""

    def __init__(self, scheduler: Clairvoyant, request: Request) -> None:
        self._scheduler, self._request = scheduler, request
        self.candidates = len(scheduler.hosts)

    def best(self) -> Host | None:
        """Return a host for one server; None: there is no room."""
        return self._scheduler.choose(self._request)

    def consume(self) -> None:
        """Nothing: allocations are seen at once."""


class Clairvoyant:
    """Stands where a scheduler's process stands."""

    def __init__(self, hosts: Sequence[Host], requests: Sequence[Request]) -> None:
        """Take the whole trace."""
        self.hosts = list(hosts)
        self._demand = demands(requests)
        self._own: defaultdict[str, list[Host]] = defaultdict(list)
        self._assigned: defaultdict[int, float] = defaultdict(float)

    def begin(self, request: Request) -> Choice:
        """Stand ready to choose a host for each server of a request."""
        return Choice(self, request)

    def choose(self, request: Request) -> Host | None:
        """Return the host for one server; None: there is no room."""
        own = self._own[request.image]
        fitting = [host for host in own if host.fits(request)]
        if fitting:
            return max(fitting, key=lambda host: host.room[1])
        others = [host for host in self.hosts if host not in own and host.fits(request)]
        if not others:
            return None
        host = min(others, key=lambda host: (self._assigned[host.index], -host.room[1]))
        room = host.ram_mb
        self._assigned[host.index] += min(self._demand[request.image], room)
        self._demand[request.image] = max(0, self._demand[request.image] - room)
        own.append(host)
        return host
