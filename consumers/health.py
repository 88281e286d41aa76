"""Whether a consumer lives and works: for HTTP, and for systemd, which starts anew what hangs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence

from oslo_log import log as logging

from bus_cache.web.server import Answer
from consumers.consumer import Consumer

LOG = logging.getLogger(__name__)

STUCK = 120.0
"""Seconds after which a consumer that did not come around hangs. A broker or a Redis that never
answers is given up after some seconds, and a pause between two tries lasts 30."""

TELL = 10.0
"""Seconds between two words to systemd, at the most."""


def stuck(consumers: Sequence[Consumer]) -> str:
    """Return which consumers hang; empty: all live."""
    now = time.monotonic()
    return "; ".join(
        f"reading {each.bus} hangs for {now - each.measures.turn:.0f} s"
        for each in consumers
        if now - each.measures.turn > STUCK
    )


def away(consumers: Sequence[Consumer]) -> str:
    """Return what is away, and why; empty: all buses are read, and Redis takes what they say."""
    return "; ".join(
        f"{each.bus}: {what} is away: {why}"
        for each in consumers
        for what, why in each.waits_for.items()
    )


def alive(consumers: Sequence[Consumer]) -> Answer:
    """Answer /healthz: not 200 where only a new start helps."""
    reason = stuck(consumers)
    return Answer.text(503 if reason else 200, reason or "alive")


def ready(consumers: Sequence[Consumer]) -> Answer:
    """Answer /readyz: not 200 while something is waited for."""
    reason = stuck(consumers) or away(consumers)
    return Answer.text(503 if reason else 200, reason or "ready")


class Systemd:
    """Tells systemd that the consumers live, and what they wait for (``systemctl status``).

    A dozen lines of sd_notify(3)'s protocol: the libraries for it are compiled or long unattended.
    That the program has started, cotyledon tells: a service that waits for its bus has started.
    Where a consumer hangs nothing is told any more, and systemd's watchdog starts the service anew
    (``WatchdogSec=``; ``NotifyAccess=all``, since this is not the main process).
    """

    def __init__(self, address: str, consumers: Sequence[Consumer]) -> None:
        """Take ``NOTIFY_SOCKET`` as it was when the program started; empty: nobody is told."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._consumers = consumers
        self._interval = TELL
        with contextlib.suppress(ValueError):
            watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
            self._interval = min(TELL, watchdog / 3) if watchdog > 0 else TELL
        self._stop = threading.Event()

    def start(self) -> None:
        """Tell from now on, in a thread of its own."""
        if self._address:
            threading.Thread(target=self._run, name="systemd", daemon=True).start()

    def stop(self) -> None:
        """Tell that the program ends. From any thread."""
        self._stop.set()
        if self._address:
            self._tell("STOPPING=1")

    def _run(self) -> None:
        said = False
        while not self._stop.is_set():
            reason = stuck(self._consumers)
            if not reason:
                status = away(self._consumers) or "all buses are read, and Redis takes writes"
                self._tell(f"WATCHDOG=1\nSTATUS={status}")
            elif not said:
                LOG.error("%s: systemd's watchdog will start this program anew", reason)
            said = bool(reason)
            self._stop.wait(self._interval)

    def _tell(self, text: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
                systemd.sendto(text.encode(), self._address)
        except OSError as error:
            LOG.debug("systemd can't be told: %s", error)
