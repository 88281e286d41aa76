"""VMware: lists the cache folders that nova-compute keeps on a vCenter cluster's datastores.

What Nova does is in its nova/virt/vmwareapi/: the folder's name (``vmops._get_base_folder``), the
datastores (``ds_util.get_available_datastores``), and that an image is there where the file
``<image id>/<image id>.vmdk`` or ``.iso`` is (``vmops._fetch_image_if_missing``).
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oslo_config import cfg

from bus_cache import names
from bus_cache.agent.inventory import Driver, Unreadable
from bus_cache.agent.inventory.vcenter import VCenter
from bus_cache.conf import ConfigurationError, nova
from bus_cache.protocol import CachedImage, Inventory

_TYPES = ("VMFS", "NFS", "NFS41", "vsan")  # ds_util.ALL_SUPPORTED_DS_TYPES
_SUMMARY = ("summary.name", "summary.type", "summary.accessible", "summary.maintenanceMode")
_UNUSED = "ts-"
_UNUSED_SINCE = "ts-%Y-%m-%d-%H-%M-%S"  # UTC; imagecache.TIMESTAMP_PREFIX, TIMESTAMP_FORMAT


class VMware(Driver):
    """Lists the images in the cache folders of one vCenter cluster, which is one host of Nova."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take nova.conf's ``[vmware]``, and what names the cache folder."""
        super().__init__(conf)
        groups = (None, nova.IMAGE_CACHE_GROUP, nova.VMWARE_GROUP)
        nova.register(conf, groups)
        nova.check(conf, groups)
        options = conf[nova.VMWARE_GROUP]
        for name in ("host_ip", "host_username", "host_password", "cluster_name"):
            if not options[name]:
                raise ConfigurationError(
                    f"[vmware] {name} is not set: give nova-compute's nova.conf as a --config-file."
                )
        # With storage policies Nova ignores the pattern (driver._validate_configuration).
        pattern = "" if options.pbm_enabled else options.datastore_regex or ""
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ConfigurationError(
                f"[vmware] datastore_regex = {pattern} can't be used: {error}."
            ) from None
        self._cluster = options.cluster_name
        self._folder = _folder(conf)
        self._vcenter = VCenter(options)

    @property
    def place(self) -> str:
        """Where the cache is, for people: vCenter, cluster, datastores and folder."""
        which = self._pattern.pattern or "*"
        return f"{self._vcenter}, cluster {self._cluster}, [{which}] {self._folder}"

    def list(self) -> Inventory:
        """Return the images that are on at least one datastore that Nova would use now."""
        return self._vcenter.run(self._list)

    def close(self) -> None:
        """Log out of vCenter."""
        self._vcenter.close()

    def _list(self) -> Inventory:
        found: dict[str, CachedImage] = {}
        for datastore, browser in self._datastores():
            path = f"[{datastore}] {self._folder}"
            for image in _images(self._vcenter.folders(browser, path)):
                known = found.get(image.fingerprint, CachedImage(image.fingerprint, 0, 0))
                found[image.fingerprint] = CachedImage(
                    image.fingerprint,
                    known.size + image.size,
                    max(known.last_used, image.last_used),
                )
        return Inventory(tuple(found.values()))

    def _datastores(self) -> Sequence[tuple[str, Any]]:
        """Return name and browser of the datastores that Nova would use now."""
        clusters = list(self._vcenter.clusters("name", "datastore"))
        cluster = next((each for each in clusters if each.get("name") == self._cluster), None)
        if cluster is None:
            raise Unreadable(f"{self._vcenter} shows us no cluster {self._cluster}")
        references = getattr(cluster.get("datastore"), "ManagedObjectReference", [])
        usable = [
            (str(each["summary.name"]), each["browser"])
            for each in self._vcenter.datastores(references, *_SUMMARY, "browser")
            if _is_usable(each, self._pattern)
        ]
        if not usable:
            # Nova can boot nothing there now. What is held is not known to be gone.
            raise Unreadable(f"{self._vcenter}: {self._cluster} has no datastore that Nova can use")
        return usable


def _folder(conf: cfg.ConfigOpts) -> str:
    """Return the name of the cache folder, as ``vmops._get_base_folder`` makes it."""
    image_cache = conf[nova.IMAGE_CACHE_GROUP]
    prefix = conf[nova.VMWARE_GROUP].cache_prefix
    if not prefix:
        prefix = conf.my_ip if image_cache.remove_unused_base_images else ""
    return f"{prefix}{image_cache.subdirectory_name}"


def _is_usable(datastore: Mapping[str, Any], pattern: re.Pattern[str]) -> bool:
    """Tell whether Nova may use a datastore, as ``ds_util._is_datastore_valid`` does."""
    return bool(
        datastore.get("summary.accessible")
        and datastore.get("summary.maintenanceMode") in (None, "normal")
        and datastore.get("summary.type") in _TYPES
        and pattern.match(str(datastore.get("summary.name")))
    )


def _images(folders: Iterable[Any]) -> Iterator[CachedImage]:
    """Yield what of a datastore's folders is a whole image.

    A folder named after a time, in an image's folder, says that Nova's cache manager found the
    image unused then. Nova removes it with the next use.
    """
    for folder in folders:
        image = folder.folderPath.rstrip("/").rpartition("/")[2]
        files = {str(file.path): file for file in getattr(folder, "file", ())}
        if f"{image}.vmdk" not in files and f"{image}.iso" not in files:
            continue
        size, changed, unused = 0, [0.0], []
        for name, file in files.items():
            if name.startswith(_UNUSED):
                with contextlib.suppress(ValueError):
                    since = datetime.datetime.strptime(name, _UNUSED_SINCE)
                    unused.append(since.replace(tzinfo=datetime.timezone.utc).timestamp())
                continue
            size += int(getattr(file, "fileSize", None) or 0)
            if getattr(file, "modification", None):
                changed.append(file.modification.timestamp())
        yield CachedImage(names.fingerprint(image), size, int(max(unused or changed)))
