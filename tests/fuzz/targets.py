"""Each parser of what others wrote, as a function of bytes that fails where a promise is broken.

The promises: nothing but the documented exception leaves a parser, what it says is one bounded
line, and what it lets pass is valid. :data:`TARGETS` has them all; :func:`seeds` what to begin
with.
"""

from __future__ import annotations

import atexit
import bz2
import json
import logging
import os
import re
import shutil
import struct
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import amqp
import msgpack
from amqp import serialization

from bus_cache import connect, names, protocol
from bus_cache.agent import asked, excerpt, service
from bus_cache.agent.inventory import Unreadable
from bus_cache.agent.inventory.libvirt import Libvirt
from bus_cache.conf import ConfigurationError
from bus_cache.index import changes, listing, writer
from consumers import ageing, bus, consumer, events, evidence
from consumers import service as consumer_service
from consumers.bus import Delivery, Topology
from consumers.pacing import Limit
from consumers.transport import Transport
from tests.fuzz import messages

LINE = 600
"""Characters of a line that a hostile input may cost, at the most."""

_folder = Path(tempfile.mkdtemp(prefix="bus-cache-fuzz-"))
_owner = os.getpid()
atexit.register(lambda: os.getpid() == _owner and shutil.rmtree(_folder, ignore_errors=True))


def one_line(text: str, most: int = LINE) -> None:
    """Check a text for people: one line, bounded, and no harm to a terminal."""
    assert 0 < len(text) <= most, f"{len(text)} characters: {text[:80]!a} ..."
    assert text.isprintable(), f"not for a log: {text!a}"


def check_change(change: changes.Change, now: int) -> None:
    """Check that nothing but valid names and numbers is in a change, and that it can be sent."""
    for field, value in change._asdict().items():
        if field in ("host", "image_id"):
            assert names.is_valid_name(value), (field, value)
        elif field == "parts":
            assert all(map(names.is_valid_name, value)), (field, value)
        elif field in ("fingerprint", "fingerprints", "fetching"):
            assert all(map(names.is_fingerprint, [value] if isinstance(value, str) else value))
        elif field == "stamp":
            assert type(value) is int
            assert 0 <= value <= now + events.MOST_AHEAD + 1000
        elif field == "size":
            assert type(value) is int
            assert 0 <= value <= 2**53
        elif field == "instance":
            assert str(uuid.UUID(value)) == value
        elif field == "version":
            assert all(type(each) is int and 0 <= each < 2**53 for each in value)
        elif field in ("up", "leaving"):
            assert type(value) is bool
        else:
            assert isinstance(value, (changes.Source, changes.Said)), (field, value)
    for group in writer._groups([change]):
        first = group[0]
        if not isinstance(
            first, (changes.AgentSnapshot, changes.ImageDeleted, changes.HostDeleted)
        ):
            writer._pack([writer._row(first)])


# -- the bus -----------------------------------------------------------------------------------


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class _Reader:
    """The real consumer, of which nothing but what it does with a delivery is used."""

    def __init__(self) -> None:
        self.lines = _Lines()
        log = logging.getLogger("consumers")
        log.addHandler(self.lines)
        log.setLevel(logging.INFO)
        log.propagate = False
        self._consumer = consumer.Consumer(
            Transport(("memory://",), "memory://", {}),
            Topology(("notifications",), ("nova",), "bus_cache"),
            writer.Writer(_nobody, "bus_cache"),
            consumer.Rules(["ironic-*"]),
        )

    def __call__(self, delivery: Delivery) -> list[changes.Change]:
        """Hand in a delivery; return what would be written."""
        made = self._consumer
        made._forget()
        made.counts.clear()
        made._complaints = Limit(consumer.COMPLAINTS)
        self.lines.texts.clear()
        made._on_delivery(delivery)
        counts = made.counts
        assert counts["received"] == 1
        assert counts["irrelevant"] + counts["malformed"] + bool(made._changes) == 1
        assert len(self.lines.texts) == counts["malformed"], self.lines.texts
        for line in self.lines.texts:
            one_line(line)
            # an exception that no rule knows of is a fault of ours, though it stops nothing
            assert "in its rule" not in line, line
        now = int(time.time() * 1000)
        for change in made._changes:
            check_change(change, now)
        return list(made._changes)


def _nobody() -> connect.Client:
    raise AssertionError("nothing is written here")


_read: list[_Reader] = []


def _delivered(body: bytes, exchange: str, queue: str) -> list[changes.Change]:
    if not _read:
        _read.append(_Reader())
    said = _read[0](Delivery(body, exchange, queue))
    again = _read[0](Delivery(body, exchange, queue))
    assert [type(each) for each in said] == [type(each) for each in again]
    return said


