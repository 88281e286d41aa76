"""One run: a keyspace and a queue of its own, consumers, publishers, agents, and who watches."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import amqp

from tests import servers
from tests.chaos import stores
from tests.chaos.cloud import Bodies, Cloud, Crew, Message
from tests.chaos.line import Account, Ears, Line
from tests.chaos.nova_api import NovaApi
from tests.chaos.proxy import Proxy
from tests.chaos.truth import Pair, Truth, wrong
from tests.chaos.watch import Watch
from tests.program import Program, configuration

RATE = 6
"""Messages that each of Nova's three publishers sends each tenth of a second, or a few more."""

AFTER = 1.5
"""Seconds for which traffic goes on after the fault."""

LONGEST = 90.0
"""Seconds after the fault in which all must be right; twice as long where something heals it."""

SETTLED = 1.0
"""Seconds for which it must then stay right, with nothing on its way."""

_runs = itertools.count(1)


class NotTested(Exception):
    """The fault did not happen as it should: the run says nothing."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a fault needs.

    :ivar store: makes Redis, for a keyspace.
    :ivar heals: agents answer and Nova's API is there, for what is lost before our queue or with
        Redis' data. Else neither helps: what is right came by the queue.
    :ivar deletions: images and compute services are deleted, too.
    :ivar options: of ``[consumer]``.
    :ivar skew: milliseconds; see :class:`~tests.chaos.cloud.Cloud`.
    :ivar interval: ``reconcile_interval``, seconds.
    :ivar proxied: ``broker`` or ``redis``: consumers reach it by way of a proxy.
    """

    store: Callable[[str], stores.Store] = lambda keyspace: stores.Single()
    heals: bool = False
    deletions: bool = True
    options: str = ""
    skew: int = 0
    interval: int = 3600
    proxied: str = ""


