"""The weigher in nova-scheduler's own host manager, under eventlet and in native threads.

Run in each release's environment by ``make test-nova-releases``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus_cache.index import changes, writer
from tests import servers
from tests.functional.test_weigher import HANG
from tests.releases import threads
from weigher import recent

RELEASE = int(importlib.metadata.version("nova").partition(".")[0])
THREADS = os.environ.get("NOVA_SCHEDULER_THREADS", "").split() or threads(RELEASE)

START = 300.0
"""Seconds after which a start, an answer or an end counts as hanging. A start takes 8 s of a
processor, and longer where others want it, too."""

BACK = 30.0
"""Seconds after which the index must be followed again once Redis answers."""


class Scheduler:
    """A process of :mod:`tests.releases.scheduler`."""

    def __init__(self, directory: Path, url: str, kind: str, **options: object) -> None:
        """``options`` go into ``[image_cache_weigher]``."""
        path, self.log = directory / "nova.conf", directory / "nova-scheduler.log"
        lines = [
            "[DEFAULT]",
            f"log_file = {self.log}",
            "[api_database]",
            f"connection = sqlite:///{directory}/nova_api.sqlite",
            "sqlite_synchronous = False",
            "[filter_scheduler]",
            "weight_classes = nova.scheduler.weights.all_weighers,weigher.ImageCacheWeigher",
            "track_instance_changes = False",  # else it asks the cells' databases for servers
            "[bus_cache]",
            f"redis_url = {url}",
            "[image_cache_weigher]",
            *(f"{name} = {value}" for name, value in options.items()),
        ]
        path.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.releases.scheduler", "--config-file", str(path)],
            env={**os.environ, "OS_NOVA_DISABLE_EVENTLET_PATCHING": str(kind == "native")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
        )
        self.kind = self.ask(None)

    def ask(self, image: str | None) -> dict[str, Any]:
        """Return how it ranks hosts for a large image; None: what it is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(image) + "\n")
        self._process.stdin.flush()
        ready = select.select([self._process.stdout], [], [], START)[0]
        line = self._process.stdout.readline() if ready else ""
        assert line, self.log.read_text()
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """End it in good order."""
        try:
            self._process.communicate(timeout=START)
        finally:
            self._process.kill()
        assert self._process.returncode == 0, self.log.read_text()

    def wait_until_preferred(self, image: str, host: str) -> None:
        """Wait until it follows the index."""
        deadline = time.monotonic() + BACK
        while self.ask(image)["ranked"][0][0] != host:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Redis]:
    """A Redis for all."""
    with servers.Redis() as redis:
        yield redis


@pytest.fixture(scope="module", params=THREADS)
def kind(request: pytest.FixtureRequest) -> str:
    """How nova-scheduler runs."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def scheduler(
    server: servers.Redis, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scheduler]:
    """A scheduler that is well configured."""
    directory = tmp_path_factory.mktemp(kind)
    # not 0.05 s: on a busy machine a good Redis may be late
    running = Scheduler(directory, server.url, kind, time_budget=2)
    yield running
    running.close()


def held(server: servers.Redis, *hosts: str) -> str:
    """Return an image that hosts hold."""
    image = str(uuid.uuid4())
    with server.client() as client:
        facts = [changes.Held(host, image, 1, changes.Source.CREATE) for host in hosts]
        assert writer.Writer(client, "bus_cache").apply(facts) == []
    return image


def test_is_what_it_should_be(scheduler: Scheduler, kind: str) -> None:
    """This release, patched as asked, with the bus-cache that was installed."""
    told = scheduler.kind
    assert told["nova"] == importlib.metadata.version("nova")
    assert told["patched"] == (kind == "eventlet")
    if os.environ.get("BUS_CACHE_INSTALLED"):
        assert "site-packages" in told["bus_cache"]


def test_holders_gain(server: servers.Redis, scheduler: Scheduler) -> None:
    """Each by the multiplier, or by its aggregate's; nothing else changes."""
    told = scheduler.ask(held(server, "compute3", "compute9"))
    assert told["ours"] == 1
    alone = dict(told["alone"])
    gain = {host: weight - alone[host] for host, weight in told["ranked"]}
    expected = {host: {"compute3": 5.0, "compute9": 21.0}.get(host, 0.0) for host in alone}
    assert gain == pytest.approx(expected)
    assert [host for host, _ in told["ranked"][:2]] == ["compute9", "compute3"]


def test_redis_dies_and_returns(server: servers.Redis, scheduler: Scheduler) -> None:
    """Meanwhile Nova's ranking to the bit, and no call waits."""
    server.kill()
    for _ in range(20):
        told = scheduler.ask(str(uuid.uuid4()))
        assert told["ranked"] == told["alone"]
        assert told["spent"] < HANG
    server.start()
    scheduler.wait_until_preferred(held(server, "compute9"), "compute9")


def test_redis_hangs_and_goes_on(server: servers.Redis, scheduler: Scheduler) -> None:
    """The same with one that takes connections and does not answer."""
    image = held(server, "compute9")
    scheduler.wait_until_preferred(image, "compute9")
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    time.sleep(recent.FRESH)  # what was answered before counts
    try:
        for _ in range(20):
            told = scheduler.ask(image)
            assert told["ranked"] == told["alone"]
            assert told["spent"] < HANG
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    scheduler.wait_until_preferred(image, "compute9")


def test_wrong_configuration_disables_only_us(kind: str, tmp_path: Path) -> None:
    """nova-scheduler starts, ranks as without us, and its log says once which option is wrong."""
    running = Scheduler(tmp_path, "http://user:hush@127.0.0.1/", kind)
    for _ in range(3):
        told = running.ask(str(uuid.uuid4()))
        assert told["ranked"] == told["alone"]
    running.close()
    log = running.log.read_text()
    assert sum("redis_url" in line for line in log.splitlines()) == 1
    assert "hush" not in log
