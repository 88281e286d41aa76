"""What the outcome depends on: the weigher's options, the cloud, what the scheduler sees of itself.

``make sensitivity``: small traces, of seeds that no report uses. Nothing is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

from simulator import generate, parallel, parameters, table
from simulator.parameters import GBIT
from simulator.run import run

SEEDS = 11, 12, 13
_SHORT = {
    "bytes_from_glance": "bytes",
    "boot_p95_s": "p95",
    "ram_cv": "RAM cv",
    "max_builds_one_host": "builds",
}
_PACKING = {"ram_weight_multiplier": -1, "cpu_weight_multiplier": -1, "disk_weight_multiplier": -1}


class Case(NamedTuple):
    """What differs from the usual."""

    name: str
    shape: Mapping[str, Any] = {}
    assumed: Mapping[str, Any] = {}
    """Of parameters.yaml."""
    options: Mapping[str, Mapping[str, float]] = {}
    """Of nova.conf, by group."""
    constants: Mapping[str, float] = {}
    """Of the weigher's modules."""


OPTIONS = [
    Case("**the defaults**"),
    *(
        Case(f"`{name}` {value}", options={"image_cache_weigher": {name: value}})
        for name, value in (
            ("most_builds", 2),
            ("most_builds", 6),
            ("most_builds", 8),
            ("most_imbalance", 0.015),
            ("most_imbalance", 0.06),
            ("multiplier", 2.5),
            ("multiplier", 10),
        )
    ),
    Case("on its way counts 0.6, not 0.8", constants={"weigher.policy.COMING": 0.6}),
    Case("an answer of Redis counts for 0 s, not 1", constants={"weigher.recent.FRESH": 0.0}),
    Case("5 s", constants={"weigher.recent.FRESH": 5.0}),
]
"""On :data:`SMALL_CLOUD`."""

SMALL_CLOUD = 30, {"boots": 1_500, "days": 2.0, "images": 100}
"""As that of ``make simulate-small``."""

CLOUDS = [
    Case("**this cloud**"),
    Case("fullest moment 10 % of RAM", {"load": 0.1}),
    Case("30 %", {"load": 0.3}),
    Case("85 %", {"load": 0.85}),
    Case("no bursts", {"burst_share": 0.0}),
    Case("bursts only", {"burst_share": 1.0}),
    Case("20 images", {"images": 20}),
    Case("3,000 images", {"images": 3_000}),
    Case("hosts of 64 GiB, 16 threads", assumed={"host_ram": 65_536, "host_vcpus": 16}),
    Case("hosts with 8 threads: vCPUs go first", assumed={"host_vcpus": 8}),
    Case("Glance sends 1 Gbit/s", assumed={"glance_bandwidth": GBIT}),
    Case("100 Gbit/s", assumed={"glance_bandwidth": 100 * GBIT}),
    Case("two sizes of hosts, one with half of all", {"load": 0.45}, {"host_generations": 2}),
    Case("no agents", assumed={"agents": False}),
    Case("1 scheduler process", assumed={"scheduler_workers": 1}),
    Case("8 processes", assumed={"scheduler_workers": 8}),
    Case("Nova packs: RAM, CPU, disk multipliers -1", options={"filter_scheduler": _PACKING}),
]
"""On :data:`CLOUD`; each differs from the first in one thing."""

CLOUD = 100, {"boots": 2_500, "days": 1.0, "images": 200}

PROCESSES = 1, 2, 8


