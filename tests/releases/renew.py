"""Writes constraints/nova-<N>.txt anew: what Nova N was released with, every version pinned.

``python -m tests.releases.renew [27 34]``. Each file holds the newest N.x of Nova, and of all that
it needs what was the newest on the day after N.0 was released: as its upper constraints did then.
Of pytest and hypothesis, which the tests need, it holds today's.
"""

from __future__ import annotations

import subprocess
import sys

from tests.releases import CONSTRAINTS, UV

RELEASED = {
    27: "2023-03-23",
    28: "2023-10-05",
    29: "2024-04-04",
    30: "2024-10-03",
    31: "2025-04-03",
    32: "2025-10-02",
    33: "2026-04-02",
    34: "2026-10-01",
}
"""The day after each N.0.0."""

BELOW = {27: "sqlalchemy<2"}
"""What a release can't be used with, though its requirements allow it."""

TODAYS = ("nova", "pytest", "pluggy", "iniconfig", "hypothesis")


def renew(release: int) -> None:
    """Write one file."""
    path = CONSTRAINTS / f"nova-{release}.txt"
    path.unlink(missing_ok=True)
    subprocess.run(
        [
            *(UV, "pip", "compile", "-", "--output-file", str(path), "--quiet"),
            *("--no-annotate", "--python-version", "3.11"),
            *("--custom-compile-command", f"python -m tests.releases.renew {release}"),
            *("--exclude-newer", RELEASED[release]),
            *(f"--exclude-newer-package={name}=9999-01-01" for name in TODAYS),
        ],
        input=f"nova=={release}.*\npytest\nhypothesis\n{BELOW.get(release, '')}\n",
        text=True,
        check=True,
    )


if __name__ == "__main__":
    for each in sys.argv[1:] or RELEASED:
        renew(int(each))
