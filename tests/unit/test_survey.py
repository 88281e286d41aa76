"""Hosts by age, and images by hosts: what the page draws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus_cache.index.listing import ImageRow
from consumers import survey

HOSTS = st.sets(st.from_regex(r"[a-z]{1,3}[0-9]{0,5}(-[0-9]{1,3})?", fullmatch=True), max_size=400)


def test_ages() -> None:
    now = 1_000_000_000.0
    ages = [-60, 0, 299, 300, 3599, 3600, 86_399, 86_400, 7 * 86_400 - 1, 7 * 86_400, 10**9]
    stamps: list[int | None] = [int((now - age) * 1000) for age in ages]
    assert survey.by_age([*stamps, None], now) == [3, 2, 2, 2, 3]


@given(HOSTS)
def test_every_host_that_holds_an_image_is_in_one_cell(hosts: set[str]) -> None:
    held = {f"{n}": set(list(hosts)[:: n + 1]) for n in range(3)}
    images = [ImageRow(name, None, None, len(members)) for name, members in held.items()]
    # a host may come to hold an image while hosts are listed: it is not drawn
    members = {name: [*members, "unknown"] for name, members in held.items()}
    heat = survey.drawn(images, members, hosts)
    assert [sum(row) for row in heat.cells] == [len(held[name]) for name in held]
    assert len(heat.columns) == min(survey.COLUMNS, len(hosts))
    sizes = [column.hosts for column in heat.columns]
    assert sum(sizes) == len(hosts)
    assert not sizes or max(sizes) - min(sizes) <= 1
    for row in heat.cells:
        assert all(0 <= held <= size for held, size in zip(row, sizes, strict=True))


def test_neighbours_are_in_the_order_of_their_numbers() -> None:
    hosts = [f"compute{n}" for n in range(1, 12)] + ["a-2-10", "a-2-9", "a-10-1"]
    heat = survey.drawn([], {}, hosts)
    assert [column.first for column in heat.columns] == ["a-2-9", "a-2-10", "a-10-1"] + [
        f"compute{n}" for n in range(1, 12)
    ]
