"""With the least rights: Redis' users of etc/redis/users.acl, RabbitMQ's of etc/rabbitmq.

What they grant is enough for all that the programs do, and is all needed; what must not be possible
is refused.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import amqp
import oslo_messaging
import pytest
import redis

import consumers.service
from bus_cache import connect, names, protocol
from bus_cache.agent import service as agent_service
from bus_cache.agent.publisher import Publisher, PublishError
from bus_cache.agent.state import Message
from bus_cache.cli.main import main
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
from bus_cache.index.reader import Reader
from bus_cache.index.writer import Writer
from bus_cache.rabbit import use_own_connections
from consumers import nova_api, recording, service, transport
from consumers.bus import Bus, BusError, Topology
from tests import keyspace, publisher, servers
from tests.certificates import Authority
from tests.compute_host import Host
from tests.program import Program, configuration, wait_for

ETC = Path(__file__).parents[2] / "etc"
WEIGHER, CONSUMER, CLI = "bus-cache-weigher", "bus-cache-consumer", "bus-cache-cli"
AGENT, OWN_AGENT = "bus-cache-agent", "bus-cache-agent-cmp-2"
KEYSPACE, REPLAYED = "bus_cache", "bus_cache_replay"
MARK = "gehe1m"
PASSWORD = f"{MARK}/@:% x"
"""With all that must be written otherwise in a URL; the mark is what must never be seen."""
QUOTED = urllib.parse.quote(PASSWORD, safe="")

IN_A_CLUSTER = {"asking", "cluster|slots", "command"}
"""What only a Cluster's client needs: see test_topologies.py."""

IMAGES = [f"image-{n}" for n in range(6)]
RAW = [bytes.fromhex(names.fingerprint(each)) for each in IMAGES]
PRINTS = [each.hex() for each in RAW]
SERVER = "a3e5a1e8-0d1d-4a4d-8d5f-0d3f4c1f0a01"
NOW = int(time.time() * 1000) - 600_000


# -- Redis -------------------------------------------------------------------------------------


def users() -> dict[str, set[str]]:
    """User -> the commands that users.acl grants."""
    lines = (ETC / "redis" / "users.acl").read_text().splitlines()
    rules = {words[1]: words[2:] for words in map(str.split, lines)}
    for each in rules.values():
        assert each[:2] == ["on", "resetchannels"]
        assert "-@all" in each
    return {
        user: {word[1:] for word in each if word.startswith("+")} for user, each in rules.items()
    }


class Guarded:
    """A server with the users of users.acl, each with a password, and the tests' own."""

    def __init__(self, kind: type[servers.Redis], folder: Path) -> None:
        self._file = folder / "users.acl"
        lines = (ETC / "redis" / "users.acl").read_text().splitlines()
        digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
        own = ["user default on nopass ~* &* +@all"]
        self._file.write_text("\n".join(own + [f"{line} #{digest}" for line in lines]) + "\n")
        self.server = kind("--aclfile", str(self._file))

    def url(self, user: str) -> str:
        return self.server.url.replace("//", f"//{user}:{QUOTED}@")

    def client(self, user: str) -> Any:
        return connect.connect(connect.parse(self.url(user)), connect_timeout=5, read_timeout=5)

    @contextlib.contextmanager
    def used(self) -> Iterator[set[str]]:
        """Give, in the end, the commands that were executed; fail where one was refused."""
        found: set[str] = set()
        with self.server.client(protocol=2) as raw:
            raw.script_flush()
            raw.config_resetstat()
            raw.acl_log_reset()
            yield found
            stats = raw.info("commandstats")
            refused = {each["object"] for each in raw.acl_log()}
        # which library a client uses may not be told; redis-py does without
        assert refused <= {"client|setinfo"}
        found |= {name.removeprefix("cmdstat_") for name, row in stats.items() if row["calls"]}
        found -= {"auth", "config|resetstat", "acl|log"}


@pytest.fixture(scope="module", params=[servers.Redis, servers.Valkey])
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    found = Guarded(request.param, tmp_path_factory.mktemp("acl"))
    with found.server:
        yield found


