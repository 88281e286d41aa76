"""Configuration: one module per group, read and checked at start.

Every program takes ``--config-file`` (several) and ``--config-dir``; the weigher reads
nova-scheduler's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from oslo_config import cfg

import bus_cache
from bus_cache import connect
from bus_cache.conf import common


class ConfigurationError(Exception):
    """A value that can't be used; its text is one sentence that names option and value."""


def load(
    program: str,
    arguments: Sequence[str] | None,
    groups: Iterable[tuple[str, list[cfg.Opt]]],
    register_others: Callable[[cfg.ConfigOpts], None] | None = None,
) -> cfg.ConfigOpts:
    """Read a program's command line and files and check every option of our groups.

    :param program: its name; ``/etc/bus_cache/bus_cache.conf`` is read where no file is named.
    :param arguments: the command line without the program's name; None: the process's own.
    :param groups: (name, options) of each group of ours that the program uses.
    :param register_others: registers the options of libraries (logging, oslo.messaging).
    :raises ConfigurationError: for the first value that can't be used.
    """
    conf = cfg.ConfigOpts()
    register(conf, groups)
    if register_others:
        register_others(conf)
    try:
        conf(
            arguments,
            project="bus_cache",
            prog=program,
            version=bus_cache.__version__,
            default_config_files=cfg.find_config_files("bus_cache", "bus_cache"),
        )
    except cfg.ConfigFilesNotFoundError as error:
        raise ConfigurationError(f"{error}.") from None
    except cfg.Error as error:
        raise ConfigurationError(" ".join(str(error).split())) from None
    except UnicodeDecodeError as error:
        files = " ".join(arguments or ())
        raise ConfigurationError(
            f"A configuration file is no UTF-8 text ({files}): {error}."
        ) from None
    check(conf, groups)
    return conf


def register(conf: cfg.ConfigOpts, groups: Iterable[tuple[str, list[cfg.Opt]]]) -> None:
    """Register groups of options; twice does no harm."""
    for name, options in groups:
        conf.register_opts(options, group=name)


def check(conf: cfg.ConfigOpts, groups: Iterable[tuple[str, list[cfg.Opt]]]) -> None:
    """Read every option of the groups once.

    :raises ConfigurationError: for the first that can't be used; a secret's value is not shown.
    """
    for name, options in groups:
        for option in options:
            value(conf, name, option)


def value(conf: cfg.ConfigOpts, group: str | None, option: cfg.Opt) -> Any:
    """Return an option's value; group None is [DEFAULT].

    :raises ConfigurationError: it can't be used; a secret's value is not shown.
    """
    try:
        found = (conf if group is None else conf[group])[option.dest]
    except cfg.NoSuchOptError:
        reason = "'$' starts the name of another option, and there is none of this name; write $$"
    except (cfg.Error, ValueError) as error:
        # oslo.config says 'Value for option X from Y is not valid: why'
        reason = str(error).rpartition("is not valid: ")[2].rstrip(".")
    else:
        if found is not None or option.default is None:
            return found
        reason = "it is empty"
    written = "" if option.secret else f" = {_written(conf, group, option)}"
    raise ConfigurationError(
        f"[{group or 'DEFAULT'}] {option.name}{written} can't be used: {reason}."
    )


def _written(conf: cfg.ConfigOpts, group: str | None, option: cfg.Opt) -> str:
    """Return an option's value as it stands in the file, for a message about it."""
    raw = cfg.ConfigOpts()
    raw.register_opt(cfg.StrOpt(option.name, dest=option.dest), group=group)
    raw([], default_config_files=conf.config_file, default_config_dirs=conf.config_dirs)
    try:
        return str((raw if group is None else raw[group])[option.dest])
    except cfg.NoSuchOptError as error:
        return f"${error.opt_name}"


def redis_client(
    conf: cfg.ConfigOpts, *, most_seconds: float | None = None, client_name: str = "bus-cache"
) -> connect.Client:
    """Return a client for the Redis that ``[bus_cache]`` names.

    :param most_seconds: an upper bound for both timeouts, for a caller that may not wait.
    """
    group = conf[common.GROUP]
    bound = most_seconds if most_seconds is not None else float("inf")
    return connect.connect(
        connect.parse(group.redis_url),
        connect_timeout=min(group.connect_timeout, bound),
        read_timeout=min(group.read_timeout, bound),
        tls=connect.Tls(group.tls_ca_file, group.tls_cert_file, group.tls_key_file),
        sentinel_username=group.sentinel_username,
        sentinel_password=group.sentinel_password,
        client_name=client_name,
    )
