"""The lab for a whole test session: one cloud, with the consumer and the weigher in their places.

Its tests build on each other, as days in a cloud's life do: they run in the order of their file,
in one process.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests import keyspace
from tests.lab.client import wait_until
from tests.lab.configuration import NovaOptions
from tests.lab.plane import PROGRAMS, PROJECT, ControlPlane
from tests.lab.scenario import Scenario, fingerprint
from tests.lab.truth import Table

CONSUMER = "bus-cache-consumer"
QUEUE = "bus_cache"

#: Seconds in which the index must say what has happened.
PATIENCE = 15.0
#: Seconds after which a message that should change nothing would have done so.
SETTLED = 0.4


class Product:
    """bus-cache as an operator runs it: the consumer process, the command line, the sets in
    Redis."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def start_consumer(self) -> None:
        config = ("--config-file", str(self.plane.bus_cache_config))
        self.plane.start_service(CONSUMER, [str(PROGRAMS / CONSUMER), *config])
        wait_until(lambda: self.plane.rabbit.has_queue(QUEUE), "the consumer to read its queue")

    def stop_consumer(self) -> int:
        """SIGTERM; its return code."""
        return self.plane.processes.pop(CONSUMER).stop()

    def command(self, *arguments: str) -> str:
        """What ``bus-cache`` prints."""
        program = [str(PROGRAMS / "bus-cache"), *arguments]
        config = ("--config-file", str(self.plane.bus_cache_config))
        done = subprocess.run([*program, *config], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def index(self) -> dict[str, set[str]]:
        """The public sets: fingerprint -> hosts."""
        with self.plane.redis.client() as client:
            return keyspace.sets(client)

    def await_index(self, table: Table) -> None:
        """The index comes to say exactly this, and stays so."""
        expected = {fingerprint(image): set(hosts) for image, hosts in table.items()}
        deadline = time.monotonic() + PATIENCE
        while self.index() != expected and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(SETTLED)
        assert self.index() == expected


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(PROJECT / "build" / "lab", 6, NovaOptions(weigher=True)) as plane:
        yield plane


@pytest.fixture(scope="session")
def product(plane: ControlPlane) -> Product:
    product = Product(plane)
    product.start_consumer()
    return product


@pytest.fixture(scope="session")
def lab(plane: ControlPlane, product: Product) -> Scenario:
    """The scenario, with the consumer listening from its first step."""
    lab = Scenario(plane)
    lab.prepare()
    return lab