def write_everything(writer: Writer) -> None:
    """All that a consumer does to an index."""
    writer.check()
    writer.probe()

    def apply(*changes: Change) -> None:
        assert writer.apply(changes) == []

    apply(
        Fetching("h1", IMAGES[0], NOW),
        FetchFailed("h1", IMAGES[0], NOW + 1),
        Held("h1", IMAGES[1], NOW, Source.CREATE),
        Held("h2", IMAGES[1], NOW, Source.CREATE),
        Held("h2", IMAGES[2], NOW, Source.LIVE_MIGRATION),
        ImageSize(IMAGES[1], 5, NOW),
        InUse("h1", SERVER, IMAGES[1], NOW),
        NotInUse("h1", SERVER, NOW + 5),
        ServiceState("h1", NOW, True),
    )
    apply(AgentSnapshot("a1", (1, 0), NOW, (PRINTS[1], PRINTS[2]), (PRINTS[3],)))
    apply(
        AgentStatement("a1", (1, 1), NOW + 1, PRINTS[3], Said.STORED),
        AgentStatement("a1", (1, 2), NOW + 1, PRINTS[4], Said.FETCHING),
        AgentStatement("a1", (1, 4), NOW + 1, PRINTS[1], Said.CLEANUP),
    )
    for host in ("a1", "a2", "a3"):
        apply(AgentSnapshot(host, (1, 6), NOW + 9, (PRINTS[1], PRINTS[2])))
    apply(AgentSnapshot("a3", (1, 7), NOW + 10, (PRINTS[1],), leaving=True))
    due = writer.attend(gap_grace=0, ask_again=1, silent=0, tell=0, lost=0)
    assert due.listening == "new"
    assert writer.fall_back("a2", -1)
    assert writer.agent_managed() == {"a1"}
    assert "h1" in writer.ageing(NOW + 10**6, NOW + 2 * 10**6)
    assert writer.usage("h1").uses
    assert writer.deleted_images([RAW[0]]) == set()
    assert writer.age("h1", [(RAW[1], NOW)], [], NOW + 2 * 10**6, NOW) == [RAW[1]]
    assert writer.claim("task", 9)
    writer.hold("task", 9)
    assert writer.claimed("task")
    writer.release("task")
    writer.reads("one", "bus_cache", 0)  # it is over at once
    writer.reads("two", "bus_cache", 999)
    writer.reads_no_more("two", "bus_cache")
    writer.want("task", "why")
    assert writer.wanted("task") == "why"
    writer.unwant("task", "why")
    apply(ImageDeleted(IMAGES[1], NOW))
    apply(HostDeleted("h2", NOW + 100))
    writer.forget_images(NOW + 10**9)
    assert writer.eviction() == ""
    assert set(writer.hosts()) == {"h1", "a1", "a2", "a3"}


class Cloud:
    """A cloud of one server on a host that the index does not know, and no more."""

    def __init__(self, _name: str) -> None:
        pass

    def services(self) -> nova_api.Services:
        return nova_api.Services({"n1": True, "a1": True}, frozenset())

    def ironic(self) -> frozenset[str]:
        return frozenset()

    def servers(self, host: str = "n1") -> Iterator[list[nova_api.Server]]:
        if host == "n1":
            yield [nova_api.Server(SERVER, "n1", IMAGES[5], None, "active", True)]

    def exists(self, server: str) -> bool:
        return server == SERVER


def recording_of(messages: Iterable[dict[str, Any]], folder: Path) -> Path:
    """Return a file as ``bus-cache record`` writes it."""
    path = folder / "recording"
    with path.open("wb") as file:
        recorder = recording.Recorder(file)
        for each in messages:
            body = each["body"].encode()
            recorder.write(recording.Recorded(NOW, each["exchange"], each["routing_key"], body))
    return path


def test_the_consumer_needs_what_it_may(guarded: Guarded) -> None:
    """No command more, none less."""
    with guarded.server.client() as raw:
        raw.flushall()
    with guarded.used() as used:
        write_everything(Writer(guarded.client(CONSUMER), KEYSPACE))
    assert used == users()[CONSUMER] - IN_A_CLUSTER


def test_the_weigher_needs_what_it_may(guarded: Guarded) -> None:
    """It asks, and asks again what it asked last where Redis was lost."""
    with guarded.server.client() as raw:
        raw.flushall()
        raw.sadd(names.Keys(KEYSPACE).image(PRINTS[1]), "h1")
    with guarded.used() as used:
        reader = Reader(guarded.client(WEIGHER), KEYSPACE)
        assert reader.look(IMAGES[1], ["h1", "h2"], NOW).held == {"h1"}
    assert used == users()[WEIGHER] - IN_A_CLUSTER


