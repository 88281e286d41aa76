"""Configuration: one module per group, read and checked at start.

Every program takes ``--config-file`` (several) and ``--config-dir``; the weigher reads
nova-scheduler's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg

import bus_cache
from bus_cache import connect
from bus_cache.conf import common
from bus_cache.conf.text import one_line


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
        raise ConfigurationError(one_line(error)) from None
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
        reason = one_line(str(error).rpartition("is not valid: ")[2]).rstrip(".")
    else:
        if found is not None or option.default is None:
            return found
        reason = "it is empty"
    written = "" if option.secret else f" = {one_line(_written(conf, group, option))[:100]}"
    raise ConfigurationError(
        f"[{group or 'DEFAULT'}] {option.name}{written} can't be used: {reason}."
    )


def unknown(conf: cfg.ConfigOpts, groups: Iterable[tuple[str, list[cfg.Opt]]]) -> list[str]:
    """Return a sentence for each name in our groups of the files that is no option.

    oslo.config takes no notice of these, and so of a name that was mistyped.
    """
    known = {name: {option.dest for option in options} for name, options in groups}
    found = []
    files = [Path(name) for name in conf.config_file or ()]
    for folder in conf.config_dirs:
        files += sorted(Path(folder).glob("*.conf"))
    for file in files:
        sections: dict[str, dict[str, Any]] = {}
        cfg.ConfigParser(str(file), sections).parse()
        for group, options in known.items():
            for name in sections.get(group, {}):
                if name.replace("-", "_") not in options:
                    found.append(
                        f"{file}: [{group}] {one_line(name)} is no option of this version, and "
                        "has no effect."
                    )
    return found


def _written(conf: cfg.ConfigOpts, group: str | None, option: cfg.Opt) -> str:
    """Return an option's value as it stands in the file, for a message about it."""
    raw = cfg.ConfigOpts()
    raw.register_opt(cfg.StrOpt(option.name, dest=option.dest), group=group)
    raw([], default_config_files=conf.config_file, default_config_dirs=conf.config_dirs)
    try:
        return str((raw if group is None else raw[group])[option.dest])
    except cfg.NoSuchOptError as error:
        return f"${error.opt_name}"


def tls_files(conf: cfg.ConfigOpts) -> connect.Tls:
    """Return the files that ``[bus_cache]`` names for TLS to Redis."""
    group = conf[common.GROUP]
    return connect.Tls(group.tls_ca_file, group.tls_cert_file, group.tls_key_file)


def redis_client(
    conf: cfg.ConfigOpts,
    *,
    client_name: str = "bus-cache",
    on_connection: Callable[[connect.Connection], None] | None = None,
) -> connect.Client:
    """Return a client for the Redis that ``[bus_cache]`` names.

    :param on_connection: see :func:`bus_cache.connect.connect`.
    """
    group = conf[common.GROUP]
    return connect.connect(
        connect.parse(group.redis_url),
        connect_timeout=group.connect_timeout,
        read_timeout=group.read_timeout,
        tls=tls_files(conf),
        sentinel_username=group.sentinel_username,
        sentinel_password=group.sentinel_password,
        client_name=client_name,
        on_connection=on_connection,
    )
