"""The command line ``bus-cache`` on a real Redis and a real Valkey: answers, formats, errors."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kombu
import msgpack
import pytest
import yaml

import bus_cache
import consumers.bus
from bus_cache import connect, names
from bus_cache.cli import app, explain, flush
from bus_cache.cli.main import main
from bus_cache.conf import image_cache_weigher
from bus_cache.index.changes import (
    AgentSnapshot,
    AgentStatement,
    Change,
    Fetching,
    Held,
    HostDeleted,
    ImageDeleted,
    ImageSize,
    InUse,
    Said,
    ServiceState,
    Source,
)
from bus_cache.index.writer import Writer
from tests import servers
from tests.functional import test_weigher

PASSWORD = "geheim-17"

CIRROS = "7a1ee65c-0dd8-4b9b-9f1c-6a5b2f0c5d11"
DEBIAN = "c0ffee00-1111-4222-8333-444455556666"
UNHELD = "0b5e55ed-aaaa-4bbb-8ccc-ddddeeeeffff"
NEWEST = 1_700_000_000_123  # 2023-11-14T22:13:20.123Z

INDEX: list[Change] = [
    ImageSize(DEBIAN, 5 * 2**30, NEWEST),
    ImageSize(UNHELD, 1000, NEWEST),
    Held("cmp-1", DEBIAN, NEWEST, Source.CREATE),
    Held("cmp-2", DEBIAN, NEWEST - 60_000, Source.LIVE_MIGRATION),
    Held("cmp-2", CIRROS, NEWEST - 123, Source.PRECACHE),
]

AGENTS: list[Change] = [
    *INDEX,
    AgentSnapshot("cmp-3", (1, 1), NEWEST, (names.fingerprint(DEBIAN),)),
    AgentSnapshot("cmp-4", (1, 1), NEWEST, (names.fingerprint(DEBIAN),), leaving=True),
    AgentStatement("cmp-3", (1, 3), NEWEST + 1000, names.fingerprint("seen only"), Said.STORED),
    InUse("cmp-3", "a3e5a1e8-0d1d-4a4d-8d5f-0d3f4c1f0a01", DEBIAN, NEWEST),
    ServiceState("cmp-3", NEWEST, False),
]
"""With an agent of which a message is lost, and one that said goodbye."""


class Answer(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


class Cli:
    """Runs commands on one keyspace, in this process."""

    def __init__(
        self, url: str, keyspace: str, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.keyspace = keyspace
        self.config = path / f"{keyspace}.conf"
        self.options(f"redis_url = {url}")
        self.client: Any = connect.connect(connect.parse(url), connect_timeout=5, read_timeout=30)
        self._capsys = capsys

    def options(self, *lines: str) -> None:
        """Write the configuration file."""
        text = "\n".join(["[bus_cache]", f"keyspace = {self.keyspace}", *lines])
        self.config.write_text(text + "\n")

    def __call__(self, *arguments: str) -> Answer:
        self._capsys.readouterr()
        code = main([*arguments, "--config-file", str(self.config)])
        answer = Answer(code, *self._capsys.readouterr())
        assert PASSWORD not in answer.out + answer.err
        return answer

    def fill(self, changes: Iterable[Any] = INDEX) -> None:
        """Put statements into the keyspace."""
        assert Writer(self.client, self.keyspace).apply(changes) == []


@pytest.fixture
def cli(
    store: servers.Redis,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Iterator[Cli]:
    """The command line on a keyspace of the test's own, reached with a password."""
    with store.client() as admin:
        admin.flushall()
        admin.acl_setuser(
            "op", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], categories=["+@all"]
        )
    keyspace = re.sub(r"[^a-z_]", "_", request.node.originalname)
    runner = Cli(f"redis://op:{PASSWORD}@127.0.0.1:{store.port}/0", keyspace, tmp_path, capsys)
    yield runner
    runner.client.close()


@pytest.fixture
def no_buses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers.bus, "queue_depths", lambda conf: [])


# -- images ----------------------------------------------------------------------------------


def test_image_list_json(cli: Cli) -> None:
    cli.fill()
    assert cli("image", "list", "-f", "json").json == [
        {"image": DEBIAN, "size": 5 * 2**30, "hosts": 2},
        {"image": CIRROS, "size": None, "hosts": 1},
        {"image": UNHELD, "size": 1000, "hosts": 0},
    ]


def test_image_list_table(cli: Cli) -> None:
    cli.fill()
    answer = cli("image", "list")
    assert (answer.code, answer.err) == (0, "")
    assert re.search(rf"\| {DEBIAN} \| +5\.0 GiB \| +2 \|", answer.out)
    assert re.search(rf"\| {CIRROS} \| +- +\| +1 \|", answer.out)
    assert re.search(rf"\| {UNHELD} \| +1000 B +\| +0 \|", answer.out)


def test_image_list_csv_yaml_value(cli: Cli) -> None:
    cli.fill()
    assert list(csv.DictReader(io.StringIO(cli("image", "list", "-f", "csv").out))) == [
        {"image": DEBIAN, "size": str(5 * 2**30), "hosts": "2"},
        {"image": CIRROS, "size": "", "hosts": "1"},
        {"image": UNHELD, "size": "1000", "hosts": "0"},
    ]
    assert (
        yaml.safe_load(cli("image", "list", "-f", "yaml").out)
        == cli("image", "list", "-f", "json").json
    )
    assert cli("image", "list", "-f", "value", "-c", "image").out.split() == [
        DEBIAN,
        CIRROS,
        UNHELD,
    ]


