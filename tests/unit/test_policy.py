"""The worth of a cached image: exact at its ends, bounded, and never out of order."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from oslo_config import cfg

from bus_cache import conf
from bus_cache.conf import opts
from weigher import policy
from weigher.policy import ABSENT, COMING, HELD, Candidates

GIB = 2**30
SIZES = st.integers(min_value=0, max_value=2**63)
IMAGES = st.integers(0, 50 * GIB)
RAM = st.integers(0, 10**6)
HOST = st.tuples(
    st.sampled_from([ABSENT, COMING, HELD]),
    st.integers(-3, 20) | st.just(math.inf),
    st.floats(-1e6, 1e6),
)
HOSTS = st.lists(HOST, min_size=1, max_size=8)
BEGUN = st.frozensets(st.integers(0, 7))
UNSEEN = st.sampled_from([0, 3, 4, 20])
Host = tuple[float, float, float]


def defaults() -> policy.Options:
    """Return what the options say where nothing is configured."""
    options = cfg.ConfigOpts()
    conf.register(options, opts.WEIGHER_GROUPS)
    options([])
    return policy.options(options.image_cache_weigher)


OPTIONS = defaults()


def columns(
    hosts: list[Host], begun: frozenset[int] = frozenset(), unseen: float = 0.0
) -> Candidates:
    """Return hosts as the policy takes them; ``begun`` may name places beyond the last."""
    there, builds, free = zip(*hosts, strict=True)
    return Candidates(there, builds, free, begun & set(range(len(hosts))), {0: unseen})


def weigh(
    size: int,
    ram: int,
    hosts: list[Host],
    begun: frozenset[int] = frozenset(),
    unseen: float = 0.0,
    **options: Any,
) -> list[float]:
    """Return the weights of hosts."""
    found = columns(hosts, begun, unseen)
    scale = policy.scale(size, ram, OPTIONS._replace(**options), found)
    return policy.weights(scale, found)


# What there is to fetch.


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


# A host's weight.


@pytest.mark.parametrize(
    ("host", "weight"),
    [
        ((HELD, 0, 100_000), 1.0),
        ((COMING, 0, 100_000), 0.8),
        ((ABSENT, 0, 100_000), 0.0),
        ((HELD, 2, 100_000), 1 - 0.5**3),
        ((HELD, 4, 100_000), 0.0),
        ((HELD, 0, 98_500), 0.5),  # 1.5 % of the largest less than the mean, in half of the 3 %
        ((HELD, 0, 97_000), 0.0),
        ((HELD, math.inf, 100_000), 0.0),
    ],
)
def test_a_weight_in_round_figures(host: Host, weight: float) -> None:
    """One host beside many with 100,000 MiB free, and a large image."""
    others = [(ABSENT, 0, 100_000.0)] * 999_999
    assert weigh(2 * GIB, 0, [host, *others])[0] == pytest.approx(weight, abs=1e-4)


@given(
    size=IMAGES,
    ram=RAM,
    hosts=HOSTS,
    begun=BEGUN,
    unseen=UNSEEN,
    most_builds=st.integers(1, 20),
    most_imbalance=st.floats(0, 1),
)
def test_weights_are_shares_and_only_of_who_has_or_fetches(
    size: int,
    ram: int,
    hosts: list[Host],
    begun: frozenset[int],
    unseen: float,
    most_builds: int,
    most_imbalance: float,
) -> None:
    """Whatever Nova's records and the options say; a small image changes nothing. While a host
    builds too much unseen, of all that build less."""
    limits = {"most_builds": most_builds, "most_imbalance": most_imbalance}
    found = weigh(size, ram, hosts, begun, unseen, **limits)
    assert len(found) == len(hosts)
    assert all(0.0 <= weight <= 1.0 for weight in found)
    if size <= OPTIONS.small_image:
        assert not any(found)
    for (there, builds, _), weight in zip(hosts, found, strict=True):
        assert weight == 0.0 or unseen >= most_builds or (there != ABSENT and builds < most_builds)


@given(size=IMAGES, ram=RAM, hosts=HOSTS, begun=BEGUN, unseen=UNSEEN)
def test_a_weight_is_what_its_shares_make(
    size: int, ram: int, hosts: list[Host], begun: frozenset[int], unseen: float
) -> None:
    """As people are told."""
    candidates = columns(hosts, begun, unseen)
    scale = policy.scale(size, ram, OPTIONS, candidates)
    for which, weight in enumerate(policy.weights(scale, candidates)):
        shares = policy.shares(scale, candidates, which)
        assert all(0.0 <= share <= 1.0 for share in shares)
        if weight:
            assert weight == pytest.approx(shares.weight)


@example(size=5 * GIB, ram=1, host=(HELD, 0, 1e5), count=2)
@given(size=IMAGES, ram=RAM, host=HOST, count=st.integers(1, 5))
def test_hosts_that_are_alike_weigh_nothing(size: int, ram: int, host: Host, count: int) -> None:
    """Then Nova decides alone."""
    assert not any(weigh(size, ram, [host] * count))


@given(size=IMAGES, ram=RAM, hosts=HOSTS, there=st.sampled_from([HELD, COMING, ABSENT]))
def test_an_image_that_is_everywhere_weighs_nothing(
    size: int, ram: int, hosts: list[Host], there: float
) -> None:
    """Nor one that is nowhere, however the hosts differ."""
    assert not any(weigh(size, ram, [(there, *host[1:]) for host in hosts]))


# Bursts: what this process sent to hosts a moment ago, and their records do not have.


@given(size=IMAGES, ram=RAM, hosts=HOSTS, there=st.sampled_from([HELD, COMING, ABSENT]))
def test_what_one_builds_unseen_counts_for_an_image_that_is_everywhere_too(
    size: int, ram: int, hosts: list[Host], there: float
) -> None:
    """Or nowhere: that others build less, and nothing else."""
    most, saved = OPTIONS.most_builds, policy.saving(size, *OPTIONS[:2])
    hosts = [(there, *host[1:]) for host in [*hosts, (there, 0, 0.0)]]
    found = weigh(size, ram, hosts, unseen=most)
    spare = [saved * policy.SPARE if builds < most else 0.0 for _, builds, _ in hosts]
    assert found == (spare if len(set(spare)) > 1 else [0.0] * len(hosts))


def test_who_builds_too_much_unseen_comes_last() -> None:
    """A fifth for building less, the rest as ever."""
    hosts: list[Host] = [(HELD, 4, 1e5), (HELD, 0, 1e5), (COMING, 0, 1e5), (ABSENT, 0, 1e5)]
    assert weigh(2 * GIB, 0, hosts) == [0.0, 1.0, 0.8, 0.0]
    assert weigh(2 * GIB, 0, hosts, unseen=3) == [0.0, 1.0, 0.8, 0.0]
    assert weigh(2 * GIB, 0, hosts, unseen=4) == pytest.approx([0.0, 1.0, 0.84, 0.2])


@pytest.mark.parametrize(
    ("builds", "spared"),
    [
        ((4, 3, 0), (False, True, True)),
        ((4, 4, 4), (False, False, False)),  # alike
        ((5, 4, 7), (False, False, False)),  # all below 8
        ((8, 4, 7), (False, True, True)),
        ((4, math.inf, 0), (False, False, True)),
        ((math.inf, math.inf, math.inf), (False, False, False)),
        ((4, -3, 0), (False, True, True)),
    ],
)
def test_a_pile_is_levelled_in_steps_of_most_builds(
    builds: tuple[float, ...], spared: tuple[bool, ...]
) -> None:
    """Where all have four, it goes on until all have eight."""
    hosts: list[Host] = [(ABSENT, each, 1e5) for each in builds]
    assert [bool(each) for each in weigh(2 * GIB, 0, hosts, unseen=4)] == list(spared)


@pytest.mark.parametrize(
    ("ram", "begun", "weight"),
    [
        (8_000, False, 0.0),  # half of it is more than 3 %
        (8_000, True, 0.8 * 7 / 8),  # half of it, of four
        (1_000, True, 0.8 * 7 / 8),
        (200, True, 0.8 * 29 / 30),  # 3 % are more than four of them
    ],
)
def test_where_a_burst_goes_a_host_may_lack_its_servers(
    ram: int, begun: bool, weight: float
) -> None:
    """Where hosts are alike, its first server would be the only one on its host."""
    hosts: list[Host] = [(COMING, 0, 1e5), *[(ABSENT, 0, 1e5)] * 9]
    found = weigh(2 * GIB, ram, hosts, frozenset({0} if begun else ()))
    assert found[0] == pytest.approx(weight)


# How much less free RAM than it should a host may have.


@pytest.mark.parametrize(
    ("size", "largest", "lack"),
    [
        (2 * GIB, 100_000, 3_000),
        (GIB // 2, 100_000, 1_500),  # by the root of the size
        (8 * GIB, 100_000, 6_000),
        (100 * GIB, 100_000, 6_000),  # twice as much at the most
        (-1, 100_000, 0),
        (2 * GIB, -100, 0),  # all are overcommitted
    ],
)
def test_what_a_host_may_lack(size: int, largest: float, lack: float) -> None:
    """As the option's help has it, whatever the others have."""
    hosts = columns([(HELD, 0, free) for free in (largest, -200.0, largest - 5)])
    scale = policy.scale(size, 4_096, OPTIONS, hosts)
    assert scale.lack_mb == pytest.approx(lack)


