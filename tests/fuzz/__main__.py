"""``make fuzz``: every target of targets.py under atheris, led by coverage; then a table.

    python -m tests.fuzz --minutes 10 [TARGET ...]
    python -m tests.fuzz TARGET FILE          one input again, such as a crash that was kept

What crashed a target is kept in build/fuzz/<target>/, what reached new code in
build/fuzz/corpus/<target>/, from where the next run goes on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz"
ONE = "--one"

LIMITS = ("-rss_limit_mb=1024", "-timeout=10", "-max_len=65536", "-print_final_stats=1")


class Outcome(NamedTuple):
    """One target's run."""

    target: str
    executions: int
    seconds: float
    new_paths: int
    crashes: list[Path]
    code: int


def fuzz(target: str, seconds: int, seed: int) -> Outcome:
    """Run one target in a process of its own, again after each crash, for so many seconds."""
    from tests.fuzz import targets

    corpus, crashes = BUILD / "corpus" / target, BUILD / target
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for body in targets.seeds(target):
        (corpus / f"seed-{hashlib.sha1(body).hexdigest()}").write_bytes(body)
    before = set(crashes.iterdir())
    began = time.monotonic()
    executions = paths = code = 0
    while (left := seconds - int(time.monotonic() - began)) > 0:
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", ONE, target, str(corpus)]
        command += [*LIMITS, f"-max_total_time={left}", f"-seed={seed}"]
        command += [f"-artifact_prefix={crashes}/"]
        with open(BUILD / f"{target}.log", "ab") as log:
            done = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=subprocess.PIPE, check=False
            )
            log.write(done.stderr)
        said = done.stderr.decode(errors="replace")
        executions += _statistic(said, "number_of_executed_units")
        paths += _statistic(said, "new_units_added")
        code = done.returncode
        seed += 1
        found = set(crashes.iterdir()) - before
        if code == 0 or len(found) >= 5 or not found:
            break
    spent = time.monotonic() - began
    return Outcome(target, executions, spent, paths, sorted(set(crashes.iterdir()) - before), code)


def _statistic(said: str, name: str) -> int:
    found = re.findall(rf"stat::{name}:\s*(\d+)", said)
    if name == "number_of_executed_units" and not found:  # it ended by a crash
        found = re.findall(r"^#(\d+)\s", said, re.MULTILINE)
    return int(found[-1]) if found else 0


def one(arguments: list[str]) -> None:
    """Be the process in which one target runs."""
    import atheris

    with atheris.instrument_imports(
        include=["bus_cache", "consumers", "amqp.serialization", "oslo_config", "urllib.parse"]
    ):
        from tests.fuzz import messages, targets
    target = arguments[0]
    mutate = messages.hostile if target in ("bus_message", "agent_message") else messages.noise

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.randrange(2):
            return mutate(data, chance)[:most]
        return bytes(atheris.Mutate(data, most))

    options: dict[str, Any] = {"custom_mutator": mutator}
    atheris.Setup([sys.argv[0], *arguments[1:]], targets.TARGETS[target], **options)
    atheris.Fuzz()


def main() -> int:
    """Run what the command line says; 1 where something crashed."""
    from tests.fuzz import targets

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="in all; default: %(default)s")
    parser.add_argument("what", nargs="*", help="targets, or a target and a file")
    given = parser.parse_args()
    if len(given.what) == 2 and given.what[1] not in targets.TARGETS:
        targets.TARGETS[given.what[0]](Path(given.what[1]).read_bytes())
        print("nothing is wrong with it")
        return 0
    chosen = given.what or list(targets.TARGETS)
    jobs = min(len(chosen), os.cpu_count() or 1)
    seconds = max(5, int(given.minutes * 60 * jobs / len(chosen)))
    seed = random.randrange(1, 2**31)
    print(f"{len(chosen)} targets, {seconds} s each, {jobs} at a time, seed {seed}")
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(lambda each: fuzz(each, seconds, seed), chosen))
    print(
        "\n| target | executions | exec/s | new paths | crashes |\n| --- | --- | --- | --- | --- |"
    )
    for each in outcomes:
        speed = each.executions / max(each.seconds, 1)
        cells = (each.target, each.executions, f"{speed:.0f}", each.new_paths, len(each.crashes))
        print("| " + " | ".join(map(str, cells)) + " |")
    for each in outcomes:
        for crash in each.crashes:
            print(f"again: {sys.executable} -m tests.fuzz {each.target} {crash.relative_to(ROOT)}")
        if not each.executions or (each.code and not each.crashes):
            print(
                f"{each.target} did not run to its end: see "
                f"{BUILD.relative_to(ROOT)}/{each.target}.log"
            )
    return int(any(each.crashes or each.code or not each.executions for each in outcomes))


if __name__ == "__main__":
    if sys.argv[1:2] == [ONE]:
        one(sys.argv[2:])
    else:
        sys.exit(main())
