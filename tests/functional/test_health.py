"""Health of the real consumer: over HTTP, to systemd, and of its configuration before it starts."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bus_cache.web.server import Answer
from consumers import health, service
from tests import servers
from tests.program import Program, configuration, wait_for


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def start(tmp_path: Path, redis_server: servers.Redis) -> Iterator[Callable[[str], Program]]:
    """Start a consumer on a bus."""
    started: list[Program] = []

    def make(url: str) -> Program:
        port = servers.free_port()
        more = f"http_listen = 127.0.0.1:{port}"
        program = Program(tmp_path, configuration(url, redis_server.url, more)).start()
        program.port = port  # type: ignore[attr-defined]
        started.append(program)
        program.said("listening on")
        return program

    yield make
    for each in started:
        each.kill()


def test_ready_while_bus_and_redis_are_there_alive_in_any_case(
    start: Callable[[str], Program], rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    port = start(rabbit.url).port  # type: ignore[attr-defined]
    wait_for(lambda: get(port, "/readyz") == (200, "ready\n"))
    redis_server.stop()
    try:
        # nobody writes, so it is noticed by what is done each second
        _, text = wait_for(lambda: found if (found := get(port, "/readyz"))[0] == 503 else None)
        assert "redis is away" in text
        assert get(port, "/healthz") == (200, "alive\n")
    finally:
        redis_server.start()
    wait_for(lambda: get(port, "/readyz") == (200, "ready\n"))


def test_a_bus_that_is_away_is_named_without_its_password(
    start: Callable[[str], Program],
) -> None:
    nobody = servers.free_port()
    program = start(f"rabbit://somebody:SeKrEt@127.0.0.1:{nobody}/")
    port = program.port  # type: ignore[attr-defined]
    program.said("Waiting for it")
    status, text = get(port, "/readyz")
    assert status == 503
    assert f"rabbit://127.0.0.1:{nobody}/: bus is away" in text
    assert "SeKrEt" not in text
    assert get(port, "/healthz")[0] == 200


class Systemd:
    """What systemd would hear: the socket is the whole of its protocol (sd_notify(3))."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(30)

    def hear(self, text: str) -> str:
        """Wait until it is told something with a text in it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            said = self._socket.recv(10_000).decode()
            if text in said:
                return said
        raise AssertionError(text)

    def silent(self, seconds: float) -> bool:
        """Whether nothing is said for so long, after what was said before."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(10_000):
                pass
        except BlockingIOError:
            pass
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(10_000)
        except TimeoutError:
            return True
        return False


