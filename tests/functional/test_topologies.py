"""Every way to reach Redis, for all three who do: the consumer's program, the command line, the
weigher.

With the users of etc/redis/users.acl wherever there are users. With TLS: who is refused, and how
that is said.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nova.conf
import pytest

import weigher
from bus_cache import connect, names
from bus_cache.cli.main import main
from bus_cache.index.changes import Held, HostDeleted, Source
from bus_cache.index.writer import Unavailable, Writer
from consumers import service
from tests import servers
from tests.certificates import Authority
from tests.program import Program, configuration, wait_for

USERS = (Path(__file__).parents[2] / "etc" / "redis" / "users.acl").read_text().splitlines()
WEIGHER, CONSUMER, CLI = "bus-cache-weigher", "bus-cache-consumer", "bus-cache-cli"
DEFAULT = "user default on nopass ~* &* +@all"
IMAGE = "image-1"


class Server(servers.Redis):
    """A Redis with our users, by TLS where files are given."""

    def __init__(self, folder: Path, *arguments: str, tls: tuple[Path, Path, Path] | None = None):
        super().__init__(*arguments)
        self._tls = tls
        self._acl = folder / f"{self.port}.acl"
        self._acl.write_text("\n".join([DEFAULT, *(f"{each} >secret" for each in USERS)]) + "\n")

    def _command(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super()._command()
        command += ["--aclfile", str(self._acl)]
        return command + tls_arguments(command, self.port, self._tls), environment

    def client(self, **options: Any) -> Any:
        return super().client(protocol=2, **tls_options(self._tls), **options)


def tls_arguments(
    command: list[str], port: int, files: tuple[Path, Path, Path] | None
) -> list[str]:
    if files is None:
        return []
    command[command.index("--port") + 1] = "0"
    names_of = ("--tls-ca-cert-file", "--tls-cert-file", "--tls-key-file")
    found = [word for pair in zip(names_of, map(str, files), strict=True) for word in pair]
    return ["--tls-port", str(port), *found, "--tls-replication", "yes", "--tls-cluster", "yes"]


def tls_options(files: tuple[Path, Path, Path] | None) -> dict[str, Any]:
    if files is None:
        return {}
    ca, certificate, key = map(str, files)
    return {"ssl": True, "ssl_ca_certs": ca, "ssl_certfile": certificate, "ssl_keyfile": key}


class Sentinel(servers.Sentinel):
    """Only its user ``bus-cache`` may ask it."""

    def __init__(self, master: Server, tls: tuple[Path, Path, Path] | None) -> None:
        super().__init__(
            master.port,
            "user default on nopass -@all +ping +hello",
            "user bus-cache on >of-sentinel -@all +sentinel|masters",
        )
        self._tls = tls
        if tls is not None:
            ca, certificate, key = tls
            self.lines += [
                *("port 0", f"tls-port {self.port}", f"tls-ca-cert-file {ca}"),
                *(f"tls-cert-file {certificate}", f"tls-key-file {key}", "tls-replication yes"),
            ]

    def client(self, **options: Any) -> Any:
        return super().client(protocol=2, **tls_options(self._tls), **options)


# -- who reaches it ----------------------------------------------------------------------------


def write_conf(folder: Path, url: str, more: str) -> Path:
    path = folder / "one.conf"
    path.write_text(configuration("memory://", f"{url}\n{more}"))
    return path


def by_consumer(folder: Path, url: str, more: str = "") -> None:
    """Its own program reaches Redis, and what it does is done."""
    name = f"consumer-{len(list(folder.iterdir()))}"  # each with a log of its own
    consumer = Program(folder, configuration("memory://", f"{url}\n{more}"), name).start()
    try:
        consumer.said("Redis (for memory://): in use")
    finally:
        consumer.kill()
    conf = service.load(["--config-file", str(write_conf(folder, url, more))])
    writer = service.writer(conf)
    assert writer.apply([Held("h1", IMAGE, 1, Source.CREATE)]) == []
    assert writer.eviction() == ""


def by_cli(folder: Path, url: str, more: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what it says went wrong, or nothing."""
    capsys.readouterr()
    config = write_conf(folder, url, more)
    code = main(["image", "show", IMAGE, "-f", "json", "--config-file", str(config)])
    answer = capsys.readouterr()
    if code:
        assert answer.err.count("\n") == 1, answer.err
        return answer.err
    assert [row["host"] for row in json.loads(answer.out)["hosts"]] == ["h1"]
    main(["doctor", "-f", "json", "--config-file", str(config)])
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    for check in ("redis", "redis rights", "redis clock"):
        assert rows[check]["verdict"] == "ok", rows
    return ""


