"""Glance behind a slow link: a reverse proxy that holds images to a bandwidth and counts them.

``python -m tests.lab.throttle PORT GLANCE_PORT BYTES_PER_SECOND LOG``. Everything but the bytes of
an image passes at full speed. The downloads that run at the same time share the bandwidth evenly:
they take turns, one block each. LOG gets a line of JSON for each download when it ends, whole or
not: a :class:`Download`.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LOOPBACK = "127.0.0.1"
BLOCK = 128 * 1024
#: Seconds of bandwidth that may be made up for when this process was late: no more, or a link that
#: was idle would let a burst through.
LENIENCE = 0.1
#: Headers that concern one connection (RFC 9110, 7.6.1), not what is sent over it.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}

IMAGE = re.compile(r"/v2/images/([0-9a-f-]{36})/file")


@dataclasses.dataclass(frozen=True)
class Download:
    """One image's way through the link."""

    image: str
    bytes: int
    #: Whether all came through that Glance had announced.
    whole: bool
    #: Seconds since the epoch.
    start: float
    end: float


def downloads(log: Path) -> list[Download]:
    """What the proxy has counted so far, in the order of their ends."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [Download(**json.loads(line)) for line in lines]


def rate(found: Iterable[Download]) -> float:
    """Bytes a second while anything was on its way; less than the bandwidth on a busy machine."""
    total = busy = 0.0
    until = 0.0
    for each in sorted(found, key=lambda each: each.start):
        total += each.bytes
        busy += max(0.0, each.end - max(each.start, until))
        until = max(until, each.end)
    return total / busy if busy else 0.0


class Link:
    """A bandwidth, for all who send at the same time."""

    def __init__(
        self,
        bandwidth: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``bandwidth``: bytes a second. ``clock`` and ``sleep``: for a test without waiting."""
        self._bandwidth = bandwidth
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free = 0.0

    def send(self, size: int) -> None:
        """Return when the link has let so many bytes through, after all that came before.

        A sender that asks for its next block only then cannot get ahead of the others.
        """
        with self._lock:
            self._free = max(self._free, self._clock() - LENIENCE) + size / self._bandwidth
            until = self._free
        if (wait := until - self._clock()) > 0:
            self._sleep(wait)


class Proxy(ThreadingHTTPServer):
    """Passes on what Nova asks of Glance: reads only."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, glance: int, bandwidth: float, log: Path) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.glance = glance
        self.link = Link(bandwidth)
        self.log = log
        self._lock = threading.Lock()

    def count(self, download: Download) -> None:
        with self._lock, self.log.open("a") as log:
            log.write(json.dumps(dataclasses.asdict(download)) + "\n")


class Handler(BaseHTTPRequestHandler):
    """One connection of a client. Any other method than these is refused (501) by its base."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        upstream = http.client.HTTPConnection(LOOPBACK, self.server.glance)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
            upstream.request(self.command, self.path, headers=headers)
            self._answer(upstream.getresponse())
        finally:
            upstream.close()

    do_HEAD = do_GET

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:  # its end is the end of the connection
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        image = IMAGE.fullmatch(self.path)
        if image and answer.status == http.client.OK:
            self._download(image[1], answer)
        else:
            self.wfile.write(answer.read())

    def _download(self, image: str, answer: http.client.HTTPResponse) -> None:
        start, sent = time.time(), 0
        announced = answer.length
        try:
            while block := answer.read(BLOCK):
                self.server.link.send(len(block))
                self.wfile.write(block)
                sent += len(block)
        except OSError:
            pass  # the client hung up, or Glance did
        whole = sent == announced
        self.server.count(Download(image, sent, whole, start, time.time()))
        if not whole:
            self.close_connection = True  # else the client waits for the rest

    def log_message(self, *arguments: object) -> None:
        """Nothing: what counts is in the log of downloads."""


def main() -> None:
    port, glance, bandwidth, log = sys.argv[1:]
    Proxy(int(port), int(glance), float(bandwidth), Path(log)).serve_forever()


if __name__ == "__main__":
    main()
