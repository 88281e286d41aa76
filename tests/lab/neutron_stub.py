"""The one service of the lab that is not real: a Neutron without networks or ports.

Nova asks Neutron about every server, even one that has no network; without an answer its API
answers 500. ``python -m tests.lab.neutron_stub PORT``; requests are logged to standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import waitress

EMPTY_LISTS = ("extensions", "floatingips", "networks", "ports", "routers", "subnets")
SECURITY_GROUP = {
    "id": "00000000-0000-0000-0000-0000000000aa",
    "name": "default",
    "description": "",
    "project_id": "lab",
    "tenant_id": "lab",
    "security_group_rules": [],
}


def answer(path: str, host: str) -> dict[str, Any] | None:
    """What Neutron without any network says to a GET; None where it knows nothing of the path."""
    leaf = path.rstrip("/").rpartition("/")[2].removesuffix(".json")
    if not leaf:
        link = {"rel": "self", "href": f"http://{host}/v2.0/"}
        return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}
    if leaf == "v2.0":
        return {"resources": []}
    if leaf in EMPTY_LISTS:
        return {leaf: []}
    if leaf == "security-groups":
        return {"security_groups": [SECURITY_GROUP]}
    if "/quotas" in path:
        return {"quota": dict.fromkeys(("port", "network", "floatingip", "security_group"), -1)}
    return None


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    found = answer(path, environ["HTTP_HOST"]) if method == "GET" else None
    status = "404 Not Found" if found is None else "200 OK"
    print(method, path, environ.get("QUERY_STRING", ""), status, flush=True)
    error = {"NeutronError": {"type": "NotFound", "message": path, "detail": ""}}
    body = json.dumps(error if found is None else found).encode()
    start_response(
        status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]


if __name__ == "__main__":
    waitress.serve(application, host="127.0.0.1", port=int(sys.argv[1]))
