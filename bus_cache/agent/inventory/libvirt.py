"""The image cache of Nova's libvirt driver: a folder of files that are named by fingerprints.

What is in ``<instances_path>/<[image_cache] subdirectory_name>``, by imagecache.py and
imagebackend.py in nova/virt/libvirt, and nova/virt/images.py, of Nova 34:

``<fingerprint>``
    a whole image; by renaming, so that it is there at once. (Copied from another host during
    a resize, when Glance has it no more, it may grow under this name.)
``<fingerprint>.part``, ``<fingerprint>.converted``
    the image is on its way: downloaded, made raw
``<fingerprint>_<bytes>``, ``<fingerprint>_sm``
    resized copies that old releases made: no images of their own, and without the image itself
    of no use to a boot
``swap_*``, ``ephemeral_*``
    disks that no image was made for

Every ``images_type`` (raw, flat, qcow2, lvm, ploop) fetches to this folder and makes its disks from
there. rbd first has Ceph clone the image, and fetches to this folder only what it can't clone.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from oslo_config import cfg

from bus_cache.agent.inventory import Driver, Unreadable
from bus_cache.agent.inventory.watch import Watch
from bus_cache.conf import agent, nova
from bus_cache.protocol import CachedImage, Inventory

LOG = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9a-f]{40})(\.part|\.converted)?")
_COMING = (".part", ".converted")

_ABANDONED = 3600
"""Seconds after which a ``.part`` that nobody writes to is no image on its way: its writer died."""


class Libvirt(Driver):
    """Lists and watches the folder."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take Nova's own options."""
        super().__init__(conf)
        folder = conf[nova.IMAGE_CACHE_GROUP].subdirectory_name
        self._folder: str = os.path.abspath(os.path.join(conf.instances_path, folder))
        self._cloned = (
            conf[nova.LIBVIRT_GROUP].images_type == "rbd" and not conf[agent.GROUP].inventory
        )
        self._instances: str = conf.instances_path
        self._absent = False
        self._unreadable: set[str] = set()
        self._watch: Watch | None = None

    @property
    def place(self) -> str:
        """The folder."""
        return self._folder

    @property
    def caches_nothing(self) -> str:
        """Because images are cloned within Ceph."""
        return "[libvirt] images_type = rbd" if self._cloned else ""

    def list(self) -> Inventory:
        """List the folder."""
        images: list[CachedImage] = []
        coming: set[str] = set()
        refused: dict[str, str] = {}
        read = False
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    name = _NAME.fullmatch(entry.name)
                    if not name:
                        continue
                    try:
                        status = self._status(entry.name)
                    except PermissionError as error:
                        refused[entry.name] = error.strerror or ""
                        continue
                    read = read or status is not None
                    if name[2]:
                        coming.update([name[1]] * _is_coming(status))
                    elif image := _image(entry.name, status):
                        images.append(image)
        except (FileNotFoundError, NotADirectoryError):  # Nova makes it when it first needs it
            if not os.path.isdir(self._instances):
                raise Unreadable(
                    f"instances_path = {self._instances} is no folder: is it mounted, and is it "
                    "the one of nova-compute?"
                ) from None
            if not self._absent:
                LOG.info("%s does not exist yet: the cache is empty", self._folder)
            self._absent = True
        except OSError as error:
            raise Unreadable(f"{self._folder} can't be listed: {error.strerror}") from None
        if refused and not read:  # it may be listed, not searched
            raise Unreadable(
                f"nothing in {self._folder} can be read: {next(iter(refused.values()))}"
            )
        for each in refused.keys() - self._unreadable:
            LOG.warning("%s/%s is left out: %s", self._folder, each, refused[each])
        self._unreadable = set(refused)  # one that is readable again may be told again
        return Inventory(images, sorted(coming.difference(image.fingerprint for image in images)))

    def look(self, fingerprint: str) -> tuple[CachedImage | None, bool]:
        """Look at the files of one image."""
        try:
            image = _image(fingerprint, self._status(fingerprint))
            coming = (self._status(fingerprint + end) for end in _COMING)
            return image, not image and any(_is_coming(each) for each in coming)
        except PermissionError:  # of this one alone? All must be tried to know
            return super().look(fingerprint)

    def watch(self, changed: Callable[[str | None], None]) -> None:
        """Watch the folder with inotify."""

        def named(entry: str | None) -> None:
            if entry is None:
                changed(None)
            elif name := _NAME.fullmatch(entry):
                changed(name[1])

        self._watch = Watch(Path(self._folder), named)

    def close(self) -> None:
        """Stop watching."""
        if self._watch:
            self._watch.close()

    def _status(self, name: str) -> os.stat_result | None:
        """Return what is known of a file; None where it went meanwhile.

        :raises PermissionError: it is not for us.
        :raises Unreadable: it can't be told for now.
        """
        try:
            return os.stat(f"{self._folder}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise
        except OSError as error:  # of NFS or a disk: nothing tells whether it is there
            raise Unreadable(f"{self._folder}/{name} can't be read: {error.strerror}") from None


def _image(name: str, status: os.stat_result | None) -> CachedImage | None:
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return CachedImage(name, status.st_blocks * 512, int(status.st_mtime))


def _is_coming(status: os.stat_result | None) -> bool:
    return status is not None and time.time() - status.st_mtime < _ABANDONED
