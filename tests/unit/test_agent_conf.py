"""The agent's options, and that Nova's are as Nova has them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from bus_cache import conf as configuration
from bus_cache.agent import service
from bus_cache.conf import ConfigurationError, agent, nova, opts


def test_defaults(tmp_path: Path) -> None:
    """No option of the agent's has to be set."""
    path = tmp_path / "nova.conf"
    path.write_text("")
    conf = configuration.load("tester", ["--config-file", str(path)], opts.AGENT_GROUPS)
    assert dict(conf.agent) == {
        "inventory": "",
        "transport_url": "",
        "state_path": "/var/lib/bus_cache",
        "scan_interval": 60.0,
        "snapshot_interval": 300.0,
        "http_listen": "",
    }
    assert conf.agent.snapshot_interval == service.intervals(conf).snapshot


def test_helps_end_and_mutable_is_what_reload_reads() -> None:
    """Each says what it is, in sentences; intervals alone are read again."""
    assert all(option.help and option.help.endswith(".") for option in agent.OPTIONS)
    assert {option.dest for option in agent.OPTIONS if option.mutable} == {
        "scan_interval",
        "snapshot_interval",
    }


MODULES = {
    None: ("netconf", "paths", "compute"),
    "image_cache": ("imagecache",),
    "libvirt": ("libvirt",),
    "vmware": ("vmware",),
}


def novas(group: str | None) -> dict[str, cfg.Opt]:
    """Nova's options of a group, by name."""
    found: dict[str, cfg.Opt] = {}
    for name in MODULES[group]:
        listed: Any = importlib.import_module(f"nova.conf.{name}").list_opts()
        for where, options in listed.items():
            if getattr(where, "name", where) == (group or "DEFAULT"):
                found.update({option.name: option for option in options})
    return found


@pytest.mark.parametrize(
    ("group", "option"),
    [pytest.param(g, o, id=f"{g}-{o.name}") for g, options in nova.GROUPS for o in options],
)
def test_as_nova_has_it(group: str | None, option: cfg.Opt) -> None:
    """Names, types, defaults, older names: against Nova's own code."""
    theirs = novas(group)[option.name]
    if option.name not in ("state_path", "my_ip", "host"):  # where Nova is installed, runs
        assert option.default == theirs.default
    assert {(d.group, d.name or theirs.name) for d in option.deprecated_opts} == {
        (d.group, d.name or theirs.name) for d in theirs.deprecated_opts
    }
    for value in ("7", "true", "a b", "-1", "0"):
        try:
            expected = theirs.type(value)
        except ValueError:
            continue
        if option.name != "images_type":  # of any choice that a later Nova adds
            assert option.type(value) == expected


def test_every_value_is_checked_at_start(tmp_path: Path) -> None:
    """Not when it is first used."""
    path = tmp_path / "nova.conf"
    path.write_text("[image_cache]\nmanager_interval = never\n")
    with pytest.raises(
        ConfigurationError, match=r"\[image_cache\] manager_interval = never can't be used"
    ):
        service.load(["--config-file", str(path)])


def test_log_files_are_those_of_nova_compute(tmp_path: Path) -> None:
    """They count on the agent's own command line only."""
    path = tmp_path / "nova.conf"
    path.write_text("[DEFAULT]\nlog_dir = /var/log/nova\nlog_file = nova-compute.log\ndebug = 1\n")
    conf = service.load(["--config-file", str(path)])
    assert (conf.log_dir, conf.log_file, conf.debug) == (None, None, True)
    conf = service.load(["--config-file", str(path), "--log-file", f"{tmp_path}/agent.log"])
    assert (conf.log_dir, conf.log_file) == (None, f"{tmp_path}/agent.log")
