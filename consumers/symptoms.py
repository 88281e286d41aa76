"""What was seen of a set-up: plain values, which :mod:`consumers.doctor` fills in and
:mod:`consumers.diagnosis` judges."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bus_cache import protocol
from bus_cache.conf.text import one_line
from consumers import events

_SHOWN = 100
"""Characters of a name that is shown."""


@dataclasses.dataclass
class Options:
    """The configuration.

    ``trouble``: why it can't be used; ``bus_trouble``: why no bus can be read by it; ``unknown``:
    names in it that are no options.
    """

    trouble: str = ""
    bus_trouble: str = ""
    unknown: Sequence[str] = ()
    topics: Sequence[str] = ()
    exchanges: Sequence[str] = ()
    pool: str = ""


@dataclasses.dataclass
class Redis:
    """A Redis and the index in it; None: not known.

    ``trouble``: why it can't be used; ``schema_trouble``: why its keyspace can't; ``refuses``: why
    it refuses to write (empty: it does not; None: not tried, since nothing is written where nothing
    is); ``ahead``: seconds that its clock is ahead of ours; ``readers``: names of consumers that
    read now, each with bus and pool; ``full``: limits that were reached.
    """

    where: str = ""
    trouble: str = ""
    schema_trouble: str = ""
    refuses: str | None = None
    evicts: str = ""
    journal: bool | None = None
    unsaved: bool = False
    ahead: float | None = None
    hosts: Collection[str] | None = None
    by_agent: int = 0
    silent: int = 0
    gaps: int = 0
    full: Sequence[tuple[str, int]] = ()
    readers: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


class Queue(NamedTuple):
    """How many messages wait in a queue, and how many consumers read it."""

    messages: int
    consumers: int


@dataclasses.dataclass
class Sound:
    """What was heard on a bus. ``kinds``: (exchange, topic, versioned, service) -> messages;
    ``ahead``: publisher -> seconds that its clock is ahead of ours, of the message that tells the
    least."""

    kinds: collections.Counter[tuple[str, str, bool, str]] = dataclasses.field(
        default_factory=collections.Counter
    )
    ahead: dict[str, float] = dataclasses.field(default_factory=dict)

    def hear(self, received: int, exchange: str, key: str, body: bytes) -> None:
        """Take a message; ``received``: by our clock, in ms since 1970."""
        try:
            said = events.decode(body, received + 10**12)
        except events.Malformed:
            return
        who = one_line(said.publisher_id)[:_SHOWN]  # whoever may publish can write anything there
        if exchange != protocol.EXCHANGE:
            versioned = b"nova_object.data" in body
            topic = one_line(key.rpartition(".")[0])[:_SHOWN]
            self.kinds[exchange, topic, versioned, who.replace(":", ".").partition(".")[0]] += 1
        skew = (said.stamp - received) / 1000
        self.ahead[who] = min(skew, self.ahead.get(who, skew), key=abs)


@dataclasses.dataclass
class Bus:
    """A message bus.

    ``brokers``: address -> why it can't be used, empty: it can; ``refused``: which right is
    missing; ``absent``: exchanges of ``[consumer] exchanges``; ``others``: name -> how what is
    there differs from what ``[oslo_messaging_rabbit]`` says; ``unjudged``: names of which the
    broker does not tell; ``looks``: what our queues were like, twice; None: there is no such queue;
    ``unread``: Nova's own queues that nobody reads -> messages, twice; ``seconds``: between the two
    looks; ``trouble``: what else went wrong.
    """

    where: str
    identity: str = ""
    brokers: dict[str, str] = dataclasses.field(default_factory=dict)
    refused: str = ""
    listening: str = ""
    absent: list[str] = dataclasses.field(default_factory=list)
    others: dict[str, str] = dataclasses.field(default_factory=dict)
    unjudged: list[str] = dataclasses.field(default_factory=list)
    looks: list[Mapping[str, Queue | None]] = dataclasses.field(default_factory=list)
    unread: list[Mapping[str, int]] = dataclasses.field(default_factory=list)
    sound: Sound | None = None
    seconds: int = 0
    trouble: str = ""

    @property
    def usable(self) -> bool:
        """Whether one of its brokers can be used."""
        return any(not trouble for trouble in self.brokers.values())


class Rabbit(NamedTuple):
    """A bus as a configuration has it: what tells it from another, and how things are declared."""

    where: str
    brokers: Sequence[str]
    declares: Mapping[str, object]


@dataclasses.dataclass
class Nova:
    """A nova.conf. ``trouble``: why it can't be read; ``weigher_trouble``: why the weigher's
    options can't be used; ``host``: where the file names one."""

    files: str
    trouble: str = ""
    drivers: Sequence[str] = ()
    retry: int = -1
    topics: Sequence[str] = ()
    versioned_topics: Sequence[str] = ()
    format: str = ""
    rabbit: Rabbit | None = None
    rabbit_trouble: str = ""
    weight_classes: Sequence[str] = ()
    weigher_trouble: str = ""
    unknown: Sequence[str] = ()
    redis: str = ""
    keyspace: str = ""
    time_budget: float = 0.0
    multiplier: float = 0.0
    images_type: str = ""
    host: str = ""

    @property
    def spoken(self) -> set[str]:
        """The topics that it publishes to."""
        found: set[str] = set()
        if self.format in ("unversioned", "both"):
            found |= set(self.topics)
        if self.format in ("versioned", "both"):
            found |= set(self.versioned_topics)
        return found


@dataclasses.dataclass
class Api:
    """What Nova's API says. ``asked``: there are credentials; ``drift``: how many differences of
    each kind among ``sampled`` hosts, and of hosts without compute service; ``examples``: some."""

    asked: bool = False
    trouble: str = ""
    ironic: Collection[str] = ()
    sampled: int = 0
    drift: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Facts:
    """All that was seen; ``ours``: the buses as our own configuration has them."""

    options: Options
    redis: Redis
    buses: list[Bus]
    ours: Sequence[Rabbit] = ()
    redis_target: str = ""
    keyspace: str = ""
    nova: Nova | None = None
    api: Api = dataclasses.field(default_factory=Api)
