"""The one file of assumptions, parameters.yaml, as values: the same for all policies."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import yaml

GBIT = 1e9 / 8
"""Bytes per second."""

FILE = pathlib.Path(__file__).with_name("parameters.yaml")


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Units and sources are in parameters.yaml."""

    glance_bandwidth: float
    host_bandwidth: float
    stream_bandwidth: float
    disk_write_bandwidth: float
    conversion_speed: float
    boot_seconds: float
    boot_jitter: float
    max_concurrent_builds: int
    manager_interval: float
    minimum_age: float
    resource_update_interval: float
    cpu_allocation_ratio: float
    reserved_host_memory: int
    scheduler_workers: int
    requests_at_once: int
    request_waiting: float
    request_work: float
    request_work_per_host: float
    weigh_work: float
    weigh_work_per_host: float
    claim_waiting: float
    dispatch_seconds: float
    dispatch_each_seconds: float
    agents: bool
    index_lag: float
    host_generations: int
    host_vcpus: int
    host_ram: int
    host_disk: int


def load(**changed: Any) -> Parameters:
    """Read the file; what is named in ``changed`` and not None replaces its value.

    :raises ValueError: a value is not positive, or the file and the fields differ.
    """
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    values = {name: entry["value"] for name, entry in entries.items()}
    values.update((name, value) for name, value in changed.items() if value is not None)
    fields = {field.name for field in dataclasses.fields(Parameters)}
    if values.keys() != fields:
        raise ValueError(f"{FILE.name}: {sorted(values.keys() ^ fields)} missing or unknown")
    for name, value in values.items():
        if value is not False and not value > 0:
            raise ValueError(f"{name} is {value:g}: it must be above 0")
    return Parameters(**values)
