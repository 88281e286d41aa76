"""What a cached image is worth on a host: pure functions over plain values.

A host's weight is the product of four shares, each from 0 to 1:

- :func:`saving`: how much there is to fetch; nothing for a small image, all for a large one;
- whether the host has it: 1 where it is held (:data:`HELD`), 0.8 where it is on its way
  (:data:`COMING`), as the rest of the download is still to be waited for, else 0;
- :func:`idleness`: how little the host builds. Builds share its disk, its network and Nova's build
  slots, those that wait for the same download too, and a burst would else fill one host;
- :func:`room`: how much RAM the host has free, beside the others.

So the first server of a burst goes where Nova wants it, the next ones follow it until that host has
its builds, then one more host fetches the image, and so on: about as many hosts fetch as the burst
has servers, divided by ``most_builds``. Nova would go on with that host where they are requests at
the same moment, as its record has no build yet. So while a host builds ``most_builds`` or more that
only this process knows of, :data:`SPARE` of the weight is for building less, image or not.

How many hosts hold the image does not count by itself: each is as good as if it were the only one,
and the more there are the more of them are idle and have room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

MIB = 2**20

HELD, COMING, ABSENT = 1.0, 0.8, 0.0
"""Which part of the time to fetch an image is saved on a host."""

SPARE = 0.2
"""Which part of the weight is for building less than ``most_builds``, while a host builds more and
Nova does not know. With the multiplier's default of 5 it is 1, as what Nova's I/O weigher makes of
builds that it knows of."""


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
    """The hosts for a server: a value for each in the first three columns."""

    there: Sequence[float]
    """:data:`HELD`, :data:`COMING` or :data:`ABSENT`."""
    builds: Sequence[float]
    """How many servers it builds."""
    free_ram_mb: Sequence[float]
    begun: frozenset[int] = frozenset()
    """Places of those to which servers of the same image were sent just now: a burst goes there."""
    crowds: Mapping[int, float] = MappingProxyType({})
    """Builds of those whose record has fewer, by their place."""

    @property
    def unseen(self) -> float:
        """The most builds of a host whose record has fewer."""
        return max(self.crowds.values(), default=0.0)

    def only(self, places: Sequence[int]) -> Candidates:
        """Return some of them, in this order."""
        there, builds, free = ([column[place] for place in places] for column in self[:3])
        begun = frozenset(new for new, place in enumerate(places) if place in self.begun)
        crowds = {n: self.crowds[place] for n, place in enumerate(places) if place in self.crowds}
        return Candidates(there, builds, free, begun, crowds)


class Scale(NamedTuple):
    """What the weights of one server's candidates are measured by."""

    saved: float
    """See :func:`saving`."""
    most_builds: float
    enough_mb: float
    """Free RAM, before the server is there, from which on a host lacks none."""
    lack_mb: float
    """What a host may have less than that before the image is worth nothing there."""
    burst_lack_mb: float
    """The same where a burst goes."""
    spare: float
    """:data:`SPARE` where a host builds ``most_builds`` or more unseen, else 0."""
    crowd: float
    """Builds from which on a host does not get that: the next multiple of ``most_builds`` that not
    all have."""
    differs: bool
    """The image is not on all hosts alike."""


class Shares(NamedTuple):
    """A host's weight in its parts."""

    saved: float
    there: float
    idle: float
    room: float
    spare: float
    """:data:`SPARE` where it builds less than others, else 0."""

    @property
    def product(self) -> float:
        """What the image is worth on the host."""
        return self.saved * self.there * self.idle * self.room

    @property
    def weight(self) -> float:
        """That, or what building less is worth and the rest of it."""
        return self.saved * self.spare + (1.0 - self.spare) * self.product

    def __str__(self) -> str:
        """Return them for people."""
        product = f"there {self.there:.2f} x idle {self.idle:.2f} x room {self.room:.2f}"
        if self.spare:
            product = f"({self.spare:g} for building less + {1.0 - self.spare:g} x {product})"
        return f"saves {self.saved:.2f} x {product}"


def scale(size: int, ram_mb: float, options: Options, hosts: Candidates) -> Scale:
    """Return what the candidates for a server are measured by.

    A host should have as much free RAM as the candidates have in the mean when half of the server
    is on it: it has more before, and less after. What it may lack of that is ``most_imbalance`` of
    the largest free RAM (by which Nova's RAM weigher measures, too), for an image of
    ``large_image`` bytes; for others by the square root of their size, as what an unevenness costs
    grows with its square, up to twice as much. Where a burst goes it is ``most_builds`` of its
    servers, if that is more: where hosts are alike, its first server would else be the only one on
    its host.

    :param size: the image's, in bytes.
    :param ram_mb: the server's.
    :param hosts: one at least; free RAM is negative where it is overcommitted.
    """
    free_ram_mb, most = hosts.free_ram_mb, options.most_builds
    spare, crowd = (SPARE if hosts.unseen >= most else 0.0), most
    if spare and math.isfinite(least := min(hosts.builds)):
        crowd = most * (1 + max(0.0, least) // most)
    root = math.sqrt(max(0, size) / options.large_image)
    largest = max(free_ram_mb)
    lack = options.most_imbalance * min(root, 2.0) * max(0.0, largest)
    return Scale(
        saving(size, options.small_image, options.large_image),
        most,
        sum(free_ram_mb) / len(free_ram_mb) + ram_mb / 2,
        lack,
        max(lack, most * ram_mb),
        spare,
        crowd,
        len(set(hosts.there)) > 1,
    )


def weights(scale: Scale, hosts: Candidates) -> list[float]:
    """Return the weight of each candidate, from 0 to 1; 0 of all where the image makes no
    difference.

    It makes none where it is held by all hosts, or by none, and no host builds too much unseen.
    (``normalize()`` in nova/weights.py has all 0 where all are alike only for weighers without
    ``minval`` and ``maxval``.)
    """
    found = nothing = [0.0] * len(hosts.there)
    saved, most, enough, lack, _, spare, crowd, differs = scale
    if saved == 0.0:
        return nothing
    if differs:
        idle = {builds: idleness(builds, most) for builds in set(hosts.builds)}
        # the product of shares(), written out for speed
        found = [
            saved * there * idle[builds] * (1.0 if free >= enough else room(enough - free, lack))
            if there
            else 0.0
            for there, builds, free in zip(*hosts[:3], strict=True)
        ]
        for which in hosts.begun:
            found[which] = shares(scale, hosts, which).product
    if spare:
        found = [
            saved * spare + (1.0 - spare) * product if builds < crowd else 0.0
            for product, builds in zip(found, hosts.builds, strict=True)
        ]
    return nothing if found.count(found[0]) == len(found) else found


def shares(scale: Scale, hosts: Candidates, which: int) -> Shares:
    """Return what one candidate's weight is made of, where :func:`weights` are not all 0."""
    there, builds, free = (column[which] for column in hosts[:3])
    lack = scale.burst_lack_mb if which in hosts.begun else scale.lack_mb
    return Shares(
        scale.saved,
        there if scale.differs else ABSENT,
        idleness(builds, scale.most_builds),
        room(scale.enough_mb - free, lack),
        scale.spare if builds < scale.crowd else 0.0,
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
