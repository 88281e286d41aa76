"""How long it takes from a notification's publication to the changed set, on a real bus.

A private RabbitMQ and Redis, the real consumer process, oslo.messaging's notifier. Each
notification is about an image of its own; Redis tells when that image's set changes. One clock:
this process publishes and is told.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from bus_cache import names
from tests import publisher, servers


def measure(count: int, rate: float, folder: Path) -> list[float]:
    """Return the milliseconds that ``count`` notifications took, at ``rate`` per second."""
    with servers.RabbitMQ() as rabbit, servers.Redis() as redis_server:
        config = folder / "bus_cache.conf"
        config.write_text(
            f"[DEFAULT]\ntransport_url = {rabbit.url}\n"
            f"[bus_cache]\nredis_url = {redis_server.url}\n"
        )
        command = str(Path(sys.executable).with_name("bus-cache-consumer"))
        log = folder / "consumer.log"
        process = servers.Process([command, "--config-file", str(config)], log)
        with contextlib.closing(publisher.Publisher(rabbit.url)) as cloud:
            try:
                while ": reading " not in (log.read_text() if log.exists() else ""):
                    time.sleep(0.05)
                return _publish(cloud, redis_server, count, rate)
            finally:
                process.stop()


def _publish(
    cloud: publisher.Publisher, redis_server: servers.Redis, count: int, rate: float
) -> list[float]:
    client = redis_server.client()
    client.config_set("notify-keyspace-events", "Es")
    changed: dict[str, float] = {}
    done = threading.Event()

    def listen() -> None:
        with client.pubsub() as changes:
            changes.subscribe("__keyevent@0__:sadd")
            for change in changes.listen():
                if change["type"] == "message":
                    changed.setdefault(change["data"].decode(), time.monotonic())
                if len(changed) > count:
                    done.set()
                    return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    time.sleep(0.2)
    cloud.created("h1", "warm-up")
    time.sleep(0.5)
    published: dict[str, float] = {}
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        image = f"image-{number}"
        published[names.Keys("bus_cache").image(names.fingerprint(image))] = time.monotonic()
        cloud.created("h1", image)
    if not done.wait(60):
        raise SystemExit(f"only {len(changed)} of {count} sets changed within 60 s")
    return [(changed[key] - sent) * 1000 for key, sent in published.items()]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="notifications (default 3000)")
    parser.add_argument("--rate", type=float, default=300, help="per second (default 300)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bus-cache-latency-") as folder:
        took = measure(options.count, options.rate, Path(folder))
    percentiles = statistics.quantiles(took, n=100)
    print(f"{len(took)} notifications at {options.rate:g}/s: publication -> changed set")
    print(f"  median {statistics.median(took):7.1f} ms")
    print(f"  p99    {percentiles[98]:7.1f} ms")
    print(f"  worst  {max(took):7.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