def test_image_list_limit_long_and_sorting(cli: Cli) -> None:
    cli.fill()
    assert cli("image", "list", "--limit", "1", "--long", "-f", "json").json == [
        {
            "image": DEBIAN,
            "size": 5 * 2**30,
            "hosts": 2,
            "fingerprint": names.fingerprint(DEBIAN),
        }
    ]
    by_size = cli("image", "list", "--sort-column", "size", "-f", "json").json
    assert [row["image"] for row in by_size] == [CIRROS, UNHELD, DEBIAN]


def test_an_image_without_an_id_is_listed_by_its_fingerprint(cli: Cli) -> None:
    cli.fill()
    fingerprint = names.fingerprint("unknown to all")
    cli.client.hset(
        names.Keys(cli.keyspace).images, bytes.fromhex(fingerprint), msgpack.packb([False, 7, 1])
    )
    rows = cli("image", "list", "-f", "json").json
    assert {"image": fingerprint, "size": 7, "hosts": 0} in rows
    assert cli("image", "show", fingerprint, "-f", "json").json["id"] is None


@pytest.mark.parametrize("name", [DEBIAN, names.fingerprint(DEBIAN)])
def test_image_show(cli: Cli, name: str) -> None:
    cli.fill()
    assert cli("image", "show", name, "-f", "json").json == {
        "id": DEBIAN,
        "fingerprint": names.fingerprint(DEBIAN),
        "size": 5 * 2**30,
        "held_by": 2,
        "hosts": [
            {"host": "cmp-1", "at": "2023-11-14T22:13:20.123Z", "by": "create"},
            {"host": "cmp-2", "at": "2023-11-14T22:12:20.123Z", "by": "live_migration"},
        ],
        "coming": [],
    }


def test_image_show_in_the_other_formats(cli: Cli) -> None:
    cli.fill()
    table = cli("image", "show", DEBIAN).out
    assert re.search(r"hosts +\| host +at +by", table)
    assert "cmp-1  2023-11-14T22:13:20Z  create " in table
    assert "5.0 GiB" in table
    rows = list(csv.DictReader(io.StringIO(cli("image", "show", DEBIAN, "-f", "csv").out)))
    assert [(row["id"], row["size"], row["host"], row["by"]) for row in rows] == [
        (DEBIAN, str(5 * 2**30), "cmp-1", "create"),
        (DEBIAN, str(5 * 2**30), "cmp-2", "live_migration"),
    ]
    assert cli("image", "show", DEBIAN, "-f", "value", "-c", "hosts").out.splitlines() == [
        "cmp-1 2023-11-14T22:13:20.123Z create",
        "cmp-2 2023-11-14T22:12:20.123Z live_migration",
    ]
    assert (
        yaml.safe_load(cli("image", "show", DEBIAN, "-f", "yaml").out)
        == cli("image", "show", DEBIAN, "-f", "json").json
    )


def test_image_show_of_what_agents_hold_and_what_is_coming(cli: Cli) -> None:
    now = int(time.time() * 1000)
    cli.fill([*AGENTS, Fetching("cmp-9", DEBIAN, now), Fetching("cmp-8", "unheard of", now)])
    found = cli("image", "show", DEBIAN, "-f", "json").json
    assert found["held_by"] == 4
    assert found["hosts"][2:] == [
        {"host": "cmp-3", "at": "2023-11-14T22:13:21.123Z", "by": "agent"},
        {"host": "cmp-4", "at": "2023-11-14T22:13:20.123Z", "by": "agent"},
    ]
    (coming,) = found["coming"]
    assert coming["host"] == "cmp-9"
    assert re.search(r"coming +\| host +until", cli("image", "show", DEBIAN).out)
    rows = list(csv.DictReader(io.StringIO(cli("image", "show", DEBIAN, "-f", "csv").out)))
    assert [(row["id"], row["host"], row["by"], row["until"]) for row in rows[3:]] == [
        (DEBIAN, "cmp-4", "agent", ""),
        (DEBIAN, "cmp-9", "", coming["until"]),
    ]
    found = cli("image", "show", names.fingerprint("unheard of"), "-f", "json").json
    assert (found["hosts"], found["coming"][0]["host"]) == ([], "cmp-8")


def test_an_image_that_only_an_agent_knows(cli: Cli) -> None:
    cli.fill(AGENTS)
    fingerprint = names.fingerprint("seen only")
    assert {"image": fingerprint, "size": None, "hosts": 1} in cli(
        "image", "list", "-f", "json"
    ).json
    assert cli("image", "show", fingerprint, "-f", "json").json["id"] is None


def test_image_show_of_an_image_that_nobody_holds(cli: Cli) -> None:
    cli.fill()
    assert cli("image", "show", UNHELD, "-f", "json").json["hosts"] == []
    assert re.search(r"\| hosts +\| none +\|", cli("image", "show", UNHELD).out)
    rows = list(csv.DictReader(io.StringIO(cli("image", "show", UNHELD, "-f", "csv").out)))
    assert [row["id"] for row in rows] == [UNHELD]


