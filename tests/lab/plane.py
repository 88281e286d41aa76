"""The control plane: brings up a real Nova and all that it needs on free loopback ports, and ends
it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests import servers
from tests.lab import configuration
from tests.lab.client import Api, Cloud, CloudError, admin_session, wait_until
from tests.lab.configuration import Addresses, NovaOptions
from tests.lab.libvirt import Libvirt

if TYPE_CHECKING:
    from typing_extensions import Self

PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
START_TIMEOUT = 120.0

#: Service -> the WSGI application that is its API.
APPLICATIONS = {
    "keystone": "keystone.wsgi.api:application",
    "placement": "placement.wsgi.api:application",
    "glance": "glance.wsgi.api:application",
    "nova": "nova.wsgi.osapi_compute:application",
}
#: Requests that an API answers at the same time. A download takes one of them for all its time.
THREADS = 16
DOWNLOADS = 64
DATABASES = ("keystone", "placement", "glance", "nova_api", "nova_cell0", "nova")

#: A line of Glance's access log (serve.py): an image was sent.
SERVED = re.compile(r'"GET /v2/images/([0-9a-f-]{36})/file HTTP/1\.1" 200 (\d+) ')


class LabError(RuntimeError):
    """The lab did not come up; the text ends with what the guilty program wrote."""


def in_parallel(*jobs: Callable[[], object]) -> None:
    """Run them side by side; the first error is ours, once all have ended."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


