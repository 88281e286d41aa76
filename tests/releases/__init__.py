"""The weigher and the evidence on Nova's releases, each in an environment of its own."""

from __future__ import annotations

import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent / "constraints"
UV = str(Path(sys.executable).parent / "uv")
RELEASES = {
    27: "2023.1",
    28: "2023.2",
    29: "2024.1",
    30: "2024.2",
    31: "2025.1",
    32: "2025.2",
    33: "2026.1",
    34: "2026.2",
}
"""Nova's major version -> the OpenStack release that it belongs to."""


def threads(release: int) -> list[str]:
    """Return how nova-scheduler can run, its default first.

    Native threads came with 32, for those who set OS_NOVA_DISABLE_EVENTLET_PATCHING, and are the
    default since 33 (nova/monkey_patch.py, nova/cmd/scheduler.py).
    """
    if release < 32:
        return ["eventlet"]
    return ["eventlet", "native"] if release == 32 else ["native", "eventlet"]
