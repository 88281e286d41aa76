"""Redis in each topology that is tormented: a single server, one under Sentinels, a Cluster."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis
import redis.sentinel

from tests import servers
from tests.chaos.truth import Sets

_IMPATIENT = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0}


def _sentinel(master: servers.Redis) -> servers.Sentinel:
    """Return one that watches a master, which two of three must miss for a second."""
    return servers.Sentinel(
        master.port,
        "sentinel down-after-milliseconds mymaster 1000",
        "sentinel failover-timeout mymaster 5000",
        quorum=2,
    )


class Node(servers.Redis):
    """One of a Cluster; its bus has a port of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments = (
            *("--cluster-enabled", "yes"),
            *("--cluster-port", str(servers.free_port())),
            *("--cluster-node-timeout", "1000"),
        )


class Store:
    """A Redis, however it is made up.

    :ivar url: as the product takes it.
    :ivar server: the one that takes writes at first.
    """

    url: str
    server: servers.Redis

    def __init__(self) -> None:
        self._parts = contextlib.ExitStack()
        self._client: Any = None

    def client(self) -> Any:
        """Return a client for reading; not through what stands between it and the product."""
        if self._client is None:
            self._client = self._make()
        return self._client

    def _make(self) -> Any:
        return self.server.client(**_IMPATIENT)

    def read(self, keyspace: str, images: Iterable[str]) -> Sets:
        """Return the public sets of some images."""
        names = list(images)
        pipeline = self.client().pipeline(transaction=False)
        for image in names:
            pipeline.smembers(f"{{{keyspace}}}:image:{image}")
        return {
            image: {host.decode() for host in hosts}
            for image, hosts in zip(names, pipeline.execute(), strict=True)
        }

    def read_all(self, keyspace: str) -> Sets:
        """Return all public sets, also of images that nobody should know."""
        prefix = f"{{{keyspace}}}:image:"
        keys = list(self.client().scan_iter(match=f"{prefix}*", count=1000))
        return self.read(keyspace, [key.decode().removeprefix(prefix) for key in keys])

    def failover(self) -> None:
        """Kill the server that takes writes, wait for another, and bring the first one back."""
        raise NotImplementedError

    def close(self) -> None:
        self._parts.close()


class Single(Store):
    """One server."""

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.server = self._parts.enter_context(servers.Redis(*arguments))
        self.url = self.server.url


def persistent(fsync: str = "always") -> Single:
    """Return a server that keeps all that it acknowledged.

    With ``everysec`` it does not: while the disk is busy Redis answers first, and writes up to two
    seconds later (``flushAppendOnlyFile`` in its aof.c).
    """
    return Single("--appendonly", "yes", "--appendfsync", fsync)


class Watched(Store):
    """A master and two replicas under three Sentinels."""

    def __init__(self) -> None:
        super().__init__()
        self.server = self._parts.enter_context(servers.Redis())
        for _ in range(2):
            self._parts.enter_context(
                servers.Redis("--replicaof", f"{servers.LOOPBACK} {self.server.port}")
            )
        wait_until(lambda: _online(self.server) == 2, 30)
        sentinels = [self._parts.enter_context(_sentinel(self.server)) for _ in range(3)]
        nodes = [(servers.LOOPBACK, each.port) for each in sentinels]
        self._sentinel = redis.sentinel.Sentinel(nodes, sentinel_kwargs=_IMPATIENT)
        self.url = "redis+sentinel://" + ",".join(f"{h}:{p}" for h, p in nodes) + "/mymaster/0"
        # all must know of each other and of both replicas
        for each in sentinels:
            client = each.client()
            wait_until(lambda c=client: _sentinel_knows(c) == (2, 2), 30)  # type: ignore[misc]

    def _make(self) -> Any:
        return self._sentinel.master_for("mymaster", **_IMPATIENT)

    def failover(self) -> None:
        before = self.server.port
        self.server.kill()
        wait_until(lambda: self._sentinel.discover_master("mymaster")[1] != before, 30)
        self.server.start()  # a Sentinel makes it a replica


class Cluster(Store):
    """Three masters with a replica each."""

    def __init__(self, keyspace: str) -> None:
        super().__init__()
        self._nodes = [self._parts.enter_context(Node()) for _ in range(6)]
        self._keyspace = keyspace
        addresses = [f"{servers.LOOPBACK}:{each.port}" for each in self._nodes]
        self.url = "redis+cluster://" + ",".join(addresses)
        command = [servers.program("redis-cli", "redis-tools"), "--cluster", "create", *addresses]
        done = subprocess.run(
            [*command, "--cluster-replicas", "1", "--cluster-yes"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise servers.ServerError(done.stdout + done.stderr)
        for each in self._nodes:
            client = each.client()
            wait_until(lambda c=client: c.cluster("info")["cluster_state"] == "ok", 30)  # type: ignore[misc]
        self.server = self._owner()
        wait_until(lambda: _online(self.server) == 1, 30)

    def _make(self) -> Any:
        nodes = [redis.cluster.ClusterNode(servers.LOOPBACK, each.port) for each in self._nodes]
        return redis.cluster.RedisCluster(startup_nodes=nodes, **_IMPATIENT)

    def _owner(self) -> servers.Redis:
        """Return the node that has our keys' slot."""
        with self._make() as client:
            node = client.get_node_from_key(f"{{{self._keyspace}}}:schema")
        return next(each for each in self._nodes if each.port == node.port)

    def failover(self) -> None:
        self.server.kill()

        def moved() -> bool:
            with contextlib.suppress(Exception):  # a Cluster that is not whole, in many words
                return self._owner() is not self.server
            return False

        wait_until(moved, 30)
        self.server.start()


def _online(master: servers.Redis) -> int:
    info = master.client().info("replication")
    replicas = [info.get(f"slave{n}", {}) for n in range(info["connected_slaves"])]
    return sum(each.get("state") == "online" for each in replicas)


def _sentinel_knows(client: redis.Redis) -> tuple[int, int]:
    found = client.sentinel_master("mymaster")
    return found["num-slaves"], found["num-other-sentinels"]


def wait_until(check: Callable[[], object], seconds: float) -> None:
    """Return when a check is true, which may fail until then."""
    deadline = time.monotonic() + seconds
    while True:
        found: object = None
        try:
            found = check()
        except (redis.RedisError, OSError) as error:
            last: object = error
        else:
            last = found
        if found:
            return
        if time.monotonic() > deadline:
            raise servers.ServerError(f"not within {seconds} s: {last!r}")
        time.sleep(0.05)
