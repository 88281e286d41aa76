"""The index as the command line reads it: complete, page by page, also on a Cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bus_cache import connect, names
from bus_cache.index.changes import Held, HostDeleted, ImageDeleted, ImageSize, Source
from bus_cache.index.listing import PAGE, Evidence, HostRow, ImageRow, Listing
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
        1,
        3 * PAGE + 13,
        3 * PAGE + 12,
        2 * PAGE + 7,
        5 * PAGE + 18,
        NOW + 2 * PAGE + 6,
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
    assert rows.counts() == (None, 0, 0, 0, 0, None)
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


def test_the_server_is_named(client: connect.Client) -> None:
    name, _, version = listing(client, "nothing")[0].server().partition(" ")
    assert name in ("Redis", "Valkey")
    assert version.split(".")[0].isdigit()
