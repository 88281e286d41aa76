"""Histories of a whole cloud against a model, on a real Redis: whatever happens in whatever order,
the index ends up as :mod:`tests.model` says.

A history is a list of steps that hypothesis chooses: what servers, images, hosts and agents do;
what the bus does with each message (late, twice, in any order, never); what consumers do (read,
write, crash between any two calls of Redis or before they acknowledge); what Redis does (loses all,
comes back as an older copy, breaks a connection); and time. Messages go through the consumer's own
code from their bodies to Redis' scripts; only the broker between is played here. After each step
it is looked at what must hold at any time. Now and then, and in the end, all that is left arrives,
and the index is compared.

``make model`` runs more of them, by chance, and prints the seed. The same EXAMPLES and SEED give
the same ones again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import hypothesis
import msgpack
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import bus_cache.index.writer
import consumers.agents
import consumers.consumer
import consumers.reconcile
import consumers.sweep
from bus_cache import connect, names, protocol
from bus_cache.index.writer import FETCH_MOST, Unavailable, Writer
from consumers import reconcile
from consumers.ageing import Policy
from consumers.agents import Agents, Times
from consumers.bus import Delivery, Topology
from consumers.consumer import Consumer, Rules
from consumers.sweep import Sweep
from consumers.transport import Transport
from tests import keyspace, model, servers
from tests.model import DAY, HOSTS, HOUR, IMAGES, MINUTE, SECOND, Message

PARTS = 2
"""Processes that share the work."""
EXAMPLES = int(os.environ.get("EXAMPLES") or 0) // PARTS
"""By command; else :data:`SOME`, the same ones each time."""
SOME = 150
SEED = int(os.environ.get("SEED") or 0)
STEPS = 40
T0 = 4_000_000_000_000
"""Where histories begin: far ahead of Redis' own clock, by which nothing must expire here."""
CONSUMERS = 2
KEYS = names.Keys("bus_cache")
PUBLIC = KEYS.image("")

ALL_KEYS = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local value
  if kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  else value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  table.insert(found, {key, kind, redis.call('PTTL', key), value})
end
return found
"""


class Crash(BaseException):
    """A consumer dies here."""


class Wire:
    """Stands between the writer and redis-py, to break in between two calls."""

    def __init__(self, client: redis.Redis) -> None:
        self._call = client.evalsha
        self.left = -1
        self.after = False
        self.error: BaseException = Crash()

    @contextlib.contextmanager
    def breaking(self, left: int, *, after: bool, error: BaseException) -> Iterator[None]:
        """Break in so many calls from now, before or after what the call does."""
        self.left, self.after, self.error = left + after, after, error
        try:
            yield
        finally:
            self.left = -1

    def __call__(self, *arguments: Any) -> Any:
        if self.left == 0 and not self.after:
            self.left = -1
            raise self.error
        answer = self._call(*arguments)  # what the server has to be given first does not count
        self.left -= 1
        if self.left == 0 and self.after:
            raise self.error
        return answer


class Queue:
    """A consumer's end of the bus."""

    def __init__(self, give_back: Callable[[list[Message]], None]) -> None:
        self.topology = Topology(("notifications",), ("nova",), "bus_cache_pool")
        self.consuming = True
        self.reads_agents = True
        self.unacknowledged: list[Message] = []
        self.acknowledged: Callable[[list[Message]], None] = lambda messages: None
        self._give_back = give_back

    def acknowledge(self) -> None:
        self.acknowledged(self.unacknowledged)
        self.unacknowledged = []

    def give_back(self) -> None:
        self.consuming = False
        messages, self.unacknowledged = self.unacknowledged, []
        self._give_back(messages)

    def consume(self) -> None:
        self.consuming = True