def bus_message(data: bytes) -> None:
    """A notification, both layers, any format."""
    _delivered(data, "nova", "bus_cache")
    try:
        said = events.decode(data, int(time.time() * 1000))
    except events.Malformed as error:
        one_line(str(error), 300)
        return
    told = events.peek(data)
    if told is not None and data.count(b"event_type") == 1:
        assert told == said.event_type or not said.event_type.isascii()
    try:
        evidence.read(said)
    except events.Malformed as error:
        one_line(str(error), 300)


def agent_message(data: bytes) -> None:
    """What comes on the agents' queue."""
    assert not _delivered(data, "", protocol.QUEUE), "not by way of the agents' exchange"
    _delivered(data, protocol.EXCHANGE, protocol.QUEUE)
    try:
        said = events.decode(data, int(time.time() * 1000))
        protocol.read(said.event_type, said.publisher_id, said.stamp, said.data)
    except (events.Malformed, protocol.Refused) as error:
        one_line(str(error), 300)


def compressed(data: bytes) -> None:
    """A body that is said to be compressed: never more than the decoder takes."""
    for how in ("application/x-gzip", "application/x-bz2", "gzip", None, 7, [b""], {"a": []}):
        body = bus._decompress(data, how)
        assert isinstance(body, bytes)
        assert len(body) <= events.MOST_BYTES + 1
    bus_message(bus._decompress(data, "application/x-gzip"))


def properties(data: bytes) -> None:
    """The properties of a message, which any publisher writes: the headers among them."""
    got: list[Delivery] = []
    reasons: list[str] = []
    reader = bus.Bus(
        Transport(("memory://",), "memory://", {}),
        Topology(("notifications",), ("nova",), "bus_cache"),
        got.append,
        reasons.append,
    )
    reader._multiple = True
    message = amqp.Message(b"{}")
    message.delivery_info = {"exchange": "nova", "delivery_tag": 1}
    message._load_properties(bus._BASIC, data, 0)
    reader._deliver("bus_cache", message)
    reader._drop("bus_cache.dropped", message)
    assert len(got) == 1
    assert isinstance(got[0].body, bytes)
    for reason in reasons:
        one_line(reason, 40)


def agent_asked(data: bytes) -> None:
    """What an agent is asked by RPC, after oslo.messaging's own decoding."""
    told: list[tuple[int, float]] = []

    class Agent:
        def asked(self, after: int, spread: float) -> None:
            told.append((after, spread))

        def listening(self) -> None:
            pass

    try:
        arguments = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(arguments, dict) and not {"self", "context"} & set(arguments):
        asked.Endpoint(Agent()).snapshot({}, **arguments)
        asked.Endpoint(Agent()).listening({}, **arguments)
        ((after, spread),) = told
        assert isinstance(after, int)
        assert 0 <= after < 2**53
        assert 0 <= spread <= asked.MOST_SPREAD


# -- Redis -------------------------------------------------------------------------------------


def redis_values(data: bytes) -> None:
    """Values of the keyspace that somebody else wrote: what listings, writer and sweep make of
    them."""
    complaints: list[str] = []
    index = listing.Listing(None, "bus_cache", complaints.append)  # type: ignore[arg-type]
    image = index._image_row("0" * 40, data, 1)
    assert image.image_id is None or names.is_valid_name(image.image_id)
    assert image.size is None or (type(image.size) is int and image.size >= 0), image.size
    told = index._evidence(data, "h", "0" * 40)
    assert told.stamp is None or 0 <= told.stamp <= listing.LAST_STAMP
    agent = index._agent(data, "h")
    assert type(agent.decides) is bool
    assert agent.stamp is None or 0 <= agent.stamp <= listing.LAST_STAMP
    assert type(index._is_there(data, "h", "i")) is bool
    one_line(index._host_name(data) or "-", 4 * len(data) + 1)
    index._is_raw(data)
    assert len(str(listing._schema(data))) <= 240
    index._stamp(data, "a stamp")
    for line in complaints:
        one_line(line)
    numbers = writer._numbers(data)
    assert numbers is None or all(type(each) is int for each in numbers)
    writer._is_managed(data)
    use = ageing.use_of(data)
    policy = ageing.Policy.of(2400, True, 86400)
    found = ageing.outlook(
        policy,
        {b"\1" * 20: numbers} if numbers else {},
        {b"\2" * 16: data},
        service=None,
        newest=0,
        now=1_800_000_000_000,
    )
    assert all(type(stamp) is int for _, stamp in found.due)
    if use is not None:
        list(use.intervals())


# -- what an operator writes -------------------------------------------------------------------


