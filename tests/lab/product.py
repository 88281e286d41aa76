"""bus-cache in the lab, as an operator runs it: its processes, its command line, its sets."""

from __future__ import annotations

import json
import subprocess
import time

from tests import keyspace, servers
from tests.lab import configuration
from tests.lab.client import wait_until
from tests.lab.plane import PROGRAMS, ControlPlane, LabError
from tests.lab.scenario import fingerprint
from tests.lab.truth import Table

CONSUMER = "bus-cache-consumer"
AGENT = "bus-cache-agent"
QUEUE = "bus_cache"
AGENTS_QUEUE = "bus_cache.info"

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

    def start_agent(self, host: str) -> None:
        """Start the agent of a host that downloads."""
        name = agent_of(host)
        # An agent wants to see the folder that nova-compute only makes when it first needs it.
        self.plane.base(host).parent.mkdir(exist_ok=True)
        # The lab's driver is none that the agent knows: it is told whose cache that is.
        own = {"inventory": "libvirt", "state_path": self.plane.state(name)}
        config = self.plane.bus_cache_config.with_name(f"{name}.conf")
        files = (self.plane.config(host), configuration.write(config, {"agent": own}))
        arguments = [part for file in files for part in ("--config-file", str(file))]
        self.plane.start_service(name, [str(PROGRAMS / AGENT), *arguments])

    def stop_agent(self, host: str) -> None:
        self.plane.stop_service(agent_of(host))

    def await_agents(self, *hosts: str) -> None:
        """Until the index knows these hosts by what their agents say."""

        def known() -> bool:
            rows = json.loads(self.command("host", "list", "-f", "json"))
            by_agent = {row["host"] for row in rows if row["known_by"] == "agent"}
            return by_agent.issuperset(hosts)

        wait_until(known, f"the agents of {', '.join(hosts)} to be heard", interval=0.5)

    def check(self) -> None:
        """Neither the consumer nor an agent may have ended, or been surprised by anything."""
        for name, process in self.plane.processes.items():
            if name.startswith((CONSUMER, AGENT)):
                log = self.plane.log(name)
                if not process.running or "Traceback" in log.read_text():
                    raise LabError(f"{name} failed:\n{servers.tail(log)}")

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


def agent_of(host: str) -> str:
    """The name of a host's agent among the lab's processes."""
    return f"{AGENT}-{host}"
