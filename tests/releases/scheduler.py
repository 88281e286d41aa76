"""nova-scheduler's start and its weighing, in a process of its own: lines of JSON in and out.

Run by a release's Python: ``python -m tests.releases.scheduler --config-file nova.conf``. It does
what nova/cmd/scheduler.py does up to its service: that module patches, or does not, as its release
and the environment say; Nova reads its configuration, opens its database and makes its host
manager, which loads the weighers and the aggregates. Then it forks, as the service forks workers,
and the worker ranks hosts for each line that it reads.
"""

import nova.cmd.scheduler  # noqa: I001  # first of all: it patches

import importlib.metadata
import json
import os
import select
import sys
import time
from typing import Any

import nova.conf
from nova import config, context, objects
from nova.db import migration
from nova.scheduler import host_manager
from oslo_log import log as logging

import bus_cache
from tests.functional import test_weigher

CONF = nova.conf.CONF


def start() -> host_manager.HostManager:
    """Start as nova-scheduler does; ``aggregate`` is the last host's, and overrides our multiplier
    of 5."""
    config.parse_args(sys.argv)
    logging.setup(CONF, "nova")
    objects.register_all()
    migration.db_sync(database="api")
    admin = context.get_admin_context()
    aggregate = objects.Aggregate(
        admin, name="aggregate", metadata={"image_cache_weight_multiplier": "21"}
    )
    aggregate.create()
    aggregate.add_host("compute9")
    return host_manager.HostManager()


def rank(manager: host_manager.HostManager, image_id: str) -> dict[str, Any]:
    """Return ten hosts and their weights, best first: as configured, and by Nova's weighers
    alone."""
    hosts = test_weigher.make_hosts(10)
    for host in hosts:
        host.aggregates = manager._get_aggregates_info(host.host)
    spec = test_weigher.make_spec(test_weigher.make_image(id=image_id))
    started = time.monotonic()
    ranked = manager.get_weighed_hosts(hosts, spec)
    spent = time.monotonic() - started
    nova_own = [
        each for each in manager.weighers if not type(each).__module__.startswith("weigher")
    ]
    alone = manager.weight_handler.get_weighed_objects(nova_own, hosts, spec)
    return {
        "ranked": [(each.obj.host, each.weight) for each in ranked],
        "alone": [(each.obj.host, each.weight) for each in alone],
        "spent": spent,
        "ours": len(manager.weighers) - len(nova_own),
    }


def patched() -> bool:
    """Tell whether eventlet runs here. Where it does not, newer releases forbid its import."""
    if "eventlet" not in sys.modules:
        return False
    import eventlet.patcher

    return bool(eventlet.patcher.is_monkey_patched("socket"))


def kind() -> dict[str, Any]:
    """Return what this process is made of."""
    return {
        "nova": importlib.metadata.version("nova"),
        "patched": patched(),
        "bus_cache": bus_cache.__file__,
    }


def answer_lines(manager: host_manager.HostManager) -> None:
    """Answer until the end of standard input; others may run while it waits for a line."""
    while True:
        while not select.select([sys.stdin], [], [], 0.05)[0]:
            pass
        line = sys.stdin.buffer.raw.readline()  # unbuffered, as select sees it
        if not line:
            return
        asked = json.loads(line)
        print(json.dumps(rank(manager, asked) if asked else kind()), flush=True)


if __name__ == "__main__":
    made = start()
    worker = os.fork()
    if worker:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
    if patched():  # as oslo_service/service.py does: the parent's hub is not the worker's
        import eventlet.hubs

        eventlet.hubs.use_hub()
    answer_lines(made)
