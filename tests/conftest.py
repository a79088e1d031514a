"""One S3 server and one Ray cluster for the whole session, both real and both on loopback."""

from __future__ import annotations

import os

# Two workers of pytest share the cores; OpenMP threads that spin for each other would take most of their time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # tests that ask for two threads get two that sleep

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from botocore.retries.standard import ExponentialBackoff
from hypothesis import settings

from raybench.analysis.board import Board, BoardContext, build_board
from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.data.manifest import SCHEMA_VERSION, Manifest, ShardInfo, write_manifest
from raybench.data.pack import PackOptions, pack
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Threshold
from raybench.runs.records import FailedUnit, UnitResult
from raybench.scheduler.cluster import connected
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store
from raybench.store.server import EmbeddedServer, embedded_server
from tests.support import plugins
from tests.support.finished import FinishedRun, restored
from tests.support.results import FAILURE, made_unit
from tests.support.scraping import OFTEN_REPORTED

plugins.install()

settings.register_profile("raybench", deadline=None)  # how long an example takes is this machine's business
settings.register_profile("usual", deadline=None, max_examples=50)
settings.register_profile("fast", deadline=None, max_examples=25)
settings.load_profile("raybench")
_numbers = itertools.count()
MADE_ONCE = {"test_anomaly_types.py", "test_onnx_export.py", "test_predict.py", "test_browser.py", "test_firefox.py",
             "test_placement.py", "test_readers.py", "test_queue_builder.py", "test_stored_types.py",
             "test_mlflow.py"}  # fmt: skip
"""Files whose tests share something that takes seconds to make or to import: one worker of pytest runs all of them."""
FITTED_ONCE = {"test_detectors.py", "test_fidelity.py", "test_onnx_file.py"}
"""Files whose tests share detectors: one worker of pytest runs all tests of one detector."""
SERVERS = {"test_server.py", "test_tls.py", "test_store_faults.py"}
"""Files whose tests start S3 servers of their own."""
SLOW = MADE_ONCE | {
    "test_fidelity.py",
    "test_own_backbone.py", "test_weights.py", "test_onnx_file.py", "test_efficient_ad.py", "test_training.py",
    "test_parts.py", "test_plugins.py", "test_write.py",
    "test_inspection.py", "test_bundle.py", "test_hostile.py",
    "test_prediction_page.py", "test_store_faults.py", "test_chaos.py", "test_pixel.py",
    "test_fiftyone.py", "test_roi.py", "test_robustness.py", "test_together.py", "test_findings.py",
    "test_estimate.py", "test_detectors.py", "test_onnx_graph.py", "test_work.py", "test_at_work.py",
    "test_predict_cli.py", "test_heatmaps.py", "test_read.py", "test_perlin.py", "test_anomalies.py",
}  # fmt: skip
"""Files with tests that take seconds each, or that import anomalib, which takes as long."""


def pytest_configure(config: pytest.Config) -> None:
    """Try half the examples where long tests are left out, and a quarter where slow ones are: they are random."""
    for marker, profile in (("not long", "usual"), ("not slow", "fast")):
        if marker in config.option.markexpr:
            settings.load_profile(profile)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files with slow tests unread where slow tests are left out: some import torch and anomalib."""
    return True if "not slow" in config.option.markexpr and collection_path.name in SLOW else None


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Ray or the S3 server by the fixtures asked for, and group tests that share what is made once.

    The longest come first, so that no worker of pytest begins one when the others have nothing left.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "cluster" in fixtures:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.xdist_group("cluster"))
        elif item.get_closest_marker("cluster") or item.path.name in MADE_ONCE:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
        elif item.path.name in FITTED_ONCE and (detector := _detector(item)):
            item.add_marker(pytest.mark.xdist_group(detector))
        if "server" in fixtures or item.path.name in SERVERS or "[s3" in item.name:
            item.add_marker(pytest.mark.s3)
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
        if item.path.name in ("test_browser.py", "test_firefox.py"):
            item.add_marker(pytest.mark.browser)
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("cluster", "slow")])


def _detector(item: pytest.Item) -> str | None:
    """Return the detector that a test asks for by a parameter."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    name: str | None = parameters.get("fitted", parameters.get("name"))
    return name


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """SeaweedFS; the environment of the session reaches it."""
    with embedded_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 in this process pause a hundredth of the time before it tries again; by default it is seconds."""
    delay = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: delay(self, context) / 100)


@pytest.fixture
def bucket(server: EmbeddedServer) -> Store:
    """A new, empty place in a bucket."""
    return new_place()


@pytest.fixture(scope="session")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated line in the mvtec layout, with masks: 24 OK images to train on, 6 OK and 6 NG to test."""
    return write_strips(tmp_path_factory.mktemp("strips"), Sizes(24, 6, 6, 0))


