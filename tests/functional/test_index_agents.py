"""Agents' words in the index, on a real Redis and a real Valkey: in any order, twice, among Nova's
words, one outcome: what the agent's host really holds.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
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
    InUse,
    NotInUse,
    Said,
    ServiceState,
    Source,
)
from bus_cache.index.writer import FETCH_MOST, MOST_USES, Writer
from consumers import ageing, reconcile, sweep
from tests import keyspace, servers

KEYSPACE = "agents"
KEYS = names.Keys(KEYSPACE)
T0 = int(time.time()) * 1000
"""What is on its way expires by Redis' own clock, and what comes late counts otherwise."""
IMAGE_I, IMAGE_J, IMAGE_K = (names.fingerprint(each) for each in "ijk")
SERVER_1, SERVER_2 = "a3e5a1e8-0d1d-4a4d-8d5f-0d3f4c1f0a01", "a3e5a1e8-0d1d-4a4d-8d5f-0d3f4c1f0a02"


@pytest.fixture
def raw(store: servers.Redis) -> Iterator[redis.Redis]:
    """A client of the tests' own, on an empty server."""
    with store.client() as client:
        client.execute_command("FLUSHALL", "SYNC")
        yield client


@pytest.fixture
def switches() -> list[tuple[str, bool]]:
    """What the writer told of hosts that became agent-managed or inferred."""
    return []


@pytest.fixture
def writer(
    store: servers.Redis, raw: redis.Redis, switches: list[tuple[str, bool]]
) -> Iterator[Writer]:
    """The writer under test."""
    client = connect.connect(connect.parse(store.url), connect_timeout=2.0, read_timeout=5.0)
    yield Writer(
        client, KEYSPACE, bus="b1", on_switch=lambda host, managed: switches.append((host, managed))
    )
    client.close()


def snapshot(
    host: str, epoch: int, sequence: int, at: int, *images: str, leaving: bool = False
) -> AgentSnapshot:
    """An agent's snapshot, ``at`` ms after the start."""
    return AgentSnapshot(host, (epoch, sequence), T0 + at, images, (), leaving)


def said(
    host: str, epoch: int, sequence: int, at: int, image: str, what: Said = Said.STORED
) -> AgentStatement:
    """An agent's statement, ``at`` ms after the start."""
    return AgentStatement(host, (epoch, sequence), T0 + at, image, what)


def held(host: str, image: str, at: int) -> Held:
    """Nova's word."""
    return Held(host, image, T0 + at, Source.CREATE)


def sets(raw: redis.Redis) -> dict[str, set[str]]:
    """The public part."""
    return keyspace.sets(raw, KEYSPACE)


def coming(raw: redis.Redis) -> dict[str, set[str]]:
    """Which image is on its way to which hosts."""
    prefix = KEYS.coming("")
    found = {
        key.decode().removeprefix(prefix): {
            host.decode() for host, till in raw.zrange(key, 0, -1, withscores=True) if till > 0
        }
        for key in raw.scan_iter(match=prefix + "*")
    }
    return {image: hosts for image, hosts in found.items() if hosts}


def apply(writer: Writer, *changes: Change) -> None:
    """Apply; nothing is refused."""
    assert writer.apply(changes) == []


# -- one agent -----------------------------------------------------------------------------


def test_a_snapshot_replaces_what_was_believed(
    writer: Writer, raw: redis.Redis, switches: list[Any]
) -> None:
    """Both ways, in one change."""
    apply(writer, held("h", "i", 0), held("h", "j", 0), held("g", "i", 0))
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_J, IMAGE_K))
    assert sets(raw) == {IMAGE_I: {"g"}, IMAGE_J: {"h"}, IMAGE_K: {"h"}}
    assert switches == [("h", True)]
    assert writer.agent_managed() == {"h"}
    apply(writer, snapshot("h", 1, 1, 20))
    assert sets(raw) == {IMAGE_I: {"g"}}
    assert not raw.exists(KEYS.agent("h"))
    assert switches == [("h", True)]


def test_statements_count_if_they_are_newer(writer: Writer, raw: redis.Redis) -> None:
    """Than what the index has for the image on the host."""
    apply(writer, snapshot("h", 1, 3, 10, IMAGE_I))
    apply(writer, said("h", 1, 2, 5, IMAGE_J), said("h", 1, 1, 5, IMAGE_I, Said.CLEANUP))
    assert sets(raw) == {IMAGE_I: {"h"}}
    apply(writer, said("h", 1, 5, 12, IMAGE_I, Said.CLEANUP))
    apply(writer, said("h", 1, 4, 11, IMAGE_I, Said.STORED), said("h", 1, 6, 13, IMAGE_K))
    assert sets(raw) == {IMAGE_K: {"h"}}


