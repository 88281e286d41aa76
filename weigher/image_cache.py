"""The class that nova-scheduler loads: what a call of Nova's becomes questions and weights."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nova.conf
from nova.scheduler import weights
from oslo_config import cfg
from oslo_log import log as logging

from bus_cache import conf, connect, names
from bus_cache.conf import common, image_cache_weigher
from bus_cache.index import reader
from weigher import decisions, guard, policy, states
from weigher.textfile import Textfile

CONF = nova.conf.CONF
LOG = logging.getLogger("weigher")

GROUPS = [
    (common.GROUP, common.OPTIONS),
    (image_cache_weigher.GROUP, image_cache_weigher.OPTIONS),
]


class _Call(threading.local):
    """What a call of weigh_objects leaves for weight_multiplier, called next in its thread."""

    multipliers: tuple[float, dict[int, float]] = 0.0, {}
    """As configured; and of hosts whose aggregates say another one, by the host's ``id()``."""


class ImageCacheWeigher(weights.BaseHostWeigher):  # type: ignore[misc]
    """Weighs hosts by what it saves to have a server there, whose image they hold or fetch:
    :mod:`weigher.policy`.

    Nothing that goes wrong leaves it: what it does not know weighs 0, and Nova schedules as if it
    were not there. That the index can't be read, or can be again, is logged once, by the first
    call that sees it. What is no Exception but a BaseException passes: an eventlet.Timeout or a
    GreenletExit is meant for the caller.

    One object serves all threads of a process and the processes forked from it. How a call
    returns in time, whatever Redis does: :mod:`weigher.guard`.
    """

    minval = 0
    maxval = 1

    def __init__(self) -> None:
        """Register and check the options. A wrong one is logged, and switches the weigher off."""
        self._call = _Call()
        self._clock = time.monotonic
        self._decisions = decisions.Decisions()
        self._guard: guard.Guard | None = None
        self._warned_at = -math.inf
        self._textfile: Textfile | None = None
        try:
            conf.register(CONF, GROUPS)
            conf.check(CONF, GROUPS)
            group = CONF[common.GROUP]
            where = connect.parse(group.redis_url)
            if where.tls:
                connect.check_files(conf.tls_files(CONF))
            self._budget: float = CONF[image_cache_weigher.GROUP].time_budget
            make_client = functools.partial(_make_client, CONF)
            self._guard = guard.Guard(make_client, group.keyspace, self._budget)
            folder = CONF[image_cache_weigher.GROUP].metrics_folder
            if folder:
                self._textfile = Textfile(Path(folder), functools.partial(_state, self._guard))
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            LOG.error("Cached images weigh nothing until nova-scheduler is restarted: %s", reason)
        else:
            LOG.info("Cached images are looked up at %s, keyspace %s", where, group.keyspace)

    @property
    def counters(self) -> guard.Counters:
        """What happened to the calls of this process so far."""
        return self._guard.counters if self._guard else guard.Counters()

    def weigh_objects(
        self, weighed_obj_list: Sequence[weights.WeighedHost], request_spec: Any
    ) -> list[float]:
        """Return the weight of each host for an instance, from 0 to 1.

        Asks Redis once at the most, and not at all where it asked for the image a moment ago;
        returns within the time budget.

        :param weighed_obj_list: candidates; ``.obj`` is a HostState
            (nova/scheduler/host_manager.py).
        :param request_spec: nova.objects.RequestSpec; any of its fields may be unset.
        """
        started = self._clock()
        self._call.multipliers = 0.0, {}
        nothing = [0.0] * len(weighed_obj_list)
        if self._guard is None:
            return nothing
        try:
            hosts = [each.obj for each in weighed_obj_list]
            result, said = self._weigh(hosts, request_spec, started)
        except guard.NotKnown as error:
            result, said = nothing, str(error)
            if isinstance(error, guard.Unreadable):
                self._warn(said)
        except Exception as error:
            result, said = nothing, guard.explain(error)
            self._warn(said)
        self._tell_changes()
        spent = self._clock() - started
        LOG.debug("Cached image: %s; %d candidates, %.1f ms", said, len(result), 1000 * spent)
        self._measure(spent)
        return result

    def weight_multiplier(self, host_state: Any) -> float:
        """Return a host's multiplier for the weight that this thread's last call found.

        Nova's own rule (``get_weight_multiplier`` in nova/scheduler/utils.py): its aggregates', the
        smallest of several counts, else the configured one; what is no number is passed over
        with a warning. So are infinity and NaN here: times a weight of 0 they are NaN, which
        has no place in an order of hosts. Where no host has the image no aggregate is looked at.
        """
        configured, own = self._call.multipliers
        return own.get(id(host_state), configured) if own else configured

    def _weigh_object(self, host_state: Any, request_spec: Any) -> float:
        """Return 0. Nova demands the method; one host alone, without rivals, gains nothing."""
        return 0.0

    def _weigh(self, hosts: list[Any], request_spec: Any, now: float) -> tuple[list[float], str]:
        """Return the weights and, for people, why they are so. May raise anything."""
        assert self._guard is not None
        group = CONF[image_cache_weigher.GROUP]
        options = policy.options(group)
        multiplier = group.multiplier
        self._call.multipliers = multiplier, {}

        image_id, size = states.image(request_spec)
        image = f"{image_id} of {size} bytes"
        why = ""
        if not hosts:
            return [], "no hosts"
        if not names.is_valid_name(image_id):
            image_id, why = "", "none to look for"
        elif policy.saving(size, options.small_image, options.large_image) == 0.0:
            why = f"{image} is too small to weigh"
        elif group_policy := states.soft_policy(request_spec):
            why = f"{image} weighs nothing beside its server group's {group_policy}"
        elif multiplier == 0.0 and not any(states.own_multipliers(hosts, multiplier).values()):
            why = f"{image} has multiplier 0 on all hosts"
        image_id = str(image_id)
        read = states.read(hosts)
        try:
            if not why:
                found = self._guard.look(image_id, read.host, now, now + self._budget)
        finally:  # it is built all the same
            fresh = self._decisions.show(now, image_id, request_spec, hosts, read.instances)
        if why:
            return [0.0] * len(hosts), why

        builds, crowds = _builds(read, fresh)
        candidates = policy.Candidates(
            _there(read.host, found, fresh),
            builds,
            read.free_ram_mb,
            _begun(read.host, fresh),
            crowds,
        )
        if not any(candidates.there) and candidates.unseen < options.most_builds:
            return [0.0] * len(hosts), f"{image} is held by 0, on its way to 0: makes no difference"
        measure = functools.partial(policy.scale, size, states.ram_mb(request_spec), options)
        result, said = self._score(hosts, read.host, candidates, measure)
        return result, f"{image} {said}"

    def _score(
        self,
        hosts: Sequence[Any],
        named: Sequence[str],
        candidates: policy.Candidates,
        measure: Callable[[policy.Candidates], policy.Scale],
    ) -> tuple[list[float], str]:
        """Return what the policy makes of hosts, and why. Those with multiplier 0 are left alone,
        and others are not measured by them: neither by their RAM, nor by what is sent to them."""
        result = [0.0] * len(hosts)
        configured, _ = self._call.multipliers
        own = states.own_multipliers(hosts, configured)
        self._call.multipliers = configured, own
        weighed, left = candidates, 0
        if configured == 0.0 or 0.0 in own.values():
            places = [
                place for place, host in enumerate(hosts) if own.get(id(host), configured) != 0.0
            ]
            if not places:
                return result, "has multiplier 0 on all hosts"
            weighed, left = candidates.only(places), len(hosts) - len(places)
        if weighed.crowds and len({configured, *own.values()} - {0.0}) > 1:
            # what all others gain would draw servers to the hosts of some aggregates
            weighed = weighed._replace(crowds={})
        scale = measure(weighed)
        weights = policy.weights(scale, weighed)
        if left:
            for place, weight in zip(places, weights, strict=True):
                result[place] = weight
            hosts, named = [hosts[place] for place in places], [named[place] for place in places]
        else:
            result = weights
        if not LOG.isEnabledFor(logging.DEBUG):
            return result, ""
        held, coming = (candidates.there.count(part) for part in (policy.HELD, policy.COMING))
        where = f"is held by {held}, on its way to {coming}"
        if left:
            where += f"; {left} have multiplier 0"
        multipliers = [self.weight_multiplier(host) for host in hosts]
        return result, where + _why(named, scale, weighed, weights, multipliers)

    def _tell_changes(self) -> None:
        """Log that Redis was lost or is found again: each once, unless it flaps."""
        change = self._guard.change() if self._guard else None
        if change is None:
            return
        trouble, withheld = change
        more = f" ({withheld} changes before it are not logged)" if withheld else ""
        if trouble is None:
            LOG.info("Cached images are known again, and weigh%s", more)
        else:
            LOG.warning("Cached images weigh nothing until this is over: %s%s", trouble, more)

    def _measure(self, spent: float) -> None:
        """Count a call, where metrics are wanted."""
        if self._textfile is None:
            return
        try:
            self._textfile.note(spent)
            trouble = self._textfile.trouble
        except Exception as error:  # no thread can be made
            trouble = guard.explain(error)
        if trouble:
            self._warn(trouble, "Metrics can't be written: %s")

    def _warn(self, said: str, text: str = "A cached image weighs nothing: %s") -> None:
        """Log what concerns one call; once a minute at the most."""
        now = time.monotonic()
        if now - self._warned_at >= 60.0:
            self._warned_at = now
            LOG.warning(text, said)


