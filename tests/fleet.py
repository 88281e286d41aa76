"""Simulated agents of many hosts on a real bus: they speak as ours do, and answer what is asked.

One process plays them all, and can lose, repeat and reorder what they say, as a bus might.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import kombu

from bus_cache import names, protocol
from bus_cache.protocol import CachedImage
from tests import publisher

IMAGES = [names.fingerprint(f"image-{number}") for number in range(40)]
Message = tuple[str, str, dict[str, Any]]


@dataclasses.dataclass
class Agent:
    """One host: its cache, and what its agent says of it."""

    host: str
    epoch: int
    cache: set[str] = dataclasses.field(default_factory=set)
    sequence: int = 0

    def _version(self) -> tuple[int, int]:
        self.sequence += 1
        return self.epoch, self.sequence - 1

    def snapshot(self, leaving: bool = False) -> Message:
        """All that is in the cache."""
        images = [CachedImage(each, 1, 1) for each in sorted(self.cache)]
        payload = protocol.snapshot(self.host, self._version(), images, (), leaving)
        return self.host, protocol.SNAPSHOT, payload

    def toggle(self, image: str) -> Message:
        """Fetch an image, or remove it."""
        self.cache ^= {image}
        event = protocol.STORED if image in self.cache else protocol.CLEANUP
        return self.host, event, protocol.statement(self.host, self._version(), image)

    def start(self, epoch: int) -> Message:
        """Start anew."""
        self.epoch, self.sequence = epoch, 0
        return self.snapshot()

    def asked(self, after: int) -> Message:
        """Answer."""
        if after > self.epoch:
            return self.start(after + 1)
        return self.snapshot()


class Fleet:
    """The agents of so many hosts."""

    def __init__(self, url: str, amqp_url: str, hosts: int, seed: int = 0) -> None:
        """Take the bus, as oslo.messaging and as kombu write it."""
        self.agents = {f"h{n}": Agent(f"h{n}", epoch=1000) for n in range(hosts)}
        self.random = random.Random(seed)
        self.asked = 0
        self.lose = self.again = 0.0
        self._publisher = publisher.Publisher(url)
        self._lock = threading.RLock()
        self._amqp_url = amqp_url
        self._ends = threading.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Fleet:
        self._thread.start()
        assert self._listens.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self._publisher.close()

    def truth(self) -> dict[str, set[str]]:
        """Image -> the hosts that hold it."""
        found: dict[str, set[str]] = {}
        with self._lock:
            for agent in self.agents.values():
                for image in agent.cache:
                    found.setdefault(image, set()).add(agent.host)
        return found

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep answers back while agents are changed and what they say is on its way."""
        with self._lock:
            yield

    def say(self, messages: Iterable[Message], reliably: bool = False) -> None:
        """Publish, but for what is lost; some of it twice."""
        for host, event, payload in messages:
            if not reliably and self.random.random() < self.lose:
                continue
            for _ in range(1 + (not reliably and self.random.random() < self.again)):
                self._publisher.send(
                    protocol.publisher(host),
                    event,
                    payload,
                    exchange=protocol.EXCHANGE,
                    topic=protocol.TOPIC,
                )

    def _answer(self) -> None:
        """Read what all agents are asked, as their RPC servers would, and answer at once."""
        with kombu.Connection(self._amqp_url) as connection, connection.channel() as channel:
            name = channel.queue_declare(exclusive=True).queue
            asked = protocol.ASK_EXCHANGE
            channel.exchange_declare(asked, "topic", durable=False, auto_delete=False)
            everybody = f"{protocol.ASK_TOPIC}_fanout"
            channel.exchange_declare(everybody, "fanout", durable=False, auto_delete=True)
            channel.queue_bind(name, asked, f"{protocol.ASK_TOPIC}.#")
            channel.queue_bind(name, everybody)
            channel.auto_decode = False
            channel.basic_consume(name, no_ack=True, callback=self._on_question)
            self._listens.set()
            while not self._ends.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)

    def _on_question(self, message: Any) -> None:
        said = json.loads(json.loads(message.body)["oslo.message"])
        if said["method"] != "snapshot":
            return
        key = message.delivery_info["routing_key"]
        host = key.removeprefix(f"{protocol.ASK_TOPIC}.")
        with self._lock:
            asked = [self.agents[host]] if host in self.agents else list(self.agents.values())
            self.asked += len(asked)
            self.say([agent.asked(said["args"]["after"]) for agent in asked], reliably=True)
