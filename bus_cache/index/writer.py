"""Changes of the index: each kind is one atomic Lua script, applied in batches.

The outcome does not depend on order or repetition: of evidence the newest stamp stays, an image's
deletion is final (its id is never used again), a host's deletion beats what is stamped before it.
Deletions are remembered for :data:`REMEMBER` seconds, longer than a message can be late.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgpack
import redis.exceptions

from bus_cache import connect, names
from bus_cache.conf.text import one_line
from bus_cache.index.changes import (
    AgentSnapshot,
    AgentStatement,
    Change,
    FetchFailed,
    Fetching,
    Held,
    HostDeleted,
    ImageDeleted,
    ImageSize,
    InUse,
    NotInUse,
    ServiceState,
    Source,
)
from bus_cache.measure import LATENCY, Histogram

REMEMBER = 7 * 24 * 3600
"""Seconds for which a deletion is remembered. Our queue expires before, so no later message is
left."""

FETCH_MOST = 3600
"""Seconds for which an image counts as on its way, at the most: who fetches it may have died."""

LATE = 3600
"""Seconds after which evidence that comes is late: the consumer was away, or a clock is wrong. It
ages from its arrival, since what ended its use may be late, too."""

MOST_USES = 16
"""Things that the index remembers of one server on one host: that it used an image, or left."""

SCRIPTS = (
    "probe",
    "hold",
    "size",
    "fetch",
    "uses",
    "services",
    "delete_image",
    "delete_host",
    "forget_images",
    "ageing",
    "age",
    "unwant",
)
AGENT_SCRIPTS = ("snapshot", "statements", "fall_back", "attend")

BATCH = 100
"""Statements in one script call: some 2 ms of Redis' time."""

HOSTS_PER_CALL = 1000
"""Hosts that one script call takes out of a deleted image's set."""

_PASSES = re.compile(
    r"\b(OOM|READONLY|MISCONF|NOREPLICAS|NOPERM|NOAUTH|LOADING|BUSY|UNKILLABLE|EXECABORT"
    r"|CLUSTERDOWN|MASTERDOWN|TRYAGAIN)\b|maxmemory|read only replica|good replicas|ACL failure"
    r"|can't (run|access)|SCRIPT KILL|nown (Redis )?command|Script attempted to "
)
"""What Redis says in the middle of a script where all passes, by itself or by an operator's hand:
no memory, a replica, no rights, a failover, a Cluster that moves our slot or is down. 6.2 has its
codes in the middle of the text."""

T = TypeVar("T")


class SchemaError(Exception):
    """The keyspace was written by another version of bus-cache, whose keys this one does not
    know.
    """


class Unavailable(Exception):
    """Redis is away or refuses to write for now; the text says why. Nothing is lost by trying
    again."""


class Attention(NamedTuple):
    """What is to be done about agents now, by the consumer that asked, and no other one.

    ``listening``: ``new`` where the index knows nothing of the bus, ``again`` where agents are to
    be told that somebody reads, else empty. ``ask``: hosts whose agent is to be asked for a
    snapshot, each with the newest epoch that is known. ``silent``: hosts whose agent seems dead.
    ``vanished``: hosts whose agent is long silent and whose compute service was deleted, each with
    a stamp after all that is known of them.
    """

    listening: str
    ask: list[tuple[str, int]]
    silent: list[str]
    vanished: list[tuple[str, int]]


class Usage(NamedTuple):
    """What is known of a host that no agent reports: see :class:`bus_cache.names.Keys`.

    ``evidence``: stamp and source, and, where the source does not touch a file that is there, the
    stamp of the newest evidence that does, if there is any.
    """

    managed: bool
    evidence: dict[bytes, tuple[int, ...]]
    uses: dict[bytes, bytes]
    service: tuple[int, bool] | None
    newest: int


