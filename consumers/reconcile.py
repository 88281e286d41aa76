"""Compares the index with what Nova's API says, and mends it: safe at any time, and any number of
times.

What the API says is weaker than a notification. It tells which servers are where, not which images
a host holds: a host has fetched the image of a server that runs on it, but an image that no server
uses may well be cached, and so is never missed. Statements are stamped with the moment at which the
listing began, less :data:`MARGIN`: whatever a notification says from then on is newer and wins.
"""

from __future__ import annotations

import collections
import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from oslo_log import log as logging

from bus_cache import names
from bus_cache.conf import consumer as conf
from bus_cache.index.changes import (
    Change,
    Held,
    HostDeleted,
    InUse,
    NotInUse,
    ServiceState,
    Source,
)
from bus_cache.index.writer import SchemaError, Unavailable, Usage
from consumers import ageing
from consumers.nova_api import ApiError, Server, Services
from consumers.pacing import Backoff

LOG = logging.getLogger(__name__)

MARGIN = 60.0
"""Seconds by which the clocks of Nova's hosts may differ from ours. What is younger than this is
left to Nova's notifications."""

BATCH = 1000
"""Changes that are written at once."""

LATELY = 300.0
"""Seconds after the begin of a reconciliation before which no consumer begins another one, at the
most: less where one takes little of Nova's time, see :func:`_rest`."""

HOLD = 60.0
"""Seconds after which another consumer begins where the one that reconciles tells nothing."""

SAMPLE = 3
"""Servers of a host that Nova is asked for one by one before they count as gone."""

MOST_FAILURES = 3
"""Such questions that may fail before no more of them are asked."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0
"""Seconds between two tries at an API that fails: they double."""

LOOK = 30.0
"""Seconds between two looks whether it is our turn, at the most."""

WANTED = "reconcile"
"""Under what name it is remembered in Redis that a reconciliation is needed, and why."""

RAN, BEGUN = "reconcile", "reconcile-begun"
"""What is claimed: after one for the interval; during one, and for :data:`LATELY`."""

AGAIN = "again, for what was too young to judge"
"""Why one that was asked for is followed by another: what is younger than :data:`MARGIN` is left
to notifications, and where some were lost they do not come."""


class Refused(Exception):
    """To mend the index would destroy it; the text says why, on one line."""


class Stopped(Exception):
    """The program ends."""


class Api(Protocol):
    """What is asked of Nova: see :class:`consumers.nova_api.NovaApi`."""

    def services(self) -> Services:
        """Return all compute services."""

    def servers(self) -> Iterable[Sequence[Server]]:
        """Yield all servers, page by page."""

    def exists(self, server: str) -> bool:
        """Return whether a server is there; ApiError where that can't be told."""


class Index(Protocol):
    """What is asked of the index: see :class:`bus_cache.index.writer.Writer`."""

    def check(self) -> None:
        """Ask whether the keyspace is this version's."""

    def hosts(self) -> Iterable[str]:
        """Yield the hosts that the index knows."""

    def usage(self, host: str) -> Usage:
        """Return what is known of a host."""

    def deleted_images(self, fingerprints: Sequence[bytes]) -> Collection[bytes]:
        """Return which of these images are remembered as deleted."""

    def apply(self, changes: Iterable[Change]) -> Sequence[tuple[Sequence[Change], str]]:
        """Put statements into the index; returns what Redis refuses for good."""

    def claim(self, name: str, seconds: float) -> bool:
        """Take a name for so long; False where another has it."""

    def hold(self, name: str, seconds: float) -> None:
        """Take a name for so long, whoever has it."""

    def claimed(self, name: str) -> bool:
        """Tell whether somebody has a name."""

    def release(self, name: str) -> None:
        """Give a name back."""

    def want(self, name: str, why: str, *, again: bool = True) -> None:
        """Remember that a task is to be done; not ``again``: what is remembered will do."""

    def wanted(self, name: str) -> str:
        """Return why a task is to be done, or nothing."""

    def unwant(self, name: str, why: str) -> None:
        """Forget it, where that still is why."""