@pytest.fixture(scope="session")
def cluster(server: EmbeddedServer) -> Iterator[None]:
    """A Ray cluster of this machine, whose workers reach the server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OFTEN_REPORTED.items():
            patch.setenv(name, value)
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

    def unit(line: str, model: str, gap: float | None) -> tuple[UnitResult | FailedUnit, ImageScores | None]:
        unit_id = f"{line}/{model}"
        if gap is None:
            return FailedUnit(unit_id, line, model, 0, FAILURE), None
        scores = np.random.default_rng(0).normal(0, 1, 40) + np.repeat([0.0, gap], 20)
        images = ImageScores.of([f"{at:02}" for at in range(40)], ["ok"] * 20 + ["ng"] * 20, scores.tolist())
        threshold = Threshold(2.0, 19, 0.05, 0.05, 0.0)
        return made_unit(unit_id, line, model, threshold=threshold, **vars(image_quality(images, threshold))), images

    def build(gaps: Mapping[str, Mapping[str, float | None]]) -> Board:
        units = [unit(line, model, gap) for line, models in gaps.items() for model, gap in models.items()]
        scores = {result.unit_id: images for result, images in units if images is not None}
        context = BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {}, 0.05)
        return build_board([result for result, _ in units], scores, context)

    return build


@pytest.fixture(scope="session")
def packed_once(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of lines in a folder that holds the line `strip`; not to be written to."""
    lines = open_store(str(tmp_path_factory.mktemp("packed")))
    pack(open_store(str(strips)), lines, "strip", PackOptions(shard_rows=4))
    return lines


@pytest.fixture
def packed(bucket: Store, packed_once: Store) -> Store:
    """A bucket that holds the line `strip`."""
    put_lines(packed_once, bucket)
    return bucket


@pytest.fixture
def packed_in_folder(tmp_path: Path, packed_once: Store) -> Store:
    """A store in a folder that holds the line `strip`, for tests to which the kind of store does not matter."""
    store = open_store(str(tmp_path / "store"))
    put_lines(packed_once, store)
    return store


@pytest.fixture
def experiment(packed: Store) -> Experiment:
    """The fake model on the line `strip`."""
    return fake_on_strip(packed)


@pytest.fixture(scope="session")
def finished_once(cluster: None, packed_once: Store) -> FinishedRun:
    """What `finished` shares."""
    store = new_place()
    put_lines(packed_once, store)
    experiment = fake_on_strip(store)
    return FinishedRun(experiment, store, run_plan(make_plan(experiment)))


@pytest.fixture
def finished(finished_once: FinishedRun) -> Iterator[FinishedRun]:
    """A run of the fake model on the line `strip`; what the test changes in its store is put back."""
    with restored(finished_once.store):
        yield finished_once


def new_place() -> Store:
    """Return an empty place in a bucket. One bucket for all: SeaweedFS reserves a gigabyte of disk for each."""
    store = open_store(f"s3://test-{os.getpid()}/{next(_numbers)}")
    store.create()
    return store


def put_lines(lines: Store, store: Store) -> None:
    for item in lines.list():
        store.put(f"lines/{item.key}", lines.get(item.key))


def fake_on_strip(store: Store) -> Experiment:
    return Experiment(
        name="night",
        store=store.uri(),
        lines=("strip",),
        models=(ModelChoice(name="fake"),),
        false_alarm_budget=0.2,
        input=InputChoice(pixels=64 * 64),
        squashed_twins=False,
        inspect=False,
        annotation=Annotation(signals=0),
        resources=Resources(measure_s=0.05),
    )