class Writer:
    """Writes statements into one keyspace.

    :ivar on_fetching: is told, of an image that is on its way to a host now, whether the host was
        known to hold it before, and the image's size in bytes, where that is known.
    :ivar calls: seconds that Redis took for each script call.
    :ivar failures: how often Redis was away or refused to write for now.
    """

    def __init__(
        self,
        client: connect.Client | Callable[[], connect.Client],
        keyspace: str,
        *,
        bus: str = "",
        on_switch: Callable[[str, bool], None] | None = None,
    ) -> None:
        """Take a client for Redis, or what makes one, and the keyspace's name; nothing is sent yet.

        A Cluster's client connects when it is made. So where Redis may be away, give a function:
        it is called at the first need.

        :param bus: names the bus from which agents' statements come.
        :param on_switch: is told of a host whose agent now decides what it holds, or, False, no
            longer does.
        """
        self._make = client if callable(client) else None
        self._made = None if callable(client) else client
        self._keys = names.Keys(keyspace)
        self._keyspace = keyspace
        self._bus = bus
        self._on_switch = on_switch or (lambda host, managed: None)
        self.on_fetching: Callable[[Fetching, bool, int | None], None] = lambda *_: None
        self.calls = Histogram(LATENCY)
        self.failures = 0
        folder = importlib.resources.files(__package__) / "lua"
        prelude = (folder / "prelude.lua").read_text()
        agents = prelude + (folder / "agent.lua").read_text()
        self._texts = {name: prelude + (folder / f"{name}.lua").read_text() for name in SCRIPTS}
        for name in AGENT_SCRIPTS:
            self._texts[name] = agents + (folder / f"{name}.lua").read_text()
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
        known = [str(each).encode() for each in (names.SCHEMA, *names.OLDER_SCHEMAS)]
        if found is not None and found not in known:
            raise self._other_schema(found if isinstance(found, bytes) else repr(found))

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
        """Apply statements of one kind; halve a refused group until what is wrong stands alone.

        What can't be applied must not stop all that comes after it, nor may a Redis in some unknown
        trouble have us give up what it would take later: a statement is given up where it fails, a
        harmless one does not, and then it fails again.
        """
        reason = self._try(group)
        if not reason:
            return
        if len(group) > 1:
            middle = len(group) // 2
            self._apply_group(group[:middle], refused)
            self._apply_group(group[middle:], refused)
            return
        if "WRONGTYPE" not in reason:  # that one is known
            self.probe()
            reason = self._try(group)
        if reason:
            refused.append((group, reason))

    def _try(self, group: Sequence[Change]) -> str:
        """Apply statements of one kind; return why that is refused, empty: it is not."""
        try:
            with self._unavailable():
                self._call(group)
        except Unavailable as error:
            if not _is_refusal(error.__cause__):
                raise
            return str(error)
        except OverflowError as error:  # it can't even be sent
            return one_line(error)
        return ""

    def _call(self, group: Sequence[Change]) -> None:
        """Apply statements of one kind by one call, or for the large ones by as few as need be."""
        first = group[0]
        if isinstance(first, ImageDeleted):
            hexadecimal, raw = _fingerprints(first.image_id)
            self._pages("delete_image", hexadecimal, raw, REMEMBER, HOSTS_PER_CALL)
        elif isinstance(first, HostDeleted):
            self._pages("delete_host", first.host, first.stamp, REMEMBER)
        elif isinstance(first, AgentSnapshot):
            self._snapshot(first)
        elif isinstance(first, AgentStatement):
            now = _now()
            about = [self._bus, now, int(Source.AGENT), now + FETCH_MOST * 1000]
            self._run("statements", _pack([_row(each) for each in group]), _pack(about))
        elif isinstance(first, Held):
            now = _now()
            self._run("hold", _pack([_row(each) for each in group]), now, now - LATE * 1000)
        elif isinstance(first, (Fetching, FetchFailed)):
            self._fetch(group)
        elif isinstance(first, (InUse, NotInUse)):
            self._run("uses", _pack([_row(each) for each in group]), MOST_USES)
        else:
            self._run(_SCRIPT_OF[type(first)], _pack([_row(each) for each in group]))

    def _fetch(self, group: Sequence[Change]) -> None:
        answer = self._run("fetch", _pack([_row(each) for each in group]))
        for each, held, size in zip(group, answer[::2], answer[1::2], strict=True):
            if isinstance(each, Fetching):
                self.on_fetching(each, held == 1, size if size >= 0 else None)

    def _snapshot(self, said: AgentSnapshot) -> None:
        now = _now()
        about = [
            said.host,
            *said.version,
            said.stamp,
            said.leaving,
            self._bus,
            now,
            int(Source.AGENT),
            now + FETCH_MOST * 1000,
        ]
        images = "".join(said.fingerprints)
        switched = self._run(
            "snapshot", _pack(about), images, bytes.fromhex(images), "".join(said.fetching)
        )
        if switched:
            self._on_switch(said.host, switched == b"managed")

    # -- agents ----------------------------------------------------------------------------

    def attend(
        self,
        *,
        gap_grace: float,
        ask_again: float,
        silent: float | None,
        tell: float,
        lost: float | None,
        most: int = 100,
    ) -> Attention:
        """Return what is to be done about agents now; it is claimed by this.

        :param gap_grace: seconds for which a gap may be open before the agent is asked.
        :param ask_again: seconds until it is asked again.
        :param silent: seconds without a word after which an agent of this bus counts as dead, and
            of another bus after four times as long; None: do not look.
        :param tell: seconds after which agents are told again that somebody reads.
        :param lost: seconds of silence after which a host without compute service has vanished;
            None: do not look.
        :param most: hosts of each kind.
        :raises Unavailable: Redis is away or refuses to write for now.
        """
        now = _now()

        def ago(seconds: float | None) -> int:
            return 0 if seconds is None else now - int(seconds * 1000)

        limits = [
            self._bus,
            now,
            ago(gap_grace),
            now + int((ask_again - gap_grace) * 1000),
            ago(silent),
            ago(None if silent is None else 4 * silent),
            ago(tell),
            ago(lost),
        ]
        with self._unavailable():
            answer = self._run("attend", _pack(limits), most)
            # a host's name that somebody else wrote may be anything
            listening, ask, dead, vanished = msgpack.unpackb(answer, unicode_errors="replace")
            return Attention(
                listening,
                list(zip(ask[::2], ask[1::2], strict=True)),
                list(dead),
                list(zip(vanished[::2], vanished[1::2], strict=True)),
            )

    def fall_back(self, host: str, silent: float) -> bool:
        """Let a host be inferred whose agent said nothing for so many seconds; False: it did.

        What the agent held goes on as evidence.

        :raises Unavailable: Redis is away or refuses to write for now.
        """
        with self._unavailable():
            before = _now() - int(silent * 1000)
            return bool(self._run("fall_back", host, before, int(Source.AGENT)))

    def agent_managed(self) -> set[str]:
        """Return the hosts whose agent decides what they hold; :class:`Unavailable`."""
        with self._unavailable():
            return {
                host.decode(errors="replace")
                for host, row in self._client.hscan_iter(self._keys.agents, count=1000)
                if _is_managed(row)
            }

    # -- ageing ----------------------------------------------------------------------------

    def ageing(self, before: int, hold: int, most: int = 100) -> list[str]:
        """Return hosts where something may have aged out; others leave them for a while.

        :param before: stamp in ms: only hosts where something is at least so old.
        :param hold: stamp in ms, by which they come again where :meth:`age` is not called.
        :raises Unavailable: Redis is away or refuses to write for now.
        """
        with self._unavailable():
            hosts = self._run("ageing", before, hold, most, _now())
            return [host.decode(errors="replace") for host in hosts]

    def usage(self, host: str) -> Usage:
        """Return the evidence about a host and what its servers use; :class:`Unavailable`."""
        keys = self._keys
        with self._unavailable():
            pipeline: Any = self._client.pipeline(transaction=False)
            pipeline.hgetall(keys.host(host))
            pipeline.hgetall(keys.uses(host))
            pipeline.hget(keys.services, host)
            pipeline.zscore(keys.hosts, host)
            pipeline.hget(keys.agents, host)
            evidence, uses, service, newest, agent = pipeline.execute()
        rows = {raw: _numbers(value) for raw, value in evidence.items() if len(raw) == 20}
        state = _list(service)
        return Usage(
            agent is not None and _is_managed(agent),
            {raw: row for raw, row in rows.items() if row is not None},
            uses,
            (state[0], state[1] is True) if len(state) == 2 and type(state[0]) is int else None,
            max(int(newest) if newest and abs(newest) < 2**53 else 0, _last_word(agent)),
        )

    def deleted_images(self, fingerprints: Sequence[bytes]) -> set[bytes]:
        """Return which of these images, by raw fingerprint, are remembered as deleted;
        :class:`Unavailable`."""
        with self._unavailable():
            pipeline: Any = self._client.pipeline(transaction=False)
            for raw in fingerprints:
                pipeline.exists(self._keys.gone_image(raw.hex()))
            found = pipeline.execute()
        return {raw for raw, gone in zip(fingerprints, found, strict=True) if gone}

    def age(
        self,
        host: str,
        due: Iterable[tuple[bytes, int]],
        forget: Iterable[tuple[bytes, bytes]],
        hold: int,
        look_again: int | None,
    ) -> list[bytes]:
        """Take images out of a host that Nova has removed there by now.

        :param due: raw fingerprints, each with the newest stamp of evidence that this judges.
        :param forget: rows of ``uses`` that say nothing any more.
        :param hold: as given to :meth:`ageing`.
        :param look_again: oldest stamp of what is still to be judged; None: nothing.
        :returns: the raw fingerprints that left.
        :raises Unavailable: Redis is away or refuses to write for now.
        """
        with self._unavailable():
            left: list[bytes] = self._run(
                "age",
                host,
                _pack([list(each) for each in due]),
                _pack([list(each) for each in forget]),
                hold,
                "" if look_again is None else look_again,
            )
        return left

    # -- the rest --------------------------------------------------------------------------

    def claim(self, name: str, seconds: float) -> bool:
        """Tell whether a task is ours for so long, no other consumer's; :class:`Unavailable`."""
        with self._unavailable():
            return bool(
                self._client.set(self._keys.claim(name), b"1", nx=True, px=int(seconds * 1000))
            )

    def hold(self, name: str, seconds: float) -> None:
        """Claim a task for so long from now on, whoever has it; :class:`Unavailable`."""
        with self._unavailable():
            self._client.set(self._keys.claim(name), b"1", px=int(seconds * 1000))

    def claimed(self, name: str) -> bool:
        """Tell whether somebody has a task; :class:`Unavailable`."""
        with self._unavailable():
            return bool(self._client.exists(self._keys.claim(name)))

    def release(self, name: str) -> None:
        """Let others claim a task; :class:`Unavailable`."""
        with self._unavailable():
            self._client.delete(self._keys.claim(name))

    def reads(self, name: str, pool: str, seconds: float) -> None:
        """Tell for so long that a consumer of this name reads our queues; :class:`Unavailable`.

        What others told and did not renew is forgotten.

        :param pool: its ``[consumer] pool``.
        """
        now = _now()
        with self._unavailable():
            self._client.zadd(
                self._keys.readers, {self._reader(name, pool): now + int(seconds * 1000)}
            )
            over = self._client.zrangebyscore(self._keys.readers, "-inf", now)
            if over:
                self._client.zrem(self._keys.readers, *over)

    def reads_no_more(self, name: str, pool: str) -> None:
        """Take that back; :class:`Unavailable`."""
        with self._unavailable():
            self._client.zrem(self._keys.readers, self._reader(name, pool))

    def _reader(self, name: str, pool: str) -> bytes:
        return _pack([name, self._bus, pool])

    def want(self, name: str, why: str, *, again: bool = True) -> None:
        """Remember that a task is to be done, until :meth:`unwant`; :class:`Unavailable`.

        :param again: as of now; else what is remembered already will do.
        """
        with self._unavailable():
            self._client.set(self._keys.wanted(name), why.encode(), nx=not again)

    def wanted(self, name: str) -> str:
        """Return why a task is to be done; empty: it is not. :class:`Unavailable`."""
        with self._unavailable():
            why: Any = self._client.get(self._keys.wanted(name))
            return (why or b"").decode(errors="replace")

    def unwant(self, name: str, why: str) -> None:
        """Forget that a task is to be done, unless another reason is remembered by now;
        :class:`Unavailable`."""
        with self._unavailable():
            self._run("unwant", name, why.encode())

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
            seen = set()
            for member, _ in self._client.zscan_iter(self._keys.hosts, count=1000):
                seen.add(member)
                yield member.decode(errors="replace")
            for member, _ in self._client.hscan_iter(self._keys.agents, count=1000):
                if member not in seen:
                    yield member.decode(errors="replace")

    @contextlib.contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Turn whatever a client raises into :class:`Unavailable`, or :class:`SchemaError`."""
        try:
            yield
        except connect.AWAY as error:
            self.failures += 1
            reason = connect.explain(error)
            if reason.startswith("SCHEMA "):  # by the scripts' prelude; this tells which one
                self.check()
            raise Unavailable(reason) from error
        except connect.GARBLED as error:
            self.failures += 1
            raise Unavailable(connect.garbled(error)) from error

    def _run(self, name: str, *arguments: Any) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self._client.register_script(self._texts[name])
        began = time.monotonic()
        answer = self._scripts[name](keys=[self._keys.schema], args=[names.SCHEMA, *arguments])
        self.calls.observe(time.monotonic() - began)
        return answer

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


def _is_refusal(error: BaseException | None) -> bool:
    """Tell whether Redis, or what speaks to it, can't do this with these arguments."""
    if isinstance(error, connect.GARBLED):
        return True
    text = str(error)
    if type(error) is not redis.exceptions.ResponseError or _PASSES.search(text):
        return False  # errors that pass have classes of their own, most of them
    return "WRONGTYPE" in text or "user_script" in text


