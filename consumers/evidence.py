"""What each notification says about which host holds which image: one table, pure functions.

The rules are Nova's behaviour, read in its source (nova/compute/manager.py,
nova/conductor/manager.py, nova/virt/libvirt/driver.py) and seen on running services. A versioned
notification has ``publisher_id`` ``nova-compute:<host>`` and ``image_uuid``, an unversioned one
``compute.<host>`` and ``image_ref_url``, whose last part is the id. (Its
``image_meta.base_image_ref`` is another thing: of a server booted from a snapshot it is the image
that the snapshot was made from, nova/compute/api.py.) The same fact in both formats gives the same
evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bus_cache import names
from bus_cache.index.changes import Change, Held, HostDeleted, ImageDeleted, ImageSize, Source
from consumers.events import Malformed, Notification

Rule = Callable[[Notification], list[Change]]

_MOST_SIZE = 2**53
"""Bytes; the largest whole number that Redis' Lua keeps exactly."""

_MOST_IMAGES = 25_000
"""Images that one message may say are cached: a bound on memory."""


def created(said: Notification) -> list[Change]:
    """A server was built on its host, which fetched the image first."""
    return _holds(_host(said), _image(said), said, Source.CREATE)


def rebuilt(said: Notification) -> list[Change]:
    """A server was rebuilt from an image, by the host that says so.

    In an evacuation the payload still names the dead host: only the publisher is the new one.
    """
    publisher = _publisher_host(said)
    moved = said.data.get("host") != publisher
    return _holds(publisher, _image(said), said, Source.EVACUATION if moved else Source.REBUILD)


def migrated(said: Notification) -> list[Change]:
    """A resize or cold migration arrived: the destination fetched the image, or copied it from the
    source."""
    return _holds(_host(said), _image(said), said, Source.MIGRATION)


def live_migrated(said: Notification) -> list[Change]:
    """A live migration arrived: with qcow2 disks over a cached base, its destination fetched the
    base before."""
    return _holds(_host(said), _image(said), said, Source.LIVE_MIGRATION)


def rescued(said: Notification) -> list[Change]:
    """A server was started from a rescue image. ``image_uuid`` is still the server's own."""
    return _holds(_host(said), _given(said, "rescue_image_ref"), said, Source.RESCUE)


def precached(said: Notification) -> list[Change]:
    """One host's part of caching images for an aggregate, told by the conductor."""
    images = said.data.get("images_cached")
    if not isinstance(images, list) or len(images) > _MOST_IMAGES:
        raise Malformed(f"images_cached is no list of at most {_MOST_IMAGES}")
    host = _host(said)
    return [change for image in images for change in _holds(host, image, said, Source.PRECACHE)]


def service_deleted(said: Notification) -> list[Change]:
    """A service record was deleted; of a nova-compute it means that the host is gone."""
    if said.data.get("binary") != "nova-compute":
        return []
    return [HostDeleted(_host(said), said.stamp)]


def image_deleted(said: Notification) -> list[Change]:
    """Glance deleted an image: nothing boots from it any more."""
    return [ImageDeleted(_valid(said.data.get("id"), "image id"), said.stamp)]


def image_active(said: Notification) -> list[Change]:
    """Glance has all bytes of an image, and knows its size."""
    size = said.data.get("size")
    if size is None:
        return []
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MOST_SIZE:
        raise Malformed("size is no number of bytes")
    return [ImageSize(_valid(said.data.get("id"), "image id"), size, said.stamp)]


RULES: Mapping[str, Rule] = {
    # Nova, versioned
    "instance.create.end": created,
    "instance.rebuild.end": rebuilt,
    "instance.resize_finish.end": migrated,
    "instance.live_migration_post_dest.end": live_migrated,
    "instance.rescue.end": rescued,
    "aggregate.cache_images.progress": precached,
    "service.delete": service_deleted,
    # Nova, unversioned; it does not say from which image a server is rescued, what was
    # cached for an aggregate, nor that a service was deleted
    "compute.instance.create.end": created,
    "compute.instance.rebuild.end": rebuilt,
    "compute.instance.finish_resize.end": migrated,
    "compute.instance.live_migration.post.dest.end": live_migrated,
    # Glance
    "image.delete": image_deleted,
    "image.activate": image_active,
    "image.update": image_active,
}
"""Event type -> rule. What is not in it teaches nothing about a cached image:

* ``create.start`` and ``create.error``: the host may have the image by now, or not; Nova tells
  neither. (On the ``.error`` queue, of a host that failed before another one took the server.)
* ``unshelve.end``: names the server's first image, but what was fetched is the snapshot that
  shelving made, and Nova deletes that one at once.
* ``resize_prep.*``, ``resize.*``, ``resize_confirm.*``, ``resize_revert.*``: nothing that
  ``resize_finish.end`` or the first boot did not say.
* ``live_migration_pre.*``, ``live_migration_post.*``: told before it succeeded, or by the source.
* ``exists``: an audit; a rebuild's names the new image before it is fetched.
* ``update``: told by the conductor, even minutes after the server is gone.
* ``delete.*``, ``shelve*``, ``shutdown.*``: the file stays on the host until it is aged out.
"""


def read(said: Notification) -> list[Change]:
    """Return what a notification says, an empty list for nothing.

    :raises Malformed: a field that the rule needs is missing or of the wrong type.
    """
    rule = RULES.get(said.event_type)
    return rule(said) if rule else []


def _holds(host: str, image: object, said: Notification, source: Source) -> list[Change]:
    """Return that a host holds an image; nothing where it is empty: a boot from a volume has
    none.
    """
    if image is None or image == "":
        return []
    return [Held(host, _valid(image, "image id"), said.stamp, source)]


def _host(said: Notification) -> str:
    return _valid(said.data.get("host"), "host")


def _publisher_host(said: Notification) -> str:
    """Return the host of a nova-compute that published: ``nova-compute:<host>`` or
    ``compute.<host>``."""
    for prefix in ("nova-compute:", "compute."):
        if said.publisher_id.startswith(prefix):
            return _valid(said.publisher_id[len(prefix) :], "publisher_id's host")
    raise Malformed("publisher_id is no nova-compute's")


def _image(said: Notification) -> object:
    """Return the id of a server's image as given; None or empty for a server on a volume."""
    if "image_uuid" in said.data:
        return said.data["image_uuid"]
    url = _given(said, "image_ref_url")
    image = url.rpartition("/")[2] if isinstance(url, str) else url
    # the URL of a server without an image ends in "/" or "/None" (generate_image_url in
    # nova/image/glance.py)
    return None if image == "None" else image


def _given(said: Notification, field: str) -> Any:
    if field not in said.data:
        raise Malformed(f"no {field}")
    return said.data[field]


def _valid(value: object, what: str) -> str:
    if not isinstance(value, str) or not names.is_valid_name(value):
        raise Malformed(f"{what} is {'missing' if value is None else 'no valid name'}")
    return value
