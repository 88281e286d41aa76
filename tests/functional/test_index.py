"""The index on a real Redis and a real Valkey: whatever comes in whatever order, one outcome.

What is expected is computed here in Python from the contract alone: of evidence the newest stays,
an image's deletion is final, a host's deletion beats what is stamped before it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus_cache import connect, names
from bus_cache.index import reader as reader_module
from bus_cache.index import writer as writer_module
from bus_cache.index.changes import (
    Change,
    Fetching,
    Held,
    HostDeleted,
    ImageDeleted,
    ImageSize,
    Source,
)
from bus_cache.index.reader import Reader, Unreadable
from bus_cache.index.writer import SchemaError, Unavailable, Writer
from tests import servers

KEYSPACE = "test-1.a"
KEYS = names.Keys(KEYSPACE)
SCHEMA = str(names.SCHEMA).encode()
DAY = 86_400_000
TODAY = 20_780
NOON = TODAY * DAY + DAY // 2
State = dict[str, Any]


@pytest.fixture(scope="module", params=[servers.Redis, servers.Valkey], ids=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[servers.Redis]:
    """A server of each kind for the whole module."""
    with request.param() as running:
        yield running


@pytest.fixture
def raw(server: servers.Redis) -> Iterator[redis.Redis]:
    """A client of the tests' own, on a server with no data and no statistics."""
    with server.client() as client:
        empty(client)
        client.config_resetstat()
        yield client


def empty(raw: redis.Redis) -> None:
    """Remove all data at once, not in the background."""
    raw.execute_command("FLUSHALL", "SYNC")


@pytest.fixture
def writer(server: servers.Redis, raw: redis.Redis) -> Iterator[Writer]:
    """The writer under test."""
    client = make_client(server.url)
    yield Writer(client, KEYSPACE)
    client.close()


def make_client(url: str, **options: Any) -> connect.Client:
    """A client as the product makes it."""
    return connect.connect(connect.parse(url), connect_timeout=2.0, read_timeout=5.0, **options)


# -- the contract, in Python ---------------------------------------------------------------


def expected(statements: Iterable[Change]) -> State:
    """All keys and values that the statements lead to, in whatever order they come."""
    statements = set(statements)
    hosts_gone: dict[str, int] = {}
    for each in statements:
        if isinstance(each, HostDeleted):
            hosts_gone[each.host] = max(each.stamp, hosts_gone.get(each.host, 0))
    images_gone = {each.image_id for each in statements if isinstance(each, ImageDeleted)}
    state: State = {KEYS.schema: SCHEMA} if statements else {}
    for host, stamp in hosts_gone.items():
        state[f"{KEYS.prefix}gone:host:{host}"] = stamp
    for image_id in images_gone:
        state[f"{KEYS.prefix}gone:image:{names.fingerprint(image_id)}"] = b"1"
    for each in statements:
        if isinstance(each, (Held, ImageSize)) and each.image_id not in images_gone:
            fingerprint, day = names.fingerprint(each.image_id), each.stamp // DAY
            images = state.setdefault(KEYS.images, {})
            _, size, known_day = images.get(fingerprint, ("", False, day))
            if isinstance(each, ImageSize):
                size = max(each.size, size or 0)
            images[fingerprint] = (each.image_id, size, max(day, known_day))
        if isinstance(each, Held) and each.stamp >= hosts_gone.get(each.host, 0):
            newest = state.setdefault(KEYS.hosts, {})
            newest[each.host] = max(each.stamp, newest.get(each.host, 0))
            if each.image_id not in images_gone:
                fingerprint = names.fingerprint(each.image_id)
                state.setdefault(KEYS.image(fingerprint), set()).add(each.host)
                evidence = state.setdefault(KEYS.host(each.host), {})
                said = (each.stamp, int(each.source))
                stamp, source, *touched = evidence.get(fingerprint, said)
                if each.source != Source.MIGRATION:
                    touched.append(each.stamp)
                if source != Source.MIGRATION:
                    touched.append(stamp)
                newest = max(said, (stamp, source))
                beside = touched and newest[1] == Source.MIGRATION
                evidence[fingerprint] = (*newest, max(touched)) if beside else newest
    return state


def found(client: redis.Redis, prefix: str = KEYS.prefix) -> State:
    """All keys of a keyspace and their values, as :class:`names.Keys` documents them."""
    state: State = {}
    for key in client.scan_iter(match="*", count=1000):
        name = key.decode()
        assert name.startswith("{")
        # `ageing` is what is to be looked at, not what was said
        if name.startswith(prefix) and name != prefix + "ageing":
            state[name] = decoded(client, name, name[len(prefix) :])
    return state


def decoded(client: Any, name: str, short: str) -> object:
    """One key's value; fails where it is not of the documented type."""
    if short == "schema" or short.startswith("gone:image:"):
        return client.get(name)
    if short == "images":
        rows = {field.hex(): unpack(value) for field, value in client.hgetall(name).items()}
        for row in rows.values():
            assert [type(part) for part in row] in ([str, int, int], [str, bool, int]), row
            assert row[1] is not True
        return rows
    if short == "hosts":
        scores = client.zrange(name, 0, -1, withscores=True)
        return {member.decode(): int(score) for member, score in scores}
    if short.startswith("image:"):
        assert names.is_fingerprint(short[len("image:") :])
        return {member.decode() for member in client.smembers(name)}
    if short.startswith("host:"):
        # the third is when what is late came
        rows = {f.hex(): unpack(value) for f, value in client.hgetall(name).items()}
        evidence = {image: (*row[:2], *row[3:]) for image, row in rows.items()}
        for row in evidence.values():
            assert {type(part) for part in row} == {int}, row
            assert len(row) == 2 or Source(row[1]) == Source.MIGRATION
        return evidence
    assert short.startswith("gone:host:"), name
    return int(client.get(name))


def unpack(value: bytes) -> tuple[Any, ...]:
    """A row in msgpack."""
    row = msgpack.unpackb(value, raw=False)
    assert isinstance(row, list)
    return tuple(row)