def redis_url(data: bytes) -> None:
    """``redis_url``: a target, or one sentence that has no part of the URL in it."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        target = connect.parse(text)
    except ValueError as error:
        said = str(error)
        one_line(said)
        secret = text.partition("://")[2].partition("@")[0]
        assert len(secret) < 12 or "@" not in text or secret not in said
        return
    assert 0 <= target.database < 10**9
    assert target.kind == "unix" or target.nodes
    for host, port in target.nodes:
        assert host
        assert 0 < port < 65536
    password = target.password or ""
    shown = f"{target} {target!r}"
    visible = (target.path, target.service, target.username or "", *(h for h, _ in target.nodes))
    if len(password) > 8 and not any(password in each for each in visible):
        assert password not in shown
    if target.kind != "cluster":  # that one connects when it is made
        connect.connect(target, connect_timeout=1, read_timeout=1).close()


def _written(data: bytes, name: str = "fuzz.conf") -> str:
    path = _folder / name
    path.write_bytes(data)
    return str(path)


def _plain(text: str) -> str:
    # the file's own name may be told, and stands in a folder of any name
    return text.replace(str(_folder), "")


def configuration(data: bytes) -> None:
    """A consumer's configuration file: it loads, or there is one clear line."""
    try:
        conf = consumer_service.load(["--config-file", _written(data)])
    except ConfigurationError as error:
        one_line(_plain(str(error)), LINE)
        return
    names.Keys(conf.bus_cache.keyspace)
    connect.parse(conf.bus_cache.redis_url)
    consumer_service.rules(conf)
    consumer_service.times(conf)
    consumer_service.ageing_policy(conf)
    Topology.from_conf(conf)
    try:
        buses = consumer_service.transport.transports(conf)
    except ConfigurationError as error:
        one_line(_plain(str(error)), LINE)
        return
    assert buses


def agent_configuration(data: bytes) -> None:
    """A nova.conf, as the agent reads it, and the excerpt of it, which means the same."""
    try:
        conf = service.load(["--config-file", _written(data)])
    except ConfigurationError as error:
        one_line(_plain(str(error)), LINE)
        return
    try:
        text = excerpt.text(conf)
        if conf.agent.inventory or conf.agent.transport_url:
            return  # these stand in the agent's own file, not in the excerpt
    except ConfigurationError as error:
        one_line(_plain(str(error)), LINE)
        return
    again = service.load(["--config-file", _written(text.encode(), "excerpt.conf")])
    assert excerpt.text(again) == text
    assert (again.host, again.instances_path) == (conf.host, conf.instances_path)
    assert again.image_cache.subdirectory_name == conf.image_cache.subdirectory_name


# -- what lies on a disk -----------------------------------------------------------------------

_made: list[Libvirt] = []


def cache_folder(data: bytes) -> None:
    """Names of files in the folder of cached images: one per NUL; as many as fit."""
    folder = _folder / "instances" / "_base"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not _made:
        text = f"[DEFAULT]\ninstances_path = {folder.parent}\n"
        conf = service.load(["--config-file", _written(text.encode(), "nova.conf")])
        _made.append(Libvirt(conf))
    whole = set()
    for name in data.split(b"\0")[:50]:
        path = os.path.join(os.fsencode(folder), name.replace(b"/", b"%")[:255])
        try:
            if name.endswith(b"@"):  # a link to nowhere, or in a circle
                os.symlink(os.path.basename(path), path)
            else:
                with open(path, "wb") as file:
                    file.write(b"x" * 10)
                if re.fullmatch(b"[0-9a-f]{40}", name):
                    whole.add(name.decode())
        except OSError:  # no name at all
            pass
    try:
        found = _made[0].list()
    except Unreadable as error:
        one_line(_plain(str(error)))
        return
    assert {image.fingerprint for image in found.images} == whole
    assert all(map(names.is_fingerprint, found.fetching))
    said = protocol.snapshot("h", (7, 0), found.images, found.fetching)
    protocol.read(protocol.SNAPSHOT, protocol.publisher("h"), 0, json.loads(json.dumps(said)))


def name(data: bytes) -> None:
    """A name of a host, an image or a keyspace: a key of it is one of the keyspace's."""
    text = data.decode("utf-8", "surrogateescape")
    if names.is_valid_name(text):
        keys = names.Keys("k")
        for key in (keys.host(text), keys.agent(text), keys.uses(text), keys.gone_host(text)):
            assert key.startswith("{k}:")
            assert key.isascii()
            assert key.isprintable()
            assert len(key) <= 300
        assert names.is_fingerprint(names.fingerprint(text))
    try:
        prefix = names.Keys(text).prefix
    except ValueError as error:
        one_line(str(error))
    else:
        assert re.fullmatch(r"\{[A-Za-z0-9_.-]+\}:", prefix, re.ASCII)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        bus_message,
        agent_message,
        agent_asked,
        compressed,
        properties,
        redis_values,
        redis_url,
        configuration,
        agent_configuration,
        cache_folder,
        name,
    )
}


# -- what to begin with ------------------------------------------------------------------------


