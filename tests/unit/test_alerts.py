"""Alerts: as Prometheus' own tool tries them, and each with a page for whoever is woken by it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from tests import servers

ROOT = Path(__file__).parents[2]
RULES = ROOT / "etc/prometheus/bus_cache.rules.yml"
TESTS = ROOT / "tests/prometheus/rules.test.yml"


def alerts() -> dict[str, dict[str, str]]:
    """Name of an alert -> its annotations."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["annotations"] for rule in group["rules"]}


def test_promtool_finds_each_alert_firing_where_it_should() -> None:
    promtool = servers.program("promtool", "prometheus")
    for what in (["check", "rules", str(RULES)], ["test", "rules", str(TESTS)]):
        done = subprocess.run([promtool, *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried_and_has_its_page() -> None:
    tried = TESTS.read_text()
    index = (ROOT / "docs/runbooks/README.md").read_text()
    for name, about in alerts().items():
        assert f'alertname="{name}"' in tried
        assert about["runbook"] == f"docs/runbooks/{name}.md"
        page = (ROOT / about["runbook"]).read_text()
        assert page.startswith(f"# {name}\n")
        assert f"({name}.md)" in index
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("BusCache*.md")}
    assert pages == alerts().keys()
