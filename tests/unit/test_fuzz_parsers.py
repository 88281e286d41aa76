"""What parses what others wrote takes anything. ``make fuzz`` goes on, led by coverage."""

from __future__ import annotations

import json
import logging
import random
import time
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus_cache import names, protocol
from bus_cache.index.writer import Writer
from consumers import bus, consumer, events
from consumers.bus import Delivery, Topology
from consumers.transport import Transport
from tests.fuzz import messages, targets

MIB = 2**20

EXAMPLES = {
    "bus_message": 1500,
    "agent_message": 1000,
    "configuration": 300,
    "agent_configuration": 150,
}
OTHERS = 600

NOISE = st.integers(0, 2**32).map(random.Random)

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.sampled_from(messages.HOSTILE),
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["event_type", "publisher_id", "payload", "timestamp", "version", "host"]
            )
            | st.text(max_size=5),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


def inputs(target: str) -> st.SearchStrategy[bytes]:
    """Return what a target is fed with: right, nearly right, and anything."""
    begin = st.sampled_from(targets.seeds(target))
    found = [begin, st.builds(messages.noise, begin, NOISE), st.binary(max_size=300)]
    if target in ("bus_message", "agent_message", "agent_asked"):
        found.append(JSON.map(messages.enveloped if target != "agent_asked" else _dumped))
        found += [st.builds(messages.hostile, begin, NOISE)] * 4
    elif target not in ("properties", "compressed", "redis_values"):
        found.append(st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
    return st.one_of(found)


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("target", targets.TARGETS)
def test_a_parser_takes_anything(target: str) -> None:
    @settings(
        max_examples=EXAMPLES.get(target, OTHERS),
        deadline=None,  # a busy machine holds anybody up; what costs time is below
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(inputs(target))
    def run(data: bytes) -> None:
        targets.TARGETS[target](data)

    run()


def test_the_seeds_are_understood() -> None:
    """Else the search would begin, and stay, at what is refused at once."""
    read = [targets._delivered(body, "nova", "bus_cache") for body in messages.bodies()]
    assert sum(map(bool, read)) >= 20
    agents = [
        targets._delivered(body, protocol.EXCHANGE, protocol.QUEUE) for body in messages.agents()
    ]
    assert all(agents)


# -- bounds ------------------------------------------------------------------------------------


def _payload(event: str, publisher: str, payload: str) -> str:
    return (
        f'{{"message_id": "m", "publisher_id": "{publisher}", "event_type": "{event}", '
        f'"payload": {payload}, "timestamp": "{messages.STAMP}"}}'
    )


def _filled(unit: str) -> bytes:
    """Return a body as large as may be, of a list of the same things, plain."""
    room = events.MOST_BYTES - 400
    many = ",".join([unit] * (room // (len(unit) + 1)))
    return _payload("instance.create.end", "nova-compute:h", f'{{"a": [{many}]}}').encode()


def _cached(count: int) -> bytes:
    images = json.dumps({"host": "h", "images_cached": [f"{i:x}" for i in range(count)]})
    return _payload("aggregate.cache_images.progress", "nova-conductor:c", images).encode()


def _snapshot(count: int = protocol.MOST_IMAGES) -> bytes:
    rows = [[names.fingerprint(str(number)), 1, 1] for number in range(count)]
    said = {**protocol.snapshot("h", (7, 0), []), "images": rows}
    return _payload(protocol.SNAPSHOT, protocol.publisher("h"), json.dumps(said)).encode()


LARGE = {
    "empty lists": lambda: _filled("[]"),
    "objects": lambda: _filled('{"a":0}'),
    "digits": lambda: _filled("1" * 4000),
    "more digits than are read": lambda: _filled("1" * 100_000),
    "escapes": lambda: _filled('"' + "\\u00e9" * 1000 + '"'),
    "lone surrogates": lambda: _filled('"' + "\\ud800" * 1000 + '"'),
    "depth": lambda: b"[" * events.MOST_BYTES,
    "depth in an envelope": lambda: messages.enveloped("[" * (events.MOST_BYTES - 100)),
    "quotes": lambda: b'{"' * (events.MOST_BYTES // 2),
    "backslashes": lambda: b'{"event_type": "' + b"\\" * (events.MOST_BYTES - 100),
    "keys": ("{" + ",".join(f'"{i}":0' for i in range(90_000)) + "}").encode,
    "a long version": lambda: json.dumps(
        {"oslo.version": "\0" * 150_000, "oslo.message": ""}
    ).encode(),
    "cached images": lambda: _cached(25_000),
    "a snapshot": _snapshot,
    "too large": lambda: b"{}" + b" " * 20 * MIB,
    "too many bytes when unpacked": lambda: bus._decompress(
        zlib.compress(b" " * 200 * MIB, 9), "application/x-gzip"
    ),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_message_costs_bounded_time_and_memory(kind: str) -> None:
    body = LARGE[kind]()
    queue, exchange = "bus_cache", "nova"
    if kind == "a snapshot":
        queue, exchange = protocol.QUEUE, protocol.EXCHANGE
    reader = _reader()
    began = time.process_time()
    reader._on_delivery(Delivery(body, exchange, queue))
    assert time.process_time() - began < 2.0
    reader = _reader()
    tracemalloc.start()
    try:
        reader._on_delivery(Delivery(body, exchange, queue))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB
    assert len(reader._changes) <= 25_000


@pytest.mark.parametrize("more", [0, 1])
def test_what_one_message_may_tell_is_bounded(more: int) -> None:
    said = targets._delivered(_cached(25_000 + more), "nova", "bus_cache")
    assert len(said) == (0 if more else 25_000)
    snapshot = _snapshot(protocol.MOST_IMAGES + more)
    assert len(targets._delivered(snapshot, protocol.EXCHANGE, protocol.QUEUE)) == 1 - more


def _reader() -> consumer.Consumer:
    return consumer.Consumer(
        Transport(("memory://",), "memory://", {}),
        Topology(("notifications",), ("nova",), "bus_cache"),
        Writer(targets._nobody, "bus_cache"),
        consumer.Rules(),
    )


def test_many_bad_messages_cost_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 600.0)  # all in one minute
    lines = targets._Lines()
    log = logging.getLogger("consumers.consumer")
    log.addHandler(lines)
    try:
        reader = _reader()
        for number in range(2000):
            body = b"no JSON %d" % number
            reader._on_delivery(Delivery(body, "nova", "bus_cache"))
        assert reader.counts["malformed"] == 2000
        assert len(lines.texts) == consumer.COMPLAINTS
        monkeypatch.setattr(time, "monotonic", lambda: 660.0)
        reader._on_delivery(Delivery(b"", "nova", "bus_cache"))
        assert f"{2000 - consumer.COMPLAINTS} more" in lines.texts[-1]
    finally:
        log.removeHandler(lines)
