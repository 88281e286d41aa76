"""A weigher for nova-scheduler: hosts that already hold the image of an instance weigh more.

In nova.conf::

    [filter_scheduler]
    weight_classes = nova.scheduler.weights.all_weighers,weigher.ImageCacheWeigher
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import nova.conf
from nova.scheduler import utils, weights
from oslo_config import cfg
from oslo_log import log as logging

from bus_cache import conf, connect, names
from bus_cache.conf import common, image_cache_weigher
from weigher import guard, policy

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

GROUPS = [
    (common.GROUP, common.OPTIONS),
    (image_cache_weigher.GROUP, image_cache_weigher.OPTIONS),
]
MIB = 2**20


class _Call(threading.local):
    """What a call of weigh_objects leaves for weight_multiplier, called next in its thread."""

    multiplier = 0.0


class ImageCacheWeigher(weights.BaseHostWeigher):  # type: ignore[misc]
    """Weighs hosts by whether they hold the image, and by what that saves.

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
        self._guard: guard.Guard | None = None
        self._warned_at = -math.inf
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

        Asks Redis once at the most, and returns within the time budget.

        :param weighed_obj_list: candidates; ``.obj`` is a HostState
            (nova/scheduler/host_manager.py).
        :param request_spec: nova.objects.RequestSpec; any of its fields may be unset.
        """
        started = time.monotonic()
        self._call.multiplier = 0.0
        nothing = [0.0] * len(weighed_obj_list)
        if self._guard is None:
            return nothing
        try:
            result, said = self._weigh(weighed_obj_list, request_spec, started + self._budget)
        except guard.NotKnown as error:
            result, said = nothing, str(error)
            if isinstance(error, guard.Unreadable):
                self._warn(said)
        except Exception as error:
            result, said = nothing, guard.explain(error)
            self._warn(said)
        self._tell_changes()
        spent = 1000 * (time.monotonic() - started)
        LOG.debug("Cached image: %s; %d candidates, %.1f ms", said, len(result), spent)
        return result

    def weight_multiplier(self, host_state: Any) -> float:
        """Return a host's multiplier: an aggregate's, else what this thread's last call read.

        Nova's own rule (nova/scheduler/utils.py): the smallest of several aggregates' counts, and
        what is no number is passed over with a warning. So are infinity and NaN here: times a
        weight of 0 they are NaN, which has no place in an order of hosts.
        """
        configured = self._call.multiplier
        try:
            multiplier = utils.get_weight_multiplier(
                host_state, "image_cache_weight_multiplier", configured
            )
            return multiplier if math.isfinite(multiplier) else configured
        except Exception:
            return configured

    def _weigh_object(self, host_state: Any, request_spec: Any) -> float:
        """Return 0. Nova demands the method; one host alone, without rivals, gains nothing."""
        return 0.0

    def _weigh(
        self, weighed: Sequence[weights.WeighedHost], request_spec: Any, deadline: float
    ) -> tuple[list[float], str]:
        """Return the weights and, for people, why they are so. May raise anything."""
        assert self._guard is not None
        nothing = [0.0] * len(weighed)
        group = CONF[image_cache_weigher.GROUP]
        small, large = group.small_image_size * MIB, group.large_image_size * MIB
        self._call.multiplier = multiplier = group.multiplier

        image_id, size = _image(request_spec)
        if not names.is_valid_name(image_id):
            return nothing, "none to look for"
        image = f"{image_id} of {size} bytes"
        saved = policy.saving(size, small, large)
        if saved == 0.0:
            return nothing, f"{image} is too small to weigh"
        if multiplier == 0.0 and not any(self.weight_multiplier(each.obj) for each in weighed):
            return nothing, f"{image} has multiplier 0 on all hosts"
        holds = self._guard.holders(str(image_id), (each.obj.host for each in weighed), deadline)
        result = policy.weights(holds, saved)
        return result, f"{image} weighs {max(result, default=0.0):.3f}, held by {sum(holds)}"

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

    def _warn(self, said: str) -> None:
        """Log what concerns one call; once a minute at the most."""
        now = time.monotonic()
        if now - self._warned_at >= 60.0:
            self._warned_at = now
            LOG.warning("A cached image weighs nothing: %s", said)


def _make_client(
    options: cfg.ConfigOpts, on_connection: Callable[[connect.Connection], None]
) -> connect.Client:
    """Return a client for the Redis that nova.conf names."""
    return conf.redis_client(options, client_name="bus-cache-weigher", on_connection=on_connection)


def _image(request_spec: Any) -> tuple[object, int]:
    """Return id and size in bytes of the image that the instance's host would cache.

    The id is None where there is none. A server on a volume has none, even where its request
    names an image: that one is for Cinder, to fill the volume (``is_bfv`` in nova/compute/api.py).
    An unknown size is 0 and so weighs nothing, as all that is unknown; Nova itself makes it 0
    where Glance knows none (``from_dict`` in nova/objects/image_meta.py).
    """
    if _field(request_spec, "is_bfv"):
        return None, 0
    image = _field(request_spec, "image")
    size = _field(image, "size")
    return _field(image, "id"), size if isinstance(size, int) else 0


def _field(thing: Any, name: str) -> Any:
    """Return a field; None where it is unset, for which Nova's objects raise various things."""
    try:
        return getattr(thing, name)
    except Exception:
        return None
