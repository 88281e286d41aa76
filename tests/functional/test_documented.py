"""Every command line in README and docs is run here as it stands, or is excused with its reason.

A line that is new in the documentation is run, and fails here where it fails there. What it names
of an operator's (hosts, files, passwords) is replaced by this test's own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import amqp
import msgpack
import pytest
import setuptools

from bus_cache import names
from tests import publisher, servers
from tests.chaos.nova_api import NovaApi
from tests.compute_host import Host
from tests.functional.test_install import LEFT_OUT
from tests.program import PATIENCE, Program, configuration, wait_for

ROOT = Path(__file__).parents[2]
OURS = importlib.metadata.metadata("bus-cache")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

EXCUSED = {
    "chronyc tracking": "needs chronyd, which sets this machine's clock",
    "git tag -s VERSION": "needs a maintainer's key",
    "journalctl -u": "needs systemd as process 1",
    "kolla-ansible": "needs a cloud that Kolla-Ansible made",
    "make demo": "tests/functional/test_demo.py runs it",
    "openstack compute service delete": "needs a cloud, and a compute service to lose",
    "podman run": "needs a container engine",
    "python -m build": "fetches a builder; tests/functional/test_install.py builds without one",
    "rabbitmqadmin": "needs RabbitMQ's management plugin",
    "ssh -L": "needs another machine",
    "systemctl": "needs systemd as process 1",
}
"""How a line that can't be run here begins -> why."""

TRIED = (
    *("[", "cd", "export", "grep", "install", "printf", "read", "sh", "sha256sum"),
    *("bus-cache", "bus-cache-agent", "bus-cache-consumer", "make", "pip", "python", "python3"),
    *("curl", "git", "jq", "rabbitmqctl", "redis-cli", "reno"),
    *("systemd-analyze", "systemd-sysusers", "systemd-tmpfiles", "usermod"),
)
"""Programs that :meth:`Scene.own` keeps from what is this machine's; a line with another fails."""

OPTIONAL = ("curl", "git", "jq", "reno")
"""What ``make test`` does not install: a line that needs one is skipped where it is absent."""

# -- what is documented ------------------------------------------------------------------------

FENCED = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(
    r"(bus-cache[a-z-]*|chronyc|curl|docker|git|journalctl|kolla-ansible|make|openstack|pip|podman"
    r"|promtool|\S*python3?|rabbitmq[a-z-]+|redis-cli|reno|sh|ssh|systemctl|systemd-[a-z]+|usermod"
    r"|valkey-cli) \S"
)
"""How a command line begins among words in backticks; a name alone is none."""


class Line(NamedTuple):
    """A command line, without prompt and remark; the folder that a ``cd`` before it names."""

    text: str
    folder: str
    page: str


def in_console(block: str) -> Iterator[tuple[str, str]]:
    """Yield what is typed at a prompt, and in which folder."""
    folder = ""
    for typed in re.findall(r"^ *[$#] (.*)", block.replace("\\\n", " "), re.MULTILINE):
        text = " ".join(re.sub(r"\s#\s.*", "", typed).split())
        yield text, folder
        folder = text.removeprefix("cd ") if text.startswith("cd ") else folder


def in_help(block: str) -> Iterator[str]:
    """Yield the examples of a command's help, which remarks follow behind three spaces."""
    _, _, examples = re.sub(r"\\\n +", "", block).partition("examples:\n")
    for each in re.findall(r"^  (\S.*)", examples.partition("\n\n")[0], re.MULTILINE):
        yield re.split(r"\s{3,}", each)[0]


def documented() -> Iterator[Line]:
    """Yield all lines of all pages, those that stand there twice once."""
    found = set()
    for path in PAGES:
        page, text = str(path.relative_to(ROOT)), path.read_text()
        lines: list[tuple[str, str]] = []
        for _, language, block in FENCED.findall(text):
            if language == "console":
                lines += in_console(block)
            elif language == "text":
                lines += [(each, "") for each in in_help(block)]
        spans = [" ".join(each.split()) for each in SPAN.findall(FENCED.sub("", text))]
        lines += [(each.replace("\\|", "|"), "") for each in spans if COMMAND.match(each)]
        for each in lines:
            if each not in found:
                found.add(each)
                yield Line(*each, page)


