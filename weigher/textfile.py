"""Metrics of nova-scheduler's processes: a file of each, for node_exporter's textfile collector.

A scheduler's processes are forked and share no port, so nobody could scrape them. A native thread
of each writes now and then: a disk that hangs holds up nothing else. No library: the locks of
prometheus-client would be eventlet's here, which a native thread can't wait for.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable
from pathlib import Path

from bus_cache.measure import LATENCY, Histogram, Metric, Samples, text
from weigher import native
from weigher.guard import Counters

INTERVAL = 10.0
"""Seconds between two writes."""

CALLS = Metric(
    "bus_cache_weigher_calls_total",
    "counter",
    "Questions where an image is, by what came of them: asked (Redis answered), remembered (it had "
    "a moment before), unknown (no answer in time: nothing weighs).",
    ("pid", "outcome"),
)
OVERRUNS = Metric(
    "bus_cache_weigher_overruns_total",
    "counter",
    "Of the unknown, those whose time was over before an answer came.",
    ("pid",),
)
SECONDS = Metric(
    "bus_cache_weigher_call_seconds",
    "histogram",
    "How long a call of the weigher took in all: one for each server that is scheduled.",
    ("pid",),
)
LOST = Metric(
    "bus_cache_weigher_redis_lost",
    "gauge",
    "1: Redis is lost and not asked (the breaker is open), and nothing weighs; 0: it is asked.",
    ("pid",),
)
LOSSES = Metric(
    "bus_cache_weigher_redis_losses_total", "counter", "How often Redis was lost.", ("pid",)
)
PROBES = Metric(
    "bus_cache_weigher_probes_total",
    "counter",
    "Attempts in the background to find Redis well again.",
    ("pid",),
)
WRITTEN = Metric(
    "bus_cache_weigher_written_timestamp_seconds",
    "gauge",
    "When the file was written, seconds since 1970: one of a process that is gone is old.",
    ("pid",),
)

METRICS = tuple(value for value in globals().values() if isinstance(value, Metric))
"""All of them, in this order."""

_NAME = re.compile(r"bus_cache_weigher_(\d+)\.prom")


def samples(pid: int, counters: Counters, *, lost: bool, seconds: Histogram, now: float) -> Samples:
    """Return what all metrics of a process are."""
    own = (str(pid),)
    outcomes = {
        "asked": counters.known - counters.remembered,
        "remembered": counters.remembered,
        "unknown": counters.unknown,
    }
    return {
        CALLS: [((*own, outcome), count) for outcome, count in outcomes.items()],
        OVERRUNS: [(own, counters.overruns)],
        SECONDS: [(own, seconds)],
        LOST: [(own, lost)],
        LOSSES: [(own, counters.opened)],
        PROBES: [(own, counters.probes)],
        WRITTEN: [(own, now)],
    }


class Textfile(native.PerProcess):
    """Writes one process's file, from its first call on.

    :ivar trouble: why the last write failed; empty: it did not. For who may log.
    """

    def __init__(self, folder: Path, state: Callable[[], tuple[Counters, bool]]) -> None:
        """Take where to write, and what returns the counters and whether Redis is lost."""
        self._folder = folder
        self._state = state
        super().__init__()

    def begin(self) -> None:
        """Begin anew: nobody writes this process's file yet."""
        super().begin()
        self.trouble = ""
        self._seconds = Histogram(LATENCY)
        self._writes = False

    def note(self, seconds: float) -> None:
        """Count a call, and see that somebody writes."""
        with self._lock:
            self._seconds.observe(seconds)
            begin, self._writes = not self._writes, True
        if begin:
            run, this = _run, weakref.ref(self)
            native.module("threading").Thread(
                target=run, args=(this,), name="bus-cache-metrics", daemon=True
            ).start()

    def write(self) -> None:
        """Write the file, whole or not at all; take away those of processes that are gone."""
        counters, lost = self._state()
        pid, now = os.getpid(), native.module("time").time()
        found = samples(pid, counters, lost=lost, seconds=self._seconds, now=now)
        try:
            whole = self._folder / f"bus_cache_weigher_{pid}.prom"
            part = whole.with_suffix(".part")  # the collector reads *.prom
            part.write_text(text(METRICS, found))
            part.replace(whole)
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match and _is_gone(int(match[1])):
                    path.unlink(missing_ok=True)
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{error.filename or self._folder}: {error.strerror}"


def _run(this: weakref.ref[Textfile]) -> None:
    """Write now and then, as long as there is something to write about."""
    while True:
        textfile = this()
        if textfile is None:
            return
        textfile.write()
        del textfile
        native.module("time").sleep(INTERVAL)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False