def test_a_snapshot_that_is_late_leaves_later_statements(writer: Writer, raw: redis.Redis) -> None:
    """What is newer than itself stays as it is."""
    apply(writer, said("h", 2, 1, 11, IMAGE_I), said("h", 2, 2, 12, IMAGE_J, Said.CLEANUP))
    apply(writer, snapshot("h", 2, 0, 10, IMAGE_J, IMAGE_K))
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_K: {"h"}}


def test_a_late_snapshot_of_an_older_epoch(writer: Writer, raw: redis.Redis) -> None:
    """Its host can still be found silent."""
    apply(writer, said("h", 5, 3, 50, IMAGE_I))
    assert not writer.fall_back("h", silent=-1)
    apply(writer, snapshot("h", 4, 0, 10, IMAGE_J))
    assert writer.agent_managed() == {"h"}
    times: dict[str, Any] = {"gap_grace": 5, "ask_again": 60, "tell": 1000, "lost": None}
    assert writer.attend(silent=-1, **times).silent == ["h"]
    assert writer.fall_back("h", silent=-1)
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_J: {"h"}}


def test_an_older_epoch_says_nothing(writer: Writer, raw: redis.Redis) -> None:
    """However large its sequence is."""
    apply(writer, snapshot("h", 2, 0, 10, IMAGE_I))
    apply(writer, snapshot("h", 1, 99, 9, IMAGE_J), said("h", 1, 100, 9, IMAGE_K))
    assert sets(raw) == {IMAGE_I: {"h"}}


def test_nova_does_not_decide_where_an_agent_does(writer: Writer, raw: redis.Redis) -> None:
    """What it says is on its way, until the agent sees it."""
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_I))
    apply(writer, held("h", "j", 20), held("h", "i", 20), held("h", "k", 5))
    assert sets(raw) == {IMAGE_I: {"h"}}
    assert coming(raw) == {IMAGE_J: {"h"}}
    apply(writer, said("h", 1, 1, 21, IMAGE_J))
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_J: {"h"}}
    assert coming(raw) == {}
    apply(writer, ImageDeleted("j", T0 + 30), ImageDeleted("k", T0 + 30))
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_J: {"h"}}


def test_a_goodbye_keeps_what_is_held(
    writer: Writer, raw: redis.Redis, switches: list[Any]
) -> None:
    """And Nova decides from then on, with what it said since the agent's last word."""
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_I, IMAGE_J))
    apply(writer, held("h", "k", 30))
    apply(writer, snapshot("h", 1, 1, 20, IMAGE_I, IMAGE_J, leaving=True))
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_J: {"h"}, IMAGE_K: {"h"}}
    assert switches == [("h", True), ("h", False)]
    apply(writer, ImageDeleted("i", T0 + 40))
    assert sets(raw) == {IMAGE_J: {"h"}, IMAGE_K: {"h"}}
    apply(writer, snapshot("h", 2, 0, 50, IMAGE_I))
    assert sets(raw) == {IMAGE_I: {"h"}}
    assert coming(raw) == {}


def test_an_agent_that_says_nothing(writer: Writer, raw: redis.Redis, switches: list[Any]) -> None:
    """Its host is inferred, and agent-managed again with the next snapshot."""
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_I, IMAGE_J), said("h", 1, 1, 12, IMAGE_K))
    apply(writer, ImageDeleted("j", T0 + 11))
    apply(writer, held("h", "i", 11))
    assert not writer.fall_back("h", silent=3600)
    assert switches == [("h", True)]
    assert writer.fall_back("h", silent=-1)
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_K: {"h"}}
    assert not writer.fall_back("h", silent=-1)
    assert writer.usage("h").evidence == {
        bytes.fromhex(IMAGE_I): (T0 + 12, Source.AGENT),
        bytes.fromhex(IMAGE_K): (T0 + 12, Source.AGENT),
    }
    # late: the agent knew better
    apply(writer, held("h", "j", 5), said("h", 1, 1, 12, IMAGE_K, Said.CLEANUP))
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_K: {"h"}}
    # from its last moments
    apply(writer, said("h", 1, 2, 13, IMAGE_K, Said.CLEANUP))
    assert sets(raw) == {IMAGE_I: {"h"}}
    apply(writer, snapshot("h", 1, 3, 50, IMAGE_J))
    assert sets(raw) == {IMAGE_J: {"h"}}


