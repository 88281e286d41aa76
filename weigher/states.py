"""What is read of Nova's objects. Any field may be unset or odd: nothing is raised then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from nova.scheduler import utils

KEY = "image_cache_weight_multiplier"
"""In an aggregate's metadata: overrides the option ``multiplier`` for the aggregate's hosts."""


def image(request_spec: Any) -> tuple[object, int]:
    """Return id and size in bytes of the image that the instance's host would cache.

    The id is None where there is none. A server on a volume has none, even where its request
    names an image: that one is for Cinder, to fill the volume (``is_bfv`` in nova/compute/api.py).
    An unknown size is 0 and so weighs nothing, as all that is unknown; Nova itself makes it 0
    where Glance knows none (``from_dict`` in nova/objects/image_meta.py).
    """
    if field(request_spec, "is_bfv"):
        return None, 0
    image = field(request_spec, "image")
    size = field(image, "size")
    return field(image, "id"), size if isinstance(size, int) else 0


def ram_mb(request_spec: Any) -> int:
    """Return the server's RAM in MiB; 0 where it is unset."""
    found = field(request_spec, "memory_mb")
    return found if isinstance(found, int) else 0


def soft_policy(request_spec: Any) -> str:
    """Return the policy of the server's group where Nova has a weigher for it, else nothing.

    Soft affinity and anti-affinity are what a user asked for, and weigh 1.0 by default
    (nova/scheduler/weights/affinity.py): what an image saves would outweigh it.
    """
    policy = field(field(request_spec, "instance_group"), "policy")
    return policy if policy in ("soft-affinity", "soft-anti-affinity") else ""


class Hosts(NamedTuple):
    """What is read of candidates' HostStates: a value for each in each column."""

    host: list[str]
    builds: list[float]
    """``num_io_ops``; infinite where not all is known of the host: so it weighs nothing."""
    free_ram_mb: list[float]
    instances: list[Any]
    """``num_instances``; anything else than a number where it is odd."""


def read(states: Sequence[Any]) -> Hosts:
    """Read HostStates.

    :raises AttributeError: one has no ``host``.
    """
    hosts = [state.host for state in states]
    try:
        # four loops are the fastest way: one that makes tuples has them collected as garbage
        builds = [state.num_io_ops for state in states]
        free = [state.free_ram_mb for state in states]
        if math.isfinite(sum(builds)) and math.isfinite(sum(free)):
            return Hosts(hosts, builds, free, [state.num_instances for state in states])
    except (AttributeError, TypeError, OverflowError):
        pass
    known = [
        (_number(field(state, "num_io_ops")), _number(field(state, "free_ram_mb")))
        for state in states
    ]
    return Hosts(
        hosts,
        [math.inf if None in each else each[0] or 0 for each in known],
        [each[1] or 0 for each in known],
        [field(state, "num_instances") for state in states],
    )


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and abs(value) < 2**63 else None


def own_multipliers(states: Sequence[Any], configured: float) -> dict[int, float]:
    """Return the multipliers of the hosts whose aggregates name one, by the host's ``id()``.

    Many hosts are in the same aggregates: Nova is asked once for each set of these, if one of it
    names a multiplier. Where aggregates are none of Nova's, each host is looked at for itself.
    """
    try:
        # the objects are shared between hosts by HostManager (nova/scheduler/host_manager.py), and
        # hashed by what they are, not by what they say
        sets = [tuple(state.aggregates) for state in states]
        found = {
            aggregates: own_multiplier(state, configured)
            for aggregates, state in dict(zip(sets, states, strict=True)).items()
            if any(KEY in each.metadata for each in aggregates)
        }
        if not found:
            return {}
        return {
            id(state): found[aggregates]
            for aggregates, state in zip(sets, states, strict=True)
            if aggregates in found
        }
    except Exception:
        return {id(state): own_multiplier(state, configured) for state in states}


def own_multiplier(state: Any, configured: float) -> float:
    """Return what Nova says is a host's multiplier; the configured one where that is no number."""
    try:
        multiplier = utils.get_weight_multiplier(state, KEY, configured)
        return multiplier if math.isfinite(multiplier) else configured
    except Exception:
        return configured


def field(thing: Any, name: str) -> Any:
    """Return a field; None where it is unset, for which Nova's objects raise various things."""
    try:
        return getattr(thing, name)
    except Exception:
        return None
