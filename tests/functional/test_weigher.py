"""The weigher among Nova's own, with a real Redis and a real Valkey.

Nova's classes throughout: HostWeightHandler loads the weigher by its dotted path, as HostManager
does, and ranks HostStates for a RequestSpec.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import os
import random
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nova.conf
import pytest
from nova import objects
from nova.scheduler import host_manager, weights

from bus_cache import conf, names
from bus_cache.conf import opts
from bus_cache.index import changes, writer
from tests import servers
from weigher import guard, native, recent

CONF = nova.conf.CONF
GIB = 2**30
LARGE, TINY = 8 * GIB, 10 * 2**20
HANG = 20.0
"""Seconds after which a call counts as hanging: 400 times its time budget."""

Configure = Callable[..., Path]
Rank = list[tuple[str, float]]

objects.register_all()


class Scheduler:
    """Nova's weighers set up as HostManager does it, with or without ours at the end."""

    def __init__(self, *, ours: bool = True) -> None:
        self._handler = weights.HostWeightHandler()
        paths = ["nova.scheduler.weights.all_weighers"] + ["weigher.ImageCacheWeigher"] * ours
        self._weighers = [cls() for cls in self._handler.get_matching_classes(paths)]
        self.ours = self._weighers[-1]

    def rank(self, hosts: list[host_manager.HostState], spec: objects.RequestSpec) -> Rank:
        """Return hosts and their weights, best first."""
        ranked = self._handler.get_weighed_objects(self._weighers, hosts, spec)
        return [(weighed.obj.host, weighed.weight) for weighed in ranked]

    def weigh(self, hosts: list[host_manager.HostState], spec: object) -> list[float]:
        """Return what our weigher alone says, for requests that Nova's own could not take."""
        weighed = [weights.WeighedHost(host, 0.0) for host in hosts]
        result: list[float] = self.ours.weigh_objects(weighed, spec)
        return result


def nova_alone(hosts: list[host_manager.HostState], spec: objects.RequestSpec) -> Rank:
    """Return the ranking without our weigher."""
    return Scheduler(ours=False).rank(hosts, spec)


def make_hosts(count: int) -> list[host_manager.HostState]:
    """Return hosts that differ in what Nova weighs by default, but not in what our policy reads:
    for a server without RAM each has a weight of 1 or 0."""
    dice = random.Random(count)
    hosts = []
    for number in range(count):
        host = host_manager.HostState(f"compute{number}", f"node{number}", uuid.UUID(int=1))
        host.total_usable_ram_mb, host.free_ram_mb = 65536, 32768
        host.total_usable_disk_gb, host.free_disk_mb = 1000, dice.randrange(1000 * 1024)
        host.vcpus_total, host.vcpus_used = 32, dice.randrange(32)
        host.num_io_ops, host.num_instances = 0, dice.randrange(30)
        host.cpu_allocation_ratio = host.ram_allocation_ratio = host.disk_allocation_ratio = 1.0
        host.hypervisor_version = 8000000
        hosts.append(host)
    return hosts


def make_spec(
    image: objects.ImageMeta | None, ram_mb: int = 0, **fields: Any
) -> objects.RequestSpec:
    """Return a request for a server of that image."""
    flavor = objects.Flavor(
        vcpus=1, memory_mb=ram_mb, root_gb=1, ephemeral_gb=0, swap=0, extra_specs={}
    )
    fields = {"is_bfv": False, **fields}
    return objects.RequestSpec(
        image=image,
        flavor=flavor,
        num_instances=1,
        instance_uuid=str(uuid.uuid4()),
        pci_requests=None,
        numa_topology=None,
        instance_group=None,
        scheduler_hints={},
        **fields,
    )


def make_image(size: int | None = LARGE, **fields: Any) -> objects.ImageMeta:
    """Return an image as Nova makes it of what Glance says."""
    return objects.ImageMeta.from_dict(
        {"id": str(uuid.uuid4()), "size": size, "disk_format": "qcow2", "properties": {}, **fields}
    )


@pytest.fixture(scope="module", params=[servers.Redis, servers.Valkey], ids=["redis", "valkey"])
def shared(request: pytest.FixtureRequest) -> Iterator[servers.Redis]:
    """A server for the whole module."""
    with request.param() as server:
        yield server