def test_the_command_line_needs_what_it_may(
    guarded: Guarded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each of its commands."""
    monkeypatch.setattr(nova_api, "NovaApi", Cloud)
    with guarded.server.client() as raw:
        raw.flushall()
    writer = Writer(guarded.client(CONSUMER), KEYSPACE)
    config = tmp_path / "bus_cache.conf"
    config.write_text(f"[bus_cache]\nredis_url = {guarded.url(CLI)}\n")

    def run(*words: str, expected: int = 0) -> None:
        code = main([*words, "--config-file", str(config)])
        assert code == expected, capsys.readouterr()

    write_everything(writer)
    with guarded.used() as used:
        run("status")
        for what in (["image", "list"], ["image", "show", PRINTS[2]], ["host", "list"]):
            run(*what)
        for host in ("a1", "a2", "h1"):
            run("host", "show", host)
        run("explain", PRINTS[2], "--size", "8G")
        run("sync", "--os-cloud", "any", "--repair")
        capsys.readouterr()
        run("doctor", "--os-cloud", "any", "-f", "json", expected=3)  # there is no bus
        rows = {each["check"]: each["verdict"] for each in json.loads(capsys.readouterr().out)}
        assert (rows["redis"], rows["redis rights"], rows["index against nova"]) == ("ok",) * 3
        run("flush", "--yes")
        # into a keyspace of its own; what a recording may have more of, its consumer writes
        run("replay", str(recording_of(publisher.recorded(), tmp_path)))
        assert "malformed 0, applied" in capsys.readouterr().out
        config.write_text(config.read_text() + f"keyspace = {REPLAYED}\n")
        run("flush", "--yes")
        write_everything(Writer(guarded.client(CLI), REPLAYED))
        run("flush", "--yes")
    with guarded.server.client() as raw:
        assert raw.dbsize() == 0
    assert sorted(used) == sorted(users()[CLI] - IN_A_CLUSTER)


FOREIGN = ["{other}:schema", "bus_cache:schema", "{bus_cache", "{bus_cacheX}:a", "nova"]
NOBODYS: list[list[object]] = [
    ["FLUSHALL"],
    ["FLUSHDB"],
    ["KEYS", "*"],
    ["CONFIG", "GET", "*"],
    ["CONFIG", "SET", "maxmemory", "1"],
    ["ACL", "LIST"],
    ["ACL", "WHOAMI"],
    ["CLIENT", "LIST"],
    ["CLIENT", "KILL", "TYPE", "normal"],
    ["CLIENT", "PAUSE", "1"],
    ["EVAL", "return 1", 0],
    ["SCRIPT", "FLUSH"],
    ["FUNCTION", "LIST"],
    ["MONITOR"],
    ["PUBLISH", "c", "x"],
    ["SUBSCRIBE", "c"],
    ["SHUTDOWN"],
    ["REPLICAOF", "NO", "ONE"],
    ["SAVE"],
    ["MODULE", "LIST"],
    ["DUMP", "{bus_cache}:schema"],
    ["RENAME", "{bus_cache}:schema", "{bus_cache}:x"],
    ["CLUSTER", "RESET"],
    ["SWAPDB", 0, 1],
]


def denied(client: Any, *command: object) -> bool:
    """Whether a command is refused for want of rights, and for nothing else."""
    try:
        client.execute_command(*command)
    except redis.ResponseError as error:
        return "NOPERM" in str(error) or "permission" in str(error)
    return False


@pytest.mark.parametrize("user", [WEIGHER, CONSUMER, CLI])
def test_what_no_user_may(guarded: Guarded, user: str) -> None:
    client = guarded.client(user)
    assert [each for each in NOBODYS if not denied(client, *each)] == []
    for key in FOREIGN:
        for command in (["GET", key], ["SMISMEMBER", key, "h"], ["SET", key, "x"]):
            assert denied(client, *command), command


def test_what_the_weigher_may_not(guarded: Guarded) -> None:
    """It reads the public sets and what is on its way, and nothing else."""
    client = guarded.client(WEIGHER)
    image = names.Keys(KEYSPACE).image(PRINTS[0])
    coming = names.Keys(KEYSPACE).coming(PRINTS[0])
    for command in (
        ["SADD", image, "h1"],
        ["SREM", image, "h1"],
        ["DEL", image],
        ["SMEMBERS", image],
        ["EVALSHA", "0" * 40, 1, image],
        ["SCRIPT", "LOAD", "return 1"],
        ["SCAN", 0],
        ["INFO"],
        ["GET", "{bus_cache}:schema"],
        ["SMISMEMBER", "{bus_cache}:host:h1", "x"],
        ["ZADD", coming, 1, "h1"],
        ["ZREM", coming, "h1"],
        ["ZRANGE", "{bus_cache}:hosts", 0, -1],
    ):
        assert denied(client, *command), command


def test_what_a_consumers_script_may_not(guarded: Guarded) -> None:
    """Who may load scripts may load any: what they do is held against the user's rights."""
    client = guarded.client(CONSUMER)
    for body in (
        "return redis.call('GET', 'nova')",
        "return redis.call('SET', '{other}:schema', '1')",
        "return redis.call('FLUSHALL')",
        "return redis.call('UNLINK', KEYS[1])",
    ):
        digest = client.script_load(body)
        with pytest.raises(redis.ResponseError, match=r"(?i)permission|can't"):
            client.evalsha(digest, 1, "{bus_cache}:schema")
    for command in (["UNLINK", "{bus_cache}:schema"], ["SCAN", 0]):
        assert denied(client, *command), command


def test_nobody_logs_in_until_a_password_is_set(tmp_path: Path) -> None:
    """The file as it is delivered."""
    file = tmp_path / "users.acl"
    file.write_text((ETC / "redis" / "users.acl").read_text())
    with servers.Redis("--aclfile", str(file)) as server:
        for user in users():
            for password in ("", "x"):
                target = connect.parse(server.url.replace("//", f"//{user}:{password}@"))
                client = connect.connect(target, connect_timeout=5, read_timeout=5)
                with pytest.raises(
                    connect.AWAY, match=r"(?i)invalid username|authentication required"
                ):
                    client.get("{bus_cache}:schema")


# -- RabbitMQ ----------------------------------------------------------------------------------


def password_hash(password: str) -> str:
    """As RabbitMQ stores it."""
    salt = b"salt"
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def rights_of_one_compute(host: str) -> dict[str, str]:
    """As docs/security.md has them."""
    text = (ETC.parent / "docs" / "security.md").read_text()
    line = text.partition("A user for each compute")[2].partition("dots escaped")[0]
    asked, written = (each.replace("HOST", host) for each in line.split("`")[1::2])
    return {"configure": asked, "write": written, "read": asked}


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RabbitMQ]:
    """A broker with the users that permissions.sh expects, after it ran."""
    file = tmp_path_factory.mktemp("rabbit") / "definitions.json"
    everything = {"configure": ".*", "write": ".*", "read": ".*", "vhost": "/"}
    given = dict.fromkeys((CONSUMER, AGENT, OWN_AGENT), PASSWORD)
    given |= {"nova": "nova", "test": "test"}
    file.write_text(
        json.dumps(
            {
                "vhosts": [{"name": "/"}],
                "users": [
                    {
                        "name": name,
                        "password_hash": password_hash(password),
                        "hashing_algorithm": "rabbit_password_hashing_sha256",
                        "tags": "",
                    }
                    for name, password in given.items()
                ],
                "permissions": [
                    *({"user": each, **everything} for each in ("test", "nova")),
                    {"user": OWN_AGENT, "vhost": "/", **rights_of_one_compute("cmp-2")},
                ],
            }
        )
    )
    with servers.RabbitMQ(f"load_definitions = {file}") as server:
        server.run(ETC / "rabbitmq" / "permissions.sh", "/", "nova")
        yield server