@contextlib.contextmanager
def configured(folder: Path, url: str, more: str) -> Iterator[None]:
    path = folder / "nova.conf"
    path.write_text(
        f"[bus_cache]\nredis_url = {url}\n{more}\n[image_cache_weigher]\ntime_budget = 10\n"
    )
    nova.conf.CONF([], project="nova", default_config_files=[str(path)])
    try:
        yield
    finally:
        nova.conf.CONF([], project="nova", default_config_files=[])


def by_weigher(folder: Path, url: str, more: str, caplog: pytest.LogCaptureFixture) -> str:
    """Return what it says went wrong, or nothing."""
    caplog.clear()
    idle = {"num_io_ops": 0, "free_ram_mb": 1, "num_instances": 0, "aggregates": []}
    hosts = [SimpleNamespace(obj=SimpleNamespace(host=each, **idle)) for each in ("h1", "x")]
    spec = SimpleNamespace(is_bfv=False, image=SimpleNamespace(id=IMAGE, size=2**33))
    with configured(folder, url, more):
        found = weigher.ImageCacheWeigher().weigh_objects(hosts, spec)  # type: ignore[arg-type]
    if found == [1.0, 0.0]:
        return ""
    assert found == [0.0, 0.0]
    [said] = [each.getMessage() for each in caplog.records if each.levelname != "INFO"]
    assert said.startswith("Cached images weigh nothing until ")
    return said


def in_consumer(folder: Path, url: str, more: str) -> str:
    """Return what its log would say is wrong, or nothing."""
    conf = service.load(["--config-file", str(write_conf(folder, url, more))])
    try:
        service.writer(conf).check()
    except Unavailable as error:
        return str(error)
    return ""


Reach = Callable[..., None]


@pytest.fixture
def reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Reach:
    """Return what has all three reach a Redis; ``url`` takes what stands before the first host."""

    def all_three(url: str, more: str = "", users: bool = True) -> None:
        consumer, cli, weighing = (
            url.replace("USER", f"{name}:secret@" if users else "")
            for name in (CONSUMER, CLI, WEIGHER)
        )
        by_consumer(tmp_path, consumer, more)
        assert by_cli(tmp_path, cli, more, capsys) == ""
        assert by_weigher(tmp_path, weighing, more, caplog) == ""

    return all_three


@pytest.fixture
def complaints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[str, str], list[str]]:
    """Return what has each of the three say what is wrong."""

    def all_three(url: str, more: str) -> list[str]:
        consumer, cli, weighing = (
            url.replace("USER", f"{name}:secret@") for name in (CONSUMER, CLI, WEIGHER)
        )
        return [
            in_consumer(tmp_path, consumer, more),
            by_cli(tmp_path, cli, more, capsys),
            by_weigher(tmp_path, weighing, more, caplog),
        ]

    return all_three


def used(*running: Any) -> set[str]:
    """Return the commands that servers executed, the tests' own excepted."""
    found: set[str] = set()
    for each in running:
        with each.client() as raw:
            rows = raw.info("commandstats")
        found |= {name.removeprefix("cmdstat_") for name in rows}
    return found


