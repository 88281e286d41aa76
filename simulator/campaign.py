"""The whole synthetic set, a file per run: what is there already is not run again.

A file's name has a digest of all that its run depends on: none is of an older model or policy.

``make simulate`` runs it to its end, in parts if it is stopped, and writes the report's tables and
pictures; ``make simulate-small`` runs one small cloud.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from simulator import generate, parallel, parameters, policies, table
from simulator.run import Outcome

SEEDS = 1, 2, 3, 4, 5


class Setting(NamedTuple):
    """A cloud and a kind of trace."""

    name: str
    hosts: int
    shape: generate.Shape
    seeds: tuple[int, ...] = SEEDS


FULL = [
    Setting("100-hosts-zipf-0.9", 100, generate.Shape(boots=20_000, zipf=0.9)),
    Setting("100-hosts-zipf-1.4", 100, generate.Shape(boots=20_000, zipf=1.4)),
    Setting("500-hosts-zipf-0.9", 500, generate.Shape(boots=20_000, zipf=0.9)),
    Setting("500-hosts-zipf-1.4", 500, generate.Shape(boots=20_000, zipf=1.4)),
]
SMALL = [
    Setting("small", 30, generate.Shape(boots=1_500, days=2.0, images=100), seeds=(1,)),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing; write tables, and pictures of each setting's first seed."""
    parser = argparse.ArgumentParser(prog="python -m simulator.campaign", description=__doc__)
    parser.add_argument("--small", action="store_true", help="one small cloud, under two minutes")
    parser.add_argument(
        "--only",
        action="append",
        choices=[each.name for each in FULL],
        help="this one; may be repeated",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        choices=SEEDS,
        default=len(SEEDS),
        help="the first so many (default 5)",
    )
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/simulate"))
    parser.add_argument("--pictures", type=pathlib.Path, help="draw here: PNG and SVG")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.small and options.only:
        parser.error("--only names settings of the whole set, which --small leaves out")
    settings = [
        each._replace(seeds=each.seeds[: options.seeds])
        for each in (SMALL if options.small else FULL)
        if not options.only or each.name in options.only
    ]
    begin = time.monotonic()
    for setting in settings:
        for seed in setting.seeds:
            _run(setting, seed, options.folder, options.jobs)
    report = "\n".join(part for setting in settings for part in _report(setting, options.folder))
    name = "report-small" if options.small else "report" if settings == FULL else "report-part"
    (options.folder / f"{name}.md").write_text(report, encoding="utf-8")
    print(report)
    print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
    if options.pictures:
        from simulator import pictures  # noqa: PLC0415 - matplotlib takes a second, and may lack

        first = settings[0]
        outcomes = {
            name: _load(_path(options.folder, first, first.seeds[0], name)) for name in policies.ALL
        }
        pictures.draw(outcomes, options.pictures)
        pictures.draw_policy(options.pictures)
        for setting in settings:
            figures = _figures(setting, options.folder)
            pictures.plane(figures, options.pictures / f"plane-{setting.name}")


def _run(setting: Setting, seed: int, folder: pathlib.Path, jobs: int) -> None:
    """Run the policies that have no file yet; each writes its own as soon as it is through."""
    missing = [name for name in policies.ALL if not _path(folder, setting, seed, name).exists()]
    if not missing:
        return
    assumed = parameters.load()
    requests = generate.generate(setting.shape, setting.hosts, assumed.host_ram, seed)

    def keep(name: str, outcome: Outcome, seconds: float) -> None:
        path = _path(folder, setting, seed, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(dataclasses.asdict(outcome)), encoding="utf-8")
        unfinished.replace(path)
        print(f"{setting.name} seed {seed} {name}: {seconds:.0f} s", file=sys.stderr, flush=True)

    parallel.run_all(requests, missing, setting.hosts, seed, assumed, jobs=jobs, done=keep)


def _path(folder: pathlib.Path, setting: Setting, seed: int, name: str) -> pathlib.Path:
    return folder / setting.name / f"seed-{seed}" / f"{name}-{_digest(setting, name)}.json"


@functools.cache
def _digest(setting: Setting, name: str) -> str:
    """Name what a run depends on: the model, the trace's shape, and the policy's own code."""
    here = pathlib.Path(__file__).parent
    model = ["cloud", "generate", "links", "nova_scheduler", "policies", "run", "trace"]
    product = here.parent / "bus_cache"
    own = {
        "bus_cache": [
            *sorted((here.parent / "weigher").glob("*.py")),
            product / "conf" / "image_cache_weigher.py",
            product / "index" / "reader.py",
        ],
        policies.CLAIRVOYANT: [here / "clairvoyant.py"],
    }
    files = [*(here / f"{module}.py" for module in model), parameters.FILE, *own.get(name, [])]
    nova = importlib.metadata.version("nova")
    digest = hashlib.sha256(repr((setting.hosts, setting.shape, nova)).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def _load(path: pathlib.Path) -> Outcome:
    return Outcome(**json.loads(path.read_text(encoding="utf-8")))


def _figures(setting: Setting, folder: pathlib.Path) -> dict[str, list[dict[str, float]]]:
    return {
        name: [_load(_path(folder, setting, seed, name)).figures for seed in setting.seeds]
        for name in policies.ALL
    }


def _report(setting: Setting, folder: pathlib.Path) -> Iterator[str]:
    """Yield the lines of a setting: means, and against nova_default with intervals."""
    figures = _figures(setting, folder)
    shape = setting.shape
    yield f"### {setting.name}"
    yield ""
    yield (
        f"{setting.hosts} hosts, {shape.boots} boots in {shape.days:g} days, Zipf {shape.zipf:g};"
        f" means over {len(setting.seeds)} seed(s)."
    )
    yield ""
    means = {
        name: {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
        for name, runs in figures.items()
    }
    yield table.of(means)
    yield ""
    yield "Against nova_default on the same trace" + (
        ", with 95 % intervals, and of how many traces the goal is met:"
        if len(setting.seeds) > 1
        else ":"
    )
    yield ""
    yield table.ratios(figures, figures["nova_default"])
    yield ""


if __name__ == "__main__":
    main()
