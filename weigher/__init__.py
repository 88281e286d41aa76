"""A weigher for nova-scheduler: hosts that already hold the image of an instance weigh more.

In nova.conf::

    [filter_scheduler]
    weight_classes = nova.scheduler.weights.all_weighers,weigher.ImageCacheWeigher
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigher.image_cache import ImageCacheWeigher

__all__ = ["ImageCacheWeigher"]


def __getattr__(name: str) -> Any:
    """Import the weigher, and Nova with it, for who wants it: the command line wants the policy."""
    if name != "ImageCacheWeigher":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from weigher import image_cache  # noqa: PLC0415 - Nova is not everywhere

    return image_cache.ImageCacheWeigher
