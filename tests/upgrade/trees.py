"""A version's own programs, run from its exported tree in the environment that is there.

``git archive`` writes the tree into a folder, setuptools its entry points beside it. Both come
before this checkout on ``PYTHONPATH``, so imports, plugins and commands are that version's.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests import compute_host, program, servers
from tests.upgrade import weighing

ROOT = Path(__file__).parents[2]
LISTED = Path(__file__).with_name("versions.txt")
MOST = 120.0
"""Seconds in which a command must have ended."""


class Missing(Exception):
    """The git history is not here; the text says what to do."""


class Version(NamedTuple):
    """An older version to try: a commit or tag of git's, and why."""

    revision: str
    why: str


def git(*arguments: str) -> bytes:
    """Return what git says.

    :raises Missing: it is not there, or does not know.
    """
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, timeout=MOST
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip()
        raise Missing(" ".join(said.split())) from error


def versions(named: Sequence[str] = ()) -> list[Version]:
    """Return the versions to try: those named, else those listed and every tag, oldest first.

    :raises Missing: the history of one is not here.
    """
    lines = [line.strip() for line in LISTED.read_text().splitlines()]
    found = [Version(*line.split(maxsplit=1)) for line in lines if line and line[0] != "#"]
    try:
        tags = git("tag", "--list", "--sort=creatordate").decode().split()
        found += [Version(tag, "a release") for tag in tags]
        if named:
            found = [Version(each, "named") for each in named]
        for version in found:
            git("rev-parse", "--quiet", "--verify", f"{version.revision}^{{tree}}")
    except Missing as error:
        raise Missing(
            "Older versions are taken from the git history, and that is not here (a shallow "
            "clone, or no clone at all): `git fetch --unshallow --tags`, or clone anew"
            f"{f' ({error})' if str(error) else ''}."
        ) from error
    return found


class Tree:
    """One version's programs.

    :ivar name: for people.
    :ivar schema: of the keyspace, as that version writes it.
    """

    def __init__(self, name: str, folder: Path, cache: Path) -> None:
        """Take the folder that the version is in; ``cache``: for what its programs keep."""
        self.name = name
        self._folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(cache),  # stevedore's
        }
        # an exported tree has its own beside it; this checkout's is where it was installed
        places = [str(folder), *sys.path]
        package = next(iter(importlib.metadata.distributions(name="bus-cache", path=places)))
        scripts = package.entry_points.select(group="console_scripts")
        self._commands = {script.name: script.value for script in scripts}
        said = self.run("-c", "from bus_cache import names; print(names.__file__, names.SCHEMA)")
        file, schema = said.split()
        assert Path(file).is_relative_to(folder), f"{name} is not what runs: {file}"
        self.schema = int(schema)

    def has(self, command: str) -> bool:
        """Tell whether this version has a command."""
        return command in self._commands

    def command(self, name: str) -> list[str]:
        """Return a command's line, as its console script would run it."""
        module, _, function = self._commands[name].partition(":")
        script = f"import sys; from {module} import {function} as main; sys.argv[0] = {name!r}; "
        return [sys.executable, "-W", "ignore", "-c", script + "sys.exit(main())"]

    def process(self, name: str, arguments: Sequence[str], log: Path) -> servers.Process:
        """Start a command."""
        # where it starts is the first place that it imports from
        return servers.Process(
            [*self.command(name), *arguments], log, self.environment, self._folder
        )

    def run(self, *arguments: str) -> str:
        """Run Python with these arguments in the tree, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=self._folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MOST,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {done.stderr[-2000:]}"
        return done.stdout

    def call(self, name: str, *arguments: str) -> str:
        """Run a command to its end, and return what it prints."""
        return self.run(*self.command(name)[3:], *arguments)

    def weights(self, config: Path, image: str) -> dict[str, float]:
        """Return host -> weight by Nova's code and this version's weigher."""
        found: dict[str, Any] = json.loads(self.run(weighing.__file__, str(config), image))
        assert Path(found["code"]).is_relative_to(self._folder), found
        return dict(found["weights"])


def export(version: Version, folder: Path) -> Tree:
    """Write an older version's tree into a folder of its own."""
    name = version.revision
    if re.fullmatch(r"[0-9a-f]{40}", name):
        name = git("rev-parse", "--short", name).decode().strip()
    tree = folder / "tree"
    tree.mkdir()
    archive = git("archive", "--format=tar", version.revision)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True, timeout=MOST)
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "egg_info"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=MOST)
    return Tree(name, tree, folder / "cache")


def present(folder: Path) -> Tree:
    """Return this checkout's programs, committed or not; what they keep is in a folder."""
    return Tree("present", ROOT, folder / "cache")


class Consumer(program.Program):
    """A version's consumer."""

    def __init__(self, tree: Tree, folder: Path, text: str) -> None:
        """Take where it writes its log, and its configuration."""
        super().__init__(folder, text, name=f"consumer-{tree.name}")
        self._tree = tree

    def start(self) -> Consumer:
        """Start it."""
        arguments = ["--config-file", str(self.config)]
        self.process = self._tree.process("bus-cache-consumer", arguments, self.log)
        return self


class Host(compute_host.Host):
    """A compute host on which a version's agent runs."""

    def __init__(self, tree: Tree, rabbit: servers.RabbitMQ, folder: Path, name: str) -> None:
        """Take a folder of its own."""
        folder.mkdir()
        super().__init__(rabbit, folder, name)
        self._tree = tree

    def start(self) -> servers.Process:
        """Start the agent."""
        self.agent = self._tree.process("bus-cache-agent", self.arguments, self.log)
        return self.agent
