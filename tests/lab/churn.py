"""``make lab-churn``: the image caches of real hosts and the index, compared all the time.

Two compute hosts with the libvirt driver and real guests, whose caches Nova's own manager ages
within minutes instead of days. While servers and images come and go, two keyspaces are filled at
the same time: one as the hosts' agents tell it, one as Nova's notifications alone let it be
inferred. The agents speak on a virtual host of their own, which only the first one's consumer
reads. What was seen is in the directory's ``log`` folder: ``samples.jsonl.gz`` and
``notifications.jsonl.gz``.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.lab import churn_actor, churn_sampler, churn_tables, configuration, record
from tests.lab.client import wait_until
from tests.lab.configuration import NovaOptions, Sections
from tests.lab.plane import PROGRAMS, PROJECT, ControlPlane, LabError
from tests.lab.scenario import fingerprint
from tests.servers import ServerError, tail

HOSTS = 2
ACTORS = 2

MANAGER_INTERVAL = 20
MINIMUM_AGE = 60
#: Nova's own options: in its nova.conf as in the inferring consumer's file.
AGEING: Sections = {
    "image_cache": {
        "manager_interval": MANAGER_INTERVAL,
        "remove_unused_original_minimum_age_seconds": MINIMUM_AGE,
    }
}
#: One pass of Nova's manager on a busy machine, and one of ours.
PASS = 5
#: Seconds at the end in which nothing more is done: all that is left ages out.
QUIET = MINIMUM_AGE + 3 * MANAGER_INTERVAL + PASS
SHORTEST = 5  # minutes

#: An agent that was killed is started at once, and tells all within so many seconds.
BACK = 60.0

#: The keyspaces, and each one's consumer's queue on the bus of all.
AGENT, INFERRED = "with_agent", "without_agent"
#: What an agent logs when it has told all for the first time.
TOLD = "told all"
AGENTS = "agents"  # the virtual host that agents publish to


class Product:
    """The agents and the two consumers, as an operator would run them but for the second one."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.processes: list[str] = []
        #: Hosts whose agent was killed, when, and when its next one had told all.
        self.dead: list[tuple[str, float, float]] = []

    def start(self) -> None:
        rabbit, addresses = self.plane.rabbit, self.plane.addresses
        rabbit.ctl("add_vhost", AGENTS)
        rabbit.ctl("set_permissions", "-p", AGENTS, rabbit.user, ".*", ".*", ".*")
        agents = addresses.transport + AGENTS
        self._start_consumer(AGENT, addresses.transport, agents)
        self._start_consumer(INFERRED, addresses.transport)
        for host in self.plane.hosts:
            self._start_agent(host, agents)
            self.processes.append(_agent(host))

    def kill_agent(self, host: str) -> None:
        """As if it had run out of memory, and systemd started it again."""
        log = self.plane.log(_agent(host))
        before, killed = log.read_text().count(TOLD), time.time()
        self.plane.processes[_agent(host)].kill()
        self._start_agent(host, self.plane.addresses.transport + AGENTS)
        wait_until(lambda: log.read_text().count(TOLD) > before, f"{host}'s agent", BACK, 0.05)
        self.dead.append((host, killed, time.time()))

    def _start_consumer(self, keyspace: str, *buses: str) -> None:
        name = f"bus-cache-consumer-{keyspace}"
        sections = configuration.merge(
            {
                "bus_cache": {"redis_url": self.plane.addresses.redis, "keyspace": keyspace},
                "consumer": {"transport_url": buses, "pool": keyspace},
            },
            AGEING,
        )
        config = self._write(name, sections)
        program = [str(PROGRAMS / "bus-cache-consumer"), "--config-file", str(config)]
        self.plane.start_service(name, program)
        self.processes.append(name)
        wait_until(lambda: self.plane.rabbit.has_queue(keyspace), f"{name} to read its queue")

    def _start_agent(self, host: str, bus: str) -> None:
        name = _agent(host)
        sections: Sections = {
            "agent": {"transport_url": bus, "state_path": self.plane.state(name)},
        }
        files = (self.plane.config(host), self._write(name, sections))
        config = [part for file in files for part in ("--config-file", str(file))]
        self.plane.start_on_host(host, name, [str(PROGRAMS / "bus-cache-agent"), *config])

    def _write(self, name: str, sections: Sections) -> Path:
        path = self.plane.bus_cache_config.with_name(f"{name}.conf")
        return configuration.write(path, sections)

    def check(self) -> None:
        """None of them may have ended, or have been surprised by anything."""
        for name in self.processes:
            log = self.plane.log(name)
            if not self.plane.processes[name].running or "Traceback" in log.read_text():
                raise LabError(f"{name} failed:\n{tail(log)}")


def _agent(host: str) -> str:
    return f"bus-cache-agent-{host}"


def parser() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(prog="python -m tests.lab.churn", description=__doc__)
    own.add_argument("--minutes", type=float, default=15.0, help="how long it is watched")
    own.add_argument("--seed", type=int, default=int(time.time()), help="of what is done")
    own.add_argument("--directory", type=Path, default=PROJECT / "build" / "lab-churn")
    return own