def bus_url(rabbit: servers.RabbitMQ, user: str) -> str:
    password = "nova" if user == "nova" else QUOTED  # Nova can't have a '/' in it
    return f"rabbit://{user}:{password}@127.0.0.1:{rabbit.port}/"


@contextlib.contextmanager
def channel_of(rabbit: servers.RabbitMQ, user: str) -> Iterator[Any]:
    address = f"127.0.0.1:{rabbit.port}"
    password = "nova" if user == "nova" else PASSWORD
    with amqp.Connection(address, user, password, connect_timeout=10.0) as connection:
        yield connection.channel()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    found = Guarded(servers.Redis, tmp_path_factory.mktemp("acl"))
    with found.server:
        yield found


@pytest.fixture(scope="module")
def site(
    rabbit: servers.RabbitMQ,
    redis_server: Guarded,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Program, Host]]:
    """An agent, and then a consumer, each with its own users' rights, beside Nova."""
    folder = tmp_path_factory.mktemp("site")
    with channel_of(rabbit, "nova") as channel:
        channel.exchange_declare("nova", "topic", durable=False, auto_delete=False)
    host = Host(rabbit, folder, "cmp-1")
    host.configure(nova=DEBUG, own=f"transport_url = {bus_url(rabbit, AGENT)}")
    host.put(PRINTS[0])
    text = configuration(bus_url(rabbit, CONSUMER), redis_server.url(CONSUMER))
    consumer = Program(folder, text.replace("[DEFAULT]", f"[DEFAULT]\n{DEBUG}"))
    try:
        host.start()
        wait_for(lambda: "can't publish" in host.log.read_text())
        consumer.start().reading()
        yield consumer, host
    finally:
        consumer.kill()
        if host.agent:
            host.agent.kill()


DEBUG = "debug = True\ndefault_log_levels = amqp=DEBUG,kombu=DEBUG,oslo.messaging=DEBUG\n"


def holders(redis_server: Guarded, image: str) -> set[str]:
    with redis_server.server.client() as client:
        return keyspace.sets(client).get(names.fingerprint(image), set())


def ask(conf: Any, url: str, host: str, after: int) -> None:
    """Ask as a consumer does (consumers/asking.py), and leave the bus again."""
    connected = use_own_connections(oslo_messaging.get_rpc_transport(conf, url=url))
    target = oslo_messaging.Target(
        exchange=protocol.ASK_EXCHANGE, topic=protocol.ASK_TOPIC, version=protocol.ASK_VERSION
    )
    client = oslo_messaging.get_rpc_client(connected, target).prepare(server=host)
    client.cast({}, "snapshot", after=after, spread=0)
    connected.cleanup()


def test_agent_and_consumer_work(
    site: tuple[Program, Host], rabbit: servers.RabbitMQ, redis_server: Guarded, tmp_path: Path
) -> None:
    """The agent waits until a consumer has declared where it speaks; then all is said and asked."""
    consumer, host = site
    wait_for(lambda: holders(redis_server, IMAGES[0]) == {"cmp-1"})
    assert "the queue bus_cache.info is not there yet" in host.log.read_text()
    host.put(PRINTS[2])
    wait_for(lambda: holders(redis_server, IMAGES[2]) == {"cmp-1"})
    with contextlib.closing(publisher.Publisher(bus_url(rabbit, "nova"))) as cloud:
        cloud.created("h1", IMAGES[1])
        wait_for(lambda: holders(redis_server, IMAGES[1]) == {"h1"})
    wait_for(lambda: rabbit.has_queue(f"{protocol.ASK_TOPIC}.cmp-1"))

    def epoch() -> Any:
        with redis_server.server.client() as client:
            row = client.hget("{bus_cache}:agents", "cmp-1")
        return row and row[:12]

    before = epoch()
    conf = service.load(["--config-file", str(consumer.config)])
    [bus] = transport.transports(conf)
    ask(conf, bus.text, "cmp-1", after=NOW + 10**9)  # it begins a later epoch
    wait_for(lambda: epoch() != before)
    assert not consumer.lines(" ERROR consumers.")
    [said] = consumer.lines("exchange glance is absent")
    assert "may not declare it" in said


