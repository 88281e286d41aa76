"""What an agent costs its host, and how long it takes from an event on disk to the changed set.

A private RabbitMQ and Redis, the real programs, a folder of files named as Nova names them. One
clock: this process changes the folder and reads the queue, then, beside a consumer, the set.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bus_cache.conf
from bus_cache import names, protocol
from bus_cache.agent.inventory.libvirt import Libvirt
from bus_cache.conf import nova, opts
from tests import servers


def image(number: int) -> str:
    """Return a fingerprint."""
    return names.fingerprint(f"image-{number}")


def fill(folder: Path, count: int) -> None:
    """Have so many images in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / image(number)).touch()


def scans(instances: Path, config: Path, count: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds that listings of so many images took, and those of the processor."""
    fill(instances / "_base", count)
    conf = bus_cache.conf.load(
        "agent-bench", ["--config-file", str(config)], opts.AGENT_GROUPS, nova.register
    )
    driver = Libvirt(conf)
    took, used = [], []
    for _ in range(51):
        start, before = time.perf_counter(), time.process_time()
        found = driver.list()
        took.append((time.perf_counter() - start) * 1000)
        used.append((time.process_time() - before) * 1000)
        assert len(found.images) == count
    return took, used


@contextlib.contextmanager
def agent(config: Path, log: Path) -> Iterator[servers.Process]:
    """Run the program."""
    command = str(Path(sys.executable).with_name("bus-cache-agent"))
    process = servers.Process([command, "--config-file", str(config)], log)
    try:
        yield process
    finally:
        process.stop()


class Reader:
    """Reads the queue, and keeps when which message came."""

    def __init__(self, rabbit: servers.RabbitMQ) -> None:
        """Connect; the queue is there once an agent has published."""
        self._rabbit = rabbit
        self.came: dict[tuple[str, str], float] = {}
        self.snapshots = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection = self._rabbit.connect()
                connection.connect()
                channel = connection.channel()
                channel.basic_consume(protocol.QUEUE, callback=self._take, no_ack=True)
                break
            except Exception:  # not there yet
                time.sleep(0.1)
        with contextlib.suppress(Exception):  # until the broker ends
            while not self._stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.5)
        with contextlib.suppress(Exception):
            connection.close()
        self._closed.set()

    def stop(self) -> None:
        """Leave the queue to a consumer."""
        self._stopped.set()
        self._closed.wait(10)

    def _take(self, message: Any) -> None:
        now = time.monotonic()
        said = json.loads(json.loads(message.body)["oslo.message"])
        if said["event_type"] == protocol.SNAPSHOT:
            if not said["payload"]["leaving"]:  # the goodbye of the agent before
                self.snapshots.release()
        else:
            self.came[said["event_type"], said["payload"]["image"]] = now


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> str:
    """Return resident memory, and the most of it so far, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, most = (
        int(re.findall(rf"{field}:\s+(\d+)", status)[0]) / 1024 for field in ("VmRSS", "VmHWM")
    )
    return f"{now:.0f} MB, at most {most:.0f} MB"


def events(folder: Path, reader: Reader, count: int, rate: float) -> list[float]:
    """Return the milliseconds from each image's rename to its message, at ``rate`` per second."""
    happened: dict[tuple[str, str], float] = {}
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        name = names.fingerprint(f"new-{number}")
        part = folder / f"{name}.part"
        part.touch()
        time.sleep(0.002)
        happened[protocol.STORED, name] = time.monotonic()
        part.rename(folder / name)
    deadline = time.monotonic() + 60
    while not happened.keys() <= reader.came.keys():
        if time.monotonic() > deadline:
            missing = len(happened.keys() - reader.came.keys())
            raise SystemExit(f"{missing} of {count} events were not told within 60 s")
        time.sleep(0.05)
    return [(reader.came[key] - at) * 1000 for key, at in happened.items()]


def changed_sets(folder: Path, rabbit: servers.RabbitMQ, count: int, rate: float) -> list[float]:
    """Return the milliseconds from each image's rename, and from its removal, to the changed set.

    An agent runs; a consumer is started beside it.
    """
    keys = names.Keys("bus_cache")
    took: list[float] = []
    with tempfile.TemporaryDirectory() as temporary, servers.Redis() as redis_server:
        config = Path(temporary) / "bus_cache.conf"
        config.write_text(
            f"[DEFAULT]\ntransport_url = {rabbit.url}\n"
            f"[bus_cache]\nredis_url = {redis_server.url}\n"
        )
        command = str(Path(sys.executable).with_name("bus-cache-consumer"))
        consumer = servers.Process(
            [command, "--config-file", str(config)], Path(temporary) / "consumer.log"
        )
        try:
            with redis_server.client() as client:
                wait_for_members(client, keys.image(image(0)), True, 90)
                for number in range(count):
                    time.sleep(1 / rate)
                    name = names.fingerprint(f"newer-{number // 2}")
                    comes = number % 2 == 0
                    if comes:
                        (folder / f"{name}.part").touch()
                        time.sleep(0.002)
                    start = time.monotonic()
                    if comes:
                        (folder / f"{name}.part").rename(folder / name)
                    else:
                        (folder / name).unlink()
                    wait_for_members(client, keys.image(name), comes, 30)
                    took.append((time.monotonic() - start) * 1000)
        finally:
            consumer.stop()
    return took


def wait_for_members(client: Any, key: str, there: bool, seconds: float) -> None:
    """Wait until the host is, or is not, in a set."""
    deadline = time.monotonic() + seconds
    while bool(client.sismember(key, "h1")) is not there:
        if time.monotonic() > deadline:
            raise SystemExit(f"the set {key} did not change within {seconds:.0f} s")
        time.sleep(0.0002)


def show(what: str, took: list[float]) -> None:
    """Print median and worst of a hundred."""
    p99 = statistics.quantiles(took, n=100)[98]
    print(f"{what:<48} median {statistics.median(took):6.1f} ms   p99 {p99:6.1f} ms")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1000, help="images that come (1000)")
    parser.add_argument("--rate", type=float, default=20, help="of them per second (20)")
    parser.add_argument("--idle", type=float, default=130, help="seconds of idleness (130)")
    options = parser.parse_args()
    with (
        # not in /tmp: inotify tells of every file that others make in a folder above ours
        tempfile.TemporaryDirectory(prefix="bus-cache-agent-bench-", dir="/var/tmp") as temporary,
        servers.RabbitMQ() as rabbit,
    ):
        folder = Path(temporary)
        config, base = folder / "nova.conf", folder / "instances" / "_base"
        config.write_text(
            f"[DEFAULT]\nhost = h1\ncompute_driver = libvirt.LibvirtDriver\n"
            f"state_path = {folder}\ntransport_url = {rabbit.url}\n[agent]\nstate_path = {folder}\n"
        )
        for count in (2000, 10_000):
            took, used = scans(folder / "instances", config, count)
            show(f"scan of {count:,} images", took)
            show("  of it processor time", used)
        for count in (200, 10_000):
            fill(base, count)
            reader = Reader(rabbit)
            reader.snapshots = threading.Semaphore(0)
            with agent(config, folder / "agent.log") as process:
                reader.snapshots.acquire()
                if count == 200:
                    took = events(base, reader, options.events, options.rate)
                    show("event on disk -> message on the bus", took)
                    reader.stop()
                    took = changed_sets(base, rabbit, options.events, options.rate)
                    show("event on disk -> changed set", took)
                before = processor_seconds(process.pid)
                time.sleep(options.idle)
                used = (processor_seconds(process.pid) - before) / options.idle
                held = len(list(base.iterdir()))
                reader.stop()
                print(f"idle with {held:>6,} images: {used:.3%} of one core, {memory(process.pid)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
