"""The whole keyspace, decoded, so that a test can compare it with a truth."""

from __future__ import annotations

from typing import Any

import msgpack
import redis

from bus_cache import names


def sets(client: redis.Redis, keyspace: str = "bus_cache") -> dict[str, set[str]]:
    """Return the public part: fingerprint -> hosts, of all images that a host holds."""
    prefix = f"{{{keyspace}}}:image:"
    found = {}
    for key in client.scan_iter(match=prefix + "*", count=1000):
        members = client.smembers(key)
        found[key.decode().removeprefix(prefix)] = {m.decode() for m in members}
    return found


def everything(client: redis.Redis, keyspace: str = "bus_cache") -> dict[str, Any]:
    """Return all of the keyspace but times, which are only checked to be there."""
    keys = names.Keys(keyspace)
    found: dict[str, Any] = {"images": {}, "hosts": {}, "gone": set(), "sets": sets(client)}
    for key in client.scan_iter(match=keys.prefix + "*", count=1000):
        name = key.decode().removeprefix(keys.prefix)
        kind, _, rest = name.partition(":")
        if name == "schema":
            found["schema"] = client.get(key)
        elif name == "images":
            for raw, packed in client.hgetall(key).items():
                image_id, size, _day = msgpack.unpackb(packed)
                assert names.fingerprint(image_id) == raw.hex()
                found["images"][image_id] = size or None
        elif name == "hosts":
            found["heard"] = {member.decode() for member in client.zrange(key, 0, -1)}
        elif kind == "host":
            found["hosts"][rest] = {raw.hex() for raw in client.hgetall(key)}
        elif kind == "gone":
            assert client.ttl(key) > 0
            found["gone"].add(rest)
        elif kind != "image":
            raise AssertionError(f"a key that nobody documents: {name}")
    # the two sides of the index say the same
    reverse: dict[str, set[str]] = {}
    for image, hosts in found["sets"].items():
        for host in hosts:
            reverse.setdefault(host, set()).add(image)
    assert reverse == found["hosts"]
    return found
