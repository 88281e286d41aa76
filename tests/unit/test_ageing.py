"""When images are gone by Nova's rule, and what a row about a server means."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_cache.index.changes import Source
from consumers import ageing
from consumers.ageing import Outlook, Policy, Use

A, B, C = (bytes([n]) * 20 for n in (1, 2, 3))
LEFT = b""
S1, S2 = b"s" * 16, b"t" * 16
SECOND, HOUR, DAY = 1000, 3_600_000, 86_400_000
POLICY = Policy.of(2400, True, 86_400)
WAIT = DAY + 2520 * SECOND
NOW = 1_800_000_000_000


def row(*said: bytes | int) -> bytes:
    """A row as it is in Redis."""
    packed: bytes = msgpack.packb(list(said), use_bin_type=False)
    return packed


def look(
    evidence: dict[bytes, int],
    uses: dict[bytes, bytes] | None = None,
    *,
    policy: Policy = POLICY,
    service: tuple[int, bool] | None = None,
    newest: int | None = None,
    now: int = NOW,
) -> Outlook:
    """What is due on a host; all evidence is of boots."""
    rows = {raw: (stamp, 1) for raw, stamp in evidence.items()}
    newest = max([0, *evidence.values()]) if newest is None else newest
    return ageing.outlook(policy, rows, uses or {}, service=service, newest=newest, now=now)


# -- Nova's options ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "remove", "age", "expected"),
    [
        (2400, True, 86_400, Policy(True, 2_520_000, 86_400_000)),
        (0, True, 0, Policy(True, 63_000, 0)),
        (10, True, 5, Policy(True, 10_500, 5_000)),
        (-1, True, 86_400, Policy(False, 63_000, 86_400_000)),
        (2400, False, 86_400, Policy(False, 2_520_000, 86_400_000)),
        (2400, True, -5, Policy(True, 2_520_000, 0)),
    ],
)
def test_policy(interval: int, remove: bool, age: int, expected: Policy) -> None:
    """With what oslo.service adds to an interval at most."""
    assert Policy.of(interval, remove, age) == expected
    assert Policy.of(2400, True, 86_400).wait == WAIT


# -- when an image is gone -----------------------------------------------------------------


def test_an_image_that_nobody_uses() -> None:
    """Cached in advance, or for a rescue: it goes when the last pass that can find it young is
    over.
    """
    assert look({A: NOW - WAIT}) == Outlook([(A, NOW - WAIT)], [], None)
    assert look({A: NOW - WAIT + 1}) == Outlook([], [], NOW - WAIT + 1)
    assert look({}) == Outlook([], [], None)


def test_an_image_that_is_used() -> None:
    """Never, and nobody needs to look again before something happens."""
    uses = {S1: row(1, A), S2: row(NOW, LEFT, 1, B)}
    assert look({A: 1, B: 1}, uses).due == []
    assert look({A: 1}, {S1: row(1, A)}) == Outlook([], [], None)


def test_a_kernel_and_a_ramdisk() -> None:
    """Are used as the image is; a rebuild with the same kernel ends the image's use only."""
    assert look({A: 1, B: 1, C: 1}, {S1: row(1, A + B + C)}).due == []
    rebuilt = row(NOW - WAIT, C + B, 1, A + B)
    assert look({A: 1, B: 1, C: 1}, {S1: rebuilt}).due == [(A, 1)]
    short = NOW - WAIT - POLICY.interval + 2
    moved = row(NOW - WAIT + 1, LEFT, short + 1, C + B, short, A + B)  # together an interval less 1
    assert look({B: 1}, {S1: moved}).due == [(B, 1)]
    moved = row(NOW - WAIT + 1, LEFT, short + 1, C + B, short - 1, A + B)
    assert look({B: 1}, {S1: moved}).due == []


def test_an_image_whose_server_left() -> None:
    """Its use ended then, however old the evidence."""
    over = row(NOW - WAIT, LEFT, 1, A)
    young = row(NOW - WAIT + 1, LEFT, 1, A)
    assert look({A: 1}, {S1: over}).due == [(A, 1)]
    assert look({A: 1}, {S1: young}).due == []
    assert look({A: 1}, {S1: over, S2: row(2, A)}).due == []
    assert look({A: 1}, {S1: over, S2: young}).due == []
    assert look({A: NOW - 1}, {S1: over}).due == []


def test_an_image_whose_server_was_rebuilt() -> None:
    """It was used until then; the new one is used."""
    uses = {S1: row(NOW - WAIT, B, 1, A)}
    assert look({A: 1, B: 1}, uses).due == [(A, 1)]
    assert look({A: 1, B: 1}, {S1: row(NOW - WAIT + 1, B, 1, A)}).due == []
    # told of the new one again; then of another one
    again = row(NOW, LEFT, NOW - 1, C, NOW - 2, B, NOW - WAIT, B, 1, A)
    assert look({A: 1, B: 1}, {S1: again}).due == [(A, 1)]


