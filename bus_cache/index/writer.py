"""Changes of the index: each kind is one atomic Lua script, applied in batches.

The outcome does not depend on order or repetition: of evidence the newest stamp stays, an image's
deletion is final (its id is never used again), a host's deletion beats what is stamped before it.
Deletions are remembered for :data:`REMEMBER` seconds, longer than a message can be late.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgpack

from bus_cache import connect, names
from bus_cache.index.changes import Change, Held, HostDeleted, ImageDeleted, ImageSize

REMEMBER = 7 * 24 * 3600
"""Seconds for which a deletion is remembered. Our queue expires before, so no later message is
left."""

SCRIPTS = ("probe", "hold", "size", "delete_image", "delete_host", "forget_images")

BATCH = 200
"""Statements in one script call: about a millisecond of Redis' time."""

HOSTS_PER_CALL = 1000
"""Hosts that one script call takes out of a deleted image's set."""

_FOR_GOOD = re.compile(r"WRONGTYPE|user_script:\d+: (attempt|bad argument|Bad data)")
"""What Redis says where a statement can't be applied now or later. All else passes, by itself or
by an operator's hand: no memory, a replica, no rights, a failover."""

T = TypeVar("T")


class SchemaError(Exception):
    """The keyspace was written by another version of bus-cache, whose keys this one does not
    know.
    """


class Unavailable(Exception):
    """Redis is away or refuses to write for now; the text says why. Nothing is lost by trying
    again."""


