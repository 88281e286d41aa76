"""Option types that oslo.config has not."""

from __future__ import annotations

import ipaddress
import math
from typing import Any, NamedTuple

from oslo_config import types


class FiniteFloat(types.Float):
    """A float that is a number and finite: oslo.config's own lets ``nan`` pass every bound."""

    def __call__(self, value: Any) -> float:
        """Return the number; ValueError where it is none, infinite, or out of bounds."""
        number = super().__call__(value)
        if number is None or not math.isfinite(number):
            raise ValueError("Should be a finite number")
        return float(number)


class Address(NamedTuple):
    """Where to listen; ``host`` is an IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ListenAddress(types.String):
    """An oslo.config type: ``127.0.0.1:9877`` or ``[::1]:9877``; empty: nowhere."""

    def __call__(self, value: Any) -> str:
        """Return the text; ValueError where it is no address with a port."""
        text: str = super().__call__(value).strip()
        if text:
            address(text)
        return text


def address(text: str) -> Address:
    """Return an address that was written as :class:`ListenAddress`; ValueError."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    else:
        host = str(ipaddress.IPv4Address(host))
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{port[:20]!r} is no port")
    return Address(host, int(port))
