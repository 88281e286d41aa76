"""A real Prometheus scrapes a real consumer and agent: each panel and each alert finds its data."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import yaml

from bus_cache.names import fingerprint
from tests import publisher, servers
from tests.compute_host import Host
from tests.program import Program, configuration
from tests.scheduler_process import SchedulerProcess

ROOT = Path(__file__).parents[2]
RULES = ROOT / "etc/prometheus/bus_cache.rules.yml"
DASHBOARD = ROOT / "etc/grafana/bus_cache.json"

_SELECTOR = re.compile(r"bus_cache_\w+(?:{[^}]*})?")


def panels() -> dict[str, str]:
    """Title and legend -> expression, as Grafana sends it for an hour at a step of 15 s."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m")
            found[f"{panel['title']}: {target['legendFormat']}"] = expression.replace(
                "$__range", "1h"
            )
    return found


def selectors() -> dict[str, str]:
    """Alert and selector -> selector: what an alert that does not fire is made from."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {
        f"{rule['alert']}: {selector}": selector
        for rule in group["rules"]
        for selector in _SELECTOR.findall(rule["expr"])
    }


def test_every_panel_and_every_alert_finds_data(
    rabbit: servers.RabbitMQ, redis_server: servers.Redis, tmp_path: Path
) -> None:
    ports = [servers.free_port(), servers.free_port()]
    # a cloud that is not there: comparisons fail, and are counted
    more = f"http_listen = 127.0.0.1:{ports[0]}\ncloud = nowhere\n"
    consumer = Program(tmp_path, configuration(rabbit.url, redis_server.url, more))
    host = Host(rabbit, tmp_path, "prometheus-host")
    host.configure(own=f"http_listen = 127.0.0.1:{ports[1]}")
    host.put(fingerprint("image"))
    cloud = publisher.Publisher(rabbit.url)
    files = tmp_path / "textfile"
    files.mkdir()
    targets = [f"127.0.0.1:{port}" for port in ports]
    try:
        consumer.start().reading()
        host.start()
        cloud.replay(publisher.recorded())
        with (
            servers.NodeExporter(files) as node,
            servers.Prometheus(*targets, f"127.0.0.1:{node.port}", rules=RULES) as prometheus,
            SchedulerProcess("threading", tmp_path) as scheduler,
        ):
            scheduler.open(redis_server.url, metrics_folder=str(files))
            scheduler.weigh(5)
            wanted = {**panels(), **selectors()}
            assert len(wanted) > 60

            def missing() -> list[str]:
                return [name for name, each in wanted.items() if not prometheus.query(each)]

            deadline = time.monotonic() + 90
            while missing() and time.monotonic() < deadline:
                time.sleep(1)
            assert missing() == []
            up: Any = prometheus.query("up")
            assert [each["value"][1] for each in up] == ["1", "1", "1"]
            # the rules are evaluated there, too, and none of them fails
            (group,) = prometheus.get("rules")["groups"]
            assert {rule["health"] for rule in group["rules"]} == {"ok"}
            firing = {each["labels"]["alertname"] for each in prometheus.get("alerts")["alerts"]}
            assert "BusCacheConsumerGone" not in firing
    finally:
        cloud.close()
        consumer.kill()
        if host.agent:
            host.agent.kill()
