"""What consumer and agent export: by the real programs, read as Prometheus reads it."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bus_cache import protocol
from bus_cache.agent import metrics as agent_metrics
from bus_cache.measure import Metric
from bus_cache.names import fingerprint
from consumers import metrics
from tests import fleet, publisher, servers
from tests.compute_host import Host
from tests.program import Program, configuration, wait_for

SERVER = "8c1f3f5e-2a44-4b6d-9f0e-7d3f1b2a{:04x}"
IMAGE = "7d4e1f0a-3b52-4c8e-9a61-0f2c5b8d7e93"


def scrape(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def values(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Name of a sample -> values of its labels in order of their names, without the bus."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(v for k, v in sorted(sample.labels.items()) if k != "bus")
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def exported(text: str) -> dict[str, tuple[str, str, set[str]]]:
    """Name of a metric of ours -> type, help and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("bus_cache"):
            name = family.name + "_total" * (family.type == "counter")
            labels = {label for each in family.samples for label in each.labels} - {"le"}
            found[name] = (family.type, family.documentation, labels)
    return found


def promtool(text: str) -> str:
    """Return what promtool has to say against it."""
    command = [servers.program("promtool", "prometheus"), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def consumer(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> Iterator[tuple[Program, int]]:
    """A consumer, reading, and its port."""
    redis_server.client().flushall()
    port = servers.free_port()
    more = f"http_listen = 127.0.0.1:{port}"
    program = Program(tmp_path, configuration(rabbit.url, redis_server.url, more)).start().reading()
    program.said("listening on")
    yield program, port
    program.kill()


@pytest.fixture
def publish(rabbit: servers.RabbitMQ) -> Iterator[publisher.Publisher]:
    """The cloud's notifiers."""
    cloud = publisher.Publisher(rabbit.url)
    with contextlib.closing(cloud):
        yield cloud


def boot(publish: publisher.Publisher, host: str, server: int, *, ends: bool = True) -> None:
    """Publish a boot, in both formats."""
    ident = SERVER.format(server)
    url = f"http://glance/images/{IMAGE}"
    old = {"host": None, "node": host, "image_ref_url": url, "instance_id": ident}
    data = {"host": None, "node": host, "image_uuid": IMAGE, "uuid": ident}
    for name in ("create.start", "create.end")[: 1 + ends]:
        if name == "create.end":
            old, data = {**old, "host": host}, {**data, "host": host}
        payload = {"nova_object.version": "1.0", "nova_object.data": data}
        publish.send(f"compute.{host}", f"compute.instance.{name}", old)
        topic = "versioned_notifications"
        publish.send(f"nova-compute:{host}", f"instance.{name}", payload, topic=topic)


def test_the_consumers_metrics_are_those_of_the_reference_and_count_what_happened(
    consumer: tuple[Program, int], publish: publisher.Publisher, rabbit: servers.RabbitMQ
) -> None:
    _, port = consumer
    wait_for(lambda: "bus_cache_index_images" in values(scrape(port)))
    image = {"id": IMAGE, "size": 2 * 1024**3}
    publish.send("image.glance", "image.activate", image, exchange="glance")
    publish.send("compute.h1", "compute.instance.create.end", {"host": 5})
    publish.send("compute.h1", "compute.instance.update", {})
    publish.send("compute.h1", "made.up.by.somebody", {})
    boot(publish, "h1", 1)
    wait_for(lambda: values(scrape(port))["bus_cache_changes_total"]["applied",] >= 5)
    time.sleep(0.5)
    boot(publish, "h1", 2)
    boot(publish, "h2", 3, ends=False)

    def settled() -> dict[str, dict[tuple[str, ...], float]] | None:
        found = values(scrape(port))
        return found if found["bus_cache_notifications_acknowledged_total"][()] == 14 else None

    found = wait_for(settled)
    outcomes = found["bus_cache_notifications_total"]
    assert outcomes["used", "instance.create.start"] == 3
    assert outcomes["used", "compute.instance.create.end"] == 2
    assert outcomes["malformed", "compute.instance.create.end"] == 1
    assert outcomes["ignored", "other"] == 2
    assert not any("made.up" in labels for labels in outcomes)
    assert sum(outcomes.values()) == 14
    boots = found["bus_cache_boots_total"]  # found, size
    assert {labels: count for labels, count in boots.items() if count} == {
        ("no", "2 GiB or more"): 2,
        ("yes", "2 GiB or more"): 1,
    }
    assert found["bus_cache_lag_seconds_count"][()] == found["bus_cache_changes_total"]["applied",]
    assert 0 < found["bus_cache_lag_seconds_sum"][()] < 60
    assert (
        0 < found["bus_cache_batches_total"][()] <= found["bus_cache_redis_call_seconds_count"][()]
    )
    depths = {("bus_cache",): 0, (protocol.QUEUE,): 0}
    wait_for(lambda: values(scrape(port)).get("bus_cache_queue_messages") == depths)
    assert found["bus_cache_bus_up"] == found["bus_cache_redis_up"] == {(): 1}
    assert found["process_resident_memory_bytes"][()] > 10_000_000

    text = scrape(port)
    compare(text, metrics.METRICS)
    assert promtool(text) == ""
    assert rabbit.url.partition("://")[2].partition("@")[0].partition(":")[2] not in text


def compare(text: str, table: tuple[Metric, ...]) -> None:
    """What is exported is what the reference says."""
    reference = {each.name: (each.kind, each.help, set(each.labels)) for each in table}
    actual = exported(text)
    assert actual.keys() == reference.keys()
    for name, (kind, about, labels) in actual.items():
        assert (kind, about) == reference[name][:2]
        assert labels <= reference[name][2]  # those without a sample have none
        assert labels == reference[name][2] or not labels


def test_metrics_tell_what_is_away(
    consumer: tuple[Program, int], redis_server: servers.Redis, publish: publisher.Publisher
) -> None:
    _, port = consumer
    wait_for(lambda: values(scrape(port))["bus_cache_redis_up"][()] == 1)
    redis_server.stop()
    try:
        publish.created("h1", IMAGE)
        wait_for(lambda: values(scrape(port))["bus_cache_redis_up"][()] == 0)
        found = values(scrape(port))
        assert found["bus_cache_redis_errors_total"][()] > 0
        assert found["bus_cache_bus_up"][()] == 1
        assert found["bus_cache_changes_total"]["applied",] == 0
    finally:
        redis_server.start()
    wait_for(lambda: values(scrape(port))["bus_cache_changes_total"]["applied",] == 1, 60)
    assert values(scrape(port))["bus_cache_redis_up"][()] == 1


def test_agents_are_told_apart(
    consumer: tuple[Program, int], rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    _, port = consumer
    with fleet.Fleet(rabbit.url, rabbit.amqp_url, 5) as agents:
        for agent in agents.agents.values():
            agent.cache = set(fleet.IMAGES[:3])
        agents.say([agent.snapshot() for agent in agents.agents.values()], reliably=True)
        wait_for(lambda: values(scrape(port))["bus_cache_host_switches_total"]["agent",] == 5)
        with agents.quiet():  # who left does not answer
            agents.say([agents.agents.pop("h0").snapshot(leaving=True)], reliably=True)
        wait_for(lambda: values(scrape(port))["bus_cache_host_switches_total"]["notifications",])
        hosts = {("agent",): 4, ("notifications",): 1}
        wait_for(lambda: values(scrape(port)).get("bus_cache_index_hosts") == hosts, 60)
        found = values(scrape(port))
    assert found["bus_cache_index_memberships"][()] == 15
    assert found["bus_cache_index_images_held"][()] == 3
    assert found["bus_cache_index_agents_silent"][()] == 1
    assert found["bus_cache_notifications_total"]["used", protocol.SNAPSHOT] >= 6


def test_the_agents_metrics_are_those_of_the_reference(
    rabbit: servers.RabbitMQ, tmp_path: Path
) -> None:
    host = Host(rabbit, tmp_path, "metrics-host")
    port = servers.free_port()
    host.configure(own=f"http_listen = 127.0.0.1:{port}")
    host.put(fingerprint(IMAGE))
    host.start()
    try:

        def told() -> str | None:
            with contextlib.suppress(OSError):
                text = scrape(port)
                if values(text)["bus_cache_agent_messages_total"][protocol.SNAPSHOT,]:
                    return text
            return None

        text = wait_for(told, 60)
        compare(text, agent_metrics.METRICS)
        assert promtool(text) == ""
        found = values(text)
        assert found["bus_cache_agent_images"][()] == 1
        assert abs(time.time() - found["bus_cache_agent_snapshot_timestamp_seconds"][()]) < 60
        assert found["bus_cache_agent_silent"][()] == 0
    finally:
        assert host.agent is not None
        host.agent.kill()