def _headers(headers: Mapping[str, Any]) -> bytes:
    message = amqp.Message(
        b"{}", application_headers=dict(headers), content_type="application/json"
    )
    return bytes(message._serialize_properties())


def _nested_headers(depth: int) -> bytes:
    """Return properties with a header that is a table in a table, and so on."""
    table = b""
    for _ in range(depth):
        table = b"\1aF" + struct.pack(">I", len(table)) + table
    table = b"\x14x-first-death-reasonF" + struct.pack(">I", len(table)) + table
    return struct.pack(">H", 1 << 13) + struct.pack(">I", len(table)) + table


def _rows() -> Iterable[bytes]:
    raw = b"\7" * 20
    for row in (
        ["an-image", 5, 20000],
        ["", False, 20000],
        [1_700_000_000_000, 1],
        [1_700_000_000_000, 4, False, 1_690_000_000_000],
        [7, 3, 7, 0, 1_700_000_000_000, True, "bus", [5, 6]],
        [7, 3, True, 1_700_000_000_000],
        [1_700_000_000_000, raw, 1_690_000_000_000, b""],
        [1_700_000_000_000, True],
        ["a", [], 3],
        ["a", "", 3],
        [2**64 - 1, -(2**63), False, 2**64 - 1],
        [float("nan"), 1],
        [float("inf"), 1],
    ):
        yield msgpack.packb(row, use_bin_type=False)
    yield b"2"
    yield b"\xdd\xff\xff\xff\xff"
    yield b"\xdb\xff\xff\xff\xff"
    yield b"\x91" * 2000
    yield b"\x93\x81\x90\x00\x00\x00"  # a map whose key is a list


_SEEDS: Mapping[str, Callable[[], Iterable[bytes]]] = {
    "bus_message": lambda: [*messages.bodies(), *messages.deep()],
    "agent_message": lambda: [*messages.agents(), *messages.deep()],
    "agent_asked": lambda: [
        b'{"after": 7, "spread": 0.5}',
        b'{"after": -1, "spread": "x", "a": 1}',
    ],
    "compressed": lambda: [
        zlib.compress(messages.bodies()[0]),
        bz2.compress(messages.bodies()[0]),
        zlib.compress(b" " * 2**21),
    ],
    "properties": lambda: [
        _headers({"compression": "application/x-gzip"}),
        _headers({"x-first-death-reason": "maxlen"}),
        _headers({"x-first-death-reason": "a\nb", "compression": {"a": [1, "b"]}}),
        _headers({"x-first-death-reason": ""}),
        _nested_headers(3),
        _nested_headers(400),
        serialization.dumps("S", ["x"]),
    ],
    "redis_values": _rows,
    "redis_url": lambda: [
        b"redis://user:secretpassword@127.0.0.1:6379/0",
        b"rediss://[::1]:6379",
        b"unix:///run/redis.sock?db=1",
        b"redis+sentinel://:secretpassword@a:26379,b/mymaster/0",
        b"rediss+cluster://a,b:1,[::1]:2",
    ],
    "configuration": lambda: [
        (
            b"[DEFAULT]\ntransport_url = rabbit://u:p@h:5672/v\n[bus_cache]\n"
            b"redis_url = redis://:p@h:1/0\nkeyspace = a\n[consumer]\npool = q\nprefetch = 7\n"
            b"topics = a,b\nqueue_expires = 60\n[image_cache]\nmanager_interval = 60\n"
        ),
        b"[consumer]\ntransport_url = memory://\ngap_grace = nan\n",
        b"[DEFAULT]\ntransport_url = $x\n",
        b"[bus_cache]\nkeyspace = a\n  b\n",
        b"[bus_cache]\nkeyspace = %(x)s\n",
    ],
    "agent_configuration": lambda: [
        (
            b"[DEFAULT]\nhost = h\nstate_path = /s\ncompute_driver = libvirt.LibvirtDriver\n"
            b"transport_url = rabbit://u:p$$x@h:5672/\ninstances_path = $state_path/i\n"
            b"[oslo_messaging_rabbit]\nssl = true\n[image_cache]\nsubdirectory_name = _base\n"
        ),
        b"[DEFAULT]\nmy_ip = 192.0.2.1\nhost = $my_ip\n[libvirt]\nimages_type = rbd\n",
    ],
    "cache_folder": lambda: [
        b"\0".join(
            [b"0" * 40, b"1" * 40 + b".part", b"2" * 40 + b"_sm", b"swap_64", b"3" * 40 + b"@"]
        ),
        b"\xff\xfe\0" + b"a" * 40 + b"\n\0" + b"A" * 40,
    ],
    "name": lambda: [b"host-1.example.org", b"a{b}c:*", b"x" * 255, b"bus_cache"],
}


def seeds(target: str) -> list[bytes]:
    """Return inputs of a target that are right, or wrong in a way that is known."""
    return list(_SEEDS[target]())