LINES = list(documented())
RUN = [each for each in LINES if not each.text.startswith(tuple(EXCUSED))]


def test_no_excuse_is_left_over() -> None:
    """Each is for a line that is documented."""
    texts = [each.text for each in LINES]
    assert [each for each in EXCUSED if not any(text.startswith(each) for text in texts)] == []


def test_no_prompt_is_overlooked() -> None:
    """Lines to type stand in blocks that are read here."""
    for path in PAGES:
        for _, language, block in FENCED.findall(path.read_text()):
            assert language not in ("bash", "sh", "shell"), path
            assert language == "console" or not re.search(r"^ *\$ ", block, re.MULTILINE), path


# -- what the documentation takes for granted --------------------------------------------------

IMAGE = "7a1ee65c-0dd8-4b9b-9f1c-6a5b2f0c5d11"
FINGERPRINT = bytes.fromhex(names.fingerprint(IMAGE))
HOST, AGENTS_HOST, ANOTHER = "cmp1", "cmp2", "cmp3"
USERS = ("bus-cache-consumer", "bus-cache-agent", "nova")
TYPED = "yes"
"""What is typed at each line: a consent, or a password."""

NOVA = """\
[DEFAULT]
host = {host}
compute_driver = libvirt.LibvirtDriver
state_path = {folder}
transport_url = {rabbit}
[agent]
state_path = {folder}
[notifications]
notification_format = versioned
[oslo_messaging_notifications]
driver = messagingv2
retry = 3
[filter_scheduler]
weight_classes = nova.scheduler.weights.all_weighers,weigher.ImageCacheWeigher
[bus_cache]
redis_url = {redis}
"""


