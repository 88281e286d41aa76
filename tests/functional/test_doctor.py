"""``bus-cache doctor`` on real servers: a set-up that is well, and what goes wrong, by name."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest

from bus_cache import connect, names
from bus_cache.cli.main import main
from bus_cache.index.changes import Held, HostDeleted, Source
from bus_cache.index.writer import Writer
from consumers.consumer import PRESENT
from tests import publisher, servers, torment
from tests.chaos.nova_api import NovaApi
from tests.program import Program, configuration, wait_for

ETC = Path(__file__).parent.parent.parent / "etc"
PASSWORD = "geheim-17"
HOST = "cmp1"
IMAGE = "c0ffee00-1111-4222-8333-444455556666"
SERVER = "a3e5a1e8-0d1d-4a4d-8d5f-0d3f4c1f0a01"
QUEUES = r"^(versioned_)?notifications\.(info|error)$"
VERSIONED = {"nova_object.name": "P", "nova_object.version": "1.0", "nova_object.data": {}}

NOVA = """\
[oslo_messaging_notifications]
driver = messagingv2
retry = 3
[notifications]
notification_format = versioned
[filter_scheduler]
weight_classes = nova.scheduler.weights.all_weighers,weigher.ImageCacheWeigher
"""


class Redis(servers.Redis):
    """One that keeps what it has."""

    def __init__(self) -> None:
        super().__init__("--appendonly", "yes")


class Site:
    """A bus on which Nova speaks, a Redis, a consumer, and Nova's API: all is well.

    :ivar code: the exit code of the doctor that was asked last.
    :ivar said: all that it printed.
    """

    def __init__(self, rabbit: servers.RabbitMQ, redis: servers.Redis, folder: Path) -> None:
        self.rabbit, self.redis, self.folder = rabbit, redis, folder
        self.hosts, self.running = [HOST], {SERVER: (HOST, IMAGE)}
        self.api = NovaApi(lambda: self.hosts, lambda: self.running)
        self.cloud = publisher.Publisher(rabbit.url)
        self.consumer = Program(folder, configuration(rabbit.url, redis.url))
        self.topic, self.payload = "versioned_notifications", VERSIONED
        self.code, self.said = 0, ""

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """Nova sends a notification ten times a second."""
        over = threading.Event()

        def speak() -> None:
            cloud = publisher.Publisher(self.rabbit.url)
            while not over.wait(0.1):
                cloud.send(
                    f"nova-compute:{HOST}", "instance.pause.end", self.payload, topic=self.topic
                )
            cloud.close()

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def nova(self, text: str = NOVA, redis: str = "", more: str = "") -> Path:
        """Write a nova.conf."""
        file = self.folder / "nova.conf"
        where = f"[DEFAULT]\ntransport_url = {self.rabbit.url}\n"
        file.write_text(f"{where}{text}[bus_cache]\nredis_url = {redis or self.redis.url}\n{more}")
        return file

    def ours(self, more: str = "", rabbit: str = "", redis: str = "") -> Path:
        """Write a bus_cache.conf of another kind than the consumer's."""
        file = self.folder / "doctor.conf"
        urls = (rabbit or self.rabbit.url, redis or self.redis.url)
        file.write_text(configuration(*urls, more))
        return file

    def doctor(
        self, capsys: pytest.CaptureFixture[str], config: Path | None = None, *more: str
    ) -> dict[str, str]:
        """Return what is wrong: check -> what was found."""
        where = ["--config-file", str(config or self.consumer.config), "-f", "json"]
        capsys.readouterr()
        self.code = main(["doctor", "--seconds", "2", *where, *more])
        found = capsys.readouterr()
        self.said = found.out + found.err
        assert PASSWORD not in self.said
        assert "Traceback" not in self.said
        rows = json.loads(found.out)
        wrong = [each for each in rows if each["verdict"] in ("warning", "problem")]
        assert all(each["advice"] for each in wrong)
        assert self.code == (3 if wrong else 0)
        return {each["check"]: each["found"] for each in wrong}

    def close(self) -> None:
        self.consumer.kill()
        self.cloud.close()
        self.api.close()


