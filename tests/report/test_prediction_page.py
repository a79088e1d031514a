from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from raybench.analysis.anomaly_types import AnomalyType
from raybench.analysis.predictions import PredictionSummary
from raybench.config.plan import Plan
from raybench.data.pack import PackOptions, pack
from raybench.metrics.numbers import Threshold
from raybench.metrics.threshold import MAX_EXCESS
from raybench.report.predictions import PredictionCard, publish, render, summary_json, tables
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.runs.scores import PREDICTIONS_SCHEMA, Predicted
from raybench.store import open_store
from raybench.worker.context import WorkerContext
from raybench.worker.predict import Prediction, prepare, score_here
from raybench.worker.train import train
from tests.support.made_run import planned, site_of

EVIL = "<img src=x onerror=alert(1)> ü\"'&" + "long" * 40


@pytest.fixture(scope="module")
def plan(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run in a folder, whose only unit is trained."""
    plan = planned(tmp_path_factory.mktemp("store"), strips, 1000)
    train(plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path_factory.mktemp("cache")))
    return plan


@pytest.fixture
def prediction(plan: Plan, strips: Path, tmp_path: Path) -> Prediction:
    """The test images, in three shards, with one of an odd size, all but the last shard scored."""
    images = Path(shutil.copytree(strips / "test", tmp_path / "images"))
    cv2.imwrite(str(images / "a-large.png"), np.full((200, 800, 3), 150, np.uint8))
    run, manifest = RunStore(plan.store, "night"), plan.manifests["strip"]
    found = prepare(run, plan.units[0], plan.line(manifest.line), open_store(str(images)), tmp_path.name)
    several = pack(open_store(str(images)), found.images, "strip", PackOptions("images", shard_rows=5))
    found = replace(found, manifest=several)
    first = replace(found, manifest=replace(several, shards=several.shards[:2]))
    assert score_here(first, WorkerContext(found.run, found.images, tmp_path, "cpu", 1), lambda shard: None) == {}
    return found


def published(plan: Plan, prediction: Prediction, folder: Path) -> PredictionSummary:
    failed = {prediction.manifest.shards[2].key: Failure("score", "BadScores", EVIL, "trace", 1)}
    return publish(
        prediction, plan.manifests["strip"], failed, folder, lambda image: AnomalyType("layout", 0.876, EVIL)
    )


def test_table_sheet_and_summary_say_the_same(plan: Plan, prediction: Prediction, tmp_path: Path) -> None:
    summary = published(plan, prediction, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    sheet = pd.read_csv(tmp_path / "out" / "predictions.csv")
    pd.testing.assert_frame_equal(table, sheet, check_dtype=False)
    assert list(table.columns) == PREDICTIONS_SCHEMA.names
    limit = prediction.trained.threshold
    assert limit.value is not None
    assert limit.typical is not None
    assert table["image_id"].is_monotonic_increasing
    assert (table["is_anomalous"] == (table["score"] > limit.value)).all()
    distance = (table["score"].to_numpy() - limit.typical) / (limit.value - limit.typical)
    above = np.log2(np.maximum(distance, 1.0)).clip(max=MAX_EXCESS)
    np.testing.assert_allclose(table["excess"], np.where(distance > 1, above, distance - 1), atol=1e-12)
    assert table["odd_size"].tolist() == [True, *[False] * 9]
    assert (summary.images, summary.odd_sizes, summary.not_scored) == (10, 1, 3)
    assert summary.anomalous == table["is_anomalous"].sum()
    assert summary.sentence.startswith(f"{summary.anomalous} of 10 images are anomalous at the threshold that promises")
    by_score = table.sort_values("score", ascending=False, kind="stable")
    assert [row.image_id for row in summary.top] == by_score["image_id"].tolist()
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told == json.loads(summary_json(summary))
    assert (told["run"], told["prediction"], told["model"]) == ("night", tmp_path.name, "fake")


def test_the_store_has_what_the_folder_has(plan: Plan, prediction: Prediction, tmp_path: Path) -> None:
    published(plan, prediction, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"predictions.parquet", "predictions.csv", "summary.json", "index.html"}
    for name, data in files.items():
        assert plan.store.get(f"{tables(prediction)}/{name}") == data


def test_the_page_shows_images_under_their_heat_maps(plan: Plan, prediction: Prediction, tmp_path: Path) -> None:
    summary = published(plan, prediction, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<figure>") == len(summary.top) == 10
    assert page.count("data:image/webp;base64,") == 20
    assert page.index(summary.top[0].image_id) < page.index(summary.top[9].image_id)
    assert "odd size 200×800" in page
    assert "1 images have a size or an aspect" in page
    assert "BadScores: &lt;img" in page
    assert summary.anomalous
    assert page.count("looks like layout (0.88): &lt;img") == summary.anomalous


def test_hostile_names_are_text(plan: Plan, prediction: Prediction) -> None:
    row = Predicted(EVIL, EVIL, EVIL, 2.0, True, 1.0, 1.0, 10, 10, True)
    summary = PredictionSummary(
        run=EVIL, prediction=EVIL, source=EVIL, line=EVIL, model=EVIL, unit_id="u", images=1, anomalous=1,
        threshold=Threshold(1.0, 9, 0.1, 0.1, 0.5, EVIL), odd_sizes=1, rejected={EVIL: 1},
        failed={EVIL: Failure("score", EVIL, EVIL, EVIL, 1)}, not_scored=0, top=(row,), sentence=EVIL,
    )  # fmt: skip
    page = render(summary, [PredictionCard(row, "data:image/webp;base64,", "")])
    assert "<img src=x" not in page
    assert page.count("<img") == 1
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_a_model_without_threshold_calls_nothing_anomalous(plan: Plan, prediction: Prediction, tmp_path: Path) -> None:
    none = Threshold(None, 0, 0.05, 0.0, None, "no held-back OK images")
    trained = replace(prediction.trained, threshold=none, heat_low=None, heat_high=None)
    blind = replace(prediction, trained=trained, used=replace(prediction.used, threshold=none))
    summary = publish(blind, plan.manifests["strip"], {}, tmp_path / "out")
    assert summary.anomalous is None
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert table[["is_anomalous", "threshold", "excess"]].isna().all().all()
    assert "none can be called anomalous" in (tmp_path / "out" / "index.html").read_text()
