"""What ``make chaos`` found, in small: each on real servers."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest

from bus_cache import names
from bus_cache.index.changes import Held, Source
from bus_cache.index.writer import Writer
from consumers import bus as buses
from consumers import consumer as consuming
from consumers import reconcile, service
from consumers.agents import SPREAD, Agents, Times
from tests import keyspace, publisher, servers
from tests.chaos.proxy import Proxy
from tests.consuming import TOPOLOGY, rabbit_transport, running
from tests.program import Program, configuration, wait_for

NOW = int(time.time() * 1000)


@pytest.fixture
def writer(store: servers.Redis) -> Iterator[Writer]:
    with store.client() as client:
        client.flushall()
        yield Writer(client, "bus_cache")


def test_a_statement_that_redis_can_not_apply_stops_nothing(
    writer: Writer, store: servers.Redis
) -> None:
    """Redis says why in words that nobody foresaw: here, that a score is no number."""
    poison = Held("h1", "image-0", math.nan, Source.CREATE)  # type: ignore[arg-type]
    with store.client() as client:
        others = [Held(f"h{n}", "image-1", NOW, Source.CREATE) for n in range(2, 300)]
        [(group, reason)] = writer.apply([poison, *others])
        assert list(group) == [poison]
        assert "float" in reason
        found = keyspace.sets(client)[names.fingerprint("image-1")]
        assert found == {each.host for each in others}


def test_a_statement_that_can_not_be_sent_stops_nothing(
    writer: Writer, store: servers.Redis
) -> None:
    poison = Held("h1", "image-1", 2**70, Source.CREATE)
    [(group, _)] = writer.apply([Held("h2", "image-1", NOW, Source.CREATE), poison])
    assert list(group) == [poison]
    assert keyspace.sets(store.client()) == {names.fingerprint("image-1"): {"h2"}}


def attention(writer: Writer) -> str:
    due = writer.attend(gap_grace=5, ask_again=10, silent=None, tell=300, lost=None)
    return due.listening


@pytest.mark.parametrize("kind", [servers.Redis, servers.Valkey])
def test_a_redis_that_was_started_anew_may_have_lost_its_last_writes(
    kind: type[servers.Redis],
) -> None:
    """Whatever it saved: agents are asked for everything, and Nova's API is."""
    with kind("--appendonly", "yes") as store:
        writer = Writer(store.client(), "bus_cache", bus="one")
        other = Writer(store.client(), "bus_cache", bus="two")
        assert [attention(writer), attention(other), attention(writer)] == ["new", "new", ""]
        writer.unwant(reconcile.WANTED, writer.wanted(reconcile.WANTED))
        assert not writer.wanted(reconcile.WANTED)
        store.kill()
        store.start()
        wait_for(lambda: answers(store))
        assert [attention(writer), attention(other), attention(writer)] == ["new", "new", ""]
        assert writer.wanted(reconcile.WANTED) == "Redis was started anew"


def answers(store: servers.Redis) -> bool:
    with store.client() as client:
        return bool(client.ping())


