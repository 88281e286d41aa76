"""The candidate's score: bounded, and never out of order."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import example, given
from hypothesis import strategies as st

from simulator import candidate
from simulator.candidate import Host, Options

GIB = 2**30
HOSTS = st.lists(
    st.builds(
        Host,
        holds=st.booleans(),
        on_its_way=st.booleans(),
        builds=st.integers(0, 20),
        free_ram_mb=st.floats(-1e6, 1e6),
    ),
    max_size=8,
)
SIZES = st.integers(0, 50 * GIB)


@given(size=SIZES, ram=st.integers(1, 10**6), hosts=HOSTS)
def test_weights_are_shares_and_only_for_who_has_or_fetches(
    size: int, ram: int, hosts: list[Host]
) -> None:
    """Whatever Nova's records say; a small image changes nothing."""
    found = candidate.weights(size, ram, hosts, Options())
    assert len(found) == len(hosts)
    assert all(0.0 <= weight <= 1.0 for weight in found)
    if size <= Options().small_image:
        assert not any(found)
    for host, weight in zip(hosts, found, strict=True):
        assert weight == 0.0 or host.holds or host.on_its_way


@example(size=5 * GIB, ram=1, host=[Host(True, False, 0, 1e5)], count=2)
@given(size=SIZES, ram=st.integers(1, 10**6), host=HOSTS.filter(bool), count=st.integers(1, 5))
def test_hosts_that_are_alike_weigh_nothing(
    size: int, ram: int, host: list[Host], count: int
) -> None:
    """Then Nova decides alone."""
    assert not any(candidate.weights(size, ram, host[:1] * count, Options()))


@given(size=SIZES, ram=st.integers(1, 10**5), builds=st.integers(0, 9), free=st.floats(0, 1e5))
def test_better_hosts_weigh_no_less(size: int, ram: int, builds: int, free: float) -> None:
    """In what it has, in builds, in free RAM; each with all else alike."""
    other = Host(holds=False, on_its_way=False, builds=0, free_ram_mb=5e4)
    one = Host(holds=True, on_its_way=False, builds=builds, free_ram_mb=free)

    def weight(host: Host, size: int = size) -> float:
        return candidate.weights(size, ram, [host, other], Options())[0]

    assert weight(one) >= weight(one._replace(holds=False, on_its_way=True))
    assert weight(one) >= weight(one._replace(builds=builds + 1))
    assert weight(one) >= weight(one, size // 2)
    assert weight(one) >= weight(one._replace(free_ram_mb=free / 2)) or free / 2 > 5e4


def test_the_burst_rule_sees_which_host_was_chosen() -> None:
    """The one that Nova consumed from, once, for ten seconds."""
    states = [SimpleNamespace(host=name, num_instances=3) for name in "ab"]
    decisions = candidate.Decisions()
    decisions.show(100.0, "image", states)
    states[1].num_instances += 1
    for now, sent in [(101.0, 1), (109.0, 1), (111.0, 0)]:
        decisions.learn(now)
        hosts, images = decisions.count()
        assert (hosts["a"], hosts["b"]) == (0, sent)
        assert images == ({("image", "b")} if sent else set())