def test_among_many_agents_the_silent_ones_are_found(writer: Writer, raw: redis.Redis) -> None:
    """A call looks at some hundreds of them, and the next one goes on from there."""
    hosts = {f"h{number}" for number in range(1500)}
    apply(writer, *(snapshot(host, 1, 0, 10, IMAGE_I) for host in hosts))
    long_ago = int(time.time() * 1000) - 7_200_000
    quiet = {f"h{number}" for number in range(0, 1500, 100)}
    for host in quiet:
        row = msgpack.unpackb(raw.hget(KEYS.agents, host))
        raw.hset(KEYS.agents, host, msgpack.packb([*row[:8], long_ago], use_bin_type=False))
    # one that a clock was ahead of: it counts from now on
    row = msgpack.unpackb(raw.hget(KEYS.agents, "h1"))
    ahead = int(time.time() * 1000) + 10**9
    raw.hset(KEYS.agents, "h1", msgpack.packb([*row[:8], ahead], use_bin_type=False))
    times: dict[str, Any] = {"gap_grace": 5, "ask_again": 10, "tell": 1000, "lost": None}
    found: list[str] = []
    for _ in range(6):
        found += writer.attend(silent=3600, **times).silent
    assert set(found) == quiet
    assert msgpack.unpackb(raw.hget(KEYS.agents, "h1"))[8] < ahead
    for host in quiet:
        assert writer.fall_back(host, 3600)
    assert not any(writer.attend(silent=3600, **times).silent for _ in range(6))
    assert writer.agent_managed() == hosts - quiet


def test_who_holds_what_is_known_by_its_agents_word_alone(writer: Writer, raw: redis.Redis) -> None:
    """Nova's word is beside it only while it is newer."""
    apply(writer, held("h", "i", 5), snapshot("h", 1, 0, 10, IMAGE_I), held("h", "j", 9))
    assert raw.zscore(KEYS.hosts, "h") is None
    assert list(writer.hosts()) == ["h"]
    apply(writer, held("h", "j", 20))
    assert raw.zscore(KEYS.hosts, "h") == T0 + 20
    assert list(writer.hosts()) == ["h"]
    apply(writer, said("h", 1, 1, 30, IMAGE_J))
    assert raw.zscore(KEYS.hosts, "h") is None
    assert writer.fall_back("h", silent=-1)
    assert raw.zscore(KEYS.hosts, "h") == T0 + 30


def test_a_deleted_service_takes_its_agent_along(writer: Writer, raw: redis.Redis) -> None:
    """Unless the agent spoke later."""
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_I), snapshot("g", 1, 0, 20, IMAGE_I))
    apply(writer, InUse("h", SERVER_1, "i", T0 + 5), ServiceState("h", T0 + 5, False))
    apply(writer, HostDeleted("h", T0 + 15), HostDeleted("g", T0 + 15))
    assert sets(raw) == {IMAGE_I: {"g"}}
    apply(writer, said("h", 1, 1, 12, IMAGE_J), snapshot("h", 1, 0, 10, IMAGE_I))
    assert sets(raw) == {IMAGE_I: {"g"}}
    left = {key.decode().removeprefix(KEYS.prefix) for key in raw.scan_iter()}
    assert not [key for key in left if key.split(":")[0] in ("uses", "agent") and "h" in key]
    for key in (KEYS.agents, KEYS.services):
        assert not raw.hexists(key, "h")
    apply(writer, snapshot("h", 1, 2, 16, IMAGE_J))
    assert sets(raw) == {IMAGE_I: {"g"}, IMAGE_J: {"h"}}


def test_ten_thousand_images_in_one_change(writer: Writer, raw: redis.Redis) -> None:
    """The largest snapshot that the protocol allows."""
    images = [names.fingerprint(str(n)) for n in range(10_000)]
    apply(writer, snapshot("h", 1, 0, 10, *images))
    assert sets(raw) == {image: {"h"} for image in images}
    apply(writer, snapshot("h", 1, 1, 20, *images[:1]))
    assert sets(raw) == {images[0]: {"h"}}


def test_a_set_that_somebody_damaged_is_mended(writer: Writer, raw: redis.Redis) -> None:
    """By the next snapshot."""
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_I, IMAGE_J))
    raw.delete(KEYS.image(IMAGE_I))
    apply(writer, snapshot("h", 1, 1, 20, IMAGE_I, IMAGE_J))
    assert sets(raw) == {IMAGE_I: {"h"}, IMAGE_J: {"h"}}


