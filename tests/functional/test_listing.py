"""The index as the command line reads it: complete, page by page, also on a Cluster."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack
import pytest

from bus_cache import connect, names
from bus_cache.index.changes import (
    AgentSnapshot,
    AgentStatement,
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
from bus_cache.index.listing import PAGE, Evidence, HostRow, HostState, ImageRow, Listing, Reader
from bus_cache.index.writer import Writer
from tests import servers

NOW = 1_700_000_000_000


@pytest.fixture(scope="module", params=["redis", "valkey", "cluster"])
def client(request: pytest.FixtureRequest) -> Iterator[connect.Client]:
    kind = servers.Valkey if request.param == "valkey" else servers.Redis
    arguments = []
    if request.param == "cluster":  # of one node; its second port would be 10000 higher
        arguments = ["--cluster-enabled", "yes", "--cluster-port", str(servers.free_port())]
    with kind(*arguments) as server:
        url = server.url
        if request.param == "cluster":
            url = f"redis+cluster://127.0.0.1:{server.port}"
            with server.client() as node:
                node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
                    time.sleep(0.01)
        client = connect.connect(connect.parse(url), connect_timeout=5, read_timeout=30)
        yield client
        client.close()


@pytest.fixture(scope="module")
def many(client: connect.Client) -> str:
    """A keyspace of several pages: one image on many hosts, many images on one host."""
    hosts, images = 2 * PAGE + 7, 3 * PAGE + 11
    Writer(client, "many").apply(
        [Held(f"host-{i}", "everywhere", NOW + i, Source.CREATE) for i in range(hosts)]
        + [Held("host-0", f"image-{i}", NOW - i, Source.PRECACHE) for i in range(images)]
        + [ImageSize(f"image-{i}", i, NOW) for i in range(images)]
    )
    return "many"


def listing(client: connect.Client, keyspace: str) -> tuple[Listing, list[str]]:
    complaints: list[str] = []
    return Listing(client, keyspace, complaints.append), complaints


def test_every_image_is_listed_once(client: connect.Client, many: str) -> None:
    rows, complaints = listing(client, many)
    expected = {
        ImageRow(names.fingerprint(f"image-{i}"), f"image-{i}", i, 1) for i in range(3 * PAGE + 11)
    } | {ImageRow(names.fingerprint("everywhere"), "everywhere", None, 2 * PAGE + 7)}
    found = list(rows.images())
    assert set(found) == expected
    assert len(found) == len(expected)
    assert complaints == []


def test_every_host_is_listed_once(client: connect.Client, many: str) -> None:
    rows, complaints = listing(client, many)
    found = list(rows.hosts())
    assert len(found) == 2 * PAGE + 7
    assert HostRow("host-0", 3 * PAGE + 12, NOW) in found
    assert set(found[1:] + found[:1]) == {
        HostRow(f"host-{i}", 1 if i else 3 * PAGE + 12, NOW + i) for i in range(2 * PAGE + 7)
    }
    assert complaints == []


def test_every_holder_comes_with_its_evidence(client: connect.Client, many: str) -> None:
    rows, complaints = listing(client, many)
    found = list(rows.holders(names.fingerprint("everywhere")))
    assert len(found) == 2 * PAGE + 7
    assert dict(found) == {f"host-{i}": Evidence(NOW + i, "create") for i in range(2 * PAGE + 7)}
    assert complaints == []


def test_every_held_image_comes_with_its_evidence(client: connect.Client, many: str) -> None:
    rows, complaints = listing(client, many)
    found = {image.name: (image.size, evidence) for image, evidence in rows.held("host-0")}
    assert found == {
        f"image-{i}": (i, Evidence(NOW - i, "precache")) for i in range(3 * PAGE + 11)
    } | {"everywhere": (None, Evidence(NOW, "create"))}
    assert complaints == []


def test_counts(client: connect.Client, many: str) -> None:
    rows, complaints = listing(client, many)
    Writer(client, many).apply([ImageSize("unheld", 5, NOW)])
    counts = rows.counts()
    Writer(client, many).apply([ImageDeleted("unheld", NOW)])
    assert counts == (
        names.SCHEMA,
        3 * PAGE + 13,
        3 * PAGE + 12,
        2 * PAGE + 7,
        5 * PAGE + 18,
        NOW + 2 * PAGE + 6,
        0,
        0,
        0,
        (),
    )
    assert complaints == []


def test_nothing_is_there(client: connect.Client) -> None:
    rows, complaints = listing(client, "nothing")
    assert (list(rows.images()), list(rows.hosts())) == ([], [])
    assert rows.image("0" * 40) is None
    assert rows.host("nobody") is None
    assert list(rows.holders("0" * 40)) == []
    assert list(rows.held("nobody")) == []
    assert not rows.is_deleted("0" * 40)
    assert rows.deletion("nobody") is None
    assert list(rows.coming("0" * 40)) == []
    assert rows.state("nobody") == HostState(False, None, 0)
    assert rows.counts() == (None, 0, 0, 0, 0, None, 0, 0, 0, ())
    assert complaints == []


def test_deletions_are_told(client: connect.Client) -> None:
    rows, _ = listing(client, "deletions")
    Writer(client, "deletions").apply(
        [
            Held("cmp1", "image-1", NOW, Source.CREATE),
            ImageDeleted("image-1", NOW + 1),
            HostDeleted("cmp1", NOW + 2),
        ]
    )
    assert rows.image(names.fingerprint("image-1")) is None
    assert rows.is_deleted(names.fingerprint("image-1"))
    assert rows.host("cmp1") is None
    assert rows.deletion("cmp1") == NOW + 2


def test_what_agents_say_decides(client: connect.Client) -> None:
    """Not what Nova said; and of images that only agents know there is no id."""
    stored, removed, later = (names.fingerprint(each) for each in ("stored", "removed", "later"))
    writer = Writer(client, "agents", bus="b1")
    before = int(time.time() * 1000)
    writer.apply(
        [
            Held("cmp1", "evicted", NOW - 5, Source.CREATE),
            Held("cmp2", "stored", NOW - 7, Source.CREATE),
            AgentSnapshot("cmp1", (1, 1), NOW, (stored, removed)),
            AgentSnapshot("cmp3", (1, 1), NOW + 3, ()),  # of whom nothing but its agent tells
        ]
    )
    writer.apply([AgentStatement("cmp1", (1, 2), NOW + 1, removed, Said.CLEANUP)])
    writer.apply([AgentStatement("cmp1", (1, 3), NOW + 2, later, Said.STORED)])
    writer.apply([Held("cmp1", "claimed", NOW + 9, Source.CREATE)])
    rows, complaints = listing(client, "agents")
    known = {row.host: row for row in rows.hosts()}
    heard = known["cmp1"].agent_heard
    assert heard is not None
    assert heard >= before
    assert known == {
        "cmp1": HostRow("cmp1", 2, NOW + 9, True, heard),
        "cmp2": HostRow("cmp2", 1, NOW - 7),
        "cmp3": HostRow("cmp3", 0, NOW + 3, True, known["cmp3"].agent_heard),
    }
    assert rows.host("cmp1") == known["cmp1"]
    assert rows.host("cmp3") == known["cmp3"]
    assert dict(rows.heard()) == {"cmp1": NOW + 9, "cmp2": NOW - 7, "cmp3": NOW + 3}
    counts = rows.counts()
    assert (counts.hosts, counts.newest) == (3, NOW + 9)
    assert dict(rows.held("cmp1")) == {
        ImageRow(stored, "stored", None, 2): Evidence(NOW + 2, "agent"),
        ImageRow(later, None, None, 1): Evidence(NOW + 2, "agent"),
    }
    assert dict(rows.holders(stored)) == {
        "cmp1": Evidence(NOW + 2, "agent"),
        "cmp2": Evidence(NOW - 7, "create"),
    }
    assert list(rows.holders(removed)) == []
    assert rows.state("cmp1") == HostState(False, None, 0)
    assert counts[-4:-1] == (2, 0, 0)
    assert complaints == []


def test_of_a_silent_agent_what_it_held_is_evidence(client: connect.Client) -> None:
    fingerprint = names.fingerprint("image-1")
    writer = Writer(client, "silent", bus="b1")
    writer.apply([AgentSnapshot("cmp1", (1, 1), NOW, (fingerprint,))])
    writer.apply([AgentSnapshot("cmp1", (1, 2), NOW + 1, (fingerprint,), leaving=True)])
    writer.apply([AgentSnapshot("cmp2", (1, 1), NOW, (fingerprint,))])
    time.sleep(0.002)
    assert writer.fall_back("cmp2", 0)
    rows, complaints = listing(client, "silent")
    assert {row.host: (row.images, row.by_agent) for row in rows.hosts()} == {
        "cmp1": (1, False),
        "cmp2": (1, False),
    }
    assert all(row.agent_heard is not None for row in rows.hosts())
    assert dict(rows.holders(fingerprint)) == {
        "cmp1": Evidence(NOW + 1, "agent"),
        "cmp2": Evidence(NOW, "agent"),
    }
    assert [evidence for _, evidence in rows.held("cmp2")] == [Evidence(NOW, "agent")]
    assert rows.counts()[-4:-1] == (0, 2, 0)
    assert complaints == []


def test_the_state_of_a_host(client: connect.Client) -> None:
    servers = [f"a3e5a1e8-0d1d-4a4d-8d5f-0d3f4c1f0a0{i}" for i in range(3)]
    writer = Writer(client, "state", bus="b1")
    writer.apply([InUse("cmp1", server, "image-1", NOW) for server in servers])
    writer.apply([InUse("cmp1", servers[0], "image-2", NOW + 1)])
    writer.apply([NotInUse("cmp1", servers[1], NOW + 1), NotInUse("cmp1", "f" * 32, NOW)])
    writer.apply([NotInUse("cmp1", servers[2], NOW), InUse("cmp1", servers[2], "image-1", NOW + 2)])
    writer.apply([ServiceState("cmp1", NOW, True), ServiceState("cmp2", NOW, False)])
    writer.apply([AgentSnapshot("cmp2", (1, 1), NOW, ())])
    writer.apply([AgentStatement("cmp2", (1, 3), NOW, names.fingerprint("i"), Said.STORED)])
    rows, complaints = listing(client, "state")
    assert rows.state("cmp1") == HostState(False, True, 2)
    assert rows.state("cmp2") == HostState(True, False, 0)
    assert rows.counts()[-4:-1] == (1, 0, 1)
    assert complaints == []


def test_where_an_image_is_on_its_way(client: connect.Client) -> None:
    """Also an image of which nothing else is known; nobody waits for what is long overdue."""
    now = int(time.time() * 1000)
    fingerprint = names.fingerprint("image-1")
    writer = Writer(client, "coming", bus="b1")
    writer.apply([Fetching("cmp1", "image-1", now), Fetching("cmp2", "image-1", now - 3_599_000)])
    rows, complaints = listing(client, "coming")
    assert rows.image(fingerprint) == ImageRow(fingerprint, None, None, 0)
    found = dict(rows.coming(fingerprint))
    assert found["cmp1"] == now + 3_600_000
    client.zadd(names.Keys("coming").coming(fingerprint), {"cmp2": now - 1})
    assert list(rows.coming(fingerprint)) == [("cmp1", now + 3_600_000)]
    writer.apply([Held("cmp1", "image-1", now, Source.CREATE)])
    assert list(rows.coming(fingerprint)) == []
    assert complaints == []


def test_who_reads_its_queue(client: connect.Client) -> None:
    """Those whose time is over are not listed, and go with the next word of any other one."""
    key = names.Keys("readers").readers
    rows, complaints = listing(client, "readers")
    assert rows.readers() == []
    first, second = (Writer(client, "readers", bus=bus) for bus in ("b1", "b2"))
    first.reads("one", "pool", 90)
    second.reads("one", "pool", 90)
    client.zadd(key, {msgpack.packb(["two", "b1", "pool"]): time.time() * 1000 - 1})
    both = [Reader("one", "b1", "pool"), Reader("one", "b2", "pool")]
    assert (sorted(rows.readers()), client.zcard(key)) == (both, 3)
    first.reads("one", "pool", 90)
    assert (sorted(rows.readers()), client.zcard(key)) == (both, 2)
    first.reads_no_more("one", "pool")
    assert (rows.readers(), complaints) == (both[1:], [])
    client.zadd(key, {b"\xc1": time.time() * 2000})
    assert (rows.readers(), len(complaints)) == (both[1:], 1)


def test_round_trips_are_per_page(client: connect.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = names.fingerprint("image-1")
    rows, _ = listing(client, "round-trips")
    Writer(client, "round-trips").apply(
        AgentSnapshot(f"host-{i}", (1, 1), NOW, (fingerprint,)) for i in range(PAGE + 1)
    )
    asked = []
    ask = Listing._ask

    def counting(self: Listing, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        asked.append(1)
        return ask(self, commands)

    monkeypatch.setattr(Listing, "_ask", counting)
    assert {(row.images, row.by_agent) for row in rows.hosts()} == {(1, True)}
    assert len(list(rows.holders(fingerprint))) == PAGE + 1
    assert len(asked) == 2 * 3 + 2 * 2  # for each of two pages


def test_the_server_is_named(client: connect.Client) -> None:
    name, _, version = listing(client, "nothing")[0].server().partition(" ")
    assert name in ("Redis", "Valkey")
    assert version.split(".")[0].isdigit()
