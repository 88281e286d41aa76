"""What nova-scheduler's processes write for node_exporter, in native and in green threads."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.program import wait_for
from tests.scheduler_process import MODES, SchedulerProcess
from weigher import textfile


def exported(text: str) -> dict[str, float]:
    """Name of a sample of ours, with the outcome behind it -> value, summed over processes."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("bus_cache") and "le" not in sample.labels:
                name = " ".join([sample.name, *filter(None, [sample.labels.get("outcome")])])
                found[name] = found.get(name, 0) + sample.value
    return found


@pytest.mark.parametrize("mode", MODES)
def test_what_a_scheduler_did_is_exported(
    mode: str, redis_server: servers.Redis, tmp_path: Path
) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = folder / f"bus_cache_weigher_{gone.pid}.prom"
    left.write_text("bus_cache_weigher_redis_lost 1\n")
    other = folder / "other.prom"
    other.write_text("x 1\n")

    def scrape() -> dict[str, Any]:
        with urllib.request.urlopen(node.url, timeout=10) as answer:
            return exported(answer.read().decode())

    redis_server.client().flushall()
    with servers.NodeExporter(folder) as node, SchedulerProcess(mode, tmp_path) as scheduler:
        scheduler.open(redis_server.url, budget=5.0, metrics_folder=str(folder))
        scheduler.weigh(3)
        # the first file may be of the first call; the next one comes 10 s later
        found = wait_for(
            lambda: f if (f := scrape()).get("bus_cache_weigher_call_seconds_count") == 3 else None,
            60,
        )
        assert found["bus_cache_weigher_calls_total asked"] == 3
        assert found["bus_cache_weigher_calls_total unknown"] == 0
        assert found["bus_cache_weigher_redis_lost"] == 0
        assert not left.exists()
        assert other.exists()
        (path,) = folder.glob("bus_cache_weigher_*.prom")
        os.kill(int(path.stem.rpartition("_")[2]), 0)
        promtool = servers.program("promtool", "prometheus")
        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=path.read_text(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout + done.stderr == ""
        assert {each.name for each in textfile.METRICS} == {
            line.split()[2] for line in path.read_text().splitlines() if line.startswith("# TYPE")
        }
        redis_server.stop()
        try:
            scheduler.weigh(2)
            wait_for(lambda: scrape()["bus_cache_weigher_redis_lost"] == 1, 60)
            assert scrape()["bus_cache_weigher_calls_total unknown"] == 2
        finally:
            redis_server.start()


def test_a_folder_that_can_not_be_written_harms_nothing(
    redis_server: servers.Redis, tmp_path: Path
) -> None:
    redis_server.client().flushall()
    with SchedulerProcess("threading", tmp_path) as scheduler:
        scheduler.open(redis_server.url, budget=5.0, metrics_folder=str(tmp_path / "nothing"))
        found = scheduler.weigh(3, pause=0.5)
        assert found["wrong"] == 0
        assert found["counters"]["known"] == 3
        (line,) = [line for line in found["lines"] if "Metrics can't be written" in line]
        assert f"{tmp_path}/nothing/bus_cache_weigher_" in line
        assert "No such file or directory" in line
