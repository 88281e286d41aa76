"""The weigher's breaker and what it has logged: any sequence of outcomes, without a clock."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from weigher.breaker import LEAST_PAUSE, LINES_PER_MINUTE, MOST_PAUSE, Breaker, Telling

STEPS = st.lists(
    st.tuples(st.booleans(), st.floats(0, 20), st.floats(0, 1)), min_size=1, max_size=60
)
"""Whether what comes next goes well; seconds until then, beyond a probe's pause; dice."""


@given(STEPS)
def test_breaker(steps: list[tuple[bool, float, float]]) -> None:
    """Closed, calls go on until one fails; open, nothing but a good probe closes it."""
    breaker, now = Breaker(), 1000.0
    opened = closed = 0
    for well, seconds, dice in steps:
        if breaker.reason is None:
            assert breaker.probe_at == math.inf
            now += seconds
            if not well:
                breaker.failed(now, "away", dice)
                opened += 1
        else:
            now = breaker.probe_at + seconds
            if well:
                breaker.probed_well(now)
                closed += 1
            else:
                breaker.probe_failed(now, "away", dice)
        assert (breaker.opened, breaker.closed) == (opened, closed)
        assert (breaker.reason is not None) == (opened > closed)
        if breaker.reason is not None:
            pause = breaker.probe_at - now
            assert 0.99 * LEAST_PAUSE / 2 < pause < 1.01 * MOST_PAUSE  # sums are rounded


@given(st.lists(st.floats(0, 1), min_size=100, max_size=100), st.booleans())
def test_who_stays_away_or_flaps_is_rarely_asked(dice: list[float], flaps: bool) -> None:
    """Pauses grow to the longest, also where each probe is well and the next call fails."""
    breaker, now, attempts = Breaker(), 0.0, []
    for each in dice:
        if breaker.reason is None:
            breaker.failed(now, "away", each)
        else:
            breaker.probe_failed(now, "away", each)
        now = breaker.probe_at
        attempts.append(now)
        if flaps:
            breaker.probed_well(now)
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts[10:])]
    assert min(pauses) > 0.99 * MOST_PAUSE / 2


def test_pauses_start_anew_after_a_good_while() -> None:
    """Redis that was well for long is probed soon again."""
    breaker, now = Breaker(), 0.0
    breaker.failed(now, "away", 1.0)
    for _ in range(10):
        now = breaker.probe_at
        breaker.probe_failed(now, "away", 1.0)
    breaker.probed_well(now)
    now += MOST_PAUSE
    breaker.failed(now, "away", 1.0)
    assert breaker.probe_at == now + LEAST_PAUSE


def test_calls_that_fail_together_count_once() -> None:
    """Else a dozen late ones would put off the first probe by seconds."""
    breaker = Breaker()
    for _ in range(12):
        breaker.failed(10.0, "late", 1.0)
    assert (breaker.opened, breaker.probe_at) == (1, 10.0 + LEAST_PAUSE)
    breaker.probe_failed(11.0, "refused", 1.0)
    assert (breaker.reason, breaker.probe_at) == ("refused", 11.0 + 2 * LEAST_PAUSE)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 5)), max_size=200))
def test_telling(steps: list[tuple[float, int]]) -> None:
    """Lines take turns, are few in any minute, and none is missing once it is quiet."""
    telling, now, changes, told = Telling(), 0.0, 0, []
    lines: list[float] = []
    for seconds, more in [*steps, (61.0, 0)]:
        now += seconds
        changes += more
        withheld = telling.change(now, bad=changes % 2 == 1, changes=changes)
        if withheld is not None:
            told.append(1 + withheld)
            lines.append(now)
            assert sum(told) == changes
            assert len([line for line in lines if now - line < 60.0]) <= LINES_PER_MINUTE
    assert len(told) % 2 == changes % 2


def test_changes_at_ease_are_told_each() -> None:
    """Lost and found, every minute or two."""
    telling = Telling()
    found = [telling.change(30.0 * n, bad=n % 2 == 1, changes=n) for n in range(1, 50)]
    assert found == [0] * 49
