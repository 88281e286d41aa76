"""The consumer: reads one bus, turns notifications into changes, writes them, then acknowledges.

A message is acknowledged only when what it says is in Redis, or when it says nothing. So whatever
dies at whatever moment, a message is handled at least once, and handling it twice changes nothing.
"""

from __future__ import annotations

import collections
import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from oslo_log import log as logging

from bus_cache import protocol
from bus_cache.conf import consumer as conf
from bus_cache.index.changes import AgentSnapshot, Change, Held, HostDeleted, Source
from bus_cache.index.writer import SchemaError, Unavailable, Writer
from consumers import events, evidence
from consumers.agents import Agents
from consumers.bus import Bus, BusError, Delivery, Topology
from consumers.measures import BOOTS, Measures
from consumers.pacing import Backoff, Limit
from consumers.sweep import Sweep
from consumers.transport import Transport

LOG = logging.getLogger(__name__)

LINGER = 0.02
"""Seconds that a change may wait for others to share its round trip, while more is here already."""

PATIENCE = 60.0
"""Seconds without Redis after which messages go back to the queue and consuming stops. RabbitMQ
closes a channel on which a message stays unacknowledged for 30 minutes."""

HOLD = 1.0
"""Seconds for which a message that says nothing may stay unacknowledged under a steady stream."""

MOST_CHANGES = 5000
"""Changes in hand that are written though the batch is not full, each image of a snapshot counting
as one: a bound on memory."""

MOST_HELD = 50_000
"""Changes in hand while Redis is away, counted likewise, with which messages go back to the queue
at once: a bound on memory."""

DEPTH = 10.0
"""Seconds between two looks at how many messages wait in our queues."""

RENEWAL = 30.0
"""Seconds between declarations of our queue while we do not read it: it must not expire."""

STEADY = 30.0
"""Seconds for which a connection must have held for the next one to be tried at once when it ends:
one that ends as soon as it is used must not be made anew ten times a second."""

LONGEST_PAUSE = 5.0
"""Seconds between two tries at a Redis that is away, at the most; half a minute for a broker."""

PRESENT = 90.0
"""Seconds for which it is remembered in Redis that we read, told anew at each third of that: so
that one can see whether somebody else takes messages from our queue."""

UPKEEP = 600.0
"""Seconds between two looks at what grows: unread queues, images that nobody holds."""

FIRST_LOOK = 60.0
"""Seconds after the start until the second look at unread queues."""

REMIND = 600.0
"""Seconds after which an outage that lasts is logged again."""

KEEP_UNHELD = 30 * 24 * 3600
"""Seconds for which an image that no host holds is remembered, with its id and size."""

_SELDOM = ("given_back", "managed", "inferred", "asked", "vanished", "aged_out")
_SUMMARY = ("received", "irrelevant", "malformed", "applied", "refused", "dropped", *_SELDOM)

KINDS = frozenset((*evidence.RULES, *protocol.EVENTS))
"""Types of messages that are counted by name; whoever publishes can make up others."""

COMPLAINTS = 20
"""Lines per minute about messages that can't be understood; the rest is counted."""


class Rules:
    """What the configuration says about evidence; replaced as a whole when it is read again."""

    def __init__(
        self, ignore_hosts: Sequence[str] = (), live_migration_evidence: bool = True
    ) -> None:
        """Take the values of the options of these names in ``[consumer]``."""
        self.ignore_hosts = list(ignore_hosts)
        self.live_migration_evidence = live_migration_evidence

    def admit(self, change: Change) -> bool:
        """Tell whether a change may enter the index."""
        live_migrated = isinstance(change, Held) and change.source is Source.LIVE_MIGRATION
        if live_migrated and not self.live_migration_evidence:
            return False
        host = None if isinstance(change, HostDeleted) else getattr(change, "host", None)
        return not (host and self.ignore_hosts and conf.matches(host, self.ignore_hosts))


