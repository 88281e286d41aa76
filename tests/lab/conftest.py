"""The lab for a whole test session: one cloud, with the consumer and the weigher in their places.

Its tests build on each other, as days in a cloud's life do: they run in the order of their file,
in one process.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.configuration import NovaOptions
from tests.lab.plane import PROJECT, ControlPlane
from tests.lab.product import Product
from tests.lab.scenario import Scenario


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(PROJECT / "build" / "lab", 6, NovaOptions(weigher=True)) as plane:
        yield plane


@pytest.fixture(scope="session")
def product(plane: ControlPlane) -> Product:
    product = Product(plane)
    product.start_consumer()
    return product


@pytest.fixture(scope="session")
def lab(plane: ControlPlane, product: Product) -> Scenario:
    """The scenario, with the consumer listening from its first step."""
    lab = Scenario(plane)
    lab.prepare()
    return lab
