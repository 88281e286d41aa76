"""What others left in Redis, and what is no Redis at all: no exception but the documented ones, and
nobody's key is written but the keyspace's own."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus_cache import connect, names
from bus_cache.index.changes import (
    AgentSnapshot,
    AgentStatement,
    Change,
    FetchFailed,
    Fetching,
    Held,
    HostDeleted,
    ImageDeleted,
    ImageSize,
    InUse,
    NotInUse,
    Said,
    ServiceState,
    Source,
)
from bus_cache.index.listing import Listing
from bus_cache.index.reader import Reader, Unreadable
from bus_cache.index.writer import SchemaError, Unavailable, Writer
from consumers import ageing
from consumers.sweep import Sweep
from tests import servers
from tests.fuzz import messages, targets

KEYSPACE = "fuzz"
KEYS = names.Keys(KEYSPACE)
NOW = int(time.time() * 1000)
SERVER = "6f70656e-7374-6163-6b00-00000000000%d"
HOSTS = ("inferred", "agent", "silent")


def changes(stamp: int = NOW - 60_000) -> list[Change]:
    """Return what fills every kind of key."""
    image = names.fingerprint("a")
    return [
        *(Held(host, each, stamp, Source.CREATE) for host in HOSTS for each in "abc"),
        Held("inferred", "d", stamp, Source.MIGRATION),
        *(ImageSize(each, 1000, stamp) for each in "ab"),
        InUse("inferred", SERVER % 1, "a", stamp),
        NotInUse("inferred", SERVER % 2, stamp),
        *(ServiceState(host, stamp, up=host != "silent") for host in HOSTS),
        Fetching("inferred", "e", NOW),
        Fetching("agent", "b", NOW),
        FetchFailed("agent", "c", NOW),
        AgentSnapshot("agent", (7, 0), stamp, (image, "1" * 40), ("2" * 40,)),
        AgentStatement("agent", (7, 3), stamp + 1, "3" * 40, Said.STORED),
        AgentSnapshot("silent", (5, 0), stamp, (image,), (), True),
        ImageDeleted("f", stamp),
        HostDeleted("gone", stamp),
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Redis]:
    """A Redis of this file's own."""
    with servers.Redis() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: servers.Redis) -> Iterator[connect.Client]:
    """A client as the product makes it."""
    made = connect.connect(connect.parse(server.url), connect_timeout=5, read_timeout=30)
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(client: connect.Client) -> dict[bytes, bytes]:
    """Return a keyspace with every kind of key, to be restored."""
    writer = Writer(client, KEYSPACE, bus="bus")
    client.flushall()
    assert writer.apply(changes()) == []
    writer.attend(gap_grace=0, ask_again=10, silent=900, tell=300, lost=None)
    return {key: client.dump(key) for key in client.scan_iter()}  # type: ignore[misc]


RECORD = [7, 3, 7, 0, NOW, True, "bus", [5]]
"""Of an agent, as it stands in Redis: see names.Keys."""

ROWS = st.one_of(
    st.binary(max_size=30),
    st.recursive(
        st.one_of(
            *(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats()),
            *(st.binary(max_size=21), st.text(max_size=5), st.sampled_from([NOW, 1, 7, "bus"])),
        ),
        lambda inner: (
            st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        ),
        max_leaves=12,
    ).map(lambda row: msgpack.packb(row, unicode_errors="replace")),
    st.sampled_from([b"", b"2", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 500]),
    st.builds(
        lambda place, value: msgpack.packb([*RECORD[:place], value, *RECORD[place + 1 :]]),
        st.integers(0, 7),
        st.sampled_from(
            [
                -1,
                0,
                1.5,
                2**53,
                2**64 - 1,
                "bus",
                "1",
                True,
                False,
                [],
                [9],
                [8, "x"],
                {"a": 1},
                None,
            ]
        ),
    ),
)
SCORES = st.sampled_from([float("inf"), float("-inf"), -1.0, 0.0, 0.5, 1e300, float(NOW), 1e18])
MEMBERS = st.one_of(
    st.binary(max_size=8), st.sampled_from([b"inferred", b"agent", b"silent", b"a b", b"\xff", b""])
)


def spoil(raw: redis.Redis, key: str, how: int, row: bytes, member: bytes, score: float) -> None:
    """Do to a key what a stranger could: another type, or another value of its type."""
    kind = raw.type(key)
    if how == 0:
        raw.delete(key)
        strange: list[Callable[[], Any]] = [
            lambda: raw.set(key, row),
            lambda: raw.hset(key, member, row),
            lambda: raw.zadd(key, {member: score}),
            lambda: raw.sadd(key, member),
            lambda: raw.rpush(key, row),
        ]
        strange[len(row) % len(strange)]()
    elif kind == b"hash":
        fields = raw.hkeys(key)
        field = fields[len(row) % len(fields)] if fields and how < 4 else member
        raw.hset(key, field, row)
    elif kind == b"zset":
        fields = raw.zrange(key, 0, -1)
        raw.zadd(key, {fields[len(row) % len(fields)] if fields and how < 4 else member: score})
    elif kind == b"set":
        raw.sadd(key, member)
    else:
        raw.set(key, row)


