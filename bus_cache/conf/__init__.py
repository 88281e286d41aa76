"""Configuration: one module per group, read and checked at start.

Every program takes ``--config-file`` (several) and ``--config-dir``; the weigher reads
nova-scheduler's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
            try:
                conf[name][option.dest]
            except (cfg.ConfigFileValueError, ValueError) as error:
                reason = str(error.__cause__ or error)
                shown = "" if option.secret else f" = {_written(conf, name, option)}"
                raise ConfigurationError(
                    f"[{name}] {option.name}{shown} can't be used: {_last_reason(reason)}."
                ) from None


def _last_reason(message: str) -> str:
    """Return why, from oslo.config's 'Value for option X from Y is not valid: why'."""
    return message.rpartition("is not valid: ")[2].rstrip(".")


def _written(conf: cfg.ConfigOpts, group: str, option: cfg.Opt) -> str:
    """Return an option's value as it stands in the file, for a message about it."""
    raw = cfg.ConfigOpts()
    raw.register_opt(cfg.StrOpt(option.name, dest=option.dest), group=group)
    raw([], default_config_files=conf.config_file, default_config_dirs=conf.config_dirs)
    return str(raw[group][option.dest])


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
