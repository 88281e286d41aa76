"""Limits of what is said of agents and what they are asked; and that each limit has a test."""

from __future__ import annotations

import logging
import re
import socket
import time
from pathlib import Path

import pytest

from consumers import agents, asking, service, transport
from tests.program import wait_for

TESTS = Path(__file__).parents[1]
BOUNDS = TESTS.parent / "docs" / "bounds.md"


def rows() -> list[list[str]]:
    """Return the cells of all rows of docs/bounds.md's tables; "the same" is the row's before."""
    lines = [line for line in BOUNDS.read_text().splitlines() if line.startswith("| ")]
    found: list[list[str]] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0] == "what" or line.startswith("| ---") or len(cells) == 3:  # of memory
            continue
        if cells[-1] == "the same":
            cells[-1] = found[-1][-1]
        found.append(cells)
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_limit_has_a_test(row: list[str]) -> None:
    """As the page names it."""
    assert len(row) == 6
    found = re.findall(r"`(?:(\w+/\w+\.py)::)?(test_\w+)`", row[-1])
    assert found
    for file, name in found:
        assert f"def {name}(" in (TESTS / (file or "functional/test_bounds.py")).read_text()


def test_many_hosts_cost_few_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All agents of a large cloud switch at once; each is counted."""
    caplog.set_level(logging.INFO, logger="consumers.agents")
    monkeypatch.setattr(time, "monotonic", lambda: 600.0)  # all in one minute
    looks = agents.Agents(None, agents.Times())
    for number in range(1000):
        looks.switched(f"h{number}", managed=number % 2 == 0)
    assert (looks.counts["managed"], looks.counts["inferred"]) == (500, 500)
    assert len(caplog.messages) == 20
    monkeypatch.setattr(time, "monotonic", lambda: 660.0)
    looks.switched("late", managed=True)
    assert "980 more lines" in caplog.messages[-1]


def test_questions_that_wait_for_a_broker_are_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes connections and says nothing: who asks does not wait, and what is too much is left
    out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = tmp_path / "bus_cache.conf"
        url = f"rabbit://u:p@127.0.0.1:{silent.getsockname()[1]}/"
        config.write_text(
            f"[consumer]\ntransport_url = {url}\n[bus_cache]\nredis_url = redis://h\n"
        )
        conf = service.load(["--config-file", str(config)])
        caplog.set_level(logging.DEBUG, logger="consumers.asking")
        [bus] = transport.transports(conf)
        asker = asking.Asker(conf, bus)
        asker.snapshot("h0", 0)
        wait_for(asker._waiting.empty)  # its thread has it, and hangs
        for number in range(asking.MOST_WAITING):
            asker.snapshot(f"h{number}", 0)
        assert not caplog.messages
        asker.snapshot("late", 0)
        asker.stop()
        assert caplog.messages == ["too many questions to agents wait; late is not asked now"]
        assert asker._waiting.qsize() == asking.MOST_WAITING
        asker._waiting.queue.clear()
        asker.stop()
