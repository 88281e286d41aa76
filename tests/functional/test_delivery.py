"""The consumer in this process: in memory and on RabbitMQ, in any order, without Redis, by TLS."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bus_cache import names
from bus_cache.index.changes import Held, Source
from consumers import bus as buses
from consumers import service, transport
from consumers.bus import Bus, BusError
from consumers.consumer import Rules
from tests import keyspace, publisher, servers
from tests.consuming import TOPOLOGY, rabbit_transport, running
from tests.functional.test_consumer import truth
from tests.program import wait_for

BINDING = ("source_name", "destination_name")


def publish_raw(url: str, messages: list[dict[str, Any]]) -> None:
    """Publish bodies as they were recorded: with their own stamps."""
    with kombu.Connection(url) as connection, connection.channel() as channel:
        for message in messages:
            body = channel.prepare_message(
                message["body"], content_type="application/json", content_encoding="utf-8"
            )
            channel.basic_publish(
                body, exchange=message["exchange"], routing_key=message["routing_key"]
            )


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"store", "redis_server"} & set(request.fixturenames):
        request.getfixturevalue(name).client().flushall()


@pytest.mark.parametrize("recording", ["nova-34-both", "nova-34-both-state-changes"])
@pytest.mark.parametrize("seed", range(4))
def test_any_order_and_repetition_gives_the_truth(
    store: servers.Redis, recording: str, seed: int
) -> None:
    """Seed 0 is the order of the recording."""
    messages = publisher.recorded(recording)
    if seed:
        chance = random.Random(seed)
        messages = messages + chance.choices(messages, k=len(messages) // 2)
        chance.shuffle(messages)
    with running(transport.Transport(("memory://",), "memory", {}), store) as consumer:
        publish_raw("memory://", messages)
        wait_for(lambda: consumer.counts["received"] == len(messages))
    assert consumer.counts["malformed"] == 0
    assert keyspace.everything(store.client())["sets"] == truth("both", recording)


def test_a_redis_that_stays_away_gets_messages_back_into_the_queue(
    rabbit: servers.RabbitMQ,
) -> None:
    with servers.Redis() as store, running(rabbit_transport(rabbit), store, patience=1) as consumer:
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            cloud.created("h1", "image-1")
            wait_for(lambda: keyspace.sets(store.client()))
            store.kill()
            for number in range(20):
                cloud.created(f"h{number}", "image-1")
            with kombu.Connection(rabbit.amqp_url) as connection:

                def waiting() -> tuple[int, int]:
                    found = buses.passive(connection, "bus_cache")
                    return found.message_count, found.consumer_count

                wait_for(lambda: waiting() == (20, 0))
                received = consumer.counts["received"]
                time.sleep(2)  # neither taken again nor lost while Redis is away
                assert waiting() == (20, 0)
                assert consumer.counts["received"] == received
                store.start()
                wait_for(lambda: waiting() == (0, 1))
            hosts = {f"h{number}" for number in range(20)}
            wait_for(lambda: hosts in keyspace.sets(store.client()).values())
        assert consumer.counts["connections"] == 1  # the connection lived on by its heartbeats


def test_a_redis_that_refuses_writes_gets_messages_back_once(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers reads: were that enough to go on, messages would go back and forth."""
    client = redis_server.client()
    with running(rabbit_transport(rabbit), redis_server, patience=1) as consumer:
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            client.config_set("maxmemory", "1")
            for number in range(20):
                cloud.created(f"h{number}", "image-1")
            with kombu.Connection(rabbit.amqp_url) as connection:
                wait_for(lambda: buses.passive(connection, "bus_cache").consumer_count == 0)
            received = consumer.counts["received"]
            time.sleep(4)
            assert consumer.counts["received"] == received == 20
        client.config_set("maxmemory", "0")
        hosts = {f"h{number}" for number in range(20)}
        wait_for(lambda: hosts in keyspace.sets(client).values())
    assert len([r for r in caplog.records if "giving" in r.message]) == 1