def test_half_of_the_server_counts() -> None:
    """A host that had as much as others before the server has less with it: half way between."""
    hosts: list[Host] = [(HELD, 0, 100_000.0), *[(ABSENT, 0, 100_000.0)] * 999_999]
    assert weigh(2 * GIB, 3_000, hosts)[0] == pytest.approx(0.5, abs=1e-4)


@given(size=IMAGES, ram=RAM, hosts=HOSTS)
def test_of_two_hosts_the_one_with_more_free_ram_gains_no_less(
    size: int, ram: int, hosts: list[Host]
) -> None:
    """Of the same candidates, and with all else alike."""
    alike: list[Host] = [(HELD, 0, free) for _, _, free in hosts]
    alike.append((ABSENT, 0, -1e6))
    weighed = zip(alike, weigh(size, ram, alike), strict=True)
    gains = [gain for host, gain in sorted(weighed, key=lambda each: (each[0][2], each[1]))]
    assert gains == sorted(gains)


@given(size=IMAGES, ram=st.integers(0, 10**5), builds=st.integers(0, 9), free=st.floats(0, 1e5))
def test_better_hosts_weigh_no_less(size: int, ram: int, builds: int, free: float) -> None:
    """In what it has, in builds, in free RAM, by the image's size; each with all else alike."""
    other = (ABSENT, 0, 5e4)

    def weight(there: float, builds: int, free: float, size: int = size) -> float:
        return weigh(size, ram, [(there, builds, free), other])[0]

    one = weight(HELD, builds, free)
    assert one >= weight(COMING, builds, free)
    assert one >= weight(HELD, builds + 1, free)
    assert one >= weight(HELD, builds, free, size // 2)
    assert one >= weight(HELD, builds, free / 2) or free / 2 > 5e4


@given(hosts=HOSTS, size=IMAGES, ram=RAM, number=st.integers(2, 4))
def test_the_number_of_hosts_of_each_kind_changes_no_weight(
    hosts: list[Host], size: int, ram: int, number: int
) -> None:
    """A cloud twice as large is weighed alike."""
    once = weigh(size, ram, hosts)
    assert weigh(size, ram, hosts * number) == pytest.approx(once * number)
