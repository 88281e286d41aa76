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
        coming: list[str] = []
        failed: set[str] = set()
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    name = _NAME.fullmatch(entry.name)
                    if not name:
                        continue
                    if name[2]:
                        coming += [name[1]] * self._is_coming(entry.name)
                    elif image := self._image(entry.name, failed):
                        images.append(image)
        except (FileNotFoundError, NotADirectoryError):  # Nova makes it when it first needs it
            pass
        except OSError as error:
            raise Unreadable(f"{self._folder} can't be listed: {error.strerror}") from None
        self._unreadable = failed  # of those alone: one that is readable again may be told again
        whole = {image.fingerprint for image in images}
        return Inventory(images, sorted(set(coming) - whole))

    def look(self, fingerprint: str) -> tuple[CachedImage | None, bool]:
        """Look at the files of one image."""
        image = self._image(fingerprint, set())
        return image, not image and any(self._is_coming(fingerprint + end) for end in _COMING)

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

    def _image(self, name: str, failed: set[str]) -> CachedImage | None:
        try:
            status = os.stat(f"{self._folder}/{name}")
        except (FileNotFoundError, NotADirectoryError):  # it went meanwhile
            return None
        except OSError as error:
            if name not in self._unreadable:
                LOG.warning("%s/%s is left out: %s", self._folder, name, error.strerror)
            self._unreadable.add(name)
            failed.add(name)
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return CachedImage(name, status.st_blocks * 512, int(status.st_mtime))

    def _is_coming(self, name: str) -> bool:
        try:
            return time.time() - os.stat(f"{self._folder}/{name}").st_mtime < _ABANDONED
        except OSError:
            return False
