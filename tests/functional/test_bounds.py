"""Each limit on real servers: what is beyond it is left out and counted, and all else goes on.

docs/bounds.md has the table of all limits, and names these tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
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
    Said,
    ServiceState,
    Source,
)
from bus_cache.index.listing import Listing
from bus_cache.index.writer import MOST_USES, Writer
from tests import servers
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


def test_sequences_beyond_a_gap_are_bounded(raw: Any, writer: Writer) -> None:
    writer.apply([SNAPSHOT])
    writer.apply(
        AgentStatement("h", (7, 2 * number), NOW + number, IMAGE, Said.STORED)
        for number in range(1, 1000)
    )
    assert len(raw.hget(KEYS.agents, "h")) < 64 * 9 + 100


# -- the consumer ------------------------------------------------------------------------------


@pytest.fixture
def program(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> Iterator[Program]:
    """A consumer on this file's servers."""
    made = Program(tmp_path, configuration(rabbit.url, redis_server.url, "prefetch = 100"))
    yield made
    made.kill()
    redis_server.start()


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
    good = json.dumps(
        {
            "event_type": "instance.create.end",
            "publisher_id": "nova-compute:h",
            "timestamp": messages.STAMP,
            "payload": {"host": "h", "image_uuid": "i"},
        }
    ).encode()
    publish(rabbit, [good], "nova", "versioned_notifications.info")
    wait_for(lambda: raw.sismember(KEYS.image(IMAGE), "h"))
    grown = resident(program) - before
    assert program.stop() == 0
    assert 1 <= len(program.lines("can't be understood")) <= 2 * 20  # a minute may end meanwhile
    assert max(map(len, program.log.read_text().splitlines())) < 1000
    assert "malformed 3040" in program.lines("stopping; in all")[0]
    assert grown < 60, f"{grown} MiB"


def test_changes_in_hand_are_bounded_while_redis_is_away(
    rabbit: servers.RabbitMQ, raw: Any, redis_server: servers.Redis, program: Program
) -> None:
    program.start().reading()
    program.said("Redis (for")
    redis_server.kill()
    before = resident(program)
    rows = [
        protocol.CachedImage(names.fingerprint(str(number)), 1, 1)
        for number in range(protocol.MOST_IMAGES)
    ]
    bodies = []
    for number in range(40):  # 400,000 changes
        said = protocol.snapshot(f"h{number}", (7, 0), rows)
        inner = {
            "event_type": protocol.SNAPSHOT,
            "publisher_id": protocol.publisher(f"h{number}"),
            "timestamp": messages.STAMP,
            "payload": said,
        }
        bodies.append(messages.enveloped(inner))
    publish(rabbit, bodies, protocol.EXCHANGE, protocol.QUEUE)
    (line,) = program.said("messages back to the queue")
    assert "what is in hand" in line
    grown = resident(program) - before
    redis_server.start()
    wait_for(lambda: redis_server.client().hlen(KEYS.agents) == 40, 60)
    assert program.stop() == 0
    assert grown < 100, f"{grown} MiB"