NAMES = [
    *[KEYS.agents] * 4,
    *(KEYS.schema, KEYS.images, KEYS.hosts, KEYS.services),
    *(KEYS.prefix + each for each in ("silent", "gaps", "ageing", "listening")),
    *(kind(host) for host in HOSTS for kind in (KEYS.host, KEYS.agent)),
    *(KEYS.uses("inferred"), KEYS.gone_host("gone"), KEYS.wanted("reconcile")),
    KEYS.readers,
    *(KEYS.image(names.fingerprint("a")), KEYS.coming(names.fingerprint("e"))),
]

SPOILS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 5), ROWS, MEMBERS, SCORES),
    min_size=1,
    max_size=4,
)

POLICY = ageing.Policy.of(2400, True, 0)


def reads(client: connect.Client, complaints: list[str]) -> list[Callable[[], Any]]:
    """Return all that reads the keyspace for people and for the scheduler."""
    listing = Listing(client, KEYSPACE, complaints.append)
    image = names.fingerprint("a")
    return [
        lambda: list(listing.images()),
        lambda: list(listing.hosts()),
        listing.counts,
        lambda: listing.image(image),
        lambda: list(listing.holders(image)),
        lambda: list(listing.coming(names.fingerprint("e"))),
        lambda: listing.is_deleted(image),
        *(lambda host=host: listing.host(host) for host in HOSTS),
        *(lambda host=host: listing.state(host) for host in HOSTS),
        *(lambda host=host: list(listing.held(host)) for host in HOSTS),
        lambda: listing.deletion("gone"),
        listing.readers,
        lambda: Reader(client, KEYSPACE).look("a", HOSTS, 0),
    ]


def attend(writer: Writer) -> None:
    """Ask what is to be done about agents; it must be of types that can be done."""
    time.sleep(0.002)  # a gap is older than now
    due = writer.attend(gap_grace=0, ask_again=0, silent=0, tell=300, lost=0)
    assert all(isinstance(host, str) for host in due.silent)
    for host, number in due.ask + due.vanished:
        assert isinstance(host, str)
        assert isinstance(number, (int, float)), f"{host}: {number!r}"


def apply(writer: Writer, said: list[Change]) -> None:
    """Write; nothing may be refused but for a key that is of another type."""
    for refused, reason in writer.apply(said):
        assert "WRONGTYPE" in reason, (refused, reason)


def writes(client: connect.Client, switches: list[str]) -> list[Callable[[], Any]]:
    """Return all that a consumer does with the keyspace."""
    writer = Writer(client, KEYSPACE, bus="bus", on_switch=lambda host, _: switches.append(host))
    return [
        writer.check,
        writer.probe,
        lambda: attend(writer),
        lambda: attend(writer),
        *(lambda host=host: writer.usage(host) for host in HOSTS),
        lambda: Sweep(POLICY).run(writer),
        writer.agent_managed,
        lambda: list(writer.hosts()),
        lambda: writer.deleted_images([b"\1" * 20]),
        lambda: writer.wanted("reconcile"),
        lambda: writer.unwant("reconcile", "x"),
        lambda: writer.claim("x", 1),
        lambda: writer.reads("x", "bus_cache", 1),
        lambda: writer.forget_images(NOW),
        lambda: writer.fall_back("agent", 0),
        lambda: apply(writer, changes(NOW)),
        lambda: apply(writer, [HostDeleted("agent", NOW + 1), ImageDeleted("a", NOW)]),
        lambda: Sweep(POLICY).run(writer),
    ]


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(SPOILS)
def test_a_spoilt_keyspace_raises_what_is_documented_and_stops_nothing_else(
    client: connect.Client, whole: dict[bytes, bytes], spoils: Any
) -> None:
    raw: Any = client
    raw.flushall()
    for key, value in whole.items():
        raw.restore(key, 0, value)
    for key, how, row, member, score in spoils:
        spoil(raw, key, how, row, member, score)
    complaints: list[str] = []
    for read in reads(client, complaints):
        try:
            read()
        except (redis.ResponseError, Unreadable) as error:
            targets.one_line(str(error))
    for line in complaints:
        targets.one_line(line)
    for write in writes(client, []):
        try:
            write()
        except (Unavailable, SchemaError) as error:
            said = str(error)
            targets.one_line(said)
            # of a key of another type the consumer says so, and waits for who can mend that; one
            # row that somebody spoilt must not stop what it does for all other hosts
            assert "WRONGTYPE" in said or "user_script" not in said
    assert all(key.startswith(KEYS.prefix.encode()) for key in raw.scan_iter())


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 2**32), min_size=20, max_size=20))
def test_of_hostile_messages_nothing_but_valid_names_reaches_a_key(
    client: connect.Client, numbers: list[int]
) -> None:
    raw: Any = client
    raw.flushall()
    raw.set("somebody else's", "1")
    said: list[Change] = []
    for number in numbers:
        chance = random.Random(number)
        agents = chance.randrange(3) == 0
        body = messages.hostile(
            chance.choice(messages.agents() if agents else messages.bodies()), chance
        )
        where = ("bus_cache", "bus_cache.info") if agents else ("nova", "bus_cache")
        said += targets._delivered(body, *where)
    writer = Writer(client, KEYSPACE, bus="bus")
    assert writer.apply(said) == []
    once = state(raw)
    assert writer.apply(said) == []
    assert state(raw) == once
    singles = {
        "schema",
        "images",
        "hosts",
        "agents",
        "silent",
        "gaps",
        "services",
        "ageing",
    }
    by_image = {"image", "coming", "gone:image"}
    by_host = {"host", "agent", "uses", "gone:host"}
    for key in raw.scan_iter():
        text = key.decode("ascii")
        if text == "somebody else's":
            continue
        name = text.removeprefix(KEYS.prefix)
        assert name != text
        if name in singles:
            continue
        kind = next(
            each for each in sorted(by_image | by_host, key=len) if name.startswith(each + ":")
        )
        kind = ":".join(name.split(":")[:2]) if name.startswith("gone:") else kind
        rest = name.removeprefix(kind + ":")
        assert names.is_fingerprint(rest) if kind in by_image else names.is_valid_name(rest)
    for key in raw.scan_iter(match=KEYS.image("*")):
        assert all(names.is_valid_name(each.decode("ascii")) for each in raw.smembers(key))
    assert raw.get("somebody else's") == b"1"


