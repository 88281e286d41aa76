"""Images that leave: told by a real agent, or predicted; from folder and bus to the sets."""

from __future__ import annotations

import contextlib
import datetime
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest

from bus_cache import names, protocol
from bus_cache.names import fingerprint
from tests import keyspace, publisher, servers
from tests.compute_host import Host
from tests.program import Program, configuration, wait_for

IMAGE_A, IMAGE_B, IMAGE_C = (fingerprint(name) for name in "abc")


@pytest.fixture
def consumer(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> Iterator[Callable[..., Program]]:
    """Make consumers on an empty keyspace."""
    redis_server.client().flushall()
    started: list[Program] = []

    def make(more: str = "", name: str = "consumer") -> Program:
        text = configuration(rabbit.url, redis_server.url, "gap_grace = 0.5\n" + more)
        started.append(Program(tmp_path, text, name).start().reading())
        return started[-1]

    yield make
    for each in started:
        each.kill()
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        for name in ("bus_cache", "bus_cache.dropped", protocol.QUEUE):
            channel.queue_delete(name)


@pytest.fixture
def host(rabbit: servers.RabbitMQ, tmp_path: Path) -> Iterator[Host]:
    """A host of this test's own."""
    folder = tmp_path / "host"
    folder.mkdir()
    found = Host(rabbit, folder, "h1")
    yield found
    if found.agent:
        found.agent.kill()


@pytest.fixture
def cloud(rabbit: servers.RabbitMQ) -> Iterator[Cloud]:
    """What Nova and Glance say."""
    with contextlib.closing(Cloud(rabbit.url)) as said:
        yield said


class Cloud(publisher.Publisher):
    """Says what happens to servers."""

    def server(self, event: str, host: str, server: str, image: str, **more: Any) -> None:
        """As nova-compute tells it."""
        data = {"uuid": server, "host": host, "node": host, "image_uuid": image, **more}
        payload = {"nova_object.version": "1.13", "nova_object.data": data}
        self.send(f"nova-compute:{host}", event, payload, topic="versioned_notifications")


def sets(redis_server: servers.Redis) -> dict[str, set[str]]:
    """The index."""
    with redis_server.client() as client:
        return keyspace.sets(client)


def test_what_is_on_the_disk_is_in_the_sets(
    consumer: Any, host: Host, cloud: Cloud, redis_server: servers.Redis
) -> None:
    """Whatever Nova says, and through the end of agent, consumer and Redis' data."""
    program = consumer("agent_timeout = 3")
    host.put(IMAGE_A)
    host.start()
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}})
    host.put(IMAGE_B)
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}, IMAGE_B: {"h1"}})
    host.remove(IMAGE_A)
    wait_for(lambda: sets(redis_server) == {IMAGE_B: {"h1"}})
    # Nova does not decide here
    cloud.server("instance.create.end", "h1", str(uuid.uuid4()), "a")
    cloud.server("instance.create.end", "h2", str(uuid.uuid4()), "a")
    cloud.send("image.host", "image.delete", {"id": "b"}, exchange="glance")
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h2"}, IMAGE_B: {"h1"}})
    # the index loses all: the agent is asked
    redis_server.client().flushall()
    wait_for(lambda: sets(redis_server) == {IMAGE_B: {"h1"}}, 60)
    # the consumer dies, and does not hear everything
    program.kill()
    host.put(IMAGE_C)
    host.remove(IMAGE_B)
    program.start().reading(2)
    wait_for(lambda: sets(redis_server) == {IMAGE_C: {"h1"}})
    # goodbye: what is held is believed on, and Nova decides
    assert host.stop() == 0
    program.said("h1: its agent ended")
    assert sets(redis_server) == {IMAGE_C: {"h1"}}
    cloud.server("instance.create.end", "h1", str(uuid.uuid4()), "a")
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}, IMAGE_C: {"h1"}})
    # it comes back and knows better; and is killed
    agent = host.start()
    wait_for(lambda: sets(redis_server) == {IMAGE_C: {"h1"}})
    agent.kill()
    program.said("h1: nothing was heard of its agent for 3 s")
    assert sets(redis_server) == {IMAGE_C: {"h1"}}
    with redis_server.client() as client:
        keyspace.everything(client)


