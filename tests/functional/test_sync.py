"""Reconciliation on a real Redis and a real Valkey, with what Nova would say given as plain values.

That Nova says so is seen in tests/lab/test_lab_sync.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import struct
import subprocess
import sysconfig
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

from bus_cache import names
from bus_cache.cli.sync import _Bar
from bus_cache.index.changes import (
    AgentSnapshot,
    Held,
    HostDeleted,
    ImageDeleted,
    InUse,
    NotInUse,
    Source,
)
from bus_cache.index.writer import Writer
from consumers import reconcile
from consumers.nova_api import ApiError, Server, Services
from consumers.reconcile import Drift, Reconciler, Refused, Report, run
from tests import keyspace, servers

BEFORE = int(time.time() * 1000) - 3_600_000
IMAGES = [f"image-{n}" for n in range(3)]
RUNNING = [
    Server(str(uuid.uuid5(uuid.NAMESPACE_OID, str(n))), f"cmp{n % 4}", image, None, "active", True)
    for n, image in enumerate(IMAGES * 4)
]
PATIENCE = 30.0
KEYS = names.Keys("bus_cache")


class Cloud:
    """A cloud: what Nova's API would say of it, in pages of five."""

    def __init__(self) -> None:
        self.running = list(RUNNING)
        self.up = {f"cmp{n}": True for n in range(4)}
        self.unknown: set[str] = set()
        self.listings = 0
        self.left_out: set[str] = set()
        self.failure = ""
        self.while_listing: Callable[[], object] = lambda: None

    def services(self) -> Services:
        if self.failure:
            raise ApiError(self.failure)
        return Services(dict(self.up), frozenset(self.unknown))

    def servers(self) -> Iterator[list[Server]]:
        self.listings += 1
        for first in range(0, len(self.running), 5):
            page = self.running[first : first + 5]
            yield [each for each in page if each.host not in self.left_out]
            self.while_listing()

    def exists(self, server: str) -> bool:
        return any(each.id == server for each in self.running)


@pytest.fixture
def writer(store: servers.Redis) -> Iterator[Writer]:
    with store.client() as client:
        client.flushall()
        yield Writer(client, "bus_cache")


@pytest.fixture
def index(store: servers.Redis) -> Callable[[], dict[str, object]]:
    def read() -> dict[str, object]:
        with store.client() as client:
            return keyspace.everything(client)

    return read


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def compared(writer: Writer, cloud: Cloud, *, repair: bool = False) -> tuple[Report, list[Drift]]:
    found: list[Drift] = []
    return run(cloud, writer, repair=repair, tell=found.append), found


def expected_sets() -> dict[str, set[str]]:
    sets: dict[str, set[str]] = {}
    for each in RUNNING:
        sets.setdefault(names.fingerprint(each.image), set()).add(each.host)
    return sets


Read = Callable[[], dict[str, object]]


def test_an_empty_index_is_filled(writer: Writer, index: Read) -> None:
    report, told = compared(writer, Cloud())
    assert (report.filled, report.servers, report.hosts, report.left) == (True, 12, 4, 0)
    assert told == []
    found = index()
    assert found["sets"] == expected_sets()
    assert found["uses"] == {
        f"cmp{n}": {s.id: names.fingerprint(s.image) for s in RUNNING if s.host == f"cmp{n}"}
        for n in range(4)
    }
    assert {source for _, source in writer.usage("cmp1").evidence.values()} == {Source.SERVER}
    assert writer.usage("cmp1").service is not None
    report, told = compared(writer, Cloud())
    assert (report.filled, report.drift, told) == (False, {}, [])


def drifted(writer: Writer) -> Cloud:
    """Fill the index, then let it and Nova go apart in every way."""
    cloud = Cloud()
    compared(writer, cloud)
    writer.apply(
        [
            Held("cmp9", "image-0", BEFORE, Source.CREATE),
            InUse("cmp0", str(uuid.uuid4()), "image-0", BEFORE),
        ]
    )
    new = Server(str(uuid.uuid4()), "cmp4", "image-7", None, "active", True)
    cloud.running.append(new)
    cloud.up["cmp4"] = True
    return cloud