def test_image_show_of_an_unknown_image(cli: Cli) -> None:
    cli.fill()
    for name in ("no-such-image", "0" * 40):
        answer = cli("image", "show", name)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err == (
            f"bus-cache: nothing is known of an image {name}: no host has been heard to hold it\n"
        )


def test_image_show_of_a_deleted_image(cli: Cli) -> None:
    cli.fill([*INDEX, ImageDeleted(DEBIAN, NEWEST)])
    answer = cli("image", "show", DEBIAN)
    assert answer.code == 1
    assert answer.err == f"bus-cache: the image {DEBIAN} was deleted: it is in no host's cache\n"


# -- explain -----------------------------------------------------------------------------------

EXPLAINED: list[Change] = [
    *INDEX,
    Held("cmp-3", UNHELD, NEWEST, Source.CREATE),
    Fetching("cmp-4", DEBIAN, int(time.time() * 1000)),
]


def test_explain(cli: Cli) -> None:
    cli.fill(EXPLAINED)
    held = {"image": "held", "weight": 1.0, "gain": 5.0}
    coming = {"image": "on its way", "weight": 0.8, "gain": 4.0}
    nothing = {"image": "-", "weight": 0.0, "gain": 0.0, "why": "would fetch it"}
    unknown = {"builds": None, "free_ram_mb": None}
    idle = "idle 1.00 x room 1.00"
    assert cli("explain", DEBIAN, "-f", "json").json == [
        {"host": "cmp-1", **held, **unknown, "why": f"saves 1.00 x there 1.00 x {idle}"},
        {"host": "cmp-2", **held, **unknown, "why": f"saves 1.00 x there 1.00 x {idle}"},
        {"host": "cmp-4", **coming, **unknown, "why": f"saves 1.00 x there 0.80 x {idle}"},
        {"host": "cmp-3", **nothing, **unknown},
    ]


def test_explain_an_image_that_makes_no_difference(cli: Cli) -> None:
    """Too small, or the same on all hosts; of an unknown size."""
    cli.fill(INDEX)
    rows = cli("explain", UNHELD, "-f", "json").json
    assert {row["why"] for row in rows} == {"an image as small as this weighs nothing"}
    for size in ("8G", "9000000000", "1t"):
        rows = cli("explain", UNHELD, "--size", size, "-f", "json").json
        assert {row["why"] for row in rows} == {"as all hosts: the image makes no difference"}
    answer = cli("explain", CIRROS)
    assert (answer.code, answer.out) == (1, "")
    assert "size is not known: give it with --size" in answer.err


def test_explain_where_each_host_of_the_index_holds_the_image(cli: Cli) -> None:
    """A cloud has hosts that the index does not know, as after the first boots."""
    cli.fill([ImageSize(DEBIAN, 5 * 2**30, NEWEST), Held("cmp-1", DEBIAN, NEWEST, Source.CREATE)])
    assert [row["gain"] for row in cli("explain", DEBIAN, "-f", "json").json] == [5.0]


@pytest.mark.parametrize(
    ("known", "ram_mb", "multiplier", "said"),
    [
        (True, 8192, 5.0, []),
        (True, 0, 5.0, ["Without --ram"]),
        (False, 0, 0.0, ["Without --os-cloud", "multiplier is 0"]),
    ],
)
def test_explain_says_what_it_leaves_out(
    known: bool, ram_mb: int, multiplier: float, said: list[str]
) -> None:
    """Whatever makes the answer another one than the scheduler's."""
    doubts = list(explain.doubts(known, ram_mb, multiplier))
    assert [words for words in said if any(words in each for each in doubts)] == said
    assert len(doubts) == len(said)


def test_explain_takes_the_weighers_options(cli: Cli) -> None:
    """From the same file that has the rest, such as nova.conf."""
    cli.fill(EXPLAINED)
    with cli.config.open("a") as config:
        config.write("[image_cache_weigher]\nmultiplier = 3\nlarge_image_size = 10140\n")
    first = cli("explain", DEBIAN, "-f", "json").json[0]
    assert (first["host"], first["weight"], first["gain"]) == ("cmp-1", 0.5, 1.5)
    with cli.config.open("a") as config:
        config.write("most_builds = 0\n")
    answer = cli("explain", DEBIAN)
    assert (answer.code, answer.out) == (1, "")
    assert "most_builds" in answer.err


def test_explain_says_what_the_weigher_says(cli: Cli) -> None:
    """Nova's classes with the same index, for hosts that are idle and as full as each other."""
    cli.fill(EXPLAINED)
    test_weigher.CONF([], project="nova", default_config_files=[str(cli.config)])
    try:
        hosts = test_weigher.make_hosts(4)
        for number, host in enumerate(hosts):
            host.host = f"cmp-{number + 1}"
        test_weigher.CONF.register_opts(image_cache_weigher.OPTIONS, image_cache_weigher.GROUP)
        test_weigher.CONF.set_override("time_budget", 10, image_cache_weigher.GROUP)
        spec = test_weigher.make_spec(test_weigher.make_image(5 * 2**30, id=DEBIAN))
        weights = test_weigher.Scheduler().weigh(hosts, spec)
    finally:
        test_weigher.end_weighers()
        test_weigher.CONF.clear_override("time_budget", image_cache_weigher.GROUP)
        test_weigher.CONF([], project="nova", default_config_files=[])
    rows = cli("explain", DEBIAN, "-f", "json").json
    assert {row["host"]: row["weight"] for row in rows} == {
        host.host: weight for host, weight in zip(hosts, weights, strict=True)
    }


