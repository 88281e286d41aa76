"""What Nova's API really says, and what a reconciliation makes of it: in a cloud of its own.

No consumer runs until the end: whatever is in the index, the API said it. The tests build on each
other and run in the order of this file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bus_cache import connect
from bus_cache.index.changes import Held, InUse, Source
from bus_cache.index.writer import Writer
from consumers import nova_api
from consumers.nova_api import NovaApi
from simulator import trace
from tests import keyspace, servers
from tests.lab import configuration, many
from tests.lab.client import Api, Server, admin_session, wait_until
from tests.lab.configuration import NovaOptions
from tests.lab.plane import PROGRAMS, PROJECT, ControlPlane
from tests.lab.scenario import fingerprint, image_id

pytestmark = pytest.mark.lab

EXTRA: configuration.Sections = {
    "DEFAULT": {"reclaim_instance_interval": 86400, "service_down_time": 3600},
    # a cell that is away is given up soon
    "database": {"max_retries": 1, "retry_interval": 1},
}
IMAGES = ("first", "second", "third")


class Cloud:
    """The lab, and bus-cache with the administrator's credentials."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.nova = plane.cloud
        self.servers: dict[str, Server] = {}

    def environment(self, user: str = configuration.ADMIN, **change: str) -> dict[str, str]:
        return {
            **os.environ,
            "OS_AUTH_URL": self.plane.addresses.urls["keystone"],
            "OS_USERNAME": user,
            "OS_PASSWORD": configuration.PASSWORD,
            "OS_PROJECT_NAME": configuration.ADMIN,
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_DOMAIN_ID": "default",
            "OS_REGION_NAME": configuration.REGION,
            **change,
        }

    def sync(self, *arguments: str, user: str = configuration.ADMIN) -> tuple[int, Any, str]:
        """Exit code, rows, and what stderr says."""
        done = subprocess.run(
            [
                *(str(PROGRAMS / "bus-cache"), "sync", "-f", "json", *arguments),
                *("--config-file", str(self.plane.bus_cache_config)),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(user),
        )
        rows = json.loads(done.stdout) if done.stdout.strip() else None
        return done.returncode, rows, done.stderr

    def explain(self, image: str, *arguments: str, config: Path | None = None) -> Any:
        """The rows of ``bus-cache explain``, with the administrator's credentials."""
        configs = [self.plane.bus_cache_config, *([config] if config else [])]
        done = subprocess.run(
            [
                *(str(PROGRAMS / "bus-cache"), "explain", image_id(image), "-f", "json"),
                *("--os-cloud", "envvars", *arguments),
                *(text for each in configs for text in ("--config-file", str(each))),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def doctor(self) -> dict[str, tuple[str, str]]:
        """Verdict and finding of each check of ``bus-cache doctor``."""
        done = subprocess.run(
            [
                *(str(PROGRAMS / "bus-cache"), "doctor", "-f", "json", "--seconds", "3"),
                *("--os-cloud", "envvars", "--nova-conf", str(self.plane.config("nova"))),
                *("--config-file", str(self.plane.bus_cache_config)),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
        )
        assert done.returncode in (0, 3), done.stderr
        return {row["check"]: (row["verdict"], row["found"]) for row in json.loads(done.stdout)}

    def index(self) -> dict[str, Any]:
        with self.plane.redis.client() as client:
            return keyspace.everything(client)

    def writer(self, keyspace: str = "bus_cache") -> Writer:
        client = connect.connect(
            connect.parse(self.plane.addresses.redis), connect_timeout=5, read_timeout=30
        )
        return Writer(client, keyspace)

    def boot(self, name: str, image: str, host: str) -> Server:
        server = self.nova.boot(name, image_id(image), host=host).wait()
        self.servers[name] = server
        return server

    def uses(self, host: str) -> Mapping[str, str]:
        uses: Mapping[str, str] = self.index()["uses"].get(host, {})
        return uses

    def manage(self, *arguments: str, returns: int = 0) -> None:
        config = ("--config-file", str(self.plane.config("nova")))
        done = subprocess.run(
            [str(PROGRAMS / "nova-manage"), *config, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == returns, done.stderr


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    directory = PROJECT / "build" / "lab-sync"
    with ControlPlane(directory, 3, NovaOptions(extra=EXTRA)) as plane:
        cloud = Cloud(plane)
        cloud.nova.create_flavor("small", ram=128, disk=1)
        for name in IMAGES:
            cloud.nova.create_image(image_id(name), name, name.encode() * 1000)
        yield cloud


@pytest.fixture
def api(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> NovaApi:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return NovaApi()


def listed(api: NovaApi) -> dict[str, nova_api.Server]:
    servers = [server for page in api.servers() for server in page]
    assert len({each.id for each in servers}) == len(servers)
    return {each.id: each for each in servers}


def test_an_empty_index_is_filled_with_what_lies_on_the_disks(cloud: Cloud) -> None:
    cloud.boot("one", "first", "compute-1")
    cloud.boot("two", "first", "compute-2")
    cloud.boot("three", "second", "compute-2")
    cloud.boot("four", "third", "compute-3")
    code, rows, said = cloud.sync()
    assert (code, rows) == (0, [])
    assert "4 servers on 3 hosts" in said
    assert "the index was empty and is filled" in said
    sets = cloud.index()["sets"]
    for host in cloud.plane.hosts:
        assert {image for image, hosts in sets.items() if host in hosts} == cloud.plane.cached(host)
    assert cloud.uses("compute-2") == {
        cloud.servers["two"].id: fingerprint(image_id("first")),
        cloud.servers["three"].id: fingerprint(image_id("second")),
    }
    code, rows, said = cloud.sync("--repair")
    assert (code, rows, "no drift" in said) == (0, [], True)


def test_explain_takes_hosts_builds_and_free_ram_from_nova(
    cloud: Cloud, api: NovaApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two of three hosts hold the image; a server of much RAM gains less on the fuller one."""
    of_nova = api.hypervisors()
    assert set(of_nova) == {"compute-1", "compute-2", "compute-3"}
    monkeypatch.setattr(nova_api, "PAGE", 2)
    assert api.hypervisors() == of_nova
    rows = {row["host"]: row for row in cloud.explain("first", "--size", "8G", "--ram", "20000")}
    assert {host: (row["builds"], row["free_ram_mb"]) for host, row in rows.items()} == of_nova
    assert {row["builds"] for row in rows.values()} == {0}
    images = {host: row["image"] for host, row in rows.items()}
    assert images == {"compute-1": "held", "compute-2": "held", "compute-3": "-"}
    weights = [rows[host]["weight"] for host in sorted(rows)]
    assert 1 > weights[0] > weights[1] > weights[2] == 0
    # hosts of which the index knows nothing yet are candidates too
    now = int(time.time() * 1000)
    cloud.writer("young").apply([Held("compute-2", image_id("first"), now, Source.SERVER)])
    young = tmp_path / "young.conf"
    young.write_text("[bus_cache]\nkeyspace = young\n")
    known = cloud.explain("first", "--size", "8G", config=young)
    assert [(row["host"], row["image"], row["weight"] > 0) for row in known] == [
        ("compute-2", "held", True),
        ("compute-1", "-", False),
        ("compute-3", "-", False),
    ]
    with cloud.plane.redis.client() as client:
        client.delete(*client.keys("{young}:*"))


def test_all_pages_are_read(api: NovaApi, monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> None:
    whole = listed(api)
    assert set(whole) == {server.id for server in cloud.servers.values()}
    monkeypatch.setattr(nova_api, "PAGE", 2)
    assert [len(page) for page in api.servers()] == [2, 2]
    assert listed(api) == whole


def test_the_last_server_of_a_page_may_vanish_before_the_next_one_is_read(
    cloud: Cloud, api: NovaApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = cloud.nova.boot("doomed", image_id("first"), host="compute-1").wait()
    time.sleep(1)  # what was made in one second comes in no order
    cloud.boot("five", "first", "compute-1")
    monkeypatch.setattr(nova_api, "PAGE", 2)
    pages = iter(api.servers())
    first = [server.id for server in next(pages)]
    assert first == [cloud.servers["five"].id, doomed.id]  # the newest come first
    force_delete(cloud, doomed)
    # 1: something was archived
    cloud.manage("db", "archive_deleted_rows", "--until-complete", returns=1)
    rest = [server.id for page in pages for server in page]
    assert {*first, *rest} == {doomed.id, *(each.id for each in cloud.servers.values())}


def force_delete(cloud: Cloud, server: Server) -> None:
    cloud.nova.nova.post(f"/servers/{server.id}/action", json={"forceDelete": None})
    wait_until(server._gone, "the deletion of a server")


def test_a_soft_deleted_server_still_uses_its_image(cloud: Cloud, api: NovaApi) -> None:
    server = cloud.servers["five"]
    cloud.nova.nova.delete(f"/servers/{server.id}")
    wait_until(lambda: server.show()["status"] == "SOFT_DELETED", "a soft deletion")
    assert listed(api)[server.id].state == "soft-delete"
    code, _, _ = cloud.sync("--repair")
    assert (code, server.id in cloud.uses("compute-1")) == (0, True)
    force_delete(cloud, cloud.servers.pop("five"))


def test_a_server_that_is_gone_is_drift_until_it_is_mended(cloud: Cloud) -> None:
    cloud.servers["six"] = six = cloud.nova.boot("six", image_id("first")).wait()
    host = six.host
    cloud.writer().apply([InUse(host, six.id, six.image, milliseconds() - 120_000)])
    force_delete(cloud, cloud.servers.pop("six"))
    gone = [row for row in cloud.sync()[1] if row["subject"] == six.id]
    assert gone == [
        {
            "kind": "server_gone",
            "host": host,
            "subject": six.id,
            "index": f"uses {fingerprint(image_id('first'))}",
            "nova": "not there",
        }
    ]
    assert cloud.sync()[0] == 3
    assert cloud.sync("--repair")[0] == 0
    assert cloud.sync()[:2] == (0, [])
    assert six.id not in cloud.uses(host)


def milliseconds() -> int:
    return int(time.time() * 1000)


def test_a_resized_server_keeps_its_image_on_the_source(cloud: Cloud) -> None:
    """As long as the resize, or cold migration, is not confirmed."""
    server = cloud.servers["one"]
    # else its use is younger than what is left to notifications
    cloud.writer().apply(
        [InUse("compute-1", server.id, image_id("first"), milliseconds() - 70_000)]
    )
    server.act({"migrate": {"host": "compute-2"}}, then="VERIFY_RESIZE")
    assert cloud.sync("--repair")[0] == 0
    assert server.id in cloud.uses("compute-1")
    assert server.id in cloud.uses("compute-2")
    server.act("confirmResize")
    code, rows, _ = cloud.sync()
    assert (code, [(row["kind"], row["host"]) for row in rows]) == (
        3,
        [("server_gone", "compute-1")],
    )
    assert cloud.sync("--repair")[0] == 0
    assert server.id not in cloud.uses("compute-1")


def test_a_shelved_server_is_on_no_host(cloud: Cloud, api: NovaApi) -> None:
    server = cloud.servers["three"]
    server.act("shelve", then="SHELVED_OFFLOADED")
    shelved = listed(api)[server.id]
    assert (shelved.host, shelved.state) == ("", "shelved_offloaded")
    code, rows, _ = cloud.sync("--repair")
    assert (code, [(row["kind"], row["subject"]) for row in rows]) == (
        0,
        [("server_gone", server.id)],
    )


def test_a_compute_that_nova_counts_as_down(cloud: Cloud, api: NovaApi) -> None:
    cloud.nova.update_service("compute-3", forced_down=True)
    services = api.services()
    assert services.up == {"compute-1": True, "compute-2": True, "compute-3": False}
    assert services.unknown == set()
    cloud.nova.accept_again("compute-3")
    assert api.services().up["compute-3"]


def test_a_user_without_the_role_is_told_which_one(cloud: Cloud) -> None:
    identity = Api(
        admin_session(cloud.plane.addresses.urls["keystone"]),
        endpoint_override=cloud.plane.addresses.urls["keystone"],
    )
    user = {"name": "somebody", "domain_id": "default", "password": configuration.PASSWORD}
    user_id = identity.post("/users", json={"user": user}).json()["user"]["id"]
    roles = {role["name"]: role["id"] for role in identity.get("/roles").json()["roles"]}
    projects = {each["name"]: each["id"] for each in identity.get("/projects").json()["projects"]}
    identity.put(f"/projects/{projects['admin']}/users/{user_id}/roles/{roles['member']}")
    code, rows, said = cloud.sync(user="somebody")
    assert (code, rows, said.count("\n")) == (1, None, 1)
    assert "role admin" in said
    assert "os_compute_api:" in said
    assert "403" not in said


def test_a_host_without_service_leaves(cloud: Cloud) -> None:
    server = cloud.servers.pop("four")
    force_delete(cloud, server)
    cloud.plane.remove_compute("compute-3")
    code, rows, _ = cloud.sync()
    assert (code, [(row["kind"], row["host"]) for row in rows]) == (3, [("host_gone", "compute-3")])
    assert cloud.sync("--repair")[0] == 0
    index = cloud.index()
    assert "compute-3" not in index["hosts"]
    assert "compute-3" in index["gone"] or "host:compute-3" in index["gone"]


def test_the_consumer_fills_an_empty_keyspace_by_itself(cloud: Cloud) -> None:
    with cloud.plane.redis.client() as client:
        client.flushall()
    path = cloud.plane.bus_cache_config
    path.write_text(path.read_text() + "\n[consumer]\ncloud = envvars\n")
    program = [str(PROGRAMS / "bus-cache-consumer"), "--config-file", str(path)]
    environment = {
        name: value for name, value in cloud.environment().items() if name.startswith("OS_")
    }
    cloud.plane.start_service("bus-cache-consumer", program, environment)
    expected = {fingerprint(image_id("first")): {"compute-2"}}
    wait_until(lambda: cloud.index()["sets"] == expected, "the consumer to ask Nova's API")
    assert cloud.plane.processes.pop("bus-cache-consumer").stop() == 0
    assert cloud.sync()[0] == 0


def test_the_doctor_compares_with_nova(cloud: Cloud) -> None:
    """Services, hypervisors and servers of Nova's API, and its nova.conf."""
    found = cloud.doctor()
    for check in ("redis", "bus", "exchanges", "index against nova", "hosts without cache"):
        assert found[check][0] == "ok", (check, found[check])
    assert found["weigher"][0] == "problem", found["weigher"]  # this nova.conf has none
    # a host becomes Ironic's, and a server is known that is none
    gone = str(uuid.uuid4())
    cloud.writer().apply([InUse("compute-2", gone, image_id("first"), milliseconds() - 120_000)])
    for _ in range(3):
        cloud.plane.database.execute(
            "UPDATE compute_nodes SET hypervisor_type = 'ironic' WHERE host = 'compute-2'",
            database="nova",
        )
        found = cloud.doctor()
        if found["hosts without cache"][0] != "ok":
            break  # else nova-compute wrote its record in between, as it does each minute
    assert found["hosts without cache"][0] == "warning", found["hosts without cache"]
    assert "compute-2" in found["hosts without cache"][1]
    assert found["index against nova"][0] == "warning", found["index against nova"]
    assert gone in found["index against nova"][1]
    assert cloud.sync("--repair")[0] == 0


def test_the_documented_query_gives_a_trace(cloud: Cloud, tmp_path: Path) -> None:
    """As ``mysql --batch`` prints it, it is one that the simulator reads: of servers that live, and
    of some that are gone."""
    page = (Path(__file__).parents[2] / "docs/placement.md").read_text()
    _, _, rest = page.partition("```sql\n")
    database = cloud.plane.database
    client = shutil.which("mariadb") or shutil.which("mysql")
    assert client
    printed = subprocess.run(
        [
            *(client, "--batch", f"--host={servers.LOOPBACK}", f"--port={database.port}"),
            *("--skip-ssl", f"--user={database.user}", f"--password={database.password}"),
        ],
        input=rest.partition("```")[0],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path = tmp_path / "trace.csv"
    path.write_text(printed.replace("\t", ","))
    requests = trace.read(path)
    assert {each.lifetime_s is None for each in requests} == {True, False}
    assert {each.image for each in requests} <= {image_id(name) for name in IMAGES}


def test_many_servers(cloud: Cloud) -> None:
    """Two thousand rows in Nova's databases; 50,000 take minutes: python -m tests.lab.many."""
    many.multiply(cloud.plane.config("nova"), servers=2000, hosts=50, images=20)
    code, rows, said = cloud.sync("--repair")
    assert (code, "2003 servers on 52 hosts" in said) == (0, True), said
    # server n is on host n % 50 and of image n % 20
    assert len([row for row in rows if row["kind"] == "image_missing"]) == 100
    assert len([row for row in rows if row["kind"] == "server_missing"]) == 2000
    assert cloud.sync()[:2] == (0, [])


def test_nothing_is_taken_out_while_a_cell_does_not_answer(cloud: Cloud, api: NovaApi) -> None:
    """A cell whose database is not there, and a host that Nova has put into it."""
    plane = cloud.plane
    cloud.manage(
        *("cell_v2", "create_cell", "--name", "away", "--transport-url", "fake:///"),
        *("--database_connection", "mysql+pymysql://nobody:x@127.0.0.1:1/nova"),
    )
    plane.database.execute(
        "INSERT INTO host_mappings (host, cell_id) SELECT 'away-1', id FROM cell_mappings "
        "WHERE name = 'away'",
        database="nova_api",
    )
    plane.stop_service("nova")  # it learns of cells when it starts
    plane._start_api("nova", {"OS_NOVA_CONFIG_DIR": str(plane.config("nova").parent)})
    services = api.services()
    assert services.unknown == {"away-1"}
    assert "compute-1" in services.up
    gone = str(uuid.uuid4())
    cloud.writer().apply([InUse("compute-1", gone, image_id("first"), milliseconds() - 120_000)])
    code, rows, said = cloud.sync("--repair")
    assert (code, rows) == (0, [])
    assert "1 hosts are in cells that do not answer" in said
    assert gone in cloud.uses("compute-1")