# -- what is missing -----------------------------------------------------------------------


def ask(writer: Writer, **others: Any) -> dict[str, int]:
    """Which agents are to be asked, and the epochs that are known."""
    times: dict[str, Any] = {"gap_grace": 0, "ask_again": 60, "silent": None}
    return dict(writer.attend(**{**times, "tell": 1000, "lost": None, **others}).ask)


def test_gaps(writer: Writer) -> None:
    """A sequence that does not come is asked for, once in a while, until it or a snapshot is
    there."""
    apply(writer, snapshot("h", 7, 0, 10, IMAGE_I))
    assert ask(writer) == {}
    apply(writer, said("h", 7, 2, 12, IMAGE_J))
    assert ask(writer, gap_grace=60) == {}
    assert ask(writer) == {"h": 7}
    assert ask(writer) == {}
    apply(writer, said("h", 7, 4, 14, IMAGE_K))
    apply(writer, said("h", 7, 1, 11, IMAGE_J))
    assert ask(writer, ask_again=0) == {}
    apply(writer, said("h", 7, 3, 13, IMAGE_K))
    assert ask(writer, gap_grace=-600) == {}


def test_a_snapshot_closes_gaps(writer: Writer) -> None:
    """Whatever was lost before is in it."""
    apply(writer, snapshot("h", 7, 0, 10, IMAGE_I))
    apply(writer, *(said("h", 7, n, n, IMAGE_J) for n in range(5, 300, 2)))
    apply(writer, snapshot("h", 7, 300, 300, IMAGE_I))
    assert ask(writer, gap_grace=-600) == {}
    apply(writer, said("h", 7, 301, 301, IMAGE_J))
    assert ask(writer, gap_grace=-600) == {}


def test_an_epoch_without_its_snapshot(writer: Writer) -> None:
    """Is asked for it."""
    apply(writer, said("h", 7, 0, 10, IMAGE_I))
    assert ask(writer) == {"h": 7}
    apply(writer, snapshot("h", 7, 1, 11, IMAGE_I))
    assert ask(writer, gap_grace=-600) == {}


def test_a_clock_set_back(writer: Writer, raw: redis.Redis) -> None:
    """An agent that starts with an older epoch is told the newest one."""
    apply(writer, snapshot("h", 9, 5, 10, IMAGE_I))
    apply(writer, snapshot("h", 3, 0, 20, IMAGE_J))
    assert ask(writer) == {"h": 9}
    apply(writer, snapshot("h", 10, 0, 30, IMAGE_J))
    assert sets(raw) == {IMAGE_J: {"h"}}
    assert ask(writer, gap_grace=-600) == {}


def test_a_clock_set_back_on_a_host_that_fell_back(writer: Writer, raw: redis.Redis) -> None:
    """What its agent says in an older epoch does not count as heard, but it is asked, once."""
    apply(writer, snapshot("h", 9, 5, 10, IMAGE_I))
    apply(writer, snapshot("h", 3, 0, 20, IMAGE_J))
    assert writer.fall_back("h", silent=-1)
    assert ask(writer) == {"h": 9}
    assert ask(writer, gap_grace=-600) == {}


def test_agents_of_another_bus_are_asked_there(store: servers.Redis, writer: Writer) -> None:
    """Where they listen."""
    client = connect.connect(connect.parse(store.url), connect_timeout=2.0, read_timeout=5.0)
    other = Writer(client, KEYSPACE, bus="b2")
    apply(other, said("h", 7, 1, 10, IMAGE_I))
    assert ask(writer) == {}
    assert ask(other) == {"h": 7}
    client.close()


def test_who_is_silent(writer: Writer) -> None:
    """And who has just spoken is not."""
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_I))
    times: dict[str, Any] = {"gap_grace": 5, "ask_again": 60, "tell": 1000, "lost": None}
    assert writer.attend(silent=60, **times).silent == []
    assert writer.attend(silent=-1, **times).silent == ["h"]
    assert writer.fall_back("h", -1)
    assert writer.attend(silent=-1, **times).silent == []
    assert writer.attend(silent=None, **{**times, "lost": -1}).vanished == []
    apply(writer, HostDeleted("h", T0 + 5))
    assert writer.attend(silent=None, **{**times, "lost": -1}).vanished == [("h", T0 + 11)]