def test_flush_needs_the_user_of_the_command_line(
    guarded: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/redis.md has it: in a file of its own, whose word counts."""
    ours, own = tmp_path / "bus_cache.conf", tmp_path / "cli.conf"
    ours.write_text(f"[bus_cache]\nredis_url = {guarded.url(CONSUMER)}\n")
    own.write_text(f"[bus_cache]\nredis_url = {guarded.url(CLI)}\n")
    files = ["--config-file", str(ours)]
    assert main(["flush", "--yes", *files]) == 1
    assert "permission" in capsys.readouterr().err
    assert main(["flush", "--yes", *files, "--config-file", str(own)]) == 0


def test_doctor_works_with_the_consumers_users(
    site: tuple[Program, Host], redis_server: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/doctor.md has it: with the consumer's configuration. Nothing that it does in Redis is
    refused."""
    with redis_server.server.client() as raw:
        wait_for(lambda: raw.exists(names.Keys(KEYSPACE).readers))
    capsys.readouterr()
    with redis_server.used():
        main(["doctor", "--seconds", "1", "-f", "json", "--config-file", str(site[0].config)])
    rows = {each["check"]: each["verdict"] for each in json.loads(capsys.readouterr().out)}
    asked = ("redis", "redis rights", "redis clock", "queue", "readers", "agents")
    assert {each: rows.get(each) for each in asked} == dict.fromkeys(asked, "ok")


def test_an_exchange_that_comes_later_is_bound(
    site: tuple[Program, Host], rabbit: servers.RabbitMQ
) -> None:
    conf = service.load(["--config-file", str(site[0].config)])
    [found] = transport.transports(conf)
    topology = Topology(("notifications",), ("later",), "bus_cache_later")
    got: list[bytes] = []
    rabbit.ctl(
        "set_permissions", CONSUMER, "^bus_cache", "^bus_cache", "^(bus_cache|nova$|glance$|later$)"
    )
    bus = Bus(found, topology, lambda delivery: got.append(delivery.body), lambda reason: None)
    bus.open()
    bus.consume()
    assert bus.incomplete
    bus.missed = ""  # that our queue was new
    bus.renew()
    assert bus.incomplete
    with contextlib.closing(publisher.Publisher(bus_url(rabbit, "nova"))) as cloud:
        cloud.created("h1", IMAGES[1], exchange="later")
        bus.renew()
        assert not bus.incomplete
        cloud.created("h2", IMAGES[1], exchange="later")
        wait_for(lambda: bus.drain(0.1) and got)
    assert len(got) == 1
    assert bus.missed == "exchange later was not there"
    bus.close()


Try = Callable[[Any], object]


def refused(rabbit: servers.RabbitMQ, user: str, tries: dict[str, Try]) -> list[str]:
    """Return what is not refused."""
    allowed = []
    for what, do in tries.items():
        with channel_of(rabbit, user) as channel:
            channel.confirm_select()
            try:
                do(channel)
            except amqp.AccessRefused:
                continue
            allowed.append(what)
    return allowed


def publish(exchange: str, key: str) -> Try:
    return lambda channel: channel.basic_publish_confirm(amqp.Message("{}"), exchange, key)


def test_what_an_agents_user_may_not(site: tuple[Program, Host], rabbit: servers.RabbitMQ) -> None:
    """Read what others say, or take away where they say it; ask others; go near Nova."""
    spy = f"{protocol.ASK_TOPIC}.spy"
    with channel_of(rabbit, AGENT) as channel:
        channel.queue_declare(spy)
    tries: dict[str, Try] = {
        "get": lambda c: c.basic_get(protocol.QUEUE),
        "consume": lambda c: c.basic_consume(protocol.QUEUE),
        "purge": lambda c: c.queue_purge(protocol.QUEUE),
        "delete": lambda c: c.queue_delete(protocol.QUEUE),
        "delete the exchange": lambda c: c.exchange_delete(protocol.EXCHANGE),
        "unbind": lambda c: c.queue_unbind(protocol.QUEUE, protocol.EXCHANGE, protocol.QUEUE),
        "ask one": publish(protocol.ASK_EXCHANGE, f"{protocol.ASK_TOPIC}.h2"),
        "ask all": publish(f"{protocol.ASK_TOPIC}_fanout", ""),
        "default exchange": publish("", protocol.QUEUE),
        "speak as Nova": publish("nova", "notifications.info"),
        "our queue": lambda c: c.basic_get("bus_cache"),
        "Nova's": lambda c: c.basic_get("notifications.info"),
        "take our binding away": lambda c: c.queue_unbind(
            "bus_cache", "nova", "notifications.info"
        ),
        "bind Nova's": lambda c: c.queue_bind(spy, "nova", "#"),
        "a dead letter to Nova": lambda c: c.queue_declare(
            f"{spy}2", arguments={"x-dead-letter-exchange": "nova"}
        ),
        "an exchange behind ours": lambda c: c.exchange_bind(
            protocol.ASK_EXCHANGE, protocol.EXCHANGE, "#"
        ),
    }
    for key in ("#", "*.info", protocol.QUEUE, spy):
        tries[f"bind {key}"] = lambda c, key=key: c.queue_bind(spy, protocol.EXCHANGE, key)
    for name in ("spy", "bus_cache.spy", "bus_cache", "bus_cache_agents", "bus_cache_ask2"):
        tries[f"declare {name}"] = lambda c, name=name: c.queue_declare(name)
    assert refused(rabbit, AGENT, tries) == []
    with channel_of(rabbit, AGENT) as channel:
        channel.queue_delete(spy)


def test_an_agents_user_may_not_forge_novas_words(
    site: tuple[Program, Host], rabbit: servers.RabbitMQ, redis_server: Guarded
) -> None:
    """It may bind our queue to an exchange of its own: what comes that way is not believed."""
    consumer, _ = site
    exchange = f"{protocol.ASK_TOPIC}.evil"
    with channel_of(rabbit, AGENT) as channel:
        channel.confirm_select()
        channel.exchange_declare(exchange, "topic", auto_delete=False)
        channel.queue_bind("bus_cache", exchange, "notifications.info")
        said = {
            "publisher_id": "compute.h-forged",
            "event_type": "compute.instance.create.end",
            "payload": {"host": "h-forged", "image_ref_url": f"http://glance/images/{IMAGES[1]}"},
            "timestamp": "2026-01-01 00:00:00.000000",
        }
        body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(said)})
        message = amqp.Message(body, content_type="application/json")
        channel.basic_publish_confirm(message, exchange, "notifications.info")
    wait_for(lambda: consumer.lines("not by way of a service's exchange: refused"))
    assert "h-forged" not in holders(redis_server, IMAGES[1])
    with channel_of(rabbit, AGENT) as channel:
        channel.exchange_delete(exchange)


