"""A weigher for nova-scheduler: hosts that already hold the image of an instance weigh more.

In nova.conf::

    [filter_scheduler]
    weight_classes = nova.scheduler.weights.all_weighers,weigher.ImageCacheWeigher
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import nova.conf
from nova.scheduler import utils, weights
from oslo_log import log as logging

from bus_cache import conf, connect, names
from bus_cache.conf import common, image_cache_weigher
from bus_cache.index import reader
from weigher import policy

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
    were not there. That the index can't be read, or can be again, is logged once. What is
    no Exception but a BaseException passes: an eventlet.Timeout or a GreenletExit is meant for
    the caller.

    One object serves all threads of a process and the processes forked from it. Each process makes
    its own client for Redis at its first call.
    """

    minval = 0
    maxval = 1

    def __init__(self) -> None:
        """Register and check the options. A wrong value is logged, and everything weighs 0."""
        self._call = _Call()
        self._reader: tuple[int, reader.Reader] | None = None
        self._trouble: str | None = None
        try:
            conf.register(CONF, GROUPS)
            conf.check(CONF, GROUPS)
            group = CONF[common.GROUP]
            where = connect.parse(group.redis_url)
            LOG.info("Cached images are looked up at %s, keyspace %s", where, group.keyspace)
        except Exception as error:
            self._lost(logging.ERROR, str(error).rstrip("."))

    def weigh_objects(
        self, weighed_obj_list: Sequence[weights.WeighedHost], request_spec: Any
    ) -> list[float]:
        """Return the weight of each host for an instance, from 0 to 1.

        Asks Redis once at the most; each connect and each read ends with the time budget.

        :param weighed_obj_list: candidates; ``.obj`` is a HostState
            (nova/scheduler/host_manager.py).
        :param request_spec: nova.objects.RequestSpec; any of its fields may be unset.
        """
        started = time.monotonic()
        self._call.multiplier = 0.0
        try:
            result, said = self._weigh([weighed.obj for weighed in weighed_obj_list], request_spec)
        except Exception as error:
            result, said = [0.0] * len(weighed_obj_list), _explain(error)
            self._lost(logging.WARNING, said)
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

    def _weigh(self, hosts: Sequence[Any], request_spec: Any) -> tuple[list[float], str]:
        """Return the weights and, for people, why they are so. May raise anything."""
        nothing = [0.0] * len(hosts)
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
        if multiplier == 0.0 and not any(self.weight_multiplier(host) for host in hosts):
            return nothing, f"{image} has multiplier 0 on all hosts"
        holds = self._holders(str(image_id), [host.host for host in hosts])
        result = policy.weights(holds, saved)
        return result, f"{image} weighs {max(result, default=0.0):.3f}, held by {sum(holds)}"

    def _holders(self, image_id: str, hosts: Sequence[str]) -> list[bool]:
        """Tell for each host whether it holds the image. May raise anything."""
        known = self._reader
        # Never a client from before a fork: a thread that did not come along may hold its locks.
        if known is None or known[0] != os.getpid():
            budget = CONF[image_cache_weigher.GROUP].time_budget
            client = conf.redis_client(CONF, most_seconds=budget, client_name="bus-cache-weigher")
            known = os.getpid(), reader.Reader(client, CONF[common.GROUP].keyspace)
            self._reader = known
        holds = known[1].holders(image_id, hosts)
        if self._trouble is not None:
            self._trouble = None
            LOG.info("Cached images are known again, and weigh")
        return holds

    def _lost(self, level: int, reason: str) -> None:
        """Log that nothing is known of cached images, unless that was said already."""
        if self._trouble is None:
            self._trouble = reason
            LOG.log(level, "Cached images weigh nothing until this is over: %s", reason)


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


def _explain(error: Exception) -> str:
    """Return what went wrong on one line of bounded length; the kind of error tells most."""
    return f"{type(error).__name__}: {connect.explain(error)}"
