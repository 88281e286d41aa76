"""``python -m simulator``: a trace under several policies; a JSON, a table, pictures if wanted."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from simulator import parallel, parameters, policies, table, trace
from simulator.parameters import GBIT
from simulator.run import Outcome


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the policies and write what they gave. What is wrong is told in one line."""
    options = _parser().parse_args(arguments)
    chosen = options.policies.split(",") if options.policies else policies.ALL
    names = [name.strip() for name in chosen]
    unknown = [name for name in names if name not in policies.ALL]
    if unknown:
        _fail(f"no such policy: {', '.join(unknown)}; there are {', '.join(policies.ALL)}")
    if options.hosts < 1 or options.jobs < 1:
        _fail("--hosts and --jobs must be at least 1")
    for name in ("vcpus", "ram_mb", "disk_gb", "glance_gbit", "host_gbit"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            _fail(f"--{name.replace('_', '-')} must be above 0")
    assumed = parameters.load(
        host_vcpus=options.vcpus,
        host_ram=options.ram_mb,
        host_disk=options.disk_gb,
        glance_bandwidth=options.glance_gbit and options.glance_gbit * GBIT,
        host_bandwidth=options.host_gbit and options.host_gbit * GBIT,
        agents=not options.no_agents,
    )
    try:
        requests = trace.read(options.trace)
        if options.config_file:
            parallel.check(options.config_file)
    except ValueError as error:
        _fail(str(error))
    try:  # before hours of work
        if options.json:
            options.json.open("a").close()
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
    outcomes = parallel.run_all(
        requests,
        names,
        options.hosts,
        options.seed,
        assumed,
        jobs=options.jobs,
        done=_through,
        config_file=options.config_file,
    )
    figures = {name: outcomes[name].figures for name in names}
    print(table.of(figures))
    if base := figures.get("nova_default"):
        print("\nAgainst nova_default:\n")
        print(table.ratios({name: [got] for name, got in figures.items()}, [base]))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if options.pictures:
        from simulator import pictures  # noqa: PLC0415 - matplotlib takes a second, and may lack

        pictures.draw(outcomes, options.pictures)
        points = {name: [each.figures] for name, each in outcomes.items()}
        pictures.plane(points, options.pictures / "plane")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument(
        "--trace",
        type=pathlib.Path,
        required=True,
        metavar="FILE",
        help=f"CSV, gzipped or not: {','.join(trace.COLUMNS)}",
    )
    parser.add_argument(
        "--hosts", type=int, metavar="N", required=True, help="all alike; empty at the beginning"
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        default=0,
        help="of what the trace leaves open: how long each boot takes, in which order hosts of one "
        "weight stand, when each host's periodic tasks run (default 0)",
    )
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="OUT", help="write the figures, a key per policy"
    )
    parser.add_argument(
        "--policies", metavar="A,B", help=f"of {','.join(policies.ALL)} (default: all)"
    )
    parser.add_argument(
        "--config-file",
        type=pathlib.Path,
        metavar="FILE",
        help="a nova.conf, of which the weighers' options count for all policies, and nothing "
        "else: those of [filter_scheduler], and for bus_cache of [image_cache_weigher] (default: "
        "their defaults); the rest is in simulator/parameters.yaml",
    )
    usual = parameters.load()
    parser.add_argument(
        "--vcpus",
        type=int,
        metavar="N",
        help=f"of a host, before overcommitment (default {usual.host_vcpus})",
    )
    parser.add_argument(
        "--ram-mb", type=int, metavar="N", help=f"of a host, in MiB (default {usual.host_ram})"
    )
    parser.add_argument(
        "--disk-gb", type=int, metavar="N", help=f"of a host, in GiB (default {usual.host_disk})"
    )
    parser.add_argument(
        "--glance-gbit",
        type=float,
        metavar="X",
        help=f"Gbit/s out of Glance in all (default {usual.glance_bandwidth / GBIT:g})",
    )
    parser.add_argument(
        "--host-gbit",
        type=float,
        metavar="X",
        help=f"Gbit/s into each host (default {usual.host_bandwidth / GBIT:g})",
    )
    parser.add_argument(
        "--no-agents",
        action="store_true",
        help="the index knows what Nova's notifications tell (default: an agent on each host)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", default=2, help="policies run at the same time (default 2)"
    )
    parser.add_argument("--pictures", type=pathlib.Path, metavar="DIR", help="draw PNG and SVG")
    return parser


def _through(name: str, outcome: Outcome, seconds: float) -> None:
    _say(f"{name}: {seconds:.0f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(text: str) -> NoReturn:
    _say(f"error: {text}")
    sys.exit(2)


if __name__ == "__main__":
    main()
