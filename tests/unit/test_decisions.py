"""Which host was chosen is seen by what Nova consumed from it."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator, Sequence
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


REQUESTS: list[object] = []
"""All of them: none has the id() of another."""


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Garbage is collected only where this is asked for."""
    before = gc.get_threshold()
    gc.disable()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.enable()


def show(
    seen: decisions.Decisions,
    now: float,
    image: str,
    states: Sequence[Any],
    request: object | None = None,
) -> decisions.Fresh:
    """Show them as the weigher does; for a request of their own, unless one is given."""
    instances = [getattr(each, "num_instances", "?") for each in states]
    request = request or object()
    REQUESTS.append(request)
    return seen.show(now, image, request, states, instances)


def decided(seen: decisions.Decisions, now: float = 0.0) -> decisions.Fresh:
    """Return what is known to be decided."""
    return show(seen, now, "i", hosts())


@pytest.mark.parametrize("host", [0, 1, 2])
def test_a_decision_counts_for_some_seconds(host: int) -> None:
    """Once, from when its candidates were shown; for the image that the server is of. A burst goes
    there for a moment."""
    seen, states = decisions.Decisions(), hosts()
    assert show(seen, 100.0, "i", states) == ({}, set(), set())
    states[host].num_instances += 1
    del states
    chosen = f"h{host}"
    assert decided(seen, 101.9) == ({chosen: 1}, {chosen}, {chosen})
    for now in (102.0, 109.9):
        assert decided(seen, now) == ({chosen: 1}, {chosen}, set())
    for now in (110.0, 111.0):
        assert decided(seen, now) == ({}, set(), set())


def test_other_images_are_builds_only() -> None:
    """What a host fetches is another matter than how much it builds."""
    seen = decisions.Decisions()
    for image in ("i", "another", ""):
        states = hosts()
        show(seen, 0.0, image, states)
        states[2].num_instances += 1
        del states
    assert decided(seen) == ({"h2": 3}, {"h2"}, {"h2"})


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


def garbage(states: list[Any]) -> None:
    """Let HostStates be held by a cycle alone, as by the traceback of an error."""
    frame: list[Any] = [states]
    frame.append(frame)


def test_a_request_may_go_while_another_is_shown() -> None:
    """The collection of garbage may let it go at any step, in the thread that holds the lock."""

    class Collects(float):
        """A time, to reckon with which has garbage collected."""

        def __sub__(self, other: float) -> float:
            gc.collect()
            return float(self) - other

    seen, states = decisions.Decisions(), hosts()
    with uncollected():
        show(seen, 0.0, "i", states)
        states[1].num_instances += 1
        garbage(states)
        del states
        assert seen._shown
        assert decided(seen, Collects(1.0)).sent == {"h1": 1}
        assert len(seen._shown) == 0  # nor is what was asked with kept


def test_garbage_is_collected_at_any_moment() -> None:
    """Up to Python 3.11 that may be whenever anything is allocated."""
    for threshold in range(1, 90):
        seen = decisions.Decisions()
        with uncollected():
            for _ in range(60):
                states = hosts(2)
                show(seen, 0.0, "i", states)
                states[1].num_instances += 1
                garbage(states)
            del states
            pairs = [(object(), threshold) for _ in range(3000)]  # so that none is to be had
            gc.collect(0)
            gc.set_threshold(threshold, 0, 1000)
            gc.enable()
            decided(seen)
            gc.collect()
            assert decided(seen).sent == {"h1": 60}
            del pairs


def test_a_request_that_has_the_id_of_one_that_is_gone() -> None:
    """What comes late of that one is not taken for its own."""
    seen, first, request = decisions.Decisions(), hosts(), object()
    second = [hosts()]
    batch: list[Any] = []
    with uncollected():
        show(seen, 0.0, "i", first, request)
        first[0].num_instances += 1
        # called before or after what is ours, within one collection
        batch.append(weakref.ref(first[0], lambda _: show(seen, 0.0, "i", second[0], request)))
        garbage(first)
        del first
        gc.collect()
        assert len(seen._shown) == 1
        second[0][1].num_instances += 1
        second.clear()
        gc.collect()
    assert decided(seen).sent == {"h0": 1, "h1": 1}


def test_what_nova_took_back_was_not_decided() -> None:
    """A request that finds no host for one of its servers fails whole."""
    for place in (0, 2):
        seen, states = decisions.Decisions(), hosts()
        show(seen, 0.0, "i", states)
        for state in states:
            state.updated = "a while ago"
        states[place].num_instances += 1
        states[1].num_instances += 1
        states[place].updated = None
        del states, state
        assert decided(seen).sent == {"h1": 1}


def test_several_servers_may_come_between_two_looks() -> None:
    """Nova asks no weigher where there is one candidate."""
    seen, states = decisions.Decisions(), hosts()
    show(seen, 0.0, "i", states)
    states[1].num_instances += 3
    del states
    assert decided(seen).sent == {"h1": 3}


def test_a_request_that_takes_too_long_is_given_up() -> None:
    """What grows much later is something else."""
    seen, states = decisions.Decisions(), hosts()
    show(seen, 0.0, "i", states)
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
    works_at[0][0].num_instances += 1  # no longer looked at
    works_at[2][0].num_instances += 1  # is, before it has to make room
    assert decided(seen).sent == {"h0": 1}
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
