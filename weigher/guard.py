"""Asking Redis within a time budget: one native thread of the process asks, its callers wait.

No setting of redis-py bounds a whole call: its timeouts are for one read each, and nothing bounds
the look-up of a name. So the thread does all that touches Redis, however long it takes, and a
caller waits for it no longer than it likes.

Under eventlet, the default of nova-scheduler up to Nova 32, the thread is a native one, too: where
eventlet is told to leave the look-up of names alone (EVENTLET_NO_GREENDNS, set by
nova/monkey_patch.py in older releases), a green thread would hold up the whole process with it.
Native and green threads share no lock or queue that both could wait for, but they do share sockets:
waiting for one releases the interpreter's lock in a native thread, and lets others run in a green
one.

What was answered a moment ago (:mod:`weigher.recent`) is not asked for again, whatever Redis does
meanwhile.

The thread never logs: the locks of logging are eventlet's as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import socket
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bus_cache import connect
from bus_cache.index import reader
from weigher import breaker, native, recent

STUCK = 10.0
"""Seconds after which an attempt's connections are cut: an answer can trickle in for ever."""

Connect = Callable[[Callable[[connect.Connection], None]], connect.Client]
"""Makes a client that tells of each of its connections."""


class NotKnown(Exception):
    """Who holds the image is not known, or not in time; the text says why, on one line."""


class Unreadable(NotKnown):
    """Redis is well, but what it has of this image is nothing that can be read."""


@dataclasses.dataclass
class Counters:
    """What happened in this process so far."""

    known: int = 0
    """Calls that were answered."""
    remembered: int = 0
    """Of these, those that Redis was not asked for: it had answered a moment before."""
    unknown: int = 0
    """Calls that were not."""
    overruns: int = 0
    """Calls whose time was over before an answer came. They are among the unknown."""
    probes: int = 0
    """Attempts in the background to find Redis well again."""
    opened: int = 0
    """How often Redis was lost."""
    closed: int = 0
    """How often it was found again."""

    @property
    def calls(self) -> int:
        """Calls in all."""
        return self.known + self.unknown


class Guard(native.PerProcess):
    """Asks where an image is, and returns in time.

    One object serves all threads of a process and the processes forked from it: each process has
    a thread and connections of its own, made at its first call.
    """

    def __init__(self, make_client: Connect, keyspace: str, budget: float) -> None:
        """Nothing is started and nothing is sent yet.

        :param budget: seconds that a good Redis takes at the most.
        """
        self._settings = make_client, keyspace, budget
        super().__init__()

    def begin(self) -> None:
        """Begin anew: nobody serves the parent's queue here."""
        super().begin()
        self._asker: _Asker | None = None
        self._telling = breaker.Telling()
        self._recent = recent.Recent()

    @property
    def trouble(self) -> str | None:
        """Why Redis is not asked at present; None: it is."""
        return self._asker.breaker.reason if self._asker else None

    @property
    def counters(self) -> Counters:
        """What happened in this process so far."""
        return self._asker.counters if self._asker else Counters()

    def look(
        self, image_id: str, hosts: Sequence[str], now: float, deadline: float
    ) -> reader.Found:
        """Tell which of the hosts hold the image, and which hosts fetch it; the answer may know of
        other hosts, too.

        What it says was so at some moment of the last :data:`weigher.recent.FRESH` seconds. Waits
        until the deadline at the most, and not at all where that is known or Redis is lost.

        :param now: of a clock that only grows.
        :param deadline: of ``time.monotonic``.
        :raises NotKnown: there is no answer.
        """
        with self._lock:
            known = self._recent.look(image_id, now)
        if known is not None:
            if known.asked.issuperset(hosts):
                self._count_remembered()
                return known
            hosts = [host for host in hosts if host not in known.asked]
        found = self._ask(image_id, hosts, deadline)
        with self._lock:
            return self._recent.learn(image_id, found, now)

    def _ask(self, image_id: str, hosts: Sequence[str], deadline: float) -> reader.Found:
        """Ask Redis; see :meth:`look`."""
        return self._own_asker().ask(image_id, hosts, deadline)

    def _count_remembered(self) -> None:
        if self._asker is not None:
            self._asker.count(known=1, remembered=1)

    def change(self) -> tuple[str | None, int] | None:
        """Return what the log should say now: the trouble, or None where it is over; and
        how many changes of state were passed over before. Mostly None: nothing.
        """
        asker = self._asker
        if asker is None:
            return None
        trouble = asker.breaker.reason
        changes = asker.breaker.opened + asker.breaker.closed
        with self._lock:
            withheld = self._telling.change(
                time.monotonic(), bad=trouble is not None, changes=changes
            )
        return None if withheld is None else (trouble, withheld)

    def _own_asker(self) -> _Asker:
        asker = self._asker
        if asker is None or not asker.is_alive():
            with self._lock:
                asker = self._asker
                if asker is None or not asker.is_alive():  # nothing ends it but what nobody foresaw
                    self._asker = asker = _Asker(*self._settings)
                    weakref.finalize(self, asker.end)
        return asker


