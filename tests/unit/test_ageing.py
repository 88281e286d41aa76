"""When images are gone by Nova's rule, and what a row about a server means."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import ageing
from consumers.ageing import Outlook, Policy, Use

A, B, C = (bytes([n]) * 20 for n in (1, 2, 3))
S1, S2 = b"s" * 16, b"t" * 16
SECOND, HOUR, DAY = 1000, 3_600_000, 86_400_000
POLICY = Policy.of(2400, True, 86_400)
WAIT = DAY + 2520 * SECOND
NOW = 1_800_000_000_000


def row(left: int, *images: bytes | int) -> bytes:
    """A row as it is in Redis."""
    packed: bytes = msgpack.packb([left, *images])
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
    uses = {S1: row(0, A, 1), S2: row(NOW, B, NOW - 5)}
    assert look({A: 1, B: 1}, uses).due == []
    assert look({A: 1}, {S1: row(0, A, 1)}) == Outlook([], [], None)


def test_an_image_whose_server_left() -> None:
    """Its use ended then, however old the evidence."""
    over = row(NOW - WAIT, A, 1)
    assert look({A: 1}, {S1: over}).due == [(A, 1)]
    assert look({A: 1}, {S1: row(NOW - WAIT + 1, A, 1)}).due == []
    assert look({A: 1}, {S1: over, S2: row(0, A, 2)}).due == []
    assert look({A: 1}, {S1: over, S2: row(NOW - WAIT + 1, A, 2)}).due == []
    assert look({A: NOW - 1}, {S1: over}).due == []


def test_an_image_whose_server_was_rebuilt() -> None:
    """It was used until then; the new one is used."""
    uses = {S1: row(0, B, NOW - WAIT, A, 1)}
    assert look({A: 1, B: 1}, uses).due == [(A, 1)]
    assert look({A: 1, B: 1}, {S1: row(0, B, NOW - WAIT + 1, A, 1)}).due == []


def test_the_oldest_is_looked_at_next() -> None:
    """Of images and of rows to forget."""
    uses = {S1: row(NOW - HOUR, A, 1)}
    found = look({A: 1, B: NOW - 2 * HOUR}, uses)
    assert found == Outlook([], [], NOW - 2 * HOUR)
    assert look({A: 1}, uses).next == NOW - HOUR
    assert look({}, uses).next == NOW - HOUR + POLICY.keep - WAIT


def test_a_host_that_is_down() -> None:
    """Nothing is removed there; it is looked at again in an interval."""
    down = (NOW - HOUR, False)
    assert look({A: 1}, service=down) == Outlook([], [], NOW - DAY)
    assert look({A: 1}, {S1: row(0, A, 1)}, service=down).next is None


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
    old = row(NOW - policy.keep, A, 1)
    assert look({B: 1}, {S1: old}, policy=policy) == Outlook([], [(S1, old)], NOW - DAY)


def test_rows_are_forgotten() -> None:
    """When no image that they tell of can be there, and no message can be so late."""
    assert POLICY.keep == ageing.REMEMBER
    assert Policy.of(2400, True, 30 * 86_400).keep == 30 * DAY + 2 * POLICY.interval
    old = row(NOW - POLICY.keep, A, 1)
    young = row(NOW - POLICY.keep + 1, A, 1)
    used = row(5, A, 6)
    empty = row(NOW - POLICY.keep)
    assert look({}, {b"1": old, b"2": young, b"3": used, b"4": empty}).forget == [
        (b"1", old),
        (b"4", empty),
    ]


# -- rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "ends", "over"),
    [
        (Use(0, ((A, 5),)), [(A, None)], None),
        (Use(4, ((A, 5),)), [(A, None)], None),
        (Use(5, ((A, 5),)), [(A, 5)], 5),
        (Use(9, ((A, 5),)), [(A, 9)], 9),
        (Use(0, ((B, 7), (A, 5))), [(B, None), (A, 7)], None),
        (Use(6, ((B, 7), (A, 5))), [(B, None), (A, 6)], None),
        (Use(9, ((B, 7), (A, 5))), [(B, 9), (A, 7)], 9),
        (Use(6, ((C, 9), (B, 7), (A, 5))), [(C, None), (B, 9), (A, 6)], None),
        (Use(9, ()), [], 9),
    ],
)
def test_what_a_row_means(use: Use, ends: list[tuple[bytes, int | None]], over: int | None) -> None:
    """Each image was used until the next one, or until the server left before that."""
    assert list(use.ends()) == ends
    assert use.over == over


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"\xc1", b"text", msgpack.packb({}), msgpack.packb([]), msgpack.packb("x" * 30)),
        *(row(1, A), row(1, 1, A), row(1, 2, 3), msgpack.packb([True, A, 1])),
        *(msgpack.packb([1, A, True]), msgpack.packb([1.5]), msgpack.packb([None, A, 1])),
        *(row(1, A, 1)[:-1], row(1, A, 1) + b"\x00", msgpack.packb([1, A, [1]])),
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
    assert use is None or isinstance(use.left, int)


SAID = st.lists(
    st.tuples(
        st.none() | st.sampled_from([bytes([n]) * 20 for n in range(12)]), st.integers(0, 30)
    ),
    max_size=40,
)


@given(said=SAID, again=st.data())
def test_merging_in_any_order(said: list[tuple[bytes | None, int]], again: st.DataObject) -> None:
    """And repeated gives the same row, of at most so many images, the newest."""
    other = again.draw(st.permutations(said + again.draw(st.permutations(said))))
    one, two = Use(0, ()), Use(0, ())
    for fingerprint, stamp in said:
        one = one.merged(fingerprint, stamp, 8)
    for fingerprint, stamp in other:
        two = two.merged(fingerprint, stamp, 8)
    assert one == two
    packed = row(one.left, *(value for image in one.images for value in image))
    assert ageing.use_of(packed) == one
    newest: dict[bytes, int] = {}
    for fingerprint, stamp in said:
        if fingerprint:
            newest[fingerprint] = max(stamp, newest.get(fingerprint, 0))
    assert sorted(stamp for _, stamp in one.images) == sorted(newest.values())[-8:]
    assert one.left == max([stamp for fingerprint, stamp in said if not fingerprint], default=0)
