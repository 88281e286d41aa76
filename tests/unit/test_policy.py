"""The worth of a cached image: exact at its ends, between them never out of order."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from weigher import policy

SIZES = st.integers(min_value=0, max_value=2**63)


def test_saving_grows_evenly_between_small_and_large() -> None:
    """Half way is half the weight."""
    assert [policy.saving(size, 100, 300) for size in (150, 200, 250)] == [0.25, 0.5, 0.75]


@given(small=SIZES, large=SIZES)
def test_saving_is_exact_at_its_ends(small: int, large: int) -> None:
    """At most small: nothing; at least large: full."""
    assume(small < large)
    assert policy.saving(small, small, large) == 0.0
    assert policy.saving(large, small, large) == policy.saving(large + 1, small, large) == 1.0


@given(size=st.integers(), small=SIZES, large=SIZES)
def test_saving_is_a_share(size: int, small: int, large: int) -> None:
    """Whatever is configured, Nova gets what minval and maxval promise."""
    assert 0.0 <= policy.saving(size, small, large) <= 1.0


@given(sizes=st.tuples(SIZES, SIZES), small=SIZES, large=SIZES)
def test_a_larger_image_never_saves_less(sizes: tuple[int, int], small: int, large: int) -> None:
    """Also where the sizes are too close to be told apart as floats."""
    smaller, larger = sorted(sizes)
    assert policy.saving(smaller, small, large) <= policy.saving(larger, small, large)


@given(size=SIZES, small=SIZES, large=SIZES)
def test_large_not_above_small_makes_a_step_at_small(size: int, small: int, large: int) -> None:
    """As the option's help promises."""
    assume(large <= small)
    assert policy.saving(size, small, large) == (1.0 if size > small else 0.0)


@given(
    holds=st.lists(st.booleans(), max_size=20),
    saved=st.floats(min_value=0, max_value=1, exclude_min=True),
)
def test_only_a_difference_weighs(holds: list[bool], saved: float) -> None:
    """Holders weigh what they save, unless all hosts are alike."""
    if len(set(holds)) < 2:
        assert policy.weights(holds, saved) == [0.0] * len(holds)
    else:
        assert policy.weights(holds, saved) == [saved * held for held in holds]
