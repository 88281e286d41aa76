"""What is remembered of Redis' answers: for how long, of what, and how much."""

from __future__ import annotations

import pytest

from bus_cache.index.reader import Found
from weigher import recent
from weigher.recent import FRESH


def found(asked: str, held: str = "", coming: str = "") -> Found:
    """Return an answer; each letter is a host."""
    return Found(frozenset(asked), frozenset(held), frozenset(coming))


def test_an_answer_counts_from_before_it_was_asked_for() -> None:
    """For its second, and for its image."""
    known = recent.Recent()
    answer = found("abc", "a", "bx")
    assert known.learn("i", answer, 100.0) == answer
    assert known.look("i", 100.0 + FRESH - 0.01) == answer
    assert known.look("i", 100.0 + FRESH) is None
    assert known.look("other", 100.0) is None


def test_answers_about_several_hosts_come_together() -> None:
    """The newer one counts, and none longer for that."""
    known = recent.Recent()
    known.learn("i", found("abc", "ab", "c"), 0.0)
    assert known.learn("i", found("bd", "d", "x"), 0.5) == found("abcd", "ad", "x")
    assert known.look("i", 0.9) == found("abcd", "ad", "x")
    assert known.look("i", FRESH) is None
    assert known.learn("i", found("a"), FRESH) == found("a")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hosts asked about, of all images; too large an answer is none to keep."""
    monkeypatch.setattr(recent, "MOST_HOSTS", 5)
    known = recent.Recent()
    for image, hosts in (("one", "abc"), ("two", "ab")):
        known.learn(image, found(hosts), 0.0)
    assert known.look("one", 0.0)
    known.learn("three", found("a"), 0.0)
    assert [bool(known.look(image, 0.0)) for image in ("one", "two", "three")] == [0, 0, 1]
    known.learn("four", found("abcdef"), 0.0)
    assert known.look("four", 0.0) is None
    known.learn("five", found("abcde"), FRESH)
    assert known._hosts == 5
    assert list(known._answers) == ["five"]
