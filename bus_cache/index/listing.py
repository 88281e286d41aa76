"""The whole index, read for people: every image and host, page by page, whatever its size.

Nothing here is fast enough for nova-scheduler, which asks :mod:`bus_cache.index.reader` instead. A
listing is no snapshot: what changes while it is read may be in it or not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgpack
import redis

from bus_cache import connect, names
from bus_cache.index.changes import Source

PAGE = 500
"""Entries that one round trip asks for: a bound for memory and for Redis' time at a stretch."""

LAST_STAMP = 253_402_300_799_999
"""The last millisecond of the year 9999: a later stamp is none."""

T = TypeVar("T")


class ImageRow(NamedTuple):
    """An image; id and size are None where nobody has told them."""

    fingerprint: str
    image_id: str | None
    size: int | None
    hosts: int

    @property
    def name(self) -> str:
        """Return the image's id, or its fingerprint where the id is unknown."""
        return self.image_id or self.fingerprint


class HostRow(NamedTuple):
    """A host; ``newest`` is the stamp of the newest evidence that it gave.

    ``by_agent``: its agent decides what it holds, else Nova's notifications do. ``agent_heard``:
    when (stamp) its agent was last heard, if it ever had one.
    """

    host: str
    images: int
    newest: int | None
    by_agent: bool = False
    agent_heard: int | None = None


class HostState(NamedTuple):
    """More of a host.

    ``gap``: a part of its agent's words is missing. ``up``: its nova-compute works; None: unknown.
    ``servers``: how many use images there.
    """

    gap: bool
    up: bool | None
    servers: int


class Evidence(NamedTuple):
    """When (stamp in milliseconds) and by what it was told that a host holds an image."""

    stamp: int | None
    source: str | None


UNKNOWN = Evidence(None, None)
_AGENT = Source.AGENT.name.lower()


class Counts(NamedTuple):
    """How much is in the index: ``images`` are known, ``held`` of them are held by some host.

    Of ``hosts``, agents decide for ``by_agent``. ``silent`` agents said goodbye, or are thought
    dead; ``gaps``: of so many agents a part of what they said is missing. ``full``: limits that
    were reached, each with the statements that were left out.
    """

    schema: int | str | None
    images: int
    held: int
    hosts: int
    memberships: int
    newest: int | None
    by_agent: int
    silent: int
    gaps: int
    full: tuple[tuple[str, int], ...] = ()


class Reader(NamedTuple):
    """A consumer that reads its queue now: its name, the bus' identity, and its pool."""

    name: str
    bus: str
    pool: str


class Server(NamedTuple):
    """How a Redis is set up and does, as far as it tells.

    ``evicts``: by what policy it may evict keys; empty: never. ``journal``: it keeps an append-only
    file. ``unsaved``: its last attempt to save failed. ``clock``: its time in ms; None: not told.
    """

    evicts: str
    journal: bool
    unsaved: bool
    clock: int | None


class _Agent(NamedTuple):
    """What is known of a host's agent: whether it decides, the stamp of its newest word, and when
    it was last heard."""

    decides: bool
    stamp: int | None
    heard: Any


_NO_AGENT = _Agent(False, None, None)


