"""What each notification says about hosts, images and the servers that use them: one table, pure
functions.

The rules are Nova's behaviour, read in its source (nova/compute/manager.py, nova/compute/api.py,
nova/conductor/manager.py, nova/virt/libvirt/driver.py) and seen on running services. A versioned
notification has ``publisher_id`` ``nova-compute:<host>`` and ``image_uuid``, an unversioned one
``compute.<host>`` and ``image_ref_url``, whose last part is the id. (Its
``image_meta.base_image_ref`` is another thing: of a server booted from a snapshot it is the image
that the snapshot was made from, nova/compute/api.py.) The same fact in both formats gives the same
evidence.

A server uses its image on the host that Nova's database names for it: so Nova's cache manager
counts (``_run_image_cache_manager_pass`` in nova/compute/manager.py), also where its disk needs no
such file, and not where a disk that is left behind needs one. Kernel and ramdisk, where it boots by
such, are images of their own, and used, too (``_list_running_instances`` in
nova/virt/imagecache.py); they are fetched with the image (``_create_image`` in
nova/virt/libvirt/driver.py).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any

from bus_cache import names
from bus_cache.index.changes import (
    Change,
    FetchFailed,
    Fetching,
    Held,
    HostDeleted,
    ImageDeleted,
    ImageSize,
    InUse,
    NotInUse,
    ServiceState,
    Source,
)
from consumers.events import Malformed, Notification

Rule = Callable[[Notification], list[Change]]

_MOST_SIZE = 2**53
"""Bytes; the largest whole number that Redis' Lua keeps exactly."""

_MOST_IMAGES = 25_000
"""Images that one message may say are cached: a bound on memory."""

_MOST_UNSEEN = 60 * 1000
"""Milliseconds after which Nova takes a service that did not report for down (its option
``service_down_time``, by default)."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def created(said: Notification) -> list[Change]:
    """A server was built on its host, which fetched the image first."""
    return _runs(_host(said), said, Source.CREATE)


def rebuilt(said: Notification) -> list[Change]:
    """A server was rebuilt from an image, by the host that says so.

    In an evacuation the payload still names the dead host: only the publisher is the new one, and
    the server is gone from the other.
    """
    host, publisher = said.data.get("host"), _publisher_host(said)
    if host == publisher:
        return _runs(publisher, said, Source.REBUILD)
    changes = _runs(publisher, said, Source.EVACUATION)
    if names.is_valid_name(host) and any(isinstance(each, InUse) for each in changes):
        changes += _left(_host(said), said)
    return changes


def fetching(said: Notification) -> list[Change]:
    """A host is to take a server, and fetches its image unless it has it."""
    return _on_its_way(said, Fetching)


def fetch_failed(said: Notification) -> list[Change]:
    """A host gave a server up. It may have the image by now, or not."""
    return _on_its_way(said, FetchFailed)


def begun(said: Notification) -> list[Change]:
    """A host began to make a server. Nova's database names it as the server's host from its claim
    on, within a moment (``instance_claim`` in nova/compute/resource_tracker.py)."""
    return fetching(said) + _if_told(_used, _publisher_host(said), said)


def given_up(said: Notification) -> list[Change]:
    """A host could not make a server, or it was deleted meanwhile. It is not there, or its deletion
    is at work."""
    return fetch_failed(said) + _if_told(_left, _publisher_host(said), said)


def rebuilding(said: Notification) -> list[Change]:
    """A host began to rebuild a server: from nova-api's acceptance on, the new image is the
    server's in Nova's database, and stays that where it fails. In an evacuation the server is still
    the dead host's."""
    if said.data.get("host") != _publisher_host(said):
        return fetching(said)
    return fetching(said) + _if_told(_used, _publisher_host(said), said)


def sent_away(said: Notification) -> list[Change]:
    """A resize or cold migration left its source: the publisher. ``host`` is the destination
    already, as in Nova's database: the source's cache manager counts the server no more, though its
    disk is kept there until the resize is confirmed; the destination's does.

    From one host to itself, or across cells (where the source says so too early), nothing is said.
    """
    host, publisher = _host(said), _publisher_host(said)
    if host == publisher:
        return []
    return _left(publisher, said) + _if_told(_used, host, said)


def migrated(said: Notification) -> list[Change]:
    """A resize or cold migration arrived: the destination fetched the image, or copied it from the
    source."""
    return _runs(_host(said), said, Source.MIGRATION)


def sent_back(said: Notification) -> list[Change]:
    """A resize is reverted: its server is gone from the destination, which ``host`` still names.
    The publisher is the source."""
    return _left(_host(said), said) if _host(said) != _publisher_host(said) else []


