"""Writes the files that are generated from the code, or checks that they are up to date."""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bus_cache.cli import app

ROOT = Path(__file__).parent.parent
COMMANDS = """\
# Command line reference

Generated: what `bus-cache help COMMAND` prints. All commands only read, but for `sync --repair`
and `flush`.
"""


def sample(generator: str) -> str:
    """Return what oslo-config-generator makes of one of its configuration files."""
    with tempfile.NamedTemporaryFile() as out:
        command = Path(sys.executable).with_name("oslo-config-generator")
        subprocess.run(
            [command, "--config-file", ROOT / generator, "--output-file", out.name], check=True
        )
        return Path(out.name).read_text()


def commands() -> str:
    """Return the page of the command line: each command's own help."""
    program = Path(sys.executable).with_name("bus-cache")
    parts = [COMMANDS]
    for name in ("", *app.COMMANDS):
        said = subprocess.run(
            [program, "help", *name.split()],
            env={**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        parts.append(f"## bus-cache {name}".rstrip() + f"\n\n```text\n{said.strip()}\n```\n")
    return "\n".join(parts)


GENERATORS: dict[str, Callable[[], str]] = {
    "docs/commands.md": commands,
    "etc/bus_cache/bus_cache.conf.sample": functools.partial(
        sample, "etc/oslo-config-generator/bus_cache.conf"
    ),
    "etc/bus_cache/nova.conf.sample": functools.partial(
        sample, "etc/oslo-config-generator/nova.conf"
    ),
}


def main() -> int:
    """Run the command; 1 where ``--check`` finds a stale file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where stale")
    check = parser.parse_args().check
    stale = []
    for path, generator in GENERATORS.items():
        target = ROOT / path
        text = generator()
        if target.exists() and target.read_text() == text:
            continue
        stale.append(path)
        if not check:
            target.write_text(text)
    if stale:
        print(("stale, run 'make format': " if check else "written: ") + ", ".join(stale))
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