class Scene:
    """A checkout, an operator's machine as a folder, a bus, Redis, Nova's API, consumer and agent.

    :ivar checkout: a copy, since some lines write into it.
    :ivar machine: takes the place of ``/`` where a line names ``/etc``, ``/opt`` or ``/var``.
    """

    def __init__(self, folder: Path, rabbit: servers.RabbitMQ) -> None:
        self.folder, self.rabbit = folder, rabbit
        self._users: set[str] = set()
        self.checkout = shutil.copytree(ROOT, folder / "checkout", ignore=LEFT_OUT)
        self.machine = folder / "machine"
        self._furnish()
        self._builder = self._furnish_builder()
        self.redis = self._redis().start()
        self.address = f"{servers.LOOPBACK}:{servers.free_port()}"
        self.api = NovaApi(lambda: [HOST, AGENTS_HOST], dict)
        self.cloud = publisher.Publisher(rabbit.url)
        self.consumer = self._configure()
        (folder / "agent").mkdir()
        self.agent = Host(rabbit, folder / "agent", AGENTS_HOST)
        self.agent.put(names.fingerprint(IMAGE))
        (folder / "input").write_bytes(b"{}")

    def _furnish(self) -> None:
        """Make the folders and the users that are there before bus-cache."""
        for each in ("etc/tmpfiles.d", "etc/systemd/system", "opt", "var/lib"):
            (self.machine / each).mkdir(parents=True)
        (self.machine / "etc/group").write_text("root:x:0:\nnova:x:990:\n")
        (self.machine / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")

    def _furnish_builder(self) -> Path:
        """Return a folder with what pip would fetch to build bus-cache."""
        folder = self.folder / "builder"
        folder.mkdir()
        for each in Path(setuptools.__file__).parents[1].glob("setuptools*"):
            (folder / each.name).symlink_to(each)
        return folder

    def _redis(self) -> servers.Redis:
        """Return one with our users; a password of each is the user's name."""
        users = (ROOT / "etc/redis/users.acl").read_text().splitlines()
        lines = [f"{each} >{each.split()[1]}" for each in users]
        file = self.folder / "users.acl"
        file.write_text("\n".join(["user default on nopass ~* &* +@all", *lines]) + "\n")
        return servers.Redis("--aclfile", str(file))

    def _url(self, user: str) -> str:
        return self.redis.url.replace("//", f"//{user}:{user}@")

    def _configure(self) -> Program:
        """Write the files of /etc; return the consumer."""
        listen = f"http_listen = {self.address}"
        consumer = configuration(self.rabbit.url, self._url("bus-cache-consumer"), listen)
        cli = f"[bus_cache]\nredis_url = {self._url('bus-cache-cli')}\n"
        region = f"[bus_cache]\nredis_url = {self.redis.url}\nkeyspace = old_region\n"
        own = self.folder / "compute"
        (own / "instances/_base").mkdir(parents=True)
        urls = {"rabbit": self.rabbit.url, "redis": self._url("bus-cache-weigher")}
        (self.folder / "nova.conf").write_text(NOVA.format(host=ANOTHER, folder=own, **urls))
        (self.folder / "cli.conf").write_text(cli)
        (self.folder / "old-region.conf").write_text(region)
        self.api.clouds_yaml(self.folder / "clouds.yaml")
        return Program(self.folder, consumer, "bus_cache")

    def start(self) -> None:
        """Start consumer and agent, and wait until the index has what both say."""
        self.consumer.start().reading()
        self.agent.start()
        self.fill()
        wait_for(lambda: AGENTS_HOST in self._holders())

    def close(self) -> None:
        """End all that was started."""
        if self.agent.agent:
            self.agent.agent.kill()
        self.consumer.kill()
        self.cloud.close()
        self.api.close()
        self.redis.close()

    def _sized(self) -> bool:
        with self.redis.client() as client:
            image = client.hget(names.Keys("bus_cache").images, FINGERPRINT)
        return bool(image and msgpack.unpackb(image)[1])

    def _holders(self) -> set[str]:
        with self.redis.client(decode_responses=True) as client:
            return client.smembers(names.Keys("bus_cache").image(names.fingerprint(IMAGE)))

    def fill(self) -> None:
        """Have a host hold the image, should a line before have emptied the index."""
        if HOST not in self._holders() or not self._sized():
            payload = {"id": IMAGE, "size": 2**31}
            self.cloud.send("image.localhost", "image.activate", payload, exchange="glance")
            self.cloud.created(HOST, IMAGE)
            wait_for(lambda: HOST in self._holders() and self._sized())

    @property
    def environment(self) -> dict[str, str]:
        """Of each line. Nothing of ``make test`` that may run us is in it, such as ``ARGS``."""
        kept = {name: each for name, each in os.environ.items() if name.startswith("COVERAGE_")}
        folders = [str(Path(sys.executable).parent), "/usr/lib/rabbitmq/bin"]
        return {
            **kept,
            **self.rabbit._environment(),
            "PATH": ":".join([*folders, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
            "LANG": "C.UTF-8",
            "OS_CLIENT_CONFIG_FILE": str(self.folder / "clouds.yaml"),
            "OS_CLOUD": "chaos",
        }

    def own(self, text: str) -> str:
        """Return a line with our files, hosts and servers in it."""
        opt = self.machine / "opt/bus-cache/bin"
        ours = Path(setuptools.__file__).parents[1]
        offline = "install --no-index --no-deps --no-build-isolation"
        conf = f"--config-file {self.folder}"
        for pattern, replacement in (
            # as short as can be
            (r"--seconds \d+", ""),
            (r"^bus-cache (doctor|record)", r"\g<0> --seconds 1"),
            # files, where they are here
            (r"(?<!\S)/(etc|opt|var)/", rf"{self.machine}/\1/"),
            (r"^\.venv/bin/", ""),
            (r"--config-file \.\.\.", f"{conf}/bus_cache.conf"),
            (r"(--\w+-(file|conf)) (\S*/)?(?!replay)([\w-]+\.conf)", rf"\1 {self.folder}/\4"),
            (r"^(bus-cache (flush|replay))(?!.*--config)", rf"\1 {conf}/cli.conf"),
            (r"^(bus-cache(-consumer)?) (?!.*--config|--version)", rf"\1 {conf}/bus_cache.conf "),
            # an operator's names
            (r"\bIMAGE\b|067688a2-[0-9a-f-]+", IMAGE),
            (r"-h HOST", f"-h {servers.LOOPBACK}"),
            (r"\bHOST\b|cmp-17", HOST),
            (r"mycloud", "chaos"),
            (r"\bVHOST\b", "/"),
            (r"\bNAME\b", "bus_cache_documented"),
            (r"\bADDRESS\b", self.address),
            (r"\bCOMMAND\b", "image show"),
            (r"TARGET FILE", f"bus_message {self.folder}/input"),
            (r"(--hosts) N", r"\1 3"),
            (r"(--seed) S", r"\1 1"),
            (r"\bREVISION --only SCENARIO\b", "HEAD --only upgrade"),
            (r"\bFILE\b", "trace"),
            (r"\bOUT\b", "out"),
            # servers, and an operator's machine
            (r"^redis-cli", f"redis-cli -p {self.redis.port}"),
            (r"(systemd-sysusers|systemd-tmpfiles)", rf"\1 --root={self.machine}"),
            (r"^systemd-analyze security", r"\g<0> --no-pager --offline=yes etc/systemd/*.service"),
            (r"^usermod", f"usermod --prefix {self.machine}"),
            (r"-g bus-cache", f"-g {os.getgid()}"),
            (r"(\S+/)?\bpip install", f"PYTHONPATH={self._builder} {opt}/pip {offline}"),
            (rf"(?<!\S){opt}/bus-cache", rf"env PYTHONPATH={ours} \g<0>"),
        ):
            text = re.sub(pattern, replacement, text)
        return text

    def run(self, command: str, folder: str = "") -> tuple[int, str]:
        """Run a line as bash does, at a terminal at which somebody types; leave nothing running."""
        master, slave = pty.openpty()
        os.write(master, f"{TYPED}\n".encode())
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder or self.checkout,
            env=self.environment,
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(master)
            os.close(slave)
        return process.returncode, said

    def run_until(self, command: str, said: str) -> tuple[int, str]:
        """Run what goes on until it is told to end, and tell it when it has said something."""
        log = self.folder / "lasting.log"
        log.unlink(missing_ok=True)
        arguments = ["bash", "-c", f"exec {command}"]
        process = servers.Process(arguments, log, self.environment, self.checkout)
        try:
            wait_for(lambda: said in log.read_text() or not process.running)
        finally:
            code = process.stop()
        return code, log.read_text()

    @functools.cached_property
    def faults(self) -> str:
        """What ``make chaos`` can do."""
        return self.run("python -m tests.chaos --list")[1]

    def need(self, line: Line) -> None:
        """Have what a line is about, where lines before it did not leave it behind."""
        if line.text.startswith("bus-cache"):
            self.fill()
        if line.text.startswith("rabbitmqctl"):
            self._declare()
        installed = line.folder or re.search("pip install|/opt/", line.text)
        if installed and "venv" not in line.text and not (self.machine / "opt/bus-cache").exists():
            self._type("python3 -m venv /opt/bus-cache", "/opt/bus-cache/bin/pip install .")
        self._type(*self._missing(line.text))

    def _type(self, *lines: str) -> None:
        for each in lines:
            code, said = self.run(self.own(each))
            assert code == 0, said
            self.note_users(each)

    def note_users(self, line: str) -> None:
        """Keep in mind which of our users a broker has after a line."""
        if added := re.match(r"rabbitmqctl add_user (\S+)", line):
            self._users.add(added[1])
        if deleted := re.match(r"rabbitmqctl delete_user (\S+)", line):
            self._users.discard(deleted[1])

    def _missing(self, line: str) -> Iterator[str]:
        """Yield what is to be typed before a line."""
        if line.startswith("usermod"):
            yield f"systemd-sysusers {self.checkout}/etc/sysusers.d/bus-cache.conf"
        if "replay.conf" in line and not (self.checkout / "replay.conf").exists():
            yield r"printf '[bus_cache]\nkeyspace = bus_cache_replay\n' > replay.conf"
        if line.startswith("bus-cache replay") and not (self.checkout / "bug.recording").exists():
            yield "bus-cache record --seconds 1 bug.recording"
        if clears := re.fullmatch(r"rabbitmqctl clear_operator_policy -p (\S+) (\S+)", line):
            bound = """'^nothing$' '{"max-length-bytes": 1}'"""
            yield f"rabbitmqctl set_operator_policy -p {clears[1]} {clears[2]} {bound}"
        if line == "reno report":
            yield "git init -q && git add releasenotes"
            yield "git -c user.name=a -c user.email=a commit -q -m a"
        if re.search(r"python .*-m simulator ", line):
            yield "python -m simulator.generate --boots 50 --hosts N --seed S FILE"
        for user in USERS:
            if line == f"rabbitmqctl add_user {user}" and user in self._users:
                yield f"rabbitmqctl delete_user {user}"
            needed = re.search(rf"set_permissions|permissions.sh|delete_user {user}", line)
            if needed and user not in self._users:
                yield f"rabbitmqctl add_user {user} a"

    def _declare(self) -> None:
        """Have what Nova declares, and an exchange and a queue to delete."""
        with self.rabbit.connect() as connection:
            channel: amqp.Channel = connection.channel()
            channel.exchange_declare("bus_cache_documented", "topic")
            for each in ("bus_cache_documented", "versioned_notifications.info"):
                channel.queue_declare(each, auto_delete=False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, rabbit: servers.RabbitMQ) -> Iterator[Scene]:
    """One for all lines, which run in the documentation's order."""
    found = Scene(tmp_path_factory.mktemp("documented"), rabbit)
    try:
        found.start()
        yield found
    finally:
        found.close()


# -- each line ---------------------------------------------------------------------------------

LASTING = {"bus-cache-consumer": ": reading ", "bus-cache-agent": "told all"}
"""Program that goes on until it is told to end -> what it says when it works."""

CODES = {"bus-cache doctor": (0, 3), "bus-cache sync": (0, 3)}
"""How a line begins -> its exit codes where nothing fails: 3 is a finding."""

SAYS = {
    "bus-cache --version": r"bus-cache \d",
    "bus-cache host list": HOST,
    "bus-cache image list --limit": IMAGE,
    "bus-cache image show": HOST,
    "curl http://ADDRESS/metrics": "^bus_cache_",
    "make help": r"demo +\w",
    "rabbitmqctl -q list_queues": "bus_cache",
    "rabbitmqctl eval": "^ok$",
    "read -rs password": hashlib.sha256(TYPED.encode()).hexdigest(),
    "redis-cli SMEMBERS": HOST,
}
"""How a line begins -> what it prints, among other things."""

WHOLE = r"simulator(\.generate|\.pictures)? |tests\.fuzz TARGET|.* --(list|help)\b"
"""Modules that run to their end; of others it takes minutes or hours."""

AT_ONCE = {
    "pytest tests/.* -k": ("--collect-only -q", 0, "tests? collected"),
    "tests.releases": ("0", 2, "is none of"),
    "pytest": ("--unknown", 4, "error: unrecognized arguments: --unknown$"),
    "": ("--unknown", 2, "error: unrecognized arguments: --unknown$"),
}
"""Module and arguments -> what makes it end at once, when it has understood what stands before.

argparse names all arguments that it does not know: there must be no other.
"""

RECIPE = re.compile(r"^(?:\w+=\S* )*\S+/bin/python (?:-W \w+ )?-m (\S+)(.*)$", re.MULTILINE)


def of_module(scene: Scene, module: str, arguments: str) -> None:
    """``python -m``: run to its end, or as far as to see that it takes its arguments."""
    called = f"{module} {arguments}"
    end = next(each for start, each in AT_ONCE.items() if re.match(start, called))
    more, wanted, says = ("", 0, "") if re.match(WHOLE, called) else end
    line = Line(f"python -m {called} {more}", "", "")
    scene.need(line)
    code, said = scene.run(scene.own(line.text))
    lacks = re.search(r"\bNo module named '?(\w+)", said)
    if lacks and not (ROOT / lacks[1]).exists():
        pytest.skip(f"{lacks[1]} is not installed")  # of another extra than the tests'
    assert code == wanted, said
    assert re.search(says, said.strip(), re.MULTILINE), said
    for each in re.findall(r"\btests/[\w/.]+", arguments):
        assert (ROOT / each).exists()
    if module == "tests.chaos":  # its parser takes any name
        for each in re.findall(r"--only (\S+)", arguments):
            assert each in scene.faults


def of_make(scene: Scene, line: str) -> None:
    """``make``: the target is there, and what it runs takes the arguments that it is given."""
    code, said = scene.run(line.replace("make ", f"make -n VENV={sys.prefix} ", 1))
    assert code == 0, said
    for module, arguments in RECIPE.findall(said):
        of_module(scene, module, arguments.strip())


def of_shell(scene: Scene, line: Line) -> None:
    """Any other line: it ends as it should, and prints what it is there for."""
    scene.need(line)
    command, folder = scene.own(line.text), scene.own(line.folder)
    program = line.text.split()[0].rpartition("/")[2]
    if program in LASTING and not re.search("--(check-config|version)", line.text):
        code, said = scene.run_until(command, LASTING[program])
        assert LASTING[program] in said, said
    else:
        code, said = scene.run(command, folder)
    scene.note_users(line.text)
    assert code in of(CODES, line.text, (0,)), said
    assert re.search(of(SAYS, line.text, ""), said, re.MULTILINE), said
    assert not re.search(r"Traceback|^ERR |^NOPERM ", said, re.MULTILINE), said
    if installs := re.search(r"pip install '.*\[(.*)\]'", line.text):  # pip takes any name
        assert set(installs[1].split(",")) <= set(OURS.get_all("Provides-Extra"))


def of(table: dict[str, Any], text: str, otherwise: Any) -> Any:
    """Return what a table has for a line."""
    return next((each for start, each in table.items() if text.startswith(start)), otherwise)


def programs(text: str) -> set[str]:
    """Return the programs of a line."""
    words = shlex.shlex(text, posix=True, punctuation_chars="|&;")
    words.whitespace_split = True
    found, first = set(), True
    for each in words:
        if first:
            found.add(each.rpartition("/")[2])
        first = not each.strip("|&;")
    return found


def of_checkout(scene: Scene, line: Line) -> None:
    """``make``, or a module of the checkout: what neither needs nor disturbs the servers."""
    if line.text.startswith("make "):
        of_make(scene, line.text)
    else:
        of_module(scene, *line.text.partition("python -m ")[2].partition(" ")[::2])


OF_CHECKOUT = re.compile(r"make (?!help)|(\.venv/bin/)?python -m ")


@pytest.fixture(scope="module")
def beside(scene: Scene, request: pytest.FixtureRequest) -> Iterator[dict[Line, Future[None]]]:
    """The lines of the checkout, run beside the others: so all take half as long."""
    chosen = [
        each.callspec.params["line"]
        for each in request.session.items
        if hasattr(each, "callspec") and each.path == request.path
    ]
    with ThreadPoolExecutor(1) as pool:
        yield {
            each: pool.submit(of_checkout, scene, each)
            for each in chosen
            if OF_CHECKOUT.match(each.text)
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("line", RUN, ids=lambda line: f"{line.page}: {line.text}")
def test_a_documented_line_works(
    scene: Scene, beside: dict[Line, Future[None]], line: Line
) -> None:
    """It can be run, and does what it is there for."""
    assert programs(line.text) <= set(TRIED), "neither run nor excused"
    for each in programs(line.text) & set(OPTIONAL):
        if not shutil.which(each, path=scene.environment["PATH"]):
            pytest.skip(f"{each} is not installed")
    if line in beside:
        beside[line].result()
    else:
        of_shell(scene, line)
