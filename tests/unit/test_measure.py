"""What is measured: histograms, and boots that found their image."""

from __future__ import annotations

import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bus_cache.index.changes import Fetching
from bus_cache.measure import Histogram, Metric, Samples, text
from bus_cache.web import exposition
from consumers import measures
from consumers.events import Notification
from consumers.measures import Boots, size_class


@given(st.lists(st.floats(-1, 20)), st.sets(st.integers(0, 10), min_size=1).map(sorted))
def test_a_histogram_counts_what_is_up_to_each_bound(
    values: list[float], bounds: list[int]
) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    ordered = sorted(values)
    expected = [bisect.bisect_right(ordered, bound) for bound in bounds]
    assert histogram.cumulative == [*expected, len(values)]
    assert histogram.total == pytest.approx(sum(max(0.0, value) for value in values))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, "unknown"),
        (0, "under 100 MiB"),
        (100 * 1024**2, "under 1 GiB"),
        (1024**3 - 1, "under 1 GiB"),
        (1024**3, "under 2 GiB"),
        (2 * 1024**3, "2 GiB or more"),
    ],
)
def test_classes_of_size(size: int | None, expected: str) -> None:
    assert size_class(size) == expected
    assert expected in measures.SIZE_CLASSES


def test_our_text_says_what_the_library_says() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.2, 0.7, 3.0):
        histogram.observe(value)
    counter = Metric("x_total", "counter", "Some.", ("a", "b"))
    gauge = Metric("y", "gauge", "One.")
    seconds = Metric("z_seconds", "histogram", "Times.", ("a",))
    table = (counter, gauge, seconds)
    samples: Samples = {
        counter: [(("1", "2"), 3), (("1", "3"), 4.5)],
        gauge: [((), True)],
        seconds: [(("1",), histogram)],
    }
    theirs = exposition.exporter(table, lambda: samples)().decode()
    ours = list(text_string_to_metric_families(text(table, samples)))
    assert ours == [
        each
        for each in text_string_to_metric_families(theirs)
        if not each.name.startswith("process_")
    ]
    assert len(ours) == 3


def begins(boots: Boots, server: object, host: str = "h1", image: str = "i") -> Fetching:
    """Nova says that a host begins to build a server."""
    said = Notification(measures.BOOTS[0], f"nova-compute:{host}", 1, {"uuid": server})
    change = Fetching(host, image, 1)
    boots.begins(said, [change])
    return change


def test_boots_are_counted_once_whatever_comes_again() -> None:
    boots = Boots()
    begins(boots, "s1")
    begins(boots, "s1")  # the other format
    change = begins(boots, "s2")
    boots.answered(change, False, 5)
    assert boots.counts == {("under 100 MiB", False): 2}
    begins(boots, "s1")
    boots.answered(change, True, 5)
    boots.answered(change, True, 5)
    assert boots.counts == {("under 100 MiB", False): 2}
    boots.answered(begins(boots, "s1", host="h2"), True, None)  # Nova's next try
    assert boots.counts == {("under 100 MiB", False): 2, ("unknown", True): 1}


def test_what_was_given_back_is_counted_when_it_comes_again() -> None:
    boots = Boots()
    change = begins(boots, "s1")
    boots.forget()
    boots.answered(change, True, None)
    assert not boots.counts
    begins(boots, "s1")
    boots.answered(change, True, None)
    assert boots.counts == {("unknown", True): 1}


def test_what_is_remembered_of_servers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "REMEMBERED", 10)
    boots = Boots()
    for number in range(100):
        boots.answered(begins(boots, f"s{number}"), True, None)
    assert sum(boots.counts.values()) == 100
    assert len(boots._counted) == 10
    for odd in (None, 5, "x" * 37):
        boots.answered(begins(boots, odd), True, None)
    assert sum(boots.counts.values()) == 100
