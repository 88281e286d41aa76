"""Policies side by side, each run in a process of its own: a run is one thread's work."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import importlib
import multiprocessing
import pathlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    config_file: pathlib.Path | None = None,
    constants: Mapping[str, float] = {},
) -> dict[str, Outcome]:
    """Return what each policy gave.

    :param jobs: processes at the same time.
    :param done: told a policy's name, its outcome and its seconds as soon as it is through.
    :param config_file: a nova.conf, whose weighers' options count for all policies.
    :param constants: modules' names with their constants' -> what these are to be.
    """
    outcomes: dict[str, Outcome] = {}
    with pool(jobs, config_file, constants) as processes:
        tasks = {
            processes.submit(_timed, requests, name, hosts, seed, parameters): name
            for name in names
        }
        for task in concurrent.futures.as_completed(tasks):
            outcome, seconds = task.result()
            outcomes[tasks[task]] = outcome
            done(tasks[task], outcome, seconds)
    return {name: outcomes[name] for name in names}


def pool(
    jobs: int, config_file: pathlib.Path | None = None, constants: Mapping[str, float] = {}
) -> concurrent.futures.ProcessPoolExecutor:
    """Return processes that are ready to simulate: see :func:`run_all`."""
    # a new interpreter for each: none inherits another's options, caches or locks
    return concurrent.futures.ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=functools.partial(_prepare, config_file, constants),
    )


def check(config_file: pathlib.Path) -> None:
    """Find out whether a nova.conf can be used, before hours of work.

    :raises ValueError: it can't.
    """
    _nova_scheduler().configure(config_file)


def _nova_scheduler() -> Any:
    """Import the module with Nova, without the warnings of eventlet, which Nova imports."""
    warnings.simplefilter("ignore")
    from simulator import nova_scheduler  # noqa: PLC0415 - after the line above

    return nova_scheduler


def _prepare(config_file: pathlib.Path | None, constants: Mapping[str, float]) -> None:
    nova_scheduler = _nova_scheduler()
    if config_file:
        nova_scheduler.configure(config_file)
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    nova_scheduler.prepare()
    gc.freeze()


def _timed(
    requests: Sequence[Request], name: str, hosts: int, seed: int, parameters: Parameters
) -> tuple[Outcome, float]:
    begin = time.monotonic()
    return run(requests, name, hosts, seed, parameters), time.monotonic() - begin
