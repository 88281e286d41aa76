"""What an operator does around an upgrade, with an older version's programs and the present ones.

Each scenario is a function that takes a :class:`Scene`, asserts what must hold, and returns what it
saw in a few words. :data:`SCENARIOS` names them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu
import redis

from bus_cache import names, protocol
from tests import keyspace, program, publisher, servers
from tests.program import wait_for
from tests.upgrade import weighing
from tests.upgrade.trees import Consumer, Host, Tree

RECORDING = "nova-34-both"
QUEUES = ("bus_cache", "bus_cache.dropped", protocol.QUEUE)
A, B, C = (names.fingerprint(f"image-{name}") for name in "abc")
GIVEN_BACK = 240.0
"""Seconds in which a consumer that is refused gives back what it holds: it does after 60."""

Sets = dict[str, set[str]]


class Scene:
    """A bus and a Redis of one older version's scenarios, emptied before each."""

    def __init__(
        self, old: Tree, new: Tree, rabbit: servers.RabbitMQ, store: servers.Redis, folder: Path
    ) -> None:
        """Take both versions, servers that run, and an empty folder."""
        self.old, self.new, self.rabbit = old, new, rabbit
        self.client: redis.Redis = store.client()
        self.cloud = publisher.Publisher(rabbit.url)
        self.folder = folder
        # few messages in hand, so that two consumers share what is sent
        self._text = program.configuration(rabbit.url, store.url, "prefetch = 10\n")
        self._nova = folder / "scheduler.conf"
        self._nova.write_text(
            f"[bus_cache]\nredis_url = {store.url}\n[image_cache_weigher]\ntime_budget = 10\n"
        )
        self._started: list[Consumer | Host] = []

    @contextmanager
    def begun(self, name: str) -> Iterator[Scene]:
        """A new scenario: nothing is on the bus and in Redis, its files are in a new folder; what
        it left running ends with it."""
        self._here = self.folder / name
        self._here.mkdir()
        self.client.flushall()
        with kombu.Connection(self.rabbit.amqp_url) as bus, bus.channel() as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)
        try:
            yield self
        finally:
            for each in self._started:
                process = each.process if isinstance(each, Consumer) else each.agent
                if process is not None:
                    process.kill()
            self._started.clear()

    def consumer(self, tree: Tree) -> Consumer:
        """Start a version's consumer, and wait until it reads."""
        made = Consumer(tree, self._here, self._text)
        self._started.append(made)
        made.start().reading(len(made.lines(": reading ")) + 1)
        return made

    def agent(self, tree: Tree, *images: str) -> Host:
        """Start a version's agent, on a host that has these images."""
        name = f"host-{self._here.name}"
        made = Host(tree, self.rabbit, self._here / name, name)
        self._started.append(made)
        for image in images:
            made.put(image)
        made.start()
        return made

    @property
    def sets(self) -> Sets:
        """The public sets."""
        return keyspace.sets(self.client)

    def become(self, expected: Sets, seconds: float = program.PATIENCE) -> None:
        """Wait until the public sets are these."""
        try:
            wait_for(lambda: self.sets == expected, seconds)
        except AssertionError:
            raise AssertionError(f"sets are {self.sets}, not {expected}") from None

    def schema(self) -> int:
        """The keyspace's."""
        return int(self.client.get(names.Keys("bus_cache").schema) or 0)

    def drained(self) -> None:
        """Wait until all that was sent is delivered."""

        def empty() -> bool:
            with self.rabbit.connect() as connection:
                found = connection.channel().queue_declare("bus_cache", passive=True)
            return int(found.message_count) == 0

        wait_for(empty)

    def held(self) -> int:
        """How many messages our queues have, with those that a consumer has not acknowledged."""
        said = self.rabbit.ctl("list_queues", "name", "messages")
        rows = dict(line.split() for line in said.splitlines() if "\t" in line)
        return sum(int(rows.get(queue, 0)) for queue in QUEUES)

    def flush(self, tree: Tree) -> str:
        """Empty the index by a version's command line."""
        config = self._here / "cli.conf"
        config.write_text(self._text)
        return tree.call("bus-cache", "flush", "--yes", "--config-file", str(config))

    def prefers(self, tree: Tree, image: str, holders: set[str]) -> None:
        """See that a version's weigher prefers just these hosts."""
        weights = tree.weights(self._nova, image)
        best = {host for host in weights if weights[host] == max(weights.values())}
        assert best == holders, f"{tree.name}'s weigher says {weights}, {holders} hold the image"
        assert len({weights[host] for host in set(weights) - holders}) == 1, weights


def taken_over(scene: Scene) -> str:
    """The older consumer fills the keyspace and stops; the present one goes on with it."""
    messages = publisher.recorded(RECORDING)
    half = len(messages) // 2
    older = scene.consumer(scene.old)
    scene.cloud.replay(messages[:half])
    agent = scene.agent(scene.old, A, B) if scene.old.has("bus-cache-agent") else None
    if agent is not None:
        wait_for(lambda: agent.name in scene.sets.get(B, ()))
    scene.drained()
    assert older.stop() == 0
    before = scene.sets
    assert before
    assert scene.schema() == scene.old.schema
    # where the release notes say so: a key that is used no more
    scene.client.delete(names.Keys("bus_cache").prefix + "heard")
    newer = scene.consumer(scene.new)
    newer.said(": in use")
    assert scene.schema() == scene.new.schema
    assert scene.sets == before, "the sets changed when the keyspace was taken over"
    sent = scene.cloud.replay(messages[half:])
    if agent is not None:
        agent.put(C)
        agent.remove(A)
    scene.drained()
    expected = _truth()
    if agent is not None:
        expected |= {image: {agent.name} for image in (B, C)}
    scene.become(expected)
    # what schema 1 knew of hosts is looked through once
    wait_for(lambda: not scene.client.exists(names.Keys("bus_cache").prefix + "adopt"))
    assert newer.stop() == 0
    assert keyspace.everything(scene.client)["sets"] == expected
    return f"{len(before)} sets as before, {sent} more messages read, sets right"


