"""The weigher while Redis is tormented: nothing hangs, Nova's ranking is its own, and it recovers.

Times are counted by tests/chaos/weigher.py, on a quiet machine; here a call may take 20 s.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bus_cache import connect
from tests import torment
from tests.functional import test_weigher
from tests.functional.test_weigher import (
    CONF,
    HANG,
    Configure,
    Scheduler,
    make_hosts,
    make_image,
    make_spec,
    said,
)
from tests.program import wait_for
from tests.scheduler_process import MODES, SchedulerProcess
from tests.torment import TORMENTS, Stage
from weigher import guard, recent

configure = test_weigher.configure

HELD_UP = 3.0
"""Seconds for which a busy machine may hold up a thread; what hangs here does so for longer."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A Redis to be tormented, for the whole module."""
    with Stage(tmp_path_factory.mktemp("stage")) as found:
        yield found


@pytest.fixture(scope="module")
def schedulers(stage: Stage) -> Iterator[list[SchedulerProcess]]:
    """Nova's weighing in native and in green threads."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(SchedulerProcess(mode, stage.folder, stage.under)) for mode in MODES
        ]


@pytest.mark.parametrize("name", list(TORMENTS))
def test_torment(name: str, stage: Stage, schedulers: list[SchedulerProcess]) -> None:
    """Before, while it lasts, and after; with native and green threads at the same time."""

    def weigh(calls: int, **how: Any) -> list[dict[str, Any]]:
        told = list(pool.map(lambda each: each.weigh(calls, rank=True, **how), schedulers))
        for mode in told:
            assert mode["wrong"] == 0
            assert max(mode["seconds"]) < HANG
            assert mode["gap"] < HELD_UP  # who does not wait for Redis goes on
        return told

    def wait_until_known() -> None:
        for mode in weigh(1000, pause=0.02, until_known=True):
            assert mode["known"][-1]

    try:
        with TORMENTS[name](stage) as faulty, ThreadPoolExecutor(len(MODES)) as pool:
            # where an answer is to come: a busy machine may hold it up for long
            budget = 0.25 if faulty.known else 0.05
            for each in schedulers:
                each.open(faulty.url, ca_file=str(stage.ca_file), budget=budget, read_timeout=60)
            wait_until_known()
            faulty.begin()
            for mode in weigh(8, pause=0.02):
                if not faulty.known:
                    assert not any(mode["known"])
                    assert (mode["counters"]["opened"] > 0) != faulty.asked
            if faulty.known:
                wait_until_known()
            faulty.end()
            wait_until_known()
    except torment.Impossible as reason:
        pytest.skip(str(reason))


# One process, looked at from inside.


@pytest.fixture
def proxy(stage: Stage) -> Iterator[torment.Proxy]:
    """The way to the stage's Redis, to be spoilt."""
    with contextlib.closing(torment.Proxy(stage.server.port)) as found:
        yield found


def make_guard(proxy: torment.Proxy, budget: float) -> guard.Guard:
    """Return a guard that knows the image, on a connection that is made."""
    target = connect.parse(proxy.url)

    def make_client(on_connection: Callable[[connect.Connection], None]) -> connect.Client:
        return connect.connect(
            target, connect_timeout=60, read_timeout=60, on_connection=on_connection
        )

    found = guard.Guard(make_client, "bus_cache", budget)
    assert ask(found, HANG) == [False, True]
    return found


MOMENTS = itertools.count(0.0, recent.FRESH)
"""Nothing is remembered from one to the next."""


def ask(asked: guard.Guard, seconds: float) -> list[bool] | str:
    """Return the answer for two hosts of which the second one holds the image, or why none."""
    try:
        hosts = ["compute1", torment.HOLDER]
        deadline = time.monotonic() + seconds
        found = asked.look(torment.IMAGE, hosts, next(MOMENTS), deadline)
        return [host in found.held for host in hosts]
    except guard.NotKnown as error:
        return str(error)


def test_hangs_up_once(proxy: torment.Proxy) -> None:
    """The connection ends amid an answer: it is made anew within the same call."""
    found = make_guard(proxy, HANG)

    def hang_up(client: socket.socket, asked: bytes, answer: bytes) -> None:
        proxy.shape = torment.plain
        torment.half(client, asked, answer)

    for _ in range(3):
        proxy.spoil(hang_up)
        assert ask(found, HANG) == [False, True]
    assert (found.counters.opened, found.counters.known) == (0, 4)


