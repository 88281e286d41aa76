"""What an agent says on the bus, and what it may be asked: names, payloads, and their checks.

An agent publishes with oslo.messaging's notifier on the topic :data:`TOPIC` of the exchange
:data:`EXCHANGE`, as publisher ``bus-cache-agent:<host>``. Every message carries the agent's epoch,
which grows at each start, and a sequence without gaps that starts at 0 with each epoch. The first
message of an epoch is a snapshot.

It is asked by an RPC cast on the exchange :data:`ASK_EXCHANGE`, :data:`ASK_TOPIC` with
``server=<host>``, or to all (fanout). It is another exchange so that an agent needs no right to
read or declare the first one: with that it could bind a queue of its own and read what all say.

``snapshot(after, spread)``
    Publish a snapshot, some time within ``spread`` seconds. ``after`` is the newest epoch that the
    index knows of the host, or 0: an agent whose own is smaller (its clock was set back, and its
    state lost) goes on with a larger one.
``listening()``
    A consumer reads: go on. Without it for :data:`UNHEARD` seconds an agent falls silent, so that
    what nobody reads does not fill the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Union

from bus_cache import names
from bus_cache.index.changes import AgentSnapshot, AgentStatement, Said

EXCHANGE = "bus_cache"
TOPIC = "bus_cache"
QUEUE = "bus_cache.info"
"""The queue that oslo.messaging's notifier declares for the topic and the priority ``info``."""

ASK_EXCHANGE = "bus_cache_ask"
ASK_TOPIC = "bus_cache_agent"
ASK_VERSION = "1.0"

SNAPSHOT = "image_cache.snapshot"
STORED = "image_cache.stored"
FETCHING = "image_cache.fetching"
CLEANUP = "image_cache.cleanup"
EVENTS = (SNAPSHOT, STORED, FETCHING, CLEANUP)

MOST_IMAGES = 10_000
"""Images in one snapshot: it is one message, and one atomic change of the index."""

MOST_EPOCH_AHEAD = 10 * 365 * 86_400_000
"""How far an epoch may be ahead, in milliseconds: see :func:`latest_epoch`."""

MOST_SEQUENCE = 2**40
"""No agent says as much in one epoch: a larger sequence is refused."""

_WRITTEN = 1_767_225_600_000
"""2026-01-01: a clock that says less is wrong."""

_MOST = 2**53
"""The largest whole number that Redis' Lua keeps exactly."""

UNHEARD = 900.0
"""Seconds without a consumer that says it listens, after which an agent falls silent."""

_PUBLISHER = "bus-cache-agent:"
_VERSION = "1.0"
_SAID = {STORED: Said.STORED, FETCHING: Said.FETCHING, CLEANUP: Said.CLEANUP}


class Refused(ValueError):
    """What an agent said can't be understood, or it speaks for another host; the text says why, on
    one line."""


class CachedImage(NamedTuple):
    """An image in a host's cache: its bytes on disk, and when it was last used, in seconds since
    1970."""

    fingerprint: str
    size: int
    last_used: int


class Inventory(NamedTuple):
    """What a cache holds: whole images, and fingerprints of those on their way."""

    images: Sequence[CachedImage]
    fetching: Sequence[str] = ()


def latest_epoch(now: int) -> int:
    """Return the largest epoch that is believed and taken, lest one absurd one be the last for
    ever.

    An epoch may be ahead of a clock: the agent's was, or was set back. What a clock that stands in
    the past (a host without a battery has it in 1970) calls absurd may be right.

    :param now: milliseconds since 1970.
    """
    return max(now, _WRITTEN) + MOST_EPOCH_AHEAD


def publisher(host: str) -> str:
    """Return the ``publisher_id`` of a host's agent."""
    return _PUBLISHER + host


def snapshot(
    host: str,
    version: tuple[int, int],
    images: Iterable[CachedImage],
    fetching: Iterable[str] = (),
    leaving: bool = False,
) -> dict[str, Any]:
    """Return the payload of :data:`SNAPSHOT`.

    :param version: (epoch, sequence).
    :param fetching: fingerprints of images that are on their way.
    :param leaving: the agent ends; what it says here is its last word.
    :raises ValueError: more than :data:`MOST_IMAGES` images.
    """
    rows = [[image.fingerprint, image.size, image.last_used] for image in images]
    coming = list(fetching)
    if len(rows) + len(coming) > MOST_IMAGES:
        raise ValueError(
            f"{len(rows) + len(coming)} images in the cache of {host}: more than {MOST_IMAGES} "
            "can't be reported"
        )
    return {
        "version": _VERSION,
        "host": host,
        "epoch": version[0],
        "sequence": version[1],
        "images": rows,
        "fetching": coming,
        "leaving": leaving,
    }


def statement(
    host: str, version: tuple[int, int], image: str, size: int = 0, last_used: int = 0
) -> dict[str, Any]:
    """Return the payload of :data:`STORED`, :data:`FETCHING` or :data:`CLEANUP`.

    :param version: (epoch, sequence).
    :param image: its fingerprint.
    :param size: bytes on disk, 0 where it is not there.
    :param last_used: seconds since 1970, 0 where it is not there.
    """
    return {
        "version": _VERSION,
        "host": host,
        "epoch": version[0],
        "sequence": version[1],
        "image": image,
        "bytes": size,
        "last_used": last_used,
    }


def read(
    event_type: str,
    publisher_id: str,
    stamp: int,
    payload: Mapping[str, Any],
    *,
    now: int | None = None,
) -> Union[AgentSnapshot, AgentStatement]:
    """Return what an agent said.

    :param stamp: when, in milliseconds since 1970 by its own clock.
    :param now: in milliseconds since 1970 by ours, for :func:`latest_epoch`; None: any epoch is
        taken.
    :raises Refused: it can't be understood, or it speaks for another host.
    """
    version = payload.get("version")
    if not isinstance(version, str) or version.partition(".")[0] != "1":
        raise Refused(f"unknown version {ascii(version)[:60]}")
    host = payload.get("host")
    if not isinstance(host, str) or not names.is_valid_name(host):
        raise Refused("host is no valid name")
    if publisher_id != publisher(host):
        raise Refused(f"{ascii(publisher_id)[:100]} speaks for the host {host}: refused")
    most = _MOST - 1 if now is None else latest_epoch(now)
    numbers = (_number(payload, "epoch", most), _number(payload, "sequence", MOST_SEQUENCE))
    if event_type in _SAID:
        fingerprint = _fingerprint(payload.get("image"))
        return AgentStatement(host, numbers, stamp, fingerprint, _SAID[event_type])
    if event_type != SNAPSHOT:
        raise Refused(f"unknown event {event_type[:60]!a}")
    images, fetching = payload.get("images"), payload.get("fetching", [])
    if not isinstance(images, list) or not isinstance(fetching, list):
        raise Refused("images or fetching is no list")
    if len(images) + len(fetching) > MOST_IMAGES:
        raise Refused(f"more than {MOST_IMAGES} images")
    return AgentSnapshot(
        host,
        numbers,
        stamp,
        tuple(_fingerprint(row[0] if isinstance(row, list) and row else None) for row in images),
        tuple(_fingerprint(each) for each in fetching),
        payload.get("leaving") is True,
    )


def _number(payload: Mapping[str, Any], field: str, most: int) -> int:
    value = payload.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Refused(f"{field} is no number from 0 to {most}")
    return value


def _fingerprint(value: object) -> str:
    if not isinstance(value, str) or not names.is_fingerprint(value):
        raise Refused("an image is named by no fingerprint")
    return value