def test_one_look_takes_so_many_hosts_and_the_next_one_the_others(writer: Writer) -> None:
    """Of silent agents, of gaps and of hosts that age."""
    hosts = {f"h{number}" for number in range(150)}
    apply(writer, *(snapshot(host, 1, 0, 10, IMAGE_I) for host in hosts))
    times: dict[str, Any] = {"gap_grace": 5, "ask_again": 60, "tell": 1000, "lost": None}
    dead = writer.attend(silent=-1, **times).silent
    assert len(dead) == 100
    for host in dead:
        assert writer.fall_back(host, -1)
    others = writer.attend(silent=-1, **times).silent
    assert sorted([*dead, *others]) == sorted(hosts)

    apply(writer, *(said(f"g{number}", 7, 1, 10, IMAGE_I) for number in range(150)))
    asked = [ask(writer), ask(writer)]
    assert [len(each) for each in asked] == [100, 50]
    assert len(asked[0].keys() | asked[1].keys()) == 150

    apply(writer, *(held(f"a{number}", "i", 0) for number in range(150)))
    looks = []
    while look := writer.ageing(T0 + 10**9, T0 + 2 * 10**9, sweep.HOSTS):
        looks.append(look)
    assert max(map(len, looks)) == sweep.HOSTS
    found = [host for look in looks for host in look if host.startswith("a")]
    assert len(found) == len(set(found)) == 150


def test_a_new_keyspace_is_noticed_once(store: servers.Redis, writer: Writer) -> None:
    """By one of the consumers of each bus."""
    times: dict[str, Any] = {"gap_grace": 5, "ask_again": 60, "silent": None, "lost": None}
    assert writer.attend(tell=1000, **times).listening == "new"
    assert writer.attend(tell=1000, **times).listening == ""
    assert writer.attend(tell=0, **times).listening == "again"
    with store.client() as client:
        client.flushall()
    assert writer.attend(tell=1000, **times).listening == "new"


# -- in any order --------------------------------------------------------------------------


@dataclasses.dataclass
class Host:
    """A host with a cache and an agent that tells of it."""

    name: str
    cache: set[str] = dataclasses.field(default_factory=set)
    epoch: int = 1
    sequence: int = 0

    def snapshot(self, at: int, leaving: bool = False) -> Change:
        self.sequence += 1
        version = (self.epoch, self.sequence - 1)
        return AgentSnapshot(self.name, version, T0 + at, tuple(sorted(self.cache)), (), leaving)

    def toggle(self, at: int, image: str) -> Change:
        self.cache ^= {image}
        self.sequence += 1
        what = Said.STORED if image in self.cache else Said.CLEANUP
        return AgentStatement(self.name, (self.epoch, self.sequence - 1), T0 + at, image, what)

    def restart(self, at: int) -> Change:
        self.epoch += 1
        self.sequence = 0
        return self.snapshot(at)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["h1", "h2"]),
        st.sampled_from(
            ["toggle", "toggle", "toggle", "snapshot", "restart", "held", "fetching", "failed"]
        ),
        st.sampled_from(["i", "j", "k"]),
    ),
    max_size=14,
)


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=OPERATIONS, data=st.data(), goodbye=st.booleans())
def test_any_order(
    writer: Writer, raw: redis.Redis, operations: Any, data: st.DataObject, goodbye: bool
) -> None:
    """Whatever is told in whatever order, twice, in whatever batches: the sets are the caches."""
    raw.execute_command("FLUSHALL", "SYNC")
    hosts = {name: Host(name) for name in ("h1", "h2")}
    words = [host.snapshot(1) for host in hosts.values()]
    for at, (name, what, image) in enumerate(operations, start=2):
        host, fingerprint = hosts[name], names.fingerprint(image)
        if what == "toggle":
            words.append(host.toggle(at, fingerprint))
        elif what == "held":  # Nova tells of what is there, the agent saw it before
            if fingerprint in host.cache:
                words.append(Held(name, image, T0 + at - 1, Source.CREATE))
        elif what == "fetching":
            words.append(Fetching(name, image, T0 + at))
        elif what == "failed":
            words.append(FetchFailed(name, image, T0 + at))
        else:
            words.append(getattr(host, what)(at))
    last = len(operations) + 10
    words.append(hosts["h1"].snapshot(last, leaving=goodbye))
    order = data.draw(st.permutations([*words, *words[::3]]))
    cut = data.draw(st.integers(0, len(order)))
    apply(writer, *order[:cut])
    apply(writer, *order[cut:])
    truth: dict[str, set[str]] = {}
    for host in hosts.values():
        for image in host.cache:
            truth.setdefault(image, set()).add(host.name)
    assert sets(raw) == truth
    assert writer.agent_managed() == ({"h2"} if goodbye else {"h1", "h2"})
    # a late word of an older epoch may be of an agent whose clock was set back: it is asked
    apply(writer, hosts["h2"].snapshot(last + 1))
    assert "h2" not in ask(writer, gap_grace=-600)
    # an inferred host goes on with what its agent held
    assert writer.usage("h1").managed is not goodbye
    if goodbye:
        assert {each.hex() for each in writer.usage("h1").evidence} == hosts["h1"].cache


