"""What reading the bus costs: the real consumer, an oslo.messaging listener and bare kombu, each
with the same backlog on a real RabbitMQ."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kombu.connection import Connection

from bus_cache import names
from tests import keyspace, program, publisher, servers
from tests.bench import peer
from tests.bench.row import Row, beside
from tests.bench.size import Size

BODY = 4200
OURS = "bus_cache"
QUEUES = {"ours": OURS, **peer.QUEUES}
ROUTE = ("nova", "versioned_notifications.info")


class Bodies:
    """Recorded notifications, made 4.2 kB long; the relevant ones each with its own server."""

    def __init__(self) -> None:
        """Read the recording."""
        recorded = publisher.recorded()
        self._relevant = self._body(recorded, peer.RELEVANT)
        self._other = self._body(recorded, "instance.power_on.end")

    @staticmethod
    def _body(recorded: list[dict[str, Any]], event_type: str) -> str:
        found = next(
            publisher.content(each)
            for each in recorded
            if publisher.content(each)["event_type"] == event_type
        )
        data = found["payload"]["nova_object.data"]
        data["host"], data["uuid"], data["image_uuid"] = "%HOST%", "%SERVER%", "%IMAGE%"
        found["timestamp"] = "%TIME%"
        found["_unique_id"] = "%UNIQUE%"  # oslo.messaging drops what has one that it knows

        def whole() -> str:
            return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(found)})

        # as much as a cloud's ids and addresses make it longer than the lab's
        data["display_description"] = "x" * (BODY - len(whole()))
        return whole()

    def stream(self, share: float, images: Iterator[str]) -> Iterator[tuple[bytes, str]]:
        """Yield bodies, each with its image's id; so many of them are relevant, evenly spread."""
        due = 0.0
        for number in itertools.count():
            due += share
            relevant = due >= 1 - 1e-9
            due -= relevant
            image = next(images) if relevant else ""
            body = self._relevant if relevant else self._other
            for mark, value in (
                ("%UNIQUE%", uuid.uuid4().hex),
                ("%HOST%", f"compute{number % 1000}"),
                ("%SERVER%", str(uuid.UUID(int=number + 1))),
                ("%IMAGE%", image),
                ("%TIME%", time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime())),
            ):
                body = body.replace(mark, value)
            yield body.encode(), image


class Drained(NamedTuple):
    """What draining a backlog took."""

    rate: float
    micros: float
    """Processor time per message, of all the program's processes and of Redis, in microseconds."""
    resident: float
    """The most that one of its processes had resident, in MB."""


