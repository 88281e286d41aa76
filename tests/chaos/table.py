"""Rows of runs, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tests.chaos.weigher

COUNTS = ("sent", "relevant", "dropped", "applied", "lost", "wrong", "by_hand")
LARGEST = ("longest_wrong_s", "converged_s", "rss_mb", "seconds", "load")
COLUMNS = (
    "fault",
    "runs",
    "sent",
    "dropped",
    "applied",
    "lost",
    "wrong",
    "longest_wrong_s",
    "converged_s",
    "by_hand",
)


def row(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of some runs; of times and memory the largest, of rates the smallest.

    A run that says nothing is no run: it is only counted, as ``not_tested``. ``each`` has all.
    """
    told = [run for run in runs if not run.get("not_tested")]
    found: dict[str, Any] = {"fault": name, "runs": len(told)}
    for key in COUNTS:
        found[key] = sum(run[key] for run in told)
    for key in LARGEST:
        found[key] = max((run[key] for run in told), default=0.0)
    found["per_minute"] = min((run["per_minute"] for run in told), default=0)
    found["not_tested"] = len(runs) - len(told)
    found["each"] = list(runs)
    return found


def not_tested(why: str) -> dict[str, Any]:
    """Return a run that says nothing: the fault did not happen, or a server did not come up."""
    return {"not_tested": True, "notes": [why]}


def failed(run: dict[str, Any]) -> bool:
    """Tell whether a run, or a row, is red."""
    return any(run.get(key) for key in ("lost", "wrong", "by_hand", "not_tested"))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of docs/faults.md, and below it what must be looked at."""
    lines = [_markdown(COLUMNS, rows), ""]
    for each in rows:
        for run in each["each"]:
            if failed(run):
                what = "says nothing" if run.get("not_tested") else "is red"
                notes = "; ".join(run["notes"])
                lines.append(f"{each['fault']}, seed {run['seed']}, {what}: {notes}")
    return "\n".join(lines)


def explained(says: Mapping[str, tuple[str, bool]]) -> str:
    """Return the table of what each row does: by name, the words, and whether something heals."""
    rows = [{"row": n, "what happens": t, "": "*heals*" * h} for n, (t, h) in says.items()]
    return _markdown(("row", "what happens", ""), rows)


def weigher() -> str:
    """Torment the weigher, too, and return its table."""
    rows = tests.chaos.weigher.run()
    return _markdown(tuple(dict.fromkeys(key for row in rows for key in row)), rows)


def _markdown(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for each in rows:
        lines.append("| " + " | ".join(str(each.get(column, "")) for column in columns) + " |")
    return "\n".join(lines)
