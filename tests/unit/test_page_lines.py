"""What the page keeps of the log."""

from __future__ import annotations

import logging

from consumers import page


def test_the_last_lines_are_few_and_short() -> None:
    """Of warnings, the newest; nothing in them that a terminal or a browser would take amiss."""
    kept = page.LastLines()
    log = logging.getLogger("a test of what the page keeps")
    log.addHandler(kept)
    log.info("none")
    for number in range(2 * page.LINES):
        log.warning("%d \x1b[2J\n%s", number, "x" * 2 * page.MOST)
    texts = [text for _, _, text in kept.lines]
    assert len(texts) == page.LINES
    assert texts[-1].startswith(f"{2 * page.LINES - 1} ?[2J x")
    assert {len(text) for text in texts} == {page.MOST}