class Listing:
    """Reads one keyspace.

    Every method may raise :class:`redis.RedisError`. A value that bus-cache can't have written does
    not stop a listing: what is known is listed, and ``complain`` gets one sentence about the rest.
    """

    def __init__(
        self, client: connect.Client, keyspace: str, complain: Callable[[str], None]
    ) -> None:
        """Take a client for Redis, the keyspace's name and who is told of broken values."""
        self._client: Any = (
            client  # redis-py types its commands for synchronous and asynchronous use at once
        )
        self._keys = names.Keys(keyspace)
        self._complain = complain

    # -- images ----------------------------------------------------------------------------

    def images(self) -> Iterator[ImageRow]:
        """Yield every image that is known, in no order."""
        for page in _pages(self._pairs("hscan_iter", self._keys.images), PAGE):
            known = [(raw.hex(), value) for raw, value in page if self._is_raw(raw)]
            counts = self._ask(("scard", self._keys.image(hexadecimal)) for hexadecimal, _ in known)
            for (hexadecimal, value), count in zip(known, counts, strict=True):
                yield self._image_row(hexadecimal, value, count)

    def image(self, fingerprint: str) -> ImageRow | None:
        """Return one image; None where nothing is known of it."""
        value, count, coming = self._ask(
            [
                ("hget", self._keys.images, bytes.fromhex(fingerprint)),
                ("scard", self._keys.image(fingerprint)),
                ("zcount", self._keys.coming(fingerprint), f"({_now()}", "+inf"),
            ]
        )
        if value is None and not count and not coming:
            return None
        return self._image_row(fingerprint, value, count)

    def holders(self, fingerprint: str) -> Iterator[tuple[str, Evidence]]:
        """Yield the hosts that hold an image, in no order, each with its evidence."""
        raw = bytes.fromhex(fingerprint)
        for page in _pages(self._members(self._keys.image(fingerprint)), PAGE):
            hosts = [self._host_name(member) for member in page]
            agents = self._agents(hosts)
            keys = [
                self._keys.agent(host) if agent.decides else self._keys.host(host)
                for host, agent in zip(hosts, agents, strict=True)
            ]
            values = self._ask(("hget", key, raw) for key in keys)
            for host, agent, value in zip(hosts, agents, values, strict=True):
                if not agent.decides:
                    yield host, self._evidence(value, host, fingerprint)
                elif value is not None and self._is_there(value, host, fingerprint):
                    yield host, Evidence(agent.stamp, _AGENT)
                else:
                    yield host, self._evidence(None, host, fingerprint)

    def coming(self, fingerprint: str) -> Iterator[tuple[str, int | None]]:
        """Yield the hosts to which an image is on its way, in no order, each with the stamp until
        which it counts as that, at the most."""
        now = _now()
        for member, score in self._pairs("zscan_iter", self._keys.coming(fingerprint)):
            if score > now:
                host = self._host_name(member)
                yield host, self._stamp(score, f"until when {fingerprint} is on its way to {host}")

    def is_deleted(self, fingerprint: str) -> bool:
        """Tell whether an image was deleted, and that is still remembered."""
        return bool(self._client.exists(self._keys.gone_image(fingerprint)))

    def members(self, fingerprint: str) -> Iterator[str]:
        """Yield the hosts that hold an image, in no order, and nothing else of them."""
        for member in self._members(self._keys.image(fingerprint)):
            yield self._host_name(member)

    # -- hosts -----------------------------------------------------------------------------

    def heard(self) -> dict[str, int | None]:
        """Return every host that is known with the stamp of its newest evidence, or of its agent's
        newest word, and nothing else of them."""
        newest: dict[str, int | None] = {}
        for member, score in self._pairs("zscan_iter", self._keys.hosts):
            host = self._host_name(member)
            newest[host] = self._stamp(score, f"the newest stamp of {host}")
        for member, value in self._pairs("hscan_iter", self._keys.agents):
            host = self._host_name(member)
            stamps = (newest.get(host), self._agent(value, host).stamp)
            newest[host] = max((each for each in stamps if each is not None), default=None)
        return newest

    def hosts(self) -> Iterator[HostRow]:
        """Yield every host that is known, in no order."""
        for page in _pages(self._pairs("zscan_iter", self._keys.hosts), PAGE):
            yield from self._host_rows([(self._host_name(host), score) for host, score in page])
        for agents in _pages(self._agents_alone(), PAGE):
            yield from self._host_rows([(self._host_name(host), None) for host, _ in agents])

    def host(self, host: str) -> HostRow | None:
        """Return one host; None where nothing is known of it."""
        (score,) = self._ask([("zscore", self._keys.hosts, host)])
        (row,) = self._host_rows([(host, score)])
        if score is None and not row.images and row.agent_heard is None:
            return None
        return row

    def state(self, host: str) -> HostState:
        """Return more of one host."""
        gap, service = self._ask(
            [
                ("zscore", self._keys.prefix + "gaps", host),
                ("hget", self._keys.services, host),
            ]
        )
        up = None
        if service is not None:
            fields = _unpacked(service, 2)
            if fields is None or type(fields[1]) is not bool:
                self._complain(f"whether nova-compute of {host} works can't be read")
            else:
                up = fields[1]
        return HostState(gap is not None, up, self._servers(host))

    def held(self, host: str) -> Iterator[tuple[ImageRow, Evidence]]:
        """Yield the images that a host holds, in no order, each with its evidence."""
        (agent,) = self._agents([host])
        key = self._keys.agent(host) if agent.decides else self._keys.host(host)
        for page in _pages(self._pairs("hscan_iter", key), PAGE):
            known = [
                (raw, row)
                for raw, row in page
                if self._is_raw(raw) and (not agent.decides or self._is_there(row, host, raw.hex()))
            ]
            values = self._ask(("hget", self._keys.images, raw) for raw, _ in known)
            counts = self._ask(("scard", self._keys.image(raw.hex())) for raw, _ in known)
            for (raw, row), value, count in zip(known, values, counts, strict=True):
                image = self._image_row(raw.hex(), value, count)
                if agent.decides:
                    yield image, Evidence(agent.stamp, _AGENT)
                else:
                    yield image, self._evidence(row, host, image.fingerprint)

    def deletion(self, host: str) -> int | None:
        """Return when (stamp) a host's compute service was deleted, while it is remembered."""
        (value,) = self._ask([("get", self._keys.gone_host(host))])
        return None if value is None else self._stamp(value, f"the stamp of {host}'s deletion")

    # -- the whole -------------------------------------------------------------------------

    def counts(self, tell: Callable[[ImageRow], None] | None = None) -> Counts:
        """Count what is in the index. It takes a round trip for each :data:`PAGE` images.

        :param tell: is told of each image on the way.
        """
        images = held = memberships = 0
        for row in self.images():
            if tell is not None:
                tell(row)
            images += 1
            held += row.hosts > 0
            memberships += row.hosts
        by_agent = 0
        stamps = []
        for host, value in self._pairs("hscan_iter", self._keys.agents):
            agent = self._agent(value, _printable(host))
            by_agent += agent.decides
            stamps.append(agent.stamp)
        alone = sum(1 for _ in self._agents_alone())
        full = sorted(
            (_printable(name)[:60], int(value))
            for name, value in self._pairs("hscan_iter", self._keys.prefix + "full")
            if value.isdigit() and len(value) < 20
        )
        schema, hosts, newest, silent, gaps = self._ask(
            [
                ("get", self._keys.schema),
                ("zcard", self._keys.hosts),
                ("zrange", self._keys.hosts, -1, -1, False, True),
                ("zcard", self._keys.prefix + "silent"),
                ("zcard", self._keys.prefix + "gaps"),
            ]
        )
        if newest:
            stamps.append(self._stamp(newest[0][1], "the newest stamp of all hosts"))
        return Counts(
            None if schema is None else _schema(schema),
            images,
            held,
            (hosts or 0) + alone,
            memberships,
            max((each for each in stamps if each is not None), default=None),
            by_agent,
            silent or 0,
            gaps or 0,
            tuple(full),
        )

    def readers(self) -> list[Reader]:
        """Return the consumers that read their queues now."""
        (members,) = self._ask([("zrangebyscore", self._keys.readers, f"({_now()}", "+inf")])
        found = []
        for member in members or ():
            row = _unpacked(member, 3)
            if row is None or not all(isinstance(each, str) for each in row[:3]):
                self._complain("which consumer reads its queue can't be read")
            else:
                found.append(Reader(*row[:3]))
        return found

    def condition(self) -> Server:
        """Return how the server that has our keys is set up."""
        server, memory, saving = (self._info(each) for each in ("server", "memory", "persistence"))
        clock = server.get("server_time_usec")
        evicts = str(memory.get("maxmemory_policy", "noeviction"))
        return Server(
            "" if evicts == "noeviction" or not memory.get("maxmemory") else evicts,
            bool(saving.get("aof_enabled")),
            "err" in (saving.get("rdb_last_bgsave_status"), saving.get("aof_last_write_status")),
            clock // 1000 if isinstance(clock, int) else None,
        )

    def _info(self, section: str) -> dict[str, Any]:
        options = {}
        if hasattr(self._client, "get_node_from_key"):  # a Cluster: ask the node that has our keys
            options["target_nodes"] = self._client.get_node_from_key(self._keys.schema)
        found: dict[str, Any] = self._client.info(section, **options)
        return found

    def server(self) -> str:
        """Return name and version of the server, such as ``Valkey 8.1.1``."""
        try:
            info = self._info("server")
        except redis.ResponseError as error:
            return f"unknown ({error})"
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"{str(info.get('server_name', 'redis')).capitalize()} {info.get('redis_version')}"

    # -- several keys together -------------------------------------------------------------

    def _agents(self, hosts: Sequence[str]) -> list[_Agent]:
        """Return what is known of hosts' agents, in one round trip."""
        values = self._ask(("hget", self._keys.agents, host) for host in hosts)
        return [self._agent(value, host) for host, value in zip(hosts, values, strict=True)]

    def _agents_alone(self) -> Iterator[tuple[bytes, Any]]:
        """Yield the records of agents whose hosts are not in ``hosts``: nothing is newer."""
        for page in _pages(self._pairs("hscan_iter", self._keys.agents), PAGE):
            scores = self._ask(("zscore", self._keys.hosts, host) for host, _ in page)
            for pair, score in zip(page, scores, strict=True):
                if score is None:
                    yield pair

    def _host_rows(self, page: Sequence[tuple[str, float | None]]) -> Iterator[HostRow]:
        """Yield a page of hosts, given with their scores in ``hosts``, in two round trips."""
        agents = self._agents([host for host, _ in page])
        answers = self._ask(
            ("hvals", self._keys.agent(host)) if agent.decides else ("hlen", self._keys.host(host))
            for (host, _), agent in zip(page, agents, strict=True)
        )
        for (host, score), agent, held in zip(page, agents, answers, strict=True):
            images = held or 0
            if agent.decides:
                images = sum(self._is_there(row, host, "an image") for row in held or ())
            stamps = (self._stamp(score, f"the newest stamp of {host}"), agent.stamp)
            newest = max((each for each in stamps if each is not None), default=None)
            heard = self._stamp(agent.heard, f"when the agent of {host} was last heard")
            yield HostRow(host, images, newest, agent.decides, heard)

    def _servers(self, host: str) -> int:
        """Count the servers that use an image on a host.

        A server's row is stamp and fingerprint of each image that it used, or empty where it left;
        the newest first.
        """
        count = 0
        for _, value in self._pairs("hscan_iter", self._keys.uses(host)):
            row = _unpacked(value, 2, raw=True)
            broken = row is None or len(row) % 2 or not _is_count(row[0])
            if row is None or broken or not isinstance(row[1], bytes):
                self._complain(f"what a server uses on {host} can't be read")
            else:
                count += bool(row[1])
        return count

    # -- what Redis answers ----------------------------------------------------------------

    def _ask(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one round trip; None answers those about a key of a foreign type."""
        asked = list(commands)
        if not asked:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for command, *arguments in asked:
            getattr(pipeline, command)(*arguments)
        return [
            self._answer(answer, command[1])
            for command, answer in zip(asked, pipeline.execute(raise_on_error=False), strict=True)
        ]

    def _answer(self, answer: Any, key: str) -> Any:
        if isinstance(answer, redis.ResponseError) and self._is_wrong_type(answer, key):
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _is_wrong_type(self, error: redis.ResponseError, key: str) -> bool:
        wrong = "WRONGTYPE" in str(error)
        if wrong:
            self._complain(f"the key {key} is of another type than bus-cache's")
        return wrong

    def _pairs(self, scan: str, key: str) -> Iterator[tuple[bytes, Any]]:
        """Yield a hash's or sorted set's entries, each once: a scan may repeat itself."""
        seen: set[bytes] = set()
        try:
            for name, value in getattr(self._client, scan)(key, count=PAGE):
                if name not in seen:
                    seen.add(name)
                    yield name, value
        except redis.ResponseError as error:
            if not self._is_wrong_type(error, key):
                raise
        except connect.GARBLED as error:
            raise redis.exceptions.InvalidResponse(connect.garbled(error)) from error

    def _members(self, key: str) -> Iterator[bytes]:
        seen: set[bytes] = set()
        try:
            for member in self._client.sscan_iter(key, count=PAGE):
                if member not in seen:
                    seen.add(member)
                    yield member
        except redis.ResponseError as error:
            if not self._is_wrong_type(error, key):
                raise
        except connect.GARBLED as error:
            raise redis.exceptions.InvalidResponse(connect.garbled(error)) from error

    # -- what the values mean --------------------------------------------------------------

    def _is_raw(self, raw: bytes) -> bool:
        fits = len(raw) == 20
        if not fits:
            self._complain(f"{_printable(raw[:80])!r} stands where an image's fingerprint should")
        return fits

    def _host_name(self, member: bytes) -> str:
        text = _printable(member)
        if not names.is_valid_name(text):
            self._complain(f"{text[:80]!r} stands where a host's name should")
        return text

    def _image_row(self, fingerprint: str, value: bytes | None, hosts: int | None) -> ImageRow:
        image_id, size = None, None
        if value is not None:
            fields = _unpacked(value, 3)
            if fields is None:
                self._complain(f"what is known of the image {fingerprint} can't be read")
            else:
                image_id, size = fields[:2]
                if image_id and not _is_id(image_id, fingerprint):
                    self._complain(f"the image {fingerprint} has an id that is not its own")
                    image_id = None
                if size is not False and not _is_count(size):
                    self._complain(f"the image {fingerprint} has a size that is none")
                    size = None
        return ImageRow(
            fingerprint,
            image_id or None,
            None if size is False else size,
            hosts or 0,
        )

    def _agent(self, value: bytes | None, host: str) -> _Agent:
        if value is None:
            return _NO_AGENT
        record = _unpacked(value, 8, raw=True)
        if record is None or type(record[5]) is not bool:
            self._complain(f"what is known of the agent of {host} can't be read")
            return _NO_AGENT
        stamp = self._stamp(record[4], f"the newest stamp of {host}'s agent")
        return _Agent(record[5], stamp, record[8] if len(record) > 8 else stamp)

    def _is_there(self, value: bytes, host: str, image: str) -> bool:
        """Tell whether a host's agent said that the image is there."""
        if not value:
            return True
        said = _unpacked(value, 4)
        if said is None or type(said[2]) is not bool:
            self._complain(f"what the agent of {host} said of {image} can't be read")
            return False
        return said[2]

    def _evidence(self, value: bytes | None, host: str, fingerprint: str) -> Evidence:
        about = f"that {host} holds the image {fingerprint}"
        if value is None:
            self._complain(f"there is no evidence {about}")
            return UNKNOWN
        fields = _unpacked(value, 2)
        if fields is None or not _is_count(fields[1]):
            self._complain(f"the evidence {about} can't be read")
            return UNKNOWN
        return Evidence(
            self._stamp(fields[0], f"the stamp of the evidence {about}"), _source(fields[1])
        )

    def _stamp(self, value: Any, what: str) -> int | None:
        if value is None:
            return None
        try:
            stamp = int(value)
        except (ValueError, TypeError, OverflowError):  # no number, nan, infinity
            stamp = -1
        if not 0 <= stamp <= LAST_STAMP:
            self._complain(f"{what} is no time")
            return None
        return stamp


def _pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page


def _now() -> int:
    return int(time.time() * 1000)


def _unpacked(value: bytes, length: int, *, raw: bool = False) -> list[Any] | None:
    """Return a msgpack list of at least this length; None where it is none.

    :param raw: its texts may be no UTF-8: leave them as bytes.
    """
    try:
        fields = msgpack.unpackb(value, raw=raw)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return fields if isinstance(fields, list) and len(fields) >= length else None


def _is_id(image_id: Any, fingerprint: str) -> bool:
    return names.is_valid_name(image_id) and names.fingerprint(image_id) == fingerprint


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _schema(value: bytes) -> int | str:
    """Return a schema's number; what is none, as it stands there."""
    text = _printable(value[:60])
    return int(text) if text.isdigit() and len(text) < 10 else text


def _source(number: int) -> str:
    """Return a source's name; of a later version's sources the number is all that is known."""
    try:
        return Source(number).name.lower()
    except ValueError:
        return f"source_{number}"


def _printable(value: bytes) -> str:
    """Return bytes as text that does a terminal no harm."""
    text = value.decode("ascii", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
