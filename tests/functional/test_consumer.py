"""The real consumer process on a real RabbitMQ: what is published is in the index in the end."""

from __future__ import annotations

import bz2
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest

from bus_cache import names
from consumers import bus
from tests import keyspace, publisher, servers
from tests.program import Program, configuration, wait_for

QUEUES = [
    "bus_cache",
    "bus_cache.dropped",
    *(
        f"{topic}.{priority}"
        for topic in ("notifications", "versioned_notifications")
        for priority in bus.PRIORITIES
    ),
]
FORMATS = ("both", "versioned", "unversioned")


@pytest.fixture
def program(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> Iterator[Callable[..., Program]]:
    """Make consumer programs on this file's bus and Redis; empties both before and after."""
    started: list[Program] = []

    def make(more: str = "", name: str = "consumer", **urls: str) -> Program:
        settings = configuration(
            urls.get("rabbit", rabbit.url), urls.get("redis", redis_server.url), more
        )
        started.append(Program(tmp_path, settings, name))
        return started[-1]

    yield make
    for each in started:
        each.kill()
    if redis_server.running:
        redis_server.client().flushall()
    if rabbit.running:
        with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
            for name in QUEUES:
                channel.queue_delete(name)


@pytest.fixture
def publish(rabbit: servers.RabbitMQ) -> Iterator[publisher.Publisher]:
    """The cloud's notifiers."""
    cloud = publisher.Publisher(rabbit.url)
    with contextlib.closing(cloud):
        yield cloud


def depth(rabbit: servers.RabbitMQ, queue: str = "bus_cache") -> int | None:
    """Return how many messages of a queue are not delivered yet; None where there is no queue."""
    with kombu.Connection(rabbit.amqp_url) as connection:
        found = bus.passive(connection, queue)
        return None if found is None else int(found.message_count)


def drained(rabbit: servers.RabbitMQ, queue: str = "bus_cache") -> None:
    """Wait until all is delivered; what a consumer was sent it writes before it stops."""
    wait_for(lambda: depth(rabbit, queue) == 0)


def in_hand(rabbit: servers.RabbitMQ) -> int:
    """Return how many messages of our queue are delivered and not acknowledged."""
    listed = rabbit.ctl("-q", "list_queues", "name", "messages_unacknowledged").split()
    return int(listed[listed.index("bus_cache") + 1])


def truth(form: str, recording: str = "nova-34-both") -> dict[str, set[str]]:
    """Return the hosts that hold each image after a recording, as far as a format can tell."""
    expected = json.loads((publisher.DATA / "nova-34-truth.json").read_text())[recording][form]
    return {names.fingerprint(image): set(hosts) for image, hosts in expected.items() if hosts}


# -- what is published ends up in the index ----------------------------------------------------


@pytest.mark.parametrize("recording", ["nova-34-both", "nova-34-both-state-changes"])
@pytest.mark.parametrize("form", FORMATS)
def test_recorded_notifications_of_each_format_give_the_truth(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
    form: str,
    recording: str,
) -> None:
    consumer = program().start().reading()
    messages = list(publisher.of_format(publisher.recorded(recording), form))
    assert publish.replay(messages) > 50
    drained(rabbit)
    assert consumer.stop() == 0
    found = keyspace.everything(redis_server.client())
    assert found["sets"] == truth(form, recording)
    assert found["schema"] == str(names.SCHEMA).encode()
    assert {names.fingerprint(image) for image in found["images"]} >= set(found["sets"])
    # Glance's deletion is on the bus in each case, the service's only in the versioned format
    gone = {key.partition(":")[0] for key in found["gone"]}
    assert gone == ({"image"} if form == "unversioned" else {"image", "host"})
    assert not {key.partition(":")[2] for key in found["gone"]} & (
        set(found["sets"]) | found["heard"]
    )


def test_a_consumer_killed_and_stopped_in_between_loses_nothing(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    consumer = program("prefetch = 7").start().reading()
    messages = publisher.recorded()
    third = len(messages) // 3
    publish.replay(messages[:third])
    consumer.kill()
    publish.replay(messages[third : 2 * third])
    consumer.start().reading(2)
    publish.replay(messages[2 * third : -10])
    assert consumer.stop() == 0
    publish.replay(messages[-10:])
    consumer.start().reading(3)
    drained(rabbit)
    assert consumer.stop() == 0
    assert keyspace.everything(redis_server.client())["sets"] == truth("both")


def test_what_is_in_hand_at_a_kill_comes_again(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    """Killed between delivery and writing: acknowledged too early, all of it would be lost."""
    consumer = program().start().reading()
    publish.created("h0", "image-0")
    wait_for(lambda: keyspace.sets(redis_server.client()))
    assert redis_server.process is not None
    redis_server.process.signal(signal.SIGSTOP)
    try:
        for number in range(1, 31):
            publish.created(f"h{number}", "image-0")
        wait_for(lambda: in_hand(rabbit) == 30)
        consumer.kill()
    finally:
        redis_server.process.signal(signal.SIGCONT)
    consumer.start().reading(2)
    hosts = {f"h{number}" for number in range(31)}
    wait_for(lambda: hosts in keyspace.sets(redis_server.client()).values())
    assert consumer.stop() == 0


def test_two_consumers_share_one_queue(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    both = [program("prefetch = 5", name=name).start().reading() for name in ("one", "two")]
    publish.replay(publisher.recorded())
    drained(rabbit)
    assert [each.stop() for each in both] == [0, 0]
    assert keyspace.everything(redis_server.client())["sets"] == truth("both")


def test_the_broker_restarts(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    consumer = program().start().reading()
    publish.created("h1", "image-1")
    drained(rabbit)
    rabbit.restart()
    # exchanges are not durable by default: consumers and publishers declare and bind anew
    consumer.reading(2)
    publish.created("h2", "image-1")
    client = redis_server.client()
    expected = {names.fingerprint("image-1"): {"h1", "h2"}}
    wait_for(lambda: keyspace.sets(client) == expected)
    assert len(consumer.lines("Waiting for it")) == 1
    assert consumer.stop() == 0


def test_broker_and_redis_absent_at_start_are_waited_for(program: Any, tmp_path: Path) -> None:
    with servers.RabbitMQ() as rabbit, servers.Redis() as redis_server:
        rabbit.stop()
        redis_server.stop()
        consumer = program(rabbit=rabbit.url, redis=redis_server.url).start()
        consumer.said("Waiting for it")
        rabbit.start()
        consumer.reading()
        cloud = publisher.Publisher(rabbit.url)
        with contextlib.closing(cloud):
            cloud.created("h1", "image-1")
            consumer.said("Waiting for it", 2)
            redis_server.start()
            wait_for(lambda: keyspace.sets(redis_server.client()))
        drained(rabbit)
        assert consumer.stop() == 0
        assert len(consumer.lines("Waiting for it")) == 2


def test_a_cluster_absent_at_start_is_waited_for(program: Any) -> None:
    """redis-py's client of a Cluster connects when it is made."""
    consumer = program(redis=f"redis+cluster://127.0.0.1:{servers.free_port()}").start().reading()
    consumer.said("Waiting for it")
    assert consumer.process is not None
    assert consumer.process.running
    assert consumer.stop() == 0


def test_redis_away_loses_nothing(
    program: Any, publish: publisher.Publisher, rabbit: servers.RabbitMQ
) -> None:
    with servers.Redis() as redis_server:
        consumer = program(redis=redis_server.url).start().reading()
        publish.created("h1", "image-1")
        wait_for(lambda: in_hand(rabbit) == 0 and keyspace.sets(redis_server.client()))
        redis_server.kill()
        for host in ("h2", "h3"):
            publish.created(host, "image-1")
        consumer.said("Waiting for it")
        wait_for(lambda: in_hand(rabbit) == 2)
        redis_server.start()  # without persistence: what was in it is gone
        wait_for(
            lambda: (
                keyspace.sets(redis_server.client()) == {names.fingerprint("image-1"): {"h2", "h3"}}
            )
        )
        drained(rabbit)
        assert len(consumer.lines("in use, again after")) == 1


def test_several_buses_in_one_process(
    program: Any, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    with servers.RabbitMQ() as cell:
        urls = f"transport_url = {rabbit.url}\ntransport_url = {cell.url}"
        consumer = program(urls).start().reading(2)
        for server, host in ((rabbit, "h1"), (cell, "h2")):
            with contextlib.closing(publisher.Publisher(server.url)) as cloud:
                cloud.created(host, "image-1")
        wait_for(
            lambda: (
                keyspace.sets(redis_server.client()) == {names.fingerprint("image-1"): {"h1", "h2"}}
            )
        )
        assert consumer.stop() == 0


def test_failover_to_the_next_host_of_the_url(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    url = f"rabbit://test:test@127.0.0.1:{servers.free_port()},test:test@127.0.0.1:{rabbit.port}/"
    consumer = program(rabbit=url).start().reading()
    publish.created("h1", "image-1")
    wait_for(lambda: keyspace.sets(redis_server.client()))
    assert consumer.stop() == 0


# -- how the bus is declared -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"amqp_durable_queues": True},
        {"rabbit_quorum_queue": True},
        {"amqp_auto_delete": True},
        {"kombu_compression": "gzip"},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize(
    ("first", "pool"), [("publisher", "bus_cache"), ("consumer", "bus_cache"), ("consumer", "")]
)
def test_declares_as_the_services_do(
    program: Any,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
    options: dict[str, Any],
    first: str,
    pool: str,
) -> None:
    """Whoever comes first declares; the other one agrees."""
    vhost = f"{next(iter(options))}-{first}-{pool}"
    rabbit.ctl("add_vhost", vhost)
    rabbit.ctl("set_permissions", "-p", vhost, "test", ".*", ".*", ".*")
    url = f"{rabbit.url.rstrip('/')}/{vhost}"
    section = "\n".join(f"{name} = {value}" for name, value in options.items())
    consumer = program(f"pool = {pool}\n[oslo_messaging_rabbit]\n{section}", rabbit=url)
    with contextlib.closing(publisher.Publisher(url, **options)) as cloud:
        if first == "publisher":
            cloud.created("h0", "image-0")
        consumer.start().reading()
        cloud.created("h1", "image-1")
        wait_for(
            lambda: keyspace.sets(redis_server.client()) == {names.fingerprint("image-1"): {"h1"}}
        )
    assert consumer.stop() == 0
    assert not consumer.lines("other properties")
    rabbit.ctl("delete_vhost", vhost)


def test_messages_without_an_envelope(
    program: Any, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    consumer = program().start().reading()
    with contextlib.closing(publisher.Publisher(rabbit.url, driver="messaging")) as cloud:
        cloud.created("h1", "image-1")
        wait_for(lambda: keyspace.sets(redis_server.client()))
    assert consumer.stop() == 0


def test_without_a_pool_the_default_queues_are_read(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    publish.created("h1", "image-1")  # before anyone listens: it waits in Nova's default queue
    consumer = program("pool =").start().reading()
    publish.created("h2", "image-1", priority="error")
    wait_for(
        lambda: keyspace.sets(redis_server.client()) == {names.fingerprint("image-1"): {"h1", "h2"}}
    )
    drained(rabbit, "notifications.info")
    assert depth(rabbit) is None
    assert consumer.stop() == 0


def test_a_default_queue_that_nobody_reads_is_told(
    program: Any, publish: publisher.Publisher
) -> None:
    publish.created("h1", "image-1")
    consumer = program().start().reading()
    [line] = consumer.said("nobody reads ")
    assert "notifications.info (1 messages)" in line
    assert "[consumer] pool" in line
    assert consumer.stop() == 0


def test_a_queue_declared_otherwise_is_told_and_used(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    program().start().reading().stop()
    consumer = program("queue_max_bytes = 1000000", name="other").start().reading()
    [line] = consumer.said("other properties")
    assert "[consumer] queue_max_bytes" in line
    assert "rabbitmqctl delete_queue -p VHOST bus_cache" in line
    publish.created("h1", "image-1")
    wait_for(lambda: keyspace.sets(redis_server.client()))


def test_a_full_queue_drops_the_oldest_and_the_consumer_notices(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    consumer = program("queue_max_bytes = 20000").start().reading()
    assert consumer.stop() == 0
    for number in range(100):
        publish.created(f"h{number}", "image-1")
    waiting = depth(rabbit)
    assert waiting
    assert waiting < 100
    consumer.start().reading(2)
    [line] = consumer.said("dropped its oldest messages")
    assert f"at least {100 - waiting} (maxlen)" in line
    drained(rabbit)
    drained(rabbit, "bus_cache.dropped")
    [hosts] = keyspace.sets(redis_server.client()).values()
    assert hosts == {f"h{number}" for number in range(100 - waiting, 100)}
    assert consumer.stop() == 0


def test_our_queue_deleted_under_the_consumer(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    consumer = program().start().reading()
    rabbit.ctl("delete_queue", "bus_cache")
    consumer.reading(2)
    assert consumer.lines("was deleted, or the broker lost it")
    publish.created("h1", "image-1")
    wait_for(lambda: keyspace.sets(redis_server.client()))
    assert consumer.stop() == 0


# -- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("[consumer]\nprefetch = 0", "[consumer] prefetch = 0 can't be used"),
        ("[bus_cache]\nkeyspace = a b", "[bus_cache] keyspace = a b can't be used"),
        ("[bus_cache]\nredis_url = http://u:secret@h", "[bus_cache] redis_url can't be used"),
        ("[consumer]\ntransport_url = kafka://u:secret@h", "[consumer] transport_url can't be"),
        ("", "[consumer] transport_url is missing"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(
    tmp_path: Path, settings: str, sentence: str
) -> None:
    config = tmp_path / "bus_cache.conf"
    config.write_text(settings)
    command = Path(sys.executable).with_name("bus-cache-consumer")
    ran = subprocess.run(
        [command, "--config-file", config], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"bus-cache-consumer: {sentence}")
    assert ran.stderr.count("\n") == 1
    assert "secret" not in ran.stderr


def test_a_missing_library_is_told() -> None:
    """The package alone brings what the weigher needs, and the command all the same."""
    program = "import sys; sys.modules['cotyledon'] = None; import consumers.main as m; m.main()"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert "cotyledon is not installed" in ran.stderr
    assert "pip install 'bus-cache[consumer]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_another_versions_keyspace_is_refused(program: Any, redis_server: servers.Redis) -> None:
    redis_server.client().set(names.Keys("bus_cache").schema, 99)
    consumer = program().start()
    consumer.said("has schema")
    assert consumer.process is not None
    assert wait_for(lambda: consumer.process.returncode) == 1


def test_hosts_to_ignore_leave_at_sighup(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    consumer = program("ignore_hosts = ceph-*").start().reading()
    for host in ("ceph-1", "ironic-1", "h1"):
        publish.created(host, "image-1")
    image = names.fingerprint("image-1")
    client = redis_server.client()
    wait_for(lambda: keyspace.sets(client) == {image: {"ironic-1", "h1"}})
    consumer.config.write_text(consumer.config.read_text().replace("ceph-*", "ceph-*,ironic-*"))
    assert consumer.process is not None
    consumer.process.signal(signal.SIGHUP)
    wait_for(lambda: keyspace.sets(client) == {image: {"h1"}})
    publish.created("ironic-1", "image-1")
    publish.created("h2", "image-1")
    wait_for(lambda: keyspace.sets(client) == {image: {"h1", "h2"}})
    assert consumer.stop() == 0


def test_no_password_in_the_log(
    program: Any, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    rabbit.ctl("add_user", "secretive", "s3cr3t")
    rabbit.ctl("set_permissions", "secretive", ".*", ".*", ".*")
    url = rabbit.url.replace("test:test@", "secretive:s3cr3t@")
    client = redis_server.client()
    client.config_set("requirepass", "s3cr3t")
    try:
        redis_url = redis_server.url.replace("redis://", "redis://:s3cr3t@")
        consumer = (
            program("\n[DEFAULT]\ndebug = true", rabbit=url, redis=redis_url).start().reading()
        )
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            cloud.created("h1", "image-1")
            wait_for(lambda: keyspace.sets(client))
        assert consumer.stop() == 0
        assert "s3cr3t" not in consumer.log.read_text()
    finally:
        client.config_set("requirepass", "")


# -- bad input ---------------------------------------------------------------------------------


def bad_bodies() -> list[bytes]:
    """Return one of each kind of message that can't be understood."""

    def envelope(**fields: Any) -> bytes:
        said = {
            "message_id": "m",
            "publisher_id": "compute.h1",
            "event_type": "compute.instance.create.end",
            "payload": {"host": "bad", "image_ref_url": "http://glance/images/bad"},
            "timestamp": "2026-01-01 00:00:00.000000",
            **fields,
        }
        said = {name: value for name, value in said.items() if value is not ...}
        return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(said)}).encode()

    payload = {"host": "bad", "image_ref_url": "http://glance/images/bad"}
    return [
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe" + envelope(),
        b'{"oslo.version": "2.0", "oslo.message": "{"}',
        b'{"oslo.version": "9.0", "oslo.message": "{}"}',
        b'{"oslo.version": "2.0", "oslo.message": null}',
        envelope(payload=...),
        envelope(payload=None),
        envelope(payload=[1]),
        envelope(publisher_id=None),
        envelope(timestamp=None),
        envelope(timestamp="yesterday"),
        envelope(timestamp=12),
        envelope(payload={**payload, "host": None}),
        envelope(payload={**payload, "host": 3}),
        envelope(payload={**payload, "host": "h\n1"}),
        envelope(payload={**payload, "host": "h\x00"}),
        envelope(payload={**payload, "host": "h" * 10_000}),
        envelope(payload={**payload, "image_ref_url": "x" * 10_000}),
        envelope(payload={**payload, "image_ref_url": {"a": 1}}),
        envelope(payload={"host": "bad"}),
        envelope(event_type="instance.create.end", payload={"nova_object.data": "x"}),
        envelope(
            event_type="instance.create.end",
            payload={"nova_object.version": "2.0", "nova_object.data": {"image_uuid": "bad"}},
        ),
        envelope(event_type="compute.instance.rebuild.end", publisher_id="conductor.h1"),
        envelope(event_type="aggregate.cache_images.progress", payload={"host": "bad"}),
        envelope(
            event_type="aggregate.cache_images.progress",
            payload={"host": "bad", "images_cached": ["good", 7]},
        ),
        envelope(event_type="image.delete", payload={"id": None}),
        envelope(event_type="image.activate", payload={"id": "bad", "size": -1}),
        envelope(event_type="service.delete", payload={"binary": "nova-compute"}),
    ]


def test_bad_messages_among_good_ones(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    """10,000 that can't be understood among 10,000 good ones: none of the good ones is lost."""
    consumer = program().start().reading()
    publish.created("h0", "image-0")
    bad = bad_bodies()
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        for number in range(10_000):
            for body in (bad[number % len(bad)], good(number)):
                channel.basic_publish(
                    channel.prepare_message(body, content_type="application/json"),
                    exchange="nova",
                    routing_key="notifications.info",
                )
    drained(rabbit)
    complaints = consumer.said("ignoring a message that can't be understood")
    assert consumer.stop() == 0
    expected: dict[str, set[str]] = {names.fingerprint("image-0"): {"h0"}}
    for number in range(10_000):
        expected.setdefault(names.fingerprint(f"image-{number % 50}"), set()).add(
            f"h{number % 997}"
        )
    assert keyspace.everything(redis_server.client())["sets"] == expected
    assert consumer.lines("in all received 20001, irrelevant 0, malformed 10000, applied 10001")
    assert len(complaints) <= 60  # per minute: 20
    assert "exchange nova, queue bus_cache" in complaints[0]
    assert not consumer.lines("Traceback")


def good(number: int) -> bytes:
    """Return one of 10,000 messages about 50 images on 997 hosts."""
    said = {
        "message_id": str(number),
        "publisher_id": f"nova-compute:h{number % 997}",
        "event_type": "instance.create.end",
        "payload": {
            "nova_object.version": "1.13",
            "nova_object.data": {
                "host": f"h{number % 997}",
                "image_uuid": f"image-{number % 50}",
            },
        },
        "timestamp": "2026-01-01 00:00:00.000000",
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(said)}).encode()


def test_a_large_message(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    consumer = program().start().reading()
    publish.created("h0", "image-0")
    with kombu.Connection(rabbit.amqp_url) as connection, connection.channel() as channel:
        bomb = channel.prepare_message(
            bz2.compress(bytes(50_000_000)), headers={"compression": "application/x-bz2"}
        )
        channel.basic_publish(bomb, exchange="nova", routing_key="notifications.info")
        body = good(1)[:-1] + b'  , "more": "' + b"x" * 10_000_000 + b'"}'
        channel.basic_publish(
            channel.prepare_message(body), exchange="nova", routing_key="notifications.info"
        )
    publish.created("h2", "image-0")
    wait_for(
        lambda: keyspace.sets(redis_server.client()) == {names.fingerprint("image-0"): {"h0", "h2"}}
    )
    assert len(consumer.said("more than 1048576", 2)) == 2
    assert consumer.stop() == 0


def test_properties_that_are_no_text(
    program: Any,
    publish: publisher.Publisher,
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
) -> None:
    """py-amqp decodes them before anyone is asked; the body is what counts."""
    consumer = program().start().reading()
    publish.created("h0", "image-0")
    with amqp.Connection(f"127.0.0.1:{rabbit.port}", "test", "test") as connection:
        message = amqp.Message(good(7), content_type="PLACEHOLDER")
        load = message._serialize_properties
        message._serialize_properties = lambda: load().replace(b"PLACEHOLDER", b"\xff" * 11)
        connection.channel().basic_publish(message, "nova", "notifications.info")
    publish.created("h2", "image-0")
    expected = {names.fingerprint("image-0"): {"h0", "h2"}, names.fingerprint("image-7"): {"h7"}}
    wait_for(lambda: keyspace.sets(redis_server.client()) == expected)
    assert consumer.stop() == 0
    assert len(consumer.lines(": reading ")) == 1
