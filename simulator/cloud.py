"""Hosts with their image caches, builds and bandwidth; what Redis and Nova's records say of them.

A build follows nova/compute/manager.py and nova/virt/libvirt/imagebackend.py: it waits for one of
the host's builds to end (``max_concurrent_builds``), claims, fetches the image unless it is there
or on its way (Nova's lock on the file's name makes the second wait for the first), converts it to
raw, and boots. The image cache ages as in nova/virt/libvirt/imagecache.py.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping
from typing import Any

import simpy

from simulator.links import Link
from simulator.parameters import Parameters
from simulator.trace import Request


@functools.cache
def image_id(image: str) -> str:
    """Return the id that Glance would have given to a trace's image."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, image))


class Index:
    """What Redis says, that is: what agents and Nova said, a moment ago. Images by their ids."""

    def __init__(self, hosts: int, now: Callable[[], float]) -> None:
        self.hosts = hosts
        self.now = now
        self.held: defaultdict[str, set[str]] = defaultdict(set)
        self.coming: defaultdict[str, set[str]] = defaultdict(set)


@dataclasses.dataclass(eq=False)
class Server:
    """One server, with what became of it."""

    request: Request
    number: int
    """Its place in the trace: what is drawn for it is the same for all policies."""
    burst: int | None
    host: Host | None = None
    active_at: float | None = None
    hit: bool = False
    """The image was on the host when the build came to it."""

    @property
    def boot_seconds(self) -> float:
        """From the request to ACTIVE."""
        assert self.active_at is not None
        return self.active_at - self.request.time_s


class Host:
    """A compute host: what is claimed on it, what is in its cache."""

    def __init__(self, index: int, env: simpy.Environment, parameters: Parameters) -> None:
        self.index = index
        self.name = f"compute-{index:04}"
        halved = index % parameters.host_generations
        self.vcpus = parameters.host_vcpus >> halved
        self.cpu_allocation_ratio = parameters.cpu_allocation_ratio
        self.ram_mb = parameters.host_ram >> halved
        self.disk_gb = parameters.host_disk >> halved
        # placement's: what may be allocated still
        self.room = [
            int(self.vcpus * self.cpu_allocation_ratio),
            self.ram_mb - parameters.reserved_host_memory,
            self.disk_gb,
        ]
        self.slots = simpy.Resource(env, parameters.max_concurrent_builds)
        self.builds = 0
        """Builds on the host, those that wait included."""
        self.cache: dict[str, float] = {}
        """Image → when its file was touched last."""
        self.fetching: dict[str, simpy.Event] = {}
        self.servers: Counter[str] = Counter()
        """Image → servers on the host that use it."""
        # what nova-compute wrote into its record
        self.claimed = [0, 0, 0]
        self.num_instances = 0
        self.building = 0
        """``io_workload``: a build counts from its claim to the next periodic update, or to its
        server's deletion."""
        self.cache_bytes = 0
        self.disk_available_least = self.disk_gb
        self.updated_at = 0.0
        self.update_phase = 0.0
        self.update_due = False
        self.version = 0
        """Grows whenever the record is written."""

    def fits(self, request: Request) -> bool:
        """Say whether placement finds room for a server."""
        vcpus, ram, disk = self.room
        return request.vcpus <= vcpus and request.ram_mb <= ram and request.disk_gb <= disk

    def allocate(self, request: Request, sign: int = 1) -> None:
        """Take a server's room, or with -1 give it back."""
        for index, amount in enumerate((request.vcpus, request.ram_mb, request.disk_gb)):
            self.room[index] -= sign * amount

    def claim(self, request: Request, sign: int = 1) -> None:
        """Write a server into the host's record, or with -1 take it out."""
        for index, amount in enumerate((request.vcpus, request.ram_mb, request.disk_gb)):
            self.claimed[index] += sign * amount
        self.num_instances += sign
        self.servers[request.image] += sign
        self.version += 1