def _pack(rows: list[Any]) -> bytes:
    """Pack rows for Redis' cmsgpack, which knows strings only, not msgpack's later binary type."""
    packed: bytes = msgpack.packb(rows, use_bin_type=False)
    return packed


def _fingerprints(image_id: str) -> tuple[str, bytes]:
    hexadecimal = names.fingerprint(image_id)
    return hexadecimal, bytes.fromhex(hexadecimal)


_SCRIPT_OF: dict[type, str] = {
    ImageSize: "size",
    ServiceState: "services",
}


def _row(change: Change) -> tuple[Any, ...]:
    """Return a statement as its script wants it."""
    if isinstance(change, Held):
        held = (change.host, change.image_id, *_fingerprints(change.image_id), change.stamp)
        return (*held, int(change.source), change.stamp + FETCH_MOST * 1000)
    if isinstance(change, ImageSize):
        return (change.image_id, *_fingerprints(change.image_id), change.size, change.stamp)
    if isinstance(change, (Fetching, FetchFailed)):
        about = (change.host, *_fingerprints(change.image_id), change.stamp)
        return (*about, change.stamp + FETCH_MOST * 1000, isinstance(change, Fetching))
    if isinstance(change, (InUse, NotInUse)):
        used = (change.image_id, *change.parts) if isinstance(change, InUse) else ()
        raw = b"".join(_fingerprints(each)[1] for each in used)
        return (change.host, uuid.UUID(change.instance).bytes, raw, change.stamp)
    if isinstance(change, ServiceState):
        return tuple(change)
    assert isinstance(change, AgentStatement)
    said = (change.host, *change.version, change.stamp, change.fingerprint)
    return (*said, bytes.fromhex(change.fingerprint), int(change.said))


