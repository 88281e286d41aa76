"""A cloud's events, as Nova, Glance and the agents tell them: bodies of real ones, filled in."""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bus_cache import protocol
from tests import fleet, publisher
from tests.chaos.truth import Pair, Truth, fingerprint

VERSIONED, UNVERSIONED = "versioned_notifications.info", "notifications.info"
INFERRED, AGENTS = 30, 50
"""Hosts of each kind."""

BLOCK = 20
"""Images in use at a time."""

CREATED = {VERSIONED: "instance.create.end", UNVERSIONED: "compute.instance.create.end"}
MOVED = {
    VERSIONED: "instance.live_migration_post_dest.end",
    UNVERSIONED: "compute.instance.live_migration.post.dest.end",
}
REBUILT = {VERSIONED: "instance.rebuild.end", UNVERSIONED: "compute.instance.rebuild.end"}
FETCHES = {VERSIONED: "instance.create.start", UNVERSIONED: "compute.instance.create.start"}


class Message(NamedTuple):
    """What goes to the broker.

    :ivar about: what it changes in the public sets; empty: nothing.
    :ivar commit: to be called when the broker has it.
    """

    exchange: str
    key: str
    body: bytes
    about: tuple[Pair, ...] = ()
    commit: Callable[[], None] | None = None


def _nothing() -> None:
    pass


class Bodies:
    """Recorded notifications of a real Nova and Glance, to be filled in."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        others: dict[tuple[str, str], list[bytes]] = {}
        for message in publisher.recorded():
            said = publisher.content(message)
            self._known.setdefault((message["routing_key"], said["event_type"]), said)
            event = said["event_type"]
            # what says nothing about images
            silent = event.endswith((".update", ".exists", "destinations.start", "power_on.end"))
            if silent and message["exchange"] == "nova":
                where = (message["exchange"], message["routing_key"])
                others.setdefault(where, []).append(message["body"].encode())
        self.others = [Message(*where, body) for where, each in others.items() for body in each]

    def fill(self, key: str, event: str, publisher_id: str, stamp: int, **fields: Any) -> bytes:
        """Return a body with some fields of its payload replaced."""
        said = copy.deepcopy(self._known[key, event])
        payload = said["payload"].get("nova_object.data", said["payload"])
        assert fields.keys() <= payload.keys(), fields.keys() - payload.keys()
        payload.update(fields)
        said.update(
            publisher_id=publisher_id, message_id=str(uuid.uuid4()), timestamp=timestamp(stamp)
        )
        return envelope(said)


def timestamp(stamp: int) -> str:
    """Return how oslo.messaging writes a moment."""
    moment = datetime.datetime.fromtimestamp(stamp / 1000, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def envelope(said: dict[str, Any]) -> bytes:
    """Return the body that oslo.messaging's driver messagingv2 sends."""
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(said)}).encode()