@pytest.fixture(scope="module")
def running(rabbit: servers.RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All that stays as it is for the whole file."""
    folder = tmp_path_factory.mktemp("site")
    with Redis() as redis, pytest.MonkeyPatch.context() as environment:
        site = Site(rabbit, redis, folder)
        file = site.api.clouds_yaml(folder / "clouds.yaml")
        environment.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        bound = '{"max-length": 5}'
        rabbit.ctl("set_operator_policy", "--apply-to", "queues", "bound", QUEUES, bound)
        site.consumer.start().reading()
        sample = next(
            each
            for each in publisher.recorded()
            if publisher.content(each)["event_type"] == "instance.create.end"
        )
        said = publisher.content(sample)
        data = said["payload"]["nova_object.data"]
        data.update({"host": HOST, "node": HOST, "image_uuid": IMAGE, "uuid": SERVER})
        for _ in range(8):
            where = {"topic": "versioned_notifications"}
            site.cloud.send(f"nova-compute:{HOST}", said["event_type"], said["payload"], **where)
        with redis.client() as client:
            keys = names.Keys("bus_cache")
            wait_for(lambda: client.exists(keys.image(names.fingerprint(IMAGE))))
            wait_for(lambda: client.zcard(keys.readers))
        yield site
        site.close()


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """The set-up, well; what a test changed about Nova is undone."""
    yield running
    running.hosts, running.running, running.api.ironic = [HOST], {SERVER: (HOST, IMAGE)}, []
    running.topic, running.payload = "versioned_notifications", VERSIONED


Capsys = pytest.CaptureFixture[str]


def picture(site: Site) -> tuple[Any, ...]:
    """All that could have been changed."""
    with site.redis.client() as client:
        keys = {key: client.dump(key) for key in client.scan_iter()}
    for name in (b"{bus_cache}:listening", b"{bus_cache}:readers"):  # a consumer's clock is in them
        keys.pop(name, None)
    return (
        keys,
        sorted(site.rabbit.ctl("list_queues", "name", "arguments").splitlines()),
        sorted(site.rabbit.ctl("list_exchanges", "name", "arguments").splitlines()),
        sorted(site.rabbit.ctl("list_bindings").splitlines()),
    )


def test_nothing_is_wrong_and_nothing_is_changed(site: Site, capsys: Capsys) -> None:
    """With everything given, two things are not checked: what nobody can see from outside."""
    before = picture(site)
    with site.speaking():
        more = ["--nova-conf", str(site.nova()), "--os-cloud", "chaos"]
        assert site.doctor(capsys, None, *more) == {}
    rows = json.loads(site.said)
    assert {row["check"] for row in rows if row["verdict"] == "not checked"} == {
        "weigher installed"
    }
    assert {"readers", "notifications", "clocks", "index against nova"} <= {
        row["check"] for row in rows if row["verdict"] == "ok"
    }
    assert picture(site) == before


def test_where_nothing_is_yet_nothing_is_made(
    site: Site, redis_server: servers.Redis, capsys: Capsys
) -> None:
    """An empty Redis, and a virtual host without an exchange of Nova's."""
    with redis_server.client() as client:
        client.flushall()
    site.rabbit.ctl("add_vhost", "empty")
    site.rabbit.ctl("set_permissions", "-p", "empty", "test", ".*", ".*", ".*")
    exchanges = site.rabbit.ctl("list_exchanges", "-p", "empty", "name")
    config = site.ours(rabbit=site.rabbit.url + "empty", redis=redis_server.url)
    found = site.doctor(capsys, config)
    assert "no exchange nova, glance" in found["exchanges"]
    assert "no queue bus_cache" in found["queue"]
    assert "appendonly is off" in found["redis persistence"]
    with redis_server.client() as client:
        assert client.dbsize() == 0
    assert site.rabbit.ctl("list_exchanges", "-p", "empty", "name") == exchanges
    assert site.rabbit.ctl("list_queues", "-p", "empty", "name").split() in ([], ["name"])


# -- what goes wrong: ours ---------------------------------------------------------------------


def test_an_option_that_is_none(site: Site, capsys: Capsys) -> None:
    assert "[consumer] topic is no option" in site.doctor(capsys, site.ours("topic = x"))["options"]
    assert "prefetch = 0" in site.doctor(capsys, site.ours("prefetch = 0"))["options"]


def test_a_redis_that_evicts(site: Site, capsys: Capsys) -> None:
    with site.redis.client() as client:
        client.config_set("maxmemory", 2**30)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert "allkeys-lru" in site.doctor(capsys)["redis eviction"]
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")


def test_a_redis_user_with_too_few_rights(site: Site, capsys: Capsys) -> None:
    with site.redis.client() as client:
        for name, commands in {"reader": ["+@read", "+info"], "nobody": []}.items():
            client.execute_command(
                "ACL", "SETUSER", name, "on", f">{PASSWORD}", "~*", "+client", *commands
            )
    url = site.redis.url.replace("//", "//{}:{}@")
    found = site.doctor(capsys, site.ours(redis=url.format("reader", PASSWORD)))
    assert "permission" in found["redis rights"].lower()
    found = site.doctor(capsys, site.ours(redis=url.format("nobody", PASSWORD)))
    assert "permission" in found["redis"].lower()
    found = site.doctor(capsys, site.ours(redis=url.format("reader", PASSWORD + "x")))
    assert "WRONGPASS" in found["redis"] or "invalid username" in found["redis"]


def test_a_schema_of_another_version(site: Site, capsys: Capsys) -> None:
    with site.redis.client() as client:
        client.set("{later}:schema", 99)
    config = site.ours("[bus_cache]\nkeyspace = later")
    assert "schema" in site.doctor(capsys, config)["redis schema"]


def test_a_bus_user_with_too_few_rights(site: Site, capsys: Capsys) -> None:
    site.rabbit.ctl("add_user", "few", PASSWORD)
    site.rabbit.ctl("set_permissions", "few", "^$", "^bus_cache", ".*")
    url = site.rabbit.url.replace("test:test", f"few:{PASSWORD}")
    found = site.doctor(capsys, site.ours(rabbit=url))
    assert "ACCESS_REFUSED" in found["bus rights"]
    found = site.doctor(capsys, site.ours(rabbit=url.replace(PASSWORD, PASSWORD + "x")))
    assert "ACCESS_REFUSED" in found["bus"]
    found = site.doctor(capsys, site.ours(rabbit=url + "nowhere"))
    assert "NOT_ALLOWED" in found["bus"]


def test_the_least_rights_are_enough(site: Site, capsys: Capsys) -> None:
    """With the consumer's own user, who may not ask how Nova's exchanges are declared."""
    for user in ("bus-cache-consumer", "bus-cache-agent"):
        site.rabbit.ctl("add_user", user, PASSWORD)
    site.rabbit.run(ETC / "rabbitmq" / "permissions.sh")
    url = site.rabbit.url.replace("test:test", f"bus-cache-consumer:{PASSWORD}")
    with site.speaking():
        assert site.doctor(capsys, site.ours(rabbit=url)) == {}
    rows = {row["check"]: row for row in json.loads(site.said)}
    assert "may not ask about nova, glance" in rows["declarations"]["found"]
    assert rows["notifications"]["verdict"] == "ok"


def test_declarations_that_differ(site: Site, capsys: Capsys) -> None:
    more = "[oslo_messaging_rabbit]\namqp_durable_queues = True"
    found = site.doctor(capsys, site.ours(more))
    assert "durable" in found["declarations"]
    found = site.doctor(capsys, site.ours("queue_expires = 100"))
    assert "x-expires" in found["declarations"]
    nova = site.nova(more="[oslo_messaging_rabbit]\namqp_durable_queues = True\n")
    found = site.doctor(capsys, None, "--nova-conf", str(nova))
    assert "durable is False here and True there" in found["declarations"]


def test_nobody_reads_our_queue(site: Site, capsys: Capsys) -> None:
    key = names.Keys("bus_cache").readers
    with site.redis.client() as client:
        [(_, until)] = client.zrange(key, 0, -1, withscores=True)
        assert 0 < until / 1000 - time.time() <= PRESENT
        site.consumer.stop()
        assert not client.exists(key)
    try:
        assert "nobody reads it" in site.doctor(capsys)["queue"]
    finally:
        site.consumer.start().reading(2)


def test_somebody_else_reads_our_queue(site: Site, capsys: Capsys) -> None:
    with site.redis.client() as client:
        wait_for(lambda: client.exists(names.Keys("bus_cache").readers))
    with site.rabbit.connect() as connection:
        connection.channel().basic_consume("bus_cache", callback=lambda message: None)
        found = site.doctor(capsys)
    assert "2 read bus_cache, but 1 bus-cache-consumers do" in found["readers"]
    assert "readers" not in site.doctor(capsys)


def test_a_queue_that_nobody_reads_grows(site: Site, capsys: Capsys) -> None:
    """The policy that bounds it is gone, or its bound is not reached: nobody can tell, so that it
    is shown, with what tells, and does not count."""
    site.rabbit.ctl("clear_operator_policy", "bound")
    try:
        with site.speaking():
            assert site.doctor(capsys) == {}
        (row,) = [row for row in json.loads(site.said) if row["check"] == "unread queues"]
        assert (row["verdict"], site.code) == ("not checked", 0)
        assert "versioned_notifications.info" in row["found"]
        [command] = re.findall(r"rabbitmqctl (\w+) -p VHOST", row["advice"])
        assert "bound" not in site.rabbit.ctl(command, "-p", "/")
    finally:
        bound = '{"max-length": 5}'
        site.rabbit.ctl("set_operator_policy", "--apply-to", "queues", "bound", QUEUES, bound)
    assert "bound" in site.rabbit.ctl(command, "-p", "/")


def test_one_of_two_brokers_is_down(site: Site, capsys: Capsys) -> None:
    """The rest is found out by the other one."""
    nobody = f"127.0.0.1:{servers.free_port()}"
    url = site.rabbit.url.replace("@", f"@{nobody},test:test@")
    with site.speaking():
        found = site.doctor(capsys, site.ours(rabbit=url))
    assert found["bus"].startswith(f"{nobody}: ")
    # consumers that name other brokers read another bus, as far as can be told
    assert set(found) == {"bus", "readers"}


def test_what_hangs_takes_bounded_time(
    site: Site, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker, and a Redis, that accept and never answer; and one whose answer never ends."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        urls = {"rabbit": f"rabbit://u:{PASSWORD}@{where}/", "redis": f"redis://{where}/0"}
        found = site.doctor(capsys, site.ours(**urls))
    assert "timed out" in found["bus"]
    assert "Timeout" in found["redis"]
    monkeypatch.setattr("consumers.doctor.PATIENCE", 1.0)
    with contextlib.closing(torment.Proxy(site.redis.port)) as proxy:
        proxy.shape = torment.endless
        found = site.doctor(capsys, site.ours(redis=f"redis://127.0.0.1:{proxy.port}/0"))
    assert "no answer within 3 s" in found["redis"]


# -- what goes wrong: Nova's ------------------------------------------------------------------


def test_nothing_is_heard(site: Site, capsys: Capsys) -> None:
    assert "none in 2 s" in site.doctor(capsys)["notifications"]


def test_what_is_heard_is_not_enough(site: Site, capsys: Capsys) -> None:
    """Unversioned notifications; and others on a topic that nobody reads here."""
    site.topic, site.payload = "notifications", {}
    with site.speaking():
        assert "Unversioned ones only" in site.doctor(capsys)["notifications"]
    site.topic, site.payload = "elsewhere", VERSIONED
    with site.speaking():
        assert "nova/elsewhere" in site.doctor(capsys)["notifications"]


def test_of_a_flood_a_part_is_looked_at(
    site: Site, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.doctor.MOST_HEARD", 3)
    with site.speaking():
        assert "notifications" not in site.doctor(capsys)
    assert "on nova/versioned_notifications (3)" in site.said


def test_a_clock_that_is_wrong(site: Site, capsys: Capsys) -> None:
    over = threading.Event()

    def speak() -> None:
        with site.rabbit.connect() as connection:
            channel = connection.channel()
            now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
            said = {
                "message_id": "1",
                "publisher_id": "nova-compute:cmp-late",
                "event_type": "instance.pause.end",
                "timestamp": str(now - datetime.timedelta(minutes=7)),
                "payload": VERSIONED,
            }
            while not over.wait(0.2):
                body = json.dumps(said)
                channel.basic_publish(amqp.Message(body), "nova", "versioned_notifications.info")

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        found = site.doctor(capsys)
    finally:
        over.set()
        thread.join()
    assert "nova-compute:cmp-late is 42" in found["clocks"]
    assert "behind" in found["clocks"]


@pytest.mark.parametrize(
    ("old", "new", "check", "expected"),
    [
        ("driver = messagingv2\n", "", "notifications in nova.conf", "driver is empty"),
        ("retry = 3", "retry = -1", "notifications in nova.conf", "retry is -1"),
        (
            "= versioned\n",
            "= versioned\nversioned_notifications_topics = x\n",
            "notifications in nova.conf",
            "is sent to x",
        ),
        (",weigher.ImageCacheWeigher", "", "weigher", "ours is not in it"),
        ("nova.scheduler.weights.all_weighers,", "", "weigher", "none of Nova's own"),
        (
            "[filter",
            "[image_cache_weigher]\nmultiplyer = 2\n[filter",
            "weigher options",
            "multiplyer is no option",
        ),
        (
            "[filter",
            "[image_cache_weigher]\nmultiplier = many\n[filter",
            "weigher options",
            "multiplier = many",
        ),
        (
            "[filter",
            "[image_cache_weigher]\ntime_budget = 9\n[filter",
            "weigher options",
            "time_budget is 9",
        ),
        (
            "[filter",
            "[bus_cache]\nkeyspace = other\n[filter",
            "weigher options",
            "reads keyspace other",
        ),
        (
            "[filter",
            f"[libvirt]\nimages_type = rbd\n[DEFAULT]\nhost = {HOST}\n[filter",
            "hosts without cache",
            f"{HOST} stands in the index",
        ),
    ],
)
def test_a_wrong_nova_conf(
    site: Site, capsys: Capsys, old: str, new: str, check: str, expected: str
) -> None:
    assert old in NOVA
    nova = site.nova(NOVA.replace(old, new))
    assert expected in site.doctor(capsys, None, "--nova-conf", str(nova))[check]


def test_notifications_that_go_to_another_broker(site: Site, capsys: Capsys) -> None:
    where = f"rabbit://nova:{PASSWORD}@192.0.2.1:5672/"
    nova = site.nova(NOVA.replace("retry = 3", f"retry = 3\ntransport_url = {where}"))
    found = site.doctor(capsys, None, "--nova-conf", str(nova))
    assert "go to rabbit://192.0.2.1:5672" in found["notifications in nova.conf"]
    found = site.doctor(capsys, None, "--nova-conf", str(site.folder / "absent.conf"))
    assert "absent.conf" in found["notifications in nova.conf"]


def test_hosts_of_ironics(site: Site, capsys: Capsys) -> None:
    site.api.ironic = [HOST]
    found = site.doctor(capsys, None, "--os-cloud", "chaos")
    assert f"{HOST} in the index is Ironic's" in found["hosts without cache"]


def test_the_index_is_not_what_nova_says(site: Site, capsys: Capsys) -> None:
    """A server whose boot was not heard; a host that is gone; an API that can't be asked."""
    other = SERVER.replace("a3", "b4")
    site.running = {**site.running, other: (HOST, IMAGE.replace("c0", "d1"))}
    found = site.doctor(capsys, None, "--os-cloud", "chaos")
    assert "image_missing 1" in found["index against nova"]
    # what was heard of within the last minute is left alone, and the set-up may be younger
    before = int(time.time() * 1000) - 120_000
    client = connect.connect(connect.parse(site.redis.url), connect_timeout=5, read_timeout=5)
    index = Writer(client, "bus_cache")
    assert index.apply([Held("cmp-gone", IMAGE, before, Source.CREATE)]) == []
    found = site.doctor(capsys, None, "--os-cloud", "chaos")
    assert "host_gone 1" in found["index against nova"]
    assert index.apply([HostDeleted("cmp-gone", before + 1)]) == []
    client.close()
    found = site.doctor(capsys, None, "--os-cloud", "nobody")
    assert "nobody" in found["index against nova"]
