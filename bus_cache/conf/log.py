"""Sets a program's logging up as oslo.log's options say; what can't be used is a sentence."""

from __future__ import annotations

from oslo_config import cfg
from oslo_log import log as logging

import bus_cache
from bus_cache.conf import ConfigurationError


def set_up(conf: cfg.ConfigOpts, program: str) -> None:
    """Log from now on as a program of this name.

    :raises ConfigurationError: the log file can't be written.
    """
    try:
        logging.setup(conf, program, bus_cache.__version__)
    except OSError as error:
        raise ConfigurationError(
            f"can't write to a log file: {error}. Is its folder there? Where nova.conf's log_dir "
            "counts, an empty log_dir in a later --config-file logs to stderr"
        ) from error
