"""When an agent looks and what it publishes, with a cache and a bus that do as they are told."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from bus_cache import protocol
from bus_cache.agent import agent as agent_module
from bus_cache.agent.agent import Agent, Intervals
from bus_cache.agent.asked import MOST_SPREAD, Endpoint
from bus_cache.agent.epoch import Epochs
from bus_cache.agent.inventory import Driver, Unreadable
from bus_cache.agent.publisher import PublishError
from bus_cache.agent.state import Message
from bus_cache.names import fingerprint
from bus_cache.protocol import CachedImage, Inventory

A, B, C = (fingerprint(name) for name in "abc")


class Cache(Driver):
    """Holds what a test puts there; can't be watched."""

    def __init__(self) -> None:
        super().__init__(cfg.ConfigOpts())
        self.held: list[str] = []
        self.failure: Exception | None = None
        self.listed = threading.Semaphore(0)

    @property
    def place(self) -> str:
        return "here"

    def list(self) -> Inventory:
        self.listed.release()
        if self.failure:
            raise self.failure
        return Inventory([CachedImage(each, 1, 1) for each in self.held])


class Bus:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.messages: queue.Queue[Message] = queue.Queue()
        self.tries = threading.Semaphore(0)
        self.failing = False
        self.closed = False

    def send(self, message: Message) -> None:
        self.tries.release()
        if self.failing:
            raise PublishError("away")
        self.messages.put(message)

    def close(self) -> None:
        self.closed = True

    def next(self) -> Message:
        """Return the next message."""
        return self.messages.get(timeout=20)

    def said(self) -> tuple[str, object]:
        """Return event and image, or images, of the next message."""
        event, payload = self.next()
        if event == protocol.SNAPSHOT:
            return event, {row[0] for row in payload["images"]}
        return event, payload["image"]

    def nothing(self) -> bool:
        """Whether nothing is said for a while."""
        time.sleep(0.5)
        return self.messages.empty()


class Running:
    """An agent in a thread."""

    def __init__(self, folder: Path, interval: float = 3600.0) -> None:
        self.cache, self.bus = Cache(), Bus()
        self.agent = Agent(
            "h1",
            self.cache,
            self.bus,  # type: ignore[arg-type]
            Epochs(folder, "h1"),
            lambda: Intervals(interval, 3600.0),
        )
        self.thread = threading.Thread(target=self.agent.run)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.agent.stop()
        if self.thread.ident:
            self.thread.join(20)
            assert not self.thread.is_alive()


Make = Callable[..., Running]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes agents, and ends them."""
    made: list[Running] = []

    def make(interval: float = 3600.0) -> Running:
        made.append(Running(tmp_path, interval))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def running(make: Make) -> Running:
    """An agent that said its first word."""
    found = make()
    found.start()
    assert found.bus.said() == (protocol.SNAPSHOT, set())
    return found


def test_a_change_is_told(running: Running) -> None:
    """Once, by itself; a driver that can't look at one image lists all."""
    running.cache.held = [A]
    running.agent.changed(A)
    assert running.bus.said() == (protocol.STORED, A)
    running.agent.changed(A)
    running.agent.changed(None)
    assert running.bus.nothing()


def test_a_scan_finds_what_nobody_saw(make: Make) -> None:
    """It tells the difference only."""
    running = make(interval=0.05)
    running.cache.held = [A]
    running.start()
    assert running.bus.said() == (protocol.SNAPSHOT, {A})
    running.cache.held = [B]
    assert running.bus.said() == (protocol.CLEANUP, A)
    assert running.bus.said() == (protocol.STORED, B)
    assert running.bus.nothing()


def test_goodbye(running: Running) -> None:
    """The newest truth, with the mark that it is the last; then the bus is left."""
    running.cache.held = [A]
    running.stop()
    event, payload = running.bus.next()
    assert (event, payload["leaving"], payload["sequence"]) == (protocol.SNAPSHOT, True, 1)
    assert [row[0] for row in payload["images"]] == [A]
    assert running.bus.closed


