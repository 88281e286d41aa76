"""The policies: Nova's default weighers, and beside them what each one adds.

Each gets the same: the hosts' records (HostStates) and the index. All weights are from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from nova.scheduler import weights

import weigher
from bus_cache.index import reader
from simulator.cloud import Index
from weigher import guard

MIB = 2**20


class ModelGuard(guard.Guard):
    """Stands where the weigher has its reader of Redis: the narrowest place without a server."""

    def __init__(self, index: Index) -> None:
        def no_client(_: object) -> NoReturn:
            raise RuntimeError("The simulator has no Redis")

        super().__init__(no_client, "model", math.inf)
        self._index = index

    def _ask(self, image_id: str, hosts: Sequence[str], deadline: float) -> reader.Found:
        """Tell what the model's index says."""
        asked = frozenset(hosts)
        held, coming = self._index.held[image_id], self._index.coming[image_id]
        return reader.Found(asked, asked & held, frozenset(coming))


def bus_cache(index: Index) -> Any:
    """Return the product's weigher as nova-scheduler makes it, with the model's index and clock."""
    real = weigher.ImageCacheWeigher()
    real._guard = ModelGuard(index)
    real._clock = index.now
    return real


class _Weigher(weights.BaseHostWeigher):  # type: ignore[misc]
    minval, maxval = 0, 1

    def __init__(self, index: Index, multiplier: float) -> None:
        self._index = index
        self._multiplier = multiplier

    def weight_multiplier(self, host_state: Any) -> float:
        return self._multiplier

    def _weigh_object(self, host_state: Any, request_spec: Any) -> float:
        raise NotImplementedError

    def _holds(self, weighed: Sequence[Any], request_spec: Any) -> list[bool]:
        held = self._index.held[request_spec.image.id]
        return [each.obj.host in held for each in weighed]


class Flat(_Weigher):
    """Proposed for Nova in 2016 (an image cache weigher): has it 1, else 0."""

    def weigh_objects(self, weighed: Sequence[Any], request_spec: Any) -> list[float]:
        return [float(held) for held in self._holds(weighed, request_spec)]


class KubernetesImageLocality(_Weigher):
    """pkg/scheduler/framework/plugins/imagelocality/image_locality.go of Kubernetes.

    The image's size times the share of all nodes that have it, cut to 23 MiB .. 1000 MiB (of one
    container) and scaled in between. Its weight among Kubernetes' default plugins is 1, as that of
    free resources, so its multiplier here is 1.
    """

    _LEAST, _MOST = 23 * MIB, 1000 * MIB

    def weigh_objects(self, weighed: Sequence[Any], request_spec: Any) -> list[float]:
        # all nodes, not just the candidates
        spread = len(self._index.held[request_spec.image.id]) / self._index.hosts
        size = int(request_spec.image.size * spread)
        score = (min(max(size, self._LEAST), self._MOST) - self._LEAST) / (self._MOST - self._LEAST)
        return [score if held else 0.0 for held in self._holds(weighed, request_spec)]


class InverseHolders(_Weigher):
    """The opposite of Kubernetes' share: the fewer candidates hold it, the more it weighs."""

    def weigh_objects(self, weighed: Sequence[Any], request_spec: Any) -> list[float]:
        holds = self._holds(weighed, request_spec)
        return [1.0 / sum(holds) if held else 0.0 for held in holds]


POLICIES: dict[str, Callable[[Index], list[Any]]] = {
    "nova_default": lambda index: [],
    "flat_1": lambda index: [Flat(index, 1.0)],
    "flat_10": lambda index: [Flat(index, 10.0)],
    "k8s_image_locality": lambda index: [KubernetesImageLocality(index, 1.0)],
    # above what Nova's own weighers of room add up to, as a held image should decide
    "inverse_holders": lambda index: [InverseHolders(index, 7.0)],
    "bus_cache": lambda index: [bus_cache(index)],
}
"""Name → what makes the weighers that it adds, for one process of nova-scheduler."""

CLAIRVOYANT = "clairvoyant"

ALL = [*POLICIES, CLAIRVOYANT]
