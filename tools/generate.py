"""Writes the files that are generated from the code, or checks that they are up to date."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
GENERATORS = {
    "etc/bus_cache/bus_cache.conf.sample": "etc/oslo-config-generator/bus_cache.conf",
    "etc/bus_cache/nova.conf.sample": "etc/oslo-config-generator/nova.conf",
}


def generated(generator: str) -> str:
    """Return what oslo-config-generator makes of one of its configuration files."""
    with tempfile.NamedTemporaryFile() as out:
        command = Path(sys.executable).with_name("oslo-config-generator")
        subprocess.run(
            [command, "--config-file", ROOT / generator, "--output-file", out.name], check=True
        )
        return Path(out.name).read_text()


def main() -> int:
    """Run the command; 1 where ``--check`` finds a stale file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where stale")
    check = parser.parse_args().check
    stale = []
    for path, generator in GENERATORS.items():
        target = ROOT / path
        text = generated(generator)
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
