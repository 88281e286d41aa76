"""The bench's own arithmetic and messages: a wrong one would make every figure wrong."""

from __future__ import annotations

import itertools
import json

import pytest

from bus_cache import protocol
from bus_cache.index.changes import AgentSnapshot, AgentStatement, Held, Said
from consumers import events, evidence
from tests.bench import bus, load
from tests.bench.row import Row, alternate, beside


def test_a_ratio_is_the_median_of_the_rounds_and_decides() -> None:
    row = beside("figure", [(1, 2), (30, 10), (4, 5)], "ms", 0.8)
    assert (row.ours, row.peer, row.ratio, row.spread) == (4, 5, 0.8, (0.5, 3.0))
    assert row.holds is True
    assert beside("figure", [(1, 2)], "ms", 0.49).holds is False
    assert beside("figure", [(1, 2)], "1/s", 0.8, at_least=True).holds is False
    assert beside("figure", [(1, 2)], "ms", None).holds is None


@pytest.mark.parametrize(("ours", "holds"), [(50.0, True), (50.1, False)])
def test_a_figure_by_itself_is_held_against_its_bound(ours: float, holds: bool) -> None:
    row = Row("figure", ours, None, "MB", 50, bounds="ours")
    assert row.holds is holds
    assert (row.says, row.plain()["holds"]) == ("≤ 50 MB", holds)


def test_measures_take_turns_and_keep_their_places() -> None:
    calls: list[str] = []

    def measure(name: str, value: float) -> float:
        calls.append(name)
        return value

    found = alternate(2, lambda: measure("a", 1), lambda: measure("b", 2))
    assert found == [(1, 2), (1, 2)]
    assert calls == ["a", "b", "b", "a"]


def test_bodies_are_as_long_relevant_and_different_as_is_said() -> None:
    stream = bus.Bodies().stream(0.05, (f"image-{number}" for number in itertools.count()))
    bodies = list(itertools.islice(stream, 200))
    assert all(4000 < len(body) < 4400 for body, _ in bodies)
    inner = [json.loads(json.loads(body)["oslo.message"]) for body, _ in bodies]
    # oslo.messaging drops what has an id that it knows
    assert len({each["_unique_id"] for each in inner}) == 200
    told = [body for body, _ in bodies if events.peek(body) in evidence.RULES]
    assert len(told) == 10
    assert [image for _, image in bodies if image] == [f"image-{n}" for n in range(10)]
    said = [evidence.read(events.decode(body, 2**42)) for body in told]
    held = [each for changes in said for each in changes if isinstance(each, Held)]
    assert [each.image_id for each in held] == [f"image-{n}" for n in range(10)]


def test_a_played_clouds_words_are_understood() -> None:
    cloud = load.Cloud(30)
    now = cloud.epoch + 1000
    said = [events.decode(body, now) for body in cloud.snapshots()]
    said += [events.decode(body, now) for body in cloud.fetched(cloud.images[7], ["a", "b"])]
    read = [
        protocol.read(each.event_type, each.publisher_id, each.stamp, each.data, now=now)
        for each in said
    ]
    snapshots = [each for each in read if isinstance(each, AgentSnapshot)]
    assert {each.host: sorted(each.fingerprints) for each in snapshots} == cloud.caches
    assert sum(len(each.fingerprints) for each in snapshots) == cloud.pairs
    single = [each for each in read if isinstance(each, AgentStatement)]
    assert [each.said for each in single] == 2 * [Said.FETCHING, Said.STORED]
    # some images are everywhere, most of them nearly nowhere
    held = sorted(sum(image in cache for cache in cloud.caches.values()) for image in cloud.images)
    assert held[-1] > 20
    assert held[1000] <= 1
