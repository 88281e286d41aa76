"""``bus-cache record`` and ``replay`` on real servers: a copy of the bus, and what comes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import amqp
import pytest

from consumers import recording
from tests import keyspace, publisher, servers
from tests.functional.test_consumer import truth
from tests.program import Program, configuration, wait_for

MESSAGES = publisher.recorded()


def command(config: Path, *arguments: str) -> list[str]:
    """Return a command line."""
    program = Path(sys.executable).with_name("bus-cache")
    return [str(program), *arguments, "--config-file", str(config)]


def run(config: Path, *arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code and all that it printed."""
    done = subprocess.run(
        command(config, *arguments), capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("options", [[], ["--anonymise"]], ids=["as it is", "anonymised"])
def test_what_is_recorded_is_what_consumers_read(
    tmp_path: Path, rabbit: servers.RabbitMQ, redis_server: servers.Redis, options: list[str]
) -> None:
    """A consumer misses nothing; the replay makes the same index of it; our queue goes."""
    with redis_server.client() as client:
        client.flushall()
    consumer = Program(tmp_path, configuration(rabbit.url, redis_server.url)).start().reading()
    file = tmp_path / "recording"
    recorder = servers.Process(
        command(consumer.config, "record", str(file), f"--messages={len(MESSAGES)}", *options),
        tmp_path / "record.log",
    )
    cloud = publisher.Publisher(rabbit.url)
    try:
        wait_for(lambda: "Ctrl-C ends it" in (tmp_path / "record.log").read_text())
        assert cloud.replay(MESSAGES) == len(MESSAGES)
        wait_for(lambda: not recorder.running)
        with redis_server.client() as client:
            wait_for(lambda: keyspace.sets(client) == truth("both"))
    finally:
        cloud.close()
        recorder.kill()
        consumer.stop()
    assert f"Recorded {len(MESSAGES)} messages." in (tmp_path / "record.log").read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert ".record." not in rabbit.ctl("list_queues", "name")

    code, said = run(consumer.config, "replay", str(file))
    assert (code, f"received {len(MESSAGES)}" in said, "malformed 0" in said) == (0, True, True)
    with redis_server.client() as client:
        found = keyspace.sets(client, "bus_cache_replay")
    if not options:
        assert found == truth("both")
    assert sorted(map(len, found.values())) == sorted(map(len, truth("both").values()))
    code, said = run(consumer.config, "replay", str(file))
    assert (code, "is not empty" in said) == (1, True)


def test_what_goes_wrong_is_a_sentence(
    tmp_path: Path, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """And a file that is there is never overwritten."""
    with redis_server.client() as client:
        client.flushall()
    config = tmp_path / "bus_cache.conf"
    config.write_text(configuration(rabbit.url, redis_server.url))
    junk = tmp_path / "junk"
    junk.write_bytes(b"\xc1")
    nowhere = str(tmp_path / "nowhere")
    away = tmp_path / "away.conf"
    port = servers.free_port()
    away.write_text(configuration(f"rabbit://u:geheim@127.0.0.1:{port}/", redis_server.url))
    for where, arguments, expected in [
        (config, ["record", str(junk)], "is there already"),
        (config, ["record", "--seconds=1", f"{nowhere}/file"], "No such file"),
        (away, ["record", nowhere], "refused"),
        (config, ["replay", nowhere], "No such file"),
        (config, ["replay", str(junk)], "it is broken"),
        (config, ["replay", str(junk), "--keyspace", "a b"], "can't be a keyspace"),
    ]:
        code, said = run(where, *arguments)
        assert (code, expected in said) == (1, True), said
        assert "Traceback" not in said
        assert "geheim" not in said
    assert junk.read_bytes() == b"\xc1"
    with redis_server.client() as client:
        assert client.keys() == []  # nor is anything left that a next replay would be refused for


def test_an_empty_recording(
    tmp_path: Path, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """Of a bus on which nothing is said for a second."""
    with redis_server.client() as client:
        client.flushall()
    consumer = Program(tmp_path, configuration(rabbit.url, redis_server.url)).start().reading()
    consumer.stop()  # it declared the exchanges
    file = tmp_path / "recording"
    code, said = run(consumer.config, "record", "--seconds=1", str(file))
    assert (code, "Recorded 0 messages." in said) == (0, True)
    with file.open("rb") as stream:
        assert list(recording.read(stream)) == []
    code, said = run(consumer.config, "replay", str(file))
    assert (code, said.strip()) == (
        0,
        "received 0, irrelevant 0, malformed 0, applied 0, refused 0",
    )


def test_a_quiet_bus_does_not_hold_up_a_busy_one(
    tmp_path: Path, rabbit: servers.RabbitMQ, redis_server: servers.Redis
) -> None:
    """More messages than would come at one in each wait for the quiet one."""
    rabbit.ctl("add_vhost", "quiet")
    rabbit.ctl("set_permissions", "-p", "quiet", rabbit.user, ".*", ".*", ".*")
    more = f"transport_url = {rabbit.url}\ntransport_url = {rabbit.url}quiet"
    consumer = Program(tmp_path, configuration(rabbit.url, redis_server.url, more)).start()
    consumer.reading(2).stop()  # it declared the exchanges
    file, log, count = tmp_path / "recording", tmp_path / "record.log", 2000
    recorder = servers.Process(
        command(consumer.config, "record", str(file), f"--messages={count}"), log
    )
    try:
        wait_for(lambda: "Ctrl-C ends it" in log.read_text(), 120)
        with rabbit.connect() as connection:
            channel = connection.channel()
            for _ in range(count):
                channel.basic_publish(amqp.Message("{}"), "nova", "notifications.info")
        wait_for(lambda: not recorder.running, 120)
    finally:
        recorder.kill()
        rabbit.ctl("delete_vhost", "quiet")
    assert f"Recorded {count} messages." in log.read_text()
