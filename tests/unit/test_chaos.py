"""What the table of ``make chaos`` says of runs, and which of them ``--resume`` does again."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from tests.chaos import __main__ as command
from tests.chaos import table

OPTIONS = argparse.Namespace(seed=1, repeat=3, resume=True)
NAME = "redis-kill"
SEEDS = command._seeds(NAME, OPTIONS)


def run(seed: int, **found: Any) -> dict[str, Any]:
    """Return a run that is green but for what is found."""
    nothing = dict.fromkeys((*table.COUNTS, *table.LARGEST, "per_minute"), 0)
    return {"seed": seed, **nothing, "sent": 10, "notes": [], **found}


GREEN = run(SEEDS[0], converged_s=1.5, per_minute=900)
RED = run(SEEDS[1], wrong=2, per_minute=700, notes=["h1 image"])
SILENT = {"seed": SEEDS[2], **table.not_tested("no server")}


def test_a_run_that_says_nothing_is_no_run() -> None:
    found = table.row(NAME, [GREEN, RED, SILENT])
    assert (found["runs"], found["not_tested"], found["sent"], found["wrong"]) == (2, 1, 20, 2)
    assert (found["converged_s"], found["per_minute"]) == (1.5, 700)
    text = table.markdown([found])
    assert f"| {NAME} | 2 | 20 | 0 | 0 | 0 | 2 | 0 | 1.5 | 0 |" in text
    assert f"{NAME}, seed {SEEDS[1]}, is red: h1 image" in text
    assert f"{NAME}, seed {SEEDS[2]}, says nothing: no server" in text
    assert table.failed(found)


@pytest.mark.parametrize("runs", [[GREEN], [RED], [SILENT]])
def test_a_row_is_green_where_all_its_runs_are(runs: list[dict[str, Any]]) -> None:
    assert table.failed(table.row(NAME, runs)) is (runs != [GREEN])


def test_what_goes_on_after_a_break() -> None:
    """What was done, red or green, is kept; of other seeds, and what says nothing, is not."""
    rows = {NAME: table.row(NAME, [GREEN, RED, SILENT, run(SEEDS[2] + 1)])}
    assert command._kept(rows, NAME, OPTIONS) == [GREEN, RED]
    anew = argparse.Namespace(seed=1, repeat=3, resume=False)
    assert command._kept(rows, NAME, anew) == command._kept({}, NAME, OPTIONS) == []
