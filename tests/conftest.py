"""One S3 server and one Ray cluster for the whole session, both real and both on loopback."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from raybench.embedded import EmbeddedServer, embedded_server
from raybench.store import Store, open_store

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """SeaweedFS; the environment of the session reaches it."""
    with embedded_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def bucket(server: EmbeddedServer) -> Store:
    """A new, empty bucket."""
    store = open_store(f"s3://test-{os.getpid()}-{next(_numbers)}")
    store.create()
    return store
