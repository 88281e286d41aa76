"""A load generator: a cloud of many hosts on a real bus and a real Redis, `make load`.

It publishes what such a cloud would: the snapshots of all agents, then the same again, a storm of
boots of one image, and notifications of which few say something about images. The consumer is the
real program. Each part's cost per event hardly depends on how fast this machine is in all, so it
tells what a larger one would need: see docs/scaling.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bus_cache import names, protocol
from bus_cache.protocol import CachedImage
from tests.bench import bus

IMAGES = 2000
"""Images of the cloud; how often one is used falls with its rank (Zipf)."""

CACHED = 20
"""Images that a host has in its cache."""

IRRELEVANT = 0.95
"""Share of the notifications in quiet times that say nothing about images."""

MOST = 20_000
"""Notifications in one part: the broker keeps so many in its memory."""


class Cloud:
    """Hosts, what is in their caches, and what they say."""

    def __init__(self, hosts: int, seed: int = 1) -> None:
        """Fill the caches."""
        self.random = random.Random(seed)
        self.epoch = int(time.time() * 1000)
        self.images = [names.fingerprint(f"image-{number}") for number in range(IMAGES)]
        weights = list(itertools.accumulate(1 / rank for rank in range(1, IMAGES + 1)))
        self.caches = {}
        for number in range(hosts):
            used = self.random.choices(self.images, cum_weights=weights, k=2 * CACHED)
            newest = list(dict.fromkeys(used))[:CACHED]
            self.caches[f"compute{number:05}.example.org"] = sorted(newest)
        self._sequences: dict[str, int] = {}

    @property
    def pairs(self) -> int:
        """How many (image, host) there are."""
        return sum(map(len, self.caches.values()))

    def snapshots(self) -> Iterator[bytes]:
        """Yield what all agents say at their start, or every five minutes."""
        for host, cache in self.caches.items():
            images = [CachedImage(each, 2**31, self.epoch // 1000) for each in cache]
            yield self._agent(
                host, protocol.SNAPSHOT, protocol.snapshot(host, self._version(host), images)
            )

    def fetched(self, image: str, hosts: Iterable[str]) -> Iterator[bytes]:
        """Yield what the agents of hosts say that fetch an image."""
        for host in hosts:
            for event in (protocol.FETCHING, protocol.STORED):
                payload = protocol.statement(host, self._version(host), image, 2**31)
                yield self._agent(host, event, payload)

    def _version(self, host: str) -> tuple[int, int]:
        self._sequences[host] = self._sequences.get(host, 0) + 1
        return self.epoch, self._sequences[host] - 1

    def _agent(self, host: str, event_type: str, payload: dict[str, Any]) -> bytes:
        inner = {
            "message_id": str(uuid.UUID(int=self.random.getrandbits(128))),
            "publisher_id": protocol.publisher(host),
            "event_type": event_type,
            "priority": "INFO",
            "payload": payload,
            "timestamp": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime()),
            "_unique_id": "0" * 32,
        }
        return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one part of the load cost. Times are of the processor, per message, in microseconds.

    ``script``: Redis' clock per call of a script, and of the longest one, in milliseconds.
    """

    part: str
    messages: int
    seconds: float
    consumer: float
    redis: float
    script: float
    longest: float
    calls: int


@dataclasses.dataclass(frozen=True)
class Report:
    """What a cloud of so many hosts cost."""

    hosts: int
    pairs: int
    memory: float
    """Of Redis, in MB, above what it takes by itself."""
    resident: float
    """The most that a process of the consumer had, in MB."""
    parts: tuple[Cost, ...]


class Player:
    """Plays a cloud's messages to one consumer and measures."""

    def __init__(self, scene: bus.Scene, pids: Sequence[int]) -> None:
        """Take where to play, and the consumer's processes."""
        self._scene, self._pids = scene, pids
        self._client = scene.redis.client()
        self._client.config_set("slowlog-log-slower-than", 1000)
        self._client.config_set("slowlog-max-len", 100_000)

    def play(self, part: str, messages: Iterable[tuple[bytes, str, str]]) -> Cost:
        """Publish messages, each with exchange and routing key; wait until all is written."""
        client: Any = self._client
        client.config_resetstat()
        client.slowlog_reset()
        start, ours, store = time.monotonic(), self._consumer(), self._redis()
        count = 0
        channel = self._scene.channel()
        for body, exchange, key in messages:
            message = channel.prepare_message(
                body, content_type="application/json", properties={"delivery_mode": 2}
            )
            channel.basic_publish(message, exchange, key)
            count += 1
            if count % 1000 == 0:  # a broker that is slow must not be sent too much ahead
                channel.queue_declare(bus.OURS, passive=True)
        channel.close()
        self._wait()
        took = time.monotonic() - start
        scripts = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        slow = [
            each["duration"]
            for each in client.slowlog_get(100_000)
            if each["command"].upper().startswith(b"EVALSHA")
        ]
        return Cost(
            part,
            count,
            took,
            1e6 * (self._consumer() - ours) / count,
            1e6 * (self._redis() - store) / count,
            scripts["usec"] / max(1, scripts["calls"]) / 1000,
            max(slow, default=0) / 1000,
            scripts["calls"],
        )

    def _wait(self) -> None:
        """Wait until the queues are empty, and the consumer has nothing in hand."""
        quiet = 0
        while quiet < 3:
            used = self._consumer()
            time.sleep(0.2)
            waiting = sum(map(self._scene.waiting, (bus.OURS, protocol.QUEUE)))
            quiet = quiet + 1 if not waiting and self._consumer() - used < 0.03 else 0

    def _consumer(self) -> float:
        return sum(map(bus.processor_seconds, self._pids))

    def _redis(self) -> float:
        used = self._client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])