def images(plane: ControlPlane) -> tuple[dict[str, str], dict[str, float]]:
    """The names of all images that Glance ever had, and when those were deleted that were."""
    rows = plane.database.execute(
        "SELECT id, name, UNIX_TIMESTAMP(CONVERT_TZ(deleted_at, '+00:00', @@session.time_zone)) "
        "FROM images",
        database="glance",
    )
    names = {fingerprint(row[0]): row[1] for row in rows}
    return names, {fingerprint(row[0]): float(row[2]) for row in rows if row[2] is not None}


def operations(done: list[churn_actor.Done]) -> dict[str, dict[str, float]]:
    """How often each was done, how often in vain, and how long it took."""
    found = {}
    for name in sorted({each.operation for each in done}):
        own = [each for each in done if each.operation == name]
        found[name] = {
            "times": len(own),
            "failed": sum(bool(each.failure) for each in own),
            "median_seconds": round(statistics.median(each.seconds for each in own), 1),
        }
    return found


def run(plane: ControlPlane, minutes: float, seed: int) -> tuple[dict[str, Any], bool]:
    """Churn and compare; what came out of it, and whether all goals were reached."""
    product = Product(plane)
    product.start()
    for name, memory in churn_actor.FLAVORS.items():
        plane.cloud.create_flavor(name, ram=memory, disk=churn_actor.DISK)
    churn_actor.create_images(plane.cloud, plane.state("images"))
    recorder = record.Recorder(plane)
    recorder.start()
    sampler = churn_sampler.Sampler(plane, (AGENT, INFERRED))
    sampler.start()
    print(f"{minutes:.0f} minutes of churn, seed {seed}", flush=True)
    over = time.monotonic() + minutes * 60
    stage = churn_actor.Stage(plane)
    kills = [
        threading.Timer((minutes * 60 - QUIET) * (number + 0.5) / HOSTS, product.kill_agent, [host])
        for number, host in enumerate(plane.hosts)
    ]
    for each in kills:
        each.start()
    actors = [churn_actor.Actor(stage, f"actor{each}", seed + each) for each in range(ACTORS)]
    churn_actor.act(stage, actors, over - QUIET)
    for each in kills:
        each.join()
    time.sleep(max(0.0, over - time.monotonic()))
    samples = sampler.stop()
    recorder.stop()
    churn_sampler.write(plane.directory / "log" / "samples.jsonl.gz", samples)
    record.write(plane.directory / "log" / "notifications.jsonl.gz", recorder.messages)
    product.check()
    if len(product.dead) < len(kills):
        raise LabError("an agent that was killed and started again did not tell all")

    names, deleted = images(plane)
    followed = churn_tables.followed(samples, AGENT, product.dead)
    inferred = churn_tables.inferred(
        samples,
        INFERRED,
        2 * MANAGER_INTERVAL + PASS,
        lambda image: churn_actor.kind(names.get(image, image)),
        deleted,
        stage.down,
    )
    for each in stage.done:
        if each.failure:
            print(f"{each.operation} failed: {each.failure}", file=sys.stderr)
    did = operations(stage.done)
    print(
        churn_tables.table(
            "What was done",
            [(name, f"{of['times']} times, {of['median_seconds']} s") for name, of in did.items()],
        )
    )
    print(churn_tables.followed_table(followed))
    print(churn_tables.inferred_table(inferred))
    for what, span in (*followed.missed, *inferred.missed):
        host, image = span.image
        when = datetime.datetime.fromtimestamp(span.start, datetime.timezone.utc)
        name = names.get(image, image)
        print(f"{what}: {name} on {host}, from {when:%H:%M:%S} UTC for {span.seconds:.1f} s")
    result = {
        "minutes": minutes,
        "seed": seed,
        "manager_interval": MANAGER_INTERVAL,
        "minimum_age": MINIMUM_AGE,
        "operations": did,
        "down": stage.down,
        "dead": product.dead,
        "samples": len(samples),
        "longest_time_between_samples": max(
            after.at - now.at for now, after in itertools.pairwise(samples)
        ),
        "images": names,
        "with_agent": asdict(followed),
        "without_agent": asdict(inferred),
    }
    return result, followed.reached and inferred.reached


def main() -> int:
    arguments = parser().parse_args()
    if arguments.minutes < SHORTEST:
        parser().error(f"it takes at least {SHORTEST} minutes")
    options: Mapping[str, Any] = {"DEFAULT": {"allow_resize_to_same_host": True}, **AGEING}
    try:
        with ControlPlane(
            arguments.directory, 0, NovaOptions(extra=dict(options)), real_computes=HOSTS
        ) as plane:
            result, reached = run(plane, arguments.minutes, arguments.seed)
    except (LabError, ServerError) as error:
        sys.exit(f"lab-churn: {error}")
    path = arguments.directory.with_suffix(".json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
