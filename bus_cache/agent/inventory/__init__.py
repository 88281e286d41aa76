"""Inventory drivers: what a host's image cache holds, one driver per way to keep one.

A driver is a class, found by stevedore in the namespace :data:`NAMESPACE` under the name that
``[agent] inventory`` says, or else that belongs to Nova's ``compute_driver``.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, cast

from oslo_config import cfg
from stevedore import driver as stevedore_driver
from stevedore import exception as stevedore_exception

from bus_cache.conf import ConfigurationError, agent
from bus_cache.protocol import CachedImage, Inventory

NAMESPACE = "bus_cache.inventory"

_DRIVERS = {"vmwareapi": "vmware"}
"""Package of a ``compute_driver`` in nova/virt -> our driver, where the names differ."""


_CACHE_NOTHING = ("fake", "ironic")
"""Packages of drivers of Nova that fetch no images to their host."""


class Unreadable(Exception):
    """The cache can't be listed for now; the text says why, on one line. It is tried again."""


class Driver(abc.ABC):
    """Lists a host's image cache, and tells when to look again."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration: the agent's own, and Nova's as nova.conf has it.

        :raises bus_cache.conf.ConfigurationError: the driver can't work with it.
        """
        self.conf = conf

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Where the cache is, for people: a folder, a datastore."""

    @property
    def caches_nothing(self) -> str:
        """Why this host never caches an image, for people; empty where it may."""
        return ""

    @abc.abstractmethod
    def list(self) -> Inventory:
        """Return all that is in the cache now; nothing where the cache does not exist yet.

        One entry that may not be read is left out, and logged once. What could not be read says
        nothing of what is there: it never makes an image look gone.

        :raises Unreadable: the cache, or an entry of it, can't be read for now.
        """

    def watch(self, changed: Callable[[str | None], None]) -> None:  # noqa: B027 - not all can
        """Begin to call ``changed``, from another thread, within milliseconds after a change.

        It is given the fingerprint of the image that may have changed, or None for: list
        everything. A driver that can't watch does nothing here: it is listed at each
        ``[agent] scan_interval``.
        """

    def look(self, fingerprint: str) -> tuple[CachedImage | None, bool]:
        """Return one image as it is now, None where it is not there, and whether it is on its way.

        :raises Unreadable: it can't be told for now.
        """
        found = self.list()
        image = next((each for each in found.images if each.fingerprint == fingerprint), None)
        return image, fingerprint in found.fetching

    def close(self) -> None:  # noqa: B027 - not all have to
        """Stop watching."""


class Nothing(Driver):
    """Of a host that caches no images."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration."""
        super().__init__(conf)
        self._compute_driver = conf.compute_driver

    @property
    def place(self) -> str:
        """Nowhere."""
        return "no cache"

    @property
    def caches_nothing(self) -> str:
        """Because Nova's driver fetches no images."""
        return f"compute_driver = {self._compute_driver}"

    def list(self) -> Inventory:
        """Return an empty inventory."""
        return Inventory(())


def choose(conf: cfg.ConfigOpts) -> Driver:
    """Return the driver that the configuration asks for.

    :raises ConfigurationError: there is none of this name, or it can't work with the configuration.
    """
    name = named = conf[agent.GROUP].inventory
    if not named:
        if not conf.compute_driver:
            raise ConfigurationError(
                "compute_driver is missing: give the host's nova.conf as a further --config-file, "
                "or name a driver in [agent] inventory."
            )
        package = conf.compute_driver.removeprefix("nova.virt.").partition(".")[0]
        name = _DRIVERS.get(package, package)
    try:
        found = stevedore_driver.DriverManager[Any](NAMESPACE, name).driver
    except stevedore_exception.NoMatches:
        if not named and name in _CACHE_NOTHING:
            return Nothing(conf)
        if not named:
            raise ConfigurationError(
                f"compute_driver = {conf.compute_driver}: there is no inventory driver for it. "
                "Correct it, or name one in [agent] inventory; a host that caches no images needs "
                "no agent."
            ) from None
        raise ConfigurationError(f"[{agent.GROUP}] inventory = {named}: no such driver.") from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The inventory driver {name} needs {error.name}, which is not installed."
        ) from None
    return cast("type[Driver]", found)(conf)
