"""What can be said about images and hosts: plain values, the same from every source.

Every statement carries a stamp, milliseconds since 1970 by the clock of whoever made it. Applying
the same statements twice or in another order leaves the same index (see
:mod:`bus_cache.index.writer`).
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Union


class Source(enum.IntEnum):
    """By what a host is known to hold an image. Numbers are in Redis: never change one's
    meaning.
    """

    CREATE = 1
    REBUILD = 2
    EVACUATION = 3
    MIGRATION = 4
    """A resize or a cold migration."""
    LIVE_MIGRATION = 5
    RESCUE = 6
    PRECACHE = 7
    SERVER = 8
    """Nova's API listed a server of the image there: weaker than a notification, which is of the
    moment at which the image was fetched."""
    AGENT = 9
    """The host's agent said so, before it fell silent."""


class Held(NamedTuple):
    """A host holds an image."""

    host: str
    image_id: str
    stamp: int
    source: Source


class ImageSize(NamedTuple):
    """An image has this many bytes."""

    image_id: str
    size: int
    stamp: int


class ImageDeleted(NamedTuple):
    """An image was deleted; its id is never used again."""

    image_id: str
    stamp: int


class HostDeleted(NamedTuple):
    """A host's compute service was deleted: what was said of it before this no longer holds."""

    host: str
    stamp: int


class ServiceState(NamedTuple):
    """A host's nova-compute works, or does not: while it does not, it removes no image."""

    host: str
    stamp: int
    up: bool


class Fetching(NamedTuple):
    """A host began to fetch an image: it may have it soon, or fail."""

    host: str
    image_id: str
    stamp: int


class FetchFailed(NamedTuple):
    """What a host began to fetch is no longer on its way, for all that is known."""

    host: str
    image_id: str
    stamp: int


class InUse(NamedTuple):
    """A server on a host uses an image, and from this moment on no other one.

    ``parts``: the images of its kernel and its ramdisk, if it has them.
    """

    host: str
    instance: str
    image_id: str
    stamp: int
    parts: tuple[str, ...] = ()


class NotInUse(NamedTuple):
    """A server left a host, or was deleted there: it uses no image on it any more."""

    host: str
    instance: str
    stamp: int


class AgentSnapshot(NamedTuple):
    """All images that a host's agent found in its cache.

    ``version`` orders what one agent says: (epoch, sequence). ``leaving``: it is the agent's last
    word, and the host is inferred from now on.
    """

    host: str
    version: tuple[int, int]
    stamp: int
    fingerprints: tuple[str, ...]
    fetching: tuple[str, ...] = ()
    leaving: bool = False


class Said(enum.IntEnum):
    """What an agent said of one image. Numbers go to Redis' scripts."""

    CLEANUP = 0
    """It is not there, or no longer on its way."""
    STORED = 1
    FETCHING = 2


class AgentStatement(NamedTuple):
    """What a host's agent saw happen to one image in its cache."""

    host: str
    version: tuple[int, int]
    stamp: int
    fingerprint: str
    said: Said


Change = Union[
    Held,
    ImageSize,
    ImageDeleted,
    HostDeleted,
    ServiceState,
    Fetching,
    FetchFailed,
    InUse,
    NotInUse,
    AgentSnapshot,
    AgentStatement,
]
