"""One S3 server and one Ray cluster for the whole session, both real and both on loopback."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raybench.demo import Sizes, write_strips
from raybench.embedded import EmbeddedServer, embedded_server
from raybench.experiment import Experiment, InputChoice, ModelChoice
from raybench.lines.manifest import SCHEMA_VERSION, Manifest, ShardInfo, write_manifest
from raybench.lines.pack import PackOptions, pack
from raybench.schedule.cluster import connected
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
    """A new, empty place in a bucket. One bucket for all: SeaweedFS reserves a gigabyte of disk for each."""
    store = open_store(f"s3://test-{os.getpid()}/{next(_numbers)}")
    store.create()
    return store


@pytest.fixture(scope="session")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated line in the mvtec layout, with masks: 24 OK images to train on, 6 OK and 6 NG to test."""
    return write_strips(tmp_path_factory.mktemp("strips"), Sizes(24, 6, 6, 0))


@pytest.fixture(scope="session")
def cluster(server: EmbeddedServer) -> Iterator[None]:
    """A Ray cluster of this machine, whose workers reach the server."""
    with connected("local"):
        yield


@pytest.fixture
def put_line() -> Callable[[Store, str], Manifest]:
    """Puts the manifest of a line of 200×320 px with 10 OK images to train on into a store of lines; no shards."""

    def put(lines: Store, name: str) -> Manifest:
        shards = tuple(
            ShardInfo(f"{name}/{split}-00000.parquet", split, 10, 1000, "a" * 64, 100, "b" * 64)
            for split in ("train", "test")
        )
        counts = {"train/ok": 10, "test/ok": 5, "test/ng": 5}
        sides = (200, 320) * 3
        manifest = Manifest(name, SCHEMA_VERSION, "mvtec", counts, 0, *sides, 255, shards, ())
        write_manifest(lines, manifest)
        return manifest

    return put


@pytest.fixture
def packed(bucket: Store, strips: Path) -> Store:
    """A bucket that holds the line `strip`."""
    pack(open_store(str(strips)), bucket.sub("lines"), "strip", PackOptions(shard_rows=4))
    return bucket


@pytest.fixture
def experiment(packed: Store) -> Experiment:
    """The fake model on the line `strip`."""
    return Experiment(
        name="night",
        store=packed.uri(),
        lines=("strip",),
        models=(ModelChoice(name="fake"),),
        false_alarm_budget=0.2,
        input=InputChoice(pixels=64 * 64),
        squashed_twins=False,
    )
