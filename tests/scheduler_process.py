"""Nova's weighing in a process of its own, in native or in green threads, told line by line.

``python -m tests.scheduler_process eventlet`` patches as nova-scheduler does, then reads one order
a line from its standard input and writes one answer a line, both JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODES = {"threading": "native", "eventlet": "green"}
"""As Nova calls what it runs on, and what its threads are then."""
STUCK = 180.0
"""Seconds after which an order hangs, and the process is killed."""
TICK = 0.005
"""Seconds after which another thread of the process wants to go on."""


class SchedulerProcess:
    """Such a process, and what it is told to do."""

    def __init__(self, mode: str, folder: Path, under: Sequence[str] = ()) -> None:
        """Start it.

        :param mode: one of :data:`MODES`.
        :param folder: for its nova.conf and what it prints.
        :param under: prefix of its command line.
        """
        self._config = folder / f"nova-{mode}.conf"
        self._log = folder / f"{mode}.log"
        # other tests of this process may have told Nova to do without eventlet
        environment = {**os.environ, "OS_NOVA_DISABLE_EVENTLET_PATCHING": ""}
        # as older releases of Nova set it: looking up a name then holds up all green threads
        environment["EVENTLET_NO_GREENDNS"] = "yes"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*under, sys.executable, "-m", "tests.scheduler_process", mode],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> SchedulerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def open(
        self,
        url: str,
        *,
        ca_file: str = "",
        budget: float = 0.05,
        read_timeout: float = 5.0,
        hosts: int = 20,
        metrics_folder: str = "",
    ) -> None:
        """Begin with a new weigher for this Redis, as after a restart."""
        self._config.write_text(
            f"[bus_cache]\nredis_url = {url}\ntls_ca_file = {ca_file}\n"
            f"read_timeout = {read_timeout}\n"
            f"[image_cache_weigher]\ntime_budget = {budget}\n"
            f"metrics_folder = {metrics_folder}\n"
        )
        self._tell("open", path=str(self._config), hosts=hosts)

    def weigh(
        self,
        calls: int,
        *,
        pause: float = 0.0,
        rank: bool = False,
        until_known: bool = False,
        most_seconds: float = 3600.0,
    ) -> dict[str, Any]:
        """Weigh so often, with pauses between, and return what came of it.

        :param rank: have Nova rank with all its weighers, and compare; else ours alone weighs.
        :param until_known: end with the first call that knows.
        :param most_seconds: begin no call after these.
        :returns: ``known``: for each call whether it knew; ``seconds``: how long it took; ``open``:
            whether the breaker was open before; ``wrong``: calls whose outcome is neither the
            right one nor that of Nova alone; ``gap``: seconds that another thread was held up at
            the most; ``lines``: what was logged since the last time.
        """
        how = {"pause": pause, "rank": rank, "until_known": until_known}
        return self._tell("weigh", calls=calls, most_seconds=most_seconds, **how)

    def _tell(self, order: str, **values: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"order": order, **values}) + "\n")
        self._process.stdin.flush()
        killer = threading.Timer(STUCK, self._process.kill)
        killer.start()
        line = self._process.stdout.readline()
        killer.cancel()
        if not line:
            raise RuntimeError(f"the scheduler's process ended:\n{self._log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


class Ticker:
    """Another thread, green or not; keeps for how long it was held up, in seconds."""

    def __init__(self) -> None:
        self.gap = 0.0
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends:
            before = time.monotonic()
            time.sleep(TICK)
            self.gap = max(self.gap, time.monotonic() - before - TICK)

    def stop(self) -> float:
        self._ends = True
        self._thread.join()
        return self.gap


class _Child:
    """The process's side."""

    def __init__(self, mode: str) -> None:
        from nova import monkey_patch

        monkey_patch.patch(backend=mode)
        import logging

        from tests import torment
        from tests.functional import test_weigher
        from weigher import recent

        recent.FRESH = 0.0  # each call asks Redis, as if it were the first one of its moment
        self._tests = test_weigher
        self._holder = torment.HOLDER
        self._spec = test_weigher.make_spec(test_weigher.make_image(id=torment.IMAGE))
        self._alone = test_weigher.Scheduler(ours=False)
        self._lines: list[str] = []
        self._scheduler: Any = None
        handler = logging.Handler(logging.INFO)
        handler.emit = lambda record: self._lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("weigher").addHandler(handler)
        logging.getLogger("weigher").setLevel(logging.INFO)

    def open(self, path: str, hosts: int) -> dict[str, Any]:
        tests = self._tests
        tests.CONF([], project="nova", default_config_files=[path])
        self._scheduler = None
        gc.unfreeze()
        gc.collect()  # the weigher that was, and its thread
        self._scheduler = tests.Scheduler()
        self._hosts = tests.make_hosts(hosts)
        held = [host.host == self._holder for host in self._hosts]
        self._nothing, self._right = [0.0] * hosts, [float(each) for each in held]
        plain = self._plain = self._alone.rank(self._hosts, self._spec)
        better = [(host, weight + 5.0) for host, weight in plain if host == self._holder]
        self._better = better + [each for each in plain if each[0] != self._holder]
        ours = self._scheduler.ours
        weigh = ours.weigh_objects

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = weigh(*arguments)
            self._spent = time.perf_counter() - started
            return result

        ours.weigh_objects = timed
        # what was made here is many objects, and no call's to go through
        gc.collect()
        gc.freeze()
        return {}

    def weigh(
        self, calls: int, pause: float, rank: bool, until_known: bool, most_seconds: float
    ) -> dict[str, Any]:
        started = time.monotonic()
        known, seconds, was_open, wrong = [], [], [], 0
        ours, ticker = self._scheduler.ours, Ticker()
        for _ in range(calls):
            was_open.append(ours.counters.opened > ours.counters.closed)
            if rank:
                result = self._scheduler.rank(self._hosts, self._spec)
                knew, right = result == self._better, result in (self._better, self._plain)
            else:
                weights = self._scheduler.weigh(self._hosts, self._spec)
                knew = weights == self._right
                right = knew or weights == self._nothing
            known.append(knew)
            seconds.append(self._spent)
            wrong += not right
            if (knew and until_known) or time.monotonic() - started > most_seconds:
                break
            time.sleep(pause)
        gap, lines = ticker.stop(), self._lines[:]
        self._lines.clear()
        return {
            "known": known,
            "seconds": seconds,
            "open": was_open,
            "wrong": wrong,
            "gap": gap,
            "lines": lines,
            "counters": vars(ours.counters),
        }


def main() -> None:
    """Obey until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    child = _Child(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        found = getattr(child, order.pop("order"))(**order)
        answers.write(json.dumps(found) + "\n")
        answers.flush()
    os._exit(0)  # taking all of Nova down in order takes a second


if __name__ == "__main__":
    main()
