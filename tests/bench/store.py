"""What the index costs Redis: bytes, snapshots, and the time of scripts, beside bare sets."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bus_cache import names
from bus_cache.index import changes, writer
from tests import servers
from tests.bench.row import Row, alternate, beside, milliseconds
from tests.bench.size import Size

KEYS = names.Keys("bare")
IMAGES = [names.fingerprint(f"image-{number}") for number in range(200)]
HOSTS = 10_000
BYTES = {0.01: 3.0, 0.05: 2.0, 0.5: 2.0}
"""Share of the hosts that hold an image, and how often a bare set's bytes it may take."""


def rows(size: Size) -> Iterator[Row]:
    """Measure."""
    for density in size.densities:
        yield _bytes(density)
    yield _bytes_of_instances()
    yield from _snapshots(size)
    yield from _everything_again(size)


def _snapshot(host: str, images: Sequence[str], sequence: int = 1) -> changes.AgentSnapshot:
    now = int(time.time() * 1000)
    return changes.AgentSnapshot(host, (now, sequence), now, tuple(images))


def _used(client: Any) -> int:
    client.memory_purge()
    return int(client.info("memory")["used_memory"])


@contextlib.contextmanager
def _redis() -> Iterator[tuple[Any, writer.Writer]]:
    with servers.Redis() as server, server.client() as client:
        yield client, writer.Writer(client, "bus_cache", bus="bench")


def _bytes(density: float) -> Row:
    """Return the bytes of the whole index where agents report, against those of the sets alone."""
    dice = random.Random(1)
    holds = [[image for image in IMAGES if dice.random() < density] for _ in range(HOSTS)]
    pairs = sum(map(len, holds))
    with _redis() as (client, index):
        start = _used(client)
        pipe = client.pipeline(transaction=False)
        for number, images in enumerate(holds):
            for image in images:
                pipe.sadd(KEYS.image(image), f"compute{number}.example.org")
            if number % 500 == 499:
                pipe.execute()
        bare = _used(client) - start
        client.flushall()
        start = _used(client)
        for number, images in enumerate(holds):
            index.apply([_snapshot(f"compute{number}.example.org", images)])
        ours = _used(client) - start
    return beside(
        f"Redis bytes per (image, host), {HOSTS:,} hosts with agents, 200 images at {density:.0%}",
        [(ours / pairs, bare / pairs)],
        "bytes",
        BYTES[density],
    )


def _bytes_of_instances() -> Row:
    with _redis() as (client, index):
        now = int(time.time() * 1000)
        index.apply([changes.Held("h0", "image-0", now, changes.Source.CREATE)])
        start, count = _used(client), 20_000
        index.apply(
            changes.InUse(f"h{number % 1000}", servers_id(number), f"image-{number % 200}", now)
            for number in range(count)
        )
        each = (_used(client) - start) / count
    return Row("Redis bytes per instance on inferred hosts, 20 on each", each, None, "bytes")


def servers_id(number: int) -> str:
    """Return an instance's id, as Nova's are."""
    digest = names.fingerprint(f"server-{number}")
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))


def _snapshots(size: Size) -> Iterator[Row]:
    """Measure a snapshot of 200 images: of a host that is new, and again of one that is known."""
    with _redis() as (client, index):
        hosts = iter(range(1_000_000))

        def ours() -> None:
            index.apply([_snapshot(f"h{next(hosts)}", IMAGES)])

        def again() -> None:
            index.apply([_snapshot("again", IMAGES, next(hosts) + 1)])

        def bare() -> None:
            host = f"h{next(hosts)}"
            pipe = client.pipeline(transaction=False)
            for image in IMAGES:
                pipe.sadd(KEYS.image(image), host)
            pipe.execute()

        found = alternate(
            size.rounds,
            *(lambda call=call: milliseconds(call, 20) for call in (ours, again, bare)),
        )
    peer = "against 200 pipelined SADDs"
    yield beside(f"snapshot of 200 images, new host, {peer}", [f[::2] for f in found], "ms", 3.0)
    yield beside(f"snapshot of 200 images, nothing new, {peer}", [f[1:] for f in found], "ms", 3.0)


def _everything_again(size: Size) -> Iterator[Row]:
    """Measure all agents' snapshots after FLUSHALL: how long, and the longest script call.

    Twice, and of each call the shorter one counts: what the machine does in between hits another
    call each time, what a call itself takes is the same.
    """
    took, used = zip(*(_refill(size.agents) for _ in range(2)), strict=True)
    goal = 60 * size.agents / HOSTS  # the goal is for all of them
    yield Row(
        f"snapshots of {size.agents:,} agents after FLUSHALL, 200 images each",
        max(took),
        None,
        "s",
        goal,
        bounds="ours",
    )
    yield Row(
        "  Redis' processor time for each", statistics.mean(map(statistics.mean, used)), None, "ms"
    )
    yield Row(
        "  the longest of their script calls, Redis' processor time",
        max(map(min, *used)),
        None,
        "ms",
        5.0,
        bounds="ours",
        note="of each call the shorter of two runs, which by themselves had "
        + " and ".join(f"{sum(c > 5 for c in run)} of {size.agents:,} over 5 ms" for run in used),
    )


def _refill(agents: int) -> tuple[float, list[float]]:
    """Return how many seconds snapshots into an empty Redis took, and Redis' ms for each."""
    with _redis() as (client, index):
        index.apply([_snapshot("first", IMAGES)])
        client.flushall()
        start, each = time.monotonic(), []
        for number in range(agents):
            before = _processor(client)
            index.apply([_snapshot(f"compute{number}.example.org", IMAGES)])
            each.append(1000 * (_processor(client) - before))
        return time.monotonic() - start, each


def _processor(client: Any) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])
