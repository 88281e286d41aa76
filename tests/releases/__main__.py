"""Runs the weigher's and the evidence's tests on Nova's releases, all or those named.

``python -m tests.releases 27 34``. Each has an environment in build/releases with exactly what its
constraints file says, and into that goes bus-cache as an operator would install it: built as a
wheel, without extras. It may add packages, and must not change one. Then the tests run with the
oldest and with the newest redis-py and hiredis that we allow. Oldest is what pyproject.toml says,
newest what constraints.txt says.

Exits with 1 where a test fails or an installation changes what Nova brought.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

from tests.releases import CONSTRAINTS, RELEASES, UV, threads

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "releases"
OURS = ["redis", "hiredis"]
WEIGHER = ["tests/functional/test_weigher.py", "tests/releases/test_scheduler.py"]
EVIDENCE = ["tests/unit/test_evidence.py"]
NOT_HERE = "not valkey and not test_any_"
"""Valkey's server comes from a package that is not for Nova's environment; what is true of any
message has nothing to do with Nova."""
MOST = 3600
"""Seconds that one run of tests may take."""


class Failed(Exception):
    """Something that must hold does not; the text says what."""


def run(*command: object, **environment: str) -> str:
    """Run a command; return what it prints.

    :raises Failed: it failed; the text has what it printed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=BUILD,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MOST,
        check=False,
    )
    if done.returncode:
        raise Failed(done.stdout)
    return done.stdout


def versions(text: str) -> dict[str, str]:
    """Return package -> version of the pinned ones among requirements."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def prepare() -> Path:
    """Build the wheel, copy the tests to where the checkout is not imported; return the wheel."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for old in ("wheel", "tests"):
        shutil.rmtree(BUILD / old, ignore_errors=True)
    run(UV, "build", "--quiet", "--out-dir", BUILD / "wheel", ROOT)
    shutil.copytree(ROOT / "tests", BUILD / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (BUILD / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    return next((BUILD / "wheel").glob("*.whl"))


def allowed() -> dict[str, list[str]]:
    """Return the oldest and the newest redis-py and hiredis that we allow, as requirements."""
    lowest = dict(re.findall(r'"(\w+)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    newest = versions((ROOT / "constraints.txt").read_text())
    return {
        "newest": [f"{name}=={newest[name]}" for name in OURS],
        "oldest": [f"{name}=={lowest[name]}" for name in OURS],
    }


class Environment:
    """A release's virtual environment."""

    def __init__(self, release: int) -> None:
        self.release = release
        self.pins = CONSTRAINTS / f"nova-{release}.txt"
        self.python = BUILD / f"nova-{release}" / "bin" / "python"
        if not self.python.exists():
            run(UV, "venv", "--quiet", "--python", sys.executable, self.python.parents[1])

    def pip(self, command: str, *arguments: object) -> str:
        """Run a command of pip's."""
        return run(UV, "pip", command, "--python", self.python, *arguments)

    def install(self, wheel: Path, requirements: list[str]) -> None:
        """Make it anew: Nova and what it was released with, then bus-cache, then these versions.

        :raises Failed: bus-cache changed what Nova brought, or two packages do not fit.
        """
        self.pip("sync", "--quiet", self.pins)
        self.pip("install", "--quiet", "--no-cache", "--reinstall-package", "bus-cache", wheel)
        pinned, present = versions(self.pins.read_text()), versions(self.pip("freeze"))
        changed = {name: present.get(name) for name in pinned if present.get(name) != pinned[name]}
        if changed:
            raise Failed(
                f"Installing bus-cache changed what Nova {self.release} brought: {changed}"
            )
        self.pip("install", "--quiet", *requirements)
        self.pip("check")

    def test(self, name: str, files: list[str], threading: str) -> int:
        """Run tests in a process that starts as nova-scheduler does; return how many passed.

        :raises Failed: one failed, or none ran.
        """
        report = BUILD / f"nova-{self.release}-{name}.xml"
        run(
            *(self.python, "-W", "ignore", "-m", "tests.releases.patched"),
            *("-q", "--tb=short", "-c", "pytest.ini", f"--junitxml={report}"),
            *("-k", NOT_HERE, *files),
            OS_NOVA_DISABLE_EVENTLET_PATCHING=str(threading == "native").lower(),
            NOVA_SCHEDULER_THREADS=threading,
            BUS_CACHE_INSTALLED="1",
        )
        suite = next(xml.etree.ElementTree.parse(report).iter("testsuite")).attrib
        passed = int(suite["tests"]) - int(suite["skipped"])
        if not passed:
            raise Failed(f"No test ran: {files}")
        return passed


def rows(release: int, wheel: Path) -> list[list[str]]:
    """Test a release; return the table's rows, and print what failed."""
    environment = Environment(release)
    nova = versions(environment.pins.read_text())["nova"]
    kinds = threads(release)
    results: dict[tuple[str, str], str] = {}

    def test(name: str, files: list[str], kind: str) -> None:
        started = time.monotonic()
        try:
            said = f"{environment.test(f'{name}-{kind}', files, kind)} passed"
        except (Failed, subprocess.TimeoutExpired) as failure:
            print(failure)
            said = "FAILED"
        results[name, kind] = said
        spent = time.monotonic() - started
        print(f"Nova {nova}, {kind}, {name}: {said} in {spent:.0f} s", flush=True)

    for age, requirements in allowed().items():
        try:
            environment.install(wheel, requirements)
        except Failed as failure:
            print(f"Nova {nova}, {age}: {failure}", flush=True)
            results.update({(age, kind): "FAILED" for kind in kinds})
            continue
        for kind in kinds:
            test(age, WEIGHER, kind)
        if age == "newest" and release in (min(RELEASES), max(RELEASES)):
            test("evidence", EVIDENCE, kinds[0])
            environment.pip("uninstall", "--quiet", "hiredis")
            test("without hiredis", WEIGHER, kinds[0])
    python = run(environment.python, "-c", "import platform; print(platform.python_version())")
    start = [RELEASES[release], nova, python.strip()]
    columns = ["oldest", "newest", "without hiredis", "evidence"]
    return [[*start, kind, *(results.get((name, kind), "") for name in columns)] for kind in kinds]


def main() -> int:
    """Test the releases that the command line names."""
    releases = [int(each) for each in sys.argv[1:]] or list(RELEASES)
    if unknown := set(releases) - set(RELEASES):
        print(f"Nova {unknown} is none of {list(RELEASES)}", file=sys.stderr)
        return 2
    wheel = prepare()
    ages = {age: ", ".join(requirements) for age, requirements in allowed().items()}
    table = [["OpenStack", "Nova", "Python", "threads", ages["oldest"], ages["newest"]]]
    table[0] += ["newest without hiredis", "evidence"]
    table.append(["---"] * len(table[0]))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        for each in executor.map(lambda release: rows(release, wheel), releases):
            table += each
    text = "\n".join("| " + " | ".join(row) + " |" for row in table)
    (BUILD / "table.md").write_text(text + "\n")
    print(f"\n{text}")
    return 1 if "FAILED" in text else 0


if __name__ == "__main__":
    sys.exit(main())