class Consumer:
    """Reads one bus into one keyspace until it is told to stop.

    :ivar counts: what happened so far, by name: ``received``, ``irrelevant``, ``malformed``,
        ``applied`` (changes written), ``refused`` (changes that Redis refuses for good),
        ``batches``, ``acknowledged``, ``given_back`` (to the queue), ``dropped`` (messages that the
        broker dropped from our full queue), ``connections``; and those of
        :class:`~consumers.agents.Agents` and :class:`~consumers.sweep.Sweep`.
    :ivar measures: what else is measured.
    """

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        writer: Writer,
        rules: Rules,
        *,
        agents: Agents | None = None,
        sweep: Sweep | None = None,
        may_sweep: Callable[[], bool] = lambda: True,
        on_loss: Callable[[str], None] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Take a bus, what to read on it, and where to write.

        :param agents: looks after the agents of this bus.
        :param sweep: takes out what has aged out.
        :param may_sweep: tells whether what else writes this keyspace has caught up, too: what
            waits on another bus may tell that an image is in use.
        :param on_loss: is told why the index may lack something that was on this bus.
        :param patience: seconds; see :data:`PATIENCE`.
        """
        self.counts: collections.Counter[str] = collections.Counter()
        self.measures = Measures()
        writer.on_fetching = self.measures.boots.answered
        self.rules = rules
        self._agents = agents
        self._sweep = sweep
        self._may_sweep = may_sweep
        for each in (agents, sweep):
            if each is not None:
                each.counts = self.counts
        self._on_loss = on_loss or (lambda reason: None)
        self._bus = Bus(transport, topology, self._on_delivery, self._on_dropped)
        # half of what the broker hands out ahead: the other half arrives while a batch is written
        self._batch = max(1, topology.prefetch // 2)
        self._writer = writer
        self._patience = patience
        self._stop = threading.Event()
        self._changes: list[Change] = []
        self._weight = 0
        self._unacknowledged = 0
        self._steady_since = 0.0
        self._seen_empty = self._caught_up = False
        self._first = 0.0
        self._oldest = 0.0
        self._redis = _State(f"Redis (for {self._bus})")
        self._broker = _State(str(self._bus))
        self._complaints = Limit(COMPLAINTS)
        self._drop_reasons: set[str] = set()
        self._drops_told = 0
        self._drops_seen = 0
        self._purge = True
        self._next_upkeep = 0.0
        self._next_look = 0.0
        self._next_renewal = 0.0
        self._next_depth = 0.0
        self._name = f"{socket.gethostname()}:{secrets.token_hex(4)}"
        self._next_telling = 0.0
        self._waiting: dict[str, int] | None = None
        self._warned: dict[str, int] = {}

    def stop(self) -> None:
        """Ask :meth:`run` to write and acknowledge what it has in hand, and to return. From any
        thread."""
        self._stop.set()

    @property
    def bus(self) -> str:
        """The bus for people, without a password."""
        return str(self._bus)

    @property
    def writer(self) -> Writer:
        """What writes the index."""
        return self._writer

    @property
    def caught_up(self) -> bool:
        """Whether all that waited on the bus is in the index, and what comes gets there at once."""
        return self._caught_up and self._bus.consuming

    @property
    def waits_for(self) -> dict[str, str]:
        """What is away, and why: of ``bus`` and ``redis``; empty where all works."""
        states = {"bus": self._broker, "redis": self._redis}
        return {name: each.trouble for name, each in states.items() if not each.is_up}

    def use(self, rules: Rules) -> None:
        """Go on with other rules. From any thread."""
        self.rules = rules
        self._purge = True

    def run(self) -> None:
        """Read until :meth:`stop`. A broker or a Redis that is away is waited for."""
        pause = Backoff(30.0)
        while not self._stop.is_set():
            failure, connected = "", 0.0
            self.measures.turn = time.monotonic()
            self._seen_empty = self._caught_up = False
            try:
                self._bus.open()
                self._bus.consume()
                connected = time.monotonic()
                self.counts["connections"] += 1
                self._broker.up(f"reading {', '.join(self._bus.topology.queues)}")
                self._steady_since = time.monotonic()
                self._tell_of_loss()
                self._next_look = 0.0
                self._waiting = None
                self._read()
            except BusError as error:
                failure = str(error)
            finally:
                if connected and time.monotonic() - connected >= STEADY:
                    pause.reset()
                self._forget()
                self._bus.close()
            if failure:
                self._broker.down(failure)
            self._stop.wait(pause.next() if not self._stop.is_set() else 0)

    # -- the loop --------------------------------------------------------------------------

    def _read(self) -> None:
        beat = time.monotonic()
        while not self._stop.is_set():
            # With something in hand, look only whether more is here already. In a storm it is: what
            # comes while a batch is written makes the next one.
            got = self._bus.drain(0.0 if self._changes and not self._redis.is_down else 0.5)
            now = time.monotonic()
            if not got or self._is_due(now):
                self._flush(now)
            if now - beat >= 1.0:
                beat = self.measures.turn = now
                self._bus.heartbeat()
                self._keep_up(now)
        if self._bus.consuming:
            self._bus.cancel()
            self._redis.retry_now()
            self._flush(time.monotonic())
        if self._redis.is_up:
            with contextlib.suppress(Unavailable, SchemaError):
                self._writer.reads_no_more(self._name, self._bus.topology.pool)
        if self._agents is not None:
            self._agents.stop()
        LOG.info("%s: stopping; in all %s", self._bus, _summary(self.counts))

    def _is_due(self, now: float) -> bool:
        """Whether to write or acknowledge though more is coming: much in hand, or for long."""
        if self._unacknowledged >= self._batch or self._weight >= MOST_CHANGES:
            return True
        if self._unacknowledged and now - self._first >= HOLD:
            return True
        return bool(self._changes) and now - self._oldest >= LINGER

    def _flush(self, now: float) -> None:
        """Write what is in hand, then acknowledge; where Redis is away, later."""
        much = self._weight >= MOST_HELD
        if self._redis.is_down and not self._redis.may_retry(now) and not much:
            return
        failure, reason = "", ""
        try:
            if self._changes:
                self._write()
            elif not self._redis.is_up:
                self._writer.probe()
        except Unavailable as error:
            failure = str(error)
        except SchemaError as error:  # a newer consumer is there, and reads the same queue
            failure, reason = str(error), "The keyspace is another version's"
        if failure:
            self._redis.down(failure)
            self._seen_empty = self._caught_up = False
            if much:
                reason = reason or "Redis is away for what is in hand"
            elif self._redis.seconds_down() >= self._patience:
                reason = reason or f"Redis is away for more than {self._patience:.0f} s"
            if self._bus.consuming and reason:
                self.counts["given_back"] += self._unacknowledged
                LOG.warning(
                    "%s: %s: giving %d messages back to the queue "
                    "and not consuming until it can be written again",
                    self._bus,
                    reason,
                    self._unacknowledged,
                )
                self._forget()
                self._bus.give_back()
            return
        if not self._redis.is_up:
            self._redis.up("in use")
            self._steady_since = time.monotonic()
            self._warn_of_eviction()
        acknowledged = self._unacknowledged
        self._forget()
        if self._bus.consuming:
            self._bus.acknowledge()
            self.counts["acknowledged"] += acknowledged
        else:
            self._bus.consume()

    def _write(self) -> None:
        refused = self._writer.apply(self._changes)
        self.measures.written(self._changes)
        self.counts["batches"] += 1
        self.counts["applied"] += len(self._changes)
        for changes, reason in refused:
            self.counts["refused"] += len(changes)
            self.counts["applied"] -= len(changes)
            if self._complaints.allow():
                LOG.error(
                    "Redis refuses %s: %s. Is its key somebody else's?%s",
                    str(changes[0])[:200],
                    reason,
                    self._complaints.held_back(),
                )

    def _forget(self) -> None:
        self._changes = []
        self._weight = 0
        self._unacknowledged = 0
        self.measures.boots.forget()

    def _keep_up(self, now: float) -> None:
        """Do what is due from time to time: it may wait, so a failure is left for the next time."""
        self._tell_of_drops()
        if now >= self._next_depth:
            self._next_depth = now + DEPTH
            self.measures.depths = self._bus.depths()
        if now >= self._next_look:
            self._look_for_unread(now)
        if now >= self._next_renewal and (self._bus.incomplete or not self._bus.consuming):
            self._next_renewal = now + RENEWAL
            self._bus.renew()
            self._tell_of_loss()
        if not self._redis.is_up:
            return
        failure = ""
        try:
            self._tell_that_we_read(now)
            self._attend(now)
            if self._sweep is not None and self._bus.consuming:
                self._see_whether_caught_up()
                if self._caught_up and self._may_sweep():
                    self._sweep.run(self._writer)
            if self._purge or now >= self._next_upkeep:
                self._take_out_ignored()
                self._purge = False
            if now >= self._next_upkeep:
                self._next_upkeep = now + UPKEEP
                self._writer.forget_images(_milliseconds() - KEEP_UNHELD * 1000)
                if self.counts["received"]:
                    LOG.info("%s: so far %s", self._bus, _summary(self.counts))
        except (Unavailable, SchemaError) as error:
            failure = str(error)
        if failure:
            self._redis.down(failure)
            self._seen_empty = self._caught_up = False

    def _see_whether_caught_up(self) -> None:
        """What waits on the bus may tell that an image is in use."""
        if self._seen_empty:  # what had been handed out then is written by now
            self._caught_up = True
        else:
            self._seen_empty = self._bus.waiting() == 0

    def _tell_that_we_read(self, now: float) -> None:
        if self._bus.consuming and now >= self._next_telling:
            self._writer.reads(self._name, self._bus.topology.pool, PRESENT)
            self._next_telling = now + PRESENT / 3

    def _tell_of_loss(self) -> None:
        """Tell, once, where what was published may not have come to our queues."""
        missed, self._bus.missed = self._bus.missed, ""
        if missed:
            self._on_loss(missed)
        restarted, self._bus.restarted = self._bus.restarted, False
        if restarted and self._agents is not None:  # what they said waited there
            self._agents.ask_all()

    def _attend(self, now: float) -> None:
        # who does not hear agents must not let them speak, nor find them silent
        if self._agents is None or not self._bus.reads_agents:
            return
        if self._agents.attend(self._writer, now - self._steady_since):
            self._on_loss("the keyspace was new")

    def _take_out_ignored(self) -> None:
        patterns = self.rules.ignore_hosts
        if not patterns:
            return
        ignored = [host for host in self._writer.hosts() if conf.matches(host, patterns)]
        if ignored:
            LOG.info(
                "taking %d hosts out of the index that ignore_hosts names: %s%s",
                len(ignored),
                ", ".join(sorted(ignored)[:10]),
                " ..." if len(ignored) > 10 else "",
            )
            self._writer.apply(HostDeleted(host, _milliseconds()) for host in ignored)

    def _look_for_unread(self, now: float) -> None:
        """See whether queues that Nova's publishers declare fill up unread beside our own.

        One look tells that somebody does not read; only two tell that it grows. A policy that
        bounds a queue can't be seen from here.
        """
        before, self._waiting = self._waiting, self._bus.unread()
        self._next_look = now + (FIRST_LOOK if before is None else UPKEEP)
        if before is None:
            if self._waiting:
                LOG.info(
                    "%s: nobody reads %s. Fine where a policy bounds these queues; else bound "
                    "them (rabbitmqctl set_operator_policy, see README, 'Queues'), or, if no "
                    "other service wants these notifications, read them: [consumer] pool =",
                    self._bus,
                    _listed(self._waiting),
                )
            return
        # said again at each doubling
        growing = {
            name: n
            for name, n in self._waiting.items()
            if n > before.get(name, 0) and n >= 2 * self._warned.get(name, 0)
        }
        if growing:
            self._warned.update(growing)
            LOG.warning(
                "%s: nobody reads %s, and it grows. Unless a policy bounds it (rabbitmqctl "
                "set_operator_policy, see README, 'Queues'), the broker will stop taking messages "
                "in the end, and Nova will wait for it",
                self._bus,
                _listed(growing),
            )

    def _tell_of_drops(self) -> None:
        """Say how many messages the broker dropped, once no more of them come."""
        dropped, seen = self.counts["dropped"], self._drops_seen
        self._drops_seen = dropped
        if dropped > self._drops_told and dropped == seen:
            LOG.error(
                "%s: the broker dropped its oldest messages from our queue %s, at least %d "
                "(%s): hosts may hold images that the index does not know. maxlen: the queue was "
                "full; was the consumer stopped for long, or is it too slow? Its bound is "
                "[consumer] queue_max_bytes. delivery_limit: a quorum queue handed a message "
                "out too often, while Redis or the consumer failed again and again",
                self._bus,
                self._bus.topology.pool,
                dropped - self._drops_told,
                ", ".join(sorted(self._drop_reasons)),
            )
            self._drops_told = dropped
            self._drop_reasons.clear()
            self._on_loss("the broker dropped messages")

    def _warn_of_eviction(self) -> None:
        try:
            policy = self._writer.eviction()
        except (Unavailable, SchemaError):
            return
        if policy:
            LOG.warning(
                "Redis may evict keys (maxmemory-policy %s), which makes the index wrong: set "
                "it to noeviction",
                policy,
            )

    # -- messages --------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        self.counts["received"] += 1
        self._hold()
        event_type = events.peek(delivery.body)
        by_agent = delivery.queue == protocol.QUEUE
        if by_agent and delivery.exchange != protocol.EXCHANGE:
            # who may not write to the exchange may still reach a queue by the default one
            self._complain(delivery, event_type, "not by way of the agents' exchange: refused")
            return
        topology = self._bus.topology
        if topology.pool and not by_agent and delivery.exchange not in topology.exchanges:
            # who may write to our queue may bind it to an exchange of their own
            self._complain(delivery, event_type, "not by way of a service's exchange: refused")
            return
        if event_type is not None and event_type not in evidence.RULES and not by_agent:
            self.counts["irrelevant"] += 1
            return
        changes: list[Change] = []
        reason = ""
        try:
            said = events.decode(delivery.body, _milliseconds())
            changes = [
                each
                for each in (_read_agent if by_agent else evidence.read)(said)
                if self.rules.admit(each)
            ]
        except (events.Malformed, protocol.Refused) as error:
            reason = str(error)
        except Exception as error:  # a message must never stop the consumer
            LOG.debug("a rule failed", exc_info=True)
            reason = f"{type(error).__name__} in its rule"
        if reason:
            self._complain(delivery, event_type, reason)
            return
        kind = said.event_type
        if not changes:
            self.counts["irrelevant"] += 1
            self.measures.kinds[kind if kind in KINDS else "other", "ignored"] += 1
            return
        self.measures.kinds[kind, "used"] += 1
        if kind in BOOTS:
            self.measures.boots.begins(said, changes)
        if not self._changes:
            self._oldest = time.monotonic()
        self._changes += changes
        self._weight += sum(
            len(each.fingerprints) + 1 if isinstance(each, AgentSnapshot) else 1 for each in changes
        )

    def _complain(self, delivery: Delivery, event_type: str | None, reason: str) -> None:
        self.counts["malformed"] += 1
        self.measures.kinds[event_type if event_type in KINDS else "other", "malformed"] += 1
        if self._complaints.allow():
            LOG.warning(
                "ignoring a message that can't be understood: exchange %s, queue %s, %s: %s%s",
                delivery.exchange or "(default)",
                delivery.queue,
                event_type or "unknown type",
                reason,
                self._complaints.held_back(),
            )

    def _on_dropped(self, reason: str) -> None:
        self._hold()
        self.counts["dropped"] += 1
        self._drop_reasons.add(reason)

    def _hold(self) -> None:
        if not self._unacknowledged:
            self._first = time.monotonic()
        self._unacknowledged += 1


class _State:
    """Whether something is there, logged at each change; and when to try again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None
        self._seen = False
        self._next = 0.0
        self._next_line = 0.0
        self._backoff = Backoff(LONGEST_PAUSE)
        self._reason = ""

    @property
    def is_up(self) -> bool:
        """It answered when it was last asked."""
        return self._seen and self._since is None

    @property
    def is_down(self) -> bool:
        """It did not answer when it was last asked."""
        return self._since is not None

    @property
    def trouble(self) -> str:
        """Why it did not answer; before it was asked at all, that."""
        return self._reason or "not asked yet"

    def seconds_down(self) -> float:
        return 0.0 if self._since is None else time.monotonic() - self._since

    def may_retry(self, now: float) -> bool:
        return now >= self._next

    def retry_now(self) -> None:
        self._next = 0.0

    def up(self, what: str) -> None:
        if self._since is not None:
            LOG.info("%s: %s, again after %.0f s", self._name, what, self.seconds_down())
        elif not self._seen:
            LOG.info("%s: %s", self._name, what)
        self._seen = True
        self._since = None
        self._backoff.reset()

    def down(self, reason: str) -> None:
        now = time.monotonic()
        self._reason = reason = reason.rstrip(". ")
        if self._since is None:
            self._since = now
            self._next_line = now + REMIND
            LOG.error("%s: %s. Waiting for it", self._name, reason)
        elif now >= self._next_line:
            self._next_line = now + REMIND
            LOG.error(
                "%s: %s. Waiting for it for %.0f s now", self._name, reason, now - self._since
            )
        self._next = now + self._backoff.next()


def _read_agent(said: events.Notification) -> list[Change]:
    """Return what a message on the agents' queue says."""
    now = _milliseconds()
    return [protocol.read(said.event_type, said.publisher_id, said.stamp, said.data, now=now)]


def _listed(queues: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({messages} messages)" for name, messages in sorted(queues.items()))


def _summary(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name} {counts[name]}" for name in _SUMMARY if counts[name] or name not in _SELDOM
    )


def _milliseconds() -> int:
    return int(time.time() * 1000)