def test_bus_away(running: Running) -> None:
    """What happened meanwhile is not queued: the first word is all that is there then."""
    running.bus.failing = True
    running.cache.held = [A]
    running.agent.changed(A)
    running.bus.tries.acquire()  # the first snapshot's
    for image in (B, C):
        assert running.bus.tries.acquire(timeout=20)
        running.cache.held = [image]
        running.agent.changed(image)
        running.agent.changed(A)
    running.bus.failing = False
    event, payload = running.bus.next()
    assert event == protocol.SNAPSHOT
    assert [row[0] for row in payload["images"]] == [C]
    assert payload["sequence"] >= 3  # numbers of what failed are not used again
    running.cache.held = [C, A]
    running.agent.changed(None)
    event, later = running.bus.next()
    assert (event, later["sequence"]) == (protocol.STORED, payload["sequence"] + 1)


@pytest.mark.parametrize(
    ("failure", "logged"),
    [
        (Unreadable("here can't be listed"), "until this is mended: here can't be listed"),
        (RuntimeError("a driver's mistake"), "looking or publishing failed; trying again"),
    ],
)
def test_a_cache_that_cannot_be_listed(
    make: Make, failure: Exception, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said, above all not that it is empty; when it can be again, all is."""
    running = make(interval=0.05)
    running.cache.held = [A]
    running.start()
    assert running.bus.said() == (protocol.SNAPSHOT, {A})
    running.cache.failure = failure
    running.agent.changed(B)
    assert running.bus.nothing()
    assert logged in caplog.text
    if isinstance(failure, Unreadable):
        assert caplog.text.count(logged) == 1
    running.cache.held, running.cache.failure = [B], None
    assert running.bus.said() == (protocol.SNAPSHOT, {B})


def test_asked_for_a_snapshot(running: Running) -> None:
    """It comes; the epoch grows where the index knows a larger one."""
    epoch = running.agent._state.epoch
    running.agent.asked(0, 0)
    assert running.bus.next().payload["epoch"] == epoch
    running.agent.asked(epoch, 0)
    assert running.bus.next().payload["epoch"] == epoch
    future = epoch + 10**11
    running.agent.asked(future, 0)
    second = running.bus.next().payload
    assert (second["epoch"], second["sequence"]) == (future + 1, 0)


def test_asked_very_often(running: Running) -> None:
    """Snapshots stay some time apart."""
    start = time.monotonic()
    for _ in range(5000):
        running.agent.asked(0, 0)
        time.sleep(0.0002)
    running.bus.next()
    passed = time.monotonic() - start
    assert running.bus.messages.qsize() <= passed / agent_module._APART + 1


def test_spread(running: Running) -> None:
    """Asked for some time within an hour, it does not answer at once; asked for now, it does."""
    for _ in range(20):
        running.agent._snapshot_at = float("inf")
        running.agent.asked(0, 3600)
        if running.agent._snapshot_at > time.monotonic() + 5:
            break
    assert running.agent._snapshot_at <= time.monotonic() + 3600
    assert running.bus.nothing()
    running.agent.asked(0, 0)
    assert running.bus.said() == (protocol.SNAPSHOT, set())


def test_a_change_after_the_index_knew_better(running: Running) -> None:
    """What is said under an epoch that does not count would be lost: all is said instead."""
    epoch = running.agent._state.epoch
    running.agent.asked(epoch + 10**9, 3600)
    running.cache.held = [A]
    running.agent.changed(A)
    event, payload = running.bus.next()
    assert (event, payload["epoch"]) == (protocol.SNAPSHOT, epoch + 10**9 + 1)


def test_nobody_reads(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It falls silent, so that no queue fills; and tells all when somebody reads again."""
    monkeypatch.setattr(protocol, "UNHEARD", 0.3)
    monkeypatch.setattr(agent_module, "LISTENING_SPREAD", 0.1)
    running = make(interval=0.05)
    running.start()
    assert running.bus.said() == (protocol.SNAPSHOT, set())
    while "nothing is published until" not in caplog.text:
        time.sleep(0.01)
    running.cache.held = [A]
    running.agent.changed(A)
    assert running.bus.nothing()
    monkeypatch.setattr(protocol, "UNHEARD", 3600)
    running.agent.listening()
    assert running.bus.said() == (protocol.SNAPSHOT, {A})
    running.agent.listening()
    running.cache.held = [B]
    assert running.bus.said() == (protocol.CLEANUP, A)
    assert caplog.text.count("nothing is published until") == 1


def test_silent_to_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would hear the goodbye."""
    running = make()
    running.start()
    running.bus.next()
    monkeypatch.setattr(protocol, "UNHEARD", 0.0)
    running.agent.changed(None)
    while not running.agent._silent:
        time.sleep(0.01)
    running.stop()
    assert running.bus.messages.empty()


@pytest.mark.parametrize("more", [0, 1])
def test_many_changes_at_once_are_a_snapshot(running: Running, more: int) -> None:
    """As many as may be said one by one are; one more, and all is said in one message."""
    running.cache.held = [fingerprint(str(number)) for number in range(agent_module.MANY + more)]
    running.agent.changed(None)
    said = [running.bus.said() for _ in range(1 if more else agent_module.MANY)]
    if more:
        assert said == [(protocol.SNAPSHOT, set(running.cache.held))]
    else:
        assert {event for event, _ in said} == {protocol.STORED}
        assert {image for _, image in said} == set(running.cache.held)
    assert running.bus.nothing()


def test_changes_that_wait_are_bounded(make: Make) -> None:
    """Beyond, all is listed."""
    agent = make().agent
    agent._everything = False
    for number in range(10 * agent_module.MOST_LOOKS):
        agent.changed(fingerprint(str(number)))
    assert len(agent._changed) <= agent_module.MOST_LOOKS
    assert agent._everything


def test_a_clock_that_was_years_ahead(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Set right, the agent begins an epoch that consumers take, without a restart."""
    now = time.time_ns() // 1_000_000
    running.agent._state.begin(protocol.latest_epoch(now) + 10**9)
    running.agent.asked(0, 0)
    payload = running.bus.next().payload
    assert now <= payload["epoch"] <= now + 60_000
    assert payload["sequence"] == 0
    assert "clock was set back by years" in caplog.text


def test_an_epoch_does_not_last(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that was garbled or forged with a huge sequence does not silence it for ever."""
    epoch = running.agent._state.epoch
    running.agent._epoch_ends = time.monotonic()
    running.cache.held = [A]
    running.agent.changed(A)
    assert running.bus.next().payload["epoch"] == epoch  # only with a snapshot
    running.agent.asked(0, 0)
    later = running.bus.next().payload
    assert later["epoch"] > epoch
    assert later["sequence"] == 0
    running.agent.asked(0, 0)
    again = running.bus.next().payload
    assert (again["epoch"], again["sequence"]) == (later["epoch"], 1)


NOW = 1_800_000_000_000
LATEST = protocol.latest_epoch(NOW)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({}, (0, 0)),
        ({"after": 7, "spread": 2.5, "later": "more"}, (7, 2.5)),
        ({"after": LATEST - 1, "spread": 1}, (LATEST - 1, 1)),
        ({"after": LATEST, "spread": float("inf")}, (0, MOST_SPREAD)),
        ({"after": -1, "spread": -1}, (0, 0)),
        ({"after": 1.5, "spread": float("nan")}, (0, 0)),
        ({"after": "7", "spread": "7"}, (0, 0)),
        ({"after": [7], "spread": 10**400}, (0, MOST_SPREAD)),
        ({"after": 10**400, "spread": None}, (0, 0)),
    ],
)
def test_whatever_is_asked(
    arguments: dict[str, object], asked: tuple[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes no sense counts as not said; what is said can always be exceeded."""
    monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000)
    calls: list[tuple[int, float]] = []

    class Asked:
        def asked(self, after: int, spread: float) -> None:
            calls.append((after, spread))

        def listening(self) -> None:
            calls.append((-1, -1))

    endpoint = Endpoint(Asked())
    endpoint.snapshot({}, **arguments)
    endpoint.listening({}, **arguments)
    assert calls == [asked, (-1, -1)]
