"""What ``make lab-bytes`` is measured with: a link's bandwidth, the sequence, the table."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.lab import bytes as lab_bytes
from tests.lab import bytes_load, throttle
from tests.lab.bytes_run import Boot, most_at_once
from tests.program import wait_for

IMAGE = "0b5cf5f6-8a3b-4f2e-9d0c-3a0d1c2b4e5f"
CONTENT = bytes(range(256)) * 4096
BANDWIDTH = 8_000_000.0


class Clock:
    """A time that only waiting takes."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_link_lets_its_bandwidth_through_and_no_more() -> None:
    clock = Clock()
    link = throttle.Link(1000.0, clock, clock.sleep)

    for _ in range(50):
        link.send(100)

    assert clock.now == pytest.approx(105.0, abs=throttle.LENIENCE + 0.001)


def test_a_link_that_was_idle_has_saved_nothing_up() -> None:
    clock = Clock()
    link = throttle.Link(1000.0, clock, clock.sleep)
    link.send(100)
    clock.now += 60.0
    begin = clock.now

    for _ in range(50):
        link.send(100)

    assert clock.now - begin == pytest.approx(5.0, abs=throttle.LENIENCE + 0.001)


def test_a_sender_that_is_late_loses_nothing_of_the_bandwidth() -> None:
    """The machine is busy: each sleep lasts longer than it should."""
    clock = Clock()
    link = throttle.Link(1000.0, clock, lambda seconds: clock.sleep(seconds + 0.02))

    for _ in range(50):
        link.send(100)

    assert clock.now == pytest.approx(105.0, abs=throttle.LENIENCE + 0.021)


class Upstream(http.server.BaseHTTPRequestHandler):
    """As Glance answers, for what the real one can't be made to do at will: it breaks off."""

    breaks_off = False

    def do_GET(self) -> None:
        self.send_response(200 if "/images/" in self.path else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.breaks_off else CONTENT)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[throttle.Proxy]:
    monkeypatch.setattr(Upstream, "breaks_off", False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        port = servers.free_port()
        log = tmp_path / "downloads.jsonl"
        with throttle.Proxy(port, upstream.server_port, BANDWIDTH, log) as proxy:
            for each in (upstream, proxy):
                threading.Thread(target=each.serve_forever, daemon=True).start()
            yield proxy
            proxy.shutdown()
        upstream.shutdown()


def get(proxy: throttle.Proxy, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.server_port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def counted(proxy: throttle.Proxy, count: int) -> list[throttle.Download]:
    """The log; a download is written there once its client has all of it."""
    wait_for(lambda: len(throttle.downloads(proxy.log)) >= count)
    return throttle.downloads(proxy.log)


def test_an_image_is_counted_and_nothing_else(proxy: throttle.Proxy) -> None:
    assert get(proxy, f"/v2/images/{IMAGE}/file") == CONTENT
    assert get(proxy, f"/v2/images/{IMAGE}") == CONTENT
    assert get(proxy, "/v2/schemas/image") == CONTENT

    (download,) = counted(proxy, 1)
    assert (download.image, download.bytes, download.whole) == (IMAGE, len(CONTENT), True)


def test_downloads_share_the_link(proxy: throttle.Proxy) -> None:
    threads = [
        threading.Thread(target=get, args=(proxy, f"/v2/images/{IMAGE}/file")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = counted(proxy, len(threads))
    took = max(each.end for each in found) - min(each.start for each in found)
    assert took > 4 * len(CONTENT) / BANDWIDTH - throttle.LENIENCE


def test_the_rate_is_that_of_the_time_in_which_there_were_downloads() -> None:
    spans = [(0.0, 2.0), (1.0, 3.0), (1.5, 2.5), (10.0, 11.0)]

    found = [throttle.Download(IMAGE, 100, True, start, end) for start, end in spans]

    assert throttle.rate(found) == pytest.approx(400 / 4.0)
    assert throttle.rate([]) == 0.0


def test_a_download_that_breaks_off_is_not_whole(
    proxy: throttle.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upstream, "breaks_off", True)

    with pytest.raises(http.client.IncompleteRead):
        get(proxy, f"/v2/images/{IMAGE}/file")

    (download,) = counted(proxy, 1)
    assert (download.bytes, download.whole) == (len(CONTENT) // 2, False)


def test_a_sequence_is_the_same_for_a_seed() -> None:
    one, same, other = (bytes_load.sequence(seed) for seed in (1, 1, 2))

    assert one == same != other
    for requests in (one, other):
        assert sum(request.count for request in requests) == bytes_load.SERVERS
        assert Counter(request.count for request in requests)[bytes_load.BURST] == bytes_load.BURSTS
        assert [r.time_s for r in requests] == sorted(r.time_s for r in requests)


def test_servers_at_once_are_counted_host_by_host() -> None:
    spans = [("a", 1.0, 4.0), ("a", 2.0, 3.0), ("a", 3.0, 9.0), ("b", 1.0, float("nan"))]

    boots = [Boot(host=host, started=start, deleted=end) for host, start, end in spans]

    assert most_at_once(boots, lambda boot: (boot.started, boot.deleted)) == 2


def test_the_table_has_medians_ranges_and_ratios() -> None:
    def figures(count: int) -> dict[str, float]:
        return {**dict.fromkeys(lab_bytes.ROWS, 0), "downloads": count}

    text = lab_bytes.table({"off": [figures(40), figures(60), figures(50)], "on": [figures(20)]})

    assert "| downloads | 50 (40 to 60) | 20 | 0.40 |" in text
    assert "| failed | 0 (0 to 0) | 0 |  |" in text


def test_a_machine_that_was_too_busy_is_said_to_have_been() -> None:
    def figures(late: float) -> dict[str, float]:
        return {"latest_request_s": late, "load_average": 3.0, "rate_while_downloading": 5e7}

    assert "times do not" not in lab_bytes.caveat({"off": [figures(0.3)], "on": [figures(4.9)]})
    assert "times do not" in lab_bytes.caveat({"off": [figures(0.3)], "on": [figures(5.1)]})