@pytest.fixture
def server(shared: servers.Redis) -> servers.Redis:
    """That server, running and empty."""
    shared.start()
    with shared.client() as client:
        client.flushall()
        client.config_resetstat()
    return shared


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each call ask Redis, as if it were the first one of its moment."""
    monkeypatch.setattr(recent, "FRESH", 0.0)


@pytest.fixture
def configure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Configure]:
    """Return a function that has Nova read a nova.conf with our options in it.

    The time budget is 10 s where none is given: on a busy machine a good Redis may be late.
    """
    caplog.set_level(logging.DEBUG, logger="weigher")
    path = tmp_path / "nova.conf"

    def configure(url: str, keyspace: str = "bus_cache", **options: object) -> Path:
        lines = ["[bus_cache]", f"redis_url = {url}", f"keyspace = {keyspace}"]
        lines += ["connect_timeout = 60", "read_timeout = 60"]  # for the consumer: never for us
        options = {"time_budget": 10, **options}
        lines += ["[image_cache_weigher]", *(f"{k} = {v}" for k, v in options.items())]
        path.write_text("\n".join(lines) + "\n")
        CONF([], project="nova", default_config_files=[str(path)])
        return path

    yield configure
    end_weighers()
    CONF([], project="nova", default_config_files=[])


def end_weighers() -> None:
    """End the threads of all weighers of this process.

    One whose Redis is away connects anew by what nova.conf says then: with the next test's, to its
    server.
    """
    for each in list(native._all):
        if isinstance(each, guard.Guard) and each._asker is not None:
            each._asker.end()
            each._asker._thread.join(HANG)


def hold(image: objects.ImageMeta, *hosts: str) -> None:
    """Put into the index, as the consumer does, that hosts hold an image."""
    conf.register(CONF, opts.WEIGHER_GROUPS)
    with contextlib.closing(conf.redis_client(CONF)) as client:
        index = writer.Writer(client, CONF.bus_cache.keyspace)
        held = [changes.Held(host, image.id, 1, changes.Source.CREATE) for host in hosts]
        assert index.apply(held) == []


def commands(server: servers.Redis) -> dict[str, int]:
    """Return how often each command arrived since the start of the test, ours excepted."""
    with server.client(protocol=2) as client:  # needs no HELLO
        counted = client.info("commandstats")
    counts = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in counted.items()}
    mine = {"info", "flushall", "config|resetstat", "client|setinfo"}
    return {name: count for name, count in counts.items() if name not in mine}


def connections(server: servers.Redis) -> int:
    """Return how many connections the server ever took, this one included."""
    with server.client() as client:
        return int(client.info("stats")["total_connections_received"])


def wait_until_known(scheduler: Scheduler) -> None:
    """Wait until a probe in the background found Redis well again."""
    deadline = time.monotonic() + HANG
    while scheduler.ours.counters.opened > scheduler.ours.counters.closed:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what the weigher logged at a level."""
    return [r.getMessage() for r in caplog.records if r.name == "weigher" and r.levelno == level]


# Who wins.


def test_holders_of_a_large_image_win(server: servers.Redis, configure: Configure) -> None:
    """Both holders lead, in Nova's order; the others follow, in Nova's order."""
    configure(server.url)
    hosts, image = make_hosts(20), make_image()
    spec = make_spec(image)
    plain = nova_alone(hosts, spec)
    holders = [plain[11][0], plain[17][0]]
    hold(image, *holders)

    expected = [(host, weight + 5.0) for host, weight in plain if host in holders]
    expected += [(host, weight) for host, weight in plain if host not in holders]
    assert Scheduler().rank(hosts, spec) == expected


def test_weight_grows_with_the_size(server: servers.Redis, configure: Configure) -> None:
    """The options are MiB, the sizes bytes."""
    configure(server.url, small_image_size=1024, large_image_size=3072)
    scheduler, hosts = Scheduler(), make_hosts(2)
    for size, weight in [(GIB, 0.0), (GIB + 1, 1 / (2 * GIB)), (2 * GIB, 0.5), (3 * GIB, 1.0)]:
        image = make_image(size)
        hold(image, "compute1")
        assert scheduler.weigh(hosts, make_spec(image)) == [0.0, weight]


def test_keyspaces_are_apart(server: servers.Redis, configure: Configure) -> None:
    """What another cloud's hosts hold weighs nothing here."""
    image = make_image()
    configure(server.url, keyspace="another")
    hold(image, "compute1")
    configure(server.url)
    assert Scheduler().weigh(make_hosts(2), make_spec(image)) == [0.0, 0.0]


def test_what_a_call_sends(server: servers.Redis, configure: Configure) -> None:
    """Whatever the number of hosts, two commands, on one connection."""
    configure(server.url)
    image, hosts, scheduler = make_image(), make_hosts(500), Scheduler()
    hold(image, "compute7")
    scheduler.weigh(hosts, make_spec(image))
    with server.client() as client:
        client.config_resetstat()
    for _ in range(10):
        assert scheduler.weigh(hosts, make_spec(image))[7] == 1.0
    assert commands(server) == {"smismember": 10, "zrange": 10}