# -- servers and services ------------------------------------------------------------------

USES = st.lists(
    st.builds(
        InUse,
        st.sampled_from(["h1", "h2"]),
        st.sampled_from([SERVER_1, SERVER_2]),
        st.sampled_from(["i", "j", "k"]),
        st.integers(T0, T0 + 12),
        st.sampled_from([(), ("k",), ("j", "k")]),
    )
    | st.builds(
        NotInUse,
        st.sampled_from(["h1", "h2"]),
        st.sampled_from([SERVER_1, SERVER_2]),
        st.integers(T0, T0 + 12),
    )
    | st.builds(ServiceState, st.sampled_from(["h1", "h2"]), st.integers(T0, T0 + 5), st.booleans())
    | st.builds(HostDeleted, st.just("h2"), st.integers(T0, T0 + 12)),
    max_size=24,
)


@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=USES, data=st.data())
@example(changes=[InUse("h1", SERVER_1, "i", T0), InUse("h1", SERVER_1, "j", T0)], data=None)
def test_uses_in_any_order(
    writer: Writer, raw: redis.Redis, changes: Sequence[Change], data: Any
) -> None:
    """What servers use comes out the same."""
    outcomes = []
    for again in range(3):
        raw.execute_command("FLUSHALL", "SYNC")
        order = list(changes) if not again or data is None else data.draw(st.permutations(changes))
        cut = data.draw(st.integers(0, len(order))) if data else 1
        apply(writer, *order[:cut])
        apply(writer, *order[cut:])
        outcomes.append(
            [(writer.usage(host).uses, writer.usage(host).service) for host in ("h1", "h2")]
        )
    assert outcomes[0] == outcomes[1] == outcomes[2]
    for (rows, _), host in zip(outcomes[0], ("h1", "h2"), strict=True):
        model: dict[bytes, ageing.Use] = {}
        gone = max(
            (each.stamp for each in changes if isinstance(each, HostDeleted) and each.host == host),
            default=0,
        )
        for each in changes:
            if isinstance(each, (InUse, NotInUse)) and each.host == host and each.stamp >= gone:
                server = uuid.UUID(each.instance).bytes
                used = (each.image_id, *each.parts) if isinstance(each, InUse) else ()
                raws = b"".join(bytes.fromhex(names.fingerprint(image)) for image in used)
                use = model.get(server, ageing.Use(()))
                model[server] = use.merged(raws, each.stamp, MOST_USES)
        assert {server: ageing.use_of(row) for server, row in rows.items()} == model


def test_images_on_their_way(writer: Writer, raw: redis.Redis) -> None:
    """Are kept apart from images held, and end with them."""
    apply(writer, Fetching("h", "i", T0), Fetching("h", "j", T0), held("g", "i", 0))
    assert coming(raw) == {IMAGE_I: {"h"}, IMAGE_J: {"h"}}
    assert raw.zscore(KEYS.coming(IMAGE_I), "h") == T0 + FETCH_MOST * 1000
    assert sets(raw) == {IMAGE_I: {"g"}}
    apply(writer, held("h", "i", 1), FetchFailed("h", "j", T0 + 1))
    assert coming(raw) == {}
    apply(writer, Fetching("h", "i", T0 + 2))
    assert coming(raw) == {}
    # that alone does not say that Nova touched what it found
    assert writer.usage("h").evidence[bytes.fromhex(IMAGE_I)] == (T0 + 1, Source.CREATE)
    apply(writer, Fetching("h", "k", T0 - 2 * FETCH_MOST * 1000))
    assert sets(raw) == {IMAGE_I: {"g", "h"}}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.builds(Fetching, st.just("h"), st.just("i"), st.integers(T0, T0 + 9))
        | st.builds(FetchFailed, st.just("h"), st.just("i"), st.integers(T0, T0 + 9)),
        min_size=1,
        max_size=6,
    ),
    data=st.data(),
)
def test_fetches_and_failures_in_any_order(
    writer: Writer, raw: redis.Redis, changes: list[Fetching | FetchFailed], data: Any
) -> None:
    """Redelivered, too: the newest stands, and of one stamp the failure."""
    raw.execute_command("FLUSHALL", "SYNC")
    for each in data.draw(st.permutations(changes + changes[:2])):
        apply(writer, each)
    last = max(each.stamp for each in changes)
    failed = any(isinstance(each, FetchFailed) and each.stamp == last for each in changes)
    assert coming(raw) == ({} if failed else {IMAGE_I: {"h"}})
    till = last + FETCH_MOST * 1000
    assert raw.zscore(KEYS.coming(IMAGE_I), "h") == (-till if failed else till)
    assert abs(raw.pttl(KEYS.coming(IMAGE_I)) - (till - time.time() * 1000)) < 5000


