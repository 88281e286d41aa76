"""When Nova has removed an image from a host, by its own rule: pure functions.

Every ``manager_interval`` Nova's cache manager (``ImageCacheManager`` in
nova/virt/libvirt/imagecache.py) touches the files of all images that a server of its host uses, and
removes each other file whose time of modification is ``remove_unused_original_minimum_age_seconds``
old, or older. A boot, a rescue and caching in advance touch a file, too (``create_image`` in
nova/virt/libvirt/imagebackend.py, ``cache_image`` in nova/virt/libvirt/driver.py).

So a file that no server uses was touched last by what fetched it, or by the last pass that saw it
used: up to an interval before its last server left. It goes with the first pass that finds it old
enough: after the minimum age less an interval since that server left at the earliest, after the
minimum age and an interval at the latest. The phase of the passes can't be seen, and the latest
counts: an image is claimed for two intervals too long at the most, and never given up while a
server uses it.

A use need not touch the file when it begins: an unshelved server, a resize or cold migration to a
host that has the image, and its revert do not. So a use that lasted for less than an interval, and
did not begin with a touch, counts for nothing: most likely no pass saw it. And a resize or a cold
migration counts as a touch only where the file may have been gone by then, and fetched anew.

What servers use is a row for each server on a host (see ``uses:<host>`` in
:class:`bus_cache.names.Keys`): msgpack ``[stamp, what, stamp, what, ...]``, newest first; what is
raw fingerprints, one after the other: from then on the server used these images, first its own,
then its kernel's and its ramdisk's (``_list_running_instances`` in nova/virt/imagecache.py), or
empty: it left. What was told holds until the next newer thing that is another.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgpack

_RAW = 20
"""Bytes of a raw fingerprint."""

REMEMBER = 7 * 24 * 3600 * 1000
"""Milliseconds for which it is remembered that a server left, at the least, but for :data:`MANY`
of them: no message is later."""

MANY = 5000
"""Rows of one host beyond which a server that left is remembered only while its use matters. It is
half of what the index has room for (``servers_per_host`` in bus_cache/index/lua/prelude.lua): where
servers live for minutes, those that left in a week would leave none for those that live."""

_DEFAULT_INTERVAL = 60
"""Seconds between the passes where ``manager_interval`` is 0: oslo.service's default."""

_JITTER = 20
"""oslo.service adds up to a twentieth to the time between two passes (``_nearest_boundary`` in
oslo_service/periodic_task.py)."""


class Policy(NamedTuple):
    """How the hosts' Nova removes images; times in milliseconds."""

    enabled: bool
    interval: int
    """The longest time between two passes."""
    minimum_age: int

    @classmethod
    def of(
        cls, manager_interval: int, remove_unused_base_images: bool, minimum_age_seconds: int
    ) -> Policy:
        """Take the values of Nova's options in ``[image_cache]``: the last one is
        ``remove_unused_original_minimum_age_seconds``.
        """
        interval = max(0, manager_interval) or _DEFAULT_INTERVAL
        return cls(
            remove_unused_base_images and manager_interval >= 0,
            interval * 1000 + interval * 1000 // _JITTER,
            max(0, minimum_age_seconds) * 1000,
        )

    @property
    def wait(self) -> int:
        """Milliseconds after its last use at which an image is gone for sure."""
        return self.minimum_age + self.interval

    @property
    def matters(self) -> int:
        """Milliseconds for which it matters that a server used an image."""
        return self.wait + self.interval

    @property
    def keep(self) -> int:
        """Milliseconds for which it is remembered that a server left."""
        return max(REMEMBER, self.matters)


class Use(NamedTuple):
    """What one server uses and used on one host: see the module."""

    said: tuple[tuple[int, bytes], ...]
    """Stamps, each with the raw fingerprints of what was used from then on; empty: the server left.
    Newest first; never empty in Redis."""

    @property
    def image(self) -> bytes | None:
        """The server's own image; None: it left."""
        return self.said[0][1][:_RAW] or None if self.said else None

    @property
    def newest(self) -> int:
        """The newest stamp."""
        return self.said[0][0] if self.said else 0

    def intervals(self) -> Iterator[tuple[bytes, int, int | None]]:
        """Yield each use of an image with the stamps of its begin and its end, the newest first;
        None: it goes on."""
        end: int | None = None
        for what, same in itertools.groupby(self.said, key=operator.itemgetter(1)):
            begin = min(stamp for stamp, _ in same)
            for first in range(0, len(what), _RAW):
                yield what[first : first + _RAW], begin, end
            end = begin

    def merged(self, fingerprints: bytes | None, stamp: int, most: int) -> Use:
        """Return what is known when images are used, or, with None, when the server left.

        It is what ``uses.lua`` does in Redis: the same in any order, any number of times.

        :param most: things to remember; the oldest are forgotten.
        """
        said = {*self.said, (stamp, fingerprints or b"")}
        return Use(tuple(sorted(said, key=_order, reverse=True)[:most]))


