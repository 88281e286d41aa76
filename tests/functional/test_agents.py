"""Two consumer programs and 200 simulated agents on a real bus: whatever happens, the index is the
union of their caches in the end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bus_cache import names, protocol
from consumers import bus
from tests import fleet, keyspace, publisher, servers
from tests.program import Program, configuration, wait_for

HOSTS = 200
QUICK = "gap_grace = 0.5\n"


@pytest.fixture
def consumers(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> Iterator[list[Program]]:
    """Two, reading."""
    redis_server.client().flushall()
    text = configuration(rabbit.url, redis_server.url, QUICK)
    programs = [Program(tmp_path, text, name) for name in ("one", "two")]
    for each in programs:
        each.start().reading()
    yield programs
    for each in programs:
        each.kill()
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        for name in ("bus_cache", "bus_cache.dropped", protocol.QUEUE):
            channel.queue_delete(name)


def sets(redis_server: servers.Redis) -> dict[str, set[str]]:
    """The index."""
    with redis_server.client() as client:
        return keyspace.sets(client)


def depth(rabbit: servers.RabbitMQ) -> int:
    """How many words of agents wait in the broker."""
    with kombu.Connection(rabbit.amqp_url) as connection:
        return int(bus.passive(connection, protocol.QUEUE).message_count)


BEGINS = itertools.count(2000, 1000)
"""Epochs with which agents begin, another one for each example: what an agent of the example before
says may still be on its way, and of an epoch that is used twice it would be the newer word."""

EVENTS = st.lists(
    st.sampled_from(
        [
            "churn",
            "churn",
            "churn in disorder",
            "agents restart",
            "agents are killed",
            "clocks are set back",
            "a consumer is killed",
            "a consumer is restarted",
            "Redis loses all",
        ]
    ),
    min_size=1,
    max_size=6,
)


@settings(
    deadline=None,
    max_examples=int(os.environ.get("EXAMPLES", "6")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes
)
@given(
    events=EVENTS,
    lose=st.sampled_from([0, 0.01, 0.2]),
    again=st.sampled_from([0, 0.1]),
    seed=st.integers(0, 2**32),
)
def test_the_index_is_the_union_of_the_caches(
    consumers: list[Program],
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
    events: list[str],
    lose: float,
    again: float,
    seed: int,
) -> None:
    """Messages are lost, come twice, in disorder; agents, consumers and Redis die."""
    begin = next(BEGINS)
    with redis_server.client() as client:
        client.flushall()
    with fleet.Fleet(rabbit.url, rabbit.amqp_url, HOSTS, seed) as agents:
        choose = agents.random
        agents.lose, agents.again = lose, again
        with agents.quiet():
            agents.say(agent.start(begin) for agent in agents.agents.values())
        for number, event in enumerate(events):
            happen(event, number, begin, agents, consumers, redis_server)
        # what was lost last is noticed by the next message, whatever it is
        with agents.quiet():
            for agent in agents.agents.values():
                image = choose.choice([*fleet.IMAGES, ""])
                agents.say([agent.toggle(image) if image else agent.snapshot()], reliably=True)
        wait_for(lambda: sets(redis_server) == agents.truth(), 60)
        wait_for(lambda: agrees_with_itself(redis_server))


def agrees_with_itself(redis_server: servers.Redis) -> bool:
    """Tell whether all keys say the same. They are not read in one moment, and agents that were
    asked twice may answer meanwhile."""
    with redis_server.client() as client, contextlib.suppress(AssertionError):
        keyspace.everything(client)
        return True
    return False


def happen(
    event: str,
    number: int,
    begin: int,
    agents: fleet.Fleet,
    consumers: list[Program],
    redis_server: servers.Redis,
) -> None:
    """One thing that can happen."""
    choose = agents.random
    everybody = list(agents.agents.values())
    some = choose.sample(everybody, HOSTS // 4)
    with agents.quiet():
        if event.startswith("churn"):
            said = [
                choose.choice(everybody).toggle(choose.choice(fleet.IMAGES)) for _ in range(400)
            ]
            if "disorder" in event:
                choose.shuffle(said)
            agents.say(said)
        elif event == "agents restart":
            goodbyes = [agent.snapshot(leaving=True) for agent in some]
            agents.say(goodbyes)
            agents.say(agent.start(agent.epoch + 1) for agent in some)
        elif event == "agents are killed":
            for agent in some:  # and what happens meanwhile nobody tells
                agent.toggle(choose.choice(fleet.IMAGES))
                agent.sequence -= 1
            agents.say(agent.start(agent.epoch + 1) for agent in some)
        elif event == "clocks are set back":
            agents.say(agent.start(begin - 500 + number) for agent in some)
    if event == "a consumer is killed":
        consumers[number % 2].kill()
        consumers[number % 2].start()
    elif event == "a consumer is restarted":
        consumers[number % 2].stop()
        consumers[number % 2].start()
    elif event == "Redis loses all":
        with redis_server.client() as client:
            client.flushall()


def test_who_speaks_for_others_is_refused(
    consumers: list[Program], rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """And what makes no sense is; the rest counts."""
    cloud = publisher.Publisher(rabbit.url)
    here = {"exchange": protocol.EXCHANGE, "topic": protocol.TOPIC}
    good = fleet.Agent("good", 1)
    good.cache.add(fleet.IMAGES[0])
    _, event, payload = good.snapshot()
    cloud.send(protocol.publisher("evil"), event, payload, **here)
    cloud.send("nova-compute:good", event, payload, **here)
    for change in (
        {"images": "x"},
        {"images": [[1, 2, 3]]},
        {"images": [["F" * 40, 1, 1]]},
        {"epoch": -1},
        {"epoch": 2**53},
        {"sequence": "1"},
        {"sequence": True},
        {"host": "a b"},
        {"version": "2.0"},
        {"version": None},
        {"images": [[fleet.IMAGES[0]]] * 10_001},
    ):
        cloud.send(protocol.publisher("good"), event, {**payload, **change}, **here)
    cloud.send(protocol.publisher("good"), "image_cache.sung", payload, **here)
    # nor does Nova speak there, nor an agent elsewhere
    cloud.created("nova", "image-0", **here)
    cloud.send(protocol.publisher("good"), event, payload)
    wait_for(lambda: sum(len(each.lines("can't be understood")) for each in consumers) >= 15)
    assert sets(redis_server) == {}
    said = [line for each in consumers for line in each.lines("speaks for the host good")]
    assert len(said) == 2
    cloud.send(protocol.publisher("good"), event, payload, **here)
    wait_for(lambda: sets(redis_server) == {fleet.IMAGES[0]: {"good"}})
    cloud.close()


def test_a_silent_agents_host_is_inferred(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> None:
    """Nothing is lost by it, and what Nova says counts again."""
    redis_server.client().flushall()
    text = configuration(rabbit.url, redis_server.url, QUICK + "agent_timeout = 2")
    consumer = Program(tmp_path, text).start().reading()
    cloud = publisher.Publisher(rabbit.url)
    try:
        with fleet.Fleet(rabbit.url, rabbit.amqp_url, 1) as agents:
            agent = agents.agents["h0"]
            agent.cache |= set(fleet.IMAGES[:2])
            agents.say([agent.snapshot()])
            wait_for(lambda: agents.asked)  # since the keyspace is new
            wait_for(lambda: depth(rabbit) == 0)
            wait_for(lambda: sets(redis_server) == agents.truth())
            cloud.created("h0", "image-7")
            consumer.said("h0: nothing was heard of its agent")
            held = {**agents.truth(), names.fingerprint("image-7"): {"h0"}}
            wait_for(lambda: sets(redis_server) == held)
            cloud.created("h0", "image-8")
            held[names.fingerprint("image-8")] = {"h0"}
            wait_for(lambda: sets(redis_server) == held)
            agents.say([agent.snapshot()])
            consumer.said("h0: its agent reports", 2)
            wait_for(lambda: sets(redis_server) == agents.truth())
    finally:
        cloud.close()
        consumer.kill()


@pytest.mark.parametrize(
    "rights",
    [
        (".*", ".*", r"^(?!bus_cache\.info$)"),
        (r"^(?!bus_cache\.info$)", ".*", ".*"),
    ],
    ids=["not to read", "not to declare"],
)
def test_without_rights_on_the_agents_queue(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path, rights: tuple[str, ...]
) -> None:
    """Notifications are read on, and agents are not told that they are heard."""
    redis_server.client().flushall()
    rabbit.ctl("add_user", "reader", "secret")
    rabbit.ctl("set_permissions", "-p", "/", "reader", *rights)
    url = f"rabbit://reader:secret@127.0.0.1:{rabbit.port}/"
    consumer = Program(tmp_path, configuration(url, redis_server.url, QUICK)).start()
    cloud = publisher.Publisher(rabbit.url)
    try:
        consumer.reading()
        cloud.created("h1", "image-0")
        wait_for(lambda: sets(redis_server) == {names.fingerprint("image-0"): {"h1"}})
        consumer.said("what agents say")
        with redis_server.client() as client:
            assert not client.exists("{bus_cache}:listening")
    finally:
        cloud.close()
        consumer.kill()
        rabbit.ctl("delete_user", "reader")


def test_words_by_another_way_are_refused(
    consumers: list[Program], rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """Who may not write to the agents' exchange can still reach their queue by the default one."""
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        agent = fleet.Agent("h1", 1)
        agent.cache.add(fleet.IMAGES[0])
        _, event, payload = agent.snapshot()
        said = {
            "message_id": "1",
            "publisher_id": protocol.publisher("h1"),
            "event_type": event,
            "timestamp": "2026-01-01 00:00:00.000000",
            "payload": payload,
        }
        body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(said)})
        for exchange in ("", protocol.EXCHANGE):
            message = channel.prepare_message(body.encode(), content_type="application/json")
            channel.basic_publish(message, exchange=exchange, routing_key=protocol.QUEUE)
            if not exchange:
                wait_for(lambda: sum(len(each.lines("refused")) for each in consumers))
                assert sets(redis_server) == {}
    wait_for(lambda: sets(redis_server) == {fleet.IMAGES[0]: {"h1"}})
