"""Messages to begin with, real ones, and ways to make them hostile."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

from bus_cache import names, protocol
from bus_cache.protocol import CachedImage
from tests import publisher

STAMP = "2026-11-22 12:05:59.807434"


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, 10**400),
    *(1.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "a", " ", "\0", "a\0b", "a\nb", "a b", "\u00e9", "\u0661", "\ud800", "\udfff\ud800"),
    *("x" * 255, "x" * 256, "{other}:image:x", "*", "/", "..", "None", "0" * 40, "F" * 40),
    *("http://glance/images/", "http://glance/images/a b", "nova-compute:", "compute.", "compute"),
    *(STAMP, "9999-12-31 23:59:59.999999+00:00", "0001-01-01 00:00:00+23:59", "1969-12-31 23:59"),
    *([], {}, [[]], [None], {"": 0}, ["a"] * 100, {"nova_object.data": []}),
    *(_nested(300), [{"a": _nested(300)}]),
)
"""Values that do not belong at most places."""


@functools.cache
def bodies() -> tuple[bytes, ...]:
    """Return a recorded message of each event type and format, and what agents say."""
    found: dict[tuple[str, str], bytes] = {}
    for message in publisher.recorded():
        inner = publisher.content(message)
        found.setdefault((message["exchange"], inner["event_type"]), message["body"].encode())
    return (*found.values(), *agents())


@functools.cache
def agents() -> tuple[bytes, ...]:
    """Return one of each message of an agent's."""
    image = names.fingerprint("an image")
    payloads = {
        protocol.SNAPSHOT: protocol.snapshot("h", (7, 0), [CachedImage(image, 1, 2)], ["a" * 40]),
        **{
            event: protocol.statement("h", (7, 1), image, 1, 2)
            for event in (protocol.STORED, protocol.FETCHING, protocol.CLEANUP)
        },
    }
    return tuple(
        enveloped(
            {
                "message_id": "m",
                "publisher_id": protocol.publisher("h"),
                "event_type": event,
                "priority": "INFO",
                "payload": payload,
                "timestamp": STAMP,
            }
        )
        for event, payload in payloads.items()
    )


@functools.cache
def deep() -> tuple[bytes, ...]:
    """Return bodies that are nested: a little less than can be decoded, and far more."""
    found = []
    for depth in (450, 900, 20_000):
        nest = "[" * depth + "]" * depth
        said = json.loads(json.loads(bodies()[0])["oslo.message"])
        agent = json.loads(json.loads(agents()[0])["oslo.message"])
        found.append(b'{"oslo.version": %s, "oslo.message": "{}"}' % nest.encode())
        for each, part in ((said, said), (said, said["payload"]), (agent, agent["payload"])):
            for field in [*part]:
                before, part[field] = part[field], "NEST"
                found.append(enveloped(json.dumps(each).replace('"NEST"', nest)))
                part[field] = before
    return tuple(found)


def enveloped(inner: Any) -> bytes:
    """Return a body as the driver ``messagingv2`` sends it."""
    text = inner if isinstance(inner, str) else json.dumps(inner)
    return json.dumps({"oslo.version": "2.0", "oslo.message": text}).encode()


def mutated(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with something wrong at one place, drawn from all places."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    value = json.loads(json.dumps(value))
    if not isinstance(value, (dict, list)):
        return chance.choice(HOSTILE)
    walk(value)
    if not places:
        return chance.choice(HOSTILE)
    node, key = chance.choice(places)
    kind = chance.randrange(5)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node[key], str):
        at = chance.randrange(len(node[key]) + 1)
        node[key] = node[key][:at] + str(chance.choice(HOSTILE))[:300] + node[key][at:]
    elif kind == 2:
        _, other = chance.choice(places)
        node[key] = other
    else:
        node[key] = chance.choice(HOSTILE)
    return value


def hostile(body: bytes, chance: random.Random) -> bytes:
    """Return a body of which one or several layers are wrong."""
    try:
        return _layered(json.loads(body), chance)
    except (ValueError, TypeError, KeyError, RecursionError):  # it was hostile before
        return noise(body, chance)


def _layered(outer: Any, chance: random.Random) -> bytes:
    inner = json.loads(outer["oslo.message"])
    for _ in range(chance.randrange(1, 4)):
        inner = mutated(inner, chance)
    text = json.dumps(inner)
    if chance.randrange(4) == 0 and text.endswith("}"):  # a key twice: the last one counts
        key = chance.choice(["payload", "event_type", "timestamp", "publisher_id", "host", "a"])
        text = f'{text[:-1]}, "{key}": {json.dumps(chance.choice(HOSTILE))}}}'
    kind = chance.randrange(8)
    if kind == 0:
        return text.encode()  # driver "messaging": no envelope
    outer["oslo.message"] = text
    if kind == 1:
        outer = mutated(outer, chance)
    body = json.dumps(outer).encode()
    return noise(body, chance) if kind == 2 else body


def noise(body: bytes, chance: random.Random) -> bytes:
    """Return bytes of which a few are others, some are gone, or come twice."""
    found = bytearray(body)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(found) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            found[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del found[at : at + chance.randrange(1, 20)]
        elif kind == 2:
            found[at:at] = found[at : at + chance.randrange(1, 200)]
        else:
            found[at:at] = chance.choice(
                [b"\0", b"\xff", b"[" * 50, b"{", b'"', b"\\", b"\xef\xbb\xbf"]
            )
    return bytes(found)