def test_a_user_for_one_compute(
    site: tuple[Program, Host], rabbit: servers.RabbitMQ, redis_server: Guarded, tmp_path: Path
) -> None:
    """Its agent works, and leaves others' questions alone."""
    host = Host(rabbit, tmp_path, "cmp-2")
    host.configure(own=f"transport_url = {bus_url(rabbit, OWN_AGENT)}")
    host.put(PRINTS[4])
    host.start()
    try:
        wait_for(lambda: holders(redis_server, IMAGES[4]) == {"cmp-2"})
        wait_for(lambda: rabbit.has_queue(f"{protocol.ASK_TOPIC}.cmp-2"))
    finally:
        host.stop()
    other = f"{protocol.ASK_TOPIC}.cmp-1"
    tries: dict[str, Try] = {
        "get": lambda c: c.basic_get(other),
        "purge": lambda c: c.queue_purge(other),
        "delete": lambda c: c.queue_delete(other),
        "unbind": lambda c: c.queue_unbind(other, protocol.ASK_EXCHANGE, other),
        "spy": lambda c: c.basic_get(protocol.QUEUE),
    }
    assert refused(rabbit, OWN_AGENT, tries) == []


def test_what_the_consumers_user_may_not(
    site: tuple[Program, Host], rabbit: servers.RabbitMQ
) -> None:
    """Touch what is Nova's, or read its RPC."""
    with channel_of(rabbit, "nova") as channel:
        channel.queue_declare("compute.cmp-1")
        channel.queue_bind("compute.cmp-1", "nova", "compute.cmp-1")
        channel.exchange_declare("glance", "topic", durable=False, auto_delete=False)
        channel.exchange_declare("compute_fanout", "fanout", auto_delete=False)
    tries: dict[str, Try] = {
        "to a queue": publish("", "compute.cmp-1"),
        "to an exchange": publish("nova", "compute.cmp-1"),
        "a notification": publish("nova", "notifications.info"),
        "get": lambda c: c.basic_get("compute.cmp-1"),
        "get a notification": lambda c: c.basic_get("notifications.info"),
        "purge": lambda c: c.queue_purge("notifications.info"),
        "delete a queue": lambda c: c.queue_delete("compute.cmp-1"),
        "delete nova": lambda c: c.exchange_delete("nova"),
        "delete glance": lambda c: c.exchange_delete("glance"),
        "all of fanout": lambda c: c.queue_bind("bus_cache", "compute_fanout", ""),
        "a dead letter to Nova": lambda c: c.queue_declare(
            "bus_cache_x", arguments={"x-dead-letter-exchange": "nova"}
        ),
        "declare": lambda c: c.queue_declare("notifications.audit"),
    }
    for exchange in ("nova", "glance"):
        for key in ("#", "compute.cmp-1", "conductor", "*.info", "notifications.*"):
            tries[f"bind {exchange} {key}"] = lambda c, exchange=exchange, key=key: c.queue_bind(
                "bus_cache", exchange, key
            )
    assert refused(rabbit, CONSUMER, tries) == []


def test_what_novas_user_may_not(site: tuple[Program, Host], rabbit: servers.RabbitMQ) -> None:
    """Go near what is ours; the one way that is left, consumers refuse (test_agents.py)."""
    tries: dict[str, Try] = {
        "speak as an agent": publish(protocol.EXCHANGE, protocol.QUEUE),
        "get": lambda c: c.basic_get(protocol.QUEUE),
        "purge": lambda c: c.queue_purge("bus_cache"),
        "delete": lambda c: c.queue_delete("bus_cache"),
        "bind": lambda c: c.queue_bind("notifications.info", protocol.EXCHANGE, "#"),
        "ask": publish(f"{protocol.ASK_TOPIC}_fanout", ""),
    }
    assert refused(rabbit, "nova", tries) == []


def test_a_consumer_without_rights_says_so(rabbit: servers.RabbitMQ, tmp_path: Path) -> None:
    """The agent's user is none for a consumer."""
    config = tmp_path / "wrong.conf"
    config.write_text(configuration(bus_url(rabbit, AGENT), "redis://127.0.0.1:1"))
    [found] = transport.transports(service.load(["--config-file", str(config)]))
    bus = Bus(found, Topology(("notifications",), ("nova",), "bus_cache"), print, print)
    with pytest.raises(BusError, match="ACCESS_REFUSED"):
        bus.open()
    bus.close()