def play(hosts: int) -> Report:
    """Play a cloud of so many hosts."""
    cloud = Cloud(hosts)
    with bus.on_servers() as scene, scene.redis.client() as client:
        scene.route_to("ours")
        client.flushall()
        before = client.info("memory")["used_memory"]
        with scene.running("ours") as process:
            pids = bus.session(process.pid)
            player = Player(scene, pids)
            agents = (protocol.EXCHANGE, protocol.QUEUE)
            first = player.play("snapshots of all agents", _to(cloud.snapshots(), *agents))
            client.memory_purge()
            memory = client.info("memory")["used_memory"] - before
            again = player.play("the same again, nothing new", _to(cloud.snapshots(), *agents))
            boots = min(hosts, MOST)
            storm = player.play(
                "a storm of boots of one image, told by Nova",
                _to(_bodies(scene, 1.0, "storm", 1, boots), *bus.ROUTE),
            )
            some = cloud.random.sample(sorted(cloud.caches), min(hosts, MOST) // 2)
            fetched = player.play(
                "the same, told by agents",
                _to(cloud.fetched(names.fingerprint("new"), some), *agents),
            )
            quiet = player.play(
                f"notifications, {1 - IRRELEVANT:.0%} of them about images",
                _to(_bodies(scene, 1 - IRRELEVANT, "quiet", 200, MOST), *bus.ROUTE),
            )
            resident = max(map(bus.most_resident, pids))
    return Report(hosts, cloud.pairs, memory / 1e6, resident, (first, again, storm, fetched, quiet))


def _bodies(
    scene: bus.Scene, share: float, prefix: str, images: int, count: int
) -> Iterator[bytes]:
    stream = scene.bodies.stream(share, bus.images(prefix, images))
    return (body for body, _ in itertools.islice(stream, count))


def _to(bodies: Iterable[bytes], exchange: str, key: str) -> Iterator[tuple[bytes, str, str]]:
    return ((body, exchange, key) for body in bodies)


def table(reports: Sequence[Report]) -> str:
    """Return the reports for people."""
    head = ["hosts", "what comes", "messages", "per second", "consumer, us each", "Redis, us each"]
    head += ["script calls", "ms each", "longest"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for report in reports:
        for part in report.parts:
            cells = [
                f"{report.hosts:,}",
                part.part,
                f"{part.messages:,}",
                f"{part.messages / part.seconds:,.0f}",
                f"{part.consumer:,.0f}",
                f"{part.redis:,.0f}",
                f"{part.calls:,}",
                f"{part.script:.2f}",
                f"{part.longest:.1f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| hosts | (image, host) | Redis, MB | consumer, MB |", "|" + " --- |" * 4]
    lines += [
        f"| {each.hosts:,} | {each.pairs:,} | {each.memory:.0f} | {each.resident:.0f} |"
        for each in reports
    ]
    return "\n".join(lines)


def draw(reports: Sequence[Report], path: Path) -> None:
    """Draw cost over size, as PNG and SVG: flat where a message costs the same in a larger
    cloud."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bus-cache"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    hosts = [each.hosts for each in reports]
    for index, part in enumerate(reports[0].parts):
        for axis, style in (("consumer", "-"), ("redis", "--")):
            values = [getattr(each.parts[index], axis) for each in reports]
            label = part.part if axis == "consumer" else None
            left.plot(hosts, values, style, marker="o", ms=3, color=f"C{index}", label=label)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="hosts",
        ylabel="processor time per message, us",
        title="consumer (lines) and Redis (dashes)",
    )
    left.set_ylim(bottom=1)  # room for the legend
    left.legend(fontsize=7, loc="lower left")
    right.plot(hosts, [each.memory for each in reports], marker="o")
    right.set(xscale="log", yscale="log", xlabel="hosts", ylabel="MB", title="Redis' memory")
    figure.savefig(path.with_suffix(".png"), dpi=110)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[100, 1000, 10_000, 50_000])
    parser.add_argument("--plot", type=Path, help="where to draw cost over size, without ending")
    options = parser.parse_args()
    reports = []
    for hosts in options.hosts:
        reports.append(play(hosts))
        print(table(reports[-1:]), file=sys.stderr, flush=True)
    print(table(reports))
    if options.plot:
        draw(reports, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
