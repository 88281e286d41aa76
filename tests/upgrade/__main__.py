"""Tries upgrades: each older version's real programs beside the present ones, and prints a table.

``python -m tests.upgrade [REVISION ...] [--only SCENARIO]``: those of versions.txt and every git
tag, or those named. Each version has a RabbitMQ and a Redis of its own.

Exits with 1 where a scenario fails, with 2 where the git history is not here.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests import servers
from tests.upgrade import trees
from tests.upgrade.scenarios import SCENARIOS, Scene

FAILED = "FAILED"


def rows(version: trees.Version, new: trees.Tree, folder: Path, only: list[str]) -> list[list[str]]:
    """Try a version; return the table's rows, and print what failed."""
    found = []
    folder.mkdir()
    try:
        old = trees.export(version, folder)
    except Exception:
        print(f"{version.revision}: {traceback.format_exc()}", flush=True)
        return [[version.revision, "?", "all", f"{FAILED}: its programs do not run here"]]
    with servers.RabbitMQ() as rabbit, servers.Redis() as store:
        scene = Scene(old, new, rabbit, store, folder)
        for name in only or SCENARIOS:
            started = time.monotonic()
            with scene.begun(name.replace(" ", "-")):
                try:
                    said = SCENARIOS[name](scene)
                except Exception as error:
                    said = f"{FAILED}: {error or type(error).__name__}".splitlines()[0][:200]
                    print(traceback.format_exc())
                    for log in sorted(scene.folder.rglob("*.log")):
                        if name.replace(" ", "-") in str(log):
                            print(f"--- {log.name}\n{servers.tail(log)}")
            spent = time.monotonic() - started
            print(f"{old.name}, {name}: {said} ({spent:.0f} s)", flush=True)
            found.append([old.name, str(old.schema), name, said])
        scene.cloud.close()
    return found


def main() -> int:
    """Try the versions that the command line names."""
    parser = argparse.ArgumentParser(description="Neighbouring versions side by side.")
    parser.add_argument("revision", nargs="*", help="default: versions.txt, and every tag")
    parser.add_argument("--only", action="append", default=[], choices=list(SCENARIOS))
    arguments = parser.parse_args()
    try:
        versions = trees.versions(arguments.revision)
    except trees.Missing as error:
        print(error, file=sys.stderr)
        return 2
    began = time.monotonic()
    table = [["version", "schema", "scenario", "result"], ["---"] * 4]
    with tempfile.TemporaryDirectory(prefix="bus-cache-upgrade-") as name:
        new = trees.present(Path(name))
        folders = [Path(name) / str(number) for number in range(len(versions))]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
            tried = executor.map(
                lambda pair: rows(pair[0], new, pair[1], arguments.only),
                zip(versions, folders, strict=True),
            )
            for each in tried:
                table += each
    text = "\n".join("| " + " | ".join(row) + " |" for row in table)
    print(f"\n{text}\n\nThe present version writes schema {new.schema}. ", end="")
    print(f"{len(versions)} older versions in {time.monotonic() - began:.0f} s.")
    return 1 if FAILED in text else 0


if __name__ == "__main__":
    sys.exit(main())
