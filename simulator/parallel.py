"""Policies side by side, each run in a process of its own: a run is one thread's work."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import time
import warnings
from collections.abc import Callable, Sequence

from simulator.parameters import Parameters
from simulator.run import Outcome, run
from simulator.trace import Request


def run_all(
    requests: Sequence[Request],
    names: Sequence[str],
    hosts: int,
    seed: int,
    parameters: Parameters,
    *,
    jobs: int,
    done: Callable[[str, Outcome, float], None] = lambda name, outcome, seconds: None,
) -> dict[str, Outcome]:
    """Return what each policy gave.

    :param jobs: processes at the same time.
    :param done: told a policy's name, its outcome and its seconds as soon as it is through.
    """
    outcomes: dict[str, Outcome] = {}
    # a new interpreter for each: none inherits another's options, caches or locks
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare
    ) as pool:
        tasks = {
            pool.submit(_timed, requests, name, hosts, seed, parameters): name for name in names
        }
        for task in concurrent.futures.as_completed(tasks):
            outcome, seconds = task.result()
            outcomes[tasks[task]] = outcome
            done(tasks[task], outcome, seconds)
    return {name: outcomes[name] for name in names}


def _prepare() -> None:
    warnings.simplefilter("ignore")  # eventlet's, which Nova imports
    from simulator import nova_scheduler  # noqa: PLC0415 - after the line above

    nova_scheduler.prepare()
    gc.freeze()


def _timed(
    requests: Sequence[Request], name: str, hosts: int, seed: int, parameters: Parameters
) -> tuple[Outcome, float]:
    begin = time.monotonic()
    return run(requests, name, hosts, seed, parameters), time.monotonic() - begin
