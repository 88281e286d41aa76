"""How much a cached image is worth to a host: pure functions over plain values."""

from __future__ import annotations

from collections.abc import Sequence


def saving(size: int, small: int, large: int) -> float:
    """Return what an image that need not be fetched saves: from 0, nothing, to 1, full weight.

    The time to fetch an image grows with its size, so the saving does too, evenly between the
    two ends. Where ``large`` is not above ``small``, it is a step at ``small``.

    :param size: the image's, in bytes.
    :param small: bytes; an image of at most this size saves nothing.
    :param large: bytes; an image of at least this size has full weight.
    """
    if size <= small:
        return 0.0
    if size >= large:
        return 1.0
    return (size - small) / (large - small)


def weights(holds: Sequence[bool], saved: float) -> list[float]:
    """Return the weight of each host, from 0 to 1.

    Where every host holds the image, or none does, it makes no difference between them, and all
    weigh 0. (``normalize()`` in nova/weights.py does so by itself only for weighers without
    ``minval`` and ``maxval``.)

    :param holds: for each host, whether it holds the image.
    :param saved: what holding it saves, see :func:`saving`.
    """
    if all(holds):
        return [0.0] * len(holds)
    return [saved if held else 0.0 for held in holds]
