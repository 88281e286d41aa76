"""What Nova's API says of servers and compute services. The one module that talks to it.

Credentials are what every OpenStack client reads: ``clouds.yaml`` and ``OS_*`` (openstacksdk).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import bus_cache
from bus_cache.conf.text import one_line

if TYPE_CHECKING:
    import openstack.connection

SERVERS_MICROVERSION = "2.1"
"""The oldest: it has all that is needed here, and costs Nova a fifth less than later ones."""

SERVICES_MICROVERSION = "2.69"
"""Nova's of Stein: the first that lists the compute services of a cell that does not answer."""

HYPERVISORS_MICROVERSION = "2.53"
"""Nova's of Pike: has what 2.88 took out of the list of hypervisors, free RAM and work in hand."""

PAGE = 500
"""Of one answer: servers (some two seconds of work of one of Nova's API processes), hypervisors."""

TIMEOUT = 300.0
"""Seconds for an answer. Nova itself waits 60 s for each of a page's queries in a cell."""

_RETRIES: dict[str, Any] = {
    "connect_retries": 3,
    "status_code_retries": 3,
    "retriable_status_codes": [502, 503, 504],
}
"""One proxy's hiccup does not cost a listing of a hundred pages."""

_HOST = "OS-EXT-SRV-ATTR:host"


class ApiError(Exception):
    """Nova's API can't be asked, or does not tell what is needed; the text says why, on one
    line."""


class Server(NamedTuple):
    """A server: what Nova's API says of it, under the names that Nova uses inside.

    :ivar host: empty where it is on none.
    :ivar image: empty where it was booted from a volume.
    :ivar task: what is being done with it; None: nothing.
    :ivar state: Nova's ``vm_state``.
    :ivar launched: it has run at least once.
    """

    id: str
    host: str
    image: str
    task: str | None
    state: str
    launched: bool


class Services(NamedTuple):
    """The compute services: host -> whether nova-compute is up; and hosts of cells that do not
    answer, of which nothing more is known."""

    up: Mapping[str, bool]
    unknown: frozenset[str]


