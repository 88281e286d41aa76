"""Figures as a table for people (Markdown)."""

from __future__ import annotations

from collections.abc import Mapping

_HEAD = (
    "policy | TB from Glance | downloads | hits | boot p50 s | p95 s | p99 s | burst s |"
    " most builds | RAM cv | failed"
)


def of(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line per policy."""
    lines = [f"| {_HEAD} |", "| --- |" + " ---: |" * _HEAD.count("|")]
    for name, got in figures.items():
        lines.append(
            f"| {name} | {got['bytes_from_glance'] / 1e12:.2f} | {got['downloads']:.0f} |"
            f" {got['hit_share']:.1%} | {got['boot_p50_s']:.1f} | {got['boot_p95_s']:.1f} |"
            f" {got['boot_p99_s']:.1f} | {got['burst_makespan_s']:.1f} |"
            f" {got['max_builds_one_host']:.0f} | {got['ram_cv']:.3f} | {got['failed']:.0f} |"
        )
    return "\n".join(lines)