class Scene:
    """A RabbitMQ and a Redis, the queues of all three readers, and a publisher."""

    def __init__(self, rabbit: servers.RabbitMQ, redis: servers.Redis, folder: Path) -> None:
        """Declare each queue by running its reader once: each has its own properties."""
        self.rabbit, self.redis, self.folder = rabbit, redis, folder
        self.config = folder / "bus_cache.conf"
        # a backlog of 200,000 messages is larger than what the broker would keep by default
        self.config.write_text(
            program.configuration(rabbit.url, redis.url, f"queue_max_bytes = {2**31}\n")
            # all three queues are on disk: by default a listener's is not, which is faster, and
            # gone with the broker
            + "[oslo_messaging_rabbit]\namqp_durable_queues = true\n"
        )
        self.bodies = Bodies()
        self._connection = Connection(rabbit.amqp_url)
        self._channel = self._connection.channel()
        self._channel.exchange_declare("nova", "topic", durable=True, auto_delete=False)
        self._channel.queue_declare(peer.QUEUES["kombu"], durable=True, auto_delete=False)
        for name in ("ours", "oslo"):
            with self.running(name):
                pass
        for queue in QUEUES.values():
            self._channel.queue_bind(queue, *ROUTE)

    def close(self) -> None:
        """Leave the broker."""
        self._connection.release()

    @contextlib.contextmanager
    def running(self, name: str, number: int = 0) -> Iterator[servers.Process]:
        """Run one of the readers from when it reads; more of one kind by their numbers."""
        log = self.folder / f"{name}-{number}.log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-W", "ignore"]
        if name == "ours":  # of this tree, not what is installed
            run = "import sys; from consumers.main import main; sys.exit(main())"
            command += ["-c", run, "--config-file", str(self.config)]
        else:
            command += ["-m", "tests.bench.peer", name, self.rabbit.url, self.redis.url]
        process = servers.Process(command, log)
        try:
            program.wait_for(lambda: "reading" in log.read_text(), 60)
            yield process
        finally:
            process.stop()

    def route_to(self, name: str) -> None:
        """Have only one reader's queue get what is published: nobody empties the others."""
        for each, queue in QUEUES.items():
            bind = self._channel.queue_bind if each == name else self._channel.queue_unbind
            bind(queue, *ROUTE)

    def depth(self, name: str) -> int:
        """Return how many messages wait in a reader's queue that were not handed out."""
        return self.waiting(QUEUES[name])

    def waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue that were not handed out."""
        found: int = self._channel.queue_declare(queue, passive=True).message_count
        return found

    def channel(self) -> Any:
        """Return a channel of its own: when it is closed, the broker has all."""
        return self._connection.channel()

    def publish(self, bodies: Iterator[tuple[bytes, str]], count: int) -> None:
        """Put messages into all bound queues, at full speed."""
        for number, (body, _) in enumerate(itertools.islice(bodies, count)):
            self.send(body)
            if number % 1000 == 999:  # a broker that is slow must not be sent too much ahead
                self._channel.queue_declare(QUEUES["kombu"], passive=True)
        self._channel.close()  # all has arrived when the broker answers
        self._channel = self._connection.channel()

    def send(self, body: bytes) -> None:
        """Publish one message as oslo.messaging does: persistent, JSON."""
        message = self._channel.prepare_message(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            properties={"delivery_mode": 2},
        )
        self._channel.basic_publish(message, *ROUTE)

    def drain(
        self, name: str, readers: int = 1, bodies: Sequence[tuple[bytes, str]] = ()
    ) -> Drained:
        """Let a reader, or several, empty its queue; take the part between start and end.

        ``bodies`` are published when all readers are there, which are held still meanwhile: else
        the first one had emptied the queue before the second one read.
        """
        samples: list[tuple[int, float, float]] = []
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(self.running(name, n)) for n in range(readers)]
            pids = [pid for process in processes for pid in session(process.pid)]
            if bodies:
                _signal(pids, signal.SIGSTOP)
                self.publish(iter(bodies), len(bodies))
                _signal(pids, signal.SIGCONT)
            counted = [*pids, self.redis.process.pid]
            whole = self.depth(name)
            limit = time.monotonic() + 300
            while (depth := self.depth(name)) and time.monotonic() < limit:
                samples.append((depth, time.monotonic(), sum(map(processor_seconds, counted))))
                time.sleep(0.05)
            resident = max(map(most_resident, pids))
        inner = [each for each in samples if each[0] < 0.92 * whole]
        assert len(inner) > 3, f"{name} drained {whole} messages too fast to see: {samples}"
        (left, began, used), (rest, ended, used_then) = inner[0], inner[-1]
        count = left - rest
        return Drained(count / (ended - began), 1e6 * (used_then - used) / count, resident)

    def handled(self, readers: int) -> int:
        """Return how many messages our last so many consumers received, by what they say."""
        logs = [(self.folder / f"ours-{number}.log").read_text() for number in range(readers)]
        return sum(int(re.findall(r"in all received (\d+)", log)[-1]) for log in logs)


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def session(leader: int) -> list[int]:
    """Return the processes of a session; cotyledon forks its worker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(folder.name))
    return found


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


@contextlib.contextmanager
def on_servers() -> Iterator[Scene]:
    with (
        tempfile.TemporaryDirectory(prefix="bus-cache-bench-") as folder,
        servers.RabbitMQ() as rabbit,
        servers.Redis() as redis,
    ):
        scene = Scene(rabbit, redis, Path(folder))
        try:
            yield scene
        finally:
            scene.close()


def images(prefix: str, different: int) -> Iterator[str]:
    return (f"{prefix}-{number % different}" for number in itertools.count())


def _pairs(what: str, *found: list[Drained]) -> list[list[float]]:
    """Return one figure of each round, ours and the peer's."""
    return [[getattr(each, what) for each in pair] for pair in zip(*found, strict=True)]


def rows(size: Size) -> Iterator[Row]:
    """Measure backlogs of both kinds, then a long one."""
    with on_servers() as scene:
        for share, goal in ((0.05, 1 / 7), (1.0, 1 / 5)):
            found: dict[str, list[Drained]] = {name: [] for name in QUEUES}
            for number in range(size.bus_rounds):
                bodies = scene.bodies.stream(share, images(f"{share}-{number}", 200))
                scene.publish(bodies, size.messages)
                for name in QUEUES:
                    found[name].append(scene.drain(name))
            ours, oslo, kombu = (found[name] for name in ("ours", "oslo", "kombu"))
            what = f"{share:.0%} relevant, 4.2 kB"
            yield beside(
                f"consumer and Redis, processor time per message, {what}, "
                "against oslo.messaging + SADD",
                _pairs("micros", ours, oslo),
                "us",
                goal,
            )
            yield beside(
                f"  the same against bare kombu, {what}",
                _pairs("micros", ours, kombu),
                "us",
                None,
            )
            yield beside(
                f"consumer, rate, {what}, against bare kombu",
                _pairs("rate", ours, kombu),
                "1/s",
                0.8 if share < 1 else None,
                at_least=True,
            )
            yield beside(
                f"  the same against oslo.messaging + SADD, {what}",
                _pairs("rate", ours, oslo),
                "1/s",
                None,
            )
        scene.route_to("ours")
        yield from _two(scene, size)
        scene.publish(scene.bodies.stream(0.05, images("backlog", 1000)), size.backlog)
        program.wait_for(lambda: scene.depth("ours") == size.backlog, 60)  # all of it is kept
        drained = scene.drain("ours")
        yield Row(
            f"backlog of {size.backlog:,} messages: most resident memory",
            drained.resident,
            None,
            "MB",
            150,
            bounds="ours",
        )
        rate = statistics.median(each.rate for each in found["ours"])
        yield Row(
            f"  its rate, {drained.rate:,.0f}/s",
            drained.rate,
            None,
            "1/s",
            note=f"at 100 % relevant it was {rate:,.0f}/s",
        )


