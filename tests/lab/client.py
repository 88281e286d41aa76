"""The lab's cloud as its administrator uses it: the few API calls that the scenario needs.

Every call that starts something in Nova waits until Nova says that it is done.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import requests
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity import V3Password
from keystoneauth1.session import Session

from tests.lab import configuration

TIMEOUT = 90.0

#: An action's name, or its whole body where it takes more than Null.
Action = str | dict[str, Any]


class CloudError(RuntimeError):
    """The cloud did not do what it was asked to do."""


class Refused(CloudError):
    """A service's API answered with an error; the text is its own."""

    def __init__(self, method: str, path: str, response: requests.Response) -> None:
        super().__init__(f"{method} {path}: {response.status_code} {response.text.strip()}")
        self.status = response.status_code


def wait_until(
    condition: Callable[[], object], what: str, timeout: float = TIMEOUT, interval: float = 0.1
) -> None:
    """Ask until the answer is true; an error that says what was waited for if that takes long."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise CloudError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(interval)


def admin_session(auth_url: str) -> Session:
    """A session of the administrator."""
    return Session(
        V3Password(
            auth_url=auth_url,
            username=configuration.ADMIN,
            password=configuration.PASSWORD,
            project_name=configuration.ADMIN,
            user_domain_id="default",
            project_domain_id="default",
        )
    )


class Api(Adapter):
    """One service's API; keystoneauth's own exceptions leave out what the service says."""

    def request(self, url: str, method: str, **options: Any) -> requests.Response:
        response: requests.Response = super().request(url, method, raise_exc=False, **options)
        if response.status_code >= 400:
            raise Refused(method, url, response)
        return response


class Server:
    """One server (instance), as its API shows it at the time of the call."""

    def __init__(self, cloud: Cloud, server_id: str) -> None:
        self.cloud = cloud
        self.id = server_id

    def show(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.cloud.nova.get(f"/servers/{self.id}").json()["server"]
        return answer

    @property
    def host(self) -> str:
        host: str = self.show()["OS-EXT-SRV-ATTR:host"]
        return host

    @property
    def image(self) -> str:
        image: str = self.show()["image"]["id"]
        return image

    def wait(self, status: str = "ACTIVE") -> Server:
        """Until it has this status and nothing is being done with it."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            shown = self.show()
            if shown["status"] == status and shown["OS-EXT-STS:task_state"] is None:
                return self
            if shown["status"] == "ERROR" or time.monotonic() > deadline:
                raise CloudError(
                    f"server {shown['name']} is {shown['status']} "
                    f"({shown['OS-EXT-STS:task_state']}), not {status}: {shown.get('fault')}"
                )
            time.sleep(self.cloud.interval)

    def act(self, action: Action, then: str = "ACTIVE") -> Server:
        """Do something with it and wait until that is done, with this status after it."""
        body = {action: None} if isinstance(action, str) else action
        self.cloud.nova.post(f"/servers/{self.id}/action", json=body)
        return self.wait(then)  # Nova's API marks the server as busy before it answers

    def delete(self) -> None:
        self.cloud.nova.delete(f"/servers/{self.id}")
        wait_until(self._gone, f"the deletion of server {self.id}")

    def _gone(self) -> bool:
        try:
            self.show()
        except Refused as error:
            if error.status == 404:
                return True
            raise
        return False