class NovaApi:
    """Asks one cloud's Nova, in one region."""

    def __init__(self, cloud: str = "") -> None:
        """Take the name of a cloud in ``clouds.yaml``; nothing is sent yet.

        :param cloud: empty: ``OS_CLOUD`` or the other ``OS_*`` variables, as openstacksdk has it.
        :raises ApiError: there are no credentials, or openstacksdk is not installed.
        """
        self._connection = _connect(cloud)

    def services(self) -> Services:
        """Return all nova-compute services of all cells.

        :raises ApiError: they can't be listed.
        """
        answer = self._get(
            "/os-services",
            {"binary": "nova-compute"},
            SERVICES_MICROVERSION,
            "compute services",
            "os_compute_api:os-services:list",
        )
        up, unknown = {}, set()
        for row in _rows(answer, "services"):
            # UNKNOWN: in a cell that does not answer (nova/api/openstack/compute/services.py)
            if row.get("binary") != "nova-compute" or not isinstance(row.get("host"), str):
                continue
            if row.get("status") == "UNKNOWN":
                unknown.add(row["host"])
            else:
                up[row["host"]] = row.get("state") == "up"  # down, too, where it is forced down
        return Services(up, frozenset(unknown))

    def servers(self, host: str = "") -> Iterator[list[Server]]:
        """Yield all servers of all projects, page by page; the soft-deleted ones, too.

        :param host: only of this host; empty: of all.

        A soft-deleted server still is on its host, and Nova's cache manager counts its image as
        used (nova/compute/manager.py, ``_run_image_cache_manager_pass``). What is created meanwhile
        may be missing; what is deleted meanwhile may be listed. Servers of a cell that does not
        answer are left out without a word, since the list is paged
        (nova/api/openstack/compute/servers.py, ``_is_cell_down_supported``).

        :raises ApiError: they can't be listed.
        """
        before: list[str] = []
        while True:
            rows = _rows(self._page(before, host), "servers")
            if not rows:
                return
            yield [_server(row) for row in rows]
            before = [row["id"] for row in rows]

    def hypervisors(self) -> dict[str, tuple[int, int]]:
        """Return host -> how many servers are in work there, and its free RAM in MiB.

        As the scheduler's HostState has them, of a host's first hypervisor; but its number of
        builds (``io_workload``) is not told, only ``current_workload``: servers of which Nova does
        anything (nova/compute/stats.py).

        :raises ApiError: they can't be listed.
        """
        found: dict[str, tuple[int, int]] = {}
        for row in self._list_hypervisors(HYPERVISORS_MICROVERSION):
            service = row.get("service")
            host = service.get("host") if isinstance(service, dict) else None
            work, free = row.get("current_workload"), row.get("free_ram_mb")
            if isinstance(host, str) and isinstance(work, int) and isinstance(free, int):
                found.setdefault(host, (work, free))
        return found

    def exists(self, server: str) -> bool:
        """Return whether a server is there, soft-deleted or not: False only where its cell says no.

        Where that cell does not answer, Nova fails (nova/compute/api.py,
        ``_get_instance_from_cell``).

        :raises ApiError: it can't be told.
        """
        try:
            self._get(
                f"/servers/{server}",
                {},
                SERVERS_MICROVERSION,
                "a server",
                "os_compute_api:servers:show",
            )
        except _ServerNotFound:
            return False
        return True

    def ironic(self) -> frozenset[str]:
        """Return the hosts whose nova-compute drives Ironic, and so caches no images.

        Nova says ``ironic`` for these (nova/virt/ironic/driver.py, ``_get_hypervisor_type``).

        :raises ApiError: they can't be listed.
        """
        services = [
            row.get("service")
            for row in self._list_hypervisors(SERVICES_MICROVERSION)
            if row.get("hypervisor_type") == "ironic"
        ]
        return frozenset(str(each.get("host")) for each in services if isinstance(each, dict))

    def _list_hypervisors(self, microversion: str) -> Iterator[dict[str, Any]]:
        """Yield them page by page: Nova lists ``[api] max_limit`` of them at once, 1000."""
        query: dict[str, Any] = {"limit": PAGE}
        while True:
            answer = self._get(
                "/os-hypervisors/detail",
                query,
                microversion,
                "hypervisors",
                "os_compute_api:os-hypervisors:list-detail",
            )
            rows = _rows(answer, "hypervisors")
            if not rows:
                return
            yield from rows
            query["marker"] = rows[-1].get("id")

    def _page(self, before: list[str], host: str) -> Any:
        """Return what comes after the page of these ids.

        A server whose row is archived meanwhile can be no marker: then the one before it is.
        """
        query: dict[str, Any] = {"all_tenants": "1", "soft_deleted": "1", "limit": PAGE}
        if host:
            query["host"] = host
        failure: ApiError | None = None
        for marker in reversed(before) if before else (None,):
            if marker is not None:
                query["marker"] = marker
            try:
                return self._get(
                    "/servers/detail",
                    query,
                    SERVERS_MICROVERSION,
                    "servers of all projects",
                    "os_compute_api:servers:detail:get_all_tenants",
                )
            except _MarkerNotFound as error:
                failure = error
        raise failure or ApiError("no page")

    def _get(
        self, path: str, query: dict[str, Any], microversion: str, what: str, policy: str
    ) -> Any:
        import keystoneauth1.exceptions  # noqa: PLC0415 (an extra)
        import openstack.exceptions  # noqa: PLC0415

        try:
            answer = self._connection.compute.get(
                path, params=query, microversion=microversion, **_RETRIES
            )
            if answer.status_code == 200:
                return answer.json()
        except (
            keystoneauth1.exceptions.ClientException,
            openstack.exceptions.SDKException,
            ValueError,
        ) as error:
            raise ApiError(f"Nova's API can't be asked for {what}: {one_line(error)}") from error
        said = one_line(answer.text)
        if answer.status_code == 400 and "marker" in query and "marker" in said:
            raise _MarkerNotFound(f"Nova can't go on listing {what}: {said}")
        if answer.status_code == 404 and "itemNotFound" in said:  # by Nova, not by a proxy
            raise _ServerNotFound(f"Nova knows no such thing when asked for {what}: {said}")
        if answer.status_code == 403:
            raise ApiError(
                f"Nova refuses to list {what}: these credentials need the role admin, or what its "
                f"policy {policy} asks for"
            )
        raise ApiError(f"Nova's API answers {answer.status_code} when asked for {what}: {said}")


class _MarkerNotFound(ApiError):
    """The server after which to go on is not in Nova's database any more."""


class _ServerNotFound(ApiError):
    """Nova has no such server."""


def _connect(cloud: str) -> openstack.connection.Connection:
    try:
        import keystoneauth1.exceptions  # noqa: PLC0415 (an extra)
        import openstack  # noqa: PLC0415
        import openstack.exceptions  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ApiError(
            f"{error.name} is not installed: Nova's API needs pip install 'bus-cache[cli]' or "
            "'bus-cache[consumer]'"
        ) from error
    try:
        return openstack.connect(
            cloud=cloud or None,
            app_name="bus-cache",
            app_version=bus_cache.__version__,
            api_timeout=TIMEOUT,
        )
    except (
        keystoneauth1.exceptions.ClientException,
        openstack.exceptions.SDKException,
        OSError,
    ) as error:
        raise ApiError(
            f"no usable credentials for Nova's API: {one_line(error)} (clouds.yaml, OS_*)"
        ) from error


def _rows(answer: Any, name: str) -> list[dict[str, Any]]:
    rows = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ApiError(f"Nova's API answered with no list of {name}")
    return rows


def _server(row: Mapping[str, Any]) -> Server:
    if _HOST not in row:
        raise ApiError(
            "Nova lists servers without their hosts: these credentials need the role admin, or "
            "what its policy os_compute_api:os-extended-server-attributes asks for"
        )
    image = row.get("image")
    return Server(
        str(row["id"]),
        row[_HOST] or "",
        str(image.get("id") or "") if isinstance(image, dict) else "",
        row.get("OS-EXT-STS:task_state"),
        str(row.get("OS-EXT-STS:vm_state")),
        bool(row.get("OS-SRV-USG:launched_at")),
    )