# -- one server --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [servers.Redis, servers.Valkey])
def test_one_server_and_its_socket(kind: type[servers.Redis], reach: Reach) -> None:
    """Without users; then by its unix socket, with a password, in another database."""
    with kind("--unixsocket", "here.sock") as server:
        reach(server.url, users=False)
        with server.client() as raw:
            raw.config_set("requirepass", "p@ss:/ %")
        path = server.directory / "here.sock"
        reach(f"unix://:p%40ss%3A%2F%20%25@{path}?db=3", users=False)


def test_users_and_passwords(tmp_path: Path, reach: Reach) -> None:
    with Server(tmp_path) as server:
        reach(f"redis://USER127.0.0.1:{server.port}/0")


# -- TLS ---------------------------------------------------------------------------------------


class Tls:
    """An authority of our Redis', and one of nobody's."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.other = Authority(folder), Authority(folder, "other")
        self.server = (self.ours.file, *self.ours.sign("server"))
        self.client = (self.ours.file, *self.ours.sign("client"))
        self.stranger = (self.ours.file, *self.other.sign("stranger"))

    def options(self, files: tuple[Path, Path, Path] | None = None) -> str:
        """Return our options for these files: authority, certificate, key."""
        ca, certificate, key = files or self.client
        return f"tls_ca_file = {ca}\ntls_cert_file = {certificate}\ntls_key_file = {key}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


def test_tls_with_client_certificates(tmp_path: Path, tls: Tls, reach: Reach) -> None:
    with Server(tmp_path, tls=tls.server) as server:
        reach(f"rediss://USER127.0.0.1:{server.port}/0", tls.options())


Complaints = Callable[[str, str], list[str]]


_CUT = "does it ask for a client certificate?", "broken pipe", "reset by peer"
"""What a client sees whose certificate is refused, if it writes before it has read why."""


def assert_said(said: list[str], *words: str) -> None:
    for line in said:
        assert any(word in line.lower() for word in words), line
        assert "secret" not in line
        assert "\n" not in line.rstrip("\n")


def test_who_is_refused_by_tls(tmp_path: Path, tls: Tls, complaints: Complaints) -> None:
    """Another authority, another name, a time that is over, no or another client certificate."""
    url = "rediss://USER127.0.0.1:{}/0"
    with Server(tmp_path, tls=tls.server) as server:
        here = url.format(server.port)
        ours, certificate, key = tls.client
        said = complaints(here, tls.options((tls.other.file, certificate, key)))
        assert_said(said, "certificate verify failed")
        said = complaints(here.replace("127.0.0.1", "localhost"), tls.options())
        assert_said(said, "hostname mismatch")
        assert_said(complaints(here, f"tls_ca_file = {ours}"), "certificate required", *_CUT)
        said = complaints(here, tls.options(tls.stranger))
        assert_said(said, "unknown ca", *_CUT)
        said = complaints(here, "")
        assert_said(said, "certificate verify failed")
        said = complaints(here.replace("rediss", "redis"), "")
        assert_said(said, "connection closed by server", "reset")
    past = (tls.ours.file, *tls.ours.sign("past", left=-datetime.timedelta(hours=1)))
    with Server(tmp_path, tls=tls.server) as server:
        with server.client() as raw:
            raw.config_set("tls-cert-file", str(past[1]), "tls-key-file", str(past[2]))
        said = complaints(url.format(server.port), tls.options())
        assert_said(said, "certificate has expired")


# -- Sentinel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_sentinel(
    tmp_path: Path, tls: Tls, reach: Reach, complaints: Complaints, secure: bool
) -> None:
    """With credentials of its own; the first one that is named is down."""
    files = tls.server if secure else None
    scheme, options = ("rediss", tls.options()) if secure else ("redis", "")
    with Server(tmp_path, tls=files) as server, Sentinel(server, files) as sentinel:
        nobody = servers.free_port()
        url = f"{scheme}+sentinel://USER127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/mymaster/0"
        own = "sentinel_username = bus-cache\nsentinel_password = of-sentinel\n"
        reach(url, own + options)
        said = complaints(url, "sentinel_password = wrong-one\n" + options)
        assert_said(said, "no master found for 'mymaster'")
        if secure:
            wrong = tls.options((tls.other.file, *tls.client[1:]))
            assert_said(complaints(url, own + wrong), "no master found for 'mymaster'")


# -- Cluster -----------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(folder: Path, files: tuple[Path, Path, Path] | None) -> Iterator[tuple[Any, Any]]:
    """Run two nodes; the first has all slots but one."""

    def node() -> Server:
        bus = servers.free_port()
        return Server(folder, "--cluster-enabled", "yes", "--cluster-port", str(bus), tls=files)

    with node() as one, node() as two, one.client() as first, two.client() as second:
        first.execute_command("CLUSTER", "ADDSLOTSRANGE", 1, 16383)
        second.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 0)
        bus = two.arguments[two.arguments.index("--cluster-port") + 1]
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, bus)
        for each in (first, second):
            wait_for(lambda each=each: "cluster_state:ok" in str(info(each)))
            wait_for(lambda each=each: "cluster_slots_assigned:16384" in str(info(each)))
        yield one, two


def info(raw: Any) -> Any:
    return raw.execute_command("CLUSTER", "INFO")


def begin_to_move(one: Server, two: Server) -> None:
    """Have our slot be on its way to the second node, and the image's key there already."""
    key = names.Keys("bus_cache").image(names.fingerprint(IMAGE))
    with one.client() as first, two.client() as second:
        slot = first.execute_command("CLUSTER", "KEYSLOT", key)
        ids = [each.execute_command("CLUSTER", "MYID").decode() for each in (first, second)]
        second.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        first.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        first.execute_command("MIGRATE", "127.0.0.1", two.port, "", 0, 5000, "KEYS", key)