def _order(said: tuple[int, bytes]) -> tuple[int, bool, bytes]:
    """Return by what a row is sorted: of one stamp, that the server left is the newest."""
    return said[0], not said[1], said[1]


def use_of(row: bytes) -> Use | None:
    """Read a row; None where it is none, such as what is not ours."""
    try:
        values = msgpack.unpackb(row, raw=True)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    if not isinstance(values, list) or not values or len(values) % 2:
        return None
    said = list(zip(values[::2], values[1::2], strict=True))
    if not all(type(stamp) is int and isinstance(what, bytes) for stamp, what in said):
        return None
    return Use(tuple(sorted(said, key=_order, reverse=True)))


class Outlook(NamedTuple):
    """What the ageing sweep does about one host."""

    due: list[tuple[bytes, int]]
    """Images that are gone: raw fingerprints, each with the stamp of its evidence."""
    forget: list[tuple[bytes, bytes]]
    """Rows that say nothing any more: raw server ids, each with its row."""
    next: int | None
    """Oldest stamp to look at again, when it is :attr:`Policy.wait` old; None: nothing."""


def outlook(
    policy: Policy,
    evidence: Mapping[bytes, Sequence[int]],
    uses: Mapping[bytes, bytes],
    *,
    service: tuple[int, bool] | None,
    newest: int,
    now: int,
) -> Outlook:
    """Return which images of a host are gone by now, and when to look again.

    While the host's nova-compute is down nothing goes, and after it came back nothing before it has
    had time for a pass. Any evidence of the host that is newer says that it is back.

    :param evidence: raw fingerprint -> stamp and source of the newest evidence, and, where that
        does not touch a file that is there, the stamp of the newest that does, if there is any.
    :param uses: raw server id -> row.
    :param service: stamp and whether nova-compute is up since then; None: nothing is known.
    :param newest: stamp of the newest evidence that the host ever gave.
    :param now: our clock, as all stamps in milliseconds since 1970.
    """
    used, forget, looks = _judge(policy, uses, now)
    due: list[tuple[bytes, int]] = []
    rests = not policy.enabled or (service is not None and not service[1] and newest <= service[0])
    back = service[0] - policy.minimum_age if service is not None and service[1] else 0
    for fingerprint, said in evidence.items():
        spans = used.get(fingerprint, [])
        if any(end is None for _, end in spans):
            continue
        since = max(_touched(policy, said, spans), back)
        if rests:
            looks.append(now - policy.minimum_age)  # in an interval
        elif since + policy.wait <= now:
            due.append((fingerprint, said[0]))
        else:
            looks.append(since)
    return Outlook(due, forget, min(looks, default=None))


def _touched(policy: Policy, said: Sequence[int], spans: Sequence[tuple[int, int | None]]) -> int:
    """Return when the file of an image that nobody uses was touched last, at the latest, by its
    evidence and its uses."""
    stamp, touched = said[0], said[2] if len(said) > 2 else said[0]
    since = touched
    for begin, end in _joined(spans):
        # else no pass need have seen it
        if end - begin >= policy.interval or end - touched <= policy.interval:
            since = max(since, end)
    if stamp - since >= policy.minimum_age - policy.interval:
        since = max(since, stamp)  # it may have been gone, and was fetched anew then
    return since


def _joined(spans: Sequence[tuple[int, int | None]]) -> Iterator[tuple[int, int]]:
    """Yield the times at which any server used an image, of ended uses."""
    begin, end = 0, -1
    for each, till in sorted((each, till or 0) for each, till in spans):
        if each > end:
            if end >= 0:
                yield begin, end
            begin, end = each, till
        end = max(end, till)
    if end >= 0:
        yield begin, end


def _judge(
    policy: Policy, uses: Mapping[bytes, bytes], now: int
) -> tuple[dict[bytes, list[tuple[int, int | None]]], list[tuple[bytes, bytes]], list[int]]:
    """Return begin and end of the uses of each image (None: it goes on), the rows to forget, and
    the stamps at which to look again for others to forget.
    """
    used: dict[bytes, list[tuple[int, int | None]]] = {}
    forget: list[tuple[bytes, bytes]] = []
    looks: list[int] = []
    keep = policy.matters if len(uses) > MANY else policy.keep
    for server, row in uses.items():
        use = use_of(row)
        if use is None:
            forget.append((server, row))
            continue
        for fingerprint, begin, end in use.intervals():
            used.setdefault(fingerprint, []).append((begin, end))
        if not use.image:
            if use.newest + keep <= now:
                forget.append((server, row))
            else:
                looks.append(use.newest + keep - policy.wait)
    return used, forget, looks