class Cloud:
    """Hosts, images and servers. From any thread.

    :ivar deletions: whether images and compute services are deleted, too.
    :ivar skew: milliseconds by which the clocks of every other host are ahead, and of the rest
        behind.
    """

    def __init__(self, truth: Truth, seed: int, bodies: Bodies) -> None:
        """Take where to write down what happened."""
        self.deletions = True
        self.skew = 0
        self._truth = truth
        self._random = random.Random(seed)
        self._bodies = bodies
        self._lock = threading.RLock()
        self._stamp = 0
        self._count = itertools.count(INFERRED)
        self._hosts = [f"cmp-{n}" for n in range(INFERRED)]
        self._images: list[str] = []
        self._deleted: set[str] = set()
        self._running: dict[str, tuple[str, str]] = {}
        self._up = set(self._hosts)
        self._next = self._pairs()
        self._shown = list(self._hosts)

    # -- what Nova's API would say -------------------------------------------------------------

    def hosts(self) -> list[str]:
        """Return the hosts that have a compute service; those with an agent, too."""
        with self._lock:
            return [*sorted(self._up), *(f"agt-{n}" for n in range(AGENTS)), "real-0"]

    def servers(self) -> dict[str, tuple[str, str]]:
        """Return server -> host, image."""
        with self._lock:
            return dict(self._running)

    # -- what happens --------------------------------------------------------------------------

    def happen(self, count: int, relevant: float = 0.3) -> list[Message]:
        """Return so many messages and a few more, a part of which says something about images."""
        found: list[Message] = []
        with self._lock:
            while len(found) < count:
                if self._random.random() >= relevant:
                    found.append(self._random.choice(self._bodies.others))
                else:
                    found += self._event()
        return found

    def changes(self, count: int) -> list[Message]:
        """Return messages of so many servers that were built."""
        with self._lock:
            return [each for _ in range(count) for each in self._built(CREATED)]

    def _event(self) -> list[Message]:
        dice = self._random.random()
        if dice < 0.80 or not self._running:
            return self._built(CREATED)
        if dice < 0.86:
            return self._built(MOVED)
        if dice < 0.92:
            return self._built(REBUILT)
        if dice < 0.98 or not self.deletions:
            return self._begun()
        return self._image_deleted() if dice < 0.997 else self._host_deleted()

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """Yield images and hosts that were not together before: so each message tells something."""
        while True:
            images = [str(uuid.UUID(int=self._random.getrandbits(128))) for _ in range(BLOCK)]
            self._images += images
            pairs = list(itertools.product(images, self._hosts))
            self._random.shuffle(pairs)
            for image, host in pairs:
                if image not in self._deleted and host in self._up:
                    yield image, host

    def _now(self, host: str = "") -> int:
        """Return a moment after all others by one clock, or, as a host's own clock has it."""
        self._stamp = max(int(time.time() * 1000), self._stamp + 1)
        if not host or not self.skew:
            return self._stamp
        return self._stamp + (self.skew if self._is_ahead(host) else -self.skew)

    def _is_ahead(self, host: str) -> bool:
        return int(host.rpartition("-")[2]) % 2 == 0

    def _built(self, events: dict[str, str]) -> list[Message]:
        image, host = next(self._next)
        server, hex_ = str(uuid.UUID(int=self._random.getrandbits(128))), fingerprint(image)
        form = self._random.choice(("versioned", "unversioned", "both"))
        found = []
        for key in (UNVERSIONED, VERSIONED):
            if form != "both" and key.startswith("versioned") != (form == "versioned"):
                continue
            stamp = self._now(host)

            def commit(stamp: int = stamp) -> None:
                with self._lock:
                    if host in self._up and image not in self._deleted:
                        self._running[server] = (host, image)
                self._truth.held(host, hex_, stamp)

            body = self._of_server(key, events[key], host, server, image, stamp)
            found.append(Message("nova", key, body, (Pair(hex_, host),), commit))
        return found

    def _begun(self) -> list[Message]:
        """A server is being built: the image is on its way, so nothing changes yet."""
        image, host = next(self._next)
        stamp = self._now(host)
        key = self._random.choice((UNVERSIONED, VERSIONED))
        server = str(uuid.UUID(int=self._random.getrandbits(128)))
        return [
            Message("nova", key, self._of_server(key, FETCHES[key], host, server, image, stamp))
        ]

    def _of_server(
        self, key: str, event: str, host: str, server: str, image: str, stamp: int
    ) -> bytes:
        if key == VERSIONED:
            fields = {"host": host, "uuid": server, "image_uuid": image}
            return self._bodies.fill(key, event, f"nova-compute:{host}", stamp, **fields)
        url = f"http://192.0.2.1:9292/images/{image}"
        fields = {"host": host, "instance_id": server, "image_ref_url": url}
        return self._bodies.fill(key, event, f"compute.{host}", stamp, **fields)

    def _image_deleted(self) -> list[Message]:
        choice = [each for each in self._images if each not in self._deleted]
        image = self._random.choice(choice)
        self._deleted.add(image)
        for server, (_, used) in list(self._running.items()):
            if used == image:  # Glance lets go of an image that is in use; here they went before
                del self._running[server]
        hex_ = fingerprint(image)
        body = self._bodies.fill(
            UNVERSIONED, "image.delete", "image.glance-1", self._now(), id=image
        )
        about = (Pair(image=hex_),)
        return [
            Message("glance", UNVERSIONED, body, about, lambda: self._truth.image_deleted(hex_))
        ]

    def _host_deleted(self) -> list[Message]:
        """A compute service is deleted, and another one made in its place, of another name.

        Not of a host whose clock is ahead: what it said counts as newer until its clock is reached.
        """
        hosts = [each for each in self._hosts if not (self.skew and self._is_ahead(each))]
        host = self._random.choice(hosts)
        new = f"cmp-{next(self._count)}"
        self._hosts[self._hosts.index(host)] = new
        self._up.discard(host)
        self._up.add(new)
        for server, (where, _) in list(self._running.items()):
            if where == host:
                del self._running[server]
        stamp = self._now()
        body = self._bodies.fill(VERSIONED, "service.delete", "nova-api:api-1", stamp, host=host)
        commit = lambda: self._truth.host_deleted(host, stamp)  # noqa: E731
        return [Message("nova", VERSIONED, body, (Pair(host=host),), commit)]


