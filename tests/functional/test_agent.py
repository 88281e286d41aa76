"""The program bus-cache-agent on a real folder and a real RabbitMQ."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg

from bus_cache import protocol
from bus_cache.agent import publisher
from bus_cache.index.changes import AgentSnapshot, Said
from bus_cache.names import fingerprint
from tests import servers
from tests.compute_host import Host

A, B, C = (fingerprint(name) for name in "abc")

PATIENCE = 60.0


class Bus:
    """What is read from the queue, and asked."""

    def __init__(self, rabbit: servers.RabbitMQ) -> None:
        self._rabbit = rabbit
        self._channel: Any = None

    def messages(self, host: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
        """Yield (event, payload, as the consumer understands it) of one host, as they come."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            message = self._get()
            if message is None:
                time.sleep(0.02)
                continue
            said = json.loads(json.loads(message.body)["oslo.message"])
            assert said["priority"] == "INFO"
            if said["publisher_id"] == protocol.publisher(host):
                event, payload = said["event_type"], said["payload"]
                yield event, payload, protocol.read(event, said["publisher_id"], 1, payload)
                deadline = time.monotonic() + PATIENCE
        raise AssertionError(f"nothing more was said by {host}")

    def _get(self) -> Any:
        """Return the next message; None: none yet, or the broker is away."""
        try:
            if self._channel is None:
                connection = self._rabbit.connect()
                connection.connect()
                self._channel = connection.channel()
            return self._channel.basic_get(protocol.QUEUE, no_ack=True)
        except Exception:  # the queue is not there yet, or the connection broke
            channel, self._channel = self._channel, None
            if channel is not None:
                with contextlib.suppress(Exception):
                    channel.connection.collect()
            return None

    def ask(self, host: str | None, method: str, **arguments: Any) -> None:
        """Cast, as a consumer does; to all where no host is given."""
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[])
        publisher.prepare(conf)
        transport = oslo_messaging.get_rpc_transport(conf, url=self._rabbit.url)
        try:
            target = oslo_messaging.Target(
                exchange=protocol.ASK_EXCHANGE,
                topic=protocol.ASK_TOPIC,
                version=protocol.ASK_VERSION,
                server=host,
                fanout=host is None,
            )
            oslo_messaging.get_rpc_client(transport, target).cast({}, method, **arguments)
        finally:
            transport.cleanup()

    def wait_for(self, host: str) -> None:
        """Wait until the agent can be asked."""
        deadline = time.monotonic() + PATIENCE
        while not self._rabbit.has_queue(f"{protocol.ASK_TOPIC}.{host}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def bus(rabbit: servers.RabbitMQ) -> Bus:
    """The bus."""
    return Bus(rabbit)


@pytest.fixture
def host(rabbit: servers.RabbitMQ, tmp_path: Path) -> Iterator[Host]:
    """A host of this test's own."""
    found = Host(rabbit, tmp_path, tmp_path.name)
    yield found
    if found.agent:
        found.agent.kill()


def snapshot(change: Any, *images: str, leaving: bool = False) -> bool:
    """Whether this is a snapshot of just these images."""
    return (
        isinstance(change, AgentSnapshot)
        and set(change.fingerprints) == set(images)
        and change.leaving == leaving
    )


def await_snapshot(messages: Iterator[Any], *images: str, leaving: bool = False) -> Any:
    """Return the next snapshot of just these images; what is told before does not matter."""
    return next(c for _, _, c in messages if snapshot(c, *images, leaving=leaving))


def test_it_says_what_happens(host: Host, bus: Bus) -> None:
    """Snapshot, fetching, stored, cleanup, goodbye: in order, numbered without gaps."""
    host.put(A)
    host.start()
    messages = bus.messages(host.name)
    first = next(messages)[2]
    assert snapshot(first, A)
    part = host.base / f"{B}.part"
    part.touch()
    assert next(messages)[2][3:] == (B, Said.FETCHING)
    part.rename(host.base / B)
    event, payload, change = next(messages)
    assert event == "image_cache.stored"
    assert change[3:] == (B, Said.STORED)
    assert payload["last_used"] == int((host.base / B).stat().st_mtime)
    host.remove(A)
    assert next(messages)[2][3:] == (A, Said.CLEANUP)
    (host.base / f"{C}.part").touch()
    assert next(messages)[2][3:] == (C, Said.FETCHING)
    (host.base / f"{C}.part").unlink()  # the fetch failed
    assert next(messages)[2][3:] == (C, Said.CLEANUP)
    assert host.stop() == 0
    last = next(messages)[2]
    assert snapshot(last, B, leaving=True)
    assert last.version == (first.version[0], 6)
    assert first.version[1] == 0


def test_the_folder_comes_goes_and_comes(host: Host, bus: Bus) -> None:
    """Nova makes it for the first image; somebody may remove it, or what is above it."""
    host.start()
    messages = bus.messages(host.name)
    await_snapshot(messages)
    host.put(A)
    assert next(c for _, _, c in messages if c.said == Said.STORED).fingerprint == A
    shutil.rmtree(host.base)
    assert next(messages)[2][3:] == (A, Said.CLEANUP)
    host.put(B)
    assert next(c for _, _, c in messages if c.said == Said.STORED).fingerprint == B
    # without the folder above it nothing is known: a file system that is not mounted
    host.base.parent.rename(host.folder / "elsewhere")
    deadline = time.monotonic() + PATIENCE
    while "is no folder: is it mounted" not in host.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    host.put(C)
    assert await_snapshot(messages, C)
    host.remove(C)
    assert next(messages)[2][3:] == (C, Said.CLEANUP)


def test_killed_and_started_again(host: Host, bus: Bus) -> None:
    """What happened meanwhile is in the first snapshot of a later epoch."""
    host.put(A)
    agent = host.start()
    messages = bus.messages(host.name)
    before = await_snapshot(messages, A)
    agent.kill()
    host.put(B)
    host.remove(A)
    host.start()
    after = await_snapshot(messages, B)
    assert after.version[0] > before.version[0]
    assert after.version[1] == 0


def test_clock_set_back(host: Host, bus: Bus) -> None:
    """The epoch grows nevertheless: the last one is kept in a file."""
    future = (int(time.time()) + 9 * 365 * 86400) * 1000
    (host.state / f"epoch-{host.name}").write_text(f"{future}\n")
    host.start()
    messages = bus.messages(host.name)
    assert await_snapshot(messages).version == (future + 1, 0)
    host.stop()
    host.start()
    assert await_snapshot(messages, leaving=True)
    assert await_snapshot(messages).version == (future + 2, 0)


def test_clock_set_back_and_state_lost(host: Host, bus: Bus) -> None:
    """The index knows a later epoch, and says so."""
    host.put(A)
    host.configure(own="state_path = /proc/nowhere")
    host.start()
    messages = bus.messages(host.name)
    first = await_snapshot(messages, A)
    assert abs(first.version[0] / 1000 - time.time()) < 3600
    bus.wait_for(host.name)
    future = first.version[0] + 10**9
    bus.ask(host.name, "snapshot", after=future, spread=0)
    assert await_snapshot(messages, A).version == (future + 1, 0)
    host.put(B)
    assert next(c for _, _, c in messages if c.said == Said.STORED).version[0] == future + 1
    assert host.log.read_text().count("can't be written") == 1


def test_asked(host: Host, bus: Bus) -> None:
    """It answers, alone or with all others, whatever it is asked."""
    host.put(A)
    host.start()
    messages = bus.messages(host.name)
    await_snapshot(messages, A)
    bus.wait_for(host.name)
    for hostile in (
        {"after": -1},
        {"after": 2**60, "spread": float("inf")},
        {"after": "x" * 1000, "spread": "soon"},
        {"after": True, "spread": [1]},
        {"after": None, "spread": -5, "more": {}},
        {"spread": 10**400},
        {},
    ):
        bus.ask(host.name, "snapshot", **hostile)
    bus.ask(host.name, "_agent")
    bus.ask(host.name, "stop")
    bus.ask(host.name, "listening", more=1)
    await_snapshot(messages, A)
    bus.ask(None, "snapshot", after=0, spread=0.5)
    seen = await_snapshot(messages, A)
    assert abs(seen.version[0] / 1000 - time.time()) < 3600


def test_the_broker_goes_and_comes_back(host: Host, bus: Bus, rabbit: servers.RabbitMQ) -> None:
    """Not what happened meanwhile is told but what is, and then what happens."""
    host.put(A)
    host.start()
    messages = bus.messages(host.name)
    await_snapshot(messages, A)
    rabbit.stop()
    try:
        for _ in range(50):
            host.put(B)
            host.remove(B)
        host.put(C)
        host.remove(A)
    finally:
        rabbit.start()
    await_snapshot(messages, C)
    bus.wait_for(host.name)
    bus.ask(host.name, "snapshot")
    await_snapshot(messages, C)
    host.put(A)
    assert next(c for _, _, c in messages if c.fingerprint == A and c.said == Said.STORED)


def test_started_before_the_broker(host: Host, bus: Bus, rabbit: servers.RabbitMQ) -> None:
    """It waits, can be ended meanwhile, and is no reason to stay."""
    rabbit.stop()
    try:
        agent = host.start()
        wait_for_log(host, "can't publish")
        assert agent.stop() == 0
        host.start()
    finally:
        rabbit.start()
    messages = bus.messages(host.name)
    await_snapshot(messages)
    bus.wait_for(host.name)


def hold(agent: servers.Process) -> None:
    """Have it do nothing until SIGCONT."""
    agent.signal(signal.SIGSTOP)
    threads = Path(f"/proc/{agent.pid}/task")
    while any(") T " not in (each / "stat").read_text() for each in threads.iterdir()):
        time.sleep(0.01)


def wait_for_log(host: Host, text: str) -> None:
    """Wait until the agent logged this."""
    deadline = time.monotonic() + PATIENCE
    while not host.log.exists() or text not in host.log.read_text():
        assert time.monotonic() < deadline, host.log.read_text()
        time.sleep(0.05)


def test_a_broker_that_takes_nothing(host: Host, bus: Bus, rabbit: servers.RabbitMQ) -> None:
    """Its memory alarm holds the publisher, not the end of the process."""
    host.start()
    messages = bus.messages(host.name)
    await_snapshot(messages)
    rabbit.ctl("set_vm_memory_high_watermark", "absolute", "1")
    try:
        host.put(A)
        time.sleep(1)
        assert host.stop() == 0
        wait_for_log(host, "did not take the goodbye")
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", "0.4")


def test_more_changes_than_inotify_can_queue(host: Host, bus: Bus) -> None:
    """While it could not look, more happened than the kernel keeps: then it lists all."""
    host.put(A)
    host.put(B)
    agent = host.start()
    messages = bus.messages(host.name)
    await_snapshot(messages, A, B)
    hold(agent)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    one, other = host.base / f"{C}.part", host.base / f"{C}.converted"
    one.touch()
    for _ in range(limit // 4 + 100):
        one.rename(other)
        other.rename(one)
    one.unlink()
    host.remove(B)  # lost
    agent.signal(signal.SIGCONT)
    assert next(c for _, _, c in messages if c[3:] == (B, Said.CLEANUP))
    wait_for_log(host, "more changes than inotify can queue")


def test_many_changes_at_once(host: Host, bus: Bus) -> None:
    """One message of all, not one of each."""
    images = [fingerprint(str(number)) for number in range(2000)]
    agent = host.start()
    messages = bus.messages(host.name)
    await_snapshot(messages)
    hold(agent)
    for image in images:
        host.put(image)
    agent.signal(signal.SIGCONT)
    count = 0
    for _, _, change in messages:
        count += 1
        if snapshot(change, *images):
            break
    assert count < 300


def test_more_images_than_may_be_told(host: Host, bus: Bus) -> None:
    """Nothing by halves; when there are less again, all."""
    host.base.mkdir(parents=True)
    for number in range(protocol.MOST_IMAGES + 1):
        (host.base / fingerprint(str(number))).touch()
    host.configure(own="scan_interval = 1")
    host.start()
    wait_for_log(host, f"more than {protocol.MOST_IMAGES} can't be reported")
    host.remove(fingerprint("0"))
    messages = bus.messages(host.name)
    event, payload, _ = next(messages)
    assert event == "image_cache.snapshot"
    assert len(payload["images"]) == protocol.MOST_IMAGES
    assert host.log.read_text().count("can't be reported") == 1


def test_a_host_that_caches_nothing(host: Host, bus: Bus) -> None:
    """It says so once, and reports an empty cache."""
    host.put(A)
    host.configure(nova="[libvirt]\nimages_type = rbd")
    host.start()
    messages = bus.messages(host.name)
    assert snapshot(next(messages)[2])
    assert host.stop() == 0
    assert snapshot(next(messages)[2], leaving=True)
    assert host.log.read_text().count("no image is ever cached on this host") == 1


def test_durable_as_nova_has_it(tmp_path: Path) -> None:
    """Exchange and queue are declared as [oslo_messaging_rabbit] says."""
    with servers.RabbitMQ() as rabbit:
        host = Host(rabbit, tmp_path, "durable")
        host.configure(rabbit="amqp_durable_queues = true")
        host.start()
        try:
            await_snapshot(Bus(rabbit).messages(host.name))
            assert "bus_cache.info\ttrue" in rabbit.ctl("list_queues", "name", "durable")
            assert "bus_cache\ttrue" in rabbit.ctl("list_exchanges", "name", "durable")
        finally:
            assert host.agent
            host.agent.kill()


def test_the_url_of_notifications_wins(host: Host, bus: Bus, rabbit: servers.RabbitMQ) -> None:
    """As oslo.messaging has it; and [agent] transport_url over both."""
    nobody = f"rabbit://u:p@127.0.0.1:{servers.free_port()}/"
    for nova, own in (
        (f"[oslo_messaging_notifications]\ntransport_url = {rabbit.url}", ""),
        (
            f"[oslo_messaging_notifications]\ntransport_url = {nobody}",
            f"transport_url = {rabbit.url}",
        ),
    ):
        host.configure(nova=nova, own=own, url=nobody)
        host.start()
        messages = bus.messages(host.name)
        await_snapshot(messages)
        bus.wait_for(host.name)
        host.stop()
        await_snapshot(messages, leaving=True)


def test_reload(host: Host, bus: Bus) -> None:
    """Intervals are read again at SIGHUP; a wrong file changes nothing."""
    agent = host.start()
    messages = bus.messages(host.name)
    await_snapshot(messages)
    host.configure(own="scan_interval = never")
    agent.signal(signal.SIGHUP)
    wait_for_log(host, "Going on with the configuration as it was: [agent] scan_interval = never")
    host.configure(own="snapshot_interval = 10")
    agent.signal(signal.SIGHUP)
    wait_for_log(host, "configuration read again")
    bus.wait_for(host.name)
    bus.ask(host.name, "snapshot")
    await_snapshot(messages)
    await_snapshot(messages)  # by itself, in 10 s
    assert host.stop() == 0


@pytest.mark.parametrize(
    ("nova", "own", "sentence"),
    [
        (
            "compute_driver =",
            "",
            "compute_driver is missing: give the host's nova.conf",
        ),
        ("", "inventory = x", "[agent] inventory = x: no such driver"),
        ("transport_url =", "", "transport_url is missing: give the host's nova.conf"),
        ("", "scan_interval = 0", "[agent] scan_interval = 0 can't be used"),
        ("host = a b", "", "host = 'a b' can't be used"),
        ("transport_url = nonsense://", "", "The transport_url can't be used"),
        ("transport_url = rabbit://u:secret@h:port/", "", "The transport_url can't be used"),
        ("[oslo_messaging_rabbit]\nheartbeat_rate = often", "", "heartbeat_rate = often can't be"),
    ],
)
def test_a_wrong_configuration(host: Host, nova: str, own: str, sentence: str) -> None:
    """One sentence on stderr, without secrets, and 1."""
    host.configure(nova=nova, own=own)
    agent = host.start()
    wait_for_log(host, "bus-cache-agent: ")
    deadline = time.monotonic() + PATIENCE
    while agent.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert agent.returncode == 1
    assert sentence in host.log.read_text()
    assert "secret" not in host.log.read_text()
    assert "Traceback" not in host.log.read_text()


def test_a_missing_library_is_told() -> None:
    """The package alone brings what the weigher needs, and the command all the same."""
    program = (
        "import sys; sys.modules['inotify_simple'] = None; "
        "sys.modules['oslo_messaging'] = None; import bus_cache.agent.main as m; sys.exit(m.main())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert "oslo_messaging is not installed" in ran.stderr
    assert "pip install 'bus-cache[agent]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_log_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    """It counts on the agent's own command line only."""
    nova = tmp_path / "nova.conf"
    nova.write_text("[DEFAULT]\nhost = compute1\n")
    program = "import sys; import bus_cache.agent.main as m; sys.exit(m.main())"
    arguments = ["--config-file", str(nova), "--log-file", "/nowhere/agent.log"]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert "can't write to a log file: [Errno 2]" in ran.stderr
    assert "Traceback" not in ran.stderr
