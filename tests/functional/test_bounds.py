"""Each limit on real servers: what is beyond it is left out and counted, and all else goes on.

docs/bounds.md has the table of all limits, and names these tests.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest

from bus_cache import connect, names, protocol
from bus_cache.index.changes import (
    AgentSnapshot,
    AgentStatement,
    Change,
    Fetching,
    Held,
    ImageSize,
    InUse,
    NotInUse,
    Said,
    ServiceState,
    Source,
)
from bus_cache.index.listing import Listing
from bus_cache.index.writer import MOST_USES, Writer
from consumers.ageing import Policy
from consumers.consumer import MOST_CHANGES, Consumer
from consumers.sweep import Sweep
from tests import keyspace, servers
from tests.consuming import TOPOLOGY, rabbit_transport, running
from tests.functional.test_consumer import depth, in_hand
from tests.fuzz import messages
from tests.program import Program, configuration, wait_for

KEYS = names.Keys("bus_cache")
NOW = int(time.time() * 1000)
HOSTS, IMAGES, IMAGES_PER_HOST, SERVERS_PER_HOST = 100_000, 1_000_000, 10_000, 10_000
SERVER = "6f70656e-7374-6163-6b00-%012d"


@pytest.fixture
def raw(redis_server: servers.Redis) -> Iterator[Any]:
    """A client on a Redis without data."""
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def writer(redis_server: servers.Redis, raw: Any) -> Iterator[Writer]:
    """The writer, as a consumer has it."""
    client = connect.connect(connect.parse(redis_server.url), connect_timeout=5, read_timeout=30)
    yield Writer(client, "bus_cache", bus="bus")
    client.close()


def fill(raw: Any, key: str, entries: int) -> None:
    """Fill a hash or sorted set of the keyspace with names of somebody's."""
    verb = "ZADD" if key == KEYS.hosts or "coming" in key or "ageing" in key else "HSET"
    order = "i, 'x' .. i" if verb == "ZADD" else "'x' .. i, ''"
    for first in range(1, entries + 1, 50_000):  # Redis must not be busy for seconds
        last = min(first + 49_999, entries)
        raw.eval(f"for i = {first}, {last} do redis.call('{verb}', KEYS[1], {order}) end", 1, key)


def full(raw: Any) -> dict[str, int]:
    """Return what the keyspace counts of its limits, as ``bus-cache status`` shows it."""
    return dict(Listing(raw, "bus_cache", lambda line: None).counts().full)


def held(host: str = "h", image: str = "i") -> Held:
    return Held(host, image, NOW, Source.CREATE)


IMAGE = names.fingerprint("i")
SNAPSHOT = AgentSnapshot("h", (7, 0), NOW, (IMAGE,))