class Drift(NamedTuple):
    """One thing on which the index and Nova differ.

    :ivar kind: ``image_missing``: a server runs there whose image the host is not known to hold.
        ``server_missing``: a server uses an image there, and the index does not know it.
        ``server_gone``: the index has a server in use of an image that is not there any more.
        ``host_gone``: the index knows a host that has no compute service.
    :ivar subject: an image's id, a server's id; empty for a host.
    :ivar indexed: what the index says, for people.
    :ivar listed: what Nova says, for people.
    :ivar change: what mends it; None: nothing here does.
    """

    kind: str
    host: str
    subject: str
    indexed: str
    listed: str
    change: Change | None


class Report(NamedTuple):
    """What a reconciliation found and did.

    :ivar filled: the index was empty, and was filled.
    :ivar drift: how many differences, by kind.
    :ivar mended: how many of them were mended.
    :ivar unknown: hosts in cells that did not answer; where there are any, nothing is taken out.
    :ivar unsure: hosts of which Nova may have listed a part only: what it left out stays.
    """

    servers: int
    hosts: int
    filled: bool
    drift: Mapping[str, int]
    mended: int
    unknown: int
    unsure: int
    seconds: float

    @property
    def left(self) -> int:
        """How many differences are left."""
        return sum(self.drift.values()) - self.mended

    def __str__(self) -> str:
        """Return it as one line."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.drift.items()))
        said = f"{self.servers} servers on {self.hosts} hosts"
        return (
            f"{said} in {self.seconds:.0f} s: "
            + ("the index was empty and is filled" if self.filled else kinds or "no drift")
            + (f"; {self.mended} mended" if self.mended and not self.filled else "")
            + (f"; {self.left} left" if self.left and not self.filled else "")
            + (
                f"; {self.unknown} hosts are in cells that do not answer, so nothing was taken out"
                if self.unknown
                else ""
            )
            + (
                f"; {self.unsure} hosts may have servers that Nova left out, so what it did not "
                "list stays there"
                if self.unsure
                else ""
            )
        )


# -- what Nova says, as far as it matters -----------------------------------------------------


class Use(NamedTuple):
    """How a server that is on a host uses an image.

    :ivar image: empty: none, or it can't be told at the moment.
    :ivar holds: the host has fetched the image for it.
    """

    image: str
    holds: bool


class Picture:
    """All servers by host: about 200 bytes each.

    :ivar hosts: host -> raw server id -> :class:`Use`.
    :ivar listed: raw ids of all servers.
    :ivar moving: raw ids of servers that may use an image on another host than theirs.
    :ivar servers: how many were added.
    """

    def __init__(self, ignore_hosts: Sequence[str] = ()) -> None:
        """Take patterns of hosts to leave out."""
        self.hosts: dict[str, dict[bytes, Use]] = {}
        self.listed: set[bytes] = set()
        self.moving: set[bytes] = set()
        self.servers = 0
        self._ignored: dict[str, bool] = {}
        self._ignore_hosts = list(ignore_hosts)
        self._same: dict[Use, Use] = {}

    def ignores(self, host: str) -> bool:
        """Tell whether a host is to be left out: as configured, or by its name."""
        if host not in self._ignored:
            self._ignored[host] = not names.is_valid_name(host) or conf.matches(
                host, self._ignore_hosts
            )
        return self._ignored[host]

    def add(self, server: Server) -> None:
        """Add a server as Nova lists it.

        While something is done with a server, ``host`` and ``image`` may be ahead of the facts:
        ``host`` is set before the image is fetched, and is the destination in the middle of a
        resize; a rebuild has the new image from its start. A resized server that waits for its
        confirmation keeps its disk on the source, and one in error may have one anywhere
        (nova/compute/manager.py).
        """
        try:
            raw = uuid.UUID(server.id).bytes
        except ValueError:
            return
        self.servers += 1
        self.listed.add(raw)
        settled = server.task is None
        if not settled or server.state in ("resized", "error"):
            self.moving.add(raw)
        if not server.host or self.ignores(server.host):
            return
        image = server.image if settled and names.is_valid_name(server.image) else ""
        use = Use(image, bool(image) and server.launched and server.state != "error")
        self.hosts.setdefault(server.host, {})[raw] = self._same.setdefault(use, use)


# -- comparison: pure -------------------------------------------------------------------------


def compare(
    host: str,
    seen: Mapping[bytes, Use],
    usage: Usage,
    now: int,
    *,
    moving: Collection[bytes] = (),
    complete: bool = True,
) -> Iterator[Drift]:
    """Yield on what Nova and the index differ about a host that has a compute service.

    :param seen: servers that Nova lists there, by raw id.
    :param usage: what the index says.
    :param now: stamp of what Nova says; what the index has that is not older is left alone.
    :param moving: raw ids of servers that may be on another host, too.
    :param complete: no cell is missing in Nova's list.
    """
    if not usage.managed:  # an agent knows better than Nova what its host holds
        yield from _images_missing(host, seen, usage.evidence, now)
    for raw, use in seen.items():
        used, newest = _in_use(usage.uses.get(raw))
        if use.image and newest < now and used != bytes.fromhex(names.fingerprint(use.image)):
            server = str(uuid.UUID(bytes=raw))
            yield Drift(
                "server_missing",
                host,
                server,
                _uses(used),
                f"uses {use.image}",
                InUse(host, server, use.image, now),
            )
    for raw, row in usage.uses.items():
        if not complete or raw in seen or raw in moving or len(raw) != 16:
            continue
        used, newest = _in_use(row)
        if used and newest < now:
            server = str(uuid.UUID(bytes=raw))
            change = NotInUse(host, server, now)
            yield Drift("server_gone", host, server, _uses(used), "not there", change)


def _images_missing(
    host: str, seen: Mapping[bytes, Use], evidence: Collection[bytes], now: int
) -> Iterator[Drift]:
    servers = collections.Counter(use.image for use in seen.values() if use.holds)
    for image, count in servers.items():
        if bytes.fromhex(names.fingerprint(image)) not in evidence:
            used = f"used by {count} server{'s' if count > 1 else ''}"
            change = Held(host, image, now, Source.SERVER)
            yield Drift("image_missing", host, image, "not held", used, change)


def compare_unknown(host: str, usage: Usage, now: int) -> list[Drift]:
    """Return whether a host without compute service is to leave the index.

    Not where something was heard of it since, nor where an agent speaks for it: there somebody must
    look.
    """
    if usage.newest >= now:
        return []
    known = "its agent speaks" if usage.managed else f"images held: {len(usage.evidence)}"
    change = None if usage.managed else HostDeleted(host, now)
    return [Drift("host_gone", host, "", known, "no compute service", change)]


def _uses(raw: bytes | None) -> str:
    return f"uses {raw.hex()}" if raw else "not there"


def _in_use(row: bytes | None) -> tuple[bytes | None, int]:
    """Return which image a server uses by a row of the index, and the row's newest stamp."""
    use = ageing.use_of(row) if row else None
    return (use.image, use.newest) if use else (None, 0)


