"""What an operator installs: sdist, wheel, and units with which systemd finds nothing wrong."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import bus_cache
from tests import keyspace, publisher, servers
from tests.program import configuration, wait_for

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "etc/systemd").glob("*.service"))
BUILD = "import sys; from setuptools import build_meta as b; b.{}(sys.argv[1])"
LEFT_OUT = shutil.ignore_patterns(".venv", ".git", ".*_cache", ".hypothesis", "build", "*.egg-info")
FULL_PINS = "3.11"
"""The oldest Python for which constraints.txt holds; see the Makefile."""
MOST_EXPOSED = 20
"""Of 100, as ``systemd-analyze security`` counts; many units have more than 90."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the sdist of a checkout, and the wheel of what that sdist holds."""
    folder = tmp_path_factory.mktemp("build")
    checkout = shutil.copytree(ROOT, folder / "checkout", ignore=LEFT_OUT)
    python(checkout, BUILD.format("build_sdist"), folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    python(folder / sdist.name.removesuffix(".tar.gz"), BUILD.format("build_wheel"), folder)
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def python(where: Path, code: str, *arguments: Path) -> None:
    """Run a line of Python in a folder."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        cwd=where,
        check=True,
        capture_output=True,
    )


def files(*folders: str) -> set[str]:
    """Return what a checkout has there."""
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_sdist_has_all_that_the_checkout_has(built: dict[str, Path]) -> None:
    """It can be built, tested and documented from."""
    with tarfile.open(built["sdist"]) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files(
        "bus_cache", "consumers", "weigher", "etc", "docs", "tests", "tools", "simulator"
    )
    assert wanted - found == set()
    for name in ("LICENSE", "README.md", "Makefile", "constraints.txt", "setup.py"):
        assert name in found


def test_the_wheel_has_what_runs_and_what_is_copied_to_etc(built: dict[str, Path]) -> None:
    """And man pages; but no tests or tools, which would lie beside an environment's packages."""
    with zipfile.ZipFile(built["wheel"]) as archive:
        found = set(archive.namelist())
    code = {name for name in found if ".dist-info/" not in name and ".data/" not in name}
    assert code == files("bus_cache", "consumers", "weigher")
    shared = {name.partition(".data/data/share/bus_cache/")[2] for name in found} - {""}
    copied = {name.removeprefix("etc/").removeprefix("bus_cache/") for name in files("etc")}
    elsewhere = {name for name in copied if name.startswith(("oslo-config", "container/", "man/"))}
    assert shared == copied - elsewhere
    manual = {name.partition(".data/data/share/man/")[2] for name in found} - {""}
    assert manual == {"man1/bus-cache.1", "man8/bus-cache-agent.8", "man8/bus-cache-consumer.8"}


def test_the_wheel_installs_and_says_its_version(built: dict[str, Path], tmp_path: Path) -> None:
    """Without what the extras bring: that is taken from this environment."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", home / "bin/python"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", built["wheel"]], check=True)
    (packages,) = (home / "lib").glob("*/site-packages")
    (ours,) = (Path(sys.prefix) / "lib").glob("*/site-packages")
    (packages / "ours.pth").write_text(f"{ours}\n")
    for program in ("bus-cache", "bus-cache-consumer", "bus-cache-agent"):
        command = [home / "bin" / program, "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert bus_cache.__version__ in said.stdout
    assert (home / "share/bus_cache/systemd/bus-cache-agent.service").is_file()


# -- the units -------------------------------------------------------------------------------


def settings(unit: Path) -> configparser.SectionProxy:
    """Return what is in a unit's ``[Service]``; of what stands there twice the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser["Service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    """With our programs where they are here."""
    here = tmp_path / unit.name
    binaries = Path(sys.executable).parent
    here.write_text(unit.read_text().replace("/opt/bus-cache/bin", str(binaries)))
    verify = ["systemd-analyze", "verify", "--man=no", here]
    said = subprocess.run(verify, capture_output=True, text=True, check=False)
    complaints = [line for line in said.stderr.splitlines() if unit.name in line]
    assert (said.returncode, complaints) == (0, [])
    security = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", here]
    said = subprocess.run(security, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout[-500:]


def test_users_and_folders(tmp_path: Path) -> None:
    """What systemd makes of them, in a root of its own."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/group").write_text("root:x:0:\nnova:x:990:\n")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    users = sorted((ROOT / "etc/sysusers.d").glob("*.conf"))
    subprocess.run(["systemd-sysusers", f"--root={root}", *users], check=True)
    assert re.search(r"^bus-cache:", (root / "etc/passwd").read_text(), re.MULTILINE)
    assert re.search(r"^nova:.*:bus-cache$", (root / "etc/group").read_text(), re.MULTILINE)
    folders = ROOT / "etc/tmpfiles.d/bus-cache.conf"
    subprocess.run(["systemd-tmpfiles", "--create", f"--root={root}", folders], check=True)
    for name in ("etc/bus_cache", "var/lib/bus_cache"):
        assert (root / name).stat().st_mode & 0o777 == 0o750


LAUNCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for option, value in ((38, 1), (65, 1)):  # PR_SET_NO_NEW_PRIVS, PR_SET_MDWE
    if libc.prctl(option, value, 0, 0, 0) and ctypes.get_errno() != 22:  # an older kernel
        sys.exit(f"prctl {option} failed")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def hardened(
    tmp_path: Path, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> Iterator[Path]:
    """A consumer with what of its unit the kernel enforces by itself; yields its log."""
    config, log = tmp_path / "bus_cache.conf", tmp_path / "log"
    config.write_text(configuration(rabbit.url, redis_server.url))
    program = Path(sys.executable).with_name("bus-cache-consumer")
    command = [sys.executable, "-c", LAUNCH, str(program), "--config-file", str(config)]
    process = servers.Process(command, log)
    yield log
    assert process.stop() == 0


def test_the_consumer_works_where_nothing_becomes_executable(
    hardened: Path, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """``MemoryDenyWriteExecute`` breaks programs that generate code; this one does not."""
    unit = settings(next(each for each in UNITS if "consumer" in each.name))
    assert unit["MemoryDenyWriteExecute"] == unit["NoNewPrivileges"] == "yes"
    wait_for(lambda: ": reading " in hardened.read_text())
    cloud = publisher.Publisher(rabbit.url)
    cloud.created("h1", "image-1")
    cloud.close()
    wait_for(lambda: keyspace.sets(redis_server.client()))


# -- the container's recipe ------------------------------------------------------------------


def test_the_containerfile_names_what_there_is() -> None:
    """It can't be built here; what it copies, installs and runs must at least exist."""
    text = (ROOT / "etc/container/Containerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    assert [name for name, _ in steps] == ["FROM", "COPY", "RUN", "USER", "CMD"]
    ours = importlib.metadata.distribution("bus-cache")
    said = dict(steps)
    (extras,) = re.findall(r"/src\[(.*)\]", said["RUN"])
    assert set(extras.split(",")) <= set(ours.metadata.get_all("Provides-Extra"))
    assert (ROOT / re.findall(r"--constraint /src/(\S+)", said["RUN"])[0]).is_file()
    assert json.loads(said["CMD"])[0] in ours.entry_points.select(group="console_scripts").names
    assert re.search(rf"useradd --uid {said['USER']}\b", said["RUN"])
    assert said["FROM"].endswith(f"python:{FULL_PINS}-slim")