def side_by_side(scene: Scene) -> str:
    """The present consumer starts while the older one still reads the same queue."""
    older = scene.consumer(scene.old)
    hosts = [f"h{number}" for number in range(150)]
    image = names.fingerprint("image-1")
    for host in hosts[:50]:
        scene.cloud.created(host, "image-1")
    expected = {image: set(hosts[:50])}
    agent = scene.agent(scene.old, A) if scene.old.has("bus-cache-agent") else None
    if agent is not None:
        expected[A] = {agent.name}
    scene.become(expected)
    newer = scene.consumer(scene.new)
    newer.said(": in use")
    began = time.monotonic()
    for host in hosts[50:]:
        scene.cloud.created(host, "image-1")
    expected = {image: set(hosts)}
    if agent is not None:
        for each in (B, C):
            agent.put(each)
        agent.remove(A)
        expected |= {each: {agent.name} for each in (B, C)}
    scene.become(expected, GIVEN_BACK)
    spent = time.monotonic() - began
    if agent is not None:
        assert agent.stop() == 0
    wait_for(lambda: scene.held() == 0)  # neither keeps any
    if scene.old.schema == scene.new.schema:
        assert (older.stop(), newer.stop()) == (0, 0)
        shares = [_received(each) for each in (older, newer)]
        # the older one alone was sent 50, and an agent's first word
        assert min(shares[0] - 60, shares[1] - 10) > 0, f"they did not share: {shares}"
        return f"both work: {shares[0]} messages to the older one, {shares[1]} to the present one"
    assert scene.schema() == scene.new.schema
    refused = older.lines(f"has schema '{scene.new.schema}'")
    assert refused, f"the older consumer does not say why it waits: {servers.tail(older.log)}"
    assert older.stop() == 0
    # started anew it does not even begin
    older.start()
    assert older.process is not None
    process = older.process
    wait_for(lambda: not process.running)
    assert process.returncode == 1
    assert len(older.lines(f"has schema '{scene.new.schema}'")) > len(refused)
    assert newer.stop() == 0
    assert scene.sets == expected
    return f"the older one refuses and says schema; what it held came to the other in {spent:.0f} s"


def weighers(scene: Scene) -> str:
    """Each weigher reads what the other version's consumer wrote."""
    holders = {weighing.HOSTS[1], weighing.HOSTS[4]}
    for writes, reads in ((scene.new, scene.old), (scene.old, scene.new)):
        scene.client.flushall()
        consumer = scene.consumer(writes)
        for host in (*holders, "elsewhere"):
            scene.cloud.created(host, "image-1")
        scene.become({names.fingerprint("image-1"): {*holders, "elsewhere"}})
        scene.prefers(reads, "image-1", holders)
        assert consumer.stop() == 0
    return "each prefers the holders"


def agents(scene: Scene) -> str:
    """Each agent tells the other version's consumer, and is asked by it when Redis lost all."""
    if not scene.old.has("bus-cache-agent"):
        return "it knew no agents"
    for speaks, reads in ((scene.old, scene.new), (scene.new, scene.old)):
        with scene.begun(f"agents-of-{speaks.name}"):
            consumer = scene.consumer(reads)
            agent = scene.agent(speaks, A, B)
            scene.become({A: {agent.name}, B: {agent.name}})
            agent.put(C)
            agent.remove(A)
            scene.become({B: {agent.name}, C: {agent.name}})
            assert consumer.stop() == 0
            scene.client.flushall()
            agent.remove(B)
            consumer = scene.consumer(reads)
            scene.become({C: {agent.name}})
            assert agent.stop() == 0
            assert consumer.stop() == 0
    return "each index is the inventory, also after Redis lost all"


def downgraded(scene: Scene) -> str:
    """What README says: stop the consumers, flush, start the older ones."""
    newer = scene.consumer(scene.new)
    for host in ("h1", "h2"):
        scene.cloud.created(host, "image-1")
    scene.become({names.fingerprint("image-1"): {"h1", "h2"}})
    assert newer.stop() == 0
    scene.cloud.created("h3", "image-1")  # waits in the queue
    said = scene.flush(scene.new)
    assert said.startswith("Deleted "), said
    assert not scene.client.keys(), scene.client.keys()
    older = scene.consumer(scene.old)
    scene.cloud.created("h4", "image-2")
    expected = {names.fingerprint("image-1"): {"h3"}, names.fingerprint("image-2"): {"h4"}}
    scene.become(expected)
    assert scene.schema() == scene.old.schema
    assert older.stop() == 0
    scene.become(expected)
    return "the older one writes again, what waited in the queue too"


SCENARIOS: dict[str, Callable[[Scene], str]] = {
    "upgrade": taken_over,
    "side by side": side_by_side,
    "weighers": weighers,
    "agents": agents,
    "downgrade": downgraded,
}


def _truth() -> Sets:
    """Return the hosts that hold each image after the recording."""
    found = json.loads((publisher.DATA / "nova-34-truth.json").read_text())[RECORDING]["both"]
    return {names.fingerprint(image): set(hosts) for image, hosts in found.items() if hosts}


def _received(consumer: Consumer) -> int:
    """Return how many messages a consumer that stopped was sent, by its own account."""
    found = re.search(r"in all received (\d+)", consumer.lines("stopping; in all")[-1])
    assert found is not None
    return int(found[1])
