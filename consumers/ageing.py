"""When Nova has removed an image from a host, by its own rule: pure functions.

Every ``manager_interval`` Nova's cache manager (``ImageCacheManager`` in
nova/virt/libvirt/imagecache.py) touches the files of all images that a server of its host uses, and
removes each other file whose time of modification is ``remove_unused_original_minimum_age_seconds``
old, or older. A boot, a rescue and caching in advance touch a file, too (``create_image`` in
nova/virt/libvirt/imagebackend.py, ``cache_image`` in nova/virt/libvirt/driver.py).

So a file that no server uses was touched last by what is the newest evidence of it, or by the last
pass that saw it used: up to an interval before its last server left. It goes with the first pass
that finds it old enough: after the minimum age less an interval since that server left at the
earliest, after the minimum age and an interval at the latest. The phase of the passes can't be
seen, and the latest counts: an image is claimed for two intervals too long at the most, and never
given up while a server uses it.

What servers use is a row for each server on a host (see ``uses:<host>`` in
:class:`bus_cache.names.Keys`): msgpack ``[left, fingerprint, stamp, fingerprint, stamp, ...]``, raw
fingerprints, newest stamp first. The server has used the first one since its stamp, unless it left
then or later; and each other one until the next newer stamp, or until it left, where that was
before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgpack

REMEMBER = 7 * 24 * 3600 * 1000
"""Milliseconds for which it is remembered that a server left, at the least: no message is later."""

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
    def keep(self) -> int:
        """Milliseconds for which it matters that a server used an image."""
        return max(REMEMBER, self.wait + self.interval)


class Use(NamedTuple):
    """What one server uses and used on one host: see the module."""

    left: int
    images: tuple[tuple[bytes, int], ...]
    """Raw fingerprints, each with the newest stamp at which it was used; newest first."""

    def ends(self) -> Iterator[tuple[bytes, int | None]]:
        """Yield each image with the stamp at which its use ended; None: it goes on."""
        end: int | None = None
        for fingerprint, stamp in self.images:
            if self.left >= stamp:
                end = self.left if end is None else min(end, self.left)
            yield fingerprint, end
            end = stamp

    @property
    def over(self) -> int | None:
        """The stamp at which the server's last use ended; None: it goes on."""
        return next(self.ends(), (b"", self.left))[1]

    def merged(self, fingerprint: bytes | None, stamp: int, most: int) -> Use:
        """Return what is known when an image is used, or, with None, when the server left.

        It is what ``uses.lua`` does in Redis: the same in any order, any number of times.

        :param most: images to remember; the oldest are forgotten.
        """
        if fingerprint is None:
            return self._replace(left=max(self.left, stamp))
        images = dict(self.images)
        images[fingerprint] = max(stamp, images.get(fingerprint, 0))
        newest = sorted(images.items(), key=lambda each: each[::-1], reverse=True)
        return self._replace(images=tuple(newest[:most]))


def use_of(row: bytes) -> Use | None:
    """Read a row; None where it is none, such as what is not ours."""
    try:
        values = msgpack.unpackb(row, raw=True)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    if not isinstance(values, list) or len(values) % 2 == 0 or type(values[0]) is not int:
        return None
    images = list(zip(values[1::2], values[2::2], strict=True))
    if not all(isinstance(raw, bytes) and type(stamp) is int for raw, stamp in images):
        return None
    images.sort(key=lambda each: each[::-1], reverse=True)
    return Use(values[0], tuple(images))


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
    evidence: Mapping[bytes, tuple[int, int]],
    uses: Mapping[bytes, bytes],
    *,
    service: tuple[int, bool] | None,
    newest: int,
    now: int,
) -> Outlook:
    """Return which images of a host are gone by now, and when to look again.

    While the host's nova-compute is down nothing goes, and after it came back nothing before it has
    had time for a pass. Any evidence of the host that is newer says that it is back.

    :param evidence: raw fingerprint -> stamp and source of the newest evidence.
    :param uses: raw server id -> row.
    :param service: stamp and whether nova-compute is up since then; None: nothing is known.
    :param newest: stamp of the newest evidence that the host ever gave.
    :param now: our clock, as all stamps in milliseconds since 1970.
    """
    ends, forget, looks = _judge(policy, uses, now)
    due: list[tuple[bytes, int]] = []
    rests = not policy.enabled or (service is not None and not service[1] and newest <= service[0])
    back = service[0] - policy.minimum_age if service is not None and service[1] else 0
    for fingerprint, (stamp, _source) in evidence.items():
        end = ends.get(fingerprint, 0)
        if end is None:
            continue
        since = max(stamp, end, back)
        if rests:
            looks.append(now - policy.minimum_age)  # in an interval
        elif since + policy.wait <= now:
            due.append((fingerprint, stamp))
        else:
            looks.append(since)
    return Outlook(due, forget, min(looks, default=None))


def _judge(
    policy: Policy, uses: Mapping[bytes, bytes], now: int
) -> tuple[dict[bytes, int | None], list[tuple[bytes, bytes]], list[int]]:
    """Return when the use of each image ended (None: it goes on), the rows to forget, and the
    stamps at which to look again for others to forget.
    """
    ends: dict[bytes, int | None] = {}
    forget: list[tuple[bytes, bytes]] = []
    looks: list[int] = []
    for server, row in uses.items():
        use = use_of(row)
        if use is None:
            forget.append((server, row))
            continue
        for fingerprint, end in use.ends():
            known = ends.get(fingerprint, 0)
            ends[fingerprint] = None if end is None or known is None else max(end, known)
        over = use.over
        if over is not None and over + policy.keep <= now:
            forget.append((server, row))
        elif over is not None:
            looks.append(over + policy.keep - policy.wait)
    return ends, forget, looks