def test_an_exchange_that_nova_declares_otherwise_is_never_declared(
    rabbit: servers.RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """Nova calls its services by it: they would be refused, and no server would boot."""
    topology = dataclasses.replace(TOPOLOGY, pool="other", exchanges=("disputed",))
    ours = dataclasses.replace(rabbit_transport(rabbit), durable=True)
    bus = Bus(ours, topology, lambda delivery: None, lambda reason: None)
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        channel.exchange_declare("disputed", "topic", durable=False, auto_delete=False)
        with contextlib.closing(bus):
            bus.open()
            assert not bus.incomplete  # it is read all the same
            [line] = [r for r in caplog.records if "disputed is declared otherwise" in r.message]
            assert "let that group say what it says in nova.conf" in line.getMessage()
            channel.exchange_delete("disputed")
            bus.renew()
            assert bus.incomplete
            channel.exchange_declare("disputed", "topic", durable=False, auto_delete=False)
            bus.renew()
            assert not bus.incomplete
            assert "disputed was not there" in bus.missed or "new" in bus.missed


def test_a_newer_consumers_keyspace_gets_messages_back_at_once(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """On an upgrade: the newer one reads the same queue, and has them within a moment."""
    client = redis_server.client()
    with running(rabbit_transport(rabbit), redis_server, patience=600) as consumer:
        client.set(names.Keys("bus_cache").schema, names.SCHEMA + 1)
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            cloud.created("h0", "image-1")
        with kombu.Connection(rabbit.amqp_url) as connection:
            wait_for(lambda: buses.passive(connection, "bus_cache")[1:] == (1, 0))
        assert "schema" in consumer.waits_for["redis"]
        client.set(names.Keys("bus_cache").schema, names.SCHEMA)  # and back: it goes on by itself
        wait_for(lambda: {"h0"} in keyspace.sets(client).values())


def test_a_queue_deleted_while_redis_is_away_is_bound_again(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Declared but not bound it would be read for ever, and nothing would come."""
    monkeypatch.setattr("consumers.consumer.RENEWAL", 0.5)
    client = redis_server.client()
    with running(rabbit_transport(rabbit), redis_server, patience=1):
        client.config_set("maxmemory", "1")
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            cloud.created("h0", "image-1")
            with kombu.Connection(rabbit.amqp_url) as connection:
                wait_for(lambda: buses.passive(connection, "bus_cache").consumer_count == 0)
                with connection.channel() as channel:
                    channel.queue_delete("bus_cache")
            bound = "nova\tbus_cache"
            wait_for(lambda: bound in rabbit.ctl("-q", "list_bindings", *BINDING))
            assert keyspace.sets(client) == {}
            cloud.created("h1", "image-1")
        client.config_set("maxmemory", "0")
        wait_for(lambda: {"h1"} in keyspace.sets(client).values())


def test_heartbeats_keep_an_idle_connection(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    with running(rabbit_transport(rabbit), redis_server) as consumer:
        time.sleep(7)  # three heartbeats of 2 s, after which the broker would close
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            cloud.created("h1", "image-1")
            wait_for(lambda: keyspace.sets(redis_server.client()))
        assert consumer.counts["connections"] == 1


def test_a_broker_that_accepts_and_says_nothing_is_an_error_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://u:p@127.0.0.1:{silent.getsockname()[1]}//"
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            buses.connect(transport.Transport((url,), "silent", {}), url, seconds=1)
        assert time.monotonic() - started < 20


def test_live_migration_and_ignored_hosts_are_left_out_as_configured() -> None:
    rules = Rules(ignore_hosts=["ironic-*"], live_migration_evidence=False)
    assert rules.admit(Held("h1", "image-1", 1, Source.CREATE))
    assert not rules.admit(Held("h1", "image-1", 1, Source.LIVE_MIGRATION))
    assert not rules.admit(Held("ironic-1", "image-1", 1, Source.CREATE))


# -- TLS ---------------------------------------------------------------------------------------


def certificates(folder: Path) -> dict[str, Path]:
    """Make a certificate authority and a server's certificate for 127.0.0.1."""
    paths = {name: folder / f"{name}.pem" for name in ("ca", "certificate", "key")}
    now = datetime.datetime.now(datetime.timezone.utc)

    def build(name: str, key: Any, issuer: str) -> x509.CertificateBuilder:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = (
        build("tests", authority, "tests")
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    leaf = (
        build("127.0.0.1", key, "tests")
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths["ca"].write_bytes(root.public_bytes(pem))
    paths["certificate"].write_bytes(leaf.public_bytes(pem))
    paths["key"].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def test_tls_with_the_options_of_oslo_messaging(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    port = servers.free_port()
    tls = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {files['ca']}",
        f"ssl_options.certfile = {files['certificate']}",
        f"ssl_options.keyfile = {files['key']}",
        "ssl_options.verify = verify_none",
    ]
    dead = servers.free_port()
    with servers.RabbitMQ(*tls):

        def bus(**options: str) -> Bus:
            config = tmp_path / "bus_cache.conf"
            url = f"rabbit://test:test@127.0.0.1:{dead},test:test@127.0.0.1:{port}/"
            lines = "\n".join(f"{name} = {value}" for name, value in options.items())
            config.write_text(
                f"[DEFAULT]\ntransport_url = {url}\n[oslo_messaging_rabbit]\n{lines}\n"
            )
            conf = service.load(["--config-file", str(config)])
            [found] = transport.transports(conf)
            return Bus(found, TOPOLOGY, lambda delivery: None, lambda reason: None)

        def reached(one: Bus) -> bool:
            """Try each broker of the URL once: the first one is dead."""
            for _ in range(2):
                try:
                    one.open()
                except BusError:
                    one.close()
                else:
                    one.close()
                    return True
            return False

        assert reached(bus(ssl="true", ssl_ca_file=str(files["ca"])))
        assert not reached(bus(ssl="true"))  # the system's authorities did not sign it
        (tmp_path / "other").mkdir()
        other = certificates(tmp_path / "other")
        assert not reached(bus(ssl="true", ssl_ca_file=str(other["ca"])))
        assert not reached(bus(ssl="false"))


def test_a_message_published_while_the_queue_is_unbound_is_not_ours(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """Bindings are made anew at each connection: here somebody took one away."""
    with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
        with running(rabbit_transport(rabbit), redis_server):
            pass
        with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
            channel.queue_unbind("bus_cache", "nova", "notifications.info")
        cloud.created("h1", "image-lost")
        with running(rabbit_transport(rabbit), redis_server):
            cloud.created("h1", "image-2")
            wait_for(lambda: keyspace.sets(redis_server.client()))
        assert set(keyspace.sets(redis_server.client())) == {names.fingerprint("image-2")}


def test_the_recording_has_what_the_tests_need() -> None:
    types = {
        json.loads(json.loads(m["body"])["oslo.message"])["event_type"]
        for m in publisher.recorded()
    }
    for needed in (
        "instance.rescue.end",
        "instance.create.error",
        "instance.unshelve.end",
        "compute.instance.rebuild.end",
        "service.delete",
        "image.delete",
    ):
        assert needed in types
