"""Help texts: one line per paragraph and per item of a list."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_cache.conf import opts
from bus_cache.conf.text import paragraphs

WORDS = st.lists(st.from_regex(r"[a-z0-9.,()%$]{1,12}", fullmatch=True), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("one line", "one line"),
        ("\n    two\n    lines\n    ", "two lines"),
        ("\n    first\n    one\n\n    second\n    one\n", "first one\n\nsecond one"),
        ("\n    these:\n\n    * a\n      b\n    * c\n\n    end", "these:\n\n* a b\n* c\n\nend"),
        ("\n    a*b and c * d\n    e", "a*b and c * d e"),
    ],
)
def test_lines_of_the_source_are_joined(written: str, shown: str) -> None:
    """Paragraphs and items of a list stay apart."""
    assert paragraphs(written) == shown


@settings(deadline=None)
@given(blocks=st.lists(WORDS, min_size=1, max_size=5))
def test_no_word_is_lost_and_nothing_changes_twice(blocks: list[list[str]]) -> None:
    """Whatever the width that a text was written in."""
    written = "\n\n".join("\n        ".join(words) for words in blocks)
    shown = paragraphs("\n        " + written)
    assert shown.split("\n\n") == [" ".join(words) for words in blocks]
    assert paragraphs(shown) == shown


@pytest.mark.parametrize("groups", [opts.list_opts(), opts.list_weigher_opts()])
def test_every_option_has_a_help_text_without_gaps(groups: list[tuple[str, list[object]]]) -> None:
    """A sample shows them as they are."""
    for group, options in groups:
        for option in options:
            text: str = option.help  # type: ignore[attr-defined]
            assert len(text) > 20, (group, option)
            assert "  " not in text.replace("\n", ""), (group, option)
            assert text == text.strip(), (group, option)
