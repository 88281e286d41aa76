"""The lab's compute driver: Nova's fake one, with an image cache on disk as the libvirt driver's.

Nova's fake driver runs no guests and fetches no bytes. Neither does this one, but whenever the
libvirt driver would fetch an image into ``<instances_path>/_base``, it makes an empty file there
with the name that libvirt's would have: what a host holds can be read from its disk, whatever any
message says. Further differences from the fake driver matter only outside Nova's own test harness:

* the node keeps its uuid over restarts, as a real one does, and has another name than the host;
* the source of a live migration forgets the instance;
* a server whose name contains ``failonce`` fails on the first host that tries it, one whose name
  contains ``failalways`` on every host.

It is loaded by ``tests.lab.compute`` under a name below ``nova.virt``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nova.conf
from nova import exception
from nova.virt import fake

from tests.lab import configuration

CONF = nova.conf.CONF


class LabDriver(fake.FakeDriverWithoutFakeNodes):  # type: ignore[misc]
    """A host with room for every boot of the lab, and with an image cache that can be looked at."""

    vcpus = 256
    memory_mb = 512 * 1024
    local_gb = 100 * 1024

    def init_host(self, host: str) -> None:
        super().init_host(host)
        self._set_nodes([host + configuration.NODE_SUFFIX])

    def _fetch(self, image_id: str | None) -> bool:
        """Cache an image; whether it was not there already. No image: boot from volume."""
        if not image_id:
            return False
        base = Path(CONF.instances_path) / CONF.image_cache.subdirectory_name
        base.mkdir(parents=True, exist_ok=True)
        path = base / hashlib.sha1(image_id.encode()).hexdigest()
        fetched = not path.exists()
        path.touch()
        return fetched

    # Also the end of a resize or a cold migration: the fake driver calls spawn() there, too.
    def spawn(
        self, context: Any, instance: Any, image_meta: Any, *arguments: Any, **named: Any
    ) -> None:
        self._fail_if_asked(instance)
        if image_meta is not None and "id" in image_meta:
            self._fetch(image_meta.id)
        super().spawn(context, instance, image_meta, *arguments, **named)

    def _fail_if_asked(self, instance: Any) -> None:
        name = instance.display_name or ""
        tried = Path(CONF.state_path).parent / f"tried-{instance.uuid}"  # common to all hosts
        if "failalways" in name or ("failonce" in name and not tried.exists()):
            tried.touch()
            raise exception.ComputeResourcesUnavailable(reason="the lab asked for a failure")

    def pre_live_migration(self, context: Any, instance: Any, *arguments: Any, **named: Any) -> Any:
        self._fetch(instance.image_ref)
        return super().pre_live_migration(context, instance, *arguments, **named)

    def post_live_migration(
        self, context: Any, instance: Any, block_device_info: Any, migrate_data: Any = None
    ) -> None:
        self.destroy(context, instance, network_info=None, block_device_info=block_device_info)

    def rescue(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        image_meta: Any,
        *arguments: Any,
        **named: Any,
    ) -> None:
        if "id" in image_meta:
            self._fetch(image_meta.id)
        super().rescue(context, instance, network_info, image_meta, *arguments, **named)

    def cache_image(self, context: Any, image_id: str) -> bool:
        return self._fetch(image_id)
