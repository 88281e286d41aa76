"""``python -m tests.bench``: every figure beside its peer's, one table, and build/bench.json."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

from tests.bench import row as row_module
from tests.bench.row import Row
from tests.bench.size import FULL, QUICK

RESULTS = Path("build/bench.json")

GROUPS = {
    "weigher": ("weighing", "rows", "the weigher against Nova's RAMWeigher and all defaults"),
    "import": ("weighing", "imports", "what importing the weigher adds to nova-scheduler"),
    "consumer": ("bus", "rows", "the consumer's processor time, rate and memory"),
    "latency": ("bus", "latency", "from the bus to the changed set"),
    "redis": ("store", "rows", "Redis: bytes, snapshots, script times"),
}


def main() -> int:
    """Measure and print; 0 also where a goal is missed: a figure is no test."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=GROUPS, help="may be given again")
    parser.add_argument("--list", action="store_true", help="the groups, and end")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of the weigher count the processor time, not what it waits for Redis or for the "
        "processor: on a machine that others use",
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.list:
        for name, (_, _, says) in GROUPS.items():
            print(f"{name:10} {says}")
        return 0
    if options.processor_time:
        row_module.clock = time.process_time
    rows: list[Row] = []
    for name in options.only or GROUPS:
        module, function, _ = GROUPS[name]
        start = time.monotonic()
        found = getattr(importlib.import_module(f"tests.bench.{module}"), function)
        for row in found(QUICK if options.quick else FULL):
            rows.append(row)
            print(line(row), flush=True)
        print(f"({name}: {time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(
        json.dumps([row.plain() for row in rows], indent=1, ensure_ascii=False) + "\n"
    )
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n\n{table(rows)}")
    return 0


def line(row: Row) -> str:
    """Return one row as markdown."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    ratio = number(row.ratio)
    if row.ratio is not None and row.spread is not None:
        ratio += f" ({number(row.spread[0])} to {number(row.spread[1])})"
    holds = {None: "", True: "yes", False: "**no**"}[row.holds]
    cells = [
        row.figure.strip(),
        f"{number(row.ours)} {row.unit}",
        number(row.peer),
        ratio,
        row.says,
        holds,
    ]
    return "| " + " | ".join(cells) + " |"


def table(rows: list[Row]) -> str:
    """Return all rows as one table, and their notes below."""
    head = ["figure", "ours", "peer", "ratio (smallest to largest)", "goal", "holds?"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *map(line, rows)]
    notes = dict.fromkeys(f"- {row.figure.strip()}: {row.note}" for row in rows if row.note)
    return "\n".join([*lines, "", *notes])


if __name__ == "__main__":
    sys.exit(main())
