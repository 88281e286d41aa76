"""The consumer's peers, as programs: what one would build first, and reading without a thought.

``oslo``: oslo.messaging's notification listener, which decodes every message, and one SADD for each
relevant one. ``kombu``: kombu hands out raw bodies that nobody looks at. Both ask for as many
messages ahead as the consumer does, and say ``reading`` when they do.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

from bus_cache import names

RELEVANT = "instance.create.end"
QUEUES = {"oslo": "bench_oslo", "kombu": "bench_kombu"}
PREFETCH = 500
"""The consumer's own."""
KEYS = names.Keys("peer")


def oslo(rabbit: str, redis_url: str, stopped: threading.Event) -> None:
    """Read with a listener until told to stop."""
    import oslo_messaging
    import redis
    from oslo_config import cfg

    client = redis.Redis.from_url(redis_url)

    class Endpoint:
        def info(
            self, context: Any, publisher: str, event_type: str, payload: Any, metadata: Any
        ) -> None:
            if event_type == RELEVANT:
                data = payload["nova_object.data"]
                client.sadd(KEYS.image(names.fingerprint(data["image_uuid"])), data["host"])

    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    transport = oslo_messaging.get_notification_transport(conf, url=rabbit)
    conf.set_override("rabbit_qos_prefetch_count", PREFETCH, group="oslo_messaging_rabbit")
    conf.set_override("amqp_durable_queues", True, group="oslo_messaging_rabbit")
    listener = oslo_messaging.get_notification_listener(
        transport,
        [oslo_messaging.Target(topic="versioned_notifications", exchange="nova")],
        [Endpoint()],
        executor="threading",
        pool=QUEUES["oslo"],
    )
    listener.start()
    print("reading", flush=True)
    stopped.wait()
    listener.stop()
    listener.wait()


def kombu(rabbit: str, redis_url: str, stopped: threading.Event) -> None:
    """Read raw bodies and acknowledge as many at once as the consumer does."""
    from kombu.connection import Connection

    unacknowledged = 0

    def take(message: Any) -> None:
        nonlocal unacknowledged
        unacknowledged += 1
        if unacknowledged >= PREFETCH // 2:
            channel.basic_ack(message.delivery_tag, multiple=True)
            unacknowledged = 0

    with Connection(rabbit.replace("rabbit://", "amqp://")) as connection:
        channel = connection.channel()
        channel.auto_decode = False
        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(queue=QUEUES["kombu"], callback=take)
        print("reading", flush=True)
        while not stopped.is_set():
            try:
                connection.drain_events(timeout=0.5)
            except TimeoutError:
                pass


def main() -> None:
    """Run until SIGTERM."""
    kind, rabbit, redis_url = sys.argv[1:]
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    {"oslo": oslo, "kombu": kombu}[kind](rabbit, redis_url, stopped)


if __name__ == "__main__":
    main()
