"""Reading by the bufferful, on a real RabbitMQ: plain and by TLS, in pieces, cut, spoilt."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import amqp
import kombu
import pytest

from consumers import frames
from consumers.bus import Bus, BusError, Delivery, Topology
from consumers.transport import Transport
from tests import servers
from tests.certificates import Authority

QUEUE = "frames"
TOPOLOGY = Topology(("notifications",), ("nova",), QUEUE, prefetch=50, agents=False)
SIZES = (0, 1, 4200, 131_064, 131_065, 300_000, 5_000_000, 17)


class Line(threading.Thread):
    """A connection to the broker on which a test decides what arrives of what the broker sends.

    ``pass_on`` is given what came, and how many bytes came before it, and returns the pieces to
    send; None: cut.
    """

    def __init__(self, to: int, pass_on: Callable[[bytes, int], list[bytes] | None]) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server((servers.LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self._to, self._pass_on = to, pass_on

    def run(self) -> None:
        with self._listener:
            client, _ = self._listener.accept()
        server = socket.create_connection((servers.LOOPBACK, self._to))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upward = threading.Thread(target=self._up, args=(client, server), daemon=True)
        upward.start()
        came = 0
        with client, server, contextlib.suppress(OSError):
            while data := server.recv(65536):
                pieces = self._pass_on(data, came)
                came += len(data)
                if pieces is None:
                    break
                for piece in pieces:
                    client.sendall(piece)
                    time.sleep(0.0005 * (len(pieces) > 1))
            client.shutdown(socket.SHUT_RDWR)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def opened(port: int, **options: object) -> Iterator[tuple[Bus, list[bytes]]]:
    """A bus that reads, and the bodies that came."""
    bodies: list[bytes] = []

    def take(delivery: Delivery) -> None:
        bodies.append(delivery.body)

    url = f"amqp://test:test@127.0.0.1:{port}//"
    bus = Bus(Transport((url,), "rabbit", options), TOPOLOGY, take, lambda reason: None)
    try:
        bus.open()
        bus.consume()
        yield bus, bodies
    finally:
        bus.close()


def publish(rabbit: servers.RabbitMQ, bodies: list[bytes]) -> None:
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        for body in bodies:
            message = channel.prepare_message(body, content_type="application/json")
            channel.basic_publish(message, routing_key=QUEUE)


def take_all(bus: Bus, bodies: list[bytes], count: int, timeout: float = 0.0) -> None:
    limit = time.monotonic() + 60
    while len(bodies) < count and time.monotonic() < limit:
        if not bus.drain(timeout):
            time.sleep(0.0002)
        bus.acknowledge()


def read_on(bus: Bus, seconds: float = 20) -> None:
    """Read, and look for heartbeats, until something is wrong."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        bus.drain(0.2)
        bus.heartbeat()


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "rabbit" in request.fixturenames:
        with request.getfixturevalue("rabbit").connect() as connection:
            connection.channel().queue_delete(QUEUE)


Encrypted = tuple[servers.RabbitMQ, int, Path]
"""A RabbitMQ with TLS, its port for that, and the authority's file."""


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    certificate, key = authority.sign("broker")
    port = servers.free_port()
    lines = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {authority.file}",
        f"ssl_options.certfile = {certificate}",
        f"ssl_options.keyfile = {key}",
        "ssl_options.verify = verify_none",
    ]
    with servers.RabbitMQ(*lines) as server:
        yield server, port, authority.file


def some_bodies() -> list[bytes]:
    dice = random.Random(7)
    return [dice.randbytes(size) for size in SIZES] + [dice.randbytes(4200) for _ in range(200)]


@pytest.mark.parametrize("timeout", [0.0, 0.5])
def test_bodies_of_all_sizes_come_as_they_were_sent(
    rabbit: servers.RabbitMQ, timeout: float
) -> None:
    sent = some_bodies()
    with opened(rabbit.port) as (bus, bodies):
        assert type(bus._connection.connection) is frames.Connection  # type: ignore[union-attr]
        publish(rabbit, sent)
        take_all(bus, bodies, len(sent), timeout)
        assert bodies == sent
        assert bus.waiting() == 0