def _make_client(
    options: cfg.ConfigOpts, on_connection: Callable[[connect.Connection], None]
) -> connect.Client:
    """Return a client for the Redis that nova.conf names."""
    return conf.redis_client(options, client_name="bus-cache-weigher", on_connection=on_connection)


def _state(asks: guard.Guard) -> tuple[guard.Counters, bool]:
    """Return what metrics tell of a process."""
    return asks.counters, asks.trouble is not None


def _there(hosts: Sequence[str], found: reader.Found, fresh: decisions.Fresh) -> list[float]:
    """Return for each host whether it has the image, in the policy's words."""
    held, coming = found.held, found.coming | fresh.fetching
    return [
        policy.HELD if host in held else policy.COMING if host in coming else policy.ABSENT
        for host in hosts
    ]


def _builds(
    read: states.Hosts, fresh: decisions.Fresh
) -> tuple[Sequence[float], Mapping[int, float]]:
    """Return how many builds each host has, by its record, or what was sent there since, if that is
    more; and the latter by the host's place."""
    sent = fresh.sent
    if not sent:
        return read.builds, {}
    builds = [
        max(known, sent[host]) if host in sent else known
        for host, known in zip(read.host, read.builds, strict=True)
    ]
    if len(set(read.host)) < len(read.host):
        return builds, {}  # a host's servers are not those of each of its nodes
    pairs = enumerate(zip(builds, read.builds, strict=True))
    return builds, {place: now for place, (now, known) in pairs if now > known}


