"""One process's imports, in the order of nova-scheduler's: what does each step cost? JSON out."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Import, weigh once for two hosts, and print."""
    found: dict[str, Any] = {}
    began, size = time.process_time(), _resident()

    def step(name: str) -> None:
        nonlocal began, size
        found[f"{name}_ms"] = 1000 * (time.process_time() - began)
        found[f"{name}_mb"] = (_resident() - size) / 2**20
        began, size = time.process_time(), _resident()

    import nova.cmd.scheduler
    import nova.conf
    import nova.scheduler.manager
    from nova import objects
    from nova.scheduler import host_manager, weights

    objects.register_all()
    step("nova")
    import redis

    redis.Redis  # noqa: B018  # what a lazy package would import
    step("redis")
    import weigher

    weigher.ImageCacheWeigher  # noqa: B018  # which imports the rest
    step("weigher")
    found["others_ms"] = found["nova_ms"] + found["redis_ms"]
    found["others_mb"] = found["nova_mb"] + found["redis_mb"]

    nova.conf.CONF([], project="nova", default_config_files=[])
    ours = weigher.ImageCacheWeigher()
    nova.conf.CONF.set_override("redis_url", sys.argv[1], "bus_cache")
    nova.conf.CONF.set_override("time_budget", 10, "image_cache_weigher")
    ours = weigher.ImageCacheWeigher()
    spec = objects.RequestSpec(
        is_bfv=False,
        image=objects.ImageMeta.from_dict({"id": "an-image", "size": 2**33, "properties": {}}),
    )
    states = [host_manager.HostState(f"h{number}", f"h{number}", None) for number in range(2)]
    for state in states:
        state.aggregates = []
    before = set(sys.modules)
    weights.HostWeightHandler().get_weighed_objects([ours], states, spec)
    assert ours.counters.known == 1, ours.counters
    found["late"] = sorted(set(sys.modules) - before)
    print(json.dumps(found))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
