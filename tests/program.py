"""The consumer's own program, run with a configuration of a test's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import servers

PATIENCE = 120.0
"""Seconds: what is waited for comes within one or two, but on a machine that does much else."""


def wait_for(check: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the first true answer of a check; fail where there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"still {found!r} after {seconds} s"
        time.sleep(0.05)


class Program:
    """``bus-cache-consumer``, or another program of ours, with a configuration of its own."""

    def __init__(
        self, folder: Path, text: str, name: str = "consumer", program: str = "bus-cache-consumer"
    ) -> None:
        self.config = folder / f"{name}.conf"
        self.config.write_text(text)
        self.log = folder / f"{name}.log"
        self.process: servers.Process | None = None
        self._program = program

    def start(self) -> Program:
        """Start it; :meth:`reading` waits until it is ready."""
        command = Path(sys.executable).with_name(self._program)
        self.process = servers.Process([str(command), "--config-file", str(self.config)], self.log)
        return self

    def stop(self) -> int:
        """End it as an operator does, and return its exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        return process.stop()

    def kill(self) -> None:
        """End it at once, where it runs."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def lines(self, text: str) -> list[str]:
        """Return the lines of the log that contain a text."""
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text().splitlines() if text in line]

    def said(self, text: str, times: int = 1, seconds: float = PATIENCE) -> list[str]:
        """Wait until the log contains a text (so many times)."""
        return wait_for(lambda: lines if len(lines := self.lines(text)) >= times else None, seconds)

    def reading(self, times: int = 1) -> Program:
        """Wait until it reads its queue."""
        self.said(": reading ", times)
        return self


def configuration(rabbit_url: str, redis_url: str, more: str = "") -> str:
    """Return a bus_cache.conf; ``more`` begins in the group ``[consumer]``."""
    http = "" if "http_listen" in more else "http_listen =\n"  # many run side by side
    return (
        f"[DEFAULT]\ntransport_url = {rabbit_url}\n"
        f"[bus_cache]\nredis_url = {redis_url}\n"
        f"[consumer]\n{http}{more}\n"
    )