def test_a_broker_that_was_started_anew_may_have_routed_nothing_to_us(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """Nova's publishers were back before us: their exchange is there, and our binding is not."""
    told: list[str] = []
    with running(rabbit_transport(rabbit), redis_server, on_loss=told.append) as consumer:
        assert told == ["our queue was new"]
        rabbit.ctl("close_all_connections", "test")
        wait_for(lambda: consumer.counts["connections"] == 2)
        assert told == ["our queue was new"]
    rabbit.restart()
    with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
        cloud.created("h1", "image-lost")
        bus, more = rabbit_transport(rabbit), {"on_loss": told.append}
        with running(bus, redis_server, **more), running(bus, redis_server, **more):
            cloud.created("h1", "image-2")
            wait_for(lambda: keyspace.sets(redis_server.client()))
    assert told == ["our queue was new", "the broker was started anew"]
    assert set(keyspace.sets(redis_server.client())) == {names.fingerprint("image-2")}


class Asked:
    """Whom agents are asked by; notes when all are."""

    def __init__(self) -> None:
        self.spreads: list[float] = []

    def snapshots(self, spread: float) -> None:
        self.spreads.append(spread)

    def listening(self) -> None:
        pass

    def stop(self) -> None:
        pass


def test_a_broker_that_lost_its_disk_lost_what_agents_had_said(
    redis_server: servers.Redis,
) -> None:
    """Our queue is new then, too: that is no reason to ask no agent."""
    redis_server.client().flushall()
    told: list[str] = []
    asked = Asked()
    with servers.RabbitMQ() as rabbit:
        bus = rabbit_transport(rabbit)
        with running(bus, redis_server, agents=Agents(asked, Times())):  # type: ignore[arg-type]
            wait_for(lambda: len(asked.spreads) == 2)  # a new bus, and an index that has nothing
        asked.spreads.clear()
        rabbit.kill()
        shutil.rmtree(rabbit.directory / "mnesia")
        rabbit.start()
        agents = Agents(asked, Times())  # type: ignore[arg-type]
        with running(bus, redis_server, agents=agents, on_loss=told.append):
            wait_for(lambda: told == ["our queue was new"])
            wait_for(lambda: asked.spreads == [SPREAD])


def test_a_queue_of_others_whose_broker_is_down_stops_nobody(redis_server: servers.Redis) -> None:
    """Of a cluster of two, the one with a default queue of Nova's is down: ours is read."""
    with servers.RabbitMQ() as one, servers.RabbitMQ(joins=one) as two:
        for server, name in ((one, "notifications.error"), (two, "notifications.info")):
            with kombu.Connection(server.amqp_url) as connection, connection.channel() as channel:
                channel.queue_declare(name, durable=True)
                connection.Producer(channel).publish("x", routing_key=name)
        two.stop()
        with buses.connect(rabbit_transport(one), one.amqp_url) as connection:
            with pytest.raises(Exception, match="home node"):
                buses.passive(connection, "notifications.info")
            wait_for(lambda: buses.unread(connection, TOPOLOGY) == {"notifications.error": 1})
        with running(rabbit_transport(one), redis_server) as consumer:
            wait_for(lambda: consumer._waiting == {"notifications.error": 1})
            assert consumer.counts["connections"] == 1


class Pauses(threading.Event):
    """Notes for how long it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return super().wait(timeout)


@pytest.mark.parametrize(("steady", "pauses"), [(30.0, [0.1, 0.2, 0.4]), (0.0, [0.1, 0.1, 0.1])])
def test_a_connection_that_ends_at_once_comes_back_ever_later(
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
    monkeypatch: pytest.MonkeyPatch,
    steady: float,
    pauses: list[float],
) -> None:
    """One that held for long comes back at once."""
    monkeypatch.setattr(consuming, "STEADY", steady)
    noted = Pauses()
    proxy = Proxy(rabbit.port)
    proxy.start()
    try:
        url = rabbit.amqp_url.replace(f":{rabbit.port}", f":{proxy.port}")
        bus = buses.Transport((url,), "rabbit", {"heartbeat": 2})
        with running(bus, redis_server) as consumer:
            consumer._stop = noted
            for number in range(1, 4):
                wait_for(lambda: consumer.counts["connections"] == number)  # noqa: B023
                proxy.cut()
            wait_for(lambda: consumer.counts["connections"] == 4)
            assert noted.seconds == pauses
    finally:
        proxy.close()


@pytest.mark.parametrize("hangs", ["broker", "redis"])
def test_sigterm_while_a_server_hangs_takes_seconds(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path, hangs: str
) -> None:
    server: Any = rabbit if hangs == "broker" else redis_server
    proxy = Proxy(server.port)
    proxy.start()

    def by_proxy(url: str) -> str:
        return url.replace(f":{server.port}", f":{proxy.port}")

    program = Program(tmp_path, configuration(by_proxy(rabbit.url), by_proxy(redis_server.url)))
    try:
        program.start().reading()
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            proxy.hole = True
            if hangs == "redis":
                cloud.created("h1", "image-1")
                time.sleep(0.5)
        began = time.monotonic()
        assert program.stop() == 0
        # a hanging server would hold it up for half a minute
        assert time.monotonic() - began < service.GRACE + 12
    finally:
        program.kill()
        proxy.close()
