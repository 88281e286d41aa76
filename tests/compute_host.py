"""A compute host for tests: its nova.conf, its image cache, and our agent's own program on it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests import servers


class Host:
    """A compute host: its nova.conf, its cache, its agent."""

    def __init__(self, rabbit: servers.RabbitMQ, folder: Path, name: str) -> None:
        self.name = name
        self.rabbit = rabbit
        self.folder = folder
        self.base = folder / "instances" / "_base"
        self.log = folder / "agent.log"
        self.state = folder / "state"
        self.state.mkdir()
        self.base.parent.mkdir(parents=True, exist_ok=True)
        self.agent: servers.Process | None = None
        self.configure()

    def configure(self, nova: str = "", own: str = "", rabbit: str = "", url: str = "") -> None:
        """Write nova.conf as an operator has it, and the agent's own file."""
        (self.folder / "nova.conf").write_text(
            "[DEFAULT]\n"
            f"host = {self.name}\n"
            f"compute_driver = libvirt.LibvirtDriver\n"
            f"state_path = {self.folder}\n"
            f"transport_url = {url or self.rabbit.url}\n"
            "control_exchange = nova\n"
            "log_dir = /nowhere/nova\n"
            f"{nova}\n"
            "[oslo_messaging_notifications]\n"
            "driver = noop\n"
            f"[oslo_messaging_rabbit]\n{rabbit}\n"
        )
        (self.folder / "bus_cache.conf").write_text(f"[agent]\nstate_path = {self.state}\n{own}\n")

    @property
    def arguments(self) -> list[str]:
        """The configuration files."""
        files = (self.folder / "nova.conf", self.folder / "bus_cache.conf")
        return [word for file in files for word in ("--config-file", str(file))]

    def start(self) -> servers.Process:
        """Start the agent."""
        program = str(Path(sys.executable).with_name("bus-cache-agent"))
        self.agent = servers.Process([program, *self.arguments], self.log)
        return self.agent

    def stop(self) -> int:
        """End it in good order."""
        assert self.agent
        return self.agent.stop()

    def put(self, image: str, size: int = 5000) -> None:
        """Have an image in the cache, as Nova does: under another name until it is whole."""
        self.base.mkdir(parents=True, exist_ok=True)
        part = self.base / f"{image}.part"
        part.write_bytes(b"x" * size)
        part.rename(self.base / image)

    def remove(self, image: str) -> None:
        """As Nova's cache manager does."""
        (self.base / image).unlink()
