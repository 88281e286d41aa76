"""What the weigher costs nova-scheduler: Nova's own handler and hosts, a real Redis, RAMWeigher as
peer."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nova.conf
from nova import objects
from nova.scheduler import weights

from bus_cache import names
from tests import servers
from tests.bench.row import Row, alternate, beside, milliseconds
from tests.bench.size import Size
from tests.functional import test_weigher
from weigher.states import KEY

CONF = nova.conf.CONF
KEYS = names.Keys("bus_cache")
IMAGE = 8 * 2**30


class Scene:
    """A scheduler with its hosts, and a Redis that knows images."""

    def __init__(self, server: servers.Redis, folder: Path) -> None:
        """Take an empty Redis; the time budget is wide, or a busy machine would be measured."""
        config = folder / f"nova-{id(self)}.conf"
        config.write_text(
            f"[bus_cache]\nredis_url = {server.url}\nread_timeout = 60\nconnect_timeout = 60\n"
            "[image_cache_weigher]\ntime_budget = 10\n"
        )
        CONF([], project="nova", default_config_files=[str(config)])
        self.handler = weights.HostWeightHandler()
        found = self.handler.get_matching_classes(
            ["nova.scheduler.weights.all_weighers", "weigher.ImageCacheWeigher"]
        )
        made = [each() for each in found]
        self.ours = next(each for each in made if type(each).__name__ == "ImageCacheWeigher")
        self.ram = next(each for each in made if type(each).__name__ == "RAMWeigher")
        self.defaults = [each for each in made if each is not self.ours]
        self.client = server.client()
        self._numbers = itertools.count()
        self.take([test_weigher.make_spec(self.image(["compute0"]))], [self.ours], hosts(2))

    def image(self, holders: list[str]) -> objects.ImageMeta:
        """Return a new image that these hosts hold."""
        image = test_weigher.make_image(IMAGE, id=f"{next(self._numbers):036d}")
        key = KEYS.image(names.fingerprint(image.id))
        for start in range(0, len(holders), 5000):
            self.client.sadd(key, *holders[start : start + 5000])
        return image

    def specs(self, states: list[Any], share: float, count: int) -> list[objects.RequestSpec]:
        """Return requests, each of an image of its own that so much of the hosts hold."""
        held = [state.host for state in states[: int(share * len(states))]]
        return [test_weigher.make_spec(self.image(held)) for _ in range(count)]

    def take(
        self, specs: list[objects.RequestSpec], weighers: list[Any], states: list[Any]
    ) -> None:
        """Rank the hosts for each request."""
        for spec in specs:
            self.handler.get_weighed_objects(weighers, states, spec)

    def timed(
        self,
        specs: Iterator[objects.RequestSpec],
        weighers: list[Any],
        states: list[Any],
        times: int,
    ) -> Callable[[], float]:
        """Return a measure: milliseconds of one ranking by these weighers."""
        return lambda: milliseconds(
            lambda: self.handler.get_weighed_objects(weighers, states, next(specs)), times
        )

    def reads(self) -> int:
        """Return how many round trips that read an image came so far; ZRANGE comes with each."""
        stats = self.client.info("commandstats")
        return int(stats.get("cmdstat_smismember", {"calls": 0})["calls"])

    def check(self) -> None:
        """See that every call was answered: one that was not is cheap, and measures nothing."""
        assert self.ours.counters.unknown == 0, self.ours.counters


def hosts(count: int, aggregates: int = 0, own: bool = False) -> list[Any]:
    """Return hosts, each in so many aggregates whose metadata is about other things.

    :param own: the last of them names our multiplier, too.
    """
    made = [
        objects.Aggregate(id=number, metadata={"ssd": "true", "zone": "one"})
        for number in range(aggregates)
    ]
    if own:
        made[-1].metadata = {**made[-1].metadata, KEY: "5"}
    states, dice = test_weigher.make_hosts(count), random.Random(count)
    for state in states:
        state.aggregates = list(made)
        # as hosts are that Nova spreads servers over
        state.free_ram_mb = 30_000 + dice.randrange(5_000)
        state.num_io_ops = dice.choice([0, 0, 0, 1, 1, 2, 4])
    return states


def rows(size: Size) -> Iterator[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="bus-cache-bench-") as folder, servers.Redis() as redis:
        scene = Scene(redis, Path(folder))
        for count in size.candidates:
            for aggregates, own in ((0, False), (3, False), (3, True)):
                yield from _against_ram(scene, size, count, aggregates, own)
        yield from _multi_create(scene, size)
        yield from _flat(scene, size, Path(folder))
        scene.check()


def _against_ram(scene: Scene, size: Size, count: int, aggregates: int, own: bool) -> Iterator[Row]:
    where = f"{count:,} hosts, {aggregates or 'no'} aggregates"
    if own:
        where += ", one with our multiplier"
    states = hosts(count, aggregates, own)
    times = max(1, size.calls // count)
    rounds = size.rounds
    hot = itertools.repeat(scene.specs(states, 0.5, 1)[0])
    cold = iter(scene.specs(states, 0.5, (times + 1) * rounds))
    found = alternate(
        rounds,
        scene.timed(hot, [scene.ours], states, times),
        scene.timed(hot, [scene.ram], states, times),
    )
    yield beside(f"weigher, hot, {where}", found, "ms", 0.6)
    before = scene.reads()
    found = alternate(
        rounds,
        scene.timed(cold, [scene.ours], states, times),
        scene.timed(hot, [scene.ram], states, times),
    )
    yield beside(f"weigher, cold, {where}", found, "ms", 1.0)
    trips = (scene.reads() - before) / (rounds * (times + (times > 1)))
    yield Row(f"  its round trips, {where}", trips, None, "reads", 1, bounds="ours")
    if aggregates:
        return
    rounds = max(3, rounds // 2)
    cold = iter(scene.specs(states, 0.5, 4 * rounds))
    shares = alternate(
        rounds,
        scene.timed(hot, [scene.ours], states, 3),
        scene.timed(cold, [scene.ours], states, 3),
        scene.timed(hot, [], states, 3),
        scene.timed(hot, scene.defaults, states, 2),
    )
    for name, place, goal in (("hot", 0, 0.06), ("cold", 1, 0.12)):
        yield beside(
            f"weigher's share of all {len(scene.defaults)} defaults, {name}, {where}",
            [(each[place] - each[2], each[3]) for each in shares],
            "ms",
            goal,
        )


def _multi_create(scene: Scene, size: Size) -> Iterator[Row]:
    states = hosts(1000)
    spec = scene.specs(states, 0.5, 1)
    before = scene.reads()
    rounds = max(3, size.rounds // 3)
    found = alternate(
        rounds,
        lambda: milliseconds(lambda: scene.take(spec * 100, [scene.ours], states)),
        lambda: milliseconds(lambda: scene.take(spec * 100, [scene.ram], states)),
    )
    yield beside("multi-create of 100 instances, 1,000 hosts", found, "ms", 0.6)
    trips = (scene.reads() - before) / rounds
    yield Row("  its round trips", trips, None, "reads", 5, bounds="ours")


def _flat(scene: Scene, size: Size, folder: Path) -> Iterator[Row]:
    states = hosts(1000)
    rounds, times = size.rounds, max(1, size.calls // 1000)
    few, many = (iter(scene.specs(states, share, rounds * (times + 1))) for share in (0.01, 1.0))
    found = alternate(
        rounds,
        scene.timed(many, [scene.ours], states, times),
        scene.timed(few, [scene.ours], states, times),
    )
    yield beside("weigher, cold, 100 % of 1,000 hosts hold the image against 1 %", found, "ms", 1.2)
    with servers.Redis() as other:
        full = Scene(other, folder)
        pipe = other.client().pipeline(transaction=False)
        for number in range(size.known_images):
            pipe.sadd(
                KEYS.image(names.fingerprint(f"other-{number}")), *(f"h{n}" for n in range(5))
            )
            if number % 2000 == 1999:
                pipe.execute()
        pipe.execute()
        a, b = (iter(each.specs(states, 0.5, rounds * (times + 1))) for each in (full, scene))
        found = alternate(
            rounds,
            full.timed(a, [full.ours], states, times),
            scene.timed(b, [scene.ours], states, times),
        )
        full.check()
        yield beside(
            f"weigher, cold, {size.known_images:,} known images against some hundreds",
            found,
            "ms",
            1.2,
        )


def imports(size: Size) -> Iterator[Row]:
    """Measure what ``import weigher`` adds to a process that has Nova's scheduler and redis-py."""
    with servers.Redis() as redis:
        found = []
        for _ in range(size.bus_rounds + 2):
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "tests.bench.importing", redis.url],
                check=True,
                capture_output=True,
                text=True,
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))

    def middle(key: str) -> float:
        return statistics.median(float(each[key]) for each in found)

    def spread(key: str) -> tuple[float, float]:
        values = [each[key] for each in found]
        return min(values), max(values)

    for key, unit, goal in (("ms", "ms", 50.0), ("mb", "MB", 10.0)):
        yield Row(
            "import of weigher after nova-scheduler and redis-py; peer: theirs",
            middle(f"weigher_{key}"),
            middle(f"others_{key}"),
            unit,
            goal,
            bounds="ours",
            ratio=middle(f"weigher_{key}") / middle(f"others_{key}"),
            note="{}; of the peer redis-py: {:.0f} {}; ours from {:.1f} to {:.1f}".format(
                "processor time" if key == "ms" else "resident",
                middle(f"redis_{key}"),
                unit,
                *spread(f"weigher_{key}"),
            ),
        )
    late = max(found, key=lambda each: len(each["late"]))["late"]
    yield Row(
        "  modules that the first boot imports",
        len(late),
        None,
        "modules",
        0,
        bounds="ours",
        note=", ".join(late[:8]),
    )