def test_attempt_without_end_is_ended(
    proxy: torment.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that trickles in for ever: its connection is shut down, and Redis tried anew."""
    found = make_guard(proxy, 0.05)
    monkeypatch.setattr(guard, "STUCK", 0.3)
    proxy.spoil(torment.endless)
    assert "did not answer within 50 ms" in str(ask(found, 0.05))
    proxy.shape = torment.plain  # for new connections: the old one trickles on
    assert ask(found, 0.05) == found.trouble
    wait_for(lambda: ask(found, 0.05) == [False, True])


def test_a_caller_without_time_blames_nobody(proxy: torment.Proxy) -> None:
    """It is not known in time for it; others go on asking."""
    found = make_guard(proxy, HANG)
    proxy.spoil(torment.late(0.1))
    assert "did not answer" in str(ask(found, 0.01))
    assert "did not answer" in str(ask(found, -1.0))
    assert found.trouble is None
    assert ask(found, HANG) == [False, True]
    assert (found.counters.overruns, found.counters.opened) == (2, 0)


def test_callers_in_a_queue(proxy: torment.Proxy) -> None:
    """More at once than Redis can answer in time: the last ones go without, and none is blamed."""
    found = make_guard(proxy, 1.0)
    proxy.spoil(torment.late(0.1))
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda _: ask(found, 1.0), range(30)))
    known = answers.count([False, True])
    assert 1 <= known <= 11
    assert found.trouble is None
    counters = found.counters
    assert (counters.known, counters.unknown, counters.overruns) == (
        known + 1,
        30 - known,
        30 - known,
    )


def test_thread_ends_with_its_guard(proxy: torment.Proxy, stage: Stage) -> None:
    """And its connection."""
    before = set(threading.enumerate())
    found = make_guard(proxy, HANG)
    (thread,) = (t for t in set(threading.enumerate()) - before if t.name == "bus-cache-weigher")
    del found
    gc.collect()
    thread.join(HANG)
    assert not thread.is_alive()
    wait_for(lambda: not proxy.connections)


def test_a_name_that_cannot_be_sent_is_the_askers_business(proxy: torment.Proxy) -> None:
    """Redis is well, and goes on being asked."""
    found = make_guard(proxy, HANG)
    hosts = ["compute1", "\udc80"]
    with pytest.raises(guard.Unreadable, match="no host can be asked about"):
        found.look(torment.IMAGE, hosts, next(MOMENTS), time.monotonic() + HANG)
    assert found.trouble is None
    assert ask(found, HANG) == [False, True]


def test_a_thread_that_ended_is_replaced(proxy: torment.Proxy) -> None:
    """Whatever ended it: not each call is to wait for nobody."""
    found = make_guard(proxy, HANG)
    before = found._asker
    assert before is not None
    before.end()
    wait_for(lambda: not before.is_alive())
    assert ask(found, HANG) == [False, True]


def test_missing_tls_file_is_one_line(
    tmp_path: Path, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start, with the file's name."""
    text = tmp_path / "no.pem"
    text.write_text("no certificate")
    for path, reason in [(tmp_path / "nowhere.pem", "can't be read"), (text, "is no PEM file")]:
        caplog.clear()
        config = configure("rediss://127.0.0.1/")
        config.write_text(
            config.read_text().replace("[bus_cache]", f"[bus_cache]\ntls_ca_file={path}")
        )
        CONF([], project="nova", default_config_files=[str(config)])
        scheduler = Scheduler()
        assert scheduler.weigh(make_hosts(2), make_spec(make_image())) == [0.0, 0.0]
        (line,) = said(caplog, logging.ERROR)
        assert str(path) in line
        assert reason in line
        assert len(caplog.records) == 1


def test_one_round_trip(proxy: torment.Proxy) -> None:
    """Both questions are sent before the first answer comes."""
    asked: list[bytes] = []

    def shape(client: socket.socket, sent: bytes, answer: bytes) -> None:
        asked.append(bytes(sent))
        torment.plain(client, sent, answer)

    found = make_guard(proxy, HANG)
    proxy.spoil(shape)
    assert ask(found, HANG) == [False, True]
    (together,) = asked
    assert (b"SMISMEMBER" in together, b"ZRANGE" in together) == (True, True)
