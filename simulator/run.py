"""One trace under one policy: the whole simulation, and what is told of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import simpy

from simulator import nova_scheduler, policies
from simulator.clairvoyant import Clairvoyant
from simulator.cloud import Cloud, Host, Server
from simulator.parameters import Parameters
from simulator.trace import Request, bursts

_INTERVAL = 600.0
"""Seconds: how often hosts are looked at, and what Glance's traffic is summed up for; less where a
trace is shorter than a hundred of it."""


@dataclasses.dataclass
class Outcome:
    """What a run gave: figures for the JSON, and series for pictures."""

    figures: dict[str, float]
    boots: list[float]
    """Seconds from the request to ACTIVE, sorted."""
    interval: float
    """Seconds of ``traffic`` and ``ram``."""
    traffic: list[float]
    """Bytes that Glance sent in each interval."""
    ram: list[list[int]]
    """For each sample, RAM in MiB allocated on each host."""


def run(
    requests: Sequence[Request], policy: str, hosts: int, seed: int, parameters: Parameters
) -> Outcome:
    """Run a trace to its last boot."""
    simulation = _Simulation(requests, policy, hosts, seed, parameters)
    return simulation.run()


class _Process(NamedTuple):
    """One of nova-scheduler's."""

    scheduler: Any
    threads: simpy.Resource
    processor: simpy.Resource


class _Simulation:
    def __init__(
        self,
        requests: Sequence[Request],
        policy: str,
        hosts: int,
        seed: int,
        parameters: Parameters,
    ) -> None:
        self._env = simpy.Environment()
        self._requests = requests
        self._parameters = parameters
        self._interval = min(_INTERVAL, max(1.0, requests[-1].time_s / 100))
        self._traffic: list[float] = []
        self._ram: list[list[int]] = []
        self._servers: list[Server] = []
        self._failed = 0
        sizes = {request.image: request.image_bytes for request in requests}
        self._cloud = Cloud(
            self._env,
            hosts=hosts,
            sizes=sizes,
            parameters=parameters,
            seed=seed,
            observe=self._sent,
        )
        self._schedulers: list[Any]
        if policy == policies.CLAIRVOYANT:
            self._schedulers = [Clairvoyant(self._cloud.hosts, requests)]
        else:
            self._schedulers = [
                nova_scheduler.Worker(
                    self._cloud.hosts,
                    nova_scheduler.default_weighers()
                    + policies.POLICIES[policy](self._cloud.index),
                    seed * 1000 + worker,
                )
                for worker in range(parameters.scheduler_workers)
            ]

    def run(self) -> Outcome:
        env = self._env
        env.process(self._sample())
        env.run(until=env.process(self._arrivals()))
        return Outcome(
            figures=self._figures(),
            boots=sorted(server.boot_seconds for server in self._servers),
            interval=self._interval,
            traffic=self._traffic,
            ram=self._ram,
        )

    def _arrivals(self) -> Generator[simpy.Event, Any, None]:
        """Hand the requests to the scheduler's processes in turn; end with the last boot."""
        env = self._env
        processes = [
            _Process(
                scheduler,
                threads=simpy.Resource(env, self._parameters.requests_at_once),
                processor=simpy.Resource(env, 1),
            )
            for scheduler in self._schedulers
        ]
        turn = itertools.cycle(processes)
        number = 0
        boots = []
        for request, burst in zip(self._requests, bursts(self._requests), strict=True):
            yield env.timeout(max(0.0, request.time_s - env.now))
            boots.append(env.process(self._handle(request, burst, number, next(turn))))
            number += request.count
        yield env.all_of(boots)

    def _handle(
        self, request: Request, burst: int | None, number: int, process: _Process
    ) -> Generator[simpy.Event, Any, None]:
        """Schedule a request, send its servers to their hosts, and wait for the last boot."""
        env, parameters = self._env, self._parameters
        with process.threads.request() as thread:
            yield thread
            hosts = yield from self._select(request, process)
        if len(hosts) < request.count:
            for host in hosts:
                host.allocate(request, -1)
            self._failed += request.count
            return
        yield env.timeout(parameters.dispatch_seconds)
        active = []
        for offset, host in enumerate(hosts):
            server = Server(request, number + offset, burst, host)
            self._servers.append(server)
            active.append(self._cloud.build(server))
            yield env.timeout(parameters.dispatch_each_seconds)
        yield env.all_of(active)

    def _select(
        self, request: Request, process: _Process
    ) -> Generator[simpy.Event, Any, list[Host]]:
        """Return the allocated hosts of a request's servers; fewer: there is no room for more."""
        env, parameters = self._env, self._parameters
        yield env.timeout(parameters.request_waiting)
        choice = process.scheduler.begin(request)
        per_host = parameters.request_work_per_host * choice.candidates
        with process.processor.request() as turn:
            yield turn
            yield env.timeout(parameters.request_work + per_host)
        hosts: list[Host] = []
        for _ in range(request.count):
            with process.processor.request() as turn:
                yield turn
                per_host = parameters.weigh_work_per_host * choice.candidates
                yield env.timeout(parameters.weigh_work + per_host)
                host = choice.best()
            if host is None:
                break
            host.allocate(request)
            hosts.append(host)
            yield env.timeout(parameters.claim_waiting)
            choice.consume()
        return hosts

    def _sample(self) -> Generator[simpy.Event, Any, None]:
        while True:
            self._ram.append(
                [
                    host.ram_mb - self._parameters.reserved_host_memory - host.room[1]
                    for host in self._cloud.hosts
                ]
            )
            yield self._env.timeout(self._interval)

    def _sent(self, begin: float, end: float, size: float) -> None:
        """Spread what Glance sent over the intervals that it was sent in."""
        width = self._interval
        first, last = int(begin // width), int(end // width)
        self._traffic += [0.0] * (last + 1 - len(self._traffic))
        for interval in range(first, last + 1):
            low = max(begin, interval * width)
            high = min(end, (interval + 1) * width)
            self._traffic[interval] += size * (high - low) / (end - begin)

    def _figures(self) -> dict[str, float]:
        boots = sorted(server.boot_seconds for server in self._servers)
        spans: dict[int, float] = {}
        begins: dict[int, float] = {}
        for server in self._servers:
            if server.burst is not None and server.active_at is not None:
                begins[server.burst] = min(
                    begins.get(server.burst, math.inf), server.request.time_s
                )
                spans[server.burst] = max(spans.get(server.burst, 0.0), server.active_at)
        makespans = [spans[burst] - begins[burst] for burst in spans]
        deviation = sum(statistics.pstdev(sample) for sample in self._ram)
        mean = sum(statistics.fmean(sample) for sample in self._ram)
        return {
            "bytes_from_glance": self._cloud.bytes_from_glance,
            "downloads": self._cloud.downloads,
            "hit_share": sum(server.hit for server in self._servers) / max(1, len(self._servers)),
            "boot_p50_s": percentile(boots, 50),
            "boot_p95_s": percentile(boots, 95),
            "boot_p99_s": percentile(boots, 99),
            "burst_makespan_s": statistics.fmean(makespans) if makespans else 0.0,
            "max_builds_one_host": self._cloud.max_builds_one_host,
            "ram_cv": deviation / mean if mean else 0.0,
            "failed": self._failed,
        }


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that ``part`` percent of the sorted values do not exceed."""
    if not values:
        return 0.0
    return values[max(0, math.ceil(len(values) * part / 100) - 1)]
