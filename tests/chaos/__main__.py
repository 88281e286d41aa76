"""``python -m tests.chaos``: each fault, so many times; a row each, in build/chaos.json too."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from tests import servers
from tests.chaos import table
from tests.chaos.cloud import Bodies
from tests.chaos.faults import FAULTS
from tests.chaos.scene import Scene

RESULTS = Path("build/chaos.json")


def main() -> int:
    """Run; 1 where anything was lost, is wrong, needed a hand, or could not be tested."""
    options = _options()
    if options.list:
        for name, fault in FAULTS.items():
            print(f"{name:22} {fault.says}")
        return 0
    names = options.only or list(FAULTS)
    unknown = set(names) - FAULTS.keys()
    if unknown:
        print(f"no such fault: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows = {row["fault"]: row for row in _read(options.results)} if options.resume else {}
    rows = {name: rows[name] for name in FAULTS if name in rows}
    done = {n for n, row in rows.items() if row["runs"] >= options.repeat and not table.failed(row)}
    todo = [name for name in names if name not in done]
    print(f"seed {options.seed}, {options.repeat} times each: {', '.join(todo)}", flush=True)
    bodies = Bodies()
    with servers.RabbitMQ() as rabbit:
        for name in todo:
            rows[name] = _row(name, options, rabbit, bodies)
            _write(options.results, [rows[each] for each in FAULTS if each in rows])
    print(table.markdown([rows[name] for name in FAULTS if name in rows]))
    if not options.only:
        print(table.weigher())
    return int(any(table.failed(rows[name]) for name in names))


def _row(name: str, options: argparse.Namespace, rabbit: servers.RabbitMQ, bodies: Bodies) -> Any:
    runs: list[dict[str, Any]] = []
    for number in range(options.repeat):
        seed = options.seed + zlib.crc32(name.encode()) % 100_000 + number
        began = time.monotonic()
        run = _run(name, seed, rabbit, bodies, options.verbose)
        run["seconds"] = round(time.monotonic() - began, 1)
        runs.append(run)
        shown = {key: value for key, value in run.items() if value not in ("", [])}
        print(f"{name} {number + 1}/{options.repeat}, seed {seed}: {shown}", flush=True)
    return table.row(name, runs)


def _run(
    name: str, seed: int, rabbit: servers.RabbitMQ, bodies: Bodies, verbose: bool
) -> dict[str, Any]:
    fault = FAULTS[name]
    try:
        with Scene(rabbit, bodies, fault.setting, seed) as scene:
            try:
                found = scene.run(fault.cause)
            except Exception:
                print(scene.tails(), file=sys.stderr)
                raise
            if verbose or table.failed(found):
                print(scene.tails(), file=sys.stderr)
            return found
    except Exception as error:  # the next row goes on
        rabbit.start()
        return table.not_tested(f"{type(error).__name__}: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", action="append", help="a fault's name; may be given again")
    parser.add_argument("--list", action="store_true", help="the faults, and end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="leave out rows that are green")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--verbose", action="store_true", help="show the consumers' logs")
    return parser.parse_args()


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return rows


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=1) + "\n")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