class Asker:
    """Keeps what agents are asked: (host or empty for all, epoch)."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, int]] = []

    def snapshot(self, host: str, after: int) -> None:
        self.questions.append((host, max(after, 0)))

    def snapshots(self, spread: float) -> None:
        self.questions.append(("", 0))

    def listening(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Clock:
    """Stands for the module ``time`` where the product asks it."""

    def __init__(self) -> None:
        self.world: model.World | None = None

    def time(self) -> float:
        assert self.world is not None
        return self.world.now / 1000

    monotonic = time


CLOCK = Clock()
CLOCKED: tuple[types.ModuleType, ...] = (
    bus_cache.index.writer,
    consumers.agents,
    consumers.consumer,
    consumers.reconcile,
    consumers.sweep,
)

NUMBER = st.integers(0, 63)
HOST = st.sampled_from(HOSTS)
IMAGE = st.sampled_from(IMAGES)
BREAK = st.tuples(st.integers(0, 5), st.booleans(), st.booleans())
"""In how many calls, after it or before, whether only the connection breaks."""


class Cloud(RuleBasedStateMachine):
    """One history."""

    server: servers.Redis
    counts: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        target = connect.parse(self.server.url)
        self.raw = self.server.client()
        self.raw.execute_command("FLUSHALL", "SYNC")
        self.client = connect.connect(target, connect_timeout=5.0, read_timeout=20.0)
        self.wire = Wire(self.client)
        self.client.evalsha = self.wire
        self.all_keys = self.raw.register_script(ALL_KEYS)
        self.failed = False
        self.bus: list[Message] = []
        self.asker = Asker()
        self.arrived = model.Arrived()
        self.lossy = self.blind = False
        self.copy: tuple[int, list[tuple[bytes, bytes, int]], model.Arrived] | None = None
        self.counts["examples"] += 1

    @initialize(
        formats=st.sampled_from(["v", "u", "vu"]),
        skews=st.one_of(
            st.just([0] * 4), st.lists(st.sampled_from([-150, 0, 150]), min_size=4, max_size=4)
        ),
        spoils=st.booleans(),
        agents=st.lists(HOST, max_size=2, unique=True),
        boots=st.lists(st.tuples(HOST, IMAGE), max_size=3),
    )
    def begin(
        self,
        formats: str,
        skews: list[int],
        spoils: bool,
        agents: list[str],
        boots: list[tuple[str, str]],
    ) -> None:
        """``spoils``: messages and Redis' data may be lost."""
        skew = {who: n * SECOND for who, n in zip((*HOSTS, model.API), skews, strict=True)}
        self.world = CLOCK.world = model.World(T0, skew, formats)
        self.skewed = any(skews)
        self.spoils = spoils
        self.consumers = [self.consumer() for _ in range(CONSUMERS)]
        for host in agents:
            self.say(self.world.start(host, lost=False))
        for host, image in boots:
            self.say(self.world.boot(host, image))
            self.say(self.world.finish(list(self.world.instances.values())[-1], fails=False))

    def consumer(self) -> Consumer:
        """A consumer that starts."""
        made = Consumer(
            Transport(("memory://",), "the bus", {}),
            Topology(("notifications",), ("nova",), "bus_cache_pool"),
            Writer(self.client, "bus_cache", bus="b1"),
            Rules(),
            agents=Agents(self.asker, Times()),  # type: ignore[arg-type]
            sweep=Sweep(Policy.of(model.INTERVAL // 1000, True, model.MINIMUM_AGE // 1000)),
        )
        made._bus = Queue(self.bus.extend)  # type: ignore[assignment]
        made._steady_since = CLOCK.monotonic()
        return made

    # -- what happens in the cloud -------------------------------------------------------------

    def say(self, messages: Iterable[Message]) -> None:
        """Something happened: its messages are on the bus, and time goes on."""
        for each in messages:
            self.bus.append(each)
            self.counts["messages"] += 1
        self.world.now += 1

    def pick(
        self, number: int, *, resized: bool = False, busy: bool = False
    ) -> model.Instance | None:
        """One of the servers on a host that works with which something can be done."""
        fit = [
            each
            for each in self.world.instances.values()
            if bool(each.task) == busy
            and bool(each.source) == (resized or (busy and each.task == "resize_finish"))
            and not each.shelved
            and self.world.services.get(each.host)
        ]
        return fit[number % len(fit)] if fit else None

    def works(self, host: str) -> bool:
        """Whether nova-compute runs there."""
        return bool(self.world.services.get(host))

    @rule(host=HOST, image=IMAGE, ends=st.sampled_from(["", "well", "well", "badly"]))
    def boot(self, host: str, image: str, ends: str) -> None:
        if self.works(host) and image in self.world.active and len(self.world.instances) < 6:
            self.say(self.world.boot(host, image))
            if ends:
                new = list(self.world.instances.values())[-1]
                self.say(self.world.finish(new, fails=ends == "badly"))

    @precondition(lambda self: any(each.task for each in self.world.instances.values()))
    @rule(number=NUMBER, fails=st.booleans())
    def finish(self, number: int, fails: bool) -> None:
        if one := self.pick(number, busy=True):
            self.say(self.world.finish(one, fails=fails))

    @precondition(lambda self: self.world.instances)
    @rule(
        number=NUMBER,
        host=HOST,
        image=IMAGE,
        what=st.sampled_from(
            ["delete", "delete", "resize", "resize", "live", "rebuild", "rescue", "shelve", "idle"]
        ),
        heard=st.sampled_from([True, True, False]),
    )
    def change(self, number: int, host: str, image: str, what: str, heard: bool) -> None:
        """Something is done with a server; of all that is said of it maybe nothing is heard."""
        before = len(self.bus)
        self.do(number, host, image, what)
        if self.spoils and not heard and len(self.bus) > before:
            del self.bus[before:]
            self.lossy = True

    def do(self, number: int, host: str, image: str, what: str) -> None:
        one = self.pick(number)
        if one is None:
            return
        elsewhere = self.works(host) and host != one.host
        if what == "delete":
            self.say(self.world.delete(one))
        elif what == "resize" and elsewhere:
            self.say(self.world.resize(one, host))
        elif what == "live" and elsewhere:
            self.say(self.world.live_migrate(one, host))
        elif what == "rebuild" and image in self.world.active:
            self.say(self.world.rebuild(one, image))
        elif what == "rescue" and image in self.world.active:
            self.say(self.world.rescue(one, image))
        elif what == "shelve":
            self.say(self.world.shelve(one))
        elif what == "idle":
            self.say(self.world.uninteresting(one))

    @precondition(lambda self: any(each.source for each in self.world.instances.values()))
    @rule(number=NUMBER, confirm=st.booleans())
    def decide(self, number: int, confirm: bool) -> None:
        """A resize is confirmed, or reverted."""
        one = self.pick(number, resized=True)
        if one and self.works(one.source):
            self.say(self.world.confirm(one) if confirm else self.world.revert(one))

    @precondition(lambda self: any(each.shelved for each in self.world.instances.values()))
    @rule(host=HOST, delete=st.booleans())
    def unshelve(self, host: str, delete: bool) -> None:
        one = next(each for each in self.world.instances.values() if each.shelved)
        if delete:
            self.say(self.world.delete(one))
        elif self.works(host):
            self.say(self.world.unshelve(one, host))

    @rule(host=HOST, to=HOST)
    def fail_host(self, host: str, to: str) -> None:
        """A host goes down and its servers are evacuated, or it comes back."""
        up = self.world.services.get(host)
        if up and host != HOSTS[-1]:
            self.say(self.world.service(host, up=False))
            for one in list(self.world.instances.values()):
                if one.host == host and one.settled and not one.source and self.works(to):
                    self.say(self.world.evacuate(one, to))
        elif up is False:
            self.say(self.world.service(host, up=True))

    @rule(host=st.sampled_from(HOSTS[:-1]))
    def service(self, host: str) -> None:
        """A compute service is deleted, where no servers are left, or is there anew."""
        if host not in self.world.services:
            self.say(self.world.service(host, up=True))
        elif not any(host in (i.host, i.source, i.target) for i in self.world.instances.values()):
            self.say(self.world.service_gone(host))

    @rule(host=HOST, images=st.lists(IMAGE, min_size=1, max_size=2, unique=True))
    def precache(self, host: str, images: list[str]) -> None:
        images = [each for each in images if each in self.world.active]
        if images and self.works(host):
            self.say(self.world.precache(host, images))

    @precondition(lambda self: len(self.world.active) > 1)
    @rule(number=NUMBER)
    def image_gone(self, number: int) -> None:
        active = sorted(self.world.active)
        image = active[number % len(active)]
        if not any(each.task and each.image == image for each in self.world.instances.values()):
            self.say(self.world.image_gone(image))

    # -- agents --------------------------------------------------------------------------------

    @rule(host=HOST, how=st.sampled_from(["new", "new", "new", "lost"]))
    def start_agent(self, host: str, how: str) -> None:
        """Also after it was killed, or was upgraded."""
        self.say(self.world.start(host, lost=how == "lost"))

    @precondition(lambda self: self.world.agents)
    @rule(number=NUMBER, how=st.sampled_from(["kill", "goodbye"]))
    def end_agent(self, number: int, how: str) -> None:
        host = sorted(self.world.agents)[number % len(self.world.agents)]
        if how == "goodbye":
            self.say(self.world.look(host, leaving=True))
        del self.world.agents[host]

    @precondition(lambda self: self.world.agents)
    @rule(
        number=NUMBER,
        image=IMAGE,
        how=st.sampled_from(["look", "look", "toggle", "toggle", "snapshot", "fails"]),
    )
    def agent(self, number: int, image: str, how: str) -> None:
        """A file comes or goes; the agent says what is new, or all; or can't be sure that it was
        heard."""
        host = sorted(self.world.agents)[number % len(self.world.agents)]
        if how == "toggle":
            self.world.files[host] ^= {image}
        self.say(self.world.look(host, everything=how == "snapshot"))
        if how == "fails":
            self.world.agents[host].state.forget()

    @precondition(lambda self: self.world.agents)
    @rule(number=NUMBER, image=IMAGE, other=IMAGE, ends=st.sampled_from(["", "kill", "goodbye"]))
    def pass_by(self, number: int, image: str, other: str, ends: str) -> None:
        """A server comes and goes, and its image with it, before the agent looks: what Nova says
        of it is known better by the agent's next word, which is about another file."""
        host = sorted(self.world.agents)[number % len(self.world.agents)]
        if self.works(host) and image in self.world.active:
            self.say(self.world.boot(host, image))
            new = list(self.world.instances.values())[-1]
            self.say(self.world.finish(new, fails=False))
            self.say(self.world.delete(new))
            self.world.remove(host, image)
            self.world.files[host] ^= {other} - {image}
            self.say(self.world.look(host, leaving=ends == "goodbye"))
            if ends:
                del self.world.agents[host]

    @rule(host=HOST, image=IMAGE)
    def remove(self, host: str, image: str) -> None:
        """A file goes, and who is there to tell has not looked yet."""
        self.world.remove(host, image)

    @precondition(lambda self: self.asker.questions)
    @rule(lost=st.booleans())
    def answer(self, lost: bool) -> None:
        """A question arrives, or does not."""
        host, after = self.asker.questions.pop(0)
        if not lost:
            for each in [host] if host else sorted(self.world.agents):
                self.say(self.world.asked(each, after))

    # -- what the bus does ---------------------------------------------------------------------

    @precondition(lambda self: self.bus)
    @rule(
        which=st.lists(NUMBER, min_size=1, max_size=8),
        by=st.integers(0, CONSUMERS - 1),
        write=st.booleans(),
    )
    def deliver(self, which: list[int], by: int, write: bool) -> None:
        """Some messages go to a consumer, in any order."""
        if not self.consumers[by]._bus.consuming:
            return
        for number in which:
            if self.bus:
                self.hand(self.bus.pop(number % len(self.bus)), by)
        if write:
            self.flush(by)

    @precondition(lambda self: self.bus)
    @rule(number=NUMBER)
    def repeat(self, number: int) -> None:
        """A message comes twice."""
        self.bus.append(self.bus[number % len(self.bus)].again())

    @precondition(lambda self: self.bus and self.spoils)
    @rule(which=st.lists(NUMBER, min_size=1, max_size=3))
    def lose(self, which: list[int]) -> None:
        """Messages are lost: by a publisher, a broker or a full queue."""
        for number in which:
            if self.bus and not self.bus[number % len(self.bus)].handed:
                self.bus.pop(number % len(self.bus))
                self.lossy = True

    @rule(
        text=st.sampled_from(["\n", " ", "é", "x" * 256, "", "{bus_cache}", "*"]),
        image=IMAGE,
        how=st.integers(0, 3),
        by=st.integers(0, CONSUMERS - 1),
    )
    def hostile(self, text: str, image: str, how: int, by: int) -> None:
        """Somebody sends what no name can be, speaks for another host, or by another way."""
        world, host = self.world, HOSTS[0]
        fine, absurd = (
            protocol.statement(host, (epoch, 7), names.fingerprint(image))
            for epoch in (world.now, 2**53 - 2)
        )
        stored, publisher = protocol.STORED, protocol.publisher(HOSTS[1])
        data = {"nova_object.data": {"host": text + "\n", "uuid": "x", "image_uuid": image}}
        data["nova_object.version"] = "1.8"  # type: ignore[assignment]
        queue, agents = "bus_cache_pool", protocol.QUEUE
        body = world._body
        sent = [
            (body("instance.create.end", f"nova-compute:{text}\n", world.now, data), "nova", queue),
            (body(stored, publisher, world.now, fine), protocol.EXCHANGE, agents),
            (body(stored, protocol.publisher(host), world.now, fine), "", agents),
            (body(stored, protocol.publisher(host), world.now, absurd), protocol.EXCHANGE, agents),
        ]
        self.hand(Message(*sent[how], at=world.now), by)
        self.flush(by)

    # -- what consumers do ---------------------------------------------------------------------

    def hand(self, message: Message, by: int) -> None:
        consumer = self.consumers[by]
        message.handed = True
        consumer._bus.unacknowledged.append(message)
        consumer._on_delivery(Delivery(message.body, message.exchange, message.queue))

    def flush(self, by: int, ack: bool = True) -> None:
        """Write and acknowledge."""
        consumer = self.consumers[by]

        def acknowledged(messages: list[Message]) -> None:
            if not ack:
                raise Crash
            for message in messages:
                for fact in message.facts:
                    self.arrived.sure.setdefault(fact, self.world.now)

        consumer._bus.acknowledged = acknowledged
        for message in consumer._bus.unacknowledged:
            message.written = True
        consumer._flush(CLOCK.monotonic())
        self.look()

    def crash(self, by: int) -> None:
        """A consumer dies; what it did not acknowledge comes again."""
        self.consumers[by]._bus.give_back()
        self.consumers[by] = self.consumer()
        self.look()

    @rule(by=st.integers(0, CONSUMERS - 1), how=BREAK, ack=st.booleans())
    def crash_writing(self, by: int, how: tuple[int, bool, bool], ack: bool) -> None:
        """A consumer dies, or its connection breaks, between any two calls or before it
        acknowledges."""
        self.world.now += 5 * SECOND  # it tries again after a while
        left, after, connection = how
        error = redis.ConnectionError("reset by peer") if connection else Crash()
        try:
            with self.wire.breaking(left, after=after, error=error):
                self.flush(by, ack)
        except Crash:
            self.crash(by)

    @rule(by=st.integers(0, CONSUMERS - 1), how=st.none() | BREAK)
    def attend(self, by: int, how: tuple[int, bool, bool] | None) -> None:
        """A consumer looks after agents."""
        consumer = self.consumers[by]
        self.guarded(by, how, lambda: consumer._attend(CLOCK.monotonic()))

    @rule(by=st.integers(0, CONSUMERS - 1), how=st.none() | BREAK)
    def sweep(self, by: int, how: tuple[int, bool, bool] | None) -> None:
        """A consumer takes out what has aged out, and forgets images that nobody holds."""
        waiting = [message for message in self.bus if message.exchange == "nova"]
        self.blind |= bool(waiting) or any(each._changes for each in self.consumers)
        consumer = self.consumers[by]
        assert consumer._sweep is not None
        run, writer = consumer._sweep.run, consumer._writer
        self.guarded(by, how, lambda: (run(writer), writer.forget_images(self.world.now)))

    @rule(by=st.integers(0, CONSUMERS - 1), how=st.none() | BREAK)
    def reconcile(self, by: int, how: tuple[int, bool, bool] | None) -> None:
        """A consumer compares with Nova's API, and mends."""
        self.guarded(by, how, lambda: self.compared(by))

    def compared(self, by: int) -> bool:
        """Compare; False where that is refused, since the index knows no host that Nova does."""
        world, stamp = self.world, self.world.now - model.MARGIN
        for host, image in world.used():
            self.arrived.maybe.add(model.Holds(host, image, stamp))
        for host in HOSTS:
            if host not in world.services:
                self.arrived.maybe.add(model.HostGone(host, stamp))
        writer = self.consumers[by]._writer
        known = set(writer.hosts())
        try:
            reconcile.run(Api(world), writer, repair=True)
        except reconcile.Refused:
            assert known
            assert not known & set(world.services)
            return False
        return True

    def guarded(
        self, by: int, how: tuple[int, bool, bool] | None, do: Callable[[], object]
    ) -> None:
        left, after, connection = how or (-1, False, False)
        error = redis.ConnectionError("reset by peer") if connection else Crash()
        try:
            with self.wire.breaking(left, after=after, error=error):
                do()
        except Unavailable:
            assert how
        except Crash:
            self.crash(by)
        self.look()

    # -- what Redis and time do ----------------------------------------------------------------

    @precondition(lambda self: self.spoils)
    @rule()
    def wipe(self) -> None:
        """Redis loses all, its scripts, too."""
        self.raw.execute_command("FLUSHALL", "SYNC")
        self.raw.script_flush()
        self.arrived = model.Arrived()
        self.lossy = True
        for message in self.everything_in_hand():
            message.written = False

    @precondition(lambda self: self.spoils)
    @rule()
    def save(self) -> None:
        """A copy of Redis' data is made."""
        rows = [(key, self.raw.dump(key), self.raw.pttl(key)) for key in self.raw.scan_iter()]
        arrived = self.arrived.copy()
        arrived.maybe |= self.half_written()
        self.copy = self.world.now, rows, arrived

    @precondition(lambda self: self.copy)
    @rule()
    def restore(self) -> None:
        """Redis comes back with an older copy."""
        assert self.copy is not None
        at, rows, arrived = self.copy
        self.copy = None
        if self.world.now - at > model.EXPIRES:
            return
        self.raw.execute_command("FLUSHALL", "SYNC")
        self.arrived = arrived.copy()
        self.lossy = True
        for key, value, ttl in rows:
            self.raw.restore(key, max(ttl, 0), value)
        self.expire(self.world.now - at)
        for message in self.everything_in_hand():
            message.written = False
        self.look()

    @rule(by=st.sampled_from([SECOND, 20 * SECOND, 2 * MINUTE, 20 * MINUTE, 3 * HOUR, 2 * DAY]))
    def time_goes_on(self, by: int) -> None:
        self.advance(by)

    def advance(self, by: int) -> None:
        self.world.now += by
        for message in list(self.bus):
            if self.world.now - message.at > model.EXPIRES:
                self.bus.remove(message)
                self.arrived.maybe |= set(message.facts) if message.written else set()
                self.lossy = True
        self.expire(by)

    def expire(self, by: int) -> None:
        """What expires is so much older. Redis' own clock stands meanwhile."""
        for key, kind, ttl, value in self.keys():
            if ttl >= 0 and key.startswith(KEYS.coming("")):
                assert kind == "zset"
                if max(float(score) for score in value[1::2]) <= self.world.now:
                    self.raw.delete(key)
            elif ttl >= 0:
                self.raw.pexpire(key, ttl - by)

    # -- what must hold at any time ------------------------------------------------------------

    def everything_in_hand(self) -> list[Message]:
        return [*self.bus, *(m for each in self.consumers for m in each._bus.unacknowledged)]

    def half_written(self) -> set[model.Fact]:
        return {
            f for message in self.everything_in_hand() if message.written for f in message.facts
        }

    def keys(self) -> list[tuple[str, str, int, Any]]:
        found = self.all_keys()
        return [(key.decode(), kind.decode(), ttl, value) for key, kind, ttl, value in found]

    def sets(self) -> model.Pairs:
        found: model.Pairs = set()
        for image, hosts in keyspace.sets(self.raw).items():
            found |= {(host, model.NAMES[image]) for host in hosts}
        return found

    def look(self) -> None:
        """Names, bounds, both sides of the index, and agents' words."""
        sets: dict[str, set[str]] = {}
        rows: dict[str, set[str]] = {}
        inventories: dict[str, set[str]] = {}
        managed: set[str] = set()
        heard: set[str] = set()
        record: set[str] = set()
        watched: set[str] = set()
        kept: set[str] = set()
        for key, kind, ttl, value in self.keys():
            assert key.startswith(KEYS.prefix)
            name, _, rest = key.removeprefix(KEYS.prefix).partition(":")
            if name == "image":
                assert kind == "set"
                assert ttl == -1
                for host in value:
                    sets.setdefault(host.decode(), set()).add(rest)
            elif name == "host":
                rows[rest] = {raw.hex() for raw in value[::2]}
            elif name == "agent":
                words = zip(value[::2], value[1::2], strict=True)
                inventories[rest] = {
                    raw.hex() for raw, row in words if not row or msgpack.unpackb(row)[2]
                }
            elif name == "agents":
                record = {host.decode() for host in value[::2]}
                agents = zip(value[::2], value[1::2], strict=True)
                managed = {host.decode() for host, row in agents if msgpack.unpackb(row)[5]}
            elif name == "hosts":
                heard = {host.decode() for host in value[::2]}
            elif name in ("silent", "gaps"):
                watched |= {host.decode() for host in value[::2]}
            elif name == "coming":
                assert ttl >= 0
                assert (
                    max(float(at) for at in value[1::2])
                    <= self.world.now + FETCH_MOST * 1000 + HOUR
                )
                assert {host.decode() for host in value[::2]} <= set(HOSTS)
            elif name == "gone":
                what, _, about = rest.partition(":")
                assert ttl <= model.REMEMBERED
                if ttl == -1:  # it is kept until the host's agent is silent, too
                    assert what == "host"
                    kept.add(about)
            elif name == "claim":
                assert ttl > 0
            else:
                assert name in (
                    "schema",
                    "images",
                    "uses",
                    "services",
                    "ageing",
                    "listening",
                    "wanted",
                )
            if name in ("image", "coming"):
                assert rest in model.NAMES
            if name in ("host", "agent", "uses"):
                assert rest in HOSTS
        assert set(sets) | record | managed <= set(HOSTS)
        assert watched | kept <= record
        # who holds something is known, so that it is compared and forgotten
        assert set(sets) <= heard | managed
        half = {word.host for word in self.half_written() if isinstance(word, model.Word)}
        half |= {word.host for word in self.arrived.maybe if isinstance(word, model.Word)}
        half |= {f.host for f in self.half_written() if isinstance(f, model.HostGone)}
        for host in HOSTS:
            told = inventories if host in managed else rows
            assert sets.get(host, set()) == told.get(host, set()), f"{host}: two sides"
            if host in managed and host not in half:
                self.compare_with_words(host, sets.get(host, set()))

    def compare_with_words(self, host: str, images: set[str]) -> None:
        """What an agent's host holds comes from its words, and nothing else."""
        facts = {*self.arrived.sure, *self.arrived.maybe}
        words = [f for f in self.arrived.sure if isinstance(f, model.Word) and f.host == host]
        gone = max(
            (f.stamp for f in facts if isinstance(f, model.HostGone) and f.host == host), default=0
        )
        if all(word.stamp >= gone for word in words):
            there = model.together(words)
            assert there is not None, f"{host}: no snapshot came"
            assert {model.NAMES[each] for each in images} == there, f"{host}: its agent's words"

    # -- in the end ----------------------------------------------------------------------------

    @rule(seed=st.integers(0, 999), long=st.booleans())
    def settle(self, seed: int, long: bool) -> None:
        """Everything arrives, agents take a snapshot, Nova is asked once; long: and then a day and
        more pass."""
        order = random.Random(seed)
        for by in range(CONSUMERS):
            if order.random() < 0.5:
                self.crash(by)
            self.world.now += 5 * SECOND
            self.flush(by)
            assert self.consumers[by]._bus.consuming
        self.everything_arrives(order)
        self.advance(20 * MINUTE)
        self.agents_tell(order)
        self.compare("when all has arrived", strict=not (self.lossy or self.blind or self.skewed))
        self.advance(2 * MINUTE)
        if not self.compared(order.randrange(CONSUMERS)):
            return
        self.look()
        self.compare("after Nova was asked", strict=True, dead=True)
        if long:
            self.advance(model.MINIMUM_AGE + 3 * model.INTERVAL)
            self.agents_tell(order)
            sweep = self.consumers[0]._sweep
            assert sweep is not None
            sweep.run(self.consumers[0]._writer)
            self.look()
            self.compare("when all has aged out", strict=True, dead=True, aged=True)
        self.blind = False
        self.counts["settled"] += 1

    def everything_arrives(self, order: random.Random) -> None:
        while self.bus:
            by = order.randrange(CONSUMERS)
            for _ in range(order.randrange(1, 9)):
                if self.bus:
                    self.hand(self.bus.pop(order.randrange(len(self.bus))), by)
            self.flush(by)

    def agents_tell(self, order: random.Random) -> None:
        """A snapshot of each; whoever is asked answers, until nobody is."""
        for host in sorted(self.world.agents):
            self.say(self.world.look(host, everything=True))
        self.everything_arrives(order)
        for _ in range(6):
            for consumer in self.consumers:
                consumer._attend(CLOCK.monotonic())
            self.look()
            questions, self.asker.questions = self.asker.questions, []
            for host, after in questions:
                for each in [host] if host else sorted(self.world.agents):
                    self.say(self.world.asked(each, after))
            self.everything_arrives(order)
            self.advance(20 * SECOND)
        # nobody is asked any more but for who does not answer
        assert not {host for host, _ in self.asker.questions} & set(self.world.agents)

    def compare(self, when: str, *, strict: bool, dead: bool = False, aged: bool = False) -> None:
        """Compare the public sets with the model.

        ``strict``: what servers use must be there, too; but an agent may have told that somebody
        removed its file. ``dead``: Nova was asked, and hosts without compute service have left.
        ``aged``: nothing is there that no server uses.
        """
        world = self.world
        found = self.sets()
        must, may = model.bounds(self.arrived, world.now)
        deleted = {
            f.image
            for f in {*self.arrived.sure, *self.arrived.maybe}
            if isinstance(f, model.ImageGone)
        }
        spoke = {f.host for f in self.arrived.sure if isinstance(f, model.Word)}
        for host in HOSTS:
            holds = {image for each, image in found if each == host}
            if host in world.agents:
                assert holds == world.files[host], f"{when}, {host}: not its agent's files"
                continue
            least = {image for each, image in must if each == host}
            most = {image for each, image in may if each == host}
            used = {image for each, image in world.used() if each == host}
            if dead and host not in world.services:
                least = most = set()
            if strict:
                if dead:
                    least |= used - deleted
                    most |= used - deleted
                elif host not in spoke:
                    least |= (used & most) - deleted
            if aged and world.services.get(host):
                most &= used | {
                    i.image
                    for i in world.instances.values()
                    if host in (i.source, i.target) or (host, i.task) == (i.host, "spawning")
                }
                least &= most
            assert least <= holds, f"{when}, {host}: missing {least - holds}"
            assert holds <= most, f"{when}, {host}: wrong {holds - most}"

    def check_invariants(self, *arguments: Any, **named: Any) -> None:
        """Count the steps."""
        self.counts["steps"] += 1
        super().check_invariants(*arguments, **named)

    def teardown(self) -> None:
        try:
            if hasattr(self, "consumers") and sys.exc_info()[0] is None:  # no step failed
                self.settle(seed=0, long=True)
        finally:
            self.raw.close()
            self.client.close()


class Api:
    """Nova's API, of the truth."""

    def __init__(self, world: model.World) -> None:
        self._world = world

    def services(self) -> Any:
        return self._world.list_services()

    def servers(self) -> Iterator[Any]:
        yield self._world.list_servers()

    def exists(self, server: str) -> bool:
        return server in self._world.instances


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The product asks our clock, and logs nothing."""
    for module in CLOCKED:
        monkeypatch.setattr(module, "time", CLOCK)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "part",
    [pytest.param(n, marks=pytest.mark.xdist_group(f"model-{n}")) for n in range(PARTS)],
)
def test_the_index_is_as_the_model_says(
    part: int, redis_server: servers.Redis, clock: None
) -> None:
    """Some histories, the same each time; as many as EXAMPLES says, by chance, by command."""
    counts = {"examples": 0, "steps": 0, "messages": 0, "settled": 0}
    seed = SEED or (random.SystemRandom().randrange(1, 2**32) if EXAMPLES else 1)
    machine = hypothesis.seed(seed + part)(
        type("Cloud", (Cloud,), {"server": redis_server, "counts": counts})
    )
    print(f"seed {seed}")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES or SOME,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
        ),
    )
    print(counts)
    assert counts["examples"] >= (EXAMPLES or SOME)
