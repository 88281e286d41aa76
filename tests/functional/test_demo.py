"""``make demo`` shows what it says: else it ends with 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_demo_shows_what_it_should() -> None:
    """On embedded parts, as a newcomer runs it."""
    command = [sys.executable, "-m", "tools.demo"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "The hosts that hold it come first" in done.stdout