def test_a_server_that_left_twice() -> None:
    """Or that was told twice to have left: the first time ended what it used before."""
    twice = row(NOW, LEFT, NOW - POLICY.interval, B, NOW - WAIT + 9, LEFT, NOW - WAIT, LEFT, 1, A)
    found = look({A: 1, B: 1}, {S1: twice})
    assert found == Outlook([(A, 1)], [], NOW)


def test_a_use_that_no_pass_need_have_seen() -> None:
    """Counts for nothing, unless it began with a touch, or another one went on."""
    end = NOW - WAIT + 1
    short, long = end - POLICY.interval + 1, end - POLICY.interval
    assert look({A: 1}, {S1: row(end, LEFT, long, A)}).due == []
    assert look({A: 1}, {S1: row(end, LEFT, short, A)}).due == [(A, 1)]
    assert look({A: short}, {S1: row(end, LEFT, short, A)}).due == []
    assert look({A: long}, {S1: row(end, LEFT, short, A)}).due == []
    assert look({A: long - 1}, {S1: row(end, LEFT, short, A)}).due == [(A, long - 1)]
    before = row(short + 1, LEFT, long, A)
    assert look({A: 1}, {S1: row(end, LEFT, short, A), S2: before}).due == []
    before = row(short - 1, LEFT, long - 1, A)
    assert look({A: 1}, {S1: row(end, LEFT, short, A), S2: before}).due == [(A, 1)]


def judged(stamp: int, *touched: int) -> list[tuple[bytes, int]]:
    """What is due where the newest evidence is of a migration."""
    rows = {A: (stamp, int(Source.MIGRATION), *touched)}
    return ageing.outlook(POLICY, rows, {}, service=None, newest=stamp, now=NOW).due


def test_a_migration_to_a_host_that_has_the_image() -> None:
    """Does not touch it; unless Nova may have removed it, so that it was fetched anew."""
    assert judged(NOW - WAIT) == [(A, NOW - WAIT)]
    assert judged(NOW - WAIT + 1) == []
    old = NOW - WAIT
    last = old + DAY - POLICY.interval
    assert judged(last - 1, old) == [(A, last - 1)]
    assert judged(last, old) == []
    assert judged(last - 1, old + 1) == []


def test_the_oldest_is_looked_at_next() -> None:
    """Of images and of rows to forget."""
    uses = {S1: row(NOW - HOUR, LEFT, 1, A)}
    found = look({A: 1, B: NOW - 2 * HOUR}, uses)
    assert found == Outlook([], [], NOW - 2 * HOUR)
    assert look({A: 1}, uses).next == NOW - HOUR
    assert look({}, uses).next == NOW - HOUR + POLICY.keep - WAIT


def test_a_host_that_is_down() -> None:
    """Nothing is removed there; it is looked at again in an interval."""
    down = (NOW - HOUR, False)
    assert look({A: 1}, service=down) == Outlook([], [], NOW - DAY)
    assert look({A: 1}, {S1: row(1, A)}, service=down).next is None


def test_a_host_that_came_back() -> None:
    """It is given time for a pass."""
    up = NOW - POLICY.interval
    assert look({A: 1}, service=(up, True)).due == [(A, 1)]
    found = look({A: 1}, service=(up + 1, True))
    assert found.due == []
    assert found.next is not None
    assert found.next + WAIT == NOW + 1


def test_a_host_that_was_heard_of_since_it_was_down() -> None:
    """It is not down any more: where it was evacuated, nobody says so."""
    down = (NOW - HOUR, False)
    assert look({A: 1}, service=down, newest=NOW - HOUR).due == []
    assert look({A: 1}, service=down, newest=NOW - HOUR + 1).due == [(A, 1)]


def test_nova_that_removes_nothing() -> None:
    """Rows are forgotten all the same."""
    policy = Policy.of(-1, True, 86_400)
    old = row(NOW - policy.keep, LEFT, 1, A)
    assert look({B: 1}, {S1: old}, policy=policy) == Outlook([], [(S1, old)], NOW - DAY)


def test_rows_are_forgotten() -> None:
    """When no image that they tell of can be there, and no message can be so late."""
    assert POLICY.keep == ageing.REMEMBER
    assert Policy.of(2400, True, 30 * 86_400).keep == 30 * DAY + 2 * POLICY.interval
    old = row(NOW - POLICY.keep, LEFT, 1, A)
    young = row(NOW - POLICY.keep + 1, LEFT, NOW - POLICY.keep, LEFT, 1, A)
    used = row(6, A, 5, LEFT)
    never = row(NOW - POLICY.keep, LEFT)
    assert look({}, {b"1": old, b"2": young, b"3": used, b"4": never}).forget == [
        (b"1", old),
        (b"4", never),
    ]