def apply(writer: Writer, statements: Iterable[Change]) -> None:
    """Apply all of them; none is refused."""
    assert writer.apply(statements) == []


# -- order, repetition and batches ---------------------------------------------------------

HOSTS = st.sampled_from(["h1", "h2", "h3"])
IMAGES = st.sampled_from(["i1", "i2", "i3"])
STAMPS = st.sampled_from(
    [0, 1, DAY - 1, DAY, NOON, NOON, NOON + 1, NOON + 2, (TODAY + 1) * DAY, 253_402_300_799_999]
)
SIZES = {"i1": 0, "i2": 7 * 2**30, "i3": 2**53}
HELD = st.builds(Held, HOSTS, IMAGES, STAMPS, st.sampled_from(Source))
STATEMENTS = st.lists(
    HELD
    | HELD
    | HELD
    | st.builds(lambda image, stamp: ImageSize(image, SIZES[image], stamp), IMAGES, STAMPS)
    | st.builds(ImageDeleted, IMAGES, STAMPS)
    | st.builds(HostDeleted, HOSTS, STAMPS),
    max_size=14,
)
# A real server answers in its own time, and is emptied in the test itself.
ON_A_SERVER = settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def shuffled(data: st.DataObject, statements: Sequence[Change]) -> list[list[Change]]:
    """The statements in another order, some of them twice, in batches."""
    indices = list(range(len(statements)))
    again = data.draw(st.lists(st.sampled_from(indices), max_size=5)) if indices else []
    order = data.draw(st.permutations(indices + again))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(order)), max_size=6)))
    bounds = itertools.pairwise([0, *cuts, len(order)])
    return [[statements[i] for i in order[start:end]] for start, end in bounds]


def check_order(writer: Writer, raw: redis.Redis, data: st.DataObject, given_: Any) -> None:
    """The outcome is the model's, at once and in any other way."""
    empty(raw)
    apply(writer, given_)
    state = found(raw)
    assert state == expected(given_)
    for _ in range(2):
        empty(raw)
        for batch in shuffled(data, given_):
            apply(writer, batch)
        assert found(raw) == state


@ON_A_SERVER
@given(data=st.data(), statements=STATEMENTS)
def test_order_does_not_matter(
    writer: Writer, raw: redis.Redis, data: st.DataObject, statements: list[Change]
) -> None:
    """Nor repetition, nor how statements are batched."""
    check_order(writer, raw, data, statements)


@ON_A_SERVER
@given(
    data=st.data(),
    statements=st.lists(
        st.builds(ImageSize, IMAGES, st.sampled_from([0, 1, 2**53]), STAMPS)
        | st.builds(Held, HOSTS, IMAGES, STAMPS, st.just(Source.CREATE)),
        max_size=8,
    ),
)
def test_order_does_not_matter_where_sizes_differ(
    writer: Writer, raw: redis.Redis, data: st.DataObject, statements: list[Change]
) -> None:
    """Glance tells a size only of complete images; should it not, the largest stays."""
    check_order(writer, raw, data, statements)