def test_a_failure_outlives_a_success_before_it(writer: Writer, raw: redis.Redis) -> None:
    """Nova's word on a host whose agent has not said it yet: in any order, and again."""
    apply(writer, AgentSnapshot("h", (1, 0), T0, ()))
    came, failed = held("h", "i", 1000), FetchFailed("h", "i", T0 + 100_000)
    for order in ((came, failed, came), (failed, came)):
        raw.delete(KEYS.coming(IMAGE_I))
        for each in order:
            apply(writer, each)
        assert coming(raw) == {}


def test_a_failure_is_forgotten_when_no_beginning_can_be_believed(
    writer: Writer, raw: redis.Redis
) -> None:
    """And one host's does not keep or take what is said of another's."""
    apply(writer, Fetching("g", "i", T0), FetchFailed("h", "i", T0 + 2000))
    assert coming(raw) == {IMAGE_I: {"g"}}
    left = raw.pttl(KEYS.coming(IMAGE_I))
    assert abs(left - (T0 + 2000 + FETCH_MOST * 1000 - time.time() * 1000)) < 1000
    apply(writer, FetchFailed("k", "k", T0 - 2 * FETCH_MOST * 1000))
    assert not raw.exists(KEYS.coming(IMAGE_K))


def test_an_agent_tells_what_is_on_its_way(writer: Writer, raw: redis.Redis) -> None:
    """Until it is there, or is not."""
    apply(writer, AgentSnapshot("h", (1, 0), T0, (), (IMAGE_I,)))
    apply(writer, said("h", 1, 1, 1, IMAGE_J, Said.FETCHING))
    assert coming(raw) == {IMAGE_I: {"h"}, IMAGE_J: {"h"}}
    assert sets(raw) == {}
    apply(writer, said("h", 1, 2, 2, IMAGE_I), said("h", 1, 3, 2, IMAGE_J, Said.CLEANUP))
    assert coming(raw) == {}
    assert sets(raw) == {IMAGE_I: {"h"}}


# -- ageing --------------------------------------------------------------------------------


def test_what_is_due_leaves(writer: Writer, raw: redis.Redis) -> None:
    """But for what changed since it was judged."""
    apply(writer, held("h", "i", 0), held("h", "j", 0), held("h", "k", 0))
    apply(writer, InUse("h", SERVER_1, "k", T0), NotInUse("h", SERVER_2, T0))
    assert writer.ageing(T0 - 1, T0 + 100) == []
    assert writer.ageing(T0, T0 + 100) == ["h"]
    assert writer.ageing(T0, T0 + 100) == []
    row = writer.usage("h").uses
    apply(writer, held("h", "j", 50))
    due = [(bytes.fromhex(each), T0) for each in (IMAGE_I, IMAGE_J, IMAGE_K)]
    old = next((key, value) for key, value in row.items() if key.hex().endswith("02"))
    assert writer.age("h", due, [old], T0 + 100, T0 + 200) == [bytes.fromhex(IMAGE_I)]
    assert sets(raw) == {IMAGE_J: {"h"}, IMAGE_K: {"h"}}
    assert len(writer.usage("h").uses) == 1
    # a change came while it was judged: so it is looked at again as early
    assert writer.ageing(T0 + 50, T0 + 100) == ["h"]
    assert writer.age("h", [], [], T0 + 100, None) == []
    assert writer.ageing(T0 + 10**9, T0) == []