class _Question:
    """What a caller asks, and what it hears. The asker's thread sets the answer, then rings."""

    def __init__(self, image_id: str, hosts: Sequence[str], deadline: float) -> None:
        self.image_id = image_id
        self.hosts = hosts
        self.deadline = deadline
        self.answer: reader.Found | None = None
        self.failure: NotKnown | None = None
        self._ear, self._bell = socket.socketpair()

    def ring(self) -> None:
        """Wake the caller, should it still be there."""
        with contextlib.suppress(OSError), self._bell:
            self._bell.send(b"\n")

    def wait(self) -> None:
        """Wait for the bell or the deadline."""
        with self._ear, contextlib.suppress(TimeoutError):
            left = self.deadline - time.monotonic()
            if left > 0:
                self._ear.settimeout(left)
                self._ear.recv(1)


class _Asker:
    """The thread of one process, and what its callers share with it."""

    def __init__(self, make_client: Connect, keyspace: str, budget: float) -> None:
        self.breaker = breaker.Breaker()
        self.counters = Counters()
        self._make_client = make_client
        self._keyspace = keyspace
        self._budget = budget
        self._reader: reader.Reader | None = None
        self._connections: weakref.WeakSet[connect.Connection] = weakref.WeakSet()
        self._last: tuple[str, Sequence[str]] = "", ()
        self._busy_since: float | None = None
        threading = native.module("threading")
        # A native lock is safe under eventlet, too: nothing is waited for while it is held.
        self._lock = threading.Lock()
        self._questions = native.module("queue").SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="bus-cache-weigher", daemon=True)
        self._thread.start()

    # For callers.

    def is_alive(self) -> bool:
        """Tell whether somebody serves the questions."""
        return bool(self._thread.is_alive())

    def check(self) -> None:
        """Raise NotKnown where Redis is lost."""
        trouble = self.breaker.reason
        if trouble is not None:
            self._cut_if_stuck()
            self.count(unknown=1)
            raise NotKnown(trouble)

    def ask(self, image_id: str, hosts: Sequence[str], deadline: float) -> reader.Found:
        """See :meth:`Guard.look`."""
        self.check()
        question = _Question(image_id, hosts, deadline)
        self._questions.put(question)
        question.wait()
        if question.answer is not None:
            self.count(known=1)
            return question.answer
        if question.failure is not None:
            self.count(unknown=1)
            raise question.failure
        self.count(unknown=1, overruns=1)
        self._blame()
        raise NotKnown(self._late())

    def end(self) -> None:
        """Have the thread end, once it is done with what it does."""
        self._questions.put(None)

    def _blame(self) -> None:
        """Open where Redis is to blame: it had half of the budget at least.

        Else the time was lost before it was asked: by the caller, or waiting for other callers.
        """
        since = self._busy_since
        if since is not None and time.monotonic() - since >= self._budget / 2:
            self._fail(self._late())
            self._questions.put(_WAKE)

    def _cut_if_stuck(self) -> None:
        """End an attempt that would go on for ever: its read returns when its socket is shut down.

        Only shut down: the thread closes it, or a number that is used anew could be read from.
        """
        since = self._busy_since
        if since is not None and time.monotonic() - since > STUCK:
            with contextlib.suppress(RuntimeError):  # one more was made meanwhile: next time
                for connection in list(self._connections):
                    connect.shut_down(connection)

    # For both.

    def _fail(self, reason: str) -> None:
        with self._lock:
            self.breaker.failed(time.monotonic(), reason, random.random())
            self.counters.opened = self.breaker.opened

    def count(
        self, *, known: int = 0, remembered: int = 0, unknown: int = 0, overruns: int = 0
    ) -> None:
        """Count calls."""
        with self._lock:
            self.counters.known += known
            self.counters.remembered += remembered
            self.counters.unknown += unknown
            self.counters.overruns += overruns

    def _late(self) -> str:
        return f"Redis did not answer within {1000 * self._budget:g} ms"

    # For the thread.

    def _run(self) -> None:
        """Serve callers, and probe while Redis is lost."""
        while True:
            with self._lock:
                probe_at = self.breaker.probe_at
            pause = None if probe_at == math.inf else max(0.0, probe_at - time.monotonic())
            try:
                question = self._questions.get(timeout=pause)
            except native.module("queue").Empty:
                self._probe()
                continue
            if question is None:
                self._hang_up()
                return
            if question is not _WAKE:
                self._serve(question)

    def _serve(self, question: _Question) -> None:
        """Answer one caller; what came too late is not asked any more."""
        started = time.monotonic()
        if self.breaker.reason is not None:
            question.failure = NotKnown(self.breaker.reason)
        elif started < question.deadline:
            self._last = question.image_id, question.hosts
            with self._busy():
                try:
                    question.answer = self._read(question.deadline)
                except reader.Unreadable as error:  # Redis is well, this key is not
                    question.failure = Unreadable(str(error))
                except Exception as error:
                    self._hang_up()
                    question.failure = NotKnown(explain(error))
                    self._fail(str(question.failure))
                else:
                    ended = time.monotonic()
                    if ended > question.deadline and ended - started >= self._budget / 2:
                        self._fail(self._late())
        question.ring()

    def _probe(self) -> None:
        """Ask the last question again, and have Redis back where the answer is in time.

        The first answer may take long, while a connection is made; then a second one counts. The
        same question, as a server that is too slow for many hosts may be fast enough for one.
        """
        with self._lock:
            self.counters.probes += 1
        with self._busy():
            try:
                for _ in range(2):
                    started = time.monotonic()
                    with contextlib.suppress(reader.Unreadable):
                        self._read(started)
                    spent = time.monotonic() - started
                    if spent <= self._budget:
                        with self._lock:
                            self.breaker.probed_well(time.monotonic())
                            self.counters.closed = self.breaker.closed
                        return
                reason = f"Redis needs {1000 * spent:.0f} ms for an answer"
            except Exception as error:
                self._hang_up()
                reason = explain(error)
        with self._lock:
            self.breaker.probe_failed(time.monotonic(), reason, random.random())

    def _read(self, deadline: float) -> reader.Found:
        """Ask Redis once; once more, before the deadline, where it had closed the connection."""
        try:
            return self._ask()
        except connect.CLOSED:
            if time.monotonic() >= deadline:
                raise
            return self._ask()

    def _ask(self) -> reader.Found:
        if self._reader is None:
            client = self._make_client(self._connections.add)
            self._reader = reader.Reader(client, self._keyspace)
        return self._reader.look(*self._last, int(1000 * time.time()))

    def _hang_up(self) -> None:
        """Leave nothing of a failure behind: the next attempt begins with a new client."""
        self._reader = None
        connections, self._connections = self._connections, weakref.WeakSet()
        for connection in connections:
            with contextlib.suppress(Exception):
                connection.disconnect()

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        self._busy_since = time.monotonic()
        try:
            yield
        finally:
            self._busy_since = None


_WAKE: Any = object()
"""For the thread: look at the breaker again."""


def explain(error: Exception) -> str:
    """Return what went wrong on one line of bounded length; the kind of error tells most."""
    return f"{type(error).__name__}: {connect.explain(error)}"