class Scene:
    """All that runs, from ``with`` to its end."""

    def __init__(
        self, rabbit: servers.RabbitMQ, bodies: Bodies, setting: Setting, seed: int
    ) -> None:
        self.random = random.Random(seed)
        self.setting = setting
        self.rabbit = rabbit
        self.name = f"chaos{os.getpid()}-{next(_runs)}"
        self.folder = Path(tempfile.mkdtemp(prefix="bus-cache-chaos-"))
        servers._watchdog.hold_directory(self.folder)
        self.truth = Truth()
        self.cloud = Cloud(self.truth, seed, bodies)
        self.cloud.skew = setting.skew
        self.crew = Crew(self.truth, seed + 1)
        self.account = Account()
        self.dropped = 0
        self.notes: list[str] = []
        self.rss_mb = 0
        self._parts = contextlib.ExitStack()
        self.consumers: list[Program] = []
        self.lines: list[Line] = []

    # -- beginning and end ---------------------------------------------------------------------

    def __enter__(self) -> Scene:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for line in self.lines:
            line.stop()
        for consumer in self.consumers:
            consumer.kill()
        for line in self.lines:
            line.join(20)
        self._parts.close()
        with contextlib.suppress(OSError, amqp.AMQPError, servers.ServerError):
            self._remove_queues()
        shutil.rmtree(self.folder, ignore_errors=True)
        servers._watchdog.release_directory(self.folder)

    def _remove_queues(self) -> None:
        with self.rabbit.connect() as connection:
            for name in (self.name, f"{self.name}.dropped", "bus_cache.info"):
                connection.channel().queue_delete(name)

    def _start(self) -> None:
        setting = self.setting
        self.store = setting.store(self.name)
        self._parts.callback(self.store.close)
        self.api = NovaApi(self.cloud.hosts, self.cloud.servers)
        self._parts.callback(self.api.close)
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(self.api.clouds_yaml(self.folder / "clouds.yaml"))
        self.consumers = [self._program(f"consumer-{n}") for n in (1, 2)]
        for consumer in self.consumers:
            consumer.start()
        for consumer in self.consumers:
            consumer.reading()
        ears = Ears(self.rabbit, self.crew)
        ears.start()
        self._parts.callback(ears.stop)
        ears.listens.wait(30)
        self.crew.snapshots = 10.0 if setting.heals else 0.0
        nova = [("nova-1", self._traffic), ("nova-2", self._traffic), ("nova-3", self._traffic)]
        self.lines = [
            Line(self.rabbit, make, self.account, name)
            for name, make in [*nova, ("agents", self.crew.tick)]
        ]
        self.watch = Watch(self.truth, lambda images: self.store.read(self.name, images))
        self.watch.start()
        self._parts.callback(self.watch.stop)
        for line in self.lines:
            line.start()

    def _program(self, name: str) -> Program:
        rabbit_url, redis_url = self.rabbit.url, self.store.url
        self.proxy: Proxy | None = getattr(self, "proxy", None)
        if self.setting.proxied and self.proxy is None:
            broker = self.setting.proxied == "broker"
            self.proxy = Proxy(self.rabbit.port if broker else self.store.server.port)
            self.proxy.start()
            self._parts.callback(self.proxy.close)
        if self.setting.proxied == "broker":
            assert self.proxy is not None
            rabbit_url = rabbit_url.replace(f":{self.rabbit.port}", f":{self.proxy.port}")
        elif self.setting.proxied:
            assert self.proxy is not None
            redis_url = redis_url.replace(f":{self.store.server.port}", f":{self.proxy.port}")
        options = [f"pool = {self.name}", "gap_grace = 0.5", self.setting.options]
        if self.setting.heals:
            options += ["cloud = chaos", f"reconcile_interval = {self.setting.interval}"]
        options += ["[oslo_messaging_rabbit]", "heartbeat_timeout_threshold = 4"]
        text = configuration(rabbit_url, redis_url, "\n".join(options))
        text = text.replace("[bus_cache]\n", f"[bus_cache]\nkeyspace = {self.name}\n")
        return Program(self.folder, text, name)

    def _traffic(self) -> list[Message]:
        return self.cloud.happen(RATE)

    # -- what a fault can do -------------------------------------------------------------------

    def at_end(self, undo: Callable[[], object]) -> None:
        """Have something undone when the run ends, however it does; the last one first."""
        self._parts.callback(undo)

    def burst(self, servers_built: int) -> None:
        """Publish at once what so many new servers say; returns when the broker has it."""
        line = Line(self.rabbit, list, self.account, "burst")
        line.publish(self.cloud.changes(servers_built))
        line.close()

    @contextlib.contextmanager
    def bursting(self, servers_built: int) -> Iterator[None]:
        """Meanwhile publish what so many new servers say; begin in the middle of it."""
        messages = self.cloud.changes(servers_built)
        line = Line(self.rabbit, list, self.account, "burst")
        thread = threading.Thread(target=line.publish, args=(messages,), daemon=True)
        sent = self.account.sent
        thread.start()
        while self.account.sent < sent + len(messages) // 4:
            time.sleep(0.005)
        time.sleep(self.random.uniform(0, 0.1))
        try:
            yield
        finally:
            thread.join(60)
            line.close()

    def flood(self, count: int, relevant: float) -> None:
        """Publish so many messages at once."""
        line = Line(self.rabbit, list, self.account, "flood")
        while count > 0:
            messages = self.cloud.happen(min(count, 5000), relevant)
            count -= len(messages)
            line.publish(messages)
        line.close()

    def kill(self, *numbers: int) -> None:
        """Kill -9 consumers, with all that they forked."""
        for number in numbers:
            self._weigh()
            self.consumers[number].kill()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the consumers for a while, so that they have their hands full after it."""
        processes = [each.process for each in self.consumers if each.process is not None]
        family = [pid for each in processes for pid in _family(each.pid)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)

    def start(self, *numbers: int) -> None:
        """Start consumers again, as systemd would; returns when they read."""
        before = [len(self.consumers[n].lines(": reading ")) for n in numbers]
        for number in numbers:
            self.consumers[number].start()
        for number, times in zip(numbers, before, strict=True):
            self.consumers[number].reading(times + 1)

    def said(self, text: str) -> int:
        """Return how many lines of the consumers' logs have a text."""
        return sum(len(each.lines(text)) for each in self.consumers)

    def require(self, happened: object, what: str) -> None:
        """Make sure that a fault did happen: else the run proves nothing."""
        if not happened:
            raise NotTested(what)

    def waiting(self) -> int:
        """Return how many messages our queue holds that nobody has in hand."""
        with self.rabbit.connect() as connection:
            return int(connection.channel().queue_declare(self.name, passive=True).message_count)

    def admin(self) -> Any:
        """Return a client of the server that took writes at first."""
        return self.store.server.client(socket_timeout=5)

    # -- the run -------------------------------------------------------------------------------

    def run(self, cause: Callable[[Scene], None]) -> dict[str, Any]:
        """Warm up, let the fault happen, and wait until all is right; return the row."""
        self._until_right(60)
        self.crew.deaf = not self.setting.heals
        self.cloud.deletions = self.setting.deletions
        time.sleep(0.5)
        if self.setting.heals:
            stores.wait_until(lambda: self.said("reconciled with"), 60)
            # as if the comparisons with Nova's API at the start were longer ago than five minutes,
            # and none asked for any more: what heals is what the fault has a consumer ask for
            for name in ("claim:reconcile-begun", "wanted:reconcile"):
                self.store.client().delete(f"{{{self.name}}}:{name}")
        self.watch.begin()
        sent, began = self.account.sent, time.monotonic()
        cause(self)
        ended = time.monotonic()
        time.sleep(AFTER)
        self.crew.quiet = True  # and its line goes on: there may be more to answer
        for line in self.lines[:-1]:
            line.stop()
        for line in self.lines[:-1]:
            line.join(60)
            if line.is_alive():
                raise NotTested(f"{line.name} can't publish")
        per_minute = 60 * (self.account.sent - sent) / (time.monotonic() - began)
        converged = self._until_right(LONGEST * (1 + self.setting.heals))
        self._weigh()
        left = self._wrong_in_all()
        lost = sum(
            any(_touches(about, pair) for about in message for pair in left)
            for message in (self.account.kept if left else ())
        )
        if not converged:
            self.notes.append("not right in time")
        return {
            "sent": self.account.sent,
            "relevant": self.account.relevant,
            "dropped": self.dropped + self.account.unrouted,
            "applied": len(self.account.kept) - lost,
            "lost": lost,
            "wrong": len(left),
            "longest_wrong_s": round(self.watch.longest, 1),
            "converged_s": round(max(0.0, self.watch.last_late - ended), 1),
            "by_hand": 0,
            "rss_mb": self.rss_mb,
            "per_minute": round(per_minute),
            "notes": self.notes + [f"{pair.host} {pair.image}" for pair in sorted(left)[:5]],
        }

    def _until_right(self, seconds: float) -> bool:
        """Wait until nothing is wrong, and stays right for a while; False: not in time."""
        deadline = time.monotonic() + seconds
        since: float | None = None
        while True:
            time.sleep(0.1)
            found = self.watch.now_wrong
            quiet = self.crew.quiet
            right = found is not None and (not found if quiet else len(found) < 5)
            now = time.monotonic()
            since = (since or now) if right else None
            if since is not None and now - since >= (SETTLED if quiet else 0.5):
                return True
            if now > deadline:
                return False

    def _wrong_in_all(self) -> set[Pair]:
        try:
            return wrong(self.truth.sets(), self.store.read_all(self.name))
        except Exception as error:  # whatever a client raises
            raise NotTested(f"Redis can't be read at the end: {error}") from error

    def _weigh(self) -> None:
        for consumer in self.consumers:
            if consumer.process is not None:
                for pid in _family(consumer.process.pid):
                    self.rss_mb = max(self.rss_mb, _peak(pid))

    def tails(self) -> str:
        """Return the ends of the consumers' logs."""
        return "\n".join(
            f"--- {each.log.name}\n{servers.tail(each.log)}" for each in self.consumers
        )


def _touches(about: Pair, pair: Pair) -> bool:
    return about.image in ("", pair.image) and about.host in ("", pair.host)


def _family(pid: int) -> Sequence[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += _family(int(child))
    return found


def _peak(pid: int) -> int:
    """Return a process' largest resident memory, in MB."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
    return 0