_GROUPS: tuple[tuple[tuple[type, ...], int], ...] = (
    ((Fetching, FetchFailed), BATCH),
    ((Held,), BATCH),
    ((ImageSize,), BATCH),
    ((InUse, NotInUse), BATCH),
    ((ServiceState,), BATCH),
    ((AgentStatement,), BATCH),
    ((AgentSnapshot,), 1),
    ((ImageDeleted,), 1),
    ((HostDeleted,), 1),
)
"""What one script call can take, and how many of it."""

_GROUP_OF = {kind: number for number, (kinds, _) in enumerate(_GROUPS) for kind in kinds}


def _groups(changes: Iterable[Change]) -> Iterator[Sequence[Change]]:
    """Yield statements of one kind that one script call can take; what is said twice, once.

    Sorting by kind is allowed since order does not matter. Two formats of one notification say the
    same within milliseconds: only the newest of what is said about the same goes on. Of what
    servers use all is remembered.
    """
    newest: dict[object, Change] = {}
    for change in changes:
        about = _about(change)
        newest[about] = _newer(newest[about], change) if about in newest else change
    groups: dict[int, list[Change]] = {}
    for change in newest.values():
        groups.setdefault(_GROUP_OF[type(change)], []).append(change)
    for number, group in sorted(groups.items()):
        yield from _chunks(group, _GROUPS[number][1])


