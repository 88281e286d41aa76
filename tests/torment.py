"""Redis servers that behave badly: real ones, or real ones behind a TCP proxy that spoils answers.

Each torment is a context manager; within it a fault begins and ends as often as wanted::

    with Stage(folder) as stage, TORMENTS["black hole"](stage) as torment:
        torment.url         # for [bus_cache] redis_url; well, and IMAGE is held by HOLDER
        torment.begin()
        torment.end()
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis import crc
from redis.backoff import NoBackoff
from redis.retry import Retry

from bus_cache import names
from tests import certificates, servers

IMAGE = "7d4e1f0a-3b52-4c8e-9a61-0f2c5b8d7e93"
HOLDER = "compute3"
KEY = names.Keys("bus_cache").image(names.fingerprint(IMAGE))

PIECE, PAUSE = 50, 0.03
"""An answer that trickles: bytes, and seconds before each piece."""

Shape = Callable[[socket.socket, bytes, bytes], None]
"""Sends a client something for what it asked and what the server answered."""


class Proxy:
    """Listens on a port of its own and forwards to another one.

    :ivar shape: decides what clients hear, on old connections and new ones.
    """

    def __init__(self, to: int) -> None:
        self.port = servers.free_port()
        self.shape: Shape = plain
        self._to = to
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._fill: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.listen()

    @property
    def url(self) -> str:
        return f"redis://{servers.LOOPBACK}:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._open) // 2

    def listen(self) -> None:
        """Take connections, again."""
        self.deaf()
        self._listener = socket.create_server((servers.LOOPBACK, self.port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def deaf(self) -> None:
        """Refuse connections."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for each in self._fill:
            each.close()
        self._fill = []

    def full(self) -> None:
        """Have the kernel drop the packets of who connects: the backlog is full."""
        self.deaf()
        self._listener = socket.create_server((servers.LOOPBACK, self.port), backlog=0)
        with contextlib.suppress(TimeoutError):
            while True:
                each = socket.socket()
                self._fill.append(each)
                each.settimeout(0.1)
                each.connect((servers.LOOPBACK, self.port))

    def cut(self) -> None:
        """End all connections that there are."""
        with self._lock:
            found = list(self._open)
        for each in found:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def spoil(self, shape: Shape, *, cut: bool = False) -> None:
        """Begin to shape answers."""
        self.shape = shape
        if cut:
            self.cut()

    def heal(self) -> None:
        """Forward as it is; connections that were spoilt end."""
        self.shape = plain
        self.cut()
        self.listen()

    def close(self) -> None:
        self.deaf()
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        asked = bytearray()
        try:
            server = socket.create_connection((servers.LOOPBACK, self._to))
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, server:
            with self._lock:
                self._open |= {client, server}
            back = threading.Thread(target=self._back, args=[server, client, asked], daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    asked[:] = data
                    server.sendall(data)
            for each in (client, server):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            back.join()
            with self._lock:
                self._open -= {client, server}

    def _back(self, server: socket.socket, client: socket.socket, asked: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self.shape(client, bytes(asked), data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def plain(client: socket.socket, asked: bytes, answer: bytes) -> None:
    client.sendall(answer)


def swallow(client: socket.socket, asked: bytes, answer: bytes) -> None:
    pass


def late(seconds: float) -> Shape:
    """Return what lets each answer wait."""

    def shape(client: socket.socket, asked: bytes, answer: bytes) -> None:
        time.sleep(seconds)
        client.sendall(answer)

    return shape


def trickle(client: socket.socket, asked: bytes, answer: bytes) -> None:
    for start in range(0, len(answer), PIECE):
        time.sleep(PAUSE)
        client.sendall(answer[start : start + PIECE])


def endless(client: socket.socket, asked: bytes, answer: bytes) -> None:
    """Begin an answer of 500 MB, which would take days."""
    client.sendall(b"$500000000\r\n")
    while True:
        time.sleep(PAUSE)
        client.sendall(b"x" * PIECE)


def garbage(client: socket.socket, asked: bytes, answer: bytes) -> None:
    client.sendall(random.Random(len(asked)).randbytes(500) + b"\r\n")


def half(client: socket.socket, asked: bytes, answer: bytes) -> None:
    client.sendall(answer[: len(answer) // 2])
    client.shutdown(socket.SHUT_RDWR)


def moved_to(port: int) -> Shape:
    """Return what sends who reads to this port."""
    moved = f"-MOVED {crc.key_slot(KEY.encode())} {servers.LOOPBACK}:{port}\r\n".encode()

    def shape(client: socket.socket, asked: bytes, answer: bytes) -> None:
        client.sendall(moved if b"SMISMEMBER" in asked.upper() else answer)

    return shape


class Nameserver:
    """Answers each name with the loopback address; or not at all.

    :ivar silent: never answers.
    """

    def __init__(self) -> None:
        self.silent = False
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self.address = ""
        while not self.address:
            address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.53"
            with contextlib.suppress(FileExistsError, OSError):
                self._socket.bind((address, 53))
                self.address = address
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, sender = self._socket.recvfrom(512)
                if not query:
                    return
                if self.silent:
                    continue
                end = query.index(b"\0", 12) + 5
                wants_ipv4 = query[end - 4 : end - 2] == b"\0\1"
                head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, wants_ipv4, 0, 0)
                record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1"
                self._socket.sendto(head + query[12:end] + record * wants_ipv4, sender)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Loading(servers.Redis):
    """Counts as started while it still loads its data."""

    def client(self, **options: Any) -> redis.Redis:
        return super().client(retry=Retry(NoBackoff(), 0), **options)  # else it waits itself

    def _probe(self) -> None:
        with contextlib.suppress(redis.BusyLoadingError):
            super()._probe()


class Stage:
    """What torments share: a Redis, with TLS too, and a nameserver where that is possible.

    :ivar ca_file: signs the certificate of the TLS port.
    :ivar nameserver: None without root's rights.
    :ivar under: prefix of a command line that has the nameserver asked; empty without one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "authority.pem"
        self.tls_port = servers.free_port()
        self.nameserver: Nameserver | None = None
        self.under: list[str] = []

    def __enter__(self) -> Stage:
        certificate, key = certificates.Authority(self.folder).sign("redis")
        files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
        tls = ["--tls-port", str(self.tls_port), *files, "--tls-auth-clients", "no"]
        self.server = servers.Redis(*tls).start()
        fill(self.server)
        self._start_nameserver()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.close()
        if self.nameserver is not None:
            self.nameserver.close()

    def _start_nameserver(self) -> None:
        unshare = shutil.which("unshare")
        if os.geteuid() != 0 or unshare is None:
            return
        nameserver = Nameserver()
        own = self.folder / "resolv.conf"
        # 5 s, as long as the default's first try, and sooner back
        own.write_text(f"nameserver {nameserver.address}\noptions timeout:1 attempts:5\n")
        mount = f'mount --bind {own} /etc/resolv.conf && exec "$@"'
        under = [unshare, "--mount", "sh", "-c", mount, "sh"]
        if subprocess.run([*under, "true"], capture_output=True, check=False).returncode:
            nameserver.close()  # a container without the right to mount
            return
        self.nameserver, self.under = nameserver, under


def fill(server: servers.Redis, members: int = 1) -> None:
    """Have the image held by one host, and by others that are not asked about."""
    with server.client() as client:
        client.delete(KEY)
        client.sadd(KEY, HOLDER)
        for start in range(1, members, 10_000):
            client.sadd(KEY, *(f"elsewhere{n}" for n in range(start, min(members, start + 10_000))))


@dataclasses.dataclass
class Torment:
    """A Redis with a fault that can begin and end.

    :ivar known: whether calls know who holds the image while it lasts, at least after a while.
    :ivar asked: whether Redis is asked on, although they do not know.
    """

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]
    known: bool = False
    asked: bool = False


class Impossible(Exception):
    """It can't be staged here; the text says why."""


@contextlib.contextmanager
def _proxy(to: int) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(to)) as proxy:
        yield proxy


def _spoilt(shape: Shape, *, cut: bool = False, **more: bool) -> Any:
    """Return a torment in which answers are shaped; on new connections only, or old ones too."""

    @contextlib.contextmanager
    def torment(stage: Stage) -> Iterator[Torment]:
        with _proxy(stage.server.port) as proxy:
            yield Torment(proxy.url, lambda: proxy.spoil(shape, cut=cut), proxy.heal, **more)

    return torment


@contextlib.contextmanager
def _refused(stage: Stage) -> Iterator[Torment]:
    with _proxy(stage.server.port) as proxy:
        yield Torment(proxy.url, lambda: (proxy.deaf(), proxy.cut()), proxy.heal)


@contextlib.contextmanager
def _dropped(stage: Stage) -> Iterator[Torment]:
    with _proxy(stage.server.port) as proxy:
        yield Torment(proxy.url, lambda: (proxy.full(), proxy.cut()), proxy.heal)


@contextlib.contextmanager
def _dns(stage: Stage) -> Iterator[Torment]:
    nameserver = stage.nameserver
    if nameserver is None:
        raise Impossible("a nameserver of one's own needs root and the right to mount")

    def set_silent(silent: bool) -> None:
        nameserver.silent = silent
        proxy.cut()

    with _proxy(stage.server.port) as proxy:
        url = f"redis://redis.test:{proxy.port}/0"
        try:
            yield Torment(url, lambda: set_silent(True), lambda: set_silent(False))
        finally:
            nameserver.silent = False


@contextlib.contextmanager
def _tls(stage: Stage) -> Iterator[Torment]:
    with _proxy(stage.tls_port) as proxy:
        url = f"rediss://{servers.LOOPBACK}:{proxy.port}/0"
        yield Torment(url, lambda: proxy.spoil(swallow, cut=True), proxy.heal)


@contextlib.contextmanager
def _sentinel(stage: Stage) -> Iterator[Torment]:
    """The master hangs, and the Sentinels with it."""
    with (
        _proxy(stage.server.port) as proxy,
        servers.Sentinel(proxy.port) as watcher,
        _proxy(watcher.port) as sentinels,
    ):

        def begin() -> None:
            for each in (sentinels, proxy):
                each.spoil(swallow, cut=True)

        def end() -> None:
            for each in (sentinels, proxy):
                each.heal()

        url = f"redis+sentinel://{servers.LOOPBACK}:{sentinels.port}/mymaster/0"
        yield Torment(url, begin, end)


@contextlib.contextmanager
def _cluster(stage: Stage, shape: Callable[[int], Shape]) -> Iterator[Torment]:
    """A real Cluster of one node, which names the proxy as its port."""
    node = servers.Redis("--cluster-enabled", "yes", "--cluster-port", str(servers.free_port()))
    with _proxy(node.port) as proxy:
        node.arguments += ("--cluster-announce-port", str(proxy.port))
        with node, node.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            while client.cluster("INFO")["cluster_state"] != "ok":
                time.sleep(0.02)
            fill(node)
            url = f"redis+cluster://{servers.LOOPBACK}:{proxy.port}"
            yield Torment(url, lambda: proxy.spoil(shape(proxy.port), cut=True), proxy.heal)


def _moved(stage: Stage) -> contextlib.AbstractContextManager[Torment]:
    return _cluster(stage, moved_to)


def _cluster_hole(stage: Stage) -> contextlib.AbstractContextManager[Torment]:
    return _cluster(stage, lambda port: swallow)


@contextlib.contextmanager
def _loading(stage: Stage) -> Iterator[Torment]:
    server = Loading("--loading-process-events-interval-bytes", "1024")
    with server:
        fill(server)

        def begin() -> None:
            with server.client() as client:
                client.mset({f"other{n}": n for n in range(100_000)})
                client.save()
            server.kill()
            server.arguments += ("--key-load-delay", "10")
            server.start()
            with server.client() as client, contextlib.suppress(redis.BusyLoadingError):
                client.ping()
                raise AssertionError("Redis has loaded its data already")

        def end() -> None:
            server.arguments = server.arguments[:2]
            with server.client() as client:
                client.config_set("key-load-delay", 0)

        yield Torment(server.url, begin, end)


@contextlib.contextmanager
def _killed(stage: Stage) -> Iterator[Torment]:
    with servers.Redis() as server:
        fill(server)
        yield Torment(server.url, server.kill, lambda: fill(server.start()))


def _told(
    begin: Callable[[redis.Redis], object], end: Callable[[redis.Redis], object], **more: bool
) -> Any:
    """Return a torment that the real Redis is told to be."""

    @contextlib.contextmanager
    def torment(stage: Stage) -> Iterator[Torment]:
        with stage.server.client() as client:
            client.ping()  # a connection that stays, with its rights
            try:
                yield Torment(stage.server.url, lambda: begin(client), lambda: end(client), **more)
            finally:
                end(client)
                fill(stage.server)

    return torment


def _hang_up(client: redis.Redis) -> None:
    client.client_kill_filter(_type="normal", skipme=True)


def _want_password(client: redis.Redis) -> None:
    client.config_set("requirepass", "right")
    _hang_up(client)


def _make_text(client: redis.Redis) -> None:
    client.delete(KEY)
    client.set(KEY, "no set")


def _make_set(client: redis.Redis) -> None:
    client.delete(KEY)
    client.sadd(KEY, HOLDER)


@contextlib.contextmanager
def _million(stage: Stage) -> Iterator[Torment]:
    server = stage.server
    try:
        yield Torment(server.url, lambda: fill(server, 1_000_000), lambda: fill(server), True)
    finally:
        fill(server)


@contextlib.contextmanager
def _paused(stage: Stage) -> Iterator[Torment]:
    process = stage.server.process
    assert process is not None
    try:
        yield Torment(
            stage.server.url,
            lambda: process.signal(signal.SIGSTOP),
            lambda: process.signal(signal.SIGCONT),
        )
    finally:
        process.signal(signal.SIGCONT)


@contextlib.contextmanager
def _hanging_up(stage: Stage) -> Iterator[Torment]:
    """Connections end all the time, mostly while nobody uses them."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            proxy.cut()

    def begin() -> None:
        over.clear()
        threading.Thread(target=run, daemon=True).start()

    with _proxy(stage.server.port) as proxy:
        try:
            yield Torment(proxy.url, begin, over.set, known=True)
        finally:
            over.set()


TORMENTS: dict[str, Callable[[Stage], contextlib.AbstractContextManager[Torment]]] = {
    "refused": _refused,
    "black hole": _spoilt(swallow),
    "black hole, new connections": _spoilt(swallow, cut=True),
    "packets dropped": _dropped,
    "40 ms per answer": _spoilt(late(0.04), cut=True, known=True),
    "60 ms per answer": _spoilt(late(0.06)),
    "trickling answer": _spoilt(trickle),
    "endless answer": _spoilt(endless),
    "DNS hangs": _dns,
    "TLS handshake hangs": _tls,
    "Sentinels hang": _sentinel,
    "Cluster hangs": _cluster_hole,
    "MOVED storm": _moved,
    "garbage": _spoilt(garbage),
    "hangs up amid answers": _spoilt(half),
    "hangs up when idle": _hanging_up,
    "killed": _killed,
    "stopped": _paused,
    "LOADING": _loading,
    "NOAUTH": _told(_want_password, lambda client: client.config_set("requirepass", "")),
    "NOPERM": _told(
        lambda client: client.acl_setuser("default", enabled=True, commands=["-smismember"]),
        lambda client: client.acl_setuser("default", enabled=True, commands=["+smismember"]),
    ),
    "WRONGTYPE": _told(_make_text, _make_set, asked=True),
    "OOM": _told(
        lambda client: client.config_set("maxmemory", 1),
        lambda client: client.config_set("maxmemory", 0),
        known=True,
    ),
    "1,000,000 members": _million,
}