KINDS = {"image_missing": 1, "server_missing": 1, "server_gone": 1, "host_gone": 1}


def test_drift_is_told_and_left(writer: Writer, index: Read) -> None:
    cloud = drifted(writer)
    before = index()
    report, told = compared(writer, cloud)
    assert report.drift == KINDS
    assert (report.mended, report.left) == (0, 4)
    assert {each.kind: each.host for each in told} == {
        "image_missing": "cmp4",
        "server_missing": "cmp4",
        "server_gone": "cmp0",
        "host_gone": "cmp9",
    }
    assert index() == before


def test_drift_is_mended(writer: Writer, index: Read) -> None:
    cloud = drifted(writer)
    report, told = compared(writer, cloud, repair=True)
    assert (report.drift, report.mended, report.left, len(told)) == (KINDS, 4, 0, 4)
    assert index()["sets"] == expected_sets() | {names.fingerprint("image-7"): {"cmp4"}}
    report, told = compared(writer, cloud, repair=True)
    assert (report.drift, told) == ({}, [])


def test_what_a_notification_says_meanwhile_wins(writer: Writer, index: Read) -> None:
    cloud = Cloud()
    gone, deleted = RUNNING[0], RUNNING[1]

    def happen() -> None:
        now = int(time.time() * 1000)
        writer.apply([NotInUse(gone.host, gone.id, now), ImageDeleted(deleted.image, now)])

    cloud.while_listing = happen
    compared(writer, cloud, repair=True)
    found = index()
    assert gone.id not in found["uses"][gone.host]  # type: ignore[index]
    assert names.fingerprint(deleted.image) not in found["sets"]  # type: ignore[operator]


def test_a_host_deleted_meanwhile_stays_away(writer: Writer, index: Read) -> None:
    cloud = Cloud()
    cloud.while_listing = lambda: writer.apply([HostDeleted("cmp1", int(time.time() * 1000))])
    compared(writer, cloud, repair=True)
    assert all("cmp1" not in hosts for hosts in index()["sets"].values())  # type: ignore[attr-defined]


def test_an_image_that_glance_deleted_is_not_missed(writer: Writer) -> None:
    compared(writer, Cloud())
    writer.apply([ImageDeleted("image-0", int(time.time() * 1000))])
    report, told = compared(writer, Cloud(), repair=True)
    assert (report.drift, told) == ({}, [])


def test_an_agents_host_keeps_what_its_agent_says(writer: Writer, index: Read) -> None:
    held = names.fingerprint("image-8")
    writer.apply([AgentSnapshot("cmp1", (1, 0), BEFORE, (held,))])
    report, _ = compared(writer, Cloud(), repair=True)
    assert report.drift["image_missing"] == len(IMAGES) * 3
    assert index()["agents"] == {"cmp1": {held}}
    assert {i for i, hosts in index()["sets"].items() if "cmp1" in hosts} == {held}  # type: ignore[attr-defined]


def test_an_agents_host_without_service_is_told_and_stays(writer: Writer, index: Read) -> None:
    compared(writer, Cloud())
    held = names.fingerprint("image-8")
    writer.apply([AgentSnapshot("cmp9", (1, 0), BEFORE, (held,))])
    report, told = compared(writer, Cloud(), repair=True)
    assert [(each.kind, each.host, each.change) for each in told] == [("host_gone", "cmp9", None)]
    assert report.left == 1
    assert index()["agents"] == {"cmp9": {held}}


def test_nothing_is_taken_out_while_a_cell_is_away(writer: Writer, index: Read) -> None:
    cloud = drifted(writer)
    cloud.unknown = {"cmp9"}
    cloud.running = cloud.running[:3]
    report, _ = compared(writer, cloud, repair=True)
    assert (report.drift, report.unknown) == ({}, 1)
    assert "cmp9" in index()["heard"]  # type: ignore[operator]
    assert "nothing was taken out" in str(report)


def test_another_clouds_index_is_refused(writer: Writer, index: Read) -> None:
    writer.apply([Held("elsewhere-1", "image-0", BEFORE, Source.CREATE)])
    before = index()
    with pytest.raises(Refused, match=r"elsewhere-1.*right cloud and region"):
        compared(writer, Cloud(), repair=True)
    assert index() == before


