"""Servers that the functional tests share: one of each per file, whose tests run in one process
(``--dist loadfile``), in their order."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests import servers


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A program that a test runs in this process sets logging up: that ends with the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


@pytest.fixture(scope="module")
def rabbit() -> Iterator[servers.RabbitMQ]:
    """A RabbitMQ of this file's own."""
    with servers.RabbitMQ() as server:
        yield server


@pytest.fixture(scope="module", params=["redis", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[servers.Redis]:
    """A Redis, then a Valkey: the same code works on both."""
    kind = servers.Redis if request.param == "redis" else servers.Valkey
    with kind() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[servers.Redis]:
    """A Redis of this file's own."""
    with servers.Redis() as server:
        yield server
