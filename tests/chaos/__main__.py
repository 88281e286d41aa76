"""``python -m tests.chaos``: each fault, so many times; a row each, in build/chaos.json too.

A run is red (something was lost, is wrong, or needed a hand), or says nothing (the fault did not
happen as it should, or a server of the harness did not come up: mostly a machine that is too busy),
or is green. With ``--resume`` what says nothing is done again, and what was never done; what is red
stays so, until its row is done anew: with ``--only``, without ``--resume``. ``load`` tells how busy
the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
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
        print(table.explained({n: (f.says, f.setting.heals) for n, f in FAULTS.items()}))
        return 0
    names = options.only or list(FAULTS)
    unknown = set(names) - FAULTS.keys()
    if unknown:
        print(f"no such fault: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    before = _read(options.results) if options.resume or options.only else []
    rows = {row["fault"]: row for row in before if row["fault"] in FAULTS}
    kept = {name: _kept(rows, name, options) for name in names}
    print(f"{options.repeat} times each, seed {options.seed}: {', '.join(names)}", flush=True)
    bodies = Bodies()
    with servers.RabbitMQ() as rabbit:
        for name in names:
            for seed in _seeds(name, options):
                if all(run["seed"] != seed for run in kept[name]):
                    kept[name].append(_run(name, seed, rabbit, bodies, options.verbose))
                    print(
                        f"{name} {len(kept[name])}/{options.repeat}: {kept[name][-1]}", flush=True
                    )
                rows[name] = table.row(name, kept[name])
                _write(options.results, [rows[each] for each in FAULTS if each in rows])
    print(table.markdown([rows[name] for name in names]))
    if not options.only:
        print(table.weigher())
    return int(any(table.failed(rows[name]) for name in names))


def _seeds(name: str, options: argparse.Namespace) -> list[int]:
    first = options.seed + zlib.crc32(name.encode()) % 100_000
    return list(range(first, first + options.repeat))


def _kept(rows: dict[str, Any], name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the runs of a row that need not be done."""
    runs = rows.get(name, {}).get("each", []) if options.resume else []
    seeds = _seeds(name, options)
    return [run for run in runs if run["seed"] in seeds and not run.get("not_tested")]


def _run(
    name: str, seed: int, rabbit: servers.RabbitMQ, bodies: Bodies, verbose: bool
) -> dict[str, Any]:
    fault = FAULTS[name]
    began = time.monotonic()
    try:
        with Scene(rabbit, bodies, fault.setting, seed) as scene:
            try:
                found = scene.run(fault.cause)
            except Exception:
                print(scene.tails(), file=sys.stderr)
                raise
            if verbose or table.failed(found):
                print(scene.tails(), file=sys.stderr)
    except Exception as error:  # the next run goes on
        rabbit.start()
        found = table.not_tested(f"{type(error).__name__}: {error}")
    took, load = round(time.monotonic() - began, 1), round(os.getloadavg()[0], 1)
    return {"seed": seed, **found, "seconds": took, "load": load}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", action="append", help="a fault's name; may be given again")
    parser.add_argument("--list", action="store_true", help="the faults, and end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="leave out what was done")
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
