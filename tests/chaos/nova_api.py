"""A stand-in for Keystone and Nova's API over HTTP: what consumer and command line ask for."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers import LOOPBACK

Servers = Callable[[], dict[str, tuple[str, str]]]
"""Server id -> host, image."""


class NovaApi:
    """Serves until closed; ``clouds_yaml`` names it ``chaos``."""

    def __init__(self, hosts: Callable[[], list[str]], servers: Servers) -> None:
        """Take what is asked at each request."""
        self.listings = 0
        self.ironic: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                query = urllib.parse.parse_qs(url.query)
                self._answer(*outer.get(url.path.rstrip("/"), query))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(201, outer.token(), {"X-Subject-Token": "token"})

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def _answer(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
                text = json.dumps(body).encode()
                self.send_response(code)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing of a client that was killed in the middle."""

        self._hosts, self._servers = hosts, servers
        self._http = Quiet((LOOPBACK, 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def clouds_yaml(self, path: Path) -> Path:
        """Write credentials."""
        auth = {
            "auth_url": f"{self.url}/v3",
            "username": "admin",
            "password": "secret",
            "project_name": "admin",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }
        path.write_text(
            json.dumps({"clouds": {"chaos": {"auth": auth, "region_name": "RegionOne"}}})
        )
        return path

    def token(self) -> Any:
        endpoint = {
            "id": "1",
            "interface": "public",
            "region": "RegionOne",
            "region_id": "RegionOne",
            "url": f"{self.url}/compute/v2.1",
        }
        catalog = [{"type": "compute", "name": "nova", "id": "1", "endpoints": [endpoint]}]
        domain = {"id": "default", "name": "Default"}
        return {
            "token": {
                "methods": ["password"],
                "expires_at": "2100-01-01T00:00:00.000000Z",
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "user": {"id": "1", "name": "admin", "domain": domain},
                "project": {"id": "1", "name": "admin", "domain": domain},
                "roles": [{"id": "1", "name": "admin"}],
                "catalog": catalog,
            }
        }

    def get(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        links = [{"rel": "self", "href": f"{self.url}{path}/"}]
        if path == "/v3":
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": links}}
        if path == "/compute/v2.1":
            versions = {"version": "2.96", "min_version": "2.1"}
            return 200, {"version": {"id": "v2.1", "status": "CURRENT", "links": links, **versions}}
        hosts = self._hosts()
        if path.endswith("/os-services"):
            return 200, {"services": [_service(host) for host in hosts]}
        if path.endswith("/os-hypervisors/detail"):
            found = [] if "marker" in query else hosts
            return 200, {"hypervisors": [_hypervisor(each, each in self.ironic) for each in found]}
        return self._get_servers(path, query)

    def _get_servers(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        servers = self._servers()
        if path.endswith("/servers/detail"):
            self.listings += 1
            only = query.get("host")
            ids = sorted(each for each in servers if only is None or servers[each][0] in only)
            after = query.get("marker", [""])[0]
            limit = int(query.get("limit", ["1000"])[0])
            page = [each for each in ids if each > after][:limit]
            return 200, {"servers": [_server(each, *servers[each]) for each in page]}
        if path.rpartition("/")[2] in servers:
            return 200, {"server": {}}
        return 404, {"itemNotFound": {"code": 404, "message": "Instance could not be found."}}


def _service(host: str) -> dict[str, str]:
    return {"binary": "nova-compute", "host": host, "state": "up", "status": "enabled"}


def _hypervisor(host: str, ironic: bool) -> dict[str, Any]:
    kind = "ironic" if ironic else "QEMU"
    return {
        "id": f"id-{host}",
        "hypervisor_type": kind,
        "service": {"host": host},
        "current_workload": 0,
        "free_ram_mb": 65536,
    }


def _server(server: str, host: str, image: str) -> dict[str, Any]:
    return {
        "id": server,
        "image": {"id": image},
        "OS-EXT-SRV-ATTR:host": host,
        "OS-EXT-STS:task_state": None,
        "OS-EXT-STS:vm_state": "active",
        "OS-SRV-USG:launched_at": "2026-01-01T00:00:00.000000",
    }
