"""What a cached image is worth on a host: pure functions over plain values.

A host's weight is the product of four shares, each from 0 to 1:

- :func:`saving`: how much there is to fetch; nothing for a small image, all for a large one;
- whether the host has it: 1 where it is held (:data:`HELD`), 0.8 where it is on its way
  (:data:`COMING`), as the rest of the download is still to be waited for, else 0;
- :func:`idleness`: how little the host builds. Builds share its disk, its network and Nova's build
  slots, those that wait for the same download too, and a burst would else fill one host;
- :func:`room`: how much RAM the host has free, beside the others.

So the first server of a burst goes where Nova wants it, the next ones follow it until that host has
its builds or lacks RAM, then one more host fetches the image, and so on: about as many hosts fetch
as the burst has servers, divided by ``most_builds``. How many hosts hold the image does not count
by itself: each is as good as if it were the only one, and the more there are the more of them are
idle and have room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

MIB = 2**20

HELD, COMING, ABSENT = 1.0, 0.8, 0.0
"""Which part of the time to fetch an image is saved on a host."""


class Options(NamedTuple):
    """What operators set, in ``[image_cache_weigher]``."""

    small_image: float
    """Bytes."""
    large_image: float
    """Bytes."""
    most_builds: float
    most_imbalance: float
    """Of the largest free RAM."""


def options(group: Any) -> Options:
    """Return what a configuration's group says."""
    return Options(
        group.small_image_size * MIB,
        group.large_image_size * MIB,
        group.most_builds,
        group.most_imbalance,
    )


class Candidates(NamedTuple):
    """The hosts for a server: a value for each in each column."""

    there: Sequence[float]
    """:data:`HELD`, :data:`COMING` or :data:`ABSENT`."""
    builds: Sequence[float]
    """How many servers it builds."""
    free_ram_mb: Sequence[float]


class Scale(NamedTuple):
    """What the weights of one server's candidates are measured by."""

    saved: float
    """See :func:`saving`."""
    most_builds: float
    enough_mb: float
    """Free RAM, before the server is there, from which on a host lacks none."""
    lack_mb: float
    """What a host may have less than that before the image is worth nothing there."""


class Shares(NamedTuple):
    """A host's weight in its parts."""

    saved: float
    there: float
    idle: float
    room: float

    @property
    def weight(self) -> float:
        """Their product."""
        return self.saved * self.there * self.idle * self.room

    def __str__(self) -> str:
        """Return them for people."""
        parts = zip(("saves", "there", "idle", "room"), self, strict=True)
        return " x ".join(f"{name} {share:.2f}" for name, share in parts)


def scale(size: int, ram_mb: float, free_ram_mb: Sequence[float], options: Options) -> Scale:
    """Return what the candidates for a server are measured by.

    A host should have as much free RAM as the candidates have in the mean when half of the server
    is on it: it has more before, and less after. What it may lack of that is ``most_imbalance`` of
    the largest free RAM (by which Nova's RAM weigher measures, too), for an image of
    ``large_image`` bytes; for others by the square root of their size, as what an unevenness costs
    grows with its square, up to twice as much.

    :param size: the image's, in bytes.
    :param ram_mb: the server's.
    :param free_ram_mb: of each candidate; negative where it is overcommitted.
    """
    root = math.sqrt(max(0, size) / options.large_image)
    largest = max(free_ram_mb)
    return Scale(
        saving(size, options.small_image, options.large_image),
        options.most_builds,
        sum(free_ram_mb) / len(free_ram_mb) + ram_mb / 2,
        options.most_imbalance * min(root, 2.0) * max(0.0, largest),
    )


def weights(scale: Scale, hosts: Candidates) -> list[float]:
    """Return the weight of each candidate, from 0 to 1; 0 of all where the image makes no
    difference.

    It makes none where it is held by all hosts, or by none. (``normalize()`` in nova/weights.py
    has all 0 where all are alike only for weighers without ``minval`` and ``maxval``.)
    """
    nothing = [0.0] * len(hosts.there)
    if scale.saved == 0.0 or len(set(hosts.there)) < 2:
        return nothing
    idle = {builds: idleness(builds, scale.most_builds) for builds in set(hosts.builds)}
    # the product of shares(), written out for speed
    saved, _, enough, lack = scale
    found = [
        saved * there * idle[builds] * (1.0 if free >= enough else room(enough - free, lack))
        if there
        else 0.0
        for there, builds, free in zip(*hosts, strict=True)
    ]
    return nothing if found.count(found[0]) == len(found) else found


def shares(scale: Scale, hosts: Candidates, which: int) -> Shares:
    """Return what one candidate's weight is made of, where :func:`weights` are not all 0."""
    there, builds, free = (column[which] for column in hosts)
    return Shares(
        scale.saved,
        there,
        idleness(builds, scale.most_builds),
        room(scale.enough_mb - free, scale.lack_mb),
    )


def saving(size: float, small: float, large: float) -> float:
    """Return what an image that need not be fetched saves: from 0, nothing, to 1, full weight.

    The time to fetch an image grows with its size, so the saving does too, evenly between the
    two ends. Where ``large`` is not above ``small``, it is a step at ``small``.

    :param size: the image's, in bytes.
    :param small: bytes; an image of at most this size saves nothing.
    :param large: bytes; an image of at least this size has full weight.
    """
    if size <= small:
        return 0.0
    if size >= large:
        return 1.0
    return (size - small) / (large - small)


def idleness(builds: float, most: float) -> float:
    """Return what is left of a host's worth with so many builds: 1 with none, 0 with ``most``.

    The cube keeps it near 1 until shortly before ``most``: Nova's I/O weigher takes its evenly
    rising part already, and would else send a burst's third server to a host of its own.
    """
    if builds >= most:
        return 0.0
    return 1.0 - (max(0.0, builds) / most) ** 3


def room(lacking: float, lack: float) -> float:
    """Return what is left of a host's worth that lacks RAM: 1 where it lacks none, 0 from ``lack``
    on.

    :param lacking: MiB of free RAM that it has less than it should.
    """
    if lacking <= 0.0:
        return 1.0
    return 1.0 - lacking / lack if lacking < lack else 0.0
