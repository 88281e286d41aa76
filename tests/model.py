"""A cloud as it really is, what its services say of it, and what the index must say then.

The rules here are Nova's and those that the documentation promises; nothing is taken from the code
under test but the agent's own words (:class:`bus_cache.agent.state.State`), which are part of what
is tested.

Of a host and an image the index **must** hold it, **must not**, or **may**:

* Where an agent speaks, its cache is the truth: all that is in it, and nothing else, once a
  snapshot that it took in the end has arrived. Before, it is what its words that arrived say
  together, by (epoch, sequence).
* Else what arrived is a union: each statement that the host has the image counts, but for
  statements that are stamped before a deletion of the host's compute service that arrived, and of
  images of which Glance's deletion arrived.
* Where an agent spoke before, what its words say together is believed on, and Nova's statements
  count that are stamped after its last word. Nova's statements between its last snapshot and its
  last word count no longer where no word of it is missing and none came after the host was given
  up; else they may.
* What is believed stays for the minimum age after the statement's stamp at least. A resize or cold
  migration touches no file that is there: beside older statements it may not count. Then the image
  may leave, unless a server uses it, and must have left in the end.
* After one comparison with Nova's API every image that a settled server uses is held by its host,
  and a host without compute service, whose agent does not speak, holds nothing. What such a
  comparison wrote in the middle of a history may be there: it is written only where it differs.
* Nothing is promised about an image a week after its deletion in Glance.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from bus_cache import names, protocol
from bus_cache.agent import state
from consumers.nova_api import Server, Services

HOSTS = ("cmp0", "cmp1", "cmp2")
"""The last one's compute service is never deleted, so that Nova never lists none."""
IMAGES = tuple(str(uuid.uuid5(uuid.NAMESPACE_OID, f"image-{n}")) for n in range(4))
NAMES = {names.fingerprint(image): image for image in IMAGES}
API = "api"

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
MINIMUM_AGE, INTERVAL = DAY, 40 * MINUTE
"""Nova's defaults, to which the sweep is set."""
AGENT_TIMEOUT = 15 * MINUTE
REMEMBERED = 7 * DAY
"""For so long the deletion of an image is known."""
EXPIRES = 6 * DAY
"""What nobody has read for so long is lost: queues expire before deletions are forgotten."""
MARGIN = MINUTE
"""What Nova's API says is stamped so much before it was asked."""

Version = tuple[int, int]


# -- what messages say, as far as it matters for the public sets ------------------------------


@dataclasses.dataclass(frozen=True)
class Holds:
    """A host has an image. ``touches``: its file was touched by that for sure."""

    host: str
    image: str
    stamp: int
    touches: bool = True


@dataclasses.dataclass(frozen=True)
class ImageGone:
    image: str


@dataclasses.dataclass(frozen=True)
class HostGone:
    host: str
    stamp: int


@dataclasses.dataclass(frozen=True)
class Word:
    """What an agent said: all that is there (``images``), or of one image whether it is there.

    A word about an image that is on its way says nothing of what is there.
    """

    host: str
    version: Version
    stamp: int
    images: frozenset[str] | None = None
    about: tuple[str, bool] | None = None


Fact = Holds | ImageGone | HostGone | Word


@dataclasses.dataclass
class Message:
    """One message on the bus.

    ``handed``: a consumer had it once, so the broker does not lose it any more. ``written``: an
    unknown part of what it says may be in Redis.
    """

    body: bytes
    exchange: str
    queue: str
    at: int
    facts: tuple[Fact, ...] = ()
    what: str = ""
    handed: bool = False
    written: bool = False

    def again(self) -> Message:
        return dataclasses.replace(self, handed=False, written=False)


@dataclasses.dataclass
class Instance:
    """A server. ``source``: where it was before a resize that is not confirmed yet."""

    id: str
    image: str
    host: str
    task: str | None = None
    source: str = ""
    target: str = ""
    shelved: bool = False

    @property
    def settled(self) -> bool:
        return self.task is None and not self.shelved


