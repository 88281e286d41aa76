"""What nova-scheduler asks of the index: which of these hosts hold this image? One round trip."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from bus_cache import connect, names


class Unreadable(Exception):
    """Redis answers, but what stands under an image's key is no set."""


class Reader:
    """Reads the public sets of one keyspace."""

    def __init__(self, client: connect.Client, keyspace: str) -> None:
        """Take a client for Redis and the keyspace's name; nothing is sent yet."""
        self._client = client
        self._keys = names.Keys(keyspace)

    def holders(self, image_id: str, hosts: Sequence[str]) -> list[bool]:
        """Tell for each host whether it holds the image, as of now.

        One SMISMEMBER (Redis 6.2 or later): its time grows with the hosts asked about, not with the
        images that are known nor with the hosts that hold this one.

        :raises Unreadable: the image's key is none of ours, or a host's name none that can be sent;
            other questions may be well.
        :raises redis.RedisError: Redis is away, too late or refuses.
        :raises ValueError: the answer is none that can be understood.
        """
        if not hosts:
            return []
        key = self._keys.image(names.fingerprint(image_id))
        try:
            answer = self._client.smismember(key, hosts)  # type: ignore[arg-type]
        except (redis.DataError, UnicodeError) as error:
            raise Unreadable(f"no host can be asked about: {error}") from None
        except redis.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                raise Unreadable(f"{key} in Redis is no set") from None
            raise
        if not isinstance(answer, list) or len(answer) != len(hosts):
            raise ValueError("Redis answered SMISMEMBER with something else than a flag per host")
        return [flag == 1 for flag in answer]
