"""What a version's weigher says of six hosts, by Nova's real weighing code: run in that version's
tree, ``python weighing.py nova.conf IMAGE``, it prints what each host weighs.

The hosts are alike but for what the index tells, so every difference is ours. The first call may
end before Redis has answered, so it asks until hosts differ, or for :data:`PATIENCE` seconds.
It makes hosts and request itself: ``tests`` of there is that version's, not this one's.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path

PATIENCE = 30.0
HOSTS = [f"compute{number}" for number in range(6)]


def main() -> None:
    """Print, as JSON, where the weigher comes from, and host -> weight."""
    import nova.conf
    from nova import objects
    from nova.scheduler import host_manager, weights

    config, image = sys.argv[1:]
    objects.register_all()
    nova.conf.CONF([], project="nova", default_config_files=[config])
    handler = weights.HostWeightHandler()
    paths = ["nova.scheduler.weights.all_weighers", "weigher.ImageCacheWeigher"]
    weighers = [cls() for cls in handler.get_matching_classes(paths)]
    hosts = []
    for name in HOSTS:
        host = host_manager.HostState(name, name, uuid.UUID(int=1))
        host.total_usable_ram_mb, host.free_ram_mb = 65536, 32768
        host.total_usable_disk_gb, host.free_disk_mb = 1000, 512000
        host.vcpus_total, host.vcpus_used = 32, 8
        host.num_io_ops, host.num_instances = 0, 8
        host.cpu_allocation_ratio = host.ram_allocation_ratio = host.disk_allocation_ratio = 1.0
        host.hypervisor_version = 8000000
        hosts.append(host)
    flavor = objects.Flavor(
        vcpus=1, memory_mb=1024, root_gb=10, ephemeral_gb=0, swap=0, extra_specs={}
    )
    spec = objects.RequestSpec(
        image=objects.ImageMeta.from_dict(
            {"id": image, "size": 8 * 2**30, "disk_format": "qcow2", "properties": {}}
        ),
        flavor=flavor,
        num_instances=1,
        instance_uuid=str(uuid.uuid4()),
        pci_requests=None,
        numa_topology=None,
        instance_group=None,
        scheduler_hints={},
        is_bfv=False,
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        ranked = handler.get_weighed_objects(weighers, hosts, spec)
        found = {weighed.obj.host: weighed.weight for weighed in ranked}
        if len(set(found.values())) > 1 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    code = str(Path(sys.modules["weigher"].__file__ or "").parent)
    print(json.dumps({"code": code, "weights": found}))


if __name__ == "__main__":
    main()
