"""Which host was chosen is seen by what Nova consumed from it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from weigher import decisions


def hosts(count: int = 3) -> list[Any]:
    """Return HostStates, as far as they are looked at."""
    return [SimpleNamespace(host=f"h{n}", num_instances=n) for n in range(count)]


def show(
    seen: decisions.Decisions, now: float, image: str, states: Sequence[Any]
) -> decisions.Fresh:
    """Show them as the weigher does."""
    return seen.show(now, image, states, [getattr(each, "num_instances", "?") for each in states])


def test_a_decision_counts_for_some_seconds() -> None:
    """Once, from when its candidates were shown; for the image that the server is of."""
    seen, states = decisions.Decisions(), hosts()
    assert show(seen, 100.0, "image", states) == ({}, frozenset())
    states[1].num_instances += 1
    for now, sent in [(101.0, 1), (109.9, 1), (110.0, 0)]:
        fresh = show(seen, now, "image", hosts())
        assert fresh == ({"h1": 1} if sent else {}, {"h1"} if sent else set())
    states[1].num_instances += 1
    assert show(seen, 111.0, "image", hosts()) == ({}, frozenset())


def test_other_images_are_builds_only() -> None:
    """What a host fetches is another matter than how much it builds."""
    seen, states = decisions.Decisions(), hosts()
    for image in ("one", "two", ""):
        show(seen, 0.0, image, states)
        states[2].num_instances += 1
    assert show(seen, 0.0, "one", states) == ({"h2": 3}, {"h2"})


def test_requests_that_overlap() -> None:
    """Each has HostStates of its own; the later one may be decided first."""
    seen, first, second = decisions.Decisions(), hosts(), hosts()
    show(seen, 0.0, "i", first)
    show(seen, 0.1, "i", second)
    second[0].num_instances += 1
    assert show(seen, 0.2, "i", hosts()).sent == {"h0": 1}
    first[1].num_instances += 1
    assert show(seen, 0.3, "i", hosts()).sent == {"h0": 1, "h1": 1}


def test_a_request_that_found_no_host_is_given_up() -> None:
    """What grows much later is something else."""
    seen, states = decisions.Decisions(), hosts()
    show(seen, 0.0, "i", states)
    show(seen, decisions.COUNTS, "i", hosts())
    states[1].num_instances += 1
    assert show(seen, decisions.COUNTS + 1, "i", hosts()).sent == {}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last calls' HostStates, and the last decisions."""
    monkeypatch.setattr(decisions, "MOST_SHOWN", 10)
    monkeypatch.setattr(decisions, "MOST_MADE", 4)
    seen, large = decisions.Decisions(), hosts(100)
    show(seen, 0.0, "i", large)
    large[7].num_instances += 1
    assert show(seen, 0.0, "i", hosts()).sent == {"h7": 1}  # the last call's: whatever its size
    shown = [hosts() for _ in range(5)]
    for states in shown:
        show(seen, 0.0, "i", states)
    assert [each.states for each in seen._shown] == shown[-4:]  # one of them not judged yet
    for states in shown:
        states[0].num_instances += 1
    assert show(seen, 0.0, "i", hosts()).sent == {"h0": 4}
    for _ in range(9):
        show(seen, 0.0, "i", states)
        states[1].num_instances += 1
    assert show(seen, 0.0, "i", hosts()).sent == {"h1": 4}


@pytest.mark.parametrize("odd", [object(), SimpleNamespace(host="h", num_instances=None)])
def test_hosts_that_are_none_of_novas_teach_nothing(odd: Any) -> None:
    """Neither when they are shown nor later."""
    seen, states = decisions.Decisions(), hosts()
    show(seen, 0.0, "i", [odd, *states])
    if hasattr(odd, "num_instances"):
        odd.num_instances = 1
    del states[0].num_instances
    assert show(seen, 0.0, "i", states).sent == {}