LIMITS: dict[str, tuple[str, int, str, Change, Callable[[Any], Any]]] = {
    "hosts": (KEYS.hosts, HOSTS, "hosts", held(), lambda raw: raw.exists(KEYS.image(IMAGE))),
    "images of a host": (
        KEYS.host("h"),
        IMAGES_PER_HOST,
        "images_per_host",
        held(),
        lambda raw: raw.exists(KEYS.image(IMAGE)),
    ),
    "servers of a host": (
        KEYS.uses("h"),
        SERVERS_PER_HOST,
        "servers_per_host",
        InUse("h", SERVER % 0, "i", NOW),
        lambda raw: raw.hlen(KEYS.uses("h")) > SERVERS_PER_HOST,
    ),
    "hosts with servers": (
        KEYS.prefix + "ageing",
        HOSTS,
        "hosts",
        InUse("h", SERVER % 0, "i", NOW),
        lambda raw: raw.exists(KEYS.uses("h")),
    ),
    "compute services": (
        KEYS.services,
        HOSTS,
        "hosts",
        ServiceState("h", NOW, up=True),
        lambda raw: raw.hget(KEYS.services, "h"),
    ),
    "hosts to which an image is on its way": (
        KEYS.coming(IMAGE),
        HOSTS,
        "hosts",
        Fetching("h", "i", NOW),
        lambda raw: raw.zscore(KEYS.coming(IMAGE), "h"),
    ),
    "agents, by a snapshot": (
        KEYS.agents,
        HOSTS,
        "hosts",
        SNAPSHOT,
        lambda raw: raw.exists(KEYS.image(IMAGE)),
    ),
    "agents, by a statement": (
        KEYS.agents,
        HOSTS,
        "hosts",
        AgentStatement("h", (7, 1), NOW, IMAGE, Said.STORED),
        lambda raw: raw.exists(KEYS.image(IMAGE)),
    ),
    "images of an agent": (
        KEYS.agent("h"),
        IMAGES_PER_HOST,
        "images_per_host",
        AgentStatement("h", (7, 1), NOW, IMAGE, Said.STORED),
        lambda raw: raw.exists(KEYS.image(IMAGE)),
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_what_is_beyond_a_limit_of_the_index_is_left_out_and_counted(
    raw: Any, writer: Writer, limit: str
) -> None:
    key, most, name, change, entered = LIMITS[limit]
    fill(raw, key, most)
    assert writer.apply([change]) == []
    assert not entered(raw)
    assert int(raw.hget(KEYS.prefix + "full", name)) == 1
    # what is there already goes on, and one entry less is room enough
    raw.zrem(key, "x1") if raw.type(key) == b"zset" else raw.hdel(key, "x1")
    assert writer.apply([change]) == []
    assert entered(raw) or limit == "servers of a host"
    assert writer.apply([change]) == []
    assert int(raw.hget(KEYS.prefix + "full", name)) == 1


def test_no_more_images_are_described_than_there_is_room_for(raw: Any, writer: Writer) -> None:
    fill(raw, KEYS.images, IMAGES)
    agent = AgentSnapshot("agent", (7, 0), NOW, ("a" * 40,))
    assert writer.apply([held(), ImageSize("j", 7, NOW), agent]) == []
    assert raw.hlen(KEYS.images) == IMAGES
    assert int(raw.hget(KEYS.prefix + "full", "images")) == 3
    # which hosts hold it is known all the same
    assert raw.smembers(KEYS.image(IMAGE)) == {b"h"}
    assert raw.smembers(KEYS.image("a" * 40)) == {b"agent"}


def test_status_shows_which_limits_were_reached(raw: Any, writer: Writer) -> None:
    assert full(raw) == {}
    fill(raw, KEYS.host("h"), IMAGES_PER_HOST)
    writer.apply([held("h", f"image-{number}") for number in range(300)])
    writer.apply([held("other", f"image-{number}") for number in range(300)])
    assert full(raw) == {"images_per_host": 300}
    assert raw.hlen(KEYS.host("h")) == IMAGES_PER_HOST
    assert raw.hlen(KEYS.host("other")) == 300


def test_of_one_server_only_the_newest_uses_are_remembered(raw: Any, writer: Writer) -> None:
    writer.apply(InUse("h", SERVER % 1, f"image-{number}", NOW + number) for number in range(500))
    ((_, row),) = raw.hgetall(KEYS.uses("h")).items()
    assert len(row) < MOST_USES * 31
    assert bytes.fromhex(names.fingerprint("image-499")) in row
    assert bytes.fromhex(names.fingerprint(f"image-{499 - MOST_USES}")) not in row


def test_servers_that_left_make_room_for_those_that_come(raw: Any, writer: Writer) -> None:
    """Of a host whose servers live for minutes."""
    left = NOW - 2 * 86_400_000
    writer.apply(NotInUse("h", SERVER % number, left) for number in range(SERVERS_PER_HOST))
    new = InUse("h", SERVER % SERVERS_PER_HOST, "i", NOW)
    writer.apply([new])
    assert full(raw) == {"servers_per_host": 1}
    Sweep(Policy.of(2400, True, 86_400)).run(writer)
    writer.apply([new])
    assert raw.hlen(KEYS.uses("h")) == 1
    assert full(raw) == {"servers_per_host": 1}


def test_sequences_beyond_a_gap_are_bounded(raw: Any, writer: Writer) -> None:
    writer.apply([SNAPSHOT])
    writer.apply(
        AgentStatement("h", (7, 2 * number), NOW + number, IMAGE, Said.STORED)
        for number in range(1, 1000)
    )
    assert len(raw.hget(KEYS.agents, "h")) < 64 * 9 + 100


# -- the consumer ------------------------------------------------------------------------------


@pytest.fixture
def make(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> Iterator[Callable[[str, str], Program]]:
    """Make consumers on this file's servers, by the name of their queue; all ends with the test."""
    made: dict[str, Program] = {}

    def make(pool: str, more: str) -> Program:
        text = configuration(rabbit.url, redis_server.url, f"pool = {pool}\n{more}")
        return made.setdefault(pool, Program(tmp_path, text, pool))

    yield make
    for program in made.values():
        program.kill()
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        for pool in made:
            channel.queue_delete(pool)
            channel.queue_delete(f"{pool}.dropped")
    redis_server.start()


@pytest.fixture
def program(make: Callable[[str, str], Program]) -> Program:
    """One of them."""
    return make("bus_cache", "prefetch = 100")


def queues(rabbit: servers.RabbitMQ) -> set[str]:
    """Return which there are; who declares a queue to see it has it expire later."""
    return set(rabbit.ctl("-q", "list_queues", "name").split())


def publish(rabbit: servers.RabbitMQ, bodies: list[bytes], exchange: str, key: str) -> None:
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        for body in bodies:
            channel.basic_publish(channel.prepare_message(body), exchange, key)


def resident(program: Program) -> int:
    """Return the MiB of memory of the process that works: the largest of the program's."""
    assert program.process is not None
    pids = [program.process.pid]
    task = Path(f"/proc/{pids[0]}/task/{pids[0]}/children")
    pids += map(int, task.read_text().split())
    found = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                found = max(found, int(line.split()[1]) // 1024)
    return found


def test_a_flood_of_bad_and_huge_messages_costs_few_lines_and_little_memory(
    rabbit: servers.RabbitMQ, raw: Any, program: Program
) -> None:
    program.start().reading()
    before = resident(program)
    publish(rabbit, [b"x" * 8 * 2**20] * 20, "nova", "notifications.info")
    publish(rabbit, [b"no JSON"] * 3000, "nova", "notifications.info")
    publish(rabbit, [messages.bodies()[0]] * 10, "nova", "notifications.info")
    publish(rabbit, [b"[" * 2**20] * 20, "", "bus_cache")
    publish(rabbit, [good("h")], "nova", "versioned_notifications.info")
    wait_for(lambda: raw.sismember(KEYS.image(IMAGE), "h"))
    grown = resident(program) - before
    assert program.stop() == 0
    assert 1 <= len(program.lines("can't be understood")) <= 2 * 20  # a minute may end meanwhile
    assert max(map(len, program.log.read_text().splitlines())) < 1000
    assert "malformed 3040" in program.lines("stopping; in all")[0]
    assert grown < 60, f"{grown} MiB"


def good(host: str, pad: int = 0) -> bytes:
    """Return the body of a notification that a host has the image, larger by some bytes."""
    return json.dumps(
        {
            "event_type": "instance.create.end",
            "publisher_id": f"nova-compute:{host}",
            "timestamp": messages.STAMP,
            "payload": {"host": host, "image_uuid": "i", "metadata": "x" * pad},
        }
    ).encode()


def test_messages_in_flight_are_bounded(
    rabbit: servers.RabbitMQ, raw: Any, redis_server: servers.Redis, program: Program
) -> None:
    """While Redis is away the broker hands out ``prefetch`` and no more; then all are written."""
    program.start().reading()
    program.said("Redis (for")
    redis_server.kill()
    publish(rabbit, [good(f"h{n}") for n in range(300)], "nova", "notifications.info")
    wait_for(lambda: in_hand(rabbit) == 100)
    time.sleep(1)
    assert (in_hand(rabbit), depth(rabbit)) == (100, 200)
    redis_server.start()
    wait_for(lambda: len(keyspace.sets(redis_server.client()).get(IMAGE, ())) == 300)
    assert program.stop() == 0


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[Change]]:
    """What consumers of this process write at once, in the order in which they do."""
    found: list[list[Change]] = []
    apply = Writer.apply

    def watched(self: Writer, changes: Iterable[Change]) -> Any:
        found.append(list(changes))
        return apply(self, found[-1])

    monkeypatch.setattr(Writer, "apply", watched)
    return found


def test_a_batch_is_bounded(
    rabbit: servers.RabbitMQ,
    raw: Any,
    redis_server: servers.Redis,
    batches: list[list[Change]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits is written and acknowledged in batches, never of more than is in flight."""
    topology = dataclasses.replace(TOPOLOGY, prefetch=20, pool="batches")
    monkeypatch.setattr("tests.consuming.TOPOLOGY", topology)
    with running(rabbit_transport(rabbit), redis_server):
        pass
    publish(rabbit, [good(f"h{n}") for n in range(1000)], "nova", "notifications.info")
    with running(rabbit_transport(rabbit), redis_server):
        wait_for(lambda: len(keyspace.sets(raw).get(IMAGE, ())) == 1000)
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        channel.queue_delete("batches")
    assert 10 <= max(map(len, batches)) <= 20


def snapshot_of_all(host: str, images: int) -> bytes:
    """Return the body of an agent's snapshot."""
    rows = [protocol.CachedImage(names.fingerprint(str(n)), 1, 1) for n in range(images)]
    return messages.enveloped(
        {
            "event_type": protocol.SNAPSHOT,
            "publisher_id": protocol.publisher(host),
            "timestamp": messages.STAMP,
            "payload": protocol.snapshot(host, (7, 0), rows),
        }
    )


def test_changes_of_one_batch_are_bounded(
    rabbit: servers.RabbitMQ,
    raw: Any,
    redis_server: servers.Redis,
    batches: list[list[Change]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few messages that say much are written long before the batch is full."""
    monkeypatch.setattr("consumers.consumer.LINGER", 60.0)  # no other reason to write
    # each second the broker is asked something: what it sends before its answer comes on top
    monkeypatch.setattr(Consumer, "_keep_up", lambda self, now: None)
    with running(rabbit_transport(rabbit), redis_server):
        pass
    bodies = [snapshot_of_all(f"h{number}", 1000) for number in range(40)]
    publish(rabbit, bodies, protocol.EXCHANGE, protocol.QUEUE)
    with running(rabbit_transport(rabbit), redis_server):
        wait_for(lambda: raw.hlen(KEYS.agents) == 40)
    weights = [sum(map(weight, batch)) for batch in batches]
    assert sum(weights) == 40_000
    assert max(weights) <= MOST_CHANGES


def weight(change: Change) -> int:
    """Return how many images a snapshot tells of."""
    assert isinstance(change, AgentSnapshot)
    return len(change.fingerprints)


def test_the_queue_of_what_was_dropped_is_bounded(
    rabbit: servers.RabbitMQ, make: Callable[[str, str], Program]
) -> None:
    """Beyond 1 MiB the broker drops from it, too: the count is what it was at least."""
    small = make("small", "queue_max_bytes = 20000").start().reading()
    assert small.stop() == 0
    bodies = [good(f"h{100 + n}", pad=8000) for n in range(300)]  # 2.4 MB
    publish(rabbit, bodies, "nova", "notifications.info")
    kept = 2**20 // len(bodies[0])
    wait_for(lambda: depth(rabbit, "small.dropped") == kept)
    assert depth(rabbit, "small") == 20000 // len(bodies[0])
    small.start().reading(2)
    [line] = small.said("dropped its oldest messages")
    assert f"at least {kept} (maxlen)" in line


def test_our_queues_expire_where_no_consumer_comes_back(
    rabbit: servers.RabbitMQ, make: Callable[[str, str], Program]
) -> None:
    """Never while one is there, however little comes; and that it was away too long is said."""
    short = make("short", "queue_expires = 1").start().reading()
    time.sleep(3)
    assert queues(rabbit) >= {"short", "short.dropped"}
    assert len(short.lines("declaring our queue short")) == 1
    assert short.stop() == 0
    wait_for(lambda: not queues(rabbit) & {"short", "short.dropped"})
    short.start().reading(2)
    assert len(short.lines("declaring our queue short")) == 2


def test_changes_in_hand_are_bounded_while_redis_is_away(
    rabbit: servers.RabbitMQ, raw: Any, redis_server: servers.Redis, program: Program
) -> None:
    program.start().reading()
    program.said("Redis (for")
    redis_server.kill()
    before = resident(program)
    # 400,000 changes
    bodies = [snapshot_of_all(f"h{number}", protocol.MOST_IMAGES) for number in range(40)]
    publish(rabbit, bodies, protocol.EXCHANGE, protocol.QUEUE)
    (line,) = program.said("messages back to the queue")
    assert "what is in hand" in line
    grown = resident(program) - before
    redis_server.start()
    wait_for(lambda: redis_server.client().hlen(KEYS.agents) == 40)
    assert program.stop() == 0
    assert grown < 100, f"{grown} MiB"