class Writer:
    """Writes statements into one keyspace."""

    def __init__(
        self, client: connect.Client | Callable[[], connect.Client], keyspace: str
    ) -> None:
        """Take a client for Redis, or what makes one, and the keyspace's name; nothing is sent yet.

        A Cluster's client connects when it is made. So where Redis may be away, give a function:
        it is called at the first need.
        """
        self._make = client if callable(client) else None
        self._made = None if callable(client) else client
        self._keys = names.Keys(keyspace)
        self._keyspace = keyspace
        folder = importlib.resources.files(__package__) / "lua"
        prelude = (folder / "prelude.lua").read_text()
        self._texts = {name: prelude + (folder / f"{name}.lua").read_text() for name in SCRIPTS}
        self._scripts: dict[str, Any] = {}

    @property
    def _client(self) -> connect.Client:
        if self._made is None:
            assert self._make is not None
            self._made = self._make()
        return self._made

    def check(self) -> None:
        """Ask whether the keyspace is ours to read and write; nothing is written.

        :raises SchemaError: its schema is not ours.
        :raises Unavailable: Redis is away or refuses.
        """
        try:
            with self._unavailable():
                found = self._client.get(self._keys.schema)
        except Unavailable as error:
            if "WRONGTYPE" in str(error):
                raise self._other_schema(str(error)) from error
            raise
        if found is not None and found != str(names.SCHEMA).encode():
            raise self._other_schema(found)

    def probe(self) -> None:
        """Write something harmless: a server may answer reads and refuse writes.

        :raises SchemaError: the keyspace's schema is not ours.
        :raises Unavailable: Redis is away or refuses to write for now.
        """
        with self._unavailable():
            self._run("probe")

    def apply(self, changes: Iterable[Change]) -> list[tuple[Sequence[Change], str]]:
        """Put statements into the index.

        :returns: what Redis refuses for good with its reason, such as statements about a key that
            holds something that is not ours; all else is in the index.
        :raises Unavailable: Redis is away or refuses to write for now; an unknown part of the
            statements may be in the index, so apply all of them again.
        :raises SchemaError: the keyspace's schema is not ours.
        """
        refused: list[tuple[Sequence[Change], str]] = []
        for group in _groups(changes):
            self._apply_group(group, refused)
        return refused

    def _apply_group(
        self, group: Sequence[Change], refused: list[tuple[Sequence[Change], str]]
    ) -> None:
        """Apply statements of one kind; halve a refused group until what is wrong stands alone."""
        try:
            with self._unavailable():
                self._call(group)
        except Unavailable as error:
            if not _FOR_GOOD.search(str(error)):
                raise
            if len(group) == 1:
                refused.append((group, str(error)))
                return
            middle = len(group) // 2
            self._apply_group(group[:middle], refused)
            self._apply_group(group[middle:], refused)

    def _call(self, group: Sequence[Change]) -> None:
        first = group[0]
        if isinstance(first, Held):
            rows: list[Any] = [
                (c.host, c.image_id, *_fingerprints(c.image_id), c.stamp, int(c.source))
                for c in group
                if isinstance(c, Held)
            ]
            self._run("hold", _pack(rows))
        elif isinstance(first, ImageSize):
            rows = [
                (c.image_id, *_fingerprints(c.image_id), c.size, c.stamp)
                for c in group
                if isinstance(c, ImageSize)
            ]
            self._run("size", _pack(rows))
        elif isinstance(first, ImageDeleted):
            hexadecimal, raw = _fingerprints(first.image_id)
            while self._run("delete_image", hexadecimal, raw, REMEMBER, HOSTS_PER_CALL):
                pass
        else:
            self._pages("delete_host", first.host, first.stamp, REMEMBER)

    def forget_images(self, before: int) -> None:
        """Forget id and size of images that no host holds and of which nothing was heard since.

        :param before: stamp in milliseconds.
        :raises Unavailable: Redis is away or refuses to write for now.
        """
        with self._unavailable():
            self._pages("forget_images", before // 86_400_000)

    def eviction(self) -> str:
        """Return by what policy Redis may evict keys, which makes the index wrong; empty: never.

        :raises Unavailable: Redis is away, or may not be asked.
        """
        with self._unavailable():
            memory = self._client.info("memory")
        # a Cluster answers by node
        nodes = [node for node in memory.values() if isinstance(node, dict)] or [memory]
        policies = {
            str(node["maxmemory_policy"])
            for node in nodes
            if node.get("maxmemory") and node.get("maxmemory_policy") != "noeviction"
        }
        return ", ".join(sorted(policies))

    def hosts(self) -> Iterator[str]:
        """Yield the hosts that the index knows; :class:`Unavailable` where Redis is away."""
        with self._unavailable():
            for member, _ in self._client.zscan_iter(self._keys.hosts, count=1000):
                yield member.decode(errors="replace")

    @contextlib.contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Turn whatever a client raises into :class:`Unavailable`, or :class:`SchemaError`."""
        try:
            yield
        except connect.AWAY as error:
            reason = connect.explain(error)
            if reason.startswith("SCHEMA "):  # by the scripts' prelude; this tells which one
                self.check()
            raise Unavailable(reason) from error

    def _run(self, name: str, *arguments: Any) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self._client.register_script(self._texts[name])
        return self._scripts[name](keys=[self._keys.schema], args=[names.SCHEMA, *arguments])

    def _pages(self, name: str, *arguments: Any) -> None:
        """Call a script that takes a cursor and returns the next one, until all pages are done."""
        cursor = 0
        while cursor := int(self._run(name, *arguments, cursor)):
            pass

    def _other_schema(self, found: bytes | str) -> SchemaError:
        text = found.decode(errors="backslashreplace") if isinstance(found, bytes) else found
        return SchemaError(
            f"the keyspace {self._keyspace!r} has schema {text[:60]!a}, and this version of "
            f"bus-cache knows schema {names.SCHEMA} only: use the version that wrote it, or "
            "another [bus_cache] keyspace"
        )


def _pack(rows: list[Any]) -> bytes:
    """Pack rows for Redis' cmsgpack, which knows strings only, not msgpack's later binary type."""
    packed: bytes = msgpack.packb(rows, use_bin_type=False)
    return packed


def _fingerprints(image_id: str) -> tuple[str, bytes]:
    hexadecimal = names.fingerprint(image_id)
    return hexadecimal, bytes.fromhex(hexadecimal)


def _groups(changes: Iterable[Change]) -> Iterator[Sequence[Change]]:
    """Yield statements of one kind that one script call can take; what is said twice, once.

    Sorting by kind is allowed since order does not matter. Two formats of one notification say the
    same within milliseconds: only the newest of what is said about one host and image goes on.
    """
    newest: dict[tuple[object, ...], Change] = {}
    for change in changes:
        key = (type(change), *change[:2]) if isinstance(change, Held) else (type(change), change[0])
        newest[key] = _newer(newest[key], change) if key in newest else change
    for kind, size in ((Held, BATCH), (ImageSize, BATCH), (ImageDeleted, 1), (HostDeleted, 1)):
        yield from _chunks([c for c in newest.values() if isinstance(c, kind)], size)


def _newer(one: Change, other: Change) -> Change:
    """Return what two statements about the same say together, as the scripts would have it."""
    if isinstance(one, ImageSize) and isinstance(other, ImageSize):
        return ImageSize(one.image_id, max(one.size, other.size), max(one.stamp, other.stamp))
    return max(one, other)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
