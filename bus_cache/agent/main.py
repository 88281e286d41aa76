"""The command ``bus-cache-agent``: says what to install where its libraries are missing."""

from __future__ import annotations

import sys
import warnings


def main() -> int:
    """Run the agent; 1 where what it needs is not installed."""
    try:
        with warnings.catch_warnings():
            # oslo.messaging's server imports oslo.service, and that eventlet where it is installed,
            # which warns of itself. Nothing here uses either.
            warnings.simplefilter("ignore")
            from bus_cache.agent import service  # noqa: PLC0415 - what it imports may be missing
    except ModuleNotFoundError as error:
        print(
            f"bus-cache-agent: {error.name} is not installed; the agent needs "
            "pip install 'bus-cache[agent]'.",
            file=sys.stderr,
        )
        return 1
    return service.main()
