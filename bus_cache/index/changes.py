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


Change = Union[Held, ImageSize, ImageDeleted, HostDeleted]