def test_a_cloud_without_computes_is_refused(writer: Writer) -> None:
    cloud = Cloud()
    cloud.up = {}
    with pytest.raises(ApiError, match="right cloud and region"):
        compared(writer, cloud, repair=True)


def test_a_compute_that_is_down_is_noted_and_one_that_is_back(writer: Writer) -> None:
    cloud = Cloud()
    compared(writer, cloud)
    up = writer.usage("cmp1").service
    cloud.up["cmp1"] = False
    report, _ = compared(writer, cloud, repair=True)
    assert (report.drift, report.mended) == ({}, 0)
    down = writer.usage("cmp1").service
    assert up is not None
    assert down is not None
    assert (up[1], down[1]) == (True, False)
    assert writer.usage("cmp2").service[0] <= down[0]  # type: ignore[index]


def test_a_compute_that_is_down_again_is_noted(writer: Writer, store: servers.Redis) -> None:
    """It was back in between: nobody told, but something was heard of the host."""
    cloud = Cloud()
    compared(writer, cloud)
    cloud.up["cmp1"] = False
    with store.client() as client:
        client.hset(KEYS.services, "cmp1", msgpack.packb([BEFORE, False]))
    assert writer.usage("cmp1").newest > BEFORE
    compared(writer, cloud, repair=True)
    again = writer.usage("cmp1").service
    assert again is not None
    assert not again[1]
    assert again[0] >= writer.usage("cmp1").newest
    compared(writer, cloud, repair=True)
    assert writer.usage("cmp1").service == again


def test_servers_of_a_cell_that_fails_in_the_middle_stay(
    writer: Writer, index: Read, store: servers.Redis
) -> None:
    cloud = drifted(writer)
    cloud.left_out = {"cmp1", "cmp2"}
    with store.client() as client:  # else their use is younger than what the API says
        client.delete(*(KEYS.uses(host) for host in cloud.left_out))
    writer.apply(
        InUse(each.host, each.id, each.image, BEFORE)
        for each in RUNNING
        if each.host in cloud.left_out
    )
    before = index()["uses"]
    report, told = compared(writer, cloud, repair=True)
    assert report.drift == KINDS
    assert {each.host for each in told if each.kind == "server_gone"} == {"cmp0"}
    assert (report.unsure, report.unknown) == (2, 0)
    assert "2 hosts may have servers that Nova left out" in str(report)
    for host in cloud.left_out:
        assert index()["uses"][host] == before[host]  # type: ignore[index]


# -- in the consumer ---------------------------------------------------------------------------


class Programs:
    """Reconcilers of several consumers on one keyspace."""

    def __init__(self, store: servers.Redis, cloud: Cloud) -> None:
        self._store = store
        self._cloud = cloud
        self._running: list[tuple[Reconciler, threading.Thread]] = []

    def start(self, interval: float = 3600) -> Reconciler:
        program = Reconciler(
            lambda: self._cloud,
            Writer(self._store.client(), "bus_cache"),
            interval=interval,
            ignore_hosts=lambda: ["cmp3"],
        )
        thread = threading.Thread(target=program.run)
        thread.start()
        self._running.append((program, thread))
        return program

    def stop(self) -> None:
        for program, _ in self._running:
            program.stop()
        for _, thread in self._running:
            thread.join(PATIENCE)
            assert not thread.is_alive()