def state(raw: Any) -> dict[bytes, Any]:
    """Return all data but what is only a time of arrival."""

    def agents(key: bytes) -> dict[bytes, Any]:
        return {host: msgpack.unpackb(row, raw=True)[:8] for host, row in raw.hgetall(key).items()}

    read = {b"set": raw.smembers, b"hash": raw.hgetall, b"string": raw.get}
    read[b"zset"] = lambda key: raw.zrange(key, 0, -1)
    read[b"none"] = lambda key: None
    own = {KEYS.agents.encode(): agents}
    return {key: own.get(key, read[raw.type(key)])(key) for key in raw.scan_iter()}


# -- what is no Redis --------------------------------------------------------------------------

GARBAGE = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                b"+OK\r\n",
                b":1\r\n",
                b":-1\r\n",
                b":\r\n",
                b":99999999999999999999999\r\n",
                b"$-1\r\n",
                b"$3\r\nabc\r\n",
                b"$4\r\n\xff\xfe\xfd\xfc\r\n",
                b"$99999999999999\r\n",
                b"$-7\r\n",
                b"*-1\r\n",
                b"*0\r\n",
                b"*2\r\n:1\r\n:0\r\n",
                b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
                b"*2\r\n$1\r\n0\r\n:7\r\n",
                b"*100000\r\n",  # hiredis makes a list of even a thousand million: 5 s
                b"*1\r\n" * 3000,
                b"-ERR no\r\n",
                b"-\r\n",
                b"-MOVED 1 127.0.0.1:1\r\n",
                b"-MOVED\r\n",
                b"-NOSCRIPT x\r\n",
                b"-SCHEMA x\r\n",
                b"-LOADING x\r\n",
                b"-" + b"x" * 5000 + b"\r\n",
                b"%1\r\n+a\r\n:1\r\n",
                b"_\r\n",
                b"#t\r\n",
                b",nan\r\n",
                b"(99999999999999999999\r\n",
                b">2\r\n+a\r\n+b\r\n",
                b"~1\r\n*1\r\n:1\r\n",
                b"=5\r\ntxt:a\r\n",
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
                b"\x15\x03\x03\x00\x02\x02\x16",
            ]
        ),
    ),
    min_size=1,
    max_size=6,
)


class Impostor:
    """Answers each read of a connection with the next of its answers; polite to who says hello."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self._listener = socket.create_server((servers.LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        answers = iter(list(self.answers))
        with connection:
            try:
                while asked := connection.recv(65536):
                    hello = asked.count(b"SETNAME") + asked.count(b"SETINFO")
                    connection.sendall(b"+OK\r\n" * hello or next(answers))
            except (OSError, StopIteration):
                pass


@pytest.fixture(scope="module")
def impostor() -> Iterator[Impostor]:
    """Something on a port that is no Redis."""
    made = Impostor()
    yield made
    made.close()


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(GARBAGE, st.integers(0, 100))
def test_what_is_no_redis_raises_what_is_documented(
    impostor: Impostor, answers: list[bytes], number: int
) -> None:
    impostor.answers = answers
    url = f"redis://127.0.0.1:{impostor.port}/0"
    client = connect.connect(connect.parse(url), connect_timeout=0.05, read_timeout=0.02)
    began = time.monotonic()
    try:
        read = reads(client, [])
        for each in (read[number % len(read)], read[-1]):
            try:
                each()
            except (*connect.AWAY, *connect.GARBLED):
                pass
        written = [*writes(client, []), Writer(client, KEYSPACE).eviction]
        for write in (written[number % len(written)], written[0], written[2]):
            try:
                write()
            except (Unavailable, SchemaError) as error:
                targets.one_line(str(error))
    finally:
        client.close()
    assert time.monotonic() - began < 30
