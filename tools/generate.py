"""Writes the files that are generated from the code, or checks that they are up to date."""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from bus_cache.cli import app

ROOT = Path(__file__).parent.parent
METRICS = "docs/metrics.md"
COMMANDS = """\
# Command line reference

Generated: what `bus-cache help COMMAND` prints. Commands that write: `sync` on an
empty index or with `--repair`, `replay` and `flush`. `record` and `doctor` declare a queue of their
own on the bus for as long as they run.
"""


def sample(generator: str) -> str:
    """Return what oslo-config-generator makes of one of its configuration files."""
    with tempfile.NamedTemporaryFile() as out:
        command = Path(sys.executable).with_name("oslo-config-generator")
        subprocess.run(
            [command, "--config-file", ROOT / generator, "--output-file", out.name], check=True
        )
        return Path(out.name).read_text()


def metrics_reference() -> str:
    """Return docs/metrics.md: its text, with the tables of what programs export."""
    with warnings.catch_warnings():  # oslo.messaging's imports speak of eventlet
        warnings.simplefilter("ignore")
        from bus_cache.agent import metrics as agent  # noqa: PLC0415
        from consumers import metrics as consumer  # noqa: PLC0415
        from weigher import textfile as weigher  # noqa: PLC0415
    text = (ROOT / METRICS).read_text()
    tables = {"consumer": consumer, "agent": agent, "weigher": weigher}
    for program, module in tables.items():
        rows = ["| metric | type | labels | what it is |", "| --- | --- | --- | --- |"]
        for each in module.METRICS:
            labels = ", ".join(f"`{label}`" for label in each.labels)
            rows.append(f"| `{each.name}` | {each.kind} | {labels} | {each.help} |")
        begin, end = f"<!-- {program}: generated -->\n", f"<!-- {program}: end -->\n"
        head, _, rest = text.partition(begin)
        text = head + begin + "\n".join(rows) + "\n" + end + rest.partition(end)[2]
    return text


def commands() -> str:
    """Return the page of the command line: each command's own help."""
    program = Path(sys.executable).with_name("bus-cache")
    parts = [COMMANDS]
    for name in ("", *app.COMMANDS):
        said = subprocess.run(
            [program, "help", *name.split()],
            env={**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        parts.append(f"## bus-cache {name}".rstrip() + f"\n\n```text\n{said.strip()}\n```\n")
    return "\n".join(parts)


@functools.cache
def man_pages() -> dict[str, str]:
    """Return the man pages by name."""
    with tempfile.TemporaryDirectory() as made:
        options = ["-q", "-W", "-b", "man", "-d", f"{ROOT}/build/docs/trees"]
        subprocess.run([sys.executable, "-m", "sphinx", *options, f"{ROOT}/docs", made], check=True)
        return {page.name: page.read_text() for page in Path(made).glob("*.[18]")}


def man_page(name: str) -> str:
    """Return a man page, without the comments, which name docutils' version."""
    return re.sub(r'^\.\\".*\n', "", man_pages()[name], flags=re.MULTILINE)


GENERATORS: dict[str, Callable[[], str]] = {
    METRICS: metrics_reference,
    "docs/commands.md": commands,
    "etc/bus_cache/bus_cache.conf.sample": functools.partial(
        sample, "etc/oslo-config-generator/bus_cache.conf"
    ),
    "etc/bus_cache/nova.conf.sample": functools.partial(
        sample, "etc/oslo-config-generator/nova.conf"
    ),
    **{
        f"etc/man/{name}": functools.partial(man_page, name)
        for name in ("bus-cache.1", "bus-cache-agent.8", "bus-cache-consumer.8")
    },
}


def main() -> int:
    """Run the command; 1 where ``--check`` finds a stale file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where stale")
    check = parser.parse_args().check
    stale = []
    texts = {path: generator() for path, generator in GENERATORS.items()}
    for path, text in texts.items():
        target = ROOT / path
        if target.exists() and target.read_text() == text:
            continue
        stale.append(path)
        if not check:
            target.write_text(text)
    if stale:
        print(("stale, run 'make format': " if check else "written: ") + ", ".join(stale))
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