@pytest.mark.parametrize("when", ["before", "taken", "read", "after"])
def test_a_server_that_leaves_in_the_middle_of_a_sweep(
    writer: Writer, raw: redis.Redis, when: str
) -> None:
    """Its image leaves on time, at whichever moment of a sweep that comes."""
    policy = ageing.Policy.of(60, True, 600)

    def come(moment: str) -> None:
        if moment == when:
            apply(writer, NotInUse("h", SERVER_1, T0))

    def look(now: int, come: Callable[[str], None] = lambda moment: None) -> list[bytes]:
        before = now - policy.wait
        hold = before + sweep.HOLD
        come("before")
        if not writer.ageing(before, hold):
            return []
        come("taken")
        known = writer.usage("h")
        come("read")
        about = {"service": known.service, "newest": known.newest, "now": now}
        found = ageing.outlook(policy, known.evidence, known.uses, **about)
        return writer.age("h", found.due, found.forget, hold, found.next)

    begin = T0 - 1_800_000
    apply(writer, Held("h", "i", begin, Source.CREATE), InUse("h", SERVER_1, "i", begin))
    assert look(T0, come) == []
    come("after")
    assert sets(raw) == {IMAGE_I: {"h"}}
    assert look(T0 + sweep.HOLD) == []
    assert look(T0 + policy.wait) == [bytes.fromhex(IMAGE_I)]
    assert sets(raw) == {}
    # and then nobody looks there until the server is to be forgotten
    assert writer.ageing(T0 + policy.wait, T0) == []


def test_a_kernel_and_a_ramdisk_are_used(writer: Writer, raw: redis.Redis) -> None:
    """As the image itself is, whatever was judged before."""
    due = [(bytes.fromhex(each), T0) for each in (IMAGE_I, IMAGE_J, IMAGE_K)]
    apply(writer, held("h", "i", 0), held("h", "j", 0), held("h", "k", 0))
    apply(writer, InUse("h", SERVER_1, "i", T0, ("j", "k")))
    assert writer.age("h", due, [], T0, None) == []
    apply(writer, InUse("h", SERVER_1, "i", T0 + 1, ("j",)))
    assert writer.age("h", due, [], T0, None) == [bytes.fromhex(IMAGE_K)]
    apply(writer, NotInUse("h", SERVER_1, T0 + 2))
    assert len(writer.age("h", due[:2], [], T0, None)) == 2
    assert sets(raw) == {}


def test_an_agents_host_does_not_age(writer: Writer, raw: redis.Redis) -> None:
    """The agent sees what is there."""
    apply(writer, snapshot("h", 1, 0, 10, IMAGE_I))
    assert writer.age("h", [(bytes.fromhex(IMAGE_I), T0 + 99)], [], T0, None) == []
    assert sets(raw) == {IMAGE_I: {"h"}}


def test_an_agents_word_is_the_newest_of_its_host(writer: Writer) -> None:
    """So a host is not believed to be gone whose agent spoke since Nova was asked."""
    apply(writer, held("h", "i", 5), snapshot("h", 1, 0, 10, IMAGE_I))
    assert writer.usage("h").newest == T0 + 10
    apply(writer, said("h", 1, 1, 20, IMAGE_J))
    known = writer.usage("h")
    assert (known.managed, known.newest) == (True, T0 + 20)
    assert reconcile.compare_unknown("h", known, T0 + 20) == []
    assert len(reconcile.compare_unknown("h", known, T0 + 21)) == 1
    apply(writer, held("h", "i", 30))
    assert writer.usage("h").newest == T0 + 30


def test_a_task_is_claimed_by_one(writer: Writer, raw: redis.Redis) -> None:
    """For a while."""
    assert writer.claim("sync", 60)
    assert not writer.claim("sync", 60)
    assert 0 < raw.pttl(KEYS.claim("sync")) <= 60_000


@pytest.mark.parametrize("schema", names.OLDER_SCHEMAS)
def test_a_keyspace_of_an_older_schema_is_taken_over(
    writer: Writer, raw: redis.Redis, schema: int
) -> None:
    """What it says is understood, of an agent, too; of schema 1 all hosts are swept once."""
    raw.set(KEYS.schema, schema)
    if schema == 2:
        row = [1, 0, 1, 0, T0, True, "b1", []]
        raw.hset(KEYS.prefix + "agents", "a", msgpack.packb(row))
        raw.hset(KEYS.prefix + "agent:a", bytes.fromhex(IMAGE_I), b"")
        raw.sadd(KEYS.image(IMAGE_I), "a")
    writer.check()
    apply(writer, held("h", "i", 0))
    assert raw.get(KEYS.schema) == str(names.SCHEMA).encode()
    assert bool(raw.exists(KEYS.prefix + "adopt")) == (schema == 1)
    if schema == 2:
        apply(writer, said("a", 1, 1, 10, IMAGE_J), held("a", "k", 0))
        assert sets(raw) == {IMAGE_I: {"a", "h"}, IMAGE_J: {"a"}}