SCENARIOS: dict[str, list[Change]] = {
    "newest evidence": [
        Held("h", "i", NOON, Source.CREATE),
        Held("h", "i", NOON + 5, Source.REBUILD),
        Held("h", "i", NOON - 5, Source.PRECACHE),
    ],
    "both formats": [
        Held("h", "i", NOON, Source.CREATE),
        Held("h", "i", NOON + 3, Source.CREATE),
    ],
    "a migration to a host that has the image": [
        Held("h", "i", NOON, Source.CREATE),
        Held("h", "i", NOON + 3, Source.MIGRATION),
        Held("h", "i", NOON + 1, Source.REBUILD),
        HostDeleted("h", NOON + 1),
    ],
    "what touched an image before its host was deleted": [
        Held("h", "i", NOON, Source.CREATE),
        Held("h", "i", NOON + 3, Source.MIGRATION),
        HostDeleted("h", NOON + 1),
    ],
    "one stamp, two sources": [
        Held("h", "i", NOON, Source.PRECACHE),
        Held("h", "i", NOON, Source.CREATE),
        Held("h", "i", NOON, Source.RESCUE),
    ],
    "an image is deleted, late messages come": [
        Held("h", "i", NOON, Source.CREATE),
        ImageDeleted("i", NOON + 5),
        Held("g", "i", NOON + 9, Source.CREATE),
        ImageSize("i", 5, NOON),
    ],
    "a host is deleted between two boots": [
        Held("h", "i", NOON, Source.CREATE),
        HostDeleted("h", NOON + 5),
        Held("h", "j", NOON + 9, Source.CREATE),
        Held("g", "i", NOON, Source.CREATE),
    ],
    "a host is deleted between two boots of one image": [
        Held("h", "i", NOON, Source.CREATE),
        HostDeleted("h", NOON + 5),
        Held("h", "i", NOON + 9, Source.CREATE),
    ],
    "a host is deleted at the very millisecond": [
        Held("h", "i", NOON - 1, Source.CREATE),
        Held("h", "j", NOON, Source.CREATE),
        HostDeleted("h", NOON),
    ],
    "a host is deleted twice": [
        HostDeleted("h", NOON),
        HostDeleted("h", NOON + 10),
        Held("h", "i", NOON + 5, Source.CREATE),
        Held("h", "j", NOON + 15, Source.CREATE),
    ],
    "the only evidence of a host is of a deleted image": [
        Held("h", "i", NOON, Source.CREATE),
        ImageDeleted("i", NOON),
    ],
    "image and host are deleted": [
        Held("h", "i", NOON, Source.CREATE),
        ImageDeleted("i", NOON + 1),
        HostDeleted("h", NOON + 1),
        ImageSize("i", 5, NOON),
    ],
    "a size, then newer evidence": [
        ImageSize("i", 5, NOON),
        Held("h", "i", NOON + DAY, Source.CREATE),
    ],
    "two sizes": [
        ImageSize("i", 5, NOON),
        ImageSize("i", 3, NOON + DAY),
        ImageSize("i", 4, NOON + 2 * DAY),
    ],
    "a size before and after": [
        ImageSize("i", 5, NOON),
        Held("h", "i", NOON + DAY, Source.CREATE),
        ImageSize("i", 5, NOON + 2 * DAY),
        Held("h", "i", NOON - DAY, Source.CREATE),
    ],
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_order_of_a_scenario(writer: Writer, raw: redis.Redis, name: str) -> None:
    """One by one and at once, in each of all possible orders."""
    statements = SCENARIOS[name]
    for order in itertools.permutations(statements):
        for batches in ([[each] for each in order], [list(order)]):
            empty(raw)
            for batch in batches:
                apply(writer, batch)
            assert found(raw) == expected(statements), batches


def test_a_scenario_by_hand(writer: Writer, raw: redis.Redis) -> None:
    """So that an error in the model can't hide one in the scripts."""
    apply(writer, [Held("h", "i", NOON, Source.CREATE), Held("g", "i", NOON, Source.RESCUE)])
    apply(writer, [Held("h", "j", NOON + DAY, Source.MIGRATION), ImageSize("j", 512, NOON)])
    apply(writer, [HostDeleted("g", NOON + 1), Held("g", "j", NOON, Source.CREATE)])
    apply(writer, [Held("h", "k", NOON, Source.CREATE), ImageDeleted("k", NOON)])
    i, j, k = (names.fingerprint(each) for each in "ijk")
    assert found(raw) == {
        "{test-1.a}:schema": SCHEMA,
        f"{{test-1.a}}:image:{i}": {"h"},
        f"{{test-1.a}}:image:{j}": {"h"},
        "{test-1.a}:images": {i: ("i", False, TODAY), j: ("j", 512, TODAY + 1)},
        "{test-1.a}:host:h": {i: (NOON, 1), j: (NOON + DAY, 4)},
        "{test-1.a}:hosts": {"h": NOON + DAY},
        "{test-1.a}:gone:host:g": NOON + 1,
        f"{{test-1.a}}:gone:image:{k}": b"1",
    }


NAMES = st.text("".join(map(chr, range(0x21, 0x7F))), min_size=1, max_size=255)


@ON_A_SERVER
@given(
    statements=st.lists(
        st.builds(Held, NAMES, NAMES, STAMPS, st.sampled_from(Source))
        | st.builds(HostDeleted, NAMES, STAMPS)
        | st.builds(ImageDeleted, NAMES, STAMPS)
        | st.builds(ImageSize, NAMES, st.integers(0, 2**53), STAMPS),
        max_size=8,
        unique_by=lambda each: each[0],
    )
)
def test_any_valid_name(writer: Writer, raw: redis.Redis, statements: list[Change]) -> None:
    """Braces, colons, quotes and stars are just letters."""
    empty(raw)
    apply(writer, statements)
    assert found(raw) == expected(statements)
    assert set(writer.hosts()) == {each.host for each in statements if isinstance(each, Held)}


def random_statements(count: int, seed: int) -> list[Change]:
    """Many statements over few hosts and images, as both formats of many boots make them."""
    dice = random.Random(seed)
    statements: list[Change] = []
    for _ in range(count):
        host, image = f"h{dice.randrange(20)}", f"i{dice.randrange(20)}"
        stamp = NOON + dice.randrange(1000)
        kind = dice.random()
        if kind < 0.85:
            statements.append(Held(host, image, stamp, dice.choice(list(Source))))
        elif kind < 0.93:
            statements.append(ImageSize(image, 1000 + int(image[1:]), stamp))
        elif kind < 0.96:
            statements.append(ImageDeleted(f"i{dice.randrange(4)}", stamp))
        else:
            statements.append(HostDeleted(f"h{dice.randrange(4)}", stamp))
    return statements


def test_writers_side_by_side(server: servers.Redis, raw: redis.Redis) -> None:
    """Several consumers, each with a part of the messages, some of them delivered to two."""
    statements = random_statements(2000, 1)

    def consume(number: int) -> None:
        dice = random.Random(number)
        mine = [each for i, each in enumerate(statements) if i % 4 == number or dice.random() < 0.4]
        dice.shuffle(mine)
        client = make_client(server.url)
        writer = Writer(client, KEYSPACE)
        for start in range(0, len(mine), 40):
            apply(writer, mine[start : start + 40])
        client.close()

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found(raw) == expected(statements)


def test_keyspaces_do_not_touch_each_other(server: servers.Redis, raw: redis.Redis) -> None:
    """Also where one's name begins with the other's."""
    client = make_client(server.url)
    apply(Writer(client, KEYSPACE), [Held("h", "i", NOON, Source.CREATE)])
    before = found(raw)
    other = Writer(client, KEYSPACE + "2")
    apply(other, [Held("g", "i", NOON, Source.CREATE), ImageDeleted("i", NOON)])
    apply(other, [HostDeleted("h", NOON + 1), Held("g", "j", NOON, Source.CREATE)])
    assert found(raw) == before
    assert list(other.hosts()) == ["g"]
    client.close()


# -- how it is written ---------------------------------------------------------------------


def calls(raw: redis.Redis, command: str) -> int:
    """How often a command was executed, scripts' own calls included."""
    statistics: Any = raw.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(statistics["calls"])


def script_calls(raw: redis.Redis) -> int:
    """Calls of scripts that ran; one that is not known yet is loaded and called again."""
    statistics: Any = raw.info("commandstats").get("cmdstat_evalsha", {})
    return int(statistics.get("calls", 0)) - int(statistics.get("failed_calls", 0))


def test_many_statements_take_few_calls(writer: Writer, raw: redis.Redis) -> None:
    """A bounded number of statements in each."""
    statements = [Held(f"h{n}", f"i{n % 7}", NOON, Source.CREATE) for n in range(1000)]
    apply(writer, iter(statements))
    assert 2 <= script_calls(raw) <= 10
    assert found(raw) == expected(statements)


def test_what_is_said_twice_is_sent_once(writer: Writer, raw: redis.Redis) -> None:
    """The newest of it."""
    statements = [Held("h", "i", NOON + n, Source.CREATE) for n in range(1000)]
    apply(writer, statements)
    assert script_calls(raw) == 1
    assert found(raw) == expected(statements)


def test_nothing_to_write(writer: Writer, raw: redis.Redis) -> None:
    """Then nothing is sent."""
    apply(writer, [])
    assert found(raw) == {}
    assert script_calls(raw) == 0


def test_a_deleted_image_that_many_hold(writer: Writer, raw: redis.Redis) -> None:
    """It takes several calls, none of them long."""
    statements: list[Change] = [Held(f"h{n}", "i", NOON, Source.CREATE) for n in range(2500)]
    statements += [Held(f"h{n}", "j", NOON, Source.CREATE) for n in range(0, 2500, 100)]
    apply(writer, statements)
    raw.config_resetstat()
    apply(writer, [ImageDeleted("i", NOON)])
    assert script_calls(raw) == 3
    assert found(raw) == expected([*statements, ImageDeleted("i", NOON)])


def test_late_messages_while_an_image_is_deleted(
    server: servers.Redis, writer: Writer, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another consumer writes between two calls."""
    statements: list[Change] = [Held(f"h{n}", "i", NOON, Source.CREATE) for n in range(50)]
    late: list[Change] = [Held(f"late{n}", "i", NOON + 9, Source.CREATE) for n in range(10)]
    apply(writer, statements)
    monkeypatch.setattr(writer_module, "HOSTS_PER_CALL", 10)
    deletion: Change = ImageDeleted("i", NOON)
    done = threading.Event()

    def disturb() -> None:
        client = make_client(server.url)
        other = Writer(client, KEYSPACE)
        while not raw.exists(KEYS.prefix + "gone:image:" + names.fingerprint("i")):
            pass
        for each in late:
            apply(other, [each])
        done.set()
        client.close()

    thread = threading.Thread(target=disturb)
    thread.start()
    apply(writer, [deletion])
    thread.join()
    assert done.is_set()
    assert found(raw) == expected([*statements, *late, deletion])


def test_deletions_are_remembered_for_a_time(writer: Writer, raw: redis.Redis) -> None:
    """And nothing else expires."""
    apply(writer, [Held("h", "i", NOON, Source.CREATE), ImageSize("i", 1, NOON)])
    apply(writer, [HostDeleted("h", NOON - 1), ImageDeleted("j", NOON)])
    for key in found(raw):
        ttl = raw.ttl(key)
        if ":gone:" in key:
            assert writer_module.REMEMBER - 5 <= ttl <= writer_module.REMEMBER
        else:
            assert ttl == -1


@pytest.mark.parametrize("again", [ImageDeleted("i", NOON - 5), HostDeleted("h", NOON - 5)])
def test_an_older_deletion_shortens_no_memory(
    writer: Writer, raw: redis.Redis, again: Change
) -> None:
    """What is remembered is remembered at least as long as before."""
    apply(writer, [ImageDeleted("i", NOON), HostDeleted("h", NOON)])
    keys = [key for key in found(raw) if ":gone:" in key]
    before = [raw.expiretime(key) for key in keys]
    apply(writer, [again])
    assert all(raw.expiretime(k) >= old for k, old in zip(keys, before, strict=True))


def test_scripts_that_redis_forgot(writer: Writer, raw: redis.Redis) -> None:
    """As after a restart or a failover."""
    statements = random_statements(50, 2)
    apply(writer, statements[:25])
    raw.script_flush()
    apply(writer, statements[25:])
    assert found(raw) == expected(statements)


# -- reading -------------------------------------------------------------------------------


@pytest.fixture
def reader(server: servers.Redis, raw: redis.Redis) -> Iterator[Reader]:
    """The reader under test."""
    client = make_client(server.url)
    yield Reader(client, KEYSPACE)
    client.close()


def test_holders_are_the_sets(writer: Writer, reader: Reader, raw: redis.Redis) -> None:
    """For every image and host, in the order asked."""
    statements = random_statements(500, 3)
    apply(writer, statements)
    state = expected(statements)
    hosts = [f"h{n}" for n in range(25)]
    for number in range(25):
        members = state.get(KEYS.image(names.fingerprint(f"i{number}")), set())
        for asked in (hosts, hosts[::-1], hosts[3:4], [*hosts, *hosts]):
            found = reader.look(f"i{number}", asked, NOON)
            assert found.asked == set(asked)
            assert found.held == members & found.asked
    assert sum(len(reader.look(f"i{n}", hosts, NOON).held) for n in range(25)) > 50


def test_holders_take_one_round_trip(writer: Writer, reader: Reader, raw: redis.Redis) -> None:
    """Whatever the number of hosts; of none, none."""
    hosts = [f"h{n}" for n in range(5000)]
    apply(writer, [Held(host, "i", NOON, Source.CREATE) for host in hosts[::2]])
    raw.config_resetstat()
    assert reader.look("i", hosts, NOON) == (set(hosts), set(hosts[::2]), set())
    assert calls(raw, "smismember") == calls(raw, "zrange") == 1
    assert reader.look("i", [], NOON) == (set(), set(), set())
    assert calls(raw, "smismember") == calls(raw, "zrange") == 1


def test_holders_of_an_image_that_nobody_knows(reader: Reader) -> None:
    """None of the hosts."""
    assert reader.look("unknown", ["a", "b"], NOON) == ({"a", "b"}, set(), set())


def test_what_is_on_its_way(
    writer: Writer, reader: Reader, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To hosts asked about or not, until it is there or too late for it; the last ones first."""
    now = int(time.time() * 1000)
    apply(writer, [Fetching(host, "i", now) for host in ("a", "b", "c")])
    apply(writer, [Held("b", "i", now + 1, Source.CREATE)])
    assert reader.look("i", ["b", "x"], now) == ({"b", "x"}, {"b"}, {"a", "c"})
    assert reader.look("i", ["b", "x"], now + 10**9).coming == set()
    raw.zadd(KEYS.coming(names.fingerprint("many")), {f"h{n}": n for n in range(9)})
    monkeypatch.setattr(reader_module, "MOST_COMING", 3)
    assert reader.look("many", ["a"], 2).coming == {"h6", "h7", "h8"}
    assert reader.look("many", ["a"], 7).coming == {"h8"}


def test_a_key_of_another_kind_can_not_be_read(reader: Reader, raw: redis.Redis) -> None:
    """Of each of an image's two; other images can."""
    for key, other in ((KEYS.image, KEYS.coming), (KEYS.coming, KEYS.image)):
        raw.flushall()
        raw.set(key(names.fingerprint("i")), "no set")
        raw.hset(other(names.fingerprint("j")), "a", "b")
        for image in ("i", "j"):
            with pytest.raises(Unreadable, match="in Redis is no "):
                reader.look(image, ["h"], NOON)
        assert reader.look("k", ["h"], NOON).held == set()


def test_holders_of_an_image_whose_key_is_no_set(reader: Reader, raw: redis.Redis) -> None:
    """An error, no answer."""
    raw.set(KEYS.image(names.fingerprint("i")), "x")
    with pytest.raises(Unreadable, match="is no set"):
        reader.look("i", ["h"], NOON)


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_all_hosts(writer: Writer, count: int) -> None:
    """Page by page."""
    hosts = [f"h{n}" for n in range(count)]
    apply(writer, [Held(host, "i", NOON, Source.CREATE) for host in hosts])
    assert sorted(writer.hosts()) == sorted(hosts)


# -- forgetting ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 3000])
def test_images_that_nobody_holds_are_forgotten(
    writer: Writer, raw: redis.Redis, count: int
) -> None:
    """If nothing was heard of them since; few are kept in another way than many."""
    old: list[Change] = [ImageSize(f"old{n}", n, NOON - 40 * DAY) for n in range(count)]
    same: list[Change] = [ImageSize(f"same{n}", n, NOON - 30 * DAY) for n in range(count)]
    new: list[Change] = [ImageSize(f"new{n}", n, NOON) for n in range(count)]
    held: list[Change] = [
        Held("h", f"held{n}", NOON - 40 * DAY, Source.CREATE) for n in range(count)
    ]
    apply(writer, old + same + new + held)
    writer.forget_images(NOON - 30 * DAY)
    assert found(raw) == expected(same + new + held)
    writer.forget_images(NOON - 30 * DAY)
    assert found(raw) == expected(same + new + held)


def test_an_image_is_forgotten_once_its_last_host_is_gone(writer: Writer, raw: redis.Redis) -> None:
    """The rest of the keyspace stays as it is."""
    held = Held("h", "i", NOON - 40 * DAY, Source.CREATE)
    apply(writer, [held, HostDeleted("h", NOON)])
    assert KEYS.images in found(raw)
    writer.forget_images(NOON)
    state = expected([held, HostDeleted("h", NOON)])
    del state[KEYS.images]
    assert found(raw) == state


@pytest.mark.parametrize("before", [0, -DAY, 1])
def test_forgetting_nothing(writer: Writer, raw: redis.Redis, before: int) -> None:
    """All that is there is newer, or there is nothing."""
    writer.forget_images(before)
    apply(writer, [ImageSize("i", 1, 0)])
    writer.forget_images(before)
    assert found(raw) == expected([ImageSize("i", 1, 0)])


# -- the schema ----------------------------------------------------------------------------

ONE_OF_EACH: list[Change] = [
    Held("h", "i", NOON, Source.CREATE),
    ImageSize("i", 1, NOON),
    ImageDeleted("i", NOON),
    HostDeleted("h", NOON),
]
KINDS = pytest.mark.parametrize("change", ONE_OF_EACH, ids=lambda each: type(each).__name__)


@KINDS
def test_the_schema_is_written_with_the_first_change(
    writer: Writer, raw: redis.Redis, change: Change
) -> None:
    """And not by asking for it."""
    writer.check()
    assert found(raw) == {}
    apply(writer, [change])
    assert raw.get(KEYS.schema) == SCHEMA
    writer.check()


@pytest.mark.parametrize(
    "schema", [b"4", b"0", b"", b"1 ", b"01", b"1.0", b"x", b"\xff\xfe", b"2\n"]
)
def test_another_schema_is_refused(writer: Writer, raw: redis.Redis, schema: bytes) -> None:
    """By everything that writes; nothing is changed."""
    raw.set(KEYS.schema, schema)
    with pytest.raises(SchemaError, match="schema") as error:
        writer.check()
    assert str(error.value).isprintable()
    assert repr(KEYSPACE) in str(error.value)
    for change in ONE_OF_EACH:
        with pytest.raises(SchemaError, match="schema"):
            writer.apply([change])
    with pytest.raises((SchemaError, Unavailable)):
        writer.forget_images(NOON)
    assert raw.keys() == [KEYS.schema.encode()]
    assert raw.get(KEYS.schema) == schema


def test_a_schema_that_is_no_text_is_refused(writer: Writer, raw: redis.Redis) -> None:
    """The keyspace is somebody else's: no single statement is at fault, so none is given up."""
    raw.rpush(KEYS.schema, "x")
    with pytest.raises((SchemaError, Unavailable)):
        writer.check()
    for change in ONE_OF_EACH:
        with pytest.raises((SchemaError, Unavailable)):
            writer.apply([change])
    assert raw.keys() == [KEYS.schema.encode()]


# -- keys that are somebody else's ---------------------------------------------------------

I9 = names.fingerprint("i9")


def put_string(raw: redis.Redis, key: str) -> None:
    """Somebody else's value."""
    raw.set(key, "x")


def put_list(raw: redis.Redis, key: str) -> None:
    """Somebody else's value of another type."""
    raw.rpush(key, "x")


POISON: list[tuple[str, str, Callable[[redis.Redis, str], None], list[Change]]] = [
    ("the public set", KEYS.image(I9), put_string, [Held("h9", "i9", NOON, Source.CREATE)]),
    ("evidence", KEYS.host("h9"), put_string, [Held("h9", "i9", NOON, Source.CREATE)]),
    ("evidence", KEYS.host("h9"), put_list, [HostDeleted("h9", NOON)]),
    ("the public set", KEYS.image(I9), put_list, [ImageDeleted("i9", NOON)]),
    (
        "a host's deletion",
        f"{KEYS.prefix}gone:host:h9",
        put_list,
        [Held("h9", "i9", NOON, Source.CREATE), HostDeleted("h9", NOON)],
    ),
]


@pytest.mark.parametrize(("what", "key", "put", "bad"), POISON)
def test_a_key_of_a_wrong_type_refuses_its_statements_only(
    writer: Writer,
    raw: redis.Redis,
    what: str,
    key: str,
    put: Callable[[redis.Redis, str], None],
    bad: list[Change],
) -> None:
    """All others are applied, before and behind it."""
    put(raw, key)
    good: list[Change] = [Held(f"h{n}", f"i{n}", NOON, Source.CREATE) for n in range(10, 310)]
    good += [ImageSize("i10", 5, NOON), ImageDeleted("i11", NOON), HostDeleted("h12", NOON + 1)]
    refused = writer.apply([*good[:150], *bad, *good[150:]])
    assert {each for group, _ in refused for each in group} == set(bad)
    assert all("WRONGTYPE" in reason for _, reason in refused)
    assert all(reason.isprintable() for _, reason in refused)
    raw.delete(key)
    state = found(raw)
    for name, value in expected(good).items():
        if isinstance(value, dict):
            assert value.items() <= state[name].items(), name
        else:
            assert state[name] == value, name


@pytest.mark.parametrize(
    ("what", "key", "put", "bad"), [each for each in POISON if isinstance(each[3][0], Held)]
)
def test_a_refused_statement_leaves_no_trace(
    writer: Writer,
    raw: redis.Redis,
    what: str,
    key: str,
    put: Callable[[redis.Redis, str], None],
    bad: list[Change],
) -> None:
    """No public set may name a host of which there is no evidence: nothing would take it out."""
    good: list[Change] = [Held("h1", "i1", NOON, Source.CREATE)]
    put(raw, key)
    assert writer.apply([*good, *bad])
    raw.delete(key)
    assert found(raw) == expected(good)


@pytest.mark.parametrize("key", [KEYS.images, KEYS.hosts])
def test_a_shared_key_of_a_wrong_type_leaves_no_trace(
    writer: Writer, raw: redis.Redis, key: str
) -> None:
    """Every statement needs it, so none is applied, not even half."""
    raw.set(key, "x")
    statements: list[Change] = [Held("h", "i", NOON, Source.CREATE)]
    refused = writer.apply(statements)
    assert [each for group, _ in refused for each in group] == statements
    raw.delete(key)
    assert found(raw) in ({}, {KEYS.schema: SCHEMA})


GARBAGE = [
    b"",
    b"x",
    b"\xc1",
    b"\x90",
    b"\x92\xa1a\xa1b",
    b"\x92\x01",
    b"\x80",
    b"\x93\xc0\xc0\xc0",
]


@pytest.mark.parametrize("value", GARBAGE)
def test_values_that_can_not_be_read(writer: Writer, raw: redis.Redis, value: bytes) -> None:
    """They count as absent: what is said next is written over them."""
    field = bytes.fromhex(I9)
    for statements in (
        [Held("h9", "i9", NOON, Source.CREATE)],
        [ImageSize("i9", 5, NOON)],
    ):
        empty(raw)
        raw.hset(KEYS.images, field, value)
        raw.hset(KEYS.host("h9"), field, value)
        apply(writer, statements)
        state = expected(statements)
        if isinstance(statements[0], ImageSize):
            raw.delete(KEYS.host("h9"))
        assert found(raw) == state


@pytest.mark.parametrize("value", GARBAGE)
def test_evidence_that_can_not_be_read_goes_with_its_host(
    writer: Writer, raw: redis.Redis, value: bytes
) -> None:
    """It keeps nothing else from going."""
    held: list[Change] = [Held("h9", f"i{n}", NOON, Source.CREATE) for n in range(20)]
    apply(writer, held)
    raw.hset(KEYS.host("h9"), bytes.fromhex(I9), value)
    apply(writer, [HostDeleted("h9", NOON + 1)])
    assert found(raw) == expected([*held, HostDeleted("h9", NOON + 1)])


@pytest.mark.parametrize("value", GARBAGE)
def test_images_that_can_not_be_read_are_forgotten(
    writer: Writer, raw: redis.Redis, value: bytes
) -> None:
    """They keep no other from being forgotten."""
    apply(writer, [ImageSize(f"i{n}", n, NOON) for n in range(20)])
    raw.hset(KEYS.images, bytes.fromhex(I9), value)
    writer.forget_images(NOON + DAY)
    assert found(raw) == {KEYS.schema: SCHEMA}


# -- Redis that is away, or refuses for now ------------------------------------------------


@contextlib.contextmanager
def out_of_memory(raw: redis.Redis) -> Iterator[None]:
    """maxmemory is reached, and nothing may be evicted."""
    raw.config_set("maxmemory", 1)
    try:
        yield
    finally:
        raw.config_set("maxmemory", 0)


@contextlib.contextmanager
def replica(raw: redis.Redis) -> Iterator[None]:
    """After a failover: the old master is a replica now, and can be read only."""
    raw.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        raw.replicaof("NO", "ONE")


@contextlib.contextmanager
def stale_replica(raw: redis.Redis) -> Iterator[None]:
    """And it may not even be read."""
    raw.config_set("replica-serve-stale-data", "no")
    try:
        with replica(raw):
            yield
    finally:
        raw.config_set("replica-serve-stale-data", "yes")


@contextlib.contextmanager
def no_good_replicas(raw: redis.Redis) -> Iterator[None]:
    """min-replicas-to-write."""
    raw.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        raw.config_set("min-replicas-to-write", 0)


@contextlib.contextmanager
def rights(raw: redis.Redis, *taken: str) -> Iterator[None]:
    """An operator took rights from our user, by mistake."""
    raw.execute_command("ACL", "SETUSER", "default", *taken)
    try:
        yield
    finally:
        raw.execute_command("ACL", "SETUSER", "default", "+@all", "allkeys")


@contextlib.contextmanager
def another_password(raw: redis.Redis) -> Iterator[None]:
    """And connections are closed, so that they must log in again."""
    raw.config_set("requirepass", "secret")
    raw.client_kill_filter(_type="normal", skipme=True)
    try:
        yield
    finally:
        raw.config_set("requirepass", "")


@contextlib.contextmanager
def busy_script(raw: redis.Redis) -> Iterator[None]:
    """Somebody's endless script."""
    raw.config_set("lua-time-limit", 1)
    endless = threading.Thread(target=run_endless, args=(raw,))
    endless.start()
    while True:
        try:
            raw.ping()
            time.sleep(0.005)
        except redis.ResponseError as error:
            if str(error).startswith("BUSY"):
                break
            raise
    try:
        yield
    finally:
        raw.script_kill()
        endless.join()
        raw.config_set("lua-time-limit", 5000)


def run_endless(raw: redis.Redis) -> None:
    """Until somebody kills it."""
    with contextlib.suppress(redis.ResponseError):
        raw.eval("while true do end", 0)


@contextlib.contextmanager
def disk_error(raw: Any) -> Iterator[None]:
    """The last snapshot could not be saved, and Redis stops writes for it."""
    obstacle = Path(raw.config_get("dir")["dir"], "dump.rdb", "x")
    obstacle.mkdir(parents=True)  # nothing can be renamed over a directory that is not empty
    raw.config_set("save", "3600 1")
    raw.bgsave()
    while raw.info("persistence")["rdb_last_bgsave_status"] != "err":
        time.sleep(0.005)
    try:
        yield
    finally:
        obstacle.rmdir()
        obstacle.parent.rmdir()
        raw.bgsave()
        while raw.info("persistence")["rdb_last_bgsave_status"] != "ok":
            time.sleep(0.005)
        raw.config_set("save", "")
        obstacle.parent.unlink()


PASSING: dict[str, Callable[[redis.Redis], contextlib.AbstractContextManager[None]]] = {
    "out of memory": out_of_memory,
    "replica": replica,
    "stale replica": stale_replica,
    "no good replicas": no_good_replicas,
    "no right to run scripts": lambda raw: rights(raw, "-evalsha"),
    "no right to write in scripts": lambda raw: rights(raw, "-@write"),
    "no right to read in scripts": lambda raw: rights(raw, "-@read"),
    "no right to our keys": lambda raw: rights(raw, "resetkeys", "~other:*"),
    "another password": another_password,
    "busy script": busy_script,
    "disk error": disk_error,
}


@pytest.mark.parametrize("why", PASSING)
def test_what_passes_refuses_nothing_for_good(writer: Writer, raw: redis.Redis, why: str) -> None:
    """The messages are kept: once it has passed, all is written."""
    before = random_statements(20, 4)
    apply(writer, before)
    state = found(raw)
    with PASSING[why](raw):
        for change in ONE_OF_EACH:
            with pytest.raises(Unavailable) as error:
                writer.apply([change])
            assert str(error.value)
            assert str(error.value).isprintable()
    assert found(raw) == state
    apply(writer, ONE_OF_EACH)
    assert found(raw) == expected([*before, *ONE_OF_EACH])


class OldRedis:
    """Answers every script as Redis 6 does, which puts its own words before the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def register_script(self, text: str) -> Callable[..., Any]:
        """Return a script that fails."""

        def run(**_: Any) -> Any:
            where = f"call to f_{'a' * 40}): @user_script:31: @user_script: 31"
            raise redis.ResponseError(f"Error running script ({where}: {self._reason}")

        return run


@pytest.mark.parametrize(
    "reason",
    [
        "-OOM command not allowed when used memory > 'maxmemory'.",
        "-READONLY You can't write against a read only replica.",
        "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist",
        "-NOREPLICAS Not enough good replicas to write.",
    ],
)
def test_what_passes_in_the_words_of_redis_6(reason: str) -> None:
    """SMISMEMBER is there since 6.2, so this version is still served."""
    old: Any = OldRedis(reason)
    with pytest.raises(Unavailable):
        Writer(old, KEYSPACE).apply([Held("h", "i", NOON, Source.CREATE)])


def test_a_wrong_type_in_the_words_of_redis_6() -> None:
    """This one does not pass."""
    old: Any = OldRedis("WRONGTYPE Operation against a key holding the wrong kind of value")
    change = Held("h", "i", NOON, Source.CREATE)
    ((group, reason),) = Writer(old, KEYSPACE).apply([change])
    assert list(group) == [change]
    assert "WRONGTYPE" in reason


@pytest.fixture
def own(server: servers.Redis) -> Iterator[servers.Redis]:
    """A server that a test may stop, of the same kind."""
    with type(server)() as running:
        yield running


def away(writer: Writer, reader: Reader) -> None:
    """Everything fails as documented."""
    with pytest.raises(Unavailable):
        writer.check()
    for change in ONE_OF_EACH:
        with pytest.raises(Unavailable):
            writer.apply([change])
    with pytest.raises(Unavailable):
        writer.forget_images(NOON)
    with pytest.raises(Unavailable):
        list(writer.hosts())
    with pytest.raises(connect.AWAY):
        reader.look("i", ["h"], NOON)


def test_a_server_that_stops_and_starts(own: servers.Redis) -> None:
    """It has lost its data and our scripts; the same writer goes on."""
    client = make_client(own.url)
    writer, reader = Writer(client, KEYSPACE), Reader(client, KEYSPACE)
    apply(writer, ONE_OF_EACH)
    own.stop()
    away(writer, reader)
    own.start()
    writer.check()
    apply(writer, ONE_OF_EACH)
    with own.client() as raw:
        assert found(raw) == expected(ONE_OF_EACH)
    client.close()


def test_a_server_that_hangs(own: servers.Redis) -> None:
    """The read timeout ends each call; the server is held up for longer than they all take."""
    target = connect.parse(own.url)
    client = connect.connect(target, connect_timeout=0.1, read_timeout=0.1)
    writer, reader = Writer(client, KEYSPACE), Reader(client, KEYSPACE)
    apply(writer, ONE_OF_EACH)
    with own.client() as raw:
        raw.client_pause(60_000)
    started = time.monotonic()
    away(writer, reader)
    assert time.monotonic() - started < 30
    client.close()


# -- other ways to reach Redis -------------------------------------------------------------


def check_all(url: str, raw: redis.Redis, **options: Any) -> tuple[Writer, Reader]:
    """Everything works."""
    client = make_client(url, **options)
    writer, reader = Writer(client, KEYSPACE), Reader(client, KEYSPACE)
    statements = random_statements(300, 5)
    writer.check()
    apply(writer, statements)
    apply(writer, statements)
    state = expected(statements)
    assert found(raw) == state
    image = next(each.image_id for each in statements if isinstance(each, Held))
    members = state.get(KEYS.image(names.fingerprint(image)), set())
    hosts = [f"h{n}" for n in range(20)]
    assert reader.look(image, hosts, NOON).held == members & set(hosts)
    assert set(writer.hosts()) == set(state[KEYS.hosts])
    writer.forget_images(0)
    assert found(raw) == state
    return writer, reader


def test_a_unix_socket(server: servers.Redis) -> None:
    """And a database other than 0."""
    path = server.directory / "own.sock"
    with type(server)("--unixsocket", str(path)) as running, running.client(db=3) as raw:
        check_all(f"unix://{path}?db=3", raw)


def test_a_user_with_a_password(server: servers.Redis, raw: redis.Redis) -> None:
    """With all that has to be percent-encoded."""
    raw.execute_command("ACL", "SETUSER", "bus", "on", ">p@/:#%s w", "~{test-1.a}:*", "+@all")
    try:
        check_all(server.url.replace("//", "//bus:p%40%2F%3A%23%25s%20w@"), raw)
    finally:
        raw.execute_command("ACL", "DELUSER", "bus")


def test_a_cluster(server: servers.Redis) -> None:
    """Of one node; every key is in one slot, so that more of them change nothing."""
    bus = servers.free_port()
    arguments = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
    with type(server)(*arguments) as node, node.client() as raw:
        raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in raw.execute_command("CLUSTER", "INFO"):
            time.sleep(0.01)
        url = f"redis+cluster://127.0.0.1:{node.port}"
        writer, reader = check_all(url, raw)
        # a bad statement does not take others with it here either
        raw.set(KEYS.image(I9), "x")
        bad = Held("h9", "i9", NOON, Source.CREATE)
        refused = writer.apply([bad, Held("h1", "i8", NOON, Source.CREATE)])
        assert [list(group) for group, _ in refused] == [[bad]]
        with out_of_memory(raw), pytest.raises(Unavailable):
            writer.apply(ONE_OF_EACH)
        node.stop()
        away(writer, reader)
        lazy = Writer(lambda: make_client(url), KEYSPACE)
        with pytest.raises(Unavailable):
            lazy.check()
        node.start()


@pytest.mark.parametrize("server", [servers.Redis], indirect=True)
def test_a_sentinel(own: servers.Redis) -> None:
    """It says where the master is; the first one asked may be away."""
    nobody = servers.free_port()
    with servers.Sentinel(own.port) as sentinel, own.client(db=2) as raw:
        url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/mymaster/2"
        writer, reader = check_all(url, raw)
        own.stop()
        away(writer, reader)
        own.start()
        apply(writer, ONE_OF_EACH)
        own.stop()
        sentinel.stop()
        away(writer, reader)


class TlsRedis(servers.Redis):
    """A Redis that speaks TLS only, with a certificate for 127.0.0.1."""

    @property
    def certificate(self) -> str:
        """The certificate, which is its own authority."""
        return str(self.directory / "cert.pem")

    def _command(self) -> tuple[list[str], dict[str, str]]:
        key = str(self.directory / "key.pem")
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-days", "2", "-subj", "/CN=bus-cache test", "-keyout", key),
                *("-addext", "subjectAltName=IP:127.0.0.1", "-out", self.certificate),
            ],
            check=True,
            capture_output=True,
        )
        command, environment = super()._command()
        command[command.index("--port") + 1] = "0"
        command += ["--tls-port", str(self.port), "--tls-cert-file", self.certificate]
        command += ["--tls-key-file", key, "--tls-ca-cert-file", self.certificate]
        command += ["--tls-auth-clients", "optional"]
        return command, environment

    def client(self, **options: Any) -> redis.Redis:
        """A client that speaks TLS."""
        return super().client(ssl=True, ssl_ca_certs=self.certificate, **options)


@pytest.mark.parametrize("server", [servers.Redis], indirect=True)  # pip's Valkey has no TLS
def test_tls(server: servers.Redis) -> None:
    """A certificate of an unknown authority, or for another name, is none."""
    with TlsRedis() as running, running.client() as raw:
        authority = connect.Tls(running.certificate)
        url = f"rediss://127.0.0.1:{running.port}"
        check_all(url, raw, tls=authority)
        own_certificate = connect.Tls(
            running.certificate, running.certificate, str(running.directory / "key.pem")
        )
        raw.config_set("tls-auth-clients", "yes")
        check_all(url, raw, tls=own_certificate)
        with pytest.raises(Unavailable):
            Writer(make_client(url, tls=authority), KEYSPACE).check()
        raw.config_set("tls-auth-clients", "no")
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            Writer(make_client(url), KEYSPACE).check()
        elsewhere = url.replace("127.0.0.1", "localhost")
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            Writer(make_client(elsewhere, tls=authority), KEYSPACE).check()
        plain = url.replace("rediss", "redis")
        with pytest.raises(Unavailable):
            Writer(make_client(plain), KEYSPACE).check()
