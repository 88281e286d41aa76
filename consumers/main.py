"""The command ``bus-cache-consumer``: says what to install where its libraries are missing."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the consumer; 1 where what it needs is not installed."""
    try:
        from consumers import service  # noqa: PLC0415 - what it imports may be missing
    except ModuleNotFoundError as error:
        print(
            f"bus-cache-consumer: {error.name} is not installed; the consumer needs "
            "pip install 'bus-cache[consumer]'.",
            file=sys.stderr,
        )
        return 1
    return service.main()
