"""The faults: what happens, from its beginning until whatever was broken is whole again.

Each makes sure that it did happen: a run in which it did not proves nothing.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from tests import servers
from tests.chaos import stores
from tests.chaos.folder import folder
from tests.chaos.scene import Scene, Setting


class Fault(NamedTuple):
    """One row."""

    says: str
    cause: Callable[[Scene], None]
    setting: Setting = Setting()


PERSISTENT = Setting(store=lambda keyspace: stores.persistent())
# what is lost must not be a deletion: see docs/faults.md
HEALS = Setting(heals=True, deletions=False)

# -- the consumer --------------------------------------------------------------------------------


def consumer_kill(scene: Scene) -> None:
    for _ in range(3):
        which = scene.random.randrange(2)
        with scene.paused():
            scene.burst(1500)
        time.sleep(scene.random.uniform(0, 0.15))
        scene.kill(which)
        time.sleep(0.5)
        scene.start(which)


def consumers_killed(scene: Scene) -> None:
    with scene.paused():
        scene.burst(1500)
    time.sleep(scene.random.uniform(0, 0.1))
    scene.kill(0, 1)
    time.sleep(2)
    scene.require(scene.waiting() > 100, "nothing waits in the queue")
    scene.start(0, 1)


def backlog(scene: Scene) -> None:
    """As after a weekend; of what waits five in a hundred say something."""
    scene.kill(0, 1)
    scene.flood(200_000, relevant=0.03)
    scene.require(scene.waiting() >= 200_000, "fewer wait")
    scene.start(0, 1)


# -- the broker ----------------------------------------------------------------------------------


def broker_restart(scene: Scene) -> None:
    """In good order, or, by chance, as it dies."""
    with scene.bursting(500):
        if scene.random.random() < 0.5:
            scene.rabbit.stop()
        else:
            scene.rabbit.kill()
        scene.rabbit.start()


def connections_cut(scene: Scene) -> None:
    before = scene.said("Waiting for it")
    for _ in range(2):
        with scene.bursting(1000):
            scene.rabbit.ctl("close_all_connections", "chaos")
    time.sleep(0.5)
    scene.require(scene.said("Waiting for it") > before, "no consumer noticed")


def queue_deleted(scene: Scene) -> None:
    """What waited in it is counted by the broker's answer."""
    with scene.bursting(1000), scene.rabbit.connect() as connection:
        scene.dropped += int(connection.channel().queue_delete(scene.name))
    stores.wait_until(lambda: scene.rabbit.has_queue(scene.name), 30)


def queue_overflow(scene: Scene) -> None:
    """What the broker dropped is what was published, less what waits: nobody reads meanwhile."""
    scene.kill(0, 1)
    for line in scene.lines:
        line.hold()
    time.sleep(0.5)
    before, unrouted = scene.account.sent, scene.account.unrouted
    waiting = scene.waiting()
    scene.flood(2000, relevant=0.3)
    kept = scene.waiting() - waiting
    published = scene.account.sent - before - (scene.account.unrouted - unrouted)
    scene.dropped += published - kept
    scene.require(scene.dropped > 500, "nothing was dropped")
    for line in scene.lines:
        line.go_on()
    scene.start(0, 1)


def memory_alarm(scene: Scene) -> None:
    scene.burst(200)
    scene.rabbit.ctl("set_vm_memory_high_watermark", "0.0000001")
    before = scene.account.sent
    time.sleep(5)
    blocked = scene.account.sent - before
    scene.rabbit.ctl("set_vm_memory_high_watermark", "0.4")
    scene.require(blocked < 500, "publishers were not blocked")


def consumer_timeout(scene: Scene) -> None:
    """The broker closes a channel whose messages are unacknowledged for 5 s; it looks each 2 s."""
    set_timeouts(scene, 5000, 2000)
    try:
        scene.kill(0, 1)
        scene.start(0, 1)  # a channel's timeout is as it was when it was opened
        scene.store.server.kill()
        time.sleep(16)
        scene.store.server.start()
    finally:
        set_timeouts(scene, 1_800_000, 60_000)
    scene.require(scene.said("delivery acknowledgement"), "no consumer was closed")


def set_timeouts(scene: Scene, timeout: int, tick: int) -> None:
    for name, value in (("consumer_timeout", timeout), ("channel_tick_interval", tick)):
        scene.rabbit.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")


# -- Redis ---------------------------------------------------------------------------------------


def redis_kill(scene: Scene) -> None:
    with scene.paused():
        scene.burst(1500)
    time.sleep(scene.random.uniform(0, 0.15))
    scene.store.server.kill()
    time.sleep(3)
    scene.store.server.start()


def redis_paused(scene: Scene) -> None:
    process = scene.store.server.process
    assert process is not None
    process.signal(signal.SIGSTOP)
    try:
        time.sleep(20)
    finally:
        process.signal(signal.SIGCONT)


def redis_full(scene: Scene) -> None:
    with scene.admin() as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 1)
        time.sleep(5)
        refused = admin.info("stats")["total_error_replies"]
        admin.config_set("maxmemory", 0)
    scene.require(refused, "Redis refused nothing")


def redis_replica(scene: Scene) -> None:
    """Its master can't be reached, so it keeps its data."""
    with scene.admin() as admin:
        admin.replicaof(servers.LOOPBACK, 1)
        time.sleep(5)
        refused = admin.info("stats")["total_error_replies"]
        admin.replicaof("NO", "ONE")
    scene.require(refused, "Redis refused nothing")


