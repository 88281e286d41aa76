"""The page to look at, in a real browser: a small cloud, 10,000 hosts, and names that mean harm."""

from __future__ import annotations

import html
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus_cache import connect, names
from bus_cache.index.changes import AgentSnapshot, Change, Held, ImageSize, Source
from bus_cache.index.writer import Writer
from tests import publisher, servers
from tests.program import Program, configuration, wait_for

PICTURE = Path(__file__).parents[2] / "build" / "page.png"
HARM = "<img/src=x/onerror=document.title='harmed'>"
GIB = 1024**3


class Browser:
    """Debian's chromium, without a screen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, url: str, *more: str) -> str:
        """Return the page as it is after some seconds of its time."""
        command = [
            servers.program("chromium", "chromium"),
            "--headless=new",
            "--no-sandbox",  # not as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1320,1400",
            f"--user-data-dir={self._folder}",
            "--virtual-time-budget=5000",
            *(more or ("--dump-dom",)),
            url,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=True
        ).stdout


@pytest.fixture
def consumer(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> Iterator[Callable[[list[Change]], str]]:
    """Start a consumer on an index with these statements; returns the address of its page."""
    redis_server.client().flushall()
    port = servers.free_port()
    more = f"http_listen = 127.0.0.1:{port}"
    program = Program(tmp_path, configuration(rabbit.url, redis_server.url, more))

    def start(changes: list[Change]) -> str:
        client = connect.connect(
            connect.parse(redis_server.url), connect_timeout=2, read_timeout=60
        )
        assert Writer(client, "bus_cache").apply(changes) == []
        program.start().reading().said("listening on")
        return f"http://127.0.0.1:{port}/"

    yield start
    program.kill()


def state(url: str) -> Any:
    with urllib.request.urlopen(f"{url}state.json", timeout=30) as answer:
        return json.load(answer)


def drawn(url: str) -> Any:
    """Wait until the heat map is drawn."""
    return wait_for(
        lambda: found if (found := state(url)["survey"]) and found["heat"] else None, 60
    )


def shown(page: str, name: str) -> str:
    """Return the text of an element."""
    found = re.search(f'id="{name}"[^>]*>([^<]*)<', page)
    assert found, name
    return html.unescape(found[1])


def test_a_small_cloud(
    consumer: Callable[[list[Change]], str], rabbit: servers.RabbitMQ, tmp_path: Path
) -> None:
    now = int(time.time() * 1000)
    sizes = (GIB // 20, GIB // 2, 3 * GIB // 2, 6 * GIB)
    images = [f"7d4e1f0a-3b52-4c8e-9a61-0f2c5b8d{n:04x}" for n in range(24)]
    changes: list[Change] = [ImageSize(image, sizes[n % 4], now) for n, image in enumerate(images)]
    for n in range(1, 49):
        held = [image for k, image in enumerate(images) if n * (k + 3) % 17 < 17 - 2 * k / 3]
        if n % 8:
            prints = tuple(names.fingerprint(image) for image in held)
            changes.append(AgentSnapshot(f"compute{n}", (1, 1), now, prints))
        else:
            stamp = now - n * 1_800_000
            changes += [Held(f"compute{n}", image, stamp, Source.CREATE) for image in held]
    url = consumer(changes)
    cloud = publisher.Publisher(rabbit.url)
    for n in range(40):
        payload = {
            "host": None,
            "image_ref_url": f"http://glance/images/{images[n % 9]}",
            "instance_id": f"8c1f3f5e-2a44-4b6d-9f0e-7d3f1b2a{n:04x}",
        }
        cloud.send(f"compute.compute{n + 1}", "compute.instance.create.start", payload)
    cloud.send("compute.compute1", "compute.instance.create.end", {"host": "compute1"})
    cloud.close()
    wait_for(lambda: state(url)["buses"][0]["counts"]["received"] == 41)
    heat = drawn(url)["heat"]
    assert wait_for(lambda: len(state(url)["points"]) > 1)

    browser = Browser(tmp_path / "chromium")
    page = browser.open(url)
    assert shown(page, "health") == "all buses are read, and Redis takes writes"
    assert shown(page, "hosts") == "48"
    assert shown(page, "sources") == "42 by their agent"
    assert shown(page, "held") == "24"
    assert shown(page, "memberships") == str(sum(image[2] for image in heat["images"]))
    assert shown(page, "boots").endswith(" of 40 boots")
    assert 0 < int(shown(page, "share").removesuffix(" %")) < 100
    assert page.count('class="cell"') == sum(image[2] for image in heat["images"])
    assert images[0] in page
    assert "ignoring a message that can't be understood" in html.unescape(page)

    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.unlink(missing_ok=True)
    browser.open(url, f"--screenshot={PICTURE}")
    assert PICTURE.read_bytes().startswith(b"\x89PNG")


def test_10000_hosts(consumer: Callable[[list[Change]], str], tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    url = consumer(
        [
            Held(f"compute{n}", f"image-{k}", now, Source.CREATE)
            for n in range(10_000)
            for k in range(4)
            if n % (k + 1) == 0
        ]
    )
    survey = drawn(url)
    assert survey["hosts"] == 10_000
    assert len(json.dumps(state(url))) < 100_000
    page = Browser(tmp_path / "chromium").open(url)
    assert shown(page, "hosts") == "10,000"
    assert shown(page, "memberships") == "20,834"
    assert "a column is 100 neighbours" in shown(page, "heading")
    assert page.count('class="cell"') == 4 * 100
    assert "image-3\ncompute0 to compute99: 25 of 100" in html.unescape(page)


def test_names_that_mean_harm_are_shown_and_not_run(
    consumer: Callable[[list[Change]], str], tmp_path: Path
) -> None:
    now = int(time.time() * 1000)
    url = consumer(
        [Held(HARM, HARM, now, Source.CREATE), Held("h", "<script>1</script>", now, Source.CREATE)]
    )
    drawn(url)
    page = Browser(tmp_path / "chromium").open(url)
    assert "<title>bus-cache</title>" in page
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert HARM in html.unescape(page)
    with urllib.request.urlopen(url, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; script-src 'sha256-")
    assert "unsafe" not in policy
