"""Texts for people: paragraphs of help, and what went wrong on one line."""

from __future__ import annotations

import inspect


def paragraphs(text: str) -> str:
    """Return a text with each paragraph, and each item of a list, on one line."""
    blocks = inspect.cleandoc(text).split("\n\n")
    lines = (
        "\n* ".join(" ".join(item.split()) for item in block.split("\n* ")) for block in blocks
    )
    return "\n\n".join(lines)


def one_line(said: object) -> str:
    """Return what an error or an answer says on one line, at most 300 characters, none of which
    does a terminal harm; of one that says nothing, what it is.
    """
    line = " ".join(str(said).split())[:300]
    return "".join(c if c.isprintable() else "?" for c in line) or type(said).__name__