def returned(said: Notification) -> list[Change]:
    """A server is on a host, which need not have fetched its image: after a resize that was
    reverted, or out of the snapshot that shelving made."""
    return _used(_host(said), said)


def live_migrated(said: Notification) -> list[Change]:
    """A live migration arrived: with qcow2 disks over a cached base, its destination fetched the
    base before. Kernel and ramdisk were fetched past the cache (``_fetch_instance_kernel_ramdisk``
    in nova/virt/libvirt/driver.py)."""
    return _runs(_host(said), said, Source.LIVE_MIGRATION, parts=False)


def left_publisher(said: Notification) -> list[Change]:
    """A server was live migrated away or taken off when it was shelved, by the host that says so.
    After shelving ``host`` is null."""
    return _left(_publisher_host(said), said)


def deleted(said: Notification) -> list[Change]:
    """A server was deleted: on its host, or by nova-api where that host is down. One that was never
    on a host has none."""
    return [] if _given(said, "host") is None else _left(_host(said), said)


def rescued(said: Notification) -> list[Change]:
    """A server was started from a rescue image. ``image_uuid`` is still the server's own, and the
    only one that Nova protects."""
    return _holds(_host(said), _given(said, "rescue_image_ref"), said, Source.RESCUE)


def precached(said: Notification) -> list[Change]:
    """One host's part of caching images for an aggregate, told by the conductor. Those that were
    there were touched, as if they were new."""
    images = said.data.get("images_cached")
    if not isinstance(images, list) or len(images) > _MOST_IMAGES:
        raise Malformed(f"images_cached is no list of at most {_MOST_IMAGES}")
    host = _host(said)
    return [change for image in images for change in _holds(host, image, said, Source.PRECACHE)]


def evacuated(said: Notification) -> list[Change]:
    """A server is to be evacuated from its host: Nova refuses unless that one's service is down."""
    return [ServiceState(_host(said), said.stamp, up=False)]


def service_created(said: Notification) -> list[Change]:
    """A nova-compute started for the first time."""
    if said.data.get("binary") != "nova-compute":
        return []
    return [ServiceState(_host(said), said.stamp, up=True)]


def service_updated(said: Notification) -> list[Change]:
    """A service was disabled, enabled, forced down or no longer forced down.

    One that is not forced down works if it reported just now; if not, nothing is known.
    ``last_seen_up`` is null where services report elsewhere than to the database.
    """
    forced_down = said.data.get("forced_down")
    if said.data.get("binary") != "nova-compute" or not isinstance(forced_down, bool):
        return []
    seen = _moment(said.data.get("last_seen_up"))
    if not forced_down and (seen is None or seen < said.stamp - _MOST_UNSEEN):
        return []
    return [ServiceState(_host(said), said.stamp, up=not forced_down)]


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
    "instance.create.start": begun,
    "instance.create.error": given_up,
    "instance.create.end": created,
    "instance.rebuild.start": rebuilding,
    "instance.rebuild.error": fetch_failed,
    "instance.rebuild.end": rebuilt,
    "instance.resize_prep.start": fetching,
    "instance.resize.error": fetch_failed,
    "instance.resize.end": sent_away,
    "instance.resize_finish.end": migrated,
    "instance.resize_revert.start": sent_back,
    "instance.resize_revert.end": returned,
    "instance.live_migration_post_dest.end": live_migrated,
    "instance.live_migration_post.end": left_publisher,
    "instance.shelve_offload.end": left_publisher,
    "instance.unshelve.end": returned,
    "instance.rescue.end": rescued,
    "instance.delete.end": deleted,
    "instance.evacuate": evacuated,
    "aggregate.cache_images.progress": precached,
    "service.create": service_created,
    "service.update": service_updated,
    "service.delete": service_deleted,
    # Nova, unversioned; it does not say from which image a server is rescued, what was
    # cached for an aggregate, nor anything about a service
    "compute.instance.create.start": begun,
    "compute.instance.create.error": given_up,
    "compute.instance.create.end": created,
    "compute.instance.rebuild.start": rebuilding,
    "compute.instance.rebuild.error": fetch_failed,
    "compute.instance.rebuild.end": rebuilt,
    "compute.instance.resize.prep.start": fetching,
    "compute.instance.resize.error": fetch_failed,
    "compute.instance.resize.end": sent_away,
    "compute.instance.finish_resize.end": migrated,
    "compute.instance.resize.revert.start": sent_back,
    "compute.instance.resize.revert.end": returned,
    "compute.instance.live_migration.post.dest.end": live_migrated,
    "compute.instance.live_migration._post.end": left_publisher,
    "compute.instance.shelve_offload.end": left_publisher,
    "compute.instance.unshelve.end": returned,
    "compute.instance.delete.end": deleted,
    "compute.instance.evacuate": evacuated,
    # Glance
    "image.delete": image_deleted,
    "image.activate": image_active,
    "image.update": image_active,
}
"""Event type -> rule. What is not in it teaches nothing:

* ``unshelve.end`` says that the server's first image is used, not that it is held: what was fetched
  is the snapshot that shelving made, and Nova deletes that one at once.
* ``resize_confirm.*``: the source's copy of the disk goes, which never protected the image.
* ``resize_prep.end``: told of success and failure alike; ``resize_finish.*`` have no error.
* ``live_migration_pre.*``: told before it succeeded; ``rescue.start`` does not tell what fails.
* ``exists``: told in other operations too, where formats disagree about the image; of what is only
  an audit, there is one for each server and period, and it may be of one that is gone by now.
* ``update``: told by the conductor, even minutes after the server is gone.
* ``soft_delete.*``: the server can be restored, and its image is protected until it is deleted.
* ``delete.start``, ``shutdown.*``, ``shelve.*``: the server is still its host's.
"""