def test_where_many_servers_come_and_go_those_that_left_are_forgotten_early() -> None:
    """As soon as it no longer matters that they used an image, and never one that is there."""
    assert POLICY.matters == POLICY.wait + POLICY.interval
    old = row(NOW - POLICY.matters, LEFT, 1, A)
    young = row(NOW - POLICY.matters + 1, LEFT, 1, A)
    there = {b"%d" % number: row(1, A) for number in range(ageing.MANY - 2)}
    few = look({}, {**there, b"old": old, b"young": young})
    assert few.forget == []
    assert few.next == NOW - POLICY.matters + POLICY.keep - POLICY.wait
    many = look({}, {**there, b"old": old, b"young": young, b"new": row(1, A)})
    assert many.forget == [(b"old", old)]
    assert many.next == NOW + 1 - POLICY.wait


# -- rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "intervals", "image"),
    [
        ([5, A], [(A, 5, None)], A),
        ([5, A, 4, LEFT], [(A, 5, None)], A),
        ([5, LEFT, 5, A], [(A, 5, 5)], None),
        ([5, A, 5, LEFT], [(A, 5, 5)], None),
        ([9, LEFT, 5, A], [(A, 5, 9)], None),
        ([9, LEFT, 7, LEFT, 5, A, 3, A], [(A, 3, 7)], None),
        ([7, B, 5, A], [(B, 7, None), (A, 5, 7)], B),
        ([5, A, 5, B], [(B, 5, None), (A, 5, 5)], B),
        ([7, B, 6, LEFT, 5, A], [(B, 7, None), (A, 5, 6)], B),
        ([9, A, 7, B, 5, A], [(A, 9, None), (B, 7, 9), (A, 5, 7)], A),
        ([9, A, 7, LEFT, 5, A], [(A, 9, None), (A, 5, 7)], A),
        ([9, LEFT], [], None),
        ([5, A + B + C], [(A, 5, None), (B, 5, None), (C, 5, None)], A),
        ([9, LEFT, 5, A + B], [(A, 5, 9), (B, 5, 9)], None),
        ([7, C + B, 5, A + B], [(C, 7, None), (B, 7, None), (A, 5, 7), (B, 5, 7)], C),
    ],
)
def test_what_a_row_means(
    said: list[bytes | int], intervals: list[tuple[bytes, int, int | None]], image: bytes | None
) -> None:
    """Each image was used until something else was told."""
    use = ageing.use_of(row(*said))
    assert use is not None
    assert list(use.intervals()) == intervals
    assert (use.image, use.newest) == (image, said[0])


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"\xc1", b"text", msgpack.packb({}), msgpack.packb([]), msgpack.packb("x" * 30)),
        *(row(1), row(1, 1, A), row(1, 2), msgpack.packb([True, A]), row(A, 1)),
        *(msgpack.packb([1, True]), msgpack.packb([1.5, A]), msgpack.packb([None, A])),
        *(row(1, A)[:-1], row(1, A) + b"\x00", msgpack.packb([1, [1]]), row(1, A, 2)),
    ],
)
def test_rows_that_are_none(value: bytes) -> None:
    """They say nothing, and go."""
    assert ageing.use_of(value) is None
    assert look({A: NOW - WAIT}, {S1: value}) == Outlook([(A, NOW - WAIT)], [(S1, value)], None)


@given(st.binary(max_size=60))
def test_any_row(value: bytes) -> None:
    """Raises nothing."""
    use = ageing.use_of(value)
    assert use is None or isinstance(use.newest, int)


SAID = st.lists(
    st.tuples(
        st.none() | st.sampled_from([bytes([n]) * 20 for n in range(12)]), st.integers(0, 30)
    ),
    max_size=40,
)


@given(said=SAID, again=st.data())
def test_merging_in_any_order(said: list[tuple[bytes | None, int]], again: st.DataObject) -> None:
    """And repeated gives the same row, of at most so many things, the newest."""
    other = again.draw(st.permutations(said + again.draw(st.permutations(said))))
    one, two = Use(()), Use(())
    for fingerprint, stamp in said:
        one = one.merged(fingerprint, stamp, 8)
    for fingerprint, stamp in other:
        two = two.merged(fingerprint, stamp, 8)
    assert one == two
    packed = row(*(value for each in one.said for value in each))
    assert ageing.use_of(packed) == (one if said else None)
    newest = sorted(stamp for _, stamp in set(said))[-8:]
    assert [stamp for stamp, _ in one.said] == newest[::-1]
    left = {stamp for fingerprint, stamp in said if not fingerprint}
    assert one.image is None or one.newest not in left


@given(said=SAID)
def test_each_moment_has_one_use(said: list[tuple[bytes | None, int]]) -> None:
    """What was told last by then, read from the whole list."""
    use = Use(())
    for fingerprint, stamp in said:
        use = use.merged(fingerprint, stamp, 40)
    for moment in range(31):
        told = [(at, not raw, raw or b"") for raw, at in said if at <= moment]
        uses = [
            raw
            for raw, begin, end in use.intervals()
            if begin <= moment and (end is None or moment < end)
        ]
        expected = max(told)[2] if told else b""
        assert uses == ([expected] if expected else [])
