"""What nova-scheduler asks of the index: which of these hosts hold this image, and which fetch it
just now? One round trip."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis

from bus_cache import connect, names

MOST_COMING = 10_000
"""Hosts to which an image is on its way that an answer has at the most, those that began last."""


class Unreadable(Exception):
    """Redis answers, but what stands under one of an image's keys is of another kind."""


class Found(NamedTuple):
    """Where an image is."""

    asked: frozenset[str]
    """The hosts that were asked about."""
    held: frozenset[str]
    """Those of them that hold it."""
    coming: frozenset[str]
    """Those to which it is on its way: of all hosts, asked about or not."""


class Reader:
    """Reads the public sets of one keyspace, and what is on its way."""

    def __init__(self, client: connect.Client, keyspace: str) -> None:
        """Take a client for Redis and the keyspace's name; nothing is sent yet."""
        self._client: Any = client  # redis-py types pipelines of a Cluster otherwise
        self._keys = names.Keys(keyspace)

    def look(self, image_id: str, hosts: Sequence[str], now: int) -> Found:
        """Tell which of the hosts hold the image, and which hosts fetch it, as of now.

        One pipeline of SMISMEMBER (Redis 6.2 or later) and ZRANGE: its time grows with the hosts
        asked about and with those that fetch the image, not with the images that are known nor
        with the hosts that hold this one.

        :param now: ms since 1970; the consumers' clocks said until when an image counts as on its
            way.
        :raises Unreadable: a key of the image is none of ours, or a host's name none that can be
            sent; other questions may be well.
        :raises redis.RedisError: Redis is away, too late or refuses.
        :raises ValueError: the answer is none that can be understood.
        """
        if not hosts:
            return Found(frozenset(), frozenset(), frozenset())
        fingerprint = names.fingerprint(image_id)
        held, coming = self._keys.image(fingerprint), self._keys.coming(fingerprint)
        pipe = self._client.pipeline(transaction=False)
        try:
            pipe.smismember(held, hosts)
            pipe.zrange(
                coming, "+inf", f"({now}", desc=True, byscore=True, offset=0, num=MOST_COMING
            )
            answers = pipe.execute(raise_on_error=False)
        except (redis.DataError, UnicodeError) as error:
            raise Unreadable(f"no host can be asked about: {error}") from None
        if len(answers) != 2:
            raise ValueError("Redis answered two questions with another number of answers")
        flags, fetching = map(_checked, answers, (held, coming), ("set", "sorted set"))
        if len(flags) != len(hosts):
            raise ValueError("Redis answered SMISMEMBER with something else than a flag per host")
        return Found(
            frozenset(hosts),
            frozenset(itertools.compress(hosts, [flag == 1 for flag in flags])),
            frozenset(host.decode("ascii", "replace") for host in fetching),
        )


def _checked(answer: Any, key: str, kind: str) -> list[Any]:
    """Return a list that Redis answered; raise what else it did."""
    if isinstance(answer, redis.ResponseError) and str(answer).startswith("WRONGTYPE"):
        raise Unreadable(f"{key} in Redis is no {kind}")
    if isinstance(answer, Exception):
        raise answer
    if not isinstance(answer, list):
        raise ValueError(f"Redis answered about {key} with something else than a list")
    return answer