def test_while_the_slot_moves_nothing_is_refused(tmp_path: Path) -> None:
    """What can't be written meanwhile is waited for, and never taken for impossible."""
    with cluster(tmp_path, None) as (one, two):
        where = connect.parse(f"redis+cluster://127.0.0.1:{one.port}")
        writer = Writer(connect.connect(where, connect_timeout=5, read_timeout=5), "bus_cache")
        now = int(time.time() * 1000)
        writer.apply([Held("h1", IMAGE, now - 1000, Source.CREATE)])
        begin_to_move(one, two)
        for change in (Held("h2", "image-2", now, Source.CREATE), HostDeleted("h1", now)):
            with pytest.raises(Unavailable):
                writer.apply([change])


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_cluster(
    tmp_path: Path, tls: Tls, reach: Reach, complaints: Complaints, secure: bool
) -> None:
    """The first node that is named is down; and our keys are on their way to another node."""
    files = tls.server if secure else None
    scheme, options = ("rediss", tls.options()) if secure else ("redis", "")
    with cluster(tmp_path, files) as (one, two):
        nobody = servers.free_port()
        url = f"{scheme}+cluster://USER127.0.0.1:{nobody},127.0.0.1:{one.port},127.0.0.1:{two.port}"
        reach(url, options)
        granted = {word[1:] for line in USERS for word in line.split() if word[0] == "+"}
        only = {"cluster|slots", "command"}
        assert only <= used(one, two) & granted
        if secure:
            wrong = tls.options((tls.other.file, *tls.client[1:]))
            alone = f"{scheme}+cluster://USER127.0.0.1:{one.port}"
            assert_said(complaints(alone, wrong), "certificate verify failed")
            return
        begin_to_move(one, two)
        weighing = url.replace("USER", f"{WEIGHER}:secret@")
        assert complaints(weighing, "")[2] == ""
        assert "asking" in used(two)
