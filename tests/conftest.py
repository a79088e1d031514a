"""One S3 server and one Ray cluster for the whole session, both real and both on loopback."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from raybench.analysis.board import Board, BoardContext, build_board
from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice
from raybench.data.manifest import SCHEMA_VERSION, Manifest, ShardInfo, write_manifest
from raybench.data.pack import PackOptions, pack
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, Quality, Threshold
from raybench.runs.records import Failure, UnitResult
from raybench.scheduler.cluster import connected
from raybench.store import Store, open_store
from raybench.store.server import EmbeddedServer, embedded_server

settings.register_profile("raybench", deadline=None)  # how long an example takes is this machine's business
settings.load_profile("raybench")
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


@pytest.fixture(scope="session")
def board_of() -> Callable[[Mapping[str, Mapping[str, float | None]]], Board]:
    """The board of made-up units, by line and model: how far NG images lie above OK ones; None for one that failed."""

    def unit(line: str, model: str, gap: float | None) -> tuple[UnitResult, ImageScores | None]:
        unit_id = f"{line}/{model}"
        if gap is None:
            return UnitResult(unit_id, line, model, 0, failure=Failure("train", "ModelError", "no", "-", 1)), None
        scores = np.random.default_rng(0).normal(0, 1, 40) + np.repeat([0.0, gap], 20)
        images = ImageScores.of([f"{at:02}" for at in range(40)], ["ok"] * 20 + ["ng"] * 20, scores.tolist())
        threshold = Threshold(2.0, 19, 0.05, 0.05, 0.0)
        none = dict.fromkeys([field.name for field in fields(Quality)], Estimate(None, reason="no masks"))
        quality = Quality(**none | vars(image_quality(images, threshold)))
        return UnitResult(unit_id, line, model, 0, threshold=threshold, quality=quality, train_s=1.0), images

    def build(gaps: Mapping[str, Mapping[str, float | None]]) -> Board:
        units = [unit(line, model, gap) for line, models in gaps.items() for model, gap in models.items()]
        scores = {result.unit_id: images for result, images in units if images is not None}
        context = BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {}, 0.05)
        return build_board([result for result, _ in units], scores, context)

    return build


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
        annotation=Annotation(signals=0),
    )