def read(said: Notification) -> list[Change]:
    """Return what a notification says, an empty list for nothing.

    :raises Malformed: a field that the rule needs is missing or of the wrong type.
    """
    rule = RULES.get(said.event_type)
    return rule(said) if rule else []


def _runs(host: str, said: Notification, source: Source, *, parts: bool = True) -> list[Change]:
    """Return that a host holds a server's image, and that the server uses it there.

    :param parts: its kernel and ramdisk are held, too, if it has them.
    """
    changes = _holds(host, _image(said), said, source)
    if not changes:
        return changes
    for part in _parts(said) if parts else ():
        changes += _holds(host, part, said, source)
    return changes + _if_told(_used, host, said)


def _holds(host: str, image: object, said: Notification, source: Source) -> list[Change]:
    """Return that a host holds an image; nothing where it is empty."""
    return [Held(host, _valid(image, "image id"), said.stamp, source)] if _is_some(image) else []


def _on_its_way(said: Notification, what: type[Fetching] | type[FetchFailed]) -> list[Change]:
    """Return something of the server's images on the publisher's host; in an evacuation, a resize
    and before the server is built, ``host`` is another one or null."""
    image = _image(said)
    if not _is_some(image):
        return []
    host, images = _publisher_host(said), (_valid(image, "image id"), *_parts(said))
    return [what(host, each, said.stamp) for each in images]


def _used(host: str, said: Notification) -> list[Change]:
    """Return that a server uses its image on a host."""
    image = _image(said)
    if not _is_some(image):
        return []
    image = _valid(image, "image id")
    return [InUse(host, _instance(said), image, said.stamp, _parts(said))]


def _if_told(
    what: Callable[[str, Notification], list[Change]], host: str, said: Notification
) -> list[Change]:
    """Return that of a server; nothing where it can't be told from others: what else is said,
    stands."""
    try:
        return what(host, said)
    except Malformed:
        return []


def _left(host: str, said: Notification) -> list[Change]:
    """Return that a server is no longer on a host; of one without an image there is nothing to
    forget."""
    return [NotInUse(host, _instance(said), said.stamp)] if _is_some(_image(said)) else []


def _is_some(image: object) -> bool:
    """Tell whether there is an image: a server that was booted from a volume has none."""
    return image is not None and image != ""


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


def _parts(said: Notification) -> tuple[str, ...]:
    """Return the ids of a server's kernel and ramdisk, in both formats under the names of Nova's
    database: nothing where there is no kernel, without which Nova fetches no ramdisk."""
    parts: list[str] = []
    for field in ("kernel_id", "ramdisk_id"):
        part = said.data.get(field)
        if not isinstance(part, str) or not names.is_valid_name(part):
            break
        parts.append(part)
    return tuple(parts)


def _instance(said: Notification) -> str:
    """Return a server's UUID: ``uuid``, or ``instance_id`` in an unversioned notification."""
    value = said.data.get("uuid", said.data.get("instance_id"))
    if not isinstance(value, str) or not _UUID.match(value):
        raise Malformed("the server's uuid is none")
    return value


def _moment(value: object) -> int | None:
    """Return milliseconds since 1970 of a time in a payload, which is in UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.timezone.utc)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        return None


def _given(said: Notification, field: str) -> Any:
    if field not in said.data:
        raise Malformed(f"no {field}")
    return said.data[field]


def _valid(value: object, what: str) -> str:
    if not isinstance(value, str) or not names.is_valid_name(value):
        raise Malformed(f"{what} is {'missing' if value is None else 'no valid name'}")
    return value