def test_explain_needs_a_cloud_that_is_there(cli: Cli) -> None:
    cli.fill(EXPLAINED)
    answer = cli("explain", DEBIAN, "--os-cloud", "nowhere")
    assert (answer.code, answer.out) == (1, "")
    assert "no usable credentials for Nova's API" in answer.err


# -- hosts -----------------------------------------------------------------------------------


def test_host_list(cli: Cli) -> None:
    cli.fill()
    assert cli("host", "list", "-f", "json").json == [
        {
            "host": "cmp-1",
            "images": 1,
            "newest_evidence": "2023-11-14T22:13:20.123Z",
            "known_by": "notifications",
            "agent_heard": None,
        },
        {
            "host": "cmp-2",
            "images": 2,
            "newest_evidence": "2023-11-14T22:13:20.000Z",
            "known_by": "notifications",
            "agent_heard": None,
        },
    ]
    assert re.search(r"\| cmp-2 \| +2 \| 2023-11-14T22:13:20Z \|", cli("host", "list").out)
    assert cli("host", "list", "-f", "csv").out.splitlines()[1] == (
        "cmp-1,1,2023-11-14T22:13:20.123Z,notifications,"
    )


def test_host_list_tells_by_what_each_is_known(cli: Cli) -> None:
    cli.fill(AGENTS)
    rows = cli("host", "list", "-f", "json").json
    assert [(row["host"], row["images"], row["known_by"]) for row in rows] == [
        ("cmp-1", 1, "notifications"),
        ("cmp-2", 2, "notifications"),
        ("cmp-3", 2, "agent"),
        ("cmp-4", 1, "notifications"),
    ]
    assert [row["agent_heard"] is None for row in rows] == [True, True, False, False]
    assert re.search(r"\| cmp-4 .*\| notifications +\| 20", cli("host", "list").out)


def test_host_show_of_a_host_with_an_agent(cli: Cli) -> None:
    cli.fill(AGENTS)
    found = cli("host", "show", "cmp-3", "-f", "json").json
    assert found.pop("agent_heard") > "2025"
    assert found == {
        "host": "cmp-3",
        "newest_evidence": "2023-11-14T22:13:21.123Z",
        "known_by": "agent",
        "agent_gap": True,
        "nova_compute": "down",
        "servers": 1,
        "holds": 2,
        "images": sorted(
            (
                {"image": image, "size": size, "at": "2023-11-14T22:13:21.123Z", "by": "agent"}
                for image, size in (
                    (DEBIAN, 5 * 2**30),
                    (names.fingerprint("seen only"), None),
                )
            ),
            key=lambda row: str(row["image"]),
        ),
    }


def test_host_show(cli: Cli) -> None:
    cli.fill()
    assert cli("host", "show", "cmp-2", "-f", "json").json == {
        "host": "cmp-2",
        "newest_evidence": "2023-11-14T22:13:20.000Z",
        "known_by": "notifications",
        "agent_heard": None,
        "agent_gap": False,
        "nova_compute": None,
        "servers": 0,
        "holds": 2,
        "images": [
            {"image": CIRROS, "size": None, "at": "2023-11-14T22:13:20.000Z", "by": "precache"},
            {
                "image": DEBIAN,
                "size": 5 * 2**30,
                "at": "2023-11-14T22:12:20.123Z",
                "by": "live_migration",
            },
        ],
    }
    table = cli("host", "show", "cmp-2").out
    assert f"{CIRROS}  -        2023-11-14T22:13:20Z  precache" in table


def test_host_show_of_an_unknown_or_deleted_host(cli: Cli) -> None:
    cli.fill([*INDEX, HostDeleted("cmp-1", NEWEST + 1)])
    answer = cli("host", "show", "cmp-9")
    assert answer == (1, "", "bus-cache: nothing is known of a host cmp-9\n")
    answer = cli("host", "show", "cmp-1")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == (
        "bus-cache: the compute service of cmp-1 was deleted at 2023-11-14T22:13:20Z, and nothing "
        "was heard of it since\n"
    )


# -- status ----------------------------------------------------------------------------------