class ControlPlane:
    """One cloud with one cell: MariaDB, RabbitMQ, Redis, Keystone, Placement, Glance, Nova.

    It lives in one directory (``etc``, ``log``, ``state``), which is emptied at the start and left
    in place at the end. Its hosts are ``compute-1`` and so on with the lab's own driver, and
    ``virt-1`` and so on, which run real guests with the libvirt driver.
    """

    def __init__(
        self,
        directory: Path,
        computes: int = 6,
        options: NovaOptions | None = None,
        real_computes: int = 0,
    ) -> None:
        self.directory = directory.resolve()
        self.options = options or NovaOptions()
        real = [f"virt-{number}" for number in range(1, real_computes + 1)]
        self.hosts = [f"compute-{number}" for number in range(1, computes + 1)] + real
        self.processes: dict[str, servers.Process] = {}
        self._started = time.monotonic()

    # -- up and down

    def start(self) -> Self:
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.directory / "log").mkdir(parents=True)
        self.database = servers.MariaDB(self.state("mariadb"))
        self.rabbit = servers.RabbitMQ(directory=self.state("rabbitmq"))
        # Redis keeps its data over a restart, as an operator's would.
        self.redis = servers.Redis("--appendonly", "yes", directory=self.state("redis"))
        self.libvirts = {
            host: Libvirt(
                self.state("libvirt"),
                f"127.0.1.{number}",
                host + configuration.NODE_SUFFIX,
                shared=self.directory,
                instances=self.state(host) / "instances",
                common=self.state("instances"),
            )
            for number, host in enumerate(self.hosts, 1)
            if host.startswith("virt-")
        }
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_all(self) -> None:
        own = (self.database, self.rabbit, self.redis, *self.libvirts.values())
        in_parallel(*(server.start for server in own))
        self.rabbit.ctl(*configuration.QUEUE_POLICY)
        for name in DATABASES:
            self.database.execute(f"CREATE DATABASE {name} CHARACTER SET utf8")
        self.addresses = Addresses(
            database=self.database.url,
            transport=self.rabbit.url,
            redis=self.redis.url,
            ports={name: servers.free_port() for name in (*APPLICATIONS, "neutron")},
        )
        self._write_configuration()
        self._say("databases and message bus are up")
        in_parallel(
            self._start_identity,
            self._start_placement,
            self._start_glance,
            self._create_nova_databases,
            self._start_neutron_stub,
        )
        self._say("Keystone, Placement and Glance are up")
        self.start_nova()
        self._say(f"Nova is up with {len(self.hosts)} compute hosts")

    def stop(self) -> None:
        """End every process, clients before the servers that they need."""
        self.stop_nova()
        for name in list(self.processes):
            self.stop_service(name)
        for server in (*self.libvirts.values(), self.redis, self.rabbit, self.database):
            server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # -- paths and files

    def state(self, name: str) -> Path:
        path = self.directory / "state" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"

    def config(self, name: str) -> Path:
        """The configuration file of a service; a compute host's is named as the host."""
        folder = {"keystone": "keystone", "placement": "placement", "glance": "glance"}
        file_name = {"glance": "glance-api"}.get(name, name)
        return self.directory / "etc" / folder.get(name, "nova") / f"{file_name}.conf"

    @property
    def bus_cache_config(self) -> Path:
        return self.directory / "etc" / "bus_cache" / "bus_cache.conf"

    @property
    def downloads(self) -> Path:
        """What went through :meth:`slow_glance`."""
        return self.directory / "log" / "downloads.jsonl"

    def served(self) -> list[tuple[str, int]]:
        """The images that Glance sent, by its access log, and their bytes: from the begin on."""
        lines = self.log("glance").read_text(errors="replace")
        return [(image, int(size)) for image, size in SERVED.findall(lines)]

    def base(self, host: str) -> Path:
        """A compute host's image cache."""
        return self.state(host) / "instances" / "_base"

    def cached(self, host: str) -> set[str]:
        """The fingerprints of the images that a host's disk holds."""
        base = self.base(host)
        return {path.name for path in base.iterdir()} if base.exists() else set()

    def _write_configuration(self) -> None:
        addresses = self.addresses
        for name, sections in (
            ("keystone", configuration.keystone(addresses, self.state("keystone"))),
            ("placement", configuration.placement(addresses)),
            ("glance", configuration.glance(addresses, self.state("glance"))),
        ):
            configuration.write(self.config(name), sections)
        configuration.write(self.bus_cache_config, configuration.bus_cache(addresses))
        (self.directory / "openrc").write_text(
            f"export OS_AUTH_URL={addresses.urls['keystone']}\n"
            f"export OS_USERNAME={configuration.ADMIN} OS_PASSWORD={configuration.PASSWORD}\n"
            f"export OS_PROJECT_NAME={configuration.ADMIN} OS_USER_DOMAIN_ID=default\n"
            f"export OS_PROJECT_DOMAIN_ID=default OS_REGION_NAME={configuration.REGION}\n"
            "export OS_IDENTITY_API_VERSION=3\n"
        )
        self._write_nova_configuration()

    def _write_nova_configuration(self) -> None:
        self.config("nova").parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(configuration.SHIPPED / "nova" / "api-paste.ini", self.config("nova").parent)
        control, state = "control", self.state("control")
        sections = configuration.nova_control(self.addresses, control, state, self.options)
        configuration.write(self.config("nova"), sections)
        for host in self.hosts:
            common = (self.addresses, host, self.state(host), self.options)
            file = self.config(host)
            if host in self.libvirts:
                sections = configuration.nova_libvirt(*common, self.libvirts[host], file)
            else:
                sections = configuration.nova(*common)
            configuration.write(file, sections)

    # -- processes

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._started:5.1f} s  {what}", flush=True)

    def start_service(
        self, name: str, arguments: Iterable[str], environment: Mapping[str, str] | None = None
    ) -> servers.Process:
        """Start one more program; it is ended with the rest."""
        process = servers.Process(
            list(arguments),
            self.log(name),
            {**os.environ, "PYTHONWARNINGS": "ignore", **(environment or {})},
            PROJECT,
        )
        self.processes[name] = process
        return process

    def start_on_host(self, host: str, name: str, arguments: Sequence[str]) -> servers.Process:
        """Start one more program on a host with real guests."""
        libvirt = self.libvirts[host]
        return self.start_service(name, libvirt.on_host(arguments), libvirt.environment())

    def stop_service(self, name: str) -> None:
        """End one of the lab's programs; nothing where it does not run."""
        process = self.processes.pop(name, None)
        if process is not None:
            with contextlib.suppress(servers.ServerError):  # not all of Nova's end in time
                process.stop()

    def _run(self, name: str, *arguments: str) -> None:
        """Run one of the services' commands to its end."""
        path = self.log(name)
        with open(path, "ab") as output:
            done = subprocess.run(
                [str(PROGRAMS / arguments[0]), *arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                check=False,
            )
        if done.returncode:
            raise LabError(f"{' '.join(arguments)} failed:\n{servers.tail(path)}")

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            process = self.processes[name]
            if not process.running or time.monotonic() > deadline:
                raise LabError(f"{name} did not come up:\n{servers.tail(self.log(name))}")
            time.sleep(0.1)

    def _start_api(self, name: str, environment: Mapping[str, str], threads: int = THREADS) -> None:
        """Start a service's API and wait until it answers anything at all."""
        port = self.addresses.ports[name]
        python = [sys.executable, "-m", "tests.lab.serve"]
        arguments = (APPLICATIONS[name], str(port), str(threads))
        self.start_service(name, [*python, *arguments], environment)
        self._await(name, lambda: _answers(port))

    # -- services

    def _start_identity(self) -> None:
        config = ("--config-file", str(self.config("keystone")))
        self._run("keystone-manage", "keystone-manage", *config, "db_sync")
        user = () if os.geteuid() else ("--keystone-user", "root", "--keystone-group", "root")
        for command in ("fernet_setup", "credential_setup"):
            self._run("keystone-manage", "keystone-manage", *config, command, *user)
        url = self.addresses.urls["keystone"]
        self._run(
            "keystone-manage",
            *("keystone-manage", *config, "bootstrap"),
            *("--bootstrap-password", configuration.PASSWORD),
            *("--bootstrap-region-id", configuration.REGION),
            *("--bootstrap-public-url", url),
            *("--bootstrap-internal-url", url),
        )
        self._start_api("keystone", {"OS_KEYSTONE_CONFIG_FILES": str(self.config("keystone"))})
        self._fill_catalog()

    def _fill_catalog(self) -> None:
        """A user and a catalog entry for each service."""
        url = self.addresses.urls["keystone"]
        identity = Api(admin_session(url), endpoint_override=url)

        def create(kind: str, **fields: object) -> str:
            answer = identity.post(f"/{kind}s", json={kind: fields}).json()
            identifier: str = answer[kind]["id"]
            return identifier

        project = create("project", name="service", domain_id="default")
        roles = {role["name"]: role["id"] for role in identity.get("/roles").json()["roles"]}
        for user, service_type in configuration.CATALOG.items():
            user_id = create(
                "user", name=user, domain_id="default", password=configuration.PASSWORD
            )
            for role in ("admin", "service"):
                identity.put(f"/projects/{project}/users/{user_id}/roles/{roles[role]}")
            service_id = create("service", name=user, type=service_type)
            for interface in ("public", "internal"):
                create(
                    "endpoint",
                    interface=interface,
                    service_id=service_id,
                    url=self.addresses.urls[user],
                    region_id=configuration.REGION,
                )

    def _start_placement(self) -> None:
        config = str(self.config("placement"))
        self._run("placement-manage", "placement-manage", "--config-file", config, "db", "sync")
        directory = str(self.config("placement").parent)
        self._start_api("placement", {"OS_PLACEMENT_CONFIG_DIR": directory})

    def _start_glance(self) -> None:
        config = str(self.config("glance"))
        self._run("glance-manage", "glance-manage", "--config-file", config, "db_sync")
        directory = str(self.config("glance").parent)
        self._start_api("glance", {"OS_GLANCE_CONFIG_DIR": directory}, DOWNLOADS)

    def slow_glance(self, port: int, bandwidth: float) -> None:
        """Have Glance's images at one more port, behind a link of so many bytes a second."""
        glance = self.addresses.ports["glance"]
        arguments = (str(port), str(glance), str(bandwidth), str(self.downloads))
        self.start_service("throttle", [sys.executable, "-m", "tests.lab.throttle", *arguments])
        self._await("throttle", lambda: _answers(port))

    def _start_neutron_stub(self) -> None:
        port = self.addresses.ports["neutron"]
        stub = [sys.executable, "-m", "tests.lab.neutron_stub", str(port)]
        self.start_service("neutron", stub)
        self._await("neutron", lambda: _answers(port))

    def _create_nova_databases(self) -> None:
        def manage(*command: str) -> None:
            config = ("--config-file", str(self.config("nova")))
            self._run(f"nova-manage-{command[0]}", "nova-manage", *config, *command)

        manage("api_db", "sync")
        manage(
            *("cell_v2", "map_cell0"),
            *("--database_connection", f"{self.addresses.database}/nova_cell0"),
        )
        in_parallel(
            lambda: manage("db", "sync"),
            lambda: manage("cell_v2", "create_cell", "--name", "cell1"),
        )

    # -- Nova

    def start_nova(self) -> None:
        """Start Nova's services and the compute hosts, and wait until Nova can place servers."""
        config = ("--config-file", str(self.config("nova")))
        for name in ("nova-conductor", "nova-scheduler"):
            self.start_service(name, [str(PROGRAMS / name), *config])
        # A nova-compute that asks before the conductor listens waits ten seconds for an answer.
        self._await("nova-conductor", lambda: self.rabbit.has_queue("conductor"))
        for host in self.hosts:
            self.start_compute(host)
        self._start_api("nova", {"OS_NOVA_CONFIG_DIR": str(self.config("nova").parent)})
        self.cloud = Cloud(self.addresses.urls["keystone"])
        self.await_hosts(self.hosts)

    def start_compute(self, host: str) -> None:
        """Start one nova-compute without waiting for it."""
        config = ("--config-file", str(self.config(host)))
        if host in self.libvirts:
            process = self.start_on_host(host, host, [str(PROGRAMS / "nova-compute"), *config])
            self.libvirts[host].let_in(process.pid)
        else:
            self.start_service(host, [sys.executable, "-m", "tests.lab.compute", *config])

    def kill_compute(self, host: str) -> None:
        """End a nova-compute as a power failure would."""
        self.processes.pop(host).kill()

    def remove_compute(self, host: str) -> None:
        """Take a host out of the cloud: end its nova-compute, delete its service."""
        self.stop_service(host)
        self.cloud.delete_service(host)
        self.hosts.remove(host)

    def await_hosts(self, hosts: list[str]) -> None:
        """Until they listen, and Nova counts them among the hosts of its cell that are up."""

        def ready() -> bool:
            for name in (*hosts, "nova-conductor", "nova-scheduler"):
                if not self.processes[name].running:
                    raise LabError(f"{name} ended:\n{servers.tail(self.log(name))}")
            return not silent() and set(hosts) <= set(self.cloud.hosts())

        def silent() -> list[str]:
            return [host for host in hosts if not self.rabbit.has_queue(f"compute.{host}")]

        try:
            wait_until(ready, f"the hosts {', '.join(hosts)}", START_TIMEOUT, 0.3)
        except CloudError as error:
            guilty = (*silent(), "nova-scheduler")[0]  # the scheduler finds new hosts
            raise LabError(f"{error}\n{servers.tail(self.log(guilty))}") from None

    def stop_nova(self) -> None:
        """End Nova's services and the compute hosts, all at the same time."""
        names = ("nova", "nova-conductor", "nova-scheduler", *self.hosts)
        running = [name for name in names if name in self.processes]
        if running:
            in_parallel(*(partial(self.stop_service, name) for name in running))

    def restart_nova(self, hosts: Sequence[str], **change: object) -> None:
        """Start Nova anew with only these hosts and with other :class:`NovaOptions`."""
        for host in {*self.hosts, *hosts}:  # else Nova would count on the others for a while
            self.cloud.update_service(host, forced_down=host not in hosts)
        self.stop_nova()
        self.hosts = list(hosts)
        self.options = replace(self.options, **change)  # type: ignore[arg-type]
        self._write_nova_configuration()
        self.start_nova()

    # -- images

    def make_large(self, image_id: str, size: int) -> None:
        """Make an image as large as one likes without moving its bytes: its file becomes sparse.

        Glance has no call for that (every way in reads and hashes all the bytes), so its database
        is told, too.
        """
        os.truncate(self.state("glance") / "images" / image_id, size)
        self.database.execute(
            "UPDATE images SET size = %s, virtual_size = %s WHERE id = %s",
            *(size, size, image_id),
            database="glance",
        )


def _answers(port: int) -> bool:
    """Whether an HTTP server answers there, be it with an error of the application's."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