# -- the procedure ----------------------------------------------------------------------------


def run(
    api: Api,
    index: Index,
    *,
    repair: bool,
    ignore_hosts: Sequence[str] = (),
    tell: Callable[[Drift], None] | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> Report:
    """Compare the index with Nova, and mend it.

    :param repair: write what mends it; an empty index is filled in any case.
    :param ignore_hosts: patterns of hosts to leave out, as ``[consumer] ignore_hosts``.
    :param tell: is told of each difference, unless the index is empty.
    :param progress: is told of what is done, how much, and of how much where that is known.
    :param stopping: asked now and then whether to give up.
    :raises ApiError: Nova's API can't be asked, or does not tell enough.
    :raises Refused: Nova knows none of the hosts in the index.
    :raises Stopped: ``stopping`` said so.
    :raises bus_cache.index.writer.Unavailable: Redis is away or refuses to write for now.
    """
    began = time.monotonic()
    now = int((time.time() - MARGIN) * 1000)
    progress = progress or _nothing

    def go_on() -> None:
        if stopping is not None and stopping():
            raise Stopped

    first = api.services()
    if not first.up and not first.unknown:
        raise ApiError("Nova lists no compute services: is it the right cloud and region?")
    picture = Picture(ignore_hosts)
    for page in api.servers():
        for server in page:
            picture.add(server)
        progress("servers", picture.servers, None)
        go_on()
    last = api.services()  # a cell that went away meanwhile: its servers were not listed
    services = {
        host: up for host, up in {**first.up, **last.up}.items() if not picture.ignores(host)
    }
    unknown = first.unknown | last.unknown

    known = {host for host in index.hosts() if not picture.ignores(host)}
    if known and not known & (services.keys() | unknown):
        raise Refused(
            f"Nova knows none of the {len(known)} hosts in the index ({min(known)}, ...): is it "
            "the right cloud and region, or another cloud's keyspace? bus-cache flush empties it"
        )
    filled = not known
    absent = Absent(api, picture.listed)
    mending = _Mending(index)
    drift: collections.Counter[str] = collections.Counter()
    hosts = sorted(known | services.keys())
    for count, host in enumerate(hosts, 1):
        usage = index.usage(host)
        if host in services:
            seen = picture.hosts.get(host, {})
            differ = compare(host, seen, usage, now, moving=picture.moving, complete=not unknown)
            found = absent.sure(_without_deleted(differ, index))
        else:
            found = [] if unknown else compare_unknown(host, usage, now)
        for each in found:
            drift[each.kind] += 1
            if tell is not None and not filled:
                tell(each)
        if repair or filled:
            changes: list[Change] = [each.change for each in found if each.change]
            up = services.get(host)
            if up is not None and _is_news(usage, up):
                changes.append(ServiceState(host, now, up))
            mending.add(changes)
        progress("hosts", count, len(hosts))
        go_on()
    mending.write()
    return Report(
        picture.servers,
        len(services),
        filled,
        dict(drift),
        mending.done,
        len(unknown),
        absent.unsure,
        time.monotonic() - began,
    )


def _is_news(usage: Usage, up: bool) -> bool:
    """Tell whether the index is to be told that a nova-compute is up, or down: where it is down
    again, too, after something was heard of the host."""
    if usage.service is None or usage.service[1] != up:
        return True
    return not up and usage.newest > usage.service[0]


class Absent:
    """Makes sure that servers which Nova did not list are gone.

    A cell that fails for a moment is left out of a page without a word
    (nova/compute/multi_cell_list.py), while the compute services are listed before and after. To
    list one host's servers would tell no more: that leaves the cell out, too. But asked for one
    server Nova finds it, or says 404 if its cell does, or fails
    (:meth:`consumers.nova_api.NovaApi.exists`). All of a host is in one cell, so :data:`SAMPLE` of
    its servers, by chance, speak for the rest. If one of them is there after all, wherever, or Nova
    fails, none of those that were not listed leaves that host. Who is listed, elsewhere or
    nowhere, needs no question.
    """

    def __init__(self, api: Api, listed: Collection[bytes]) -> None:
        """Take whom to ask, and the raw ids of the servers that were listed."""
        self.unsure = 0
        self._api = api
        self._listed = listed
        self._failures = 0

    def sure(self, found: list[Drift]) -> list[Drift]:
        """Return a host's differences without servers that may be there all the same."""
        unlisted = {
            each.subject
            for each in found
            if each.kind == "server_gone" and uuid.UUID(each.subject).bytes not in self._listed
        }
        if not unlisted or self._are_gone(unlisted):
            return found
        self.unsure += 1
        return [
            each for each in found if each.kind != "server_gone" or each.subject not in unlisted
        ]

    def _are_gone(self, servers: Collection[str]) -> bool:
        if self._failures >= MOST_FAILURES:  # each may take minutes
            return False
        try:
            return not any(
                self._api.exists(server)
                for server in random.sample(sorted(servers), min(SAMPLE, len(servers)))
            )
        except ApiError as error:
            self._failures += 1
            LOG.warning("servers that Nova did not list stay in the index: %s", error)
            return False


class _Mending:
    """Writes changes in batches and counts those that mend a difference."""

    def __init__(self, index: Index) -> None:
        self.done = 0
        self._index = index
        self._changes: list[Change] = []

    def add(self, changes: Iterable[Change]) -> None:
        self._changes += changes
        if len(self._changes) >= BATCH:
            self.write()

    def write(self) -> None:
        if not self._changes:
            return
        refused = self._index.apply(self._changes)
        self.done += sum(not isinstance(each, ServiceState) for each in self._changes)
        for changes, reason in refused:
            self.done -= sum(not isinstance(each, ServiceState) for each in changes)
            LOG.error("Redis refuses %s: %s. Is its key somebody else's?", changes[0], reason)
        self._changes = []


def _without_deleted(found: Iterable[Drift], index: Index) -> list[Drift]:
    """Leave out images that Glance deleted: servers may run on for years, none boots from them."""
    rest = list(found)
    missing = [names.fingerprint(each.subject) for each in rest if each.kind == "image_missing"]
    if not missing:
        return rest
    deleted = {raw.hex() for raw in index.deleted_images([bytes.fromhex(fp) for fp in missing])}
    return [
        each
        for each in rest
        if each.kind != "image_missing" or names.fingerprint(each.subject) not in deleted
    ]


def _nothing(_what: str, _done: int, _of: int | None) -> None:
    pass


def _rest(seconds: float, interval: float) -> float:
    """Return for how many seconds Nova is left alone after a reconciliation that took so many.

    The next one can judge what was too young for this one, and Nova is asked for a tenth of the
    time at the most, but of a large cloud, where what was lost must not wait for long.
    """
    most = min(LATELY, interval / 2 or LATELY)
    return max(1.0, min(most, MARGIN + 10 * seconds) - seconds)


# -- in the consumer --------------------------------------------------------------------------


class Reconciler:
    """Reconciles from time to time and on request, in a thread of its own.

    Why it is needed is remembered in Redis until one has succeeded, so that it outlives whoever
    asked. Of several consumers on one keyspace one does it, by a claim that it renews while it
    lives. A failure is logged once and tried again; it never leaves :meth:`run`.

    :ivar counts: ``done``, ``failed`` (tries), ``mended`` (differences).
    :ivar drift: differences by kind, see :class:`Drift`; not those of an empty index.
    :ivar last: when one was done, seconds since 1970; 0: never.
    """

    def __init__(
        self,
        connect: Callable[[], Api],
        index: Index,
        *,
        interval: float,
        ignore_hosts: Callable[[], Sequence[str]],
    ) -> None:
        """Take what makes a connection to Nova's API, and where to write; nothing is sent yet.

        :param index: used by this thread, and by those that call :meth:`request` and :meth:`stop`.
        :param interval: seconds; 0: on request only.
        :param ignore_hosts: returns the patterns as they are configured now.
        """
        self._connect = connect
        self._index = index
        self._interval = interval
        self._ignore_hosts = ignore_hosts
        self._lock = threading.Lock()
        self._unwritten: tuple[str, bool] | None = None
        self._running = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._failing = False
        self.counts: collections.Counter[str] = collections.Counter()
        self.drift: collections.Counter[str] = collections.Counter()
        self.last = 0.0

    def request(self, reason: str, *, once: bool = False) -> None:
        """Ask for a reconciliation soon. From any thread; waits for Redis at the most.

        :param reason: for the log.
        :param once: where one is asked for already or runs, here or elsewhere, that will do.
        """
        with self._lock:
            if once and (self._running or self._unwritten):
                return
            self._unwritten = (reason, once)
        self._write_down()
        self._wake.set()

    def stop(self) -> None:
        """Ask :meth:`run` to return, in the middle of a listing, too: after the answer for which it
        waits. Who does not wait for that leaves the work to others all the same. From any
        thread."""
        self._stop.set()
        self._wake.set()
        self._release()

    def run(self) -> None:
        """Reconcile when it is due, until :meth:`stop`."""
        while not self._stop.is_set():
            if self._is_due():
                self._until_done()
            else:
                self._wake.wait(random.uniform(0.5, 1.0) * min(LOOK, self._interval or LOOK))
                self._wake.clear()

    def _write_down(self) -> None:
        """Remember in Redis what was asked for; where it is away, at the next look."""
        with self._lock:
            unwritten = self._unwritten
        if unwritten is None:
            return
        reason, once = unwritten
        try:
            self._index.check()
            self._index.want(WANTED, reason, again=not once)
        except (Unavailable, SchemaError):
            return  # who reads the bus logs that
        with self._lock:
            if self._unwritten is unwritten:
                self._unwritten = None

    def _is_ours(self) -> bool:
        """Tell whether to reconcile at all: another version's keyspace is that one's to compare.

        A claim of ours would only keep it from that.
        """
        try:
            self._index.check()
        except SchemaError:
            return False
        except Unavailable:
            pass  # what comes next finds out
        return True

    def _is_due(self) -> bool:
        """Tell whether to reconcile now; then no other consumer does."""
        self._write_down()
        if not self._is_ours():
            return False
        try:
            interval = bool(self._interval) and not self._index.claimed(RAN)
            if not interval and not self._index.wanted(WANTED):
                return False
            # what is asked for soon after another one is done when that claim has lapsed
            return self._index.claim(BEGUN, HOLD)
        except (Unavailable, SchemaError):
            return False

    def _until_done(self) -> None:
        """Reconcile, again and again until it succeeds."""
        pauses = Backoff(LONGEST_PAUSE, FIRST_PAUSE)
        with self._lock:
            self._running = True
        try:
            while not self._stop.is_set() and self._is_ours():
                with self._alive():
                    reason, failure = self._try()
                if not failure:
                    return
                self.counts["failed"] += 1
                if not self._failing:
                    LOG.warning(
                        "not reconciled with Nova's API (%s): %s. Trying again", reason, failure
                    )
                self._failing = True
                self._stop.wait(pauses.next())
        except Stopped:
            pass
        self._release()

    def _try(self) -> tuple[str, str]:
        """Reconcile once and return why it was needed, and why that failed, if it did."""
        reason = ""
        try:
            wanted = self._index.wanted(WANTED)
            reason = wanted.partition("\n")[0] or "reconcile_interval"
            if wanted:  # whatever asks from now on, in the same words, too, asks for another one
                wanted = f"{reason}\n{uuid.uuid4()}"
                self._index.want(WANTED, wanted)
            report = run(
                self._connect(),
                self._index,
                repair=True,
                ignore_hosts=self._ignore_hosts(),
                stopping=self._stopping,
            )
            if wanted:
                self._index.unwant(WANTED, wanted)
                if reason != AGAIN:
                    self._index.want(WANTED, AGAIN, again=False)
            if self._interval:
                self._index.hold(RAN, max(1.0, self._interval))
            with self._lock:
                self._index.hold(BEGUN, _rest(report.seconds, self._interval))
                self._running = False
        except Stopped:
            raise
        except (ApiError, Refused, Unavailable, SchemaError) as error:
            return reason, str(error)
        except Exception as error:  # the bus is read all the same
            LOG.debug("reconciliation failed", exc_info=True)
            return reason, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.counts["done"] += 1
        self.counts["mended"] += report.mended
        self.drift.update(report.drift if not report.filled else {})
        self.last = time.time()
        self._failing = False
        LOG.info("reconciled with Nova's API (%s): %s", reason, report)
        return reason, ""

    def _stopping(self) -> bool:
        """Tell whether to give up."""
        self._write_down()
        return self._stop.is_set()

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Have others know that this one is at work: a page takes Nova long.

        Not between two tries: another one may have a better way to Nova. Then, or where it can't be
        told, two of them do it: no harm.
        """
        over = threading.Event()

        def keep() -> None:
            while True:
                with self._lock, contextlib.suppress(Unavailable, SchemaError):
                    if self._running and not over.is_set():
                        self._index.hold(BEGUN, HOLD)
                if over.wait(HOLD / 6):
                    return

        threading.Thread(target=keep, name="claim", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _release(self) -> None:
        with self._lock:
            running, self._running = self._running, False
        if running:
            with contextlib.suppress(Unavailable, SchemaError):  # it lapses
                self._index.release(BEGUN)
