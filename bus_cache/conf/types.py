"""Option types that oslo.config has not."""

from __future__ import annotations

import math
from typing import Any

from oslo_config import types


class FiniteFloat(types.Float):
    """A float that is a number and finite: oslo.config's own lets ``nan`` pass every bound."""

    def __call__(self, value: Any) -> float:
        """Return the number; ValueError where it is none, infinite, or out of bounds."""
        number = super().__call__(value)
        if number is None or not math.isfinite(number):
            raise ValueError("Should be a finite number")
        return float(number)