class Pause:
    """Stops a cloud in the middle of a listing."""

    def __init__(self, cloud: Cloud) -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()
        cloud.while_listing = self._wait

    def _wait(self) -> None:
        self.begun.set()
        self._go_on.wait(PATIENCE)

    def end(self) -> None:
        self._go_on.set()


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def programs(
    store: servers.Redis, writer: Writer, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Programs]:
    monkeypatch.setattr(reconcile, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(reconcile, "LOOK", 0.1)
    started = Programs(store, cloud)
    yield started
    started.stop()


def test_one_of_several_consumers_reconciles(programs: Programs, cloud: Cloud, index: Read) -> None:
    started = [programs.start() for _ in range(3)]
    for each in started:
        each.request("the keyspace was new", once=True)
    wait_for(lambda: sum(each.counts["done"] for each in started) > 0)
    time.sleep(0.5)  # none of the others takes its turn
    programs.stop()
    assert cloud.listings == 1
    assert not any("cmp3" in hosts for hosts in index()["sets"].values())  # type: ignore[attr-defined]


def test_another_versions_keyspace_is_not_ours_to_compare(
    programs: Programs, cloud: Cloud, writer: Writer, store: servers.Redis
) -> None:
    """Nor claimed: that version's consumers are to do it."""
    client = store.client()
    writer.want(reconcile.WANTED, "the keyspace was new")
    client.set(names.Keys("bus_cache").schema, names.SCHEMA + 1)
    program = programs.start()
    program.request("the broker dropped messages")
    time.sleep(1)  # ten looks
    assert (cloud.listings, program.counts["failed"]) == (0, 0)
    assert not writer.claimed(reconcile.BEGUN)
    assert writer.wanted(reconcile.WANTED) == "the keyspace was new"
    client.set(names.Keys("bus_cache").schema, names.SCHEMA)
    wait_for(lambda: program.counts["done"] == 1)


def test_a_request_is_kept_until_its_turn(programs: Programs, cloud: Cloud, writer: Writer) -> None:
    assert writer.claim(reconcile.BEGUN, 1)
    program = programs.start(interval=0)
    program.request("the broker dropped messages")
    wait_for(lambda: program.counts["done"] == 1)
    assert cloud.listings == 1


def test_what_was_asked_for_outlives_who_asked(
    programs: Programs, cloud: Cloud, writer: Writer
) -> None:
    pause = Pause(cloud)
    first = programs.start(interval=0)
    first.request("the broker dropped messages")
    assert pause.begun.wait(PATIENCE)
    first.stop()  # its process would end now
    assert writer.wanted(reconcile.WANTED)
    assert not writer.claimed(reconcile.BEGUN)
    second = programs.start(interval=0)
    pause.end()
    wait_for(lambda: second.counts["done"] == 1)
    assert first.counts["done"] == 0
    assert writer.wanted(reconcile.WANTED) == reconcile.AGAIN


def test_after_a_crash_another_one_takes_over_when_the_claim_lapses(
    programs: Programs, writer: Writer
) -> None:
    writer.want(reconcile.WANTED, "the keyspace was new\nwhoever began")
    writer.hold(reconcile.BEGUN, 1)
    program = programs.start(interval=0)
    wait_for(lambda: program.counts["done"] == 1)
    assert writer.wanted(reconcile.WANTED) == reconcile.AGAIN


def test_what_was_asked_for_is_done_twice_as_what_was_young_is_left_out(
    programs: Programs, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "LATELY", 0.0)
    program = programs.start(interval=0)
    program.request("the broker dropped messages")
    wait_for(lambda: program.counts["done"] == 2)
    assert not writer.wanted(reconcile.WANTED)


def test_what_is_asked_for_in_the_middle_is_done_again(
    programs: Programs, cloud: Cloud, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "LATELY", 0.0)
    pause = Pause(cloud)
    program = programs.start(interval=0)
    program.request("the keyspace was new", once=True)
    assert pause.begun.wait(PATIENCE)
    program.request("the keyspace was new", once=True)  # that one will do
    writer.want(reconcile.WANTED, "the keyspace was new")  # this is another one
    pause.end()
    wait_for(lambda: program.counts["done"] == 2)
    assert writer.wanted(reconcile.WANTED) == reconcile.AGAIN


def test_who_reconciles_claims_it_as_long_as_it_lives(
    programs: Programs, cloud: Cloud, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "HOLD", 3.0)
    claimed: list[bool] = []

    def look() -> None:
        claimed.append(writer.claimed(reconcile.BEGUN))
        writer.release(reconcile.BEGUN)
        wait_for(lambda: writer.claimed(reconcile.BEGUN))

    cloud.while_listing = look
    program = programs.start(interval=0)
    program.request("the broker dropped messages")
    wait_for(lambda: program.counts["done"] == 1)
    assert claimed == [True] * 3


def test_only_success_counts_for_the_interval(
    programs: Programs, cloud: Cloud, writer: Writer
) -> None:
    pause = Pause(cloud)
    first = programs.start()
    assert pause.begun.wait(PATIENCE)
    assert not writer.claimed(reconcile.RAN)
    first.stop()
    second = programs.start()
    pause.end()
    wait_for(lambda: second.counts["done"] == 1)
    assert writer.claimed(reconcile.RAN)


def test_without_an_interval_it_waits_for_a_request(programs: Programs, cloud: Cloud) -> None:
    program = programs.start(interval=0)
    program.request("the broker dropped messages")
    wait_for(lambda: program.counts["done"] == 1)
    programs.stop()
    assert cloud.listings == 1


def test_a_failure_is_logged_once_and_tried_again(
    programs: Programs, cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cloud.failure = "Nova is away"
    program = programs.start()
    wait_for(lambda: program.counts["failed"] > 2)
    cloud.failure = ""
    wait_for(lambda: program.counts["done"] == 1)
    said = [record.getMessage() for record in caplog.records if "reconciled" in record.message]
    assert len(said) == 2
    assert "Nova is away" in said[0]
    assert "12 servers on 3 hosts" in said[1]


def test_an_error_that_nobody_foresaw_is_survived(programs: Programs, cloud: Cloud) -> None:
    def fail() -> None:
        cloud.while_listing = lambda: None
        raise RuntimeError("a surprise")

    cloud.while_listing = fail
    program = programs.start()
    wait_for(lambda: program.counts["done"] == 1)
    assert program.counts["failed"] == 1


def test_redis_away_is_survived(programs: Programs, cloud: Cloud, store: servers.Redis) -> None:
    store.stop()
    program = programs.start()
    program.request("the broker dropped messages")
    time.sleep(0.2)
    store.start()
    wait_for(lambda: program.counts["done"] == 1)


def test_it_stops_in_the_middle_of_a_listing(programs: Programs, cloud: Cloud) -> None:
    pause = Pause(cloud)
    program = programs.start()
    assert pause.begun.wait(PATIENCE)
    program.stop()
    pause.end()
    programs.stop()
    assert (program.counts["done"], program.counts["failed"]) == (0, 0)


# -- the command line --------------------------------------------------------------------------


def command(
    tmp_path: Path, store: servers.Redis, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "bus_cache.conf"
    config.write_text(f"[bus_cache]\nredis_url = {store.url}\n")
    program = os.path.join(sysconfig.get_path("scripts"), "bus-cache")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return subprocess.run(
        [program, "sync", "--config-file", str(config), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**clean, "HOME": str(tmp_path), **environment},
    )


def test_without_credentials_it_says_what_it_needs(tmp_path: Path, store: servers.Redis) -> None:
    done = command(tmp_path, store)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "clouds.yaml, OS_*" in done.stderr


def test_an_unknown_cloud_is_named(tmp_path: Path, store: servers.Redis) -> None:
    done = command(tmp_path, store, "--os-cloud", "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "nowhere" in done.stderr


def test_a_cloud_that_is_away_is_one_sentence(tmp_path: Path, store: servers.Redis) -> None:
    done = command(
        tmp_path,
        store,
        OS_AUTH_URL="http://127.0.0.1:1/v3",
        OS_USERNAME="admin",
        OS_PASSWORD="geheim-17",
        OS_PROJECT_NAME="admin",
        OS_USER_DOMAIN_ID="default",
        OS_PROJECT_DOMAIN_ID="default",
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr
    assert "geheim-17" not in done.stderr


def test_a_terminal_shows_progress_and_a_file_does_not() -> None:
    main_end, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(terminal, "w") as stream:
        bar = _Bar(stream, quiet=False)
        bar("servers", 500, None)
        bar("hosts", 1, 4)
        bar.close()
        silent = _Bar(stream, quiet=True)
        silent("nothing", 1, 2)
        silent.close()
    shown = ""
    with contextlib.suppress(OSError):  # at its end
        while text := os.read(main_end, 65536):
            shown += text.decode()
    os.close(main_end)
    assert "servers: 500" in shown
    assert "1/4" in shown
    assert "nothing" not in shown
    file = io.StringIO()
    to_file = _Bar(file, quiet=False)
    to_file("servers", 500, None)
    to_file.close()
    assert file.getvalue() == ""