def test_systemd_is_told(
    start: Callable[[str], Program],
    rabbit: servers.RabbitMQ,
    redis_server: servers.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    systemd = Systemd(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    program = start(rabbit.url)
    assert systemd.hear("READY=1") == "READY=1"
    assert "WATCHDOG=1" in systemd.hear("STATUS=all buses are read, and Redis takes writes")
    redis_server.stop()
    systemd.hear("redis is away")
    redis_server.start()
    systemd.hear("STATUS=all buses are read")
    # a child that dies is started anew by its parent, and tells as before
    child = int(wait_for(lambda: children(program))[0])
    os.kill(child, signal.SIGKILL)
    program.reading(2)
    systemd.hear("STATUS=all buses are read")
    # one that hangs says nothing, so that systemd ends it
    child = int(wait_for(lambda: children(program))[0])
    os.kill(child, signal.SIGSTOP)
    time.sleep(0.5)
    assert systemd.silent(2)
    os.kill(child, signal.SIGCONT)
    systemd.hear("WATCHDOG=1")
    assert program.stop() == 0
    assert systemd.hear("STOPPING=1") == "STOPPING=1"


def test_what_hangs_says_where_each_thread_stood(
    start: Callable[[str], Program], rabbit: servers.RabbitMQ
) -> None:
    """``SIGABRT`` is what systemd sends where its watchdog was not told in time."""
    program = start(rabbit.url)
    program.reading()
    os.kill(int(wait_for(lambda: children(program))[0]), signal.SIGABRT)
    program.said("Fatal Python error: Aborted")
    program.said("consumers/consumer.py")
    program.reading(2)


def test_a_program_that_goes_on_after_sigterm_is_told_of_with_its_log(tmp_path: Path) -> None:
    """What is in the log of a test that fails once in months has to tell why."""
    script = "import faulthandler, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    script += "faulthandler.enable(); print('deaf', flush=True); time.sleep(600)"
    process = servers.Process([sys.executable, "-c", script], tmp_path / "log")
    wait_for(lambda: "deaf" in (tmp_path / "log").read_text())
    with pytest.raises(servers.ServerError, match=r"(?s)after SIGTERM:\ndeaf.*Aborted.*line 1 in"):
        process.stop(0.1)
    assert not process.running


def children(program: Program) -> list[str]:
    assert program.process is not None
    threads = Path(f"/proc/{program.process.pid}/task").iterdir()  # a child is its thread's
    return [child for each in threads for child in (each / "children").read_text().split()]


def test_a_consumer_whose_thread_hangs_is_neither_alive_nor_told_of(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    (tmp_path / "x.conf").write_text(configuration("rabbit://u:p@127.0.0.1:1/", "redis://h"))
    (consumer,) = service.consumers(service.load(["--config-file", str(tmp_path / "x.conf")]))
    told = health.Systemd(str(systemd.path), [consumer])
    told._interval = 0.1
    told.start()
    systemd.hear("WATCHDOG=1")
    assert health.alive([consumer]) == Answer.text(200, "alive")
    consumer.measures.turn -= health.STUCK + 1
    time.sleep(0.3)
    assert systemd.silent(1)
    assert health.alive([consumer]).status == health.ready([consumer]).status == 503
    assert b"reading rabbit://127.0.0.1:1/ hangs for 12" in health.alive([consumer]).body
    told.stop()


def test_a_configuration_is_checked_without_connecting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bus_cache.conf"
    arguments = ["--config-file", str(path), "--check-config"]
    good = configuration("rabbit://u:SeKrEt@nowhere/", "redis://:SeKrEt@nowhere:1/0")
    path.write_text(good)
    assert service.main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "reads rabbit://nowhere:5672/",
        "writes redis://nowhere:1/0, keyspace bus_cache",
        "listens on no port",
    ]
    path.write_text(good + "prefetsh = 5\n[bus_cache]\nredis_uri = redis://x\n[nova]\nx = 1\n")
    assert service.main(arguments) == 1
    said = capsys.readouterr()
    assert f"{path}: [consumer] prefetsh is no option of this version" in said.err
    assert f"{path}: [bus_cache] redis_uri is no option" in said.err
    assert said.err.count("no option") == 2
    path.write_text(good + "prefetch = many\n")
    assert service.main(arguments) == 1
    assert "[consumer] prefetch = many can't be used" in capsys.readouterr().err


def test_a_log_file_is_neither_made_by_a_check_nor_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """nova.conf's log_dir counts where that is a first file, and may be absent beside a broker."""
    nova, own = tmp_path / "nova.conf", tmp_path / "bus_cache.conf"
    arguments = ["--config-file", str(nova), "--config-file", str(own)]
    own.write_text(configuration("rabbit://nowhere/", "redis://nowhere:1/0"))
    nova.write_text(f"[DEFAULT]\nlog_dir = {tmp_path}\n")
    assert service.main([*arguments, "--check-config"]) == 0
    assert sorted(tmp_path.iterdir()) == [own, nova]
    nova.write_text("[DEFAULT]\nlog_dir = /nowhere/nova\n")
    assert service.main([*arguments, "--check-config"]) == 0
    capsys.readouterr()
    assert service.main(arguments) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "can't write to a log file: [Errno 2] No such file or directory: '/nowhere/nova" in said


def test_a_mistyped_option_is_told_at_start(
    tmp_path: Path, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    text = configuration(rabbit.url, redis_server.url, "prefetsh = 5")
    program = Program(tmp_path, text).start().reading()
    assert len(program.lines("[consumer] prefetsh is no option of this version")) == 1
    program.kill()