def _about(change: Change) -> object:
    """Return what two statements share of which the newer says all that both say."""
    kind = type(change)
    if isinstance(change, Held):
        return kind, *change[:2], change.source == Source.MIGRATION
    if isinstance(change, (Fetching, FetchFailed)):
        return kind, *change[:2]
    if isinstance(change, (InUse, NotInUse)):
        return kind, *change
    if isinstance(change, AgentStatement):
        return kind, change.host, change.version
    return kind, change[0]


def _newer(one: Change, other: Change) -> Change:
    """Return what two statements about the same say together, as the scripts would have it."""
    if isinstance(one, ImageSize) and isinstance(other, ImageSize):
        return ImageSize(one.image_id, max(one.size, other.size), max(one.stamp, other.stamp))
    if isinstance(one, ServiceState) and isinstance(other, ServiceState):
        return max(one, other, key=lambda each: (each.stamp, not each.up))
    return max(one, other)


def _now() -> int:
    return int(time.time() * 1000)


def _list(value: bytes | None) -> list[Any]:
    """Return a msgpack list; empty where it is none."""
    try:
        row = msgpack.unpackb(value or b"", strict_map_key=False, raw=True)
    except (ValueError, TypeError, msgpack.UnpackException):
        return []
    return row if isinstance(row, list) else []


def _numbers(value: bytes) -> tuple[int, ...] | None:
    """Return a row of evidence as in :class:`Usage`; late evidence counts from when it came."""
    row = _list(value)
    numbers = [each for each in row if each is not False]
    if not 2 <= len(row) <= 4 or not all(type(each) is int for each in (*row[:2], *numbers)):
        return None
    late = int(row[2]) if len(row) > 2 else 0
    return (max(row[0], late), row[1], *(max(each, late) for each in row[3:]))


def _is_managed(value: bytes) -> bool:
    row = _list(value)
    return len(row) >= 8 and row[5] is True


def _last_word(agent: bytes | None) -> int:
    """Return the stamp of an agent's newest word: while it decides, `hosts` need not know it."""
    row = _list(agent)
    return row[4] if len(row) >= 8 and type(row[4]) is int else 0


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
