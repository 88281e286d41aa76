"""The whole keyspace, decoded, so that a test can compare it with a truth."""

from __future__ import annotations

import uuid
from typing import Any

import msgpack
import redis

from bus_cache import names
from consumers import ageing

#: Keys of which there is one, and which no test compares.
ALONE = ("ageing", "full", "gaps", "listening", "readers", "services", "silent")


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
    found |= {"agents": {}, "uses": {}, "coming": {}}
    managed: set[str] = set()
    found["heard"] = set()
    for key in client.scan_iter(match=keys.prefix + "*", count=1000):
        name = key.decode().removeprefix(keys.prefix)
        kind, _, rest = name.partition(":")
        if name == "schema":
            found["schema"] = client.get(key)
        elif name == "images":
            for raw, packed in client.hgetall(key).items():
                image_id, size, _day = msgpack.unpackb(packed)
                assert not image_id or names.fingerprint(image_id) == raw.hex()
                found["images"][image_id] = size or None
        elif name == "hosts":
            found["heard"] |= {member.decode() for member in client.zrange(key, 0, -1)}
        elif kind == "host":
            found["hosts"][rest] = {raw.hex() for raw in client.hgetall(key)}
        elif kind == "gone":
            assert client.ttl(key) > 0
            found["gone"].add(rest)
        elif name == "agents":
            records = {
                host.decode(): msgpack.unpackb(row) for host, row in client.hgetall(key).items()
            }
            managed = {host for host, row in records.items() if row[5]}
            found["heard"] |= set(records)
        elif kind == "agent":
            rows = {
                raw.hex(): value and msgpack.unpackb(value)
                for raw, value in client.hgetall(key).items()
            }
            found["agents"][rest] = {image for image, row in rows.items() if not row or row[2]}
        elif kind == "uses":
            rows = {str(uuid.UUID(bytes=raw)): row for raw, row in client.hgetall(key).items()}
            uses = {server: ageing.use_of(row) for server, row in rows.items()}
            found["uses"][rest] = {
                server: use.image.hex()
                for server, use in uses.items()
                if use is not None and use.image
            }
        elif kind == "coming":
            found["coming"][rest] = {
                host.decode()
                for host, till in client.zrange(key, 0, -1, withscores=True)
                if till > 0
            }
        elif name not in ALONE and kind not in ("claim", "image", "wanted"):
            raise AssertionError(f"a key that nobody documents: {name}")
    # the two sides of the index say the same
    reverse: dict[str, set[str]] = {}
    for image, hosts in found["sets"].items():
        for host in hosts:
            reverse.setdefault(host, set()).add(image)
    held = {host: images for host, images in found["hosts"].items() if host not in managed}
    held |= {host: found["agents"][host] for host in managed if found["agents"].get(host)}
    assert reverse == held
    return found
