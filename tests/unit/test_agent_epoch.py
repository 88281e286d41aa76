"""Epochs grow, whatever the clock and the disk do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bus_cache import protocol
from bus_cache.agent.epoch import Epochs
from bus_cache.names import fingerprint


def test_it_is_the_time_and_grows(tmp_path: Path) -> None:
    """At each start, and with each other host's beside it."""
    before = time.time() * 1000
    first = Epochs(tmp_path, "h1").next()
    assert abs(first - before) < 3600_000
    second = Epochs(tmp_path, "h1").next()
    assert second > first
    assert Epochs(tmp_path, "h2").next() > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-h1", "epoch-h2"]


def test_a_clock_set_back(tmp_path: Path) -> None:
    """The last one is what counts, or what a consumer said."""
    future = int(time.time() * 1000) + 10**11
    epochs = Epochs(tmp_path, "h1")
    assert epochs.next(after=future) == future + 1
    assert Epochs(tmp_path, "h1").next() == future + 2
    assert Epochs(tmp_path, "h1").next(after=5) == future + 3


def test_a_clock_in_1970(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it calls absurd is what counts."""
    today = time.time_ns() // 1_000_000
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000_000)
    assert Epochs(tmp_path, "h1").next(after=today) == today + 1
    assert Epochs(tmp_path, "h1").next() == today + 2


@pytest.mark.parametrize("ahead", [-1, 0, 1, 10**6])
def test_none_that_consumers_refuse(
    tmp_path: Path, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would lead to one, in the file or said by a consumer, counts as lost."""
    now = time.time_ns() // 1_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now * 1_000_000)
    last = protocol.latest_epoch(now) + ahead
    (tmp_path / "epoch-h1").write_text(str(last))
    expected = last + 1 if ahead < 0 else now
    for epoch in (Epochs(tmp_path, "h1").next(), Epochs(tmp_path, "h2").next(after=last)):
        assert epoch == expected
        said = protocol.statement("h1", (epoch, 0), fingerprint("a"))
        assert protocol.read(protocol.STORED, protocol.publisher("h1"), now, said, now=now)


@pytest.mark.parametrize("kept", ["", "nonsense", "-5", str(2**53), "9" * 4000, "9" * 5000, "é"])
def test_a_broken_file(tmp_path: Path, kept: str) -> None:
    """The clock is used, and the file written anew."""
    (tmp_path / "epoch-h1").write_text(kept)
    epoch = Epochs(tmp_path, "h1").next()
    assert abs(epoch / 1000 - time.time()) < 3600
    assert (tmp_path / "epoch-h1").read_text() == f"{epoch}\n"


def test_no_place_to_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It goes on, and says so once."""
    epochs = Epochs(tmp_path / "absent", "h1")
    epoch = epochs.next()
    assert epochs.next(after=epoch) > epoch
    (message,) = caplog.messages
    assert f"{tmp_path}/absent/epoch-h1 can't be written" in message
