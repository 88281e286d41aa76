"""Writes the part of nova.conf that the agent reads into a file of its own.

For an agent that runs as a user who may not read nova.conf, where other services' passwords are.
"""

from __future__ import annotations

import os
from pathlib import Path

from oslo_config import cfg

from bus_cache import conf as configuration
from bus_cache.agent import publisher
from bus_cache.conf import ConfigurationError, nova


def _read_by_agent() -> list[tuple[str | None, cfg.Opt]]:
    """Return (group, option) of all that is copied: Nova's, and how to reach the bus."""
    found = [(group, option) for group, options in nova.GROUPS for option in options]
    for group, options in publisher.OPTIONS.items():
        whole = group == "oslo_messaging_rabbit"
        found += [(group, each) for each in options if whole or each.dest == "transport_url"]
    return found


def text(conf: cfg.ConfigOpts) -> str:
    """Return the options that are set in the files, as they stand there, with what they refer to
    filled in."""
    raw = cfg.ConfigOpts()
    options = _read_by_agent()
    for group, option in options:
        copy = cfg.StrOpt(
            option.name,
            default=None if group else option.default,  # what other values may refer to
            deprecated_opts=option.deprecated_opts,
        )
        raw.register_opt(copy, group=group)
    raw([], default_config_files=conf.config_file, default_config_dirs=conf.config_dirs)
    sections: dict[str, list[str]] = {}
    own = bool(conf.agent.transport_url)  # then Nova's user at the broker is none of its business
    for group, option in options:
        if own and option.dest == "transport_url":
            continue
        if publisher.is_set(raw, group, option.dest):
            value = str(configuration.value(raw, group, option))
            # "$" would be read as the beginning of another option's name
            line = f"{option.name} = {value}".replace("$", "$$").replace("\n", "\n  ")
            sections.setdefault(group or "DEFAULT", []).append(line)
    lines = ["# Written by bus-cache-agent --write-excerpt from nova.conf. Do not edit."]
    for section, rows in sections.items():
        lines += ["", f"[{section}]", *rows]
    return "\n".join(lines) + "\n"


def write(conf: cfg.ConfigOpts, target: Path) -> None:
    """Write the excerpt, readable by the owner and the group of the folder that it is in.

    :raises ConfigurationError: it can't be written.
    """
    beside = target.with_name(target.name + ".new")
    try:
        group = target.parent.stat().st_gid
        beside.unlink(missing_ok=True)
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text(conf))
            if os.geteuid() == 0:
                os.fchown(file.fileno(), 0, group)
            os.fchmod(file.fileno(), 0o640)
        beside.replace(target)
    except OSError as error:
        raise ConfigurationError(f"{target} can't be written: {error.strerror}.") from None