# -- TLS to RabbitMQ ---------------------------------------------------------------------------


class Secure:
    """A broker that demands client certificates, and how to reach it."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.other = Authority(folder), Authority(folder, "other")
        self.server = self.ours.sign("server")
        self.client = self.ours.sign("client")
        self.port = servers.free_port()
        self.rabbit = servers.RabbitMQ(
            f"listeners.ssl.1 = 127.0.0.1:{self.port}",
            f"listeners.ssl.2 = 127.0.0.2:{self.port}",
            f"ssl_options.cacertfile = {self.ours.file}",
            f"ssl_options.certfile = {self.server[0]}",
            f"ssl_options.keyfile = {self.server[1]}",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = true",
        )

    def options(self, authority: Path | None, client: tuple[Path, Path] | None) -> str:
        """Return oslo.messaging's options."""
        lines = ["ssl = true"]
        if authority is not None:
            lines.append(f"ssl_ca_file = {authority}")
        if client is not None:
            lines += [f"ssl_cert_file = {client[0]}", f"ssl_key_file = {client[1]}"]
        return "\n".join(lines)

    def listed(self, column: str) -> dict[str, int]:
        """Return a number of each queue's."""
        rows = self.rabbit.ctl("list_queues", "name", column, "--no-table-headers").splitlines()
        return {name: int(value) for name, _, value in (row.partition("\t") for row in rows)}

    def tried(self, folder: Path, options: str, host: str = "127.0.0.1") -> list[str]:
        """Return what consumer and agent say went wrong, or nothing."""
        url = f"rabbit://test:test@{host}:{self.port}/"
        config, nova = folder / "bus_cache.conf", folder / "nova.conf"
        rabbit = f"[oslo_messaging_rabbit]\n{options}\n"
        config.write_text(configuration(url, "redis://h") + rabbit)
        nova.write_text(
            "[DEFAULT]\nhost = h\ncompute_driver = fake.FakeDriver\n"
            f"transport_url = {url}\n{rabbit}"
        )
        said = []
        [found] = transport.transports(service.load(["--config-file", str(config)]))
        bus = Bus(found, Topology(("notifications",), ("nova",), "bus_cache"), print, print)
        try:
            bus.open()
            said.append("")
        except BusError as error:
            said.append(str(error))
        bus.close()
        agent = Publisher(agent_service.load(["--config-file", str(nova)]), "h")
        try:
            agent.send(Message(protocol.SNAPSHOT, protocol.snapshot("h", (1, 0), [])))
            said.append("")
        except PublishError as error:
            said.append(str(error))
        agent.close()
        return said


def test_tls_to_the_bus(tmp_path: Path) -> None:
    """Verified, by name, with a client's certificate; who is not what it says is refused."""
    secure = Secure(tmp_path)
    ours, client = secure.ours.file, secure.client
    with secure.rabbit:
        # the broker answers before its listener for TLS is there
        wait_for(lambda: secure.tried(tmp_path, secure.options(ours, client)) == ["", ""])
        for options, host, words in (
            (secure.options(secure.other.file, client), "127.0.0.1", ["certificate verify failed"]),
            (secure.options(None, client), "127.0.0.1", ["certificate verify failed"]),
            (secure.options(ours, client), "127.0.0.2", ["ip address mismatch"]),
            (secure.options(ours, None), "127.0.0.1", ["alert", "closed", "reset", "pipe", "eof"]),
        ):
            for said in secure.tried(tmp_path, options, host):
                assert any(word in said.lower() for word in words), (said, words)
                assert "test:test" not in said
        # the whole agent: what it says, and the way by which it is asked
        said_before = secure.listed("messages")["bus_cache.info"]
        host = Host(secure.rabbit, tmp_path, "tls")
        url = f"rabbit://test:test@127.0.0.1:{secure.port}/"
        host.configure(rabbit=secure.options(ours, client), url=url)
        host.start()
        wait_for(lambda: secure.listed("consumers").get("bus_cache_agent.tls") == 1)
        wait_for(lambda: secure.listed("messages")["bus_cache.info"] == said_before + 1)
        assert set(secure.rabbit.ctl("list_connections", "ssl").split()) - {"ssl"} == {"true"}
        assert host.stop() == 0
        assert secure.listed("messages")["bus_cache.info"] == said_before + 2
        late = secure.ours.sign("late", left=-datetime.timedelta(hours=1))
        for new, old in zip(late, secure.server, strict=True):
            old.write_bytes(new.read_bytes())
        secure.rabbit.ctl("eval", "ssl:clear_pem_cache().")
        for said in secure.tried(tmp_path, secure.options(ours, client)):
            assert "certificate has expired" in said


# -- secrets, and who listens -------------------------------------------------------------------


def processes(*running: servers.Process | None) -> list[Path]:
    """Return /proc/<pid> of programs and of all that they started."""
    groups = {each.pid for each in running if each is not None}
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int((each / "stat").read_text().rpartition(")")[2].split()[2]) in groups:
                found.append(each)
    return found


