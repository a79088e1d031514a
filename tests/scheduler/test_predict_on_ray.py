from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from raybench.config.experiment import Experiment, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.data.pack import PackOptions, pack
from raybench.runs.records import ScoreRecord
from raybench.runs.run import RunStore, score_name
from raybench.scheduler.predict import score_shards
from raybench.store import Store, open_store
from raybench.worker.context import WorkerContext
from raybench.worker.predict import Prediction, prepare
from raybench.worker.train import train

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def prediction(experiment: Experiment, images: Path, tmp_path: Path, model: ModelChoice) -> Prediction:
    """Four shards of new images, for a trained unit of `model`."""
    plan = make_plan(experiment.model_copy(update={"models": (model,)}))
    run, manifest = RunStore(plan.store, "night"), plan.manifests["strip"]
    train(plan.units[0], manifest, WorkerContext(run, plan.store.sub("lines"), tmp_path, "cpu", 1))
    found = prepare(run, plan.units[0], plan.line(manifest.line), open_store(str(images)), "new")
    return replace(
        found, manifest=pack(open_store(str(images)), found.images, "strip", PackOptions("images", shard_rows=4))
    )


def test_shards_are_scored_on_the_cluster_and_what_is_committed_is_not_done_again(
    experiment: Experiment, packed: Store, strips: Path, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(strips / "test", tmp_path / "images"))
    cv2.imwrite(str(images / "zz-white.png"), np.full((200, 320, 3), 255, np.uint8))
    marker = tmp_path / "killed"
    marker.touch()  # training scores too, in this process: there is to be no kill yet
    fragile = {"kill_in": "score", "kill_once_marker": str(marker), "poison_above": 250}
    found = prediction(experiment, images, tmp_path, ModelChoice(name="fake", config=fragile))
    marker.unlink()
    keys = [shard.key for shard in found.manifest.shards]
    done: list[str] = []
    failed = score_shards(found, Resources(), lambda shard: done.append(shard.key))
    assert marker.exists()
    assert sorted(done) == keys
    assert list(failed) == [keys[3]]
    assert failed[keys[3]].error_type == "BadScores"
    assert "zz-white.png" in failed[keys[3]].message
    before = {item.key: packed.get(item.key) for item in packed.list("runs/night/predictions/")}
    done.clear()
    assert list(score_shards(found, Resources(), lambda shard: done.append(shard.key))) == done == [keys[3]]
    assert {item.key: packed.get(item.key) for item in packed.list("runs/night/predictions/")} == before
    records = [found.run.read(found.unit.unit_id, score_name(key), ScoreRecord) for key in keys]
    assert [record and record.rows for record in records] == [4, 4, 4, None]
