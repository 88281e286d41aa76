"""oslo.messaging, imported without its noise, and its own options as every OpenStack service has
them."""

from __future__ import annotations

import warnings

from oslo_config import cfg

with warnings.catch_warnings():
    # oslo.messaging's server imports oslo.service, and that eventlet where it is installed, which
    # warns of itself. Nothing here uses either.
    warnings.simplefilter("ignore")
    import oslo_messaging
    import oslo_messaging.opts

__all__ = ["OPTIONS", "oslo_messaging", "register"]

OPTIONS: dict[str | None, dict[str, cfg.Opt]] = {
    group: {option.dest: option for option in options}
    for group, options in oslo_messaging.opts.list_opts()
}
"""Group -> name -> option; group None is [DEFAULT]."""

_ELSEWHERE = {
    "oslo_messaging_metrics": "metrics_enabled",
    "oslo_messaging_tracing": "tracing_enabled",
}
"""oslo.messaging registers these with the global configuration alone, and looks for them in
whatever configuration it is given. Nothing here does either."""


def register(conf: cfg.ConfigOpts) -> None:
    """Register all of oslo.messaging's options; twice does no harm."""
    for group, options in OPTIONS.items():
        conf.register_opts(list(options.values()), group=group)
    for group, name in _ELSEWHERE.items():
        conf.register_opts([cfg.BoolOpt(name, default=False)], group=group)
        conf.set_override(name, False, group=group)