class Cloud:
    """The administrator's view of the whole cloud; it asks for a server every ``interval``
    seconds until that is as it should be."""

    def __init__(self, auth_url: str, interval: float = 0.1) -> None:
        self.interval = interval
        session = admin_session(auth_url)

        def api(service_type: str, microversion: str | None = None) -> Api:
            return Api(
                session,
                service_type=service_type,
                region_name=configuration.REGION,
                default_microversion=microversion,
            )

        self.nova = api("compute", "2.96")
        self.glance = api("image")

    # -- servers

    def boot(self, name: str, image: str, flavor: str = "small", host: str | None = None) -> Server:
        """Ask for one server and return at once."""
        server: dict[str, Any] = {
            "name": name,
            "imageRef": image,
            "flavorRef": flavor,
            "networks": "none",
        }
        if host:
            server["host"] = host
        answer = self.nova.post("/servers", json={"server": server}).json()
        return Server(self, answer["server"]["id"])

    def boot_many(self, name: str, image: str, count: int, flavor: str = "small") -> list[Server]:
        """Ask for several servers in one request."""
        body = {
            "name": name,
            "imageRef": image,
            "flavorRef": flavor,
            "networks": "none",
            "min_count": count,
            "max_count": count,
            "return_reservation_id": True,
        }
        answer = self.nova.post("/servers", json={"server": body}).json()
        found = f"/servers?reservation_id={answer['reservation_id']}"
        return [Server(self, server["id"]) for server in self.nova.get(found).json()["servers"]]

    def servers(self, host: str | None = None) -> list[Server]:
        """All servers, or those of one host."""
        where = f"?all_tenants=1&host={host}" if host else "?all_tenants=1"
        return [Server(self, s["id"]) for s in self.nova.get(f"/servers{where}").json()["servers"]]

    def delete_servers(self, servers: Sequence[Server]) -> None:
        """Delete them all, side by side."""
        for server in servers:
            self.nova.delete(f"/servers/{server.id}")
        for server in servers:
            wait_until(server._gone, f"the deletion of server {server.id}")

    def create_flavor(self, name: str, ram: int, disk: int, vcpus: int = 1) -> None:
        flavor = {"id": name, "name": name, "ram": ram, "disk": disk, "vcpus": vcpus}
        self.nova.post("/flavors", json={"flavor": flavor})

    # -- hosts

    def hosts(self) -> list[str]:
        """The compute hosts on which the scheduler may place servers."""
        # Only what this list needs comes from the database; more detail is asked of the hosts.
        listed = self.nova.get("/os-hypervisors").json()["hypervisors"]
        nodes = [node["hypervisor_hostname"] for node in listed if node["state"] == "up"]
        return sorted(node.removesuffix(configuration.NODE_SUFFIX) for node in nodes)

    def service_id(self, host: str) -> str:
        listed = self.nova.get(f"/os-services?binary=nova-compute&host={host}").json()["services"]
        service_id: str = listed[0]["id"]
        return service_id

    def update_service(self, host: str, **change: object) -> None:
        """``forced_down=True`` says that a host is dead; ``status="disabled"`` takes it out."""
        self.nova.put(f"/os-services/{self.service_id(host)}", json=change)

    def accept_again(self, host: str) -> None:
        """Take an evacuated host back; Nova refuses until the host has cleaned up after itself."""

        def accepted() -> bool:
            try:
                self.update_service(host, forced_down=False)
            except Refused:
                return False
            return True

        wait_until(accepted, f"the return of {host}", interval=0.5)

    def delete_service(self, host: str) -> None:
        self.nova.delete(f"/os-services/{self.service_id(host)}")

    def create_aggregate(self, hosts: Sequence[str]) -> int:
        """Make an aggregate of hosts; its name does not matter to anybody."""
        name = f"aggregate-{uuid.uuid4()}"
        answer = self.nova.post("/os-aggregates", json={"aggregate": {"name": name}}).json()
        aggregate_id: int = answer["aggregate"]["id"]
        for host in hosts:
            self.nova.post(
                f"/os-aggregates/{aggregate_id}/action", json={"add_host": {"host": host}}
            )
        return aggregate_id

    def set_aggregate_metadata(self, aggregate_id: int, metadata: dict[str, str | None]) -> None:
        self.nova.post(
            f"/os-aggregates/{aggregate_id}/action", json={"set_metadata": {"metadata": metadata}}
        )

    def cache_images(self, aggregate_id: int, images: Sequence[str]) -> None:
        """Have an aggregate's hosts fetch images; Nova goes on with it in the background."""
        body = {"cache": [{"id": image} for image in images]}
        self.nova.post(f"/os-aggregates/{aggregate_id}/images", json=body)

    # -- images

    def create_image(
        self,
        image_id: str,
        name: str,
        content: bytes,
        disk_format: str = "raw",
        **properties: str,
    ) -> str:
        body = {
            "id": image_id,
            "name": name,
            "disk_format": disk_format,
            "container_format": "bare",
            "visibility": "public",
            **properties,
        }
        self.glance.post("/v2/images", json=body)
        self.glance.put(
            f"/v2/images/{image_id}/file",
            data=content,
            headers={"Content-Type": "application/octet-stream"},
        )
        return image_id

    def images(self) -> list[str]:
        return [image["id"] for image in self.glance.get("/v2/images").json()["images"]]

    def delete_image(self, image_id: str) -> None:
        self.glance.delete(f"/v2/images/{image_id}")