def test_what_nova_removes_is_predicted(
    consumer: Any, cloud: Cloud, redis_server: servers.Redis
) -> None:
    """On time, though no message comes; by two consumers; and never what a server uses."""
    ageing = "[image_cache]\nmanager_interval = 1\nremove_unused_original_minimum_age_seconds = 2\n"
    programs = [consumer(ageing, name) for name in ("one", "two")]
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    for host in ("h1", "h2"):
        cloud.server("instance.create.end", host, one, "a")
    cloud.server("instance.create.end", "h1", two, "b")
    cloud.server("instance.rescue.end", "h2", one, "a", rescue_image_ref="c")
    held = {IMAGE_A: {"h1", "h2"}, IMAGE_B: {"h1"}}
    wait_for(lambda: sets(redis_server) == {**held, IMAGE_C: {"h2"}})
    # a rescue image is not protected
    wait_for(lambda: sets(redis_server) == held)
    cloud.server("instance.delete.end", "h2", one, "a")
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}, IMAGE_B: {"h1"}})
    cloud.server("instance.rebuild.end", "h1", two, "a")
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}})
    # while the host's service is down, nothing goes
    down = {"host": "h1", "binary": "nova-compute", "forced_down": True, "last_seen_up": None}
    payload = {"nova_object.version": "1.0", "nova_object.data": down}
    cloud.send("nova-compute:h1", "service.update", payload, topic="versioned_notifications")
    cloud.server("instance.delete.end", "h1", one, "a")
    cloud.server("instance.delete.end", "h1", two, "a")
    cloud.server("instance.create.end", "h3", one, "b")
    cloud.server("instance.delete.end", "h3", one, "b")
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}, IMAGE_B: {"h3"}})
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}})
    seen = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    down |= {"forced_down": False, "last_seen_up": seen}
    cloud.send("nova-compute:h1", "service.update", payload, topic="versioned_notifications")
    wait_for(lambda: sets(redis_server) == {})
    for each in programs:
        assert each.stop() == 0
    lines = [line for each in programs for line in each.lines("stopping") if "aged_out" in line]
    assert sum(int(line.partition("aged_out ")[2].split(",")[0]) for line in lines) == 5


def test_nothing_ages_out_while_another_bus_is_not_read(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> None:
    """What waits there may tell that an image is in use."""
    redis_server.client().flushall()
    cell = servers.RabbitMQ()  # not there yet
    urls = f"transport_url = {rabbit.url}\ntransport_url = {cell.url}\n"
    ageing = "[image_cache]\nmanager_interval = 1\nremove_unused_original_minimum_age_seconds = 2\n"
    program = Program(tmp_path, configuration(rabbit.url, redis_server.url, urls + ageing))
    try:
        program.start().reading()
        with contextlib.closing(Cloud(rabbit.url)) as cloud:
            cloud.server("instance.rescue.end", "h1", str(uuid.uuid4()), "b", rescue_image_ref="a")
        wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1"}})
        time.sleep(7)  # with one bus it is gone after 5 s
        assert sets(redis_server) == {IMAGE_A: {"h1"}}
        with cell.start():
            wait_for(lambda: sets(redis_server) == {})
            assert program.stop() == 0
    finally:
        program.kill()
        cell.close()


def test_a_host_without_service_leaves(
    consumer: Any, host: Host, cloud: Cloud, redis_server: servers.Redis
) -> None:
    """At once; one whose agent spoke on, after ``host_timeout``; a quiet one stays."""
    consumer("agent_timeout = 2\nhost_timeout = 4")
    cloud.server("instance.create.end", "h2", str(uuid.uuid4()), "a")
    cloud.server("instance.create.end", "h3", str(uuid.uuid4()), "a")
    host.put(IMAGE_A)
    host.start()
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h1", "h2", "h3"}})
    for name in ("h1", "h2"):
        gone = {"host": name, "binary": "nova-compute"}
        payload = {"nova_object.version": "1.0", "nova_object.data": gone}
        cloud.send("nova-compute:x", "service.delete", payload, topic="versioned_notifications")
    wait_for(lambda: "h2" not in sets(redis_server).get(IMAGE_A, set()))
    host.put(IMAGE_B)
    wait_for(lambda: "h1" in sets(redis_server).get(IMAGE_B, set()))
    assert host.agent is not None
    host.agent.kill()
    wait_for(lambda: sets(redis_server) == {IMAGE_A: {"h3"}}, 90)
    with redis_server.client() as client:
        assert client.hlen(names.Keys("bus_cache").agents) == 0
