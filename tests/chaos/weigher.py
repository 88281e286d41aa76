"""How long the weigher's calls take while Redis is tormented: ``python -m tests.chaos.weigher``."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.scheduler_process import MODES, SchedulerProcess, Ticker
from tests.torment import TORMENTS, Impossible, Stage

BUDGET = 0.05
"""Seconds: the default."""
GRACE = 0.01
"""Seconds that a call may take beyond it."""
HOSTS = 1000
"""As many as Placement hands a scheduler at the most."""
AFTER = 300
"""Calls after the fault."""
LONGEST = 20.0
"""Seconds that a torment lasts at the most."""
PAUSE = 0.001
"""Seconds between calls: so they meet closed and open breakers, and its probes."""
PATIENCE = 60.0
"""Seconds after a fault in which calls must know again."""


def run(calls: int = 2000, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Return a row per torment and mode.

    :param calls: while it lasts; fewer where they take longer than :data:`LONGEST`.
    :param only: names of torments; all where None.
    :returns: ``torment``; ``threads``: native or green; ``calls`` while it lasted; ``late``: those
        that took longer than budget and grace, and ``late_share``; ``worst_ms``; ``open_calls``:
        how many met an open breaker, and ``open_us``, the median of these; ``known``: calls that
        knew; ``wrong``: calls with an outcome that is neither right nor Nova's own; ``held_up_ms``:
        how long another thread was held up at the most, and ``machine_ms``: one of another process
        that was idle, so by the machine; ``back_s``: seconds from the fault's end to the first
        call that knew; ``after``: of :data:`AFTER` calls after that, those
        that knew; ``note``: why it was not staged.
    """
    rows = []
    temporary = tempfile.TemporaryDirectory(prefix="bus-cache-weigher-")
    with temporary as folder, Stage(Path(folder)) as stage:
        for mode, threads in MODES.items():
            with SchedulerProcess(mode, stage.folder, stage.under) as scheduler:
                for name in only or TORMENTS:
                    try:
                        row = _row(name, stage, scheduler, calls)
                    except Impossible as reason:
                        row = {"note": str(reason)}
                    rows.append({"torment": name, "threads": threads, **row})
    names = list(only or TORMENTS)
    return sorted(rows, key=lambda row: names.index(row["torment"]))


def _row(name: str, stage: Stage, scheduler: SchedulerProcess, calls: int) -> dict[str, Any]:
    with TORMENTS[name](stage) as torment:
        ca_file = str(stage.ca_file)
        scheduler.open(torment.url, ca_file=ca_file, budget=BUDGET, hosts=HOSTS)
        _wait_until_known(scheduler)
        torment.begin()
        machine = Ticker()
        told = scheduler.weigh(calls, pause=PAUSE, most_seconds=LONGEST)
        machine_held_up = machine.stop()
        torment.end()
        back = _wait_until_known(scheduler)
        after = scheduler.weigh(AFTER, pause=PAUSE)
    seconds = told["seconds"]
    while_open = [each for each, was in zip(seconds, told["open"], strict=True) if was]
    late = sum(each > BUDGET + GRACE for each in seconds)
    return {
        "calls": len(seconds),
        "late": late,
        "late_share": round(late / len(seconds), 5),
        "worst_ms": round(1000 * max(seconds), 1),
        "open_calls": len(while_open),
        "open_us": round(1e6 * statistics.median(while_open)) if while_open else None,
        "known": sum(told["known"]),
        "wrong": told["wrong"] + after["wrong"],
        "held_up_ms": round(1000 * told["gap"], 1),
        "machine_ms": round(1000 * machine_held_up, 1),
        "back_s": round(back, 2),
        "after": sum(after["known"]),
        "note": "",
    }


def _wait_until_known(scheduler: SchedulerProcess) -> float:
    """Call until one knows; return after how many seconds."""
    started = time.monotonic()
    while True:
        told = scheduler.weigh(100, pause=0.01, until_known=True)
        spent = time.monotonic() - started
        if told["known"][-1]:
            return spent
        if spent > PATIENCE:
            raise AssertionError(f"still nothing is known after {spent:.0f} s: {told['lines']}")


def main() -> None:
    """Print the table; with a file's name, write the rows there as JSON, too."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.weigher", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="calls while a torment lasts")
    parser.add_argument("--only", action="append", choices=list(TORMENTS), help="this torment")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    rows = run(options.calls, options.only)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    columns = list(max(rows, key=len))
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for row in rows:
        print("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |")


if __name__ == "__main__":
    main()