@pytest.mark.parametrize("timeout", [0.0, 0.5])
def test_the_same_by_tls(encrypted: Encrypted, timeout: float) -> None:
    server, port, authority = encrypted
    sent = some_bodies()
    ssl = {"ca_certs": str(authority), "server_hostname": None}
    with opened(port, ssl=ssl) as (bus, bodies):
        publish(server, sent)
        take_all(bus, bodies, len(sent), timeout)
        assert bodies == sent


def test_pieces_of_any_size_with_pauses_in_between(rabbit: servers.RabbitMQ) -> None:
    dice = random.Random(3)

    def pieces(data: bytes, came: int) -> list[bytes]:
        found = []
        while data:
            size = dice.choice([1, 2, 7, 100, 3000])
            found.append(data[:size])
            data = data[size:]
        return found

    line = Line(rabbit.port, pieces)
    line.start()
    sent = [dice.randbytes(size) for size in (0, 3, 4200, 150_000, 5, 4200)]
    with opened(line.port) as (bus, bodies):
        publish(rabbit, sent)
        take_all(bus, bodies, len(sent))
        assert bodies == sent


def test_a_connection_cut_within_a_frame_brings_the_message_again(
    rabbit: servers.RabbitMQ,
) -> None:
    big = random.Random(1).randbytes(1_000_000)
    armed = threading.Event()

    def pieces(data: bytes, came: int) -> list[bytes] | None:
        return None if armed.is_set() and came > 300_000 else [data]

    line = Line(rabbit.port, pieces)
    line.start()
    with opened(line.port) as (bus, bodies):
        armed.set()
        publish(rabbit, [b"before", big])
        with pytest.raises(BusError):  # what is whole was handled before
            read_on(bus)
        assert bodies == [b"before"]
    with opened(rabbit.port) as (bus, bodies):
        take_all(bus, bodies, 2)
        assert bodies == [b"before", big]


def test_a_frame_that_does_not_end_as_it_should_is_an_error(rabbit: servers.RabbitMQ) -> None:
    armed = threading.Event()

    def pieces(data: bytes, came: int) -> list[bytes]:
        return [data[:-1] + b"\x00" if armed.is_set() else data]

    line = Line(rabbit.port, pieces)
    line.start()
    with opened(line.port) as (bus, _):
        armed.set()
        publish(rabbit, [b"x" * 10])
        with pytest.raises(BusError, match="ends with"):
            read_on(bus)


def test_a_broker_that_fell_silent_is_noticed_by_its_heartbeats(rabbit: servers.RabbitMQ) -> None:
    """It goes on hearing ours, so that it does not end the connection first."""
    silent = threading.Event()

    def pieces(data: bytes, came: int) -> list[bytes]:
        return [] if silent.is_set() else [data]

    line = Line(rabbit.port, pieces)
    line.start()
    with opened(line.port, heartbeat=1) as (bus, bodies):
        publish(rabbit, [b"one"])
        take_all(bus, bodies, 1)
        silent.set()
        with pytest.raises(BusError, match="heartbeats missed"):
            read_on(bus)


def test_a_broker_that_closes_the_connection_is_heard(rabbit: servers.RabbitMQ) -> None:
    with opened(rabbit.port) as (bus, bodies):
        publish(rabbit, [b"one"])
        take_all(bus, bodies, 1)
        rabbit.ctl("close_all_connections", "for a test")
        with pytest.raises(BusError, match="for a test"):
            read_on(bus)


def test_another_py_amqp_reads_by_itself(
    rabbit: servers.RabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    read = amqp.Connection.blocking_read

    def otherwise(self: amqp.Connection, timeout: float | None = None) -> object:
        return read(self, timeout)

    monkeypatch.setattr(amqp.Connection, "blocking_read", otherwise)
    frames.transport.cache_clear()
    try:
        sent = some_bodies()
        for _ in range(2):
            with opened(rabbit.port) as (bus, bodies):
                publish(rabbit, sent)
                take_all(bus, bodies, len(sent))
                assert bodies == sent
    finally:
        frames.transport.cache_clear()
    assert len([line for line in caplog.messages if "py-amqp" in line]) == 1
