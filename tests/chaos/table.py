"""Rows of runs, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tests.chaos.weigher

COUNTS = ("sent", "relevant", "dropped", "applied", "lost", "wrong", "by_hand")
LARGEST = ("longest_wrong_s", "converged_s", "rss_mb", "per_minute", "seconds")
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
    """Return the sums of some runs; of times and memory the largest."""
    found: dict[str, Any] = {"fault": name, "runs": len(runs)}
    for key in COUNTS:
        found[key] = sum(run.get(key, 0) for run in runs)
    for key in LARGEST:
        found[key] = max(run.get(key, 0) for run in runs)
    found["not_tested"] = sum(bool(run.get("not_tested")) for run in runs)
    found["notes"] = [note for run in runs for note in run.get("notes", [])]
    return found


def not_tested(why: str) -> dict[str, Any]:
    """Return a run that says nothing."""
    return {"not_tested": True, "notes": [why]}


def failed(found: dict[str, Any]) -> bool:
    """Tell whether a row or a run is red."""
    return any(found.get(key) for key in ("lost", "wrong", "by_hand", "not_tested"))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    return _markdown(COLUMNS, rows)


def weigher() -> str:
    """Torment the weigher, too, and return its table."""
    rows = tests.chaos.weigher.run()
    return _markdown(tuple(dict.fromkeys(key for row in rows for key in row)), rows)


def _markdown(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for each in rows:
        lines.append("| " + " | ".join(str(each.get(column, "")) for column in columns) + " |")
    return "\n".join(lines)