def _two(scene: Scene, size: Size) -> Iterator[Row]:
    """Measure two consumers on one queue against one: the same messages, the same sets."""
    rates, wrong, twice = [], 0, 0
    for number in range(size.bus_rounds):
        bodies = list(
            itertools.islice(scene.bodies.stream(0.05, images("two", 200)), size.messages)
        )
        rate, sets = {}, {}
        for readers in (1, 2) if number % 2 else (2, 1):
            with scene.redis.client() as client:
                client.flushall()
                rate[readers] = scene.drain("ours", readers, bodies).rate
                sets[readers] = keyspace.sets(client)
            twice += abs(scene.handled(readers) - len(bodies))
        rates.append((rate[2], rate[1]))
        wrong += sum(len(sets[1].get(k, set()) ^ sets[2].get(k, set())) for k in sets[1] | sets[2])
    yield Row(
        "two consumers on one queue: messages lost or handled twice",
        twice,
        None,
        "",
        0,
        bounds="ours",
    )
    yield Row(
        "  entries of sets that differ from one consumer's", wrong, None, "", 0, bounds="ours"
    )
    yield beside("  their rate, 5 % relevant, against one consumer", rates, "1/s", None)


def latency(size: Size, rate: float = 1000.0, share: float = 0.05) -> Iterator[Row]:
    """Measure from publication to the changed set, paced; one reader after the other."""
    with on_servers() as scene:
        took: dict[str, list[list[float]]] = {"ours": [], "oslo": []}
        for number in range(size.bus_rounds):
            for name, found in took.items():
                with scene.running(name):
                    scene.route_to(name)
                    time.sleep(1.0)
                    found.append(_paced(scene, name, f"{name}-{number}", size.paced, rate, share))
        what = f"bus to changed set, {rate:g} messages/s, {share:.0%} relevant"
        for label, place, goal in (("median", 49, None), ("p99", 98, 50.0)):
            ours, oslo = (
                [statistics.quantiles(each, n=100)[place] for each in took[name]]
                for name in ("ours", "oslo")
            )
            rounds = list(map(list, zip(ours, oslo, strict=True)))
            row = beside(f"{what}, {label}", rounds, "ms", 1.0)
            yield row
            if goal is not None:
                yield Row(f"  {label} by itself", row.ours, None, "ms", goal, bounds="ours")


def _paced(
    scene: Scene, name: str, prefix: str, count: int, rate: float, share: float
) -> list[float]:
    """Return the milliseconds from each relevant message's publication to its set's change."""
    keys = names.Keys(OURS) if name == "ours" else peer.KEYS
    expected = int(count * share)
    changed: dict[str, float] = {}
    subscribed, done = threading.Event(), threading.Event()

    def listen() -> None:
        with scene.redis.client() as client, client.pubsub() as changes:
            changes.subscribe("__keyevent@0__:sadd")
            for change in changes.listen():
                if change["type"] == "subscribe":
                    subscribed.set()
                    continue
                changed.setdefault(change["data"].decode(), time.monotonic())
                if len(changed) >= expected:
                    done.set()
                    return

    with scene.redis.client() as client:
        client.config_set("notify-keyspace-events", "Es")
    threading.Thread(target=listen, daemon=True).start()
    assert subscribed.wait(10)
    sent: dict[str, float] = {}
    bodies = scene.bodies.stream(share, (f"{prefix}-{number}" for number in itertools.count()))
    start = time.monotonic()
    for number, (body, image) in enumerate(itertools.islice(bodies, count)):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        if image:
            sent[keys.image(names.fingerprint(image))] = time.monotonic()
        scene.send(body)
    assert done.wait(60), f"{name}: {len(changed)} of {expected} sets changed"
    return [1000 * (changed[key] - at) for key, at in sent.items()]
