"""Which host was chosen is seen by what Nova consumed from it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from weigher import decisions


class HostState(SimpleNamespace):
    """What is looked at of Nova's; one can see whether it is there."""


def hosts(count: int = 3) -> list[Any]:
    """Return HostStates."""
    return [HostState(host=f"h{n}", num_instances=n) for n in range(count)]


def show(
    seen: decisions.Decisions,
    now: float,
    image: str,
    states: Sequence[Any],
    request: object | None = None,
) -> decisions.Fresh:
    """Show them as the weigher does; for a request of their own, unless one is given."""
    instances = [getattr(each, "num_instances", "?") for each in states]
    return seen.show(now, image, request or object(), states, instances)


def decided(seen: decisions.Decisions, now: float = 0.0) -> decisions.Fresh:
    """Return what is known to be decided."""
    return show(seen, now, "i", hosts())


@pytest.mark.parametrize("host", [0, 1, 2])
def test_a_decision_counts_for_some_seconds(host: int) -> None:
    """Once, from when its candidates were shown; for the image that the server is of."""
    seen, states = decisions.Decisions(), hosts()
    assert show(seen, 100.0, "i", states) == ({}, frozenset())
    states[host].num_instances += 1
    del states
    for now in (101.0, 109.9):
        assert decided(seen, now) == ({f"h{host}": 1}, frozenset({f"h{host}"}))
    for now in (110.0, 111.0):
        assert decided(seen, now) == ({}, frozenset())


def test_other_images_are_builds_only() -> None:
    """What a host fetches is another matter than how much it builds."""
    seen = decisions.Decisions()
    for image in ("i", "another", ""):
        states = hosts()
        show(seen, 0.0, image, states)
        states[2].num_instances += 1
        del states
    assert decided(seen) == ({"h2": 3}, {"h2"})


def test_each_server_of_a_request() -> None:
    """They are chosen one after the other, from the same HostStates; so are the alternates."""
    seen, states, request = decisions.Decisions(), hosts(), object()
    for sent in range(3):
        assert show(seen, 0.0, "i", states, request).sent["h1"] == sent
        states[1].num_instances += 1
    for _ in range(2):
        assert show(seen, 0.0, "i", states, request).sent == {"h1": 3}
    del states
    assert decided(seen).sent == {"h1": 3}


def test_requests_that_overlap() -> None:
    """Each has HostStates of its own; the later one may be decided first."""
    seen, first, second, requests = decisions.Decisions(), hosts(), hosts(), (object(), object())
    show(seen, 0.0, "i", first, requests[0])
    show(seen, 0.1, "i", second, requests[1])
    second[0].num_instances += 1
    del second
    assert decided(seen, 0.2).sent == {"h0": 1}
    first[1].num_instances += 1
    del first
    assert decided(seen, 0.3).sent == {"h0": 1, "h1": 1}


def test_many_requests_of_a_large_cloud() -> None:
    """As many as a process of nova-scheduler works at, whatever the number of hosts."""
    seen, requests = decisions.Decisions(), [object() for _ in range(64)]
    works_at = [hosts(1_000) for _ in requests]
    for request, states in zip(requests, works_at, strict=True):
        show(seen, 0.0, "i", states, request)
    for number, states in enumerate(works_at):
        states[number].num_instances += 1
    del states, works_at
    assert decided(seen).sent == {f"h{number}": 1 for number in range(64)}


def test_nothing_is_kept_of_a_request_that_is_through() -> None:
    """Its HostStates go when Nova lets them go, not at the next call."""
    seen, states = decisions.Decisions(), hosts()
    show(seen, 0.0, "i", states)
    alive = [weakref.ref(state) for state in states]
    del states
    assert [each() for each in alive] == [None] * 3


def test_a_request_may_go_while_another_is_shown() -> None:
    """The collection of garbage may let it go at any step, in the thread that holds the lock."""

    class Collects(float):
        """A time, to reckon with which has garbage collected."""

        def __sub__(self, other: float) -> float:
            gc.collect()
            return float(self) - other

    seen, states = decisions.Decisions(), hosts()
    states[0].itself = states[0]
    show(seen, 0.0, "i", states)
    states[1].num_instances += 1
    del states
    assert seen._shown
    assert decided(seen, Collects(1.0)).sent == {"h1": 1}


def test_a_request_that_takes_too_long_is_given_up() -> None:
    """What grows much later is something else."""
    seen, states, request = decisions.Decisions(), hosts(), object()
    show(seen, 0.0, "i", states, request)
    decided(seen, decisions.COUNTS)
    states[1].num_instances += 1
    del states
    assert decided(seen, decisions.COUNTS + 1).sent == {}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last requests, and the last decisions."""
    monkeypatch.setattr(decisions, "MOST_REQUESTS", 3)
    monkeypatch.setattr(decisions, "MOST_MADE", 4)
    seen, requests = decisions.Decisions(), [object() for _ in range(5)]
    works_at = [hosts() for _ in requests]
    for request, states in zip(requests, works_at, strict=True):
        show(seen, 0.0, "i", states, request)
    assert [each.others for each in seen._shown.values()] == [each[1:] for each in works_at[-3:]]
    for _ in range(9):
        show(seen, 0.0, "i", states, request)
        states[1].num_instances += 1
    assert show(seen, 0.0, "i", states, request).sent == {"h1": 4}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("odd", [object(), HostState(host="h", num_instances=None)])
def test_hosts_that_are_none_of_novas_teach_nothing(odd: Any, place: int) -> None:
    """Neither when they are shown nor later."""
    seen, states, request = decisions.Decisions(), hosts(), object()
    show(seen, 0.0, "i", [*states[:place], odd, *states[place:]], request)
    if hasattr(odd, "num_instances"):
        odd.num_instances = 1
    del states[0].num_instances
    assert show(seen, 0.0, "i", states, request).sent == {}


def test_threads_at_once() -> None:
    """Each sees all that was decided before it; none disturbs another."""
    seen = decisions.Decisions()

    def boots(thread: int) -> None:
        for number in range(300):
            states = hosts()
            show(seen, 0.0, "i", states)
            states[(thread + number) % 3].num_instances += 1
            del states

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(boots, range(8)))
    assert decided(seen).sent == {f"h{n}": 800 for n in range(3)}