def test_status(cli: Cli, store: servers.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.fill()
    depths = [
        consumers.bus.QueueDepth("rabbit://cell1:5672/", "bus_cache", 12, 2, ""),
        consumers.bus.QueueDepth("rabbit://cell2:5672/", "bus_cache", None, None, "timed out"),
    ]
    monkeypatch.setattr(consumers.bus, "queue_depths", lambda conf: depths)
    found = cli("status", "-f", "json").json
    server = found.pop("server")
    assert re.fullmatch(rf"{type(store).__name__} \d+\.\d+\.\d+", server)
    assert found.pop("newest_evidence_age") == pytest.approx(time.time() - NEWEST / 1000, abs=60)
    assert found == {
        "version": bus_cache.__version__,
        "redis": f"redis://127.0.0.1:{store.port}/0",
        "keyspace": cli.keyspace,
        "schema": names.SCHEMA,
        "images": 3,
        "images_held": 2,
        "hosts": 2,
        "hosts_by_agent": 0,
        "hosts_by_notifications": 2,
        "agents_silent": 0,
        "agent_gaps": 0,
        "limits_reached": None,
        "memberships": 3,
        "newest_evidence": "2023-11-14T22:13:20.123Z",
        "queues": [
            {
                "bus": "rabbit://cell1:5672/",
                "queue": "bus_cache",
                "messages": 12,
                "consumers": 2,
                "error": "",
            },
            {
                "bus": "rabbit://cell2:5672/",
                "queue": "bus_cache",
                "messages": None,
                "consumers": None,
                "error": "timed out",
            },
        ],
    }
    table = cli("status").out
    assert re.search(r"rabbit://cell1:5672/  bus_cache  12        2 ", table)
    assert re.search(r"rabbit://cell2:5672/  bus_cache  -         -          timed out", table)
    rows = list(csv.DictReader(io.StringIO(cli("status", "-f", "csv").out)))
    assert [(row["bus"], row["messages"], row["images"]) for row in rows] == [
        ("rabbit://cell1:5672/", "12", "3"),
        ("rabbit://cell2:5672/", "", "3"),
    ]


@pytest.mark.usefixtures("no_buses")
def test_status_counts_agents(cli: Cli) -> None:
    cli.fill(AGENTS)
    found = cli("status", "-f", "json").json
    counted = ("hosts", "hosts_by_agent", "hosts_by_notifications", "agents_silent", "agent_gaps")
    assert [found[name] for name in counted] == [4, 1, 3, 1, 1]


@pytest.mark.usefixtures("no_buses")
def test_status_of_an_empty_keyspace(cli: Cli) -> None:
    found = cli("status", "-f", "json").json
    assert (found["schema"], found["images"], found["newest_evidence"]) == (None, 0, None)
    assert re.search(r"\| newest_evidence_age +\| - ", cli("status").out)


def test_status_survives_whatever_a_bus_does(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(conf: object) -> None:
        raise RuntimeError(f"amqp://nova:{PASSWORD}@10.0.0.1:5672//\nis not well")

    monkeypatch.setattr(consumers.bus, "queue_depths", broken)
    (row,) = cli("status", "-f", "json").json["queues"]
    assert row["error"] == "amqp://10.0.0.1:5672// is not well"


def test_status_without_the_consumer_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(consumers, "bus")
    monkeypatch.setitem(sys.modules, "consumers.bus", None)
    (row,) = cli("status", "-f", "json").json["queues"]
    assert row["error"].startswith("asking a bus needs pip install 'bus-cache[consumer]'")


def test_status_asks_a_real_bus(cli: Cli, rabbit: servers.RabbitMQ) -> None:
    cli.options(
        f"redis_url = redis://op:{PASSWORD}@127.0.0.1:{cli.client.connection_pool.connection_kwargs['port']}/0",
        "[consumer]",
        f"transport_url = {rabbit.url}",
        f"transport_url = rabbit://nova:{PASSWORD}@127.0.0.1:1/away",
    )
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        channel.queue_declare(queue="bus_cache", durable=True)
        channel.queue_purge("bus_cache")
        for _ in range(3):
            channel.basic_publish(channel.prepare_message(b"{}"), "", "bus_cache")
    deadline = time.monotonic() + 30
    while (queues := cli("status", "-f", "json").json["queues"])[0]["messages"] != 3:
        assert time.monotonic() < deadline, queues
    assert queues[0] == {
        "bus": f"rabbit://127.0.0.1:{rabbit.port}/",
        "queue": "bus_cache",
        "messages": 3,
        "consumers": 0,
        "error": "",
    }
    agents = {"queue": "bus_cache.info", "messages": None, "consumers": None}
    assert queues[1] == {**queues[0], **agents, "error": "no such queue"}
    for each, name in zip(queues[2:], ("bus_cache", "bus_cache.info"), strict=True):
        assert (each["bus"], each["queue"]) == ("rabbit://127.0.0.1:1/away", name)
        assert "refused" in each["error"]


# -- flush -----------------------------------------------------------------------------------


def test_flush_deletes_one_keyspace_only(cli: Cli) -> None:
    cli.keyspace = "bus.cache"
    cli.options(cli.config.read_text().splitlines()[-1])
    cli.fill(AGENTS + [Held("cmp-1", f"i-{i}", NEWEST, Source.CREATE) for i in range(flush.BATCH)])
    cli.fill([Fetching("cmp-9", DEBIAN, int(time.time() * 1000)), HostDeleted("cmp-7", NEWEST)])
    cli.client.set("{bus.cache}:image:" + "0" * 40, "something foreign")
    others = ("busXcache", "bus.cache2", "bus", "bus.cach")
    for keyspace in others:
        Writer(cli.client, keyspace).apply(INDEX)
    for key in ("bus.cache", "bus.cache:image:x", "{bus.cache}", "x{bus.cache}:images"):
        cli.client.set(key, "not ours")
    kept = {key for key in cli.client.scan_iter() if not key.startswith(b"{bus.cache}:")}
    count = cli.client.dbsize() - len(kept)
    answer = cli("flush", "--yes")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Deleted {count} keys of the keyspace 'bus.cache' in Redis at ")
    assert set(cli.client.scan_iter()) == kept
    assert cli("flush", "--yes").out.startswith("Deleted 0 keys ")


def test_flush_refuses_where_nobody_can_be_asked(cli: Cli) -> None:
    cli.fill()
    answer = cli("flush")
    assert answer.code == 2
    assert "give --yes" in answer.err
    assert len(cli("image", "list", "-f", "json").json) == 3


@pytest.mark.parametrize(("reply", "code"), [("y", 0), ("yes", 0), ("n", 1), ("", 1)])
def test_flush_asks(cli: Cli, script: str, reply: str, code: int) -> None:
    cli.fill()
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{reply}\n".encode())
        done = subprocess.run(
            [script, "--config-file", str(cli.config), "flush"],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code
    assert f"The keyspace {cli.keyspace!r} in Redis at redis://127.0.0.1:" in done.stderr
    assert "knows 3 images and 2 hosts" in done.stderr
    assert PASSWORD not in done.stderr + done.stdout
    assert bool(cli.client.exists(names.Keys(cli.keyspace).schema)) == bool(code)


def test_flush_takes_out_what_another_version_wrote(cli: Cli) -> None:
    cli.fill()
    cli.client.set(names.Keys(cli.keyspace).schema, "99")
    assert cli("flush", "--yes").code == 0
    assert cli.client.dbsize() == 0


# -- errors ----------------------------------------------------------------------------------

ASKING = [
    ("image", "list"),
    ("image", "show", DEBIAN),
    ("host", "list"),
    ("host", "show", "cmp-1"),
    ("status",),
    ("flush", "--yes"),
]


@pytest.fixture
def away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs commands on a Redis that is away, as a URL says."""

    def run(url: str, *arguments: str) -> Answer:
        config = tmp_path / "away.conf"
        config.write_text(f"[bus_cache]\nredis_url = {url}\nsentinel_password = {PASSWORD}\n")
        code = main(["--config-file", str(config), *arguments])
        answer = Answer(code, *capsys.readouterr())
        assert PASSWORD not in answer.out + answer.err
        return answer

    return run


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_redis_is_away(away: Callable[..., Answer], arguments: tuple[str, ...]) -> None:
    port = servers.free_port()
    answer = away(f"redis://op:{PASSWORD}@127.0.0.1:{port}/0", *arguments)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"bus-cache: Redis at redis://127.0.0.1:{port}/0 can't be used: ")
    assert answer.err.endswith("Connection refused.\n")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis+sentinel"])
def test_a_cluster_or_all_sentinels_are_away(away: Callable[..., Answer], scheme: str) -> None:
    port = servers.free_port()
    tail = "/mymaster/0" if scheme == "redis+sentinel" else ""
    answer = away(f"{scheme}://op:{PASSWORD}@127.0.0.1:{port}{tail}", "image", "list")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"bus-cache: Redis at {scheme}://127.0.0.1:{port}{tail} can't ")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 250


def test_a_wrong_password(cli: Cli) -> None:
    url = cli.config.read_text().splitlines()[-1]
    cli.options(url.replace(PASSWORD, "wrong-one"))
    answer = cli("image", "list")
    assert (answer.code, answer.out) == (1, "")
    assert "can't be used: " in answer.err
    assert "wrong-one" not in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("arguments", ASKING[:-1], ids=" ".join)
def test_a_schema_of_another_version(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.fill()
    cli.client.set(names.Keys(cli.keyspace).schema, "99")
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (1, "")
    assert re.match(rf"bus-cache: the keyspace '{cli.keyspace}' has schema \D*99\D", answer.err)
    assert answer.err.count("\n") == 1


def test_an_empty_keyspace_is_hinted_at(cli: Cli) -> None:
    for arguments in (("image", "list"), ("host", "list")):
        answer = cli(*arguments, "-f", "json")
        assert (answer.code, json.loads(answer.out)) == (0, [])
        assert f"the keyspace {cli.keyspace!r} in Redis at redis://127.0.0.1:" in answer.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[bus_cache]\nkeyspace = a b\n", "[bus_cache] keyspace = a b can't be used"),
        (f"[bus_cache]\nredis_url = http://u:{PASSWORD}@h\n", "[bus_cache] redis_url can't be"),
        (f"  redis://u:{PASSWORD}@h/0\n", "redis://h/0"),
    ],
)
def test_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    (tmp_path / "wrong.conf").write_text(text)
    assert main(["--config-file", str(tmp_path / "wrong.conf"), "image", "list"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err
    assert PASSWORD not in err
    assert err.count("\n") == 1


def test_a_configuration_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--config-file", "--config-dir"):
        assert main(["image", "list", option, str(tmp_path / "none")]) == 1
        assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_configuration_directory_and_a_later_file_win(cli: Cli, tmp_path: Path) -> None:
    cli.fill()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.conf").write_text("[bus_cache]\nkeyspace = elsewhere\n")
    answer = cli("host", "list", "--config-dir", str(tmp_path / "d"))
    assert "the keyspace 'elsewhere'" in answer.err


def test_debug_shows_the_traceback(away: Callable[..., Answer]) -> None:
    url = f"redis://op:{PASSWORD}@127.0.0.1:{servers.free_port()}/0"
    assert "Traceback" not in away(url, "image", "list").err
    assert "Traceback" in away(url, "image", "list", "--debug").err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name a command"),
        (["frobnicate"], "there is no command 'frobnicate'; see bus-cache --help"),
        (["image"], "there is no command 'image'; did you mean: image list, image show?"),
        (["stauts", "-f", "json"], "there is no command 'stauts'; did you mean: status?"),
        (["-f", "json"], "there is no command ''; did you mean"),
        (["image", "show"], "required: IMAGE"),
        (["image", "show", "two words"], "'two words' can't be a name"),
        (["host", "show", "h\u00f6st"], "can't be a name"),
        (["host", "show", "x" * 256], "can't be a name"),
        (["image", "list", "--limit", "0"], "'0' is no number above 0"),
        (["image", "list", "--unknown"], "--unknown"),
        (["image", "list", "-f", "xml"], "xml"),
    ],
)
def test_wrong_use(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err
    assert err.startswith("usage: bus-cache ")


# -- broken values ---------------------------------------------------------------------------


@pytest.mark.usefixtures("no_buses")
def test_broken_values_do_not_stop_a_listing(cli: Cli) -> None:
    cli.fill()
    keys = names.Keys(cli.keyspace)
    raw = {name: bytes.fromhex(names.fingerprint(name)) for name in (DEBIAN, CIRROS, "other")}
    cli.client.hset(keys.images, raw[DEBIAN], b"\xc1 no msgpack")
    cli.client.hset(keys.images, raw["other"], msgpack.packb(["not its id", -1, 0]))
    cli.client.hset(keys.images, b"short", b"")
    cli.client.hset(keys.host("cmp-1"), raw[DEBIAN], msgpack.packb({"a": 1}))
    cli.client.hset(keys.host("cmp-2"), raw[DEBIAN], msgpack.packb([2**63, 99]))
    cli.client.zadd(keys.hosts, {"cmp-1": float("inf"), b"bad\x1b[31m\xff": 1})
    answer = cli("image", "list", "-f", "json")
    assert answer.code == 0
    assert json.loads(answer.out) == [
        {"image": names.fingerprint(DEBIAN), "size": None, "hosts": 2},
        {"image": CIRROS, "size": None, "hosts": 1},
        *sorted(
            [
                {"image": UNHELD, "size": 1000, "hosts": 0},
                {"image": names.fingerprint("other"), "size": None, "hosts": 0},
            ],
            key=lambda row: str(row["image"]),
        ),
    ]
    assert answer.err.count("\n") == 4
    assert "'short' stands where an image's fingerprint should" in answer.err
    answer = cli("image", "show", DEBIAN, "-f", "json")
    assert json.loads(answer.out)["hosts"] == [
        {"host": "cmp-1", "at": None, "by": None},
        {"host": "cmp-2", "at": None, "by": "source_99"},
    ]
    answer = cli("host", "list", "-f", "json")
    assert [(row["host"], row["newest_evidence"]) for row in json.loads(answer.out)] == [
        ("bad\\x1b[31m\\xff", "1970-01-01T00:00:00.001Z"),
        ("cmp-1", None),
        ("cmp-2", "2023-11-14T22:13:20.000Z"),
    ]
    assert "\x1b" not in answer.out + answer.err
    for arguments in (("status",), ("host", "show", "cmp-1"), ("host", "show", "cmp-2")):
        assert cli(*arguments).code == 0


@pytest.mark.usefixtures("no_buses")
def test_broken_values_about_agents_do_not_stop_a_listing(cli: Cli) -> None:
    cli.fill(AGENTS)
    keys = names.Keys(cli.keyspace)
    seen_only, debian = names.fingerprint("seen only"), names.fingerprint(DEBIAN)
    cli.client.hset(keys.agent("cmp-3"), bytes.fromhex(seen_only), b"\xc1 no msgpack")
    cli.client.hset(keys.agent("cmp-3"), b"short", b"")
    cli.client.hset(keys.services, "cmp-3", msgpack.packb([NEWEST, "perhaps"]))
    record = msgpack.unpackb(cli.client.hget(keys.agents, "cmp-3"))
    cli.client.hset(keys.agents, "cmp-3", msgpack.packb([*record[:8], float("inf")]))
    cli.client.hset(keys.agents, "cmp-4", b"")
    answer = cli("host", "show", "cmp-3", "-f", "json")
    assert [row["image"] for row in json.loads(answer.out)["images"]] == [DEBIAN]
    assert json.loads(answer.out) | {"images": [], "newest_evidence": ""} == {
        "host": "cmp-3",
        "newest_evidence": "",
        "known_by": "agent",
        "agent_heard": None,
        "agent_gap": True,
        "nova_compute": None,
        "servers": 1,
        "holds": 1,
        "images": [],
    }
    for complaint in (
        f"what the agent of cmp-3 said of {seen_only} can't be read",
        "'short' stands where an image's fingerprint should",
        "whether nova-compute of cmp-3 works can't be read",
        "when the agent of cmp-3 was last heard is no time",
    ):
        assert complaint in answer.err
    cli.client.hdel(keys.agent("cmp-3"), b"short")
    cli.client.hset(keys.uses("cmp-3"), b"x" * 16, msgpack.packb([0, b"\xff" * 20, "never"]))
    answer = cli("host", "show", "cmp-3", "-f", "json")
    assert json.loads(answer.out)["servers"] == 1
    assert "what a server uses on cmp-3 can't be read" in answer.err
    answer = cli("image", "show", seen_only, "-f", "json")
    assert json.loads(answer.out)["hosts"] == [{"host": "cmp-3", "at": None, "by": None}]
    answer = cli("host", "list", "-f", "json")
    assert [row["known_by"] for row in json.loads(answer.out)][2:] == ["agent", "notifications"]
    assert "what is known of the agent of cmp-4 can't be read" in answer.err
    for key in (keys.agents, keys.services, keys.agent("cmp-3"), keys.uses("cmp-3")):
        cli.client.set(key, "foreign")
    for name in ("silent", "gaps", f"coming:{debian}"):
        cli.client.set(keys.prefix + name, "foreign")
    for arguments in (
        ("status",),
        ("image", "show", DEBIAN),
        ("host", "list"),
        ("host", "show", "cmp-3"),
    ):
        answer = cli(*arguments)
        # of cmp-3 nothing else was there
        assert answer.code == (arguments == ("host", "show", "cmp-3"))
        assert "is of another type than bus-cache's" in answer.err


@pytest.mark.usefixtures("no_buses")
def test_keys_of_a_foreign_type_do_not_stop_a_listing(cli: Cli) -> None:
    cli.fill()
    keys = names.Keys(cli.keyspace)
    cli.client.set(keys.image(names.fingerprint(DEBIAN)), "foreign")
    cli.client.set(keys.host("cmp-1"), "foreign")
    answer = cli("image", "list", "-f", "json")
    assert [row["hosts"] for row in json.loads(answer.out)] == [1, 0, 0]
    assert "is of another type than bus-cache's" in answer.err
    for arguments in (
        ("status",),
        ("image", "show", DEBIAN),
        ("image", "show", CIRROS),
        ("host", "list"),
        ("host", "show", "cmp-1"),
        ("host", "show", "cmp-2"),
    ):
        assert cli(*arguments).code == 0
    cli.client.set(keys.images, "foreign")
    cli.client.set(keys.hosts, "foreign")
    for arguments in (
        ("status",),
        ("image", "list"),
        ("image", "show", CIRROS),
        ("host", "list"),
        ("host", "show", "cmp-2"),
    ):
        answer = cli(*arguments)
        assert answer.code == 0
        assert "is of another type" in answer.err


def test_many_broken_values_are_summed_up(cli: Cli) -> None:
    cli.client.hset(
        names.Keys(cli.keyspace).images, mapping={i.to_bytes(20, "big"): b"" for i in range(100)}
    )
    answer = cli("image", "list", "-f", "json")
    assert len(json.loads(answer.out)) == 100
    assert answer.err.endswith("bus-cache: and 95 more like these\n")
    assert answer.err.count("\n") == 6


@pytest.mark.usefixtures("no_buses")
def test_a_user_who_may_not_ask_for_the_version(cli: Cli, store: servers.Redis) -> None:
    cli.fill()
    with store.client() as admin:
        admin.acl_setuser("op", enabled=True, commands=["-info"])
    try:
        found = cli("status", "-f", "json").json
    finally:
        with store.client() as admin:
            admin.acl_setuser("op", enabled=True, commands=["+info"])
    assert found["server"].startswith("unknown (")
    assert found["images"] == 3


# -- the program -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> str:
    return os.path.join(sysconfig.get_path("scripts"), "bus-cache")


def test_the_installed_program(cli: Cli, script: str) -> None:
    cli.fill()
    config = ["--config-file", str(cli.config)]
    done = subprocess.run(
        [script, *config, "image", "show", CIRROS, "-f", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["host"] for row in json.loads(done.stdout)["hosts"]] == ["cmp-2"]
    done = subprocess.run(
        [script, "host", "show", "cmp-9", *config],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "bus-cache: nothing is known of a host cmp-9\n"


def test_a_reader_that_goes_away_is_no_error_to_tell(cli: Cli, script: str) -> None:
    cli.fill([ImageSize(f"image-{i}", i, NEWEST) for i in range(2000)])
    process = subprocess.Popen(
        [script, "--config-file", str(cli.config), "image", "list", "-f", "csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) in (0, 141)
    process.stderr.close()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bus-cache {bus_cache.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for command in app.COMMANDS:
        assert re.search(rf"^  {command} +\w", out, re.MULTILINE)
    assert "exit codes:" in out
    assert "--config-file FILE" in out


@pytest.mark.parametrize("command", app.COMMANDS)
def test_help_of_each_command_has_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    texts = []
    for arguments in ([*command.split(), "--help"], ["help", *command.split()]):
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert err == ""
        texts.append(out)
    assert texts[0] == texts[1]
    assert re.search(rf"^examples:\n  bus-cache {command}", texts[0], re.MULTILINE)


def test_completion_for_bash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete"]) == 0
    assert "image" in capsys.readouterr().out


def test_without_the_cli_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cliff", None)
    for module in [m for m in sys.modules if m.startswith(("cliff.", "bus_cache.cli.app"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("bus_cache.cli.app")
    assert main(["image", "list"]) == 1
    assert capsys.readouterr().err == (
        "bus-cache: the command line needs pip install 'bus-cache[cli]'\n"
    )
