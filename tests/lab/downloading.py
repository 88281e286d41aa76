"""A compute driver of the lab that really downloads: Nova's own code from Glance to the disk.

There are no guests, as with the lab's other driver, but what libvirt's driver does with images is
done by libvirt's driver: its methods, its image back end (qcow2 over a cached base) and its cache
manager, all of which work without libvirt. So the image comes from Glance into
``<instances_path>/_base`` as ``.part``, is inspected and renamed; a second boot waits for the first
one's download by Nova's lock; each server has its disk, made by ``qemu-img`` over the cached file.

It is loaded by ``tests.lab.compute`` under a name below ``nova.virt``.
"""

from __future__ import annotations

import shutil
from typing import Any

import nova.conf
import nova.privsep
from nova.virt import fake
from nova.virt.libvirt import driver as libvirt
from nova.virt.libvirt import imagebackend, imagecache
from nova.virt.libvirt import utils as libvirt_utils
from oslo_utils import fileutils, units

from tests.lab import configuration

CONF = nova.conf.CONF


class DownloadingDriver(fake.FakeDriverWithoutFakeNodes):  # type: ignore[misc]
    """A host of a common size, so that it matters how many servers it has."""

    vcpus = 32
    memory_mb = 64 * 1024
    local_gb = 4 * 1024

    cache_image = libvirt.LibvirtDriver.cache_image
    manage_image_cache = libvirt.LibvirtDriver.manage_image_cache
    _try_fetch_image_cache = libvirt.LibvirtDriver._try_fetch_image_cache

    def init_host(self, host: str) -> None:
        super().init_host(host)
        self._set_nodes([host + configuration.NODE_SUFFIX])
        # All files are this process's own: Nova's privileged functions run here, not in a daemon
        # of root's.
        nova.privsep.sys_admin_pctxt.set_client_mode(False)
        self.image_backend = imagebackend.Backend(CONF.use_cow_images)
        self.image_cache_manager = imagecache.ImageCacheManager()

    def spawn(
        self, context: Any, instance: Any, image_meta: Any, *arguments: Any, **named: Any
    ) -> None:
        self._create_disk(context, instance, image_meta.id)
        super().spawn(context, instance, image_meta, *arguments, **named)

    def _create_disk(self, context: Any, instance: Any, image_id: str) -> None:
        """As ``_create_and_inject_local_root`` of nova/virt/libvirt/driver.py does."""
        fileutils.ensure_tree(libvirt_utils.get_instance_path(instance))
        self._try_fetch_image_cache(
            self.image_backend.by_name(instance, "disk"),
            libvirt_utils.fetch_image,
            context,
            imagecache.get_cache_fname(image_id),
            image_id,
            instance,
            instance.flavor.root_gb * units.Gi,
        )

    def destroy(self, context: Any, instance: Any, *arguments: Any, **named: Any) -> None:
        super().destroy(context, instance, *arguments, **named)
        shutil.rmtree(libvirt_utils.get_instance_path(instance), ignore_errors=True)
