"""A small HTTP server in threads of its own: GET only, bounded in whatever a client may do.

A client may be slow, send much, or come in crowds: it costs at most :data:`MOST` threads, for
:data:`SECONDS` each, :data:`MOST_BYTES` of memory in each, and what :data:`A_SECOND` answers cost.
What the program is there for never waits for it.
"""

from __future__ import annotations

import http.server
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from oslo_log import log as logging

import bus_cache
from bus_cache.conf.types import Address
from bus_cache.measure import Metric, Samples

LOG = logging.getLogger(__name__)

MOST = 8
"""Connections at a time; further ones are closed at once. Prometheus and some people."""

A_SECOND = 10
"""Connections that are taken in a second; further ones wait in the kernel, or are refused there."""

SECONDS = 10.0
"""Seconds that a connection may last: request and answer."""

MOST_BYTES = 16 * 1024
"""Bytes that a client may send; a browser's headers are some 1000."""

AGAIN = 30.0
"""Seconds between two tries to listen, where another process has the port."""


class Answer(NamedTuple):
    """What is sent: status, type and bytes."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def text(cls, status: int, text: str) -> Answer:
        """Return a line for people."""
        return cls(status, "text/plain; charset=utf-8", f"{text}\n".encode())


Routes = Mapping[str, Callable[[], Answer]]
"""Path -> what answers it, called in a thread of its own."""


def scraped(table: Sequence[Metric], samples: Callable[[], Samples]) -> Callable[[], Answer]:
    """Return what answers a scrape; without the library, what to install."""
    try:
        from bus_cache.web import exposition  # noqa: PLC0415 - an extra, not always there
    except ImportError as error:  # absent, or another release: whatever it is, it is only metrics
        absent = isinstance(error, ModuleNotFoundError)
        reason = f"{error.name} is not installed" if absent else " ".join(str(error).split())
        missing = f"{reason}: pip install 'bus-cache[metrics]'"
        return lambda: Answer.text(501, missing)
    text = exposition.exporter(table, samples)
    return lambda: Answer(200, exposition.CONTENT_TYPE, text())


class _Bounded(io.RawIOBase):
    """What a client sends, up to :data:`MOST_BYTES`; then it has sent all."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request: HTTP/1.0, so that each connection has one."""

    server: _Listener
    timeout = SECONDS
    server_version = f"bus-cache/{bus_cache.__version__}"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Bounded(self.connection), MOST_BYTES)

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        if route is None:
            answer = Answer.text(404, "There is: " + " ".join(sorted(self.server.routes)))
        else:
            try:
                answer = route()
            except Exception as error:  # it is looked at again; the program goes on
                LOG.debug("answering %s failed", path, exc_info=True)
                answer = Answer.text(500, f"{type(error).__name__}: see the log with debug = True")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
        """Keep requests out of the log."""


class _Listener(socketserver.ThreadingTCPServer):
    """Accepts; hands each connection to a thread, and ends those that last too long."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * MOST
    timeout = 0.5  # of handle_request

    def __init__(self, address: Address, routes: Routes) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.routes = routes
        self.came = False
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__((address.host, address.port), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a connection, where there are not too many."""
        self.came = True
        with self._lock:
            if len(self._open) >= MOST:
                return False
            self._open[request] = time.monotonic() + SECONDS
        return True

    def end_late(self) -> None:
        """End what lasts too long."""
        now = time.monotonic()
        with self._lock:
            late = [each for each, end in self._open.items() if now >= end]
        for each in late:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has gone

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that is over."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave a client that went away."""
        LOG.debug("a client went away")


class Server:
    """Serves routes on an address until :meth:`stop`, or not at all.

    A port that another process has is tried again: what the program is there for does not depend on
    it.
    """

    def __init__(self, address: Address, routes: Routes, option: str) -> None:
        """Take where to listen and what is there.

        :param option: names the option to look at, in the log.
        """
        self._address = address
        self._routes = routes
        self._option = option
        self._stop = threading.Event()

    def start(self) -> None:
        """Listen, in a thread of its own."""
        threading.Thread(target=self._run, name="http", daemon=True).start()

    def stop(self) -> None:
        """Listen no more. From any thread."""
        self._stop.set()

    def _run(self) -> None:
        said = False
        while not self._stop.is_set():
            try:
                listener = _Listener(self._address, self._routes)
            except OSError as error:
                if not said:
                    LOG.warning(
                        "can't listen on %s: %s. Trying again. Where several programs run on one "
                        "machine, give each its own %s, or leave it empty",
                        self._address,
                        error.strerror or error,
                        self._option,
                    )
                said = True
                self._stop.wait(AGAIN)
                continue
            LOG.info("listening on http://%s/", self._address)
            with listener:
                while not self._stop.is_set():
                    listener.came = False
                    listener.handle_request()
                    listener.end_late()
                    if listener.came:
                        self._stop.wait(1 / A_SECOND)