def _begun(hosts: Sequence[str], fresh: decisions.Fresh) -> frozenset[int]:
    """Return the places of hosts to which this process sent servers of the image just now."""
    begun = fresh.begun
    if not begun:
        return frozenset()
    return frozenset(place for place, host in enumerate(hosts) if host in begun)


def _why(
    hosts: Sequence[str],
    scale: policy.Scale,
    candidates: policy.Candidates,
    result: Sequence[float],
    multipliers: Sequence[float],
) -> str:
    """Return for people, who know where the image is, what hosts gain, and why."""
    there, builds, *_ = candidates
    where = (
        f"; {candidates.unseen:g} were sent to one whose record has fewer" if scale.spare else ""
    )
    gains = [weight * times for weight, times in zip(result, multipliers, strict=True)]
    gain = len(gains) - gains.count(0.0)
    if gain:
        which = gains.index(max(gains, key=abs))
        shares = policy.shares(scale, candidates, which)
        return (
            f"{where}; {gain} gain, {hosts[which]} most: {gains[which]:.3f} = "
            f"{multipliers[which]:g} x {shares}, building {builds[which]:g}"
        )
    if not scale.differs:
        return f"{where}: makes no difference"
    having = [number for number, part in enumerate(there) if part]
    busy = sum(builds[number] >= scale.most_builds for number in having)
    return (
        f"{where}: {busy} of these build {scale.most_builds:g} or more, "
        f"{len(having) - busy} would have less free RAM than others"
    )