class Crew:
    """Simulated agents of many hosts, and what Nova says about the same hosts.

    :ivar deaf: do not answer: then nothing but the queue brings what they said.
    :ivar quiet: nothing changes any more.
    :ivar snapshots: seconds between two snapshots of one agent; 0: none but the first.
    """

    def __init__(self, truth: Truth, seed: int, rate: float = 1.0) -> None:
        """Take where to write down what happened, and how many changes each tick brings."""
        self.deaf = self.quiet = False
        self.snapshots = 0.0
        self.asked = 0
        self._rate = rate
        self._truth = truth
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._agents = {
            f"agt-{n}": fleet.Agent(f"agt-{n}", epoch=int(time.time() * 1000))
            for n in range(AGENTS)
        }
        self._due = dict.fromkeys(self._agents, 0.0)
        self._images = [fingerprint(f"image-{n}") for n in range(BLOCK)]

    def tick(self) -> list[Message]:
        """Return what they say now."""
        now = time.monotonic()
        found: list[Message] = []
        with self._lock:
            for host, at in self._due.items():
                if at <= now:
                    self._due[host] = (
                        now + self.snapshots * self._random.uniform(0.9, 1.1)
                        if self.snapshots
                        else float("inf")
                    )
                    found.append(self._message(self._agents[host].snapshot()))
            for _ in range(0 if self.quiet else int(self._rate + self._random.random())):
                agent = self._agents[self._random.choice(list(self._agents))]
                image = self._random.choice(self._images)
                found.append(self._message(agent.toggle(image), image))
        return found

    def ask(self, host: str, after: int, spread: float) -> None:
        """Have one, or all where that is nobody's name, answer within some seconds."""
        if self.deaf:
            return
        with self._lock:
            hosts = [host] if host in self._agents else list(self._agents)
            self.asked += len(hosts)
            for each in hosts:
                at = time.monotonic() + self._random.uniform(0, spread)
                self._due[each] = min(self._due[each], at)
                agent = self._agents[each]
                if after > agent.epoch:
                    agent.epoch, agent.sequence = after + 1, 0

    def _message(self, said: fleet.Message, image: str = "") -> Message:
        host, event, payload = said
        agent = self._agents[host]
        version, holds = (payload["epoch"], payload["sequence"]), image in agent.cache
        notification = {
            "message_id": str(uuid.uuid4()),
            "publisher_id": protocol.publisher(host),
            "event_type": event,
            "priority": "INFO",
            "payload": payload,
            "timestamp": timestamp(int(time.time() * 1000)),
        }
        if image:
            about: tuple[Pair, ...] = (Pair(image, host),)
            commit = lambda: self._truth.cached(host, image, holds, version)  # noqa: E731
        else:
            about, commit = (Pair(host=host),), _nothing
        return Message(protocol.EXCHANGE, protocol.QUEUE, envelope(notification), about, commit)
