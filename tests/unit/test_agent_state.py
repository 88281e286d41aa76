"""What an agent says next, given what it said: the pure part."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_cache import protocol
from bus_cache.agent import state
from bus_cache.agent.state import Difference, Message, State
from bus_cache.names import fingerprint
from bus_cache.protocol import CachedImage, Inventory

A, B, C = (fingerprint(name) for name in "abc")

NOW = 1_800_000_000_000


def held(*fingerprints: str) -> dict[str, CachedImage | None]:
    """Images that are there."""
    return {each: CachedImage(each, 4096, 7) for each in fingerprints}


def coming(*fingerprints: str) -> dict[str, CachedImage | None]:
    """Images on their way."""
    return dict.fromkeys(fingerprints)


def numbers(messages: Iterable[Message]) -> list[tuple[int, int]]:
    """The versions of messages."""
    return [(each.payload["epoch"], each.payload["sequence"]) for each in messages]


def begun(now: state.Seen, epoch: int = 5) -> State:
    """An agent that said all that is there now."""
    found = State("h1", epoch)
    found.snapshot(now)
    return found


def test_what_is_whole_is_not_on_its_way() -> None:
    """Both files may be there."""
    image = CachedImage(A, 1, 2)
    assert state.seen(Inventory([image], [A, B])) == {A: image, B: None}


def test_an_epoch_begins_with_a_snapshot() -> None:
    """Number 0, and all that is there."""
    agent = State("h1", 5)
    assert agent.snapshot_due
    message = agent.snapshot({**held(A), **coming(B)})
    assert message.event == "image_cache.snapshot"
    assert message.payload == {
        "version": "1.0",
        "host": "h1",
        "epoch": 5,
        "sequence": 0,
        "images": [[A, 4096, 7]],
        "fetching": [B],
        "leaving": False,
    }
    assert not agent.snapshot_due


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, held(A), [protocol.STORED]),
        ({}, coming(A), [protocol.FETCHING]),
        (coming(A), held(A), [protocol.STORED]),
        (coming(A), {}, [protocol.CLEANUP]),
        (held(A), {}, [protocol.CLEANUP]),
        (held(A), coming(A), [protocol.CLEANUP, protocol.FETCHING]),
        (held(A), held(A), []),
        (coming(A), coming(A), []),
        ({}, {}, []),
    ],
)
def test_differences(before: state.Seen, now: state.Seen, said: list[str]) -> None:
    """Each change is told as what it is; a failed fetch is a cleanup."""
    for among in (None, {A}):
        assert [each.event for each in begun(before).differences(now, among)] == said


def test_only_what_was_looked_at_is_compared() -> None:
    """What was not looked at is not gone."""
    assert begun(held(A, B)).differences(held(C), {C}) == [
        Difference(protocol.STORED, C, held(C)[C])
    ]


def test_statements_are_numbered_without_gaps() -> None:
    """And say what they are about."""
    agent = begun(held(A))
    messages = [agent.statement(each) for each in agent.differences({**held(B), **coming(C)})]
    assert [each.event for each in messages] == [
        protocol.CLEANUP,
        protocol.STORED,
        protocol.FETCHING,
    ]
    assert numbers(messages) == [(5, 1), (5, 2), (5, 3)]
    assert [each.payload["image"] for each in messages] == [A, B, C]
    assert [each.payload["bytes"] for each in messages] == [0, 4096, 0]
    assert agent.differences({**held(B), **coming(C)}) == []


def test_after_a_failure_all_is_told_under_a_new_number() -> None:
    """The one that was used may have arrived."""
    agent = begun({})
    agent.statement(Difference(protocol.STORED, A, held(A)[A]))
    agent.forget()
    assert agent.snapshot_due
    assert numbers([agent.snapshot(held(A))]) == [(5, 2)]


def test_another_epoch() -> None:
    """It begins as each does."""
    agent = begun(held(A))
    agent.begin(9)
    assert agent.snapshot_due
    assert numbers([agent.snapshot(held(A), leaving=True)]) == [(9, 0)]


def test_more_than_can_be_told_is_refused() -> None:
    """In whatever way it comes, and no number is used up."""
    many = held(*(fingerprint(str(number)) for number in range(protocol.MOST_IMAGES)))
    agent = State("h1", 5)
    with pytest.raises(ValueError, match="10001 images in the cache of h1"):
        agent.snapshot({**many, **held(A)})
    agent.snapshot(many)
    with pytest.raises(ValueError, match="more than 10000 images in the cache of h1"):
        agent.statement(Difference(protocol.STORED, A, held(A)[A]))
    gone = next(iter(many))
    assert numbers([agent.statement(Difference(protocol.CLEANUP, gone))]) == [(5, 1)]
    agent.statement(Difference(protocol.STORED, A, held(A)[A]))


@pytest.mark.parametrize(
    ("version", "now", "taken"),
    [
        ((0, 0), None, True),
        ((2**53 - 1, 0), None, True),
        ((2**53, 0), None, False),
        ((NOW + protocol.MOST_EPOCH_AHEAD, 0), NOW, True),
        ((NOW + protocol.MOST_EPOCH_AHEAD + 1, 0), NOW, False),
        ((2**53 - 1, 0), NOW, False),
        ((NOW, 0), 0, True),  # our own clock is wrong
        ((NOW, protocol.MOST_SEQUENCE), NOW, True),
        ((NOW, protocol.MOST_SEQUENCE + 1), NOW, False),
        ((NOW, -1), NOW, False),
    ],
)
def test_epochs_and_sequences_that_are_taken(
    version: tuple[int, int], now: int | None, taken: bool
) -> None:
    """One that no later one could exceed is refused."""
    for event, payload in (
        (protocol.STORED, protocol.statement("h1", version, A)),
        (protocol.SNAPSHOT, protocol.snapshot("h1", version, [])),
    ):
        with contextlib.nullcontext() if taken else pytest.raises(protocol.Refused, match=" to "):
            said = protocol.read(event, protocol.publisher("h1"), 1, payload, now=now)
            assert said.version == version


CACHE = st.dictionaries(st.sampled_from([A, B, C]), st.booleans(), max_size=3).map(
    lambda found: {k: CachedImage(k, 1, 1) if v else None for k, v in found.items()}
)


@given(
    st.lists(st.tuples(CACHE, st.integers(0, 4), st.booleans()), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_whatever_fails_the_index_ends_as_the_cache(
    steps: list[tuple[dict[str, CachedImage | None], int, bool]], random: object
) -> None:
    """Messages whose sending failed arrive or do not; all arrive in any order, some twice."""
    agent = State("h1", 5)
    arrived: list[Message] = []

    def send(message: Message, fails: bool, arrives: bool) -> bool:
        if arrives or not fails:
            arrived.append(message)
        if fails:
            agent.forget()
        return not fails

    def tell(now: state.Seen, fail_at: int, arrives: bool) -> None:
        if agent.snapshot_due:
            send(agent.snapshot(now), fail_at == 1, arrives)
            return
        for number, each in enumerate(agent.differences(now), 1):
            if not send(agent.statement(each), number == fail_at, arrives):
                return

    for now, fail_at, arrives in steps:
        tell(now, fail_at, arrives)
    last = steps[-1][0]
    tell(last, 0, True)
    assert len(set(numbers(arrived))) == len(arrived)
    for before, after in itertools.pairwise(arrived):
        (e1, s1), (e2, s2) = numbers([before, after])
        assert e1 == e2
        assert s2 == s1 + 1 or after.event == protocol.SNAPSHOT
    messages = arrived + arrived[:3]
    random.shuffle(messages)  # type: ignore[attr-defined]
    assert index(messages) == {k for k, image in last.items() if image}


def index(messages: Iterable[Message]) -> set[str]:
    """What the contract makes of messages: of each image the newest word, of all the newest
    snapshot."""
    floor: tuple[int, int] = (-1, -1)
    rows: dict[str, tuple[tuple[int, int], bool]] = {}
    for event, payload in messages:
        version = (payload["epoch"], payload["sequence"])
        if event == protocol.SNAPSHOT:
            if version < floor:
                continue
            floor = version
            rows = {k: row for k, row in rows.items() if row[0] > version}
            for image, _, _ in payload["images"]:
                rows.setdefault(image, (version, True))
        elif version > max(floor, rows.get(payload["image"], (floor, False))[0]):
            rows[payload["image"]] = (version, event == protocol.STORED)
    return {image for image, (_, there) in rows.items() if there}
