"""Figures as tables for people (Markdown)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

GOALS = [  # key, what of nova_default's is allowed at the most
    ("bytes_from_glance", 0.4),
    ("boot_p95_s", 0.6),
    ("ram_cv", 1.1),
    ("max_builds_one_host", 1.5),
]

_HEAD = (
    "policy | TB from Glance | downloads | hits | boot p50 s | p95 s | p99 s | burst s |"
    " most builds | RAM cv | failed"
)

# Student's t for a 95 % interval, by the number of runs less one
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def of(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line per policy."""
    lines = [f"| {_HEAD} |", "| --- |" + " ---: |" * _HEAD.count("|")]
    for name, got in figures.items():
        lines.append(
            f"| {name} | {_terabytes(got['bytes_from_glance'])} | {got['downloads']:.0f} |"
            f" {got['hit_share']:.1%} | {got['boot_p50_s']:.1f} | {got['boot_p95_s']:.1f} |"
            f" {got['boot_p99_s']:.1f} | {got['burst_makespan_s']:.1f} |"
            f" {got['max_builds_one_host']:.0f} | {got['ram_cv']:.3f} | {got['failed']:.0f} |"
        )
    return "\n".join(lines)


def _terabytes(size: float) -> str:
    return f"{size / 1e12:.2f}" if size >= 1e11 or not size else f"{size / 1e12:.2g}"


def ratios(
    figures: Mapping[str, Sequence[Mapping[str, float]]], base: Sequence[Mapping[str, float]]
) -> str:
    """Return a line per policy: what it takes of ``base`` on the same trace, beside the goals.

    :param figures: policy -> what it gave on each trace; five traces at the most.
    :param base: what is 1, on each trace.
    """
    lines = [
        "| policy | " + " | ".join(f"{key} (goal <= {most:g})" for key, most in GOALS) + " |",
        "| --- |" + " ---: |" * len(GOALS),
    ]
    for name, runs in figures.items():
        cells = [_ratio(runs, base, key, most) for key, most in GOALS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts(
    runs: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]], key: str
) -> list[float]:
    """Return what each run takes of its base; empty where one of these has nothing."""
    pairs = [(run[key], other[key]) for run, other in zip(runs, base, strict=True)]
    return [value / other for value, other in pairs] if all(other for _, other in pairs) else []


def _ratio(
    runs: Sequence[Mapping[str, float]],
    base: Sequence[Mapping[str, float]],
    key: str,
    most: float,
) -> str:
    """Return the mean, and of several its interval, and in how many it is within the goal."""
    found = parts(runs, base, key)
    if not found:
        return "-"
    mean = statistics.fmean(found)
    if len(found) < 2:
        return f"{mean:.2f}"
    spread = _T95[len(found) - 1] * statistics.stdev(found) / math.sqrt(len(found))
    met = sum(each <= most for each in found)
    return f"{mean:.2f} ± {spread:.2f} ({met}/{len(found)})"