def flushall(scene: Scene) -> None:
    with scene.bursting(1000), scene.admin() as admin:
        admin.flushall()


def failover(scene: Scene) -> None:
    with scene.paused():
        scene.burst(1500)
    time.sleep(scene.random.uniform(0, 0.15))
    scene.store.failover()


# -- between -------------------------------------------------------------------------------------


def delay(scene: Scene) -> None:
    """A fifth of a second each way."""
    assert scene.proxy is not None
    before = scene.proxy.passed
    scene.proxy.delay = 0.2
    scene.burst(400)
    time.sleep(5)
    scene.proxy.delay = 0.0
    scene.require(scene.proxy.passed > before, "nothing went through the proxy")


def cut(scene: Scene) -> None:
    assert scene.proxy is not None
    before = scene.said("Waiting for it")
    for _ in range(4):
        with scene.bursting(500):
            scene.proxy.cut()
        time.sleep(0.5)
    scene.require(scene.said("Waiting for it") > before, "no consumer noticed")


def hole(scene: Scene) -> None:
    """What is sent is swallowed for 12 s, then all is reset, as when a firewall comes back."""
    assert scene.proxy is not None
    before = scene.said("Waiting for it")
    with scene.bursting(500):
        scene.proxy.hole = True
    time.sleep(12)
    scene.proxy.hole = False
    scene.proxy.cut()
    time.sleep(0.5)
    scene.require(scene.said("Waiting for it") > before, "no consumer noticed")


# -- the rest ------------------------------------------------------------------------------------


def clocks(scene: Scene) -> None:
    """The difference is there all the time: see the setting."""
    for _ in range(5):
        scene.burst(100)
        time.sleep(1)


def combination(scene: Scene) -> None:
    """Three faults by chance, one right after the other."""
    chosen = scene.random.sample(MIXED, 3)
    scene.notes.append(" + ".join(each.__name__ for each in chosen))
    for each in chosen:
        each(scene)


MIXED = [consumer_kill, consumers_killed, broker_restart, redis_kill, redis_full, flushall]

FAULTS: dict[str, Fault] = {
    "consumer-kill": Fault("a consumer: kill -9 in a batch, three times", consumer_kill),
    "consumers-killed": Fault("both consumers: kill -9", consumers_killed),
    "broker-restart": Fault(
        "the broker restarted, in good order or by kill -9", broker_restart, HEALS
    ),
    "connections-cut": Fault("the broker closes all connections, twice", connections_cut),
    "queue-deleted": Fault("our queue deleted under the consumers", queue_deleted, HEALS),
    "queue-overflow": Fault(
        "our queue overflows (256 KiB) while no consumer runs",
        queue_overflow,
        Setting(heals=True, deletions=False, options="queue_max_bytes = 262144"),
    ),
    "memory-alarm": Fault("the broker's memory alarm, 5 s", memory_alarm),
    "consumer-timeout": Fault(
        "consumer_timeout of 5 s, while Redis is away for 16 s", consumer_timeout, PERSISTENT
    ),
    "redis-kill": Fault("Redis with appendfsync always: kill -9, 3 s", redis_kill, PERSISTENT),
    "redis-kill-everysec": Fault(
        "Redis with appendfsync everysec: kill -9, 3 s",
        redis_kill,
        Setting(store=lambda keyspace: stores.persistent("everysec"), heals=True, deletions=False),
    ),
    "redis-kill-empty": Fault("Redis without persistence: kill -9, 3 s", redis_kill, HEALS),
    "redis-paused": Fault("Redis paused for 20 s", redis_paused),
    "redis-full": Fault("Redis: maxmemory reached, noeviction, 5 s", redis_full),
    "redis-replica": Fault("Redis: a read-only replica for 5 s", redis_replica),
    "redis-flushall": Fault("Redis: FLUSHALL", flushall, HEALS),
    "sentinel-failover": Fault(
        "the master killed, failover by three Sentinels",
        failover,
        Setting(store=lambda keyspace: stores.Watched(), heals=True, deletions=False),
    ),
    "cluster-failover": Fault(
        "our slot's master killed, failover in a Cluster of six",
        failover,
        Setting(store=stores.Cluster, heals=True, deletions=False),
    ),
    "broker-delay": Fault("0.2 s each way to the broker, 5 s", delay, Setting(proxied="broker")),
    "broker-cut": Fault(
        "connections to the broker reset, four times", cut, Setting(proxied="broker")
    ),
    "broker-hole": Fault("the broker black-holed for 12 s", hole, Setting(proxied="broker")),
    "redis-delay": Fault("0.2 s each way to Redis, 5 s", delay, Setting(proxied="redis")),
    "redis-cut": Fault("connections to Redis reset, four times", cut, Setting(proxied="redis")),
    "redis-hole": Fault("Redis black-holed for 12 s", hole, Setting(proxied="redis")),
    "backlog": Fault(
        "200,000 messages wait when the consumers start",
        backlog,
        Setting(options=f"queue_max_bytes = {4 * 1024**3}"),
    ),
    "clocks": Fault("publishers' clocks 5 minutes apart", clocks, Setting(skew=150_000)),
    "folder": Fault("the folder of a real agent unmounted and mounted again, twice", folder, HEALS),
    "combination": Fault(
        "three of them by chance, one after the other",
        combination,
        Setting(heals=True, deletions=False, interval=4),
    ),
}
