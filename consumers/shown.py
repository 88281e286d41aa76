"""What a consumer shows over HTTP: metrics, health, and the page to look at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from bus_cache import connect
from bus_cache.conf.types import Address
from bus_cache.web.server import Routes, Server, scraped
from consumers import health, metrics
from consumers.consumer import Consumer
from consumers.page import Page
from consumers.reconcile import Reconciler
from consumers.survey import Surveyor


class Shown:
    """Shows the consumers of a process."""

    def __init__(
        self,
        address: Address,
        consumers: Sequence[Consumer],
        reconciler: Reconciler | None,
        client: Callable[[], connect.Client],
        keyspace: str,
    ) -> None:
        """Take where to listen, what is shown, and what makes a client for Redis."""
        self._surveyor = Surveyor(client, keyspace)
        self._page = Page(consumers, self._surveyor, keyspace)
        samples = functools.partial(metrics.samples, consumers, self._surveyor, reconciler)
        routes: Routes = {
            "/": self._page.html,
            "/state.json": self._page.state,
            "/metrics": scraped(metrics.METRICS, samples),
            "/healthz": functools.partial(health.alive, consumers),
            "/readyz": functools.partial(health.ready, consumers),
        }
        self._server = Server(address, routes, "[consumer] http_listen")

    def start(self) -> None:
        """Listen, in threads of its own."""
        self._surveyor.start()
        self._page.start()
        self._server.start()

    def stop(self) -> None:
        """Listen no more. From any thread."""
        self._surveyor.stop()
        self._page.stop()
        self._server.stop()