class Agent:
    """An agent that runs: what it says of its host's files, as the product's agent says it."""

    def __init__(self, host: str, epoch: int) -> None:
        self.host = host
        self.state = state.State(host, epoch)

    def look(
        self,
        files: Iterable[str],
        coming: Iterable[str],
        *,
        everything: bool,
        leaving: bool = False,
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return what it says now."""
        images = [protocol.CachedImage(names.fingerprint(each), 1, 1) for each in sorted(files)]
        fetching = [names.fingerprint(each) for each in sorted(set(coming) - set(files))]
        seen = state.seen(protocol.Inventory(images, fetching))
        if everything or leaving or self.state.snapshot_due:
            return [tuple(self.state.snapshot(seen, leaving))]
        return [tuple(self.state.statement(each)) for each in self.state.differences(seen)]


class World:
    """The truth. Whatever happens returns the messages that are sent of it."""

    def __init__(self, now: int, skew: dict[str, int], formats: str) -> None:
        """Take the time in ms, how much the publishers' clocks are ahead, and which of Nova's
        formats are sent (``v``, ``u``, ``vu``)."""
        self.now = now
        self.skew = skew
        self.formats = formats
        self.instances: dict[str, Instance] = {}
        self.files: dict[str, set[str]] = {host: set() for host in HOSTS}
        self.coming: dict[str, set[str]] = {host: set() for host in HOSTS}
        self.services: dict[str, bool] = dict.fromkeys(HOSTS, True)
        self.active: set[str] = set(IMAGES)
        self.agents: dict[str, Agent] = {}
        self.epochs: dict[str, int] = {}
        self._servers = 0

    # -- Nova ----------------------------------------------------------------------------------

    def boot(self, host: str, image: str) -> Iterator[Message]:
        """A host begins to make a server."""
        self._servers += 1
        server = str(uuid.uuid5(uuid.NAMESPACE_OID, f"server-{self._servers}"))
        new = self.instances[server] = Instance(server, image, host, task="spawning")
        self.coming[host] |= {image} - self.files[host]
        yield from self._instance("create.start", host, None, new)

    def finish(self, one: Instance, *, fails: bool) -> Iterator[Message]:
        """What a host began ends."""
        if one.task == "spawning":
            self.coming[one.host].discard(one.image)
            if fails:
                yield from self._instance("create.error", one.host, None, one)
                del self.instances[one.id]
                return
            one.task = None
            yield from self._arrived("create.end", one.host, one.host, one)
        elif one.task == "resize_finish":
            one.task, one.host, one.target = None, one.target, ""
            yield from self._arrived("resize_finish.end", one.host, one.host, one, touches=False)

    def rebuild(self, one: Instance, image: str) -> Iterator[Message]:
        one.image = image
        yield from self._instance("rebuild.start", one.host, one.host, one)
        yield from self._arrived("rebuild.end", one.host, one.host, one)

    def delete(self, one: Instance) -> Iterator[Message]:
        host = None if one.shelved else one.host
        del self.instances[one.id]
        yield from self._instance("delete.end", host or API, host, one)

    def resize(self, one: Instance, host: str) -> Iterator[Message]:
        """A server leaves for another host; it is there when it ends."""
        yield from self._instance("resize_prep.start", host, one.host, one)
        one.source, one.target, one.task = one.host, host, "resize_finish"
        yield from self._instance("resize.end", one.source, host, one)

    def confirm(self, one: Instance) -> Iterator[Message]:
        source, one.source = one.source, ""
        yield from self._instance("resize_confirm.end", source, one.host, one)

    def revert(self, one: Instance) -> Iterator[Message]:
        source, dest = one.source, one.host
        yield from self._instance("resize_revert.start", source, dest, one)
        one.host, one.source = source, ""
        yield from self._instance("resize_revert.end", source, source, one)

    def live_migrate(self, one: Instance, host: str) -> Iterator[Message]:
        source, one.host = one.host, host
        yield from self._instance("live_migration_post.end", source, source, one)
        yield from self._arrived("live_migration_post_dest.end", host, host, one)

    def shelve(self, one: Instance) -> Iterator[Message]:
        one.shelved = True
        yield from self._instance("shelve_offload.end", one.host, None, one)

    def unshelve(self, one: Instance, host: str) -> Iterator[Message]:
        """It comes out of its snapshot: the original image is used, and not fetched."""
        one.shelved, one.host = False, host
        yield from self._instance("unshelve.end", host, host, one)

    def rescue(self, one: Instance, image: str) -> Iterator[Message]:
        self._fetched(one.host, image)
        facts = (Holds(one.host, image, self._stamp(one.host)),)
        extra = {"rescue_image_ref": image}
        yield from self._instance("rescue.end", one.host, one.host, one, facts, "v", **extra)

    def evacuate(self, one: Instance, host: str) -> Iterator[Message]:
        """Its host is down; the payload goes on to name that one."""
        source = one.host
        yield from self._instance("evacuate", API, source, one)
        yield from self._instance("rebuild.start", host, source, one)
        yield from self._arrived("rebuild.end", host, source, one)
        one.host = host

    def service(self, host: str, up: bool) -> Iterator[Message]:
        """A compute service is forced down, no longer forced down, or new."""
        event = "service.update" if host in self.services else "service.create"
        self.services[host] = up
        seen = datetime.datetime.fromtimestamp(self.now / 1000, datetime.timezone.utc)
        data = {"host": host, "binary": "nova-compute", "forced_down": not up}
        data["last_seen_up"] = seen.strftime("%Y-%m-%dT%H:%M:%SZ")
        yield from self._versioned(event, f"nova-compute:{host}", host, data)

    def service_gone(self, host: str) -> Iterator[Message]:
        del self.services[host]
        facts = (HostGone(host, self._stamp(API)),)
        data = {"host": host, "binary": "nova-compute"}
        yield from self._versioned("service.delete", f"nova-compute:{host}", API, data, facts)

    def precache(self, host: str, images: list[str]) -> Iterator[Message]:
        """The conductor tells."""
        for image in images:
            self._fetched(host, image)
        facts = tuple(Holds(host, image, self._stamp(API)) for image in images)
        data = {"host": host, "images_cached": images, "images_failed": []}
        yield from self._versioned(
            "aggregate.cache_images.progress", "nova-conductor:ctl", API, data, facts
        )

    def image_gone(self, image: str) -> Iterator[Message]:
        """Nothing boots from it any more; servers go on, and files stay."""
        self.active.discard(image)
        yield self._message(
            "nova", "image.delete", "image.ctl", API, {"id": image}, (ImageGone(image),)
        )

    def uninteresting(self, one: Instance) -> Iterator[Message]:
        """Told by the conductor, minutes later, too: no evidence of anything."""
        yield from self._instance("update", API, HOSTS[0], one, state="deleted")
        yield from self._instance("exists", HOSTS[1], HOSTS[1], one)

    # -- agents and files ----------------------------------------------------------------------

    def remove(self, host: str, image: str) -> None:
        """A file goes: Nova's cache manager, or a hand. Where no agent runs nobody can know."""
        self.files[host].discard(image)

    def start(self, host: str, lost: bool) -> list[Message]:
        """An agent starts; ``lost``: without its state, on a clock that was set back."""
        last = self.epochs.get(host, 0)
        epoch = self._stamp(host) - 10 * HOUR if lost else max(self._stamp(host), last + 1)
        self.epochs[host] = epoch
        self.agents[host] = Agent(host, epoch)
        return self.look(host)

    def look(self, host: str, *, everything: bool = False, leaving: bool = False) -> list[Message]:
        """An agent says what is new."""
        words = self.agents[host].look(
            self.files[host], self.coming[host], everything=everything, leaving=leaving
        )
        sent = []
        for event, payload in words:
            version, stamp = (payload["epoch"], payload["sequence"]), self._stamp(host)
            if event == protocol.SNAPSHOT:
                word = Word(host, version, stamp, frozenset(self.files[host]))
            elif event == protocol.FETCHING:
                word = Word(host, version, stamp)
            else:
                about = (NAMES[payload["image"]], event == protocol.STORED)
                word = Word(host, version, stamp, about=about)
            body = self._body(event, protocol.publisher(host), stamp, payload)
            exchange, queue = protocol.EXCHANGE, protocol.QUEUE
            what = f"agent {host} {event} {version} {sorted(self.files[host])}"
            sent.append(Message(body, exchange, queue, self.now, (word,), what))
            self.now += 1
        return sent

    def asked(self, host: str, after: int) -> list[Message]:
        """An agent answers."""
        if host not in self.agents:
            return []
        agent = self.agents[host]
        if after > agent.state.epoch:
            self.epochs[host] = max(self._stamp(host), after + 1, self.epochs[host] + 1)
            agent.state.begin(self.epochs[host])
        return self.look(host, everything=True)

    # -- Nova's API ----------------------------------------------------------------------------

    def used(self) -> set[tuple[str, str]]:
        """Host and image of all servers with which nothing is being done."""
        return {(each.host, each.image) for each in self.instances.values() if each.settled}

    def list_servers(self) -> list[Server]:
        rows = []
        for one in self.instances.values():
            host = "" if one.shelved else one.target or one.host
            vm_state = "resized" if one.source and not one.task else "active"
            if one.shelved:
                vm_state = "shelved_offloaded"
            launched = one.task != "spawning"
            vm_state = vm_state if launched else "building"
            rows.append(Server(one.id, host, one.image, one.task, vm_state, launched))
        return rows

    def list_services(self) -> Services:
        return Services(dict(self.services), frozenset())

    # -- messages ------------------------------------------------------------------------------

    def _stamp(self, clock: str) -> int:
        return self.now + self.skew.get(clock, 0)

    def _fetched(self, host: str, image: str) -> None:
        self.coming[host].discard(image)
        self.files[host].add(image)

    def _arrived(
        self, event: str, publisher: str, host: str, one: Instance, *, touches: bool = True
    ) -> Iterator[Message]:
        """The publisher's host has the server's image from now on."""
        self._fetched(publisher, one.image)
        facts = (Holds(publisher, one.image, self._stamp(publisher), touches),)
        yield from self._instance(event, publisher, host, one, facts)

    def _instance(
        self,
        action: str,
        publisher: str,
        host: str | None,
        one: Instance,
        facts: tuple[Fact, ...] = (),
        formats: str = "vu",
        **extra: str,
    ) -> Iterator[Message]:
        by = f"compute:{publisher}" if publisher != API else "api:ctl"
        about = {"host": host, "node": host and f"{host}.example.org", **extra}
        if "v" in self.formats and "v" in formats:
            data = {**about, "uuid": one.id, "image_uuid": one.image}
            yield from self._versioned(
                f"instance.{action}", f"nova-{by}", publisher, data, facts, "v"
            )
        if "u" in self.formats and "u" in formats:
            data = {**about, "instance_id": one.id}
            data["image_ref_url"] = f"http://ctl/images/{one.image}"
            event = f"compute.instance.{_UNVERSIONED.get(action, action)}"
            by = by.replace(":", ".")
            yield self._message("nova", event, by, publisher, data, facts)
        self.now += 1

    def _versioned(
        self,
        event: str,
        publisher_id: str,
        clock: str,
        data: dict[str, Any],
        facts: tuple[Fact, ...] = (),
        formats: str = "",
    ) -> Iterator[Message]:
        if "v" in (formats or self.formats):
            payload = {"nova_object.data": data, "nova_object.version": "1.8"}
            yield self._message("nova", event, publisher_id, clock, payload, facts)
        self.now += 1

    def _message(
        self,
        exchange: str,
        event: str,
        publisher_id: str,
        clock: str,
        payload: dict[str, Any],
        facts: tuple[Fact, ...],
    ) -> Message:
        body = self._body(event, publisher_id, self._stamp(clock), payload)
        what = f"{event} by {publisher_id} {facts}"
        return Message(body, exchange, "bus_cache_pool", self.now, facts, what)

    @staticmethod
    def _body(event: str, publisher_id: str, stamp: int, payload: dict[str, Any]) -> bytes:
        moment = datetime.datetime.fromtimestamp(stamp // 1000, datetime.timezone.utc)
        text = f"{moment:%Y-%m-%d %H:%M:%S}.{stamp % 1000:03d}000"
        inner = {"message_id": "m", "publisher_id": publisher_id, "event_type": event}
        inner |= {"priority": "INFO", "payload": payload, "timestamp": text}
        return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


_UNVERSIONED = {
    "resize_prep.start": "resize.prep.start",
    "resize_finish.end": "finish_resize.end",
    "resize_confirm.end": "resize.confirm.end",
    "resize_revert.start": "resize.revert.start",
    "resize_revert.end": "resize.revert.end",
    "live_migration_post.end": "live_migration._post.end",
    "live_migration_post_dest.end": "live_migration.post.dest.end",
}


# -- what the index must say then --------------------------------------------------------------


@dataclasses.dataclass
class Arrived:
    """What is in Redis for sure, each with the time in ms at which it first arrived; and what may
    be."""

    sure: dict[Fact, int] = dataclasses.field(default_factory=dict)
    maybe: set[Fact] = dataclasses.field(default_factory=set)

    def copy(self) -> Arrived:
        return Arrived(dict(self.sure), set(self.maybe))


Pairs = set[tuple[str, str]]


def together(words: Iterable[Word]) -> set[str] | None:
    """Return what an agent's words say is there; None where there is no snapshot among them."""
    ordered = sorted(words, key=lambda word: word.version)
    images: set[str] | None = None
    for word in ordered:
        if word.images is not None:
            images = set(word.images)
        elif word.about is not None and images is not None:
            image, there = word.about
            images = images | {image} if there else images - {image}
    return images


def bounds(arrived: Arrived, now: int) -> tuple[Pairs, Pairs]:
    """Return the (host, image) that must be in the index, and those that may, of hosts of which no
    agent speaks now."""
    must: Pairs = set()
    may: Pairs = set()
    for host in HOSTS:
        for image, verdict in _host(arrived, host, now).items():
            if verdict == "must":
                must.add((host, image))
            if verdict != "not":
                may.add((host, image))
    return must, may


def _host(arrived: Arrived, host: str, now: int) -> dict[str, str]:
    facts = {*arrived.sure, *arrived.maybe}
    gone = max(
        (f.stamp for f in arrived.sure if isinstance(f, HostGone) and f.host == host), default=0
    )
    maybe_gone = max(
        (f.stamp for f in facts if isinstance(f, HostGone) and f.host == host), default=0
    )
    words = [f for f in arrived.sure if isinstance(f, Word) and f.host == host]
    maybe_words = [f for f in arrived.maybe if isinstance(f, Word) and f.host == host]
    if maybe_words and not set(maybe_words) <= set(words):
        return dict.fromkeys(IMAGES, "may")
    if words and all(word.stamp < gone for word in words):
        words = []  # it was of before
    elif any(word.stamp < maybe_gone for word in words):
        newest = max((w for w in words if w.images is not None), key=_version, default=None)
        if newest is None or newest.stamp < maybe_gone:
            return dict.fromkeys(IMAGES, "may")
    verdicts = {}
    for image in IMAGES:
        deleted = arrived.sure.get(ImageGone(image))
        if deleted is not None:
            verdicts[image] = "not" if now - deleted < REMEMBERED else "may"
        elif ImageGone(image) in arrived.maybe:
            verdicts[image] = "may"
        else:
            verdicts[image] = _image(arrived, host, image, words, gone, maybe_gone, now)
    return verdicts


def _version(word: Word) -> Version:
    return word.version


def _image(
    arrived: Arrived,
    host: str,
    image: str,
    words: list[Word],
    gone: int,
    maybe_gone: int,
    now: int,
) -> str:
    sure = [f for f in arrived.sure if isinstance(f, Holds) and (f.host, f.image) == (host, image)]
    maybe = [
        f for f in arrived.maybe if isinstance(f, Holds) and (f.host, f.image) == (host, image)
    ]
    since_sure = since_maybe = 0  # statements of Nova count that are stamped after this
    there = together(words)
    if there is not None:
        floor = max((w for w in words if w.images is not None), key=_version)
        counted = [word for word in words if word.version >= floor.version]
        last = max(word.stamp for word in counted)
        if image in there:
            return "must" if now < last + MINIMUM_AGE else "may"
        since_sure = max(word.stamp for word in words)
        since_maybe = last if _complete(counted, arrived) else floor.stamp
    elif words:
        about = [word for word in words if word.about and word.about[0] == image]
        if about:
            newest = max(about, key=_version)
            assert newest.about is not None
            if newest.about[1]:
                return "must" if now < newest.stamp + MINIMUM_AGE else "may"
            since_sure = since_maybe = newest.stamp
    oldest = min((f.stamp for f in (*sure, *maybe)), default=0)
    for fact in sure:
        begins = fact.stamp if fact.touches else oldest
        if fact.stamp >= maybe_gone and fact.stamp > since_sure and now < begins + MINIMUM_AGE:
            return "must"
    if any(f.stamp >= gone and f.stamp > since_maybe for f in (*sure, *maybe)):
        return "may"
    return "not"


def _complete(words: list[Word], arrived: Arrived) -> bool:
    """Tell whether no word is missing since the last snapshot, and none came after a silence in
    which the host may have been given up."""
    versions = sorted(word.version for word in words)
    first = versions[0]
    gapless = versions == [(first[0], first[1] + n) for n in range(len(versions))]
    times = sorted(arrived.sure[word] for word in words)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    return gapless and all(pause < AGENT_TIMEOUT for pause in pauses)