class Seen(NamedTuple):
    """What the weigher knew of decisions not older than it remembers them, over all its calls."""

    own: int
    """Decisions of the process that asked."""
    known: int
    """Of these."""
    others: int
    """Decisions of the other processes."""
    wrong: int
    """Named, but not made."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all tables' cases and print them as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m simulator.sensitivity", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, choices=range(1, len(SEEDS) + 1), default=len(SEEDS), metavar="N"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    options = parser.parse_args(arguments)
    seeds = SEEDS[: options.seeds]
    for title, cloud, cases, names in (
        ("The weigher's options", SMALL_CLOUD, OPTIONS, ("nova_default", "bus_cache")),
        ("Clouds", CLOUD, CLOUDS, ("nova_default", "bus_cache", "flat_10")),
    ):
        print(f"### {title}\n\nAgainst `nova_default` on the same {len(seeds)} traces, means:\n")
        for line in _table(cloud, cases, names, seeds, options.jobs):
            print(line, flush=True)
        print()
    print("### What a process knows of the servers that were sent to hosts in the last 10 s\n")
    print("| processes of nova-scheduler | of its own | of all | named wrongly |")
    print("| --- | ---: | ---: | ---: |")
    for processes in PROCESSES:
        with parallel.pool(1) as pool:
            seen = pool.submit(_seen, processes, SEEDS[0]).result()
        print(
            f"| {processes} | {seen.known / seen.own:.0%} |"
            f" {seen.known / (seen.own + seen.others):.0%} | {seen.wrong} |",
            flush=True,
        )


def _seen(processes: int, seed: int) -> Seen:
    """Run bursts only, and compare at each call what is known with what is so."""
    from simulator import nova_scheduler  # noqa: PLC0415 - parallel has warnings silenced
    from weigher import decisions  # noqa: PLC0415

    made: defaultdict[int, list[tuple[float, str]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    consume, show = nova_scheduler.Choice.consume, decisions.Decisions.show

    def noting(choice: Any) -> None:
        consume(choice)
        weigher = choice._worker._weighers[-1]
        made[id(weigher._decisions)].append((weigher._clock(), choice._chosen.host))

    def comparing(self: decisions.Decisions, now: float, *rest: Any) -> decisions.Fresh:
        fresh = show(self, now, *rest)
        late = {
            key: Counter(
                host for at, host in each[-decisions.MOST_MADE :] if at > now - decisions.COUNTS
            )
            for key, each in made.items()
        }
        own = late.get(id(self), Counter())
        counts["own"] += own.total()
        counts["known"] += (own & fresh.sent).total()
        counts["others"] += sum(each.total() for key, each in late.items() if key != id(self))
        counts["wrong"] += (fresh.sent - own).total()
        return fresh

    with (
        mock.patch.object(nova_scheduler.Choice, "consume", noting),
        mock.patch.object(decisions.Decisions, "show", comparing),
    ):
        hosts, shape = CLOUD
        assumed = parameters.load(scheduler_workers=processes)
        of_bursts: dict[str, Any] = {**shape, "burst_share": 1.0}
        bursts = generate.Shape(**of_bursts)
        requests = generate.generate(bursts, hosts, assumed.host_ram, seed)
        run(requests, "bus_cache", hosts, seed, assumed)
    return Seen(**counts)


def _table(
    cloud: tuple[int, Mapping[str, Any]],
    cases: Sequence[Case],
    names: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
) -> Iterator[str]:
    keys = [key for key, _ in table.GOALS]
    others = names[1:]
    yield "| | " + " | ".join(f"`{name}` {_SHORT[key]}" for name in others for key in keys) + " |"
    yield "| --- |" + " ---: |" * (len(others) * len(keys))
    for case in cases:
        print(case.name, file=sys.stderr, flush=True)
        runs = [_figures(cloud, case, names, seed, jobs) for seed in seeds]
        cells = [_mean(runs, name, names[0], key) for name in others for key in keys]
        yield f"| {case.name} | " + " | ".join(cells) + " |"


def _mean(runs: Sequence[Mapping[str, Mapping[str, float]]], name: str, base: str, key: str) -> str:
    found = table.parts([run[name] for run in runs], [run[base] for run in runs], key)
    return f"{statistics.fmean(found):.2f}" if found else "-"


def _figures(
    cloud: tuple[int, Mapping[str, Any]], case: Case, names: Sequence[str], seed: int, jobs: int
) -> dict[str, Mapping[str, float]]:
    """Run one case on one trace; each policy's figures."""
    hosts, shape = cloud
    assumed = dataclasses.replace(parameters.load(), **case.assumed)
    requests = generate.generate(
        generate.Shape(**{**shape, **case.shape}), hosts, assumed.host_ram, seed
    )
    with tempfile.TemporaryDirectory() as folder:
        file = None
        if case.options:
            file = pathlib.Path(folder, "nova.conf")
            file.write_text(_configuration(case.options), encoding="utf-8")
        outcomes = parallel.run_all(
            requests,
            names,
            hosts,
            seed,
            assumed,
            jobs=jobs,
            config_file=file,
            constants=case.constants,
        )
    return {name: outcome.figures for name, outcome in outcomes.items()}


def _configuration(groups: Mapping[str, Mapping[str, float]]) -> str:
    return "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        for group, options in groups.items()
    )


if __name__ == "__main__":
    main()