def test_nothing_listens_and_nothing_shows(
    site: tuple[Program, Host],
    rabbit: servers.RabbitMQ,
    redis_server: Guarded,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not on loopback either; and no password in a log at debug level, or in a process's title."""
    consumer, host = site
    running = processes(consumer.process, host.agent)
    assert len(running) == 3  # the consumer's parent and child, and the agent
    open_sockets = {
        os.readlink(link)
        for each in running
        for link in (each / "fd").iterdir()
        if os.readlink(link).startswith("socket:")
    }
    assert open_sockets
    for kind, listening in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        table = Path("/proc/net", kind)
        for row in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = row.split()
            assert fields[3] != listening or f"socket:[{fields[9]}]" not in open_sockets, row
    for each in running:
        title = (each / "cmdline").read_bytes() + (each / "comm").read_bytes()
        assert MARK.encode() not in title
    main(["status", "--config-file", str(consumer.config), "--debug"])
    shown = capfd.readouterr()
    assert "bus_cache  " in shown.out
    for text in (consumer.log.read_text(), host.log.read_text(), shown.out, shown.err):
        assert " DEBUG " in text or text in shown
        assert MARK not in text


CLOUDS = f"""
clouds:
  ours:
    auth:
      auth_url: http://127.0.0.1:1/v3
      username: bus-cache
      password: "{PASSWORD}"
      project_name: service
      user_domain_name: Default
      project_domain_name: Default
"""


@pytest.mark.parametrize("redis_url", ["redis+sentinel", "redis+cluster"])
def test_failures_do_not_tell_secrets(
    rabbit: servers.RabbitMQ, tmp_path: Path, redis_url: str
) -> None:
    """Of all that is away, or refuses a password that is nearly right."""
    dead = servers.free_port()
    tail = "/mymaster/0" if redis_url == "redis+sentinel" else ""
    (tmp_path / "clouds.yaml").write_text(CLOUDS)
    refusing = f"rabbit://{AGENT}:{QUOTED}x@127.0.0.1:{rabbit.port}/"
    bus = f"rabbit://{CONSUMER}:{QUOTED}@127.0.0.1:{dead}/" if tail else refusing
    text = configuration(
        bus,
        f"{redis_url}://{CONSUMER}:{QUOTED}@127.0.0.1:{dead}{tail}\nsentinel_password = {PASSWORD}",
        "cloud = ours\nreconcile_interval = 60",
    )
    consumer = Program(tmp_path, text.replace("[DEFAULT]", f"[DEFAULT]\n{DEBUG}"))
    host = Host(rabbit, tmp_path, "cmp-9")
    host.configure(nova=DEBUG, own=f"transport_url = {bus}")
    environment = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(tmp_path / "clouds.yaml")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OS_CLIENT_CONFIG_FILE", environment["OS_CLIENT_CONFIG_FILE"])
        consumer.start()
    host.start()
    try:
        consumer.said("Waiting for it")
        wait_for(lambda: "can't publish" in host.log.read_text())
        programs = [
            subprocess.run(
                [str(Path(sys.executable).with_name("bus-cache")), *words],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            for words in (
                ["status", "--config-file", str(consumer.config), "--debug"],
                ["sync", "--os-cloud", "ours", "--config-file", str(consumer.config), "--debug"],
            )
        ]
    finally:
        consumer.kill()
        assert host.agent
        host.agent.kill()
    said = [consumer.log.read_text(), host.log.read_text()]
    said += [each.stdout + each.stderr for each in programs]
    for each in said:
        assert each
        assert MARK not in each


WRONG = [
    f"redis://u:{MARK}@h:x/0",
    f"redis://u:{MARK}#@h/0",
    f"redis+sentinel://u:{MARK}/@h/m",
    f"redis://h/0?password={MARK}",
    f"${MARK}",
]
WRONG_BUSES = [
    f"rabbit://u:{MARK}@h:x/",
    f"rabbit://u:{MARK}/@h/",
    f"rabbit://u:{MARK}@[::1/",
    f"kafka://u:{MARK}@h/",
]


@pytest.mark.parametrize(
    ("redis_url", "bus"),
    [(each, "memory://") for each in WRONG] + [("redis://h", each) for each in WRONG_BUSES],
)
def test_a_wrong_url_is_refused_without_its_secret(
    redis_url: str, bus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By every program, with one sentence."""
    config = tmp_path / "wrong.conf"
    config.write_text(configuration(bus, redis_url))
    files = ["--config-file", str(config)]
    codes = [consumers.service.main(files)]
    if MARK in bus:
        (tmp_path / "nova.conf").write_text(
            "[DEFAULT]\nhost = h\ncompute_driver = fake.FakeDriver\n"
            f"[agent]\ntransport_url = {bus}\n"
        )
        codes.append(agent_service.main(["--config-file", str(tmp_path / "nova.conf")]))
    else:
        codes.append(main(["status", *files]))
        codes.append(main(["flush", "--yes", *files]))
    said = capfd.readouterr()
    assert set(codes) == {1}, said
    assert "can't be used" in said.err
    assert MARK not in said.err
    assert said.err.count("\n") == len(codes), said.err


def test_the_script_is_one_for_any_shell() -> None:
    subprocess.run(["sh", "-n", str(ETC / "rabbitmq" / "permissions.sh")], check=True)