def test_an_image_is_asked_for_once_per_moment(
    server: servers.Redis, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And hosts that were not among the candidates before, once."""
    monkeypatch.setattr(recent, "FRESH", HANG)
    configure(server.url)
    image, other, hosts, scheduler = make_image(), make_image(), make_hosts(10), Scheduler()
    hold(image, "compute1", "compute7")
    for candidates, asked in [(hosts[:5], 1), (hosts[1:3], 1), (hosts, 2), (hosts, 2)]:
        for _ in range(3):
            weights = scheduler.weigh(candidates, make_spec(image))
            assert weights == [float(h.host in ("compute1", "compute7")) for h in candidates]
            assert commands(server)["smismember"] == asked
    assert scheduler.weigh(hosts, make_spec(other)) == [0.0] * 10
    assert commands(server)["smismember"] == 3
    counters = scheduler.ours.counters
    assert (counters.known, counters.remembered, counters.unknown) == (13, 10, 0)


def test_an_answer_counts_for_its_moment_whatever_redis_does(
    server: servers.Redis, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not longer, and for nothing but what was asked."""
    monkeypatch.setattr(recent, "FRESH", 1.0)
    configure(server.url)
    image, hosts, scheduler = make_image(), make_hosts(5), Scheduler()
    spec = make_spec(image)
    hold(image, "compute3")
    begun = time.monotonic()
    assert scheduler.weigh(hosts[1:], spec) == [0.0, 0.0, 1.0, 0.0]
    server.stop()
    assert scheduler.weigh(hosts, spec) == [0.0] * 5
    known = 0
    while time.monotonic() < begun + 1.5:
        asked = time.monotonic()
        if scheduler.weigh(hosts[1:], spec)[2]:
            known += 1
            assert asked < begun + 1.1
        time.sleep(0.01)
    assert known
    server.start()


# What makes no difference changes nothing.


def no_difference() -> dict[str, tuple[objects.RequestSpec, list[str]]]:
    """Return requests for which a held image must not count, with the hosts that hold it."""
    whole, tiny, unknown = make_image(), make_image(TINY), make_image(None)
    unset = objects.ImageMeta(id=str(uuid.uuid4()), properties=objects.ImageMetaProps())
    volume = objects.ImageMeta.from_dict({"size": LARGE, "properties": {}})
    return {
        "tiny image": (make_spec(tiny), ["compute1"]),
        "size unknown to Glance": (make_spec(unknown), ["compute1"]),
        "size unset": (make_spec(unset), ["compute1"]),
        "held by nobody": (make_spec(whole), []),
        "held by another": (make_spec(whole), ["elsewhere"]),
        "held by all": (make_spec(whole), [f"compute{n}" for n in range(30)]),
        "volume": (make_spec(None, is_bfv=True), []),
        "volume with image metadata": (make_spec(volume, is_bfv=True), []),
        "volume filled from the image": (make_spec(whole, is_bfv=True), ["compute1"]),
        "soft affinity": (of_group(whole, "soft-affinity"), ["compute1"]),
        "soft anti-affinity": (of_group(whole, "soft-anti-affinity"), ["compute1"]),
    }


def of_group(image: objects.ImageMeta, policy: str) -> objects.RequestSpec:
    """Return a request for a server of a group with another server on compute1."""
    spec = make_spec(image)
    spec.instance_group = objects.InstanceGroup(policy=policy, hosts=["compute1"], members=[])
    return spec


@pytest.mark.parametrize("case", list(no_difference()))
def test_no_difference_changes_nothing(
    case: str, server: servers.Redis, configure: Configure
) -> None:
    """Order and weights are Nova's own, to the bit."""
    configure(server.url)
    hosts = make_hosts(30)
    spec, holders = no_difference()[case]
    if holders:
        hold(spec.image, *holders)
    scheduler = Scheduler()
    assert scheduler.rank(hosts, spec) == nova_alone(hosts, spec)
    asked = "held by" in case
    assert commands(server).get("smismember", 0) == (1 if asked else 0)


def odd_requests() -> dict[str, object]:
    """Return requests that are none, or lack or hold what Nova's never do."""

    def bare(**image: object) -> object:
        return SimpleNamespace(is_bfv=False, image=SimpleNamespace(**image))

    return {
        "None": None,
        "no request": object(),
        "all unset": objects.RequestSpec(),
        "image without an id": make_spec(objects.ImageMeta()),
        "image of another kind": SimpleNamespace(image={"id": "x", "size": LARGE}),
        "id with control characters": bare(id="x\r\nFLUSHALL", size=LARGE),
        "id of 10 kB": bare(id="x" * 10240, size=LARGE),
        "id that is no text": bare(id=b"x", size=LARGE),
        "size that is no number": bare(id="x", size="8 GiB"),
    }


@pytest.mark.parametrize("case", list(odd_requests()))
def test_odd_request_weighs_nothing(
    case: str, server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis is not asked, nothing is raised, and no operator is told of it."""
    configure(server.url)
    assert Scheduler().weigh(make_hosts(3), odd_requests()[case]) == [0.0] * 3
    assert commands(server) == {}
    assert said(caplog, logging.WARNING) == []


# What else decides.


def test_a_host_that_builds_or_is_fuller_gains_less(
    server: servers.Redis, configure: Configure
) -> None:
    """Of five that hold the image, by the default options; a fetched image is worth less."""
    configure(server.url)
    hosts, image, scheduler = make_hosts(2000), make_image(2 * GIB), Scheduler()
    hold(image, *(f"compute{n}" for n in range(5)))
    hosts[1].num_io_ops = 2
    hosts[2].num_io_ops = 4
    hosts[3].free_ram_mb -= round(0.015 * 32768)
    hosts[4].free_ram_mb -= round(0.03 * 32768)
    key = names.Keys("bus_cache").coming(names.fingerprint(image.id))
    with server.client() as client:
        client.zadd(key, {"compute5": 1000 * (time.time() + 60), "compute6": 1000 * time.time()})
    weights = scheduler.weigh(hosts, make_spec(image))
    assert weights[:7] == pytest.approx([1.0, 0.875, 0.0, 0.5, 0.0, 0.8, 0.0], abs=1e-3)
    assert not any(weights[7:])


def boot(
    scheduler: Scheduler, spec: objects.RequestSpec, requests: int, servers_each: int
) -> Counter[str]:
    """Choose hosts as nova-scheduler does, by the dozen, and return how many servers each got.

    Each request has HostStates of its own; of these the chosen ones are consumed from
    (``_schedule`` in nova/scheduler/manager.py).
    """
    landed: Counter[str] = Counter()
    for _ in range(requests):
        hosts = {host.host: host for host in make_hosts(12)}
        for _ in range(servers_each):
            best = scheduler.rank(list(hosts.values()), spec)[0][0]
            hosts[best].consume_from_request(spec)
            landed[best] += 1
    return landed


def test_a_burst_is_shared_by_few_hosts(server: servers.Redis, configure: Configure) -> None:
    """24 servers of an image that nobody holds: each host that fetches it builds four, then the
    next one fetches."""
    configure(server.url)
    spec = make_spec(make_image(), ram_mb=512)
    assert len(boot(Scheduler(ours=False), spec, 1, 24)) > 9
    landed = boot(Scheduler(), spec, 1, 24)
    assert sorted(landed.values()) == [4] * 6


def piled(
    configure: Configure, server: servers.Redis
) -> tuple[Scheduler, objects.RequestSpec, str]:
    """Return a scheduler that sent four servers of four requests to one host, whose record does not
    say so; such a request; and the host."""
    configure(server.url)
    scheduler, spec = Scheduler(), make_spec(make_image(), ram_mb=512)
    ((chosen, count),) = boot(scheduler, spec, 4, 1).items()
    assert count == 4
    return scheduler, spec, chosen


def test_requests_follow_each_other(server: servers.Redis, configure: Configure) -> None:
    """The second server of an image goes where the first one went, before anybody says so; until
    that host has four: then any other host is better. For other images these count as builds."""
    scheduler, spec, chosen = piled(configure, server)
    hosts, other = make_hosts(12), make_image()
    weights = scheduler.weigh(hosts, spec)
    assert [host.host for host, each in zip(hosts, weights, strict=True) if not each] == [chosen]
    hold(other, *(f"compute{n}" for n in range(12) if n != 11))
    weights = scheduler.weigh(hosts, make_spec(other))
    assert chosen != "compute11"
    least = {host.host: weight for host, weight in zip(hosts, weights, strict=True) if weight < 1}
    assert least == {chosen: 0.0, "compute11": pytest.approx(0.2)}


def test_a_pile_draws_nobody_to_the_hosts_of_an_aggregate(
    server: servers.Redis, configure: Configure
) -> None:
    """What all others gain would be more where the multiplier is larger."""
    scheduler, spec, _ = piled(configure, server)
    assert any(scheduler.weigh(make_hosts(12), spec))
    hosts = make_hosts(12)
    for host in hosts[6:]:
        host.aggregates = [aggregate("2")]
    weights = scheduler.weigh(hosts, spec)
    assert sum(weight > 0.0 for weight in weights) <= 1  # where the image is on its way


@pytest.mark.parametrize("left", ["others", "chosen"])
def test_a_pile_beside_hosts_with_multiplier_0(
    left: str, server: servers.Redis, configure: Configure
) -> None:
    """Others than these come next where it is on one of the others; a pile of theirs is Nova's."""
    scheduler, _, chosen = piled(configure, server)
    hosts = {host.host: host for host in make_hosts(12)}
    alone = {chosen} if left == "chosen" else set(sorted(hosts.keys() - {chosen})[:4])
    for name in alone:
        hosts[name].aggregates = [aggregate("0")]
    weights = scheduler.weigh(list(hosts.values()), make_spec(make_image()))
    spared = {name for name, weight in zip(hosts, weights, strict=True) if weight}
    assert spared == (set() if left == "chosen" else hosts.keys() - alone - {chosen})


def test_what_is_sent_counts_without_an_answer(server: servers.Redis, configure: Configure) -> None:
    """A storm of boots is when Redis may be late."""
    configure(server.url, time_budget=0.3)
    scheduler, spec = Scheduler(), make_spec(make_image(), ram_mb=512)
    with server.client() as client:
        client.client_pause(2000, all=True)
    ((chosen, count),) = boot(scheduler, spec, 4, 1).items()
    assert (count, scheduler.ours.counters.known) == (4, 0)
    wait_until_known(scheduler)
    hosts = make_hosts(12)
    weights = scheduler.weigh(hosts, spec)
    assert [host.host for host, each in zip(hosts, weights, strict=True) if not each] == [chosen]


def test_a_pile_on_a_host_of_several_nodes_counts_for_none(
    server: servers.Redis, configure: Configure
) -> None:
    """Ironic's: what was sent to the host is on one of them."""
    scheduler, _, _ = piled(configure, server)
    nodes = [*make_hosts(12), *make_hosts(12)]
    assert not any(scheduler.weigh(nodes, make_spec(make_image())))


ODD: dict[str, Callable[[Any], None]] = {
    "builds unset": lambda host: setattr(host, "num_io_ops", None),
    "builds missing": lambda host: delattr(host, "num_io_ops"),
    "builds without end": lambda host: setattr(host, "num_io_ops", math.inf),
    "RAM unset": lambda host: setattr(host, "free_ram_mb", None),
    "RAM missing": lambda host: delattr(host, "free_ram_mb"),
    "RAM no number": lambda host: setattr(host, "free_ram_mb", math.nan),
    "RAM a text": lambda host: setattr(host, "free_ram_mb", "8 GiB"),
}


@pytest.mark.parametrize("case", list(ODD))
def test_an_odd_host_weighs_nothing(
    case: str, server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """The others do."""
    configure(server.url)
    hosts, image, scheduler = make_hosts(3), make_image(), Scheduler()
    hold(image, "compute1", "compute2")
    ODD[case](hosts[1])
    assert scheduler.weigh(hosts, make_spec(image)) == [0.0, 0.0, 1.0]
    assert said(caplog, logging.WARNING) == []


@pytest.mark.parametrize("instances", [None, "many"])
def test_odd_numbers_of_instances_teach_nothing(
    instances: object, server: servers.Redis, configure: Configure
) -> None:
    """And harm nothing."""
    configure(server.url)
    hosts, image, scheduler = make_hosts(3), make_image(), Scheduler()
    hold(image, "compute2")
    hosts[0].num_instances = instances
    for _ in range(3):
        assert scheduler.weigh(hosts, make_spec(image)) == [0.0, 0.0, 1.0]
        hosts[0].num_instances = 7


# Aggregates and configuration.


def aggregate(value: str) -> objects.Aggregate:
    """Return an aggregate that overrides the multiplier."""
    return objects.Aggregate(id=1, metadata={"image_cache_weight_multiplier": value})


@pytest.mark.parametrize(
    ("configured", "metadata", "gain"),
    [
        (5.0, ["0"], 0.0),
        (5.0, ["50"], 50.0),
        (5.0, ["50", "7.5"], 7.5),
        (5.0, ["a lot"], 5.0),
        (5.0, ["inf"], 5.0),
        (5.0, ["nan"], 5.0),
        (0.0, ["3"], 3.0),
        (0.0, [], 0.0),
        (0.25, [], 0.25),
    ],
)
def test_multiplier(
    configured: float,
    metadata: list[str],
    gain: float,
    server: servers.Redis,
    configure: Configure,
) -> None:
    """An aggregate overrides the configured multiplier for its hosts, for better or worse."""
    configure(server.url, multiplier=configured)
    image, hosts = make_image(), make_hosts(4)
    hold(image, "compute2")
    for host in hosts[2:]:
        host.aggregates = [aggregate(value) for value in metadata]
    spec = make_spec(image)
    plain = dict(nova_alone(hosts, spec))
    weighed = dict(Scheduler().rank(hosts, spec))
    assert weighed == {**plain, "compute2": plain["compute2"] + gain}


def test_each_host_has_the_multiplier_of_its_own_aggregates(
    server: servers.Redis, configure: Configure
) -> None:
    """Hosts of the same aggregates are asked about once."""
    configure(server.url, multiplier=5)
    image, hosts = make_image(), make_hosts(5)
    hold(image, *(host.host for host in hosts[:4]))
    many, few = aggregate("50"), aggregate("7.5")
    for host, aggregates in zip(hosts, ([many], [few, many], [], [many], [few]), strict=True):
        host.aggregates = aggregates
    spec = make_spec(image)
    plain, weighed = dict(nova_alone(hosts, spec)), dict(Scheduler().rank(hosts, spec))
    gains = [round(weighed[host.host] - plain[host.host], 9) for host in hosts]
    assert gains == [50, 7.5, 5, 50, 0]


def test_hosts_with_multiplier_0_are_left_alone(
    server: servers.Redis, configure: Configure
) -> None:
    """Ceph's: no other is measured by their RAM, and an image on all others draws nobody off."""
    configure(server.url, multiplier=5)
    image, hosts, scheduler = make_image(), make_hosts(6), Scheduler()
    hold(image, "compute1")
    for host in hosts[3:]:
        host.free_ram_mb *= 4
    assert not any(scheduler.weigh(hosts, make_spec(image)))
    for host in hosts[3:]:
        host.aggregates = [aggregate("0")]
    assert scheduler.weigh(hosts, make_spec(image)) == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    hold(image, "compute0", "compute2")
    time.sleep(1.1)  # what Redis said a moment ago counts for a second
    assert not any(scheduler.weigh(hosts, make_spec(image)))


def test_multiplier_0_asks_nobody(server: servers.Redis, configure: Configure) -> None:
    """The weigher is off."""
    configure(server.url, multiplier=0)
    Scheduler().rank(make_hosts(4), make_spec(make_image()))
    assert commands(server) == {}


def test_hosts_of_an_odd_kind_do_no_harm(server: servers.Redis, configure: Configure) -> None:
    """Neither without aggregates nor with metadata that is no text."""
    configure(server.url, multiplier=3)
    scheduler, (host, other) = Scheduler(), make_hosts(2)
    scheduler.weigh([host, other], make_spec(None))
    no_text = {"image_cache_weight_multiplier": None}
    host.aggregates = [SimpleNamespace(metadata=no_text)]
    del other.aggregates
    assert [scheduler.ours.weight_multiplier(h) for h in (host, other)] == [3.0, 3.0]


def test_options_change_while_running(server: servers.Redis, configure: Configure) -> None:
    """SIGHUP has Nova call mutate_config_files; the next call weighs by the new values."""
    path = configure(server.url, multiplier=5)
    image, hosts, scheduler = make_image(GIB), make_hosts(2), Scheduler()
    hold(image, "compute1")
    assert 0.0 < scheduler.weigh(hosts, make_spec(image))[1] < 1.0
    text = path.read_text()
    path.write_text(text.replace("multiplier = 5", "multiplier = 7\nlarge_image_size = 1024"))
    CONF.mutate_config_files()
    assert scheduler.weigh(hosts, make_spec(image)) == [0.0, 1.0]
    assert scheduler.ours.weight_multiplier(hosts[0]) == 7.0


@pytest.mark.parametrize(
    ("url", "options", "named"),
    [
        ("http://user:hush@127.0.0.1/", {}, "redis_url"),
        ("redis://user:hush@127.0.0.1:port/", {}, "redis_url"),
        ("redis://127.0.0.1/", {"keyspace": "two words"}, "keyspace"),
        ("redis://127.0.0.1/", {"small_image_size": "small"}, "small_image_size"),
        ("redis://127.0.0.1/", {"multiplier": "-1"}, "multiplier"),
        ("redis://127.0.0.1/", {"multiplier": "nan"}, "multiplier"),
        ("redis://127.0.0.1/", {"time_budget": "0"}, "time_budget"),
    ],
)
def test_wrong_option_is_one_line(
    url: str,
    options: dict[str, str],
    named: str,
    configure: Configure,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It names the option, shows no secret, and Nova schedules as without us."""
    configure(url, **options)
    hosts, spec = make_hosts(5), make_spec(make_image())
    scheduler = Scheduler()
    for _ in range(3):
        assert scheduler.rank(hosts, spec) == nova_alone(hosts, spec)
    lines = said(caplog, logging.WARNING) + said(caplog, logging.ERROR)
    assert len(lines) == 1
    assert named in lines[0]
    assert "\n" not in lines[0]
    assert "hush" not in caplog.text


def test_option_wrong_for_a_while(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that comes wrong with a SIGHUP weighs nothing until the next SIGHUP mends it."""
    path = configure(server.url, large_image_size=2048)
    image, hosts, scheduler = make_image(), make_hosts(2), Scheduler()
    hold(image, "compute1")
    for value, expected in [("huge", 0.0), ("4096", 1.0)]:
        path.write_text(
            re.sub("large_image_size = .*", f"large_image_size = {value}", path.read_text())
        )
        CONF.mutate_config_files()
        for _ in range(3):
            assert scheduler.weigh(hosts, make_spec(image)) == [0.0, expected]
    assert len(said(caplog, logging.WARNING)) == 1


def test_wrong_at_start_stays_off(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the restart: no thread, no connection, and the log said so at the start."""
    path = configure(server.url, large_image_size="huge")
    image, hosts, threads = make_image(), make_hosts(2), set(threading.enumerate())
    before, scheduler = connections(server), Scheduler()
    assert len(said(caplog, logging.ERROR)) == 1
    path.write_text(path.read_text().replace("huge", "2048"))
    CONF.mutate_config_files()
    assert scheduler.weigh(hosts, make_spec(image)) == [0.0, 0.0]
    assert not set(threading.enumerate()) - threads
    assert connections(server) == before + 1
    assert len(caplog.records) == 1


# Redis failing.


def nobody() -> contextlib.AbstractContextManager[str]:
    """Yield the URL of a port that nobody listens on."""
    return contextlib.nullcontext(f"redis://127.0.0.1:{servers.free_port()}/0")


def no_socket() -> contextlib.AbstractContextManager[str]:
    """Yield the URL of a socket that does not exist."""
    return contextlib.nullcontext("unix:///no/such/socket")


@contextlib.contextmanager
def silent(scheme: str = "redis", path: str = "0") -> Iterator[str]:
    """Yield the URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/{path}"


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yield the URL of a server that answers whatever it is asked with this, and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if answer:
                self.request.recv(4096)
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield f"redis://127.0.0.1:{listener.server_address[1]}/0"
        finally:
            listener.shutdown()


@contextlib.contextmanager
def locked(credentials: str) -> Iterator[str]:
    """Yield the URL of a server that wants a password that the URL has not."""
    with servers.Redis() as server:
        with server.client() as client:
            client.config_set("requirepass", "right")
        yield server.url.replace("://", f"://{credentials}")


FAILURES: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "nobody listens": nobody,
    "no such socket": no_socket,
    "never answers": silent,
    "TLS never answers": lambda: silent("rediss"),
    "Sentinel never answers": lambda: silent("redis+sentinel", "mymaster/0"),
    "Cluster never answers": lambda: silent("redis+cluster", ""),
    "hangs up": lambda: answering(b""),
    "speaks another protocol": lambda: answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "answers half": lambda: answering(b"*1000\r\n:1\r\n"),
    "NOAUTH": lambda: locked(""),
    "WRONGPASS": lambda: locked(":hush@"),
}


@pytest.mark.parametrize("failure", list(FAILURES))
def test_failing_redis_changes_nothing(
    failure: str, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """The ranking is Nova's own, to the bit; no call hangs; the log says it once."""
    hosts, spec = make_hosts(50), make_spec(make_image())
    with FAILURES[failure]() as url:
        configure(url, time_budget=0.05)
        scheduler = Scheduler()
        for _ in range(3):
            started = time.monotonic()
            assert scheduler.rank(hosts, spec) == nova_alone(hosts, spec)
            assert time.monotonic() - started < HANG
    assert len(said(caplog, logging.WARNING)) == 1
    assert "hush" not in caplog.text


def test_key_of_another_kind_changes_nothing(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """WRONGTYPE for one image; others weigh on."""
    configure(server.url)
    image, other, hosts, scheduler = make_image(), make_image(), make_hosts(2), Scheduler()
    with server.client() as client:
        client.set(names.Keys("bus_cache").image(names.fingerprint(image.id)), "no set")
    hold(other, "compute1")
    for _ in range(3):
        assert scheduler.rank(hosts, make_spec(image)) == nova_alone(hosts, make_spec(image))
        assert scheduler.weigh(hosts, make_spec(other)) == [0.0, 1.0]
    (line,) = said(caplog, logging.WARNING)
    assert "is no set" in line


def test_redis_lost_and_back(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is gone nothing weighs; when it is back holders do; each is logged once."""
    configure(server.url)
    image, hosts, scheduler = make_image(), make_hosts(5), Scheduler()
    spec = make_spec(image)
    hold(image, "compute3")
    assert scheduler.weigh(hosts, spec)[3] == 1.0

    for stop in (server.stop, server.kill):
        caplog.clear()
        stop()
        for _ in range(5):
            assert scheduler.rank(hosts, spec) == nova_alone(hosts, spec)
        server.start()
        hold(image, "compute3")
        wait_until_known(scheduler)
        for _ in range(5):
            assert scheduler.weigh(hosts, spec)[3] == 1.0
        assert len(said(caplog, logging.WARNING)) == 1
        assert len(said(caplog, logging.INFO)) == 1


def test_restarted_redis_costs_no_call(server: servers.Redis, configure: Configure) -> None:
    """A connection that the server closed meanwhile is replaced before it is used."""
    configure(server.url)
    image, hosts, scheduler = make_image(), make_hosts(2), Scheduler()
    for _ in range(2):
        hold(image, "compute1")
        assert scheduler.weigh(hosts, make_spec(image)) == [0.0, 1.0]
        server.restart()


# Logging.


def test_one_debug_line_per_call(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what was decided, or why nothing was."""
    configure(server.url)
    image, tiny, hosts, scheduler = make_image(), make_image(TINY), make_hosts(3), Scheduler()
    hold(image, "compute1", "compute2")
    for spec in (make_spec(image), make_spec(tiny), make_spec(None)):
        scheduler.weigh(hosts, spec)
    decided, small, none = said(caplog, logging.DEBUG)
    assert (
        f"{image.id} of {LARGE} bytes is held by 2, on its way to 0; 2 gain, compute1 most: "
        in (decided)
    )
    assert (
        "5.000 = 5 x saves 1.00 x there 1.00 x idle 1.00 x room 1.00, building 0; 3 candidates, "
        in decided
    )
    assert f"{tiny.id} of {TINY} bytes is too small" in small
    assert "none to look for" in none


def test_the_debug_line_says_why_nothing_is_gained(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """And that a host gains by its own multiplier, not by the configured one."""
    configure(server.url)
    image, hosts, scheduler = make_image(), make_hosts(4), Scheduler()
    hold(image, "compute1", "compute2")

    def line() -> str:
        caplog.clear()
        scheduler.weigh(hosts, make_spec(image))
        (text,) = said(caplog, logging.DEBUG)
        return text.partition("on its way to 0")[2].partition("; 4 candidates")[0]

    hosts[1].num_io_ops, hosts[2].free_ram_mb = 4, 1024
    assert line() == ": 1 of these build 4 or more, 1 would have less free RAM than others"
    hosts[1].num_io_ops = 1
    assert line().startswith("; 1 gain, compute1 most: 4.922 = 5 x saves 1.00")
    assert line().endswith(", building 1")
    hosts[1].aggregates = [aggregate("0")]
    left = "; 1 have multiplier 0"
    assert line() == f"{left}: 0 of these build 4 or more, 1 would have less free RAM than others"
    hosts[2].free_ram_mb = 32768
    hosts[2].aggregates = [aggregate("2")]
    assert line().startswith("; 1 have multiplier 0; 1 gain, compute2 most: 2.000 = 2 x saves")
    hold(image, "compute0", "compute3")
    time.sleep(1.1)  # what Redis said a moment ago counts for a second
    assert line() == f"{left}: makes no difference"


def test_the_debug_line_of_a_burst(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """Says what only this process knows, and why the others gain."""
    scheduler, spec, _ = piled(configure, server)
    caplog.clear()
    scheduler.weigh(make_hosts(12), spec)
    (line,) = said(caplog, logging.DEBUG)
    assert (
        "is held by 0, on its way to 1; 4 were sent to one whose record has fewer; 11 gain" in line
    )
    assert "1.000 = 5 x saves 1.00 x (0.2 for building less + 0.8 x there 0.00 x" in line


def test_the_debug_line_of_a_group(
    server: servers.Redis, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """Its policy is a user's wish. A hard one is a filter's, and leaves the weigher alone."""
    configure(server.url)
    image, hosts, scheduler = make_image(), make_hosts(3), Scheduler()
    hold(image, "compute1")
    scheduler.weigh(hosts, of_group(image, "soft-affinity"))
    (line,) = said(caplog, logging.DEBUG)
    assert "weighs nothing beside its server group's soft-affinity" in line
    assert scheduler.weigh(hosts, of_group(image, "anti-affinity")) == [0.0, 1.0, 0.0]


# Processes and threads.


def test_forked_workers_share_no_connection(server: servers.Redis, configure: Configure) -> None:
    """The weigher is used, the process forks, and all go on at once, as scheduler workers do."""
    configure(server.url)
    hosts, scheduler = make_hosts(40), Scheduler()
    images = [make_image() for _ in range(5)]
    for number, image in enumerate(images):
        hold(image, f"compute{number}")
    scheduler.weigh(hosts, make_spec(images[4]))
    before = connections(server)
    fork = multiprocessing.get_context("fork")
    start, results = fork.Barrier(5), fork.SimpleQueue()

    def weigh(number: int) -> bool:
        start.wait(HANG)
        expected = [float(n == number) for n in range(40)]
        spec = make_spec(images[number])
        return all(scheduler.weigh(hosts, spec) == expected for _ in range(200))

    workers = [
        fork.Process(target=lambda n=number: results.put(weigh(n)), daemon=True)
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    assert weigh(4)
    for worker in workers:
        worker.join(HANG)
        assert worker.exitcode == 0
    assert all(results.get() for _ in workers)
    # with the one that counts; weighers of earlier tests may still look for their servers
    assert connections(server) - before >= len(workers) + 1


def test_threads_at_once(server: servers.Redis, configure: Configure) -> None:
    """Eight of Nova's native threads with one weigher: each gets its own image's answer."""
    configure(server.url, multiplier=2)
    hosts, scheduler, start = make_hosts(40), Scheduler(), threading.Barrier(8)
    images = [make_image() for _ in range(8)]
    for number, image in enumerate(images):
        hold(image, f"compute{number}")
    right = []

    def weigh(number: int) -> None:
        spec = make_spec(images[number])
        start.wait(HANG)
        for _ in range(100):
            weighed = scheduler.weigh(hosts, spec)
            multiplier = scheduler.ours.weight_multiplier(hosts[0])
            right.append((weighed.index(1.0), sum(weighed), multiplier) == (number, 1.0, 2.0))

    threads = [threading.Thread(target=weigh, args=[number], daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert right == [True] * 800


def test_a_call_keeps_its_multiplier(server: servers.Redis, configure: Configure) -> None:
    """Nova asks for it host by host: SIGHUP and another thread's call change nothing meanwhile."""
    path, hosts, scheduler = configure(server.url, multiplier=5), make_hosts(2), Scheduler()
    spec = make_spec(make_image())
    scheduler.weigh(hosts, spec)
    path.write_text(path.read_text().replace("multiplier = 5", "multiplier = 7"))
    CONF.mutate_config_files()
    other = threading.Thread(target=scheduler.weigh, args=[hosts, spec])
    other.start()
    other.join(HANG)
    assert scheduler.ours.weight_multiplier(hosts[0]) == 5.0
    scheduler.weigh(hosts, spec)
    assert scheduler.ours.weight_multiplier(hosts[0]) == 7.0


GREEN = """
import json, sys
import nova.cmd.scheduler
import eventlet, socket
from tests.functional import test_weigher as t
path, image_id, size = sys.argv[1:]
t.CONF([], project="nova", default_config_files=[path])
scheduler, hosts = t.Scheduler(), t.make_hosts(20)
spec = t.make_spec(t.make_image(int(size), id=image_id))
pool = eventlet.GreenPool()
together = list(pool.imap(lambda _: scheduler.weigh(hosts, spec), range(50)))

# A server that never answers, and a budget of seconds: others run on meanwhile, and a timeout
# of the caller's reaches the caller.
listener = socket.create_server(("127.0.0.1", 0))
t.CONF.set_override("redis_url", f"redis://127.0.0.1:{listener.getsockname()[1]}/0", "bus_cache")
t.CONF.set_override("time_budget", 2.0, "image_cache_weigher")
waiting = t.Scheduler()
ticks = []
def tick():
    while True:
        ticks.append(1)
        eventlet.sleep(0.01)
clock = eventlet.spawn(tick)
late = waiting.weigh(hosts, spec)
clock.kill()
try:
    with eventlet.Timeout(0.1):
        t.Scheduler().weigh(hosts, spec)
    passed = False
except eventlet.Timeout:
    passed = True
print(json.dumps({"together": together, "late": late, "ticks": len(ticks), "passed": passed,
                  "again": scheduler.weigh(hosts, spec)}))
"""


def test_green_threads(server: servers.Redis, configure: Configure) -> None:
    """Under eventlet's monkey patching, Nova's default up to 32, nobody else waits for us."""
    path, image = configure(server.url), make_image()
    hold(image, "compute3")
    # other tests of this process may have told Nova to do without
    environment = {**os.environ, "OS_NOVA_DISABLE_EVENTLET_PATCHING": "false"}
    done = subprocess.run(
        [sys.executable, "-c", GREEN, str(path), image.id, str(image.size)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    held = [float(number == 3) for number in range(20)]
    assert told["together"] == [held] * 50
    assert told["late"] == [0.0] * 20
    assert told["ticks"] > 20
    assert told["passed"]
    assert told["again"] == held