class Cloud:
    """All hosts on one clock."""

    def __init__(
        self,
        env: simpy.Environment,
        *,
        hosts: int,
        sizes: Mapping[str, int],
        parameters: Parameters,
        seed: int,
        observe: Callable[[float, float, float], None],
    ) -> None:
        """:param sizes: image → bytes.
        :param observe: told what Glance sent between two times, in bytes.
        """
        self._env = env
        self._sizes = sizes
        self._parameters = parameters
        self._seed = seed
        self.index = Index(hosts, lambda: float(env.now))
        self.hosts = [Host(number, env, parameters) for number in range(hosts)]
        self.bytes_from_glance = 0
        self.downloads = 0
        self.max_builds_one_host = 0
        self._glance = Link(
            env,
            total=parameters.glance_bandwidth,
            per_group=min(parameters.host_bandwidth, parameters.disk_write_bandwidth),
            per_flow=parameters.stream_bandwidth,
            observe=observe,
        )
        self._conversion = Link(
            env, per_group=parameters.disk_write_bandwidth, per_flow=parameters.conversion_speed
        )
        phases = random.Random(f"phases {seed}")
        for host in self.hosts:
            env.process(self._age(host, phases.random() * parameters.manager_interval))
            host.update_phase = phases.random() * parameters.resource_update_interval

    def build(self, server: Server) -> simpy.Process:
        """Build a server on the host that it was given; the process ends when it is ACTIVE."""
        return self._env.process(self._build(server))

    def _build(self, server: Server) -> Generator[simpy.Event, Any, None]:
        request, host, env = server.request, server.host, self._env
        assert host is not None
        host.builds += 1
        self.max_builds_one_host = max(self.max_builds_one_host, host.builds)
        with host.slots.request() as slot:
            yield slot
            host.building += 1
            host.claim(request)
            self._update_later(host)
            if request.image not in host.cache:
                self._say(self.index.coming, request.image, host, True)
            yield from self._fetch(server, host)
            host.cache[request.image] = env.now
            yield env.timeout(self._boot_seconds(server))
            if not self._parameters.agents:
                self._say_held(request.image, host)
            self._update_later(host)
        host.builds -= 1
        server.active_at = env.now
        if request.lifetime_s is not None:
            env.process(self._delete(request, host, request.lifetime_s))

    def _delete(
        self, request: Request, host: Host, lifetime: float
    ) -> Generator[simpy.Event, Any, None]:
        """Delete a server after its life."""
        built_at = self._env.now
        yield self._env.timeout(lifetime)
        if host.updated_at < built_at:  # its build counts still: Stats takes it out, state and all
            host.building -= 1
        host.claim(request, -1)
        host.allocate(request, -1)
        self._update_later(host)

    def _fetch(self, server: Server, host: Host) -> Generator[simpy.Event, Any, None]:
        """Get the image into the host's cache, unless it is there."""
        image = server.request.image
        server.hit = image in host.cache
        while image not in host.cache:
            if image in host.fetching:
                yield host.fetching[image]
                continue
            host.fetching[image] = through = self._env.event()
            size = server.request.image_bytes
            self.downloads += 1
            self.bytes_from_glance += size
            yield self._glance.transfer(host.index, size)
            yield self._conversion.transfer(host.index, size)
            host.cache[image] = self._env.now
            self._resize_cache(host, size)
            del host.fetching[image]
            through.succeed()
            if self._parameters.agents:
                self._say_held(image, host)

    def _resize_cache(self, host: Host, change: int) -> None:
        host.cache_bytes += change
        self._update_later(host)

    def _update_later(self, host: Host) -> None:
        """Have the next periodic update write what claims and deletions do not.

        That is ``disk_available_least`` (``_copy_resources`` in nova/compute/resource_tracker.py
        alone writes it), and which builds are through: at their end nova-compute saves the
        instance, not the host's record (``_build_and_run_instance`` in nova/compute/manager.py).
        """
        if host.update_due:
            return
        host.update_due = True

        def update(_: simpy.Event) -> None:
            host.update_due = False
            host.updated_at = self._env.now
            # libvirt's: the file system's free room, less what sparse disks may still grow by
            host.disk_available_least = host.disk_gb - host.claimed[2] - host.cache_bytes // 2**30
            host.building = host.slots.count
            host.version += 1

        interval = self._parameters.resource_update_interval
        self._after(interval - (self._env.now - host.update_phase) % interval, update)

    def _boot_seconds(self, server: Server) -> float:
        parameters = self._parameters
        rng = random.Random(f"boot {self._seed} {server.number}")
        return parameters.boot_seconds * rng.lognormvariate(0.0, parameters.boot_jitter)

    def _say_held(self, image: str, host: Host) -> None:
        self._say(self.index.held, image, host, True)
        self._say(self.index.coming, image, host, False)

    def _say_gone(self, image: str, host: Host) -> None:
        if self._parameters.agents:
            self._say(self.index.held, image, host, False)
            return
        # what is fetched again meanwhile is not predicted gone

        def predicted(_: simpy.Event) -> None:
            if image not in host.cache and image not in host.fetching:
                self._say(self.index.held, image, host, False)

        self._after(2 * self._parameters.manager_interval, predicted)

    def _say(self, where: dict[str, set[str]], image: str, host: Host, there: bool) -> None:
        """Have the index know, after its lag."""

        hosts = where[image_id(image)]

        def known(_: simpy.Event) -> None:
            (hosts.add if there else hosts.discard)(host.name)

        self._after(self._parameters.index_lag, known)

    def _after(self, seconds: float, act: Callable[[simpy.Event], None]) -> None:
        """Have something done later."""
        later: Any = self._env.timeout(seconds)
        later.callbacks.append(act)

    def _age(self, host: Host, phase: float) -> Generator[simpy.Event, Any, None]:
        """Nova's image cache manager: touch what servers use, remove what was not for long."""
        yield self._env.timeout(phase)
        while True:
            now = self._env.now
            for image, touched in list(host.cache.items()):
                if host.servers[image] > 0:
                    host.cache[image] = now
                elif now - touched >= self._parameters.minimum_age:
                    del host.cache[image]
                    self._resize_cache(host, -self._sizes[image])
                    self._say_gone(image, host)
            yield self._env.timeout(self._parameters.manager_interval)
