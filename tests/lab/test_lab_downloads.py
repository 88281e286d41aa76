"""A host that really downloads, in the lab's cloud: each image once, and its agent tells of it.

What ``make lab-bytes`` counts rests on this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests import servers
from tests.lab import bytes_load, configuration, throttle
from tests.lab.client import wait_until
from tests.lab.plane import ControlPlane
from tests.lab.product import Product
from tests.lab.scenario import fingerprint, image_id

pytestmark = pytest.mark.lab

HOST = "downloads-1"
SIZE = 8_000_000
BANDWIDTH = 4_000_000.0


@pytest.fixture
def host(plane: ControlPlane, product: Product) -> Iterator[str]:
    """One more compute host, behind a slow Glance, with an agent."""
    port = servers.free_port()
    plane.slow_glance(port, BANDWIDTH)
    options = replace(plane.options, extra=configuration.downloading(f"http://127.0.0.1:{port}"))
    sections = configuration.nova(plane.addresses, HOST, plane.state(HOST), options)
    configuration.write(plane.config(HOST), sections)
    plane.hosts.append(HOST)
    plane.start_compute(HOST)
    product.start_agent(HOST)
    plane.await_hosts([HOST])
    product.await_agents(HOST)
    yield HOST
    product.stop_agent(HOST)
    plane.remove_compute(HOST)
    plane.stop_service("throttle")


def test_an_image_is_downloaded_once_and_told_by_the_agent(
    plane: ControlPlane, product: Product, host: str
) -> None:
    image = image_id("downloaded")
    content = bytes_load.content("downloaded", SIZE)
    plane.cloud.create_image(image, "downloaded", content)
    plane.cloud.create_flavor("downloads", ram=128, disk=1)

    together = [plane.cloud.boot(f"downloads-{n}", image, "downloads", host) for n in range(3)]
    for server in together:
        server.wait()

    wait_until(lambda: throttle.downloads(plane.downloads), "the count of the download")
    (download,) = throttle.downloads(plane.downloads)
    assert (download.image, download.bytes, download.whole) == (image, SIZE, True)
    assert plane.served().count((image, SIZE)) == 1
    assert download.end - download.start > 0.8 * SIZE / BANDWIDTH
    cached = plane.base(host) / fingerprint(image)
    assert hashlib.sha256(cached.read_bytes()).digest() == hashlib.sha256(content).digest()
    wait_until(lambda: product.index().get(fingerprint(image)) == {host}, "the agent's word")
    product.check()
    plane.cloud.delete_servers(together)
    plane.cloud.delete_image(image)
