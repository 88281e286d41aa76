"""Help texts: written in lines of the source's width, shown in those of whoever shows them."""

from __future__ import annotations

import inspect


def paragraphs(text: str) -> str:
    """Return a text with each paragraph, and each item of a list, on one line."""
    blocks = inspect.cleandoc(text).split("\n\n")
    lines = (
        "\n* ".join(" ".join(item.split()) for item in block.split("\n* ")) for block in blocks
    )
    return "\n\n".join(lines)
