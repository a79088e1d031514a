from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from raybench.config.experiment import ModelChoice, ThresholdChoice
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data import pack as packing
from raybench.data.manifest import Manifest
from raybench.data.pack import PackOptions, pack
from raybench.errors import InputError, LineError, StoreUnreachable
from raybench.metrics.numbers import Threshold
from raybench.runs.records import ScoreRecord
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import LEVELS, ScoreRow, read_scores
from raybench.runs.verify import verify_run
from raybench.store import open_store
from raybench.worker import predict
from raybench.worker.context import WorkerContext
from raybench.worker.predict import Prediction, prepare, score_here
from raybench.worker.score import score
from raybench.worker.train import train
from tests.support.made_run import begin, planned, site_of


@pytest.fixture(scope="module")
def plan(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run in a folder, whose units are trained and have scored the line's test images."""
    poisoned = ModelChoice(name="fake", label="poisoned", config={"poison_above": 250})
    models = (ModelChoice(name="fake"), ModelChoice(name="padim"), poisoned)
    plan = planned(tmp_path_factory.mktemp("store"), strips, 5, *models)
    context = site_of(plan, tmp_path_factory.mktemp("cache"))
    begin(plan)
    for unit in plan.units:
        train(unit, plan.manifests["strip"], context)
    for unit in plan.units[:2]:
        for shard in plan.manifests["strip"].scored_shards:
            score(unit, plan.manifests["strip"], shard, context)
    return plan


@pytest.fixture
def images(strips: Path, tmp_path: Path) -> Path:
    """The line's test images, as new ones that nobody labelled."""
    return Path(shutil.copytree(strips / "test", tmp_path / "images"))


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A prediction's name of its own: the run is shared."""
    return tmp_path.name


def asked(plan: Plan, images: Path, name: str, unit: Unit | None = None) -> Prediction:
    run = RunStore(plan.store, "night")
    return prepare(run, unit or plan.units[0], plan.line("strip"), open_store(str(images)), name)


def scored(prediction: Prediction, tmp_path: Path) -> list[str]:
    """Keys of the shards that were scored now."""
    found: list[str] = []
    context = WorkerContext(prediction.run, prediction.images, tmp_path, "cpu", 1)
    assert score_here(prediction, context, lambda shard: found.append(shard.key)) == {}
    return found


def rows(run: RunStore, unit: Unit, manifest: Manifest) -> dict[str, ScoreRow]:
    records = [run.read(unit.unit_id, score_name(shard.key), ScoreRecord) for shard in manifest.scored_shards]
    assert all(records)
    return {row.image_id: row for record in records if record for row in read_scores(run.get_blob(record.shard))}


@pytest.mark.parametrize("model", ["fake", "padim"])
def test_the_same_images_get_the_scores_they_got_in_the_run(
    plan: Plan, images: Path, name: str, tmp_path: Path, model: str
) -> None:
    unit = next(unit for unit in plan.units if unit.model == model)
    prediction = asked(plan, images, name, unit)
    assert dict(prediction.manifest.counts) == {"unlabelled/unknown": 12}
    assert scored(prediction, tmp_path) == [shard.key for shard in prediction.manifest.shards]
    here = rows(prediction.run, prediction.unit, prediction.manifest)
    there = rows(RunStore(plan.store, "night"), unit, plan.manifests["strip"])
    assert {f"test/{image_id}" for image_id in here} == set(there)
    for image_id, row in here.items():
        same = there[f"test/{image_id}"]
        assert row.score == pytest.approx(same.score, rel=1e-4)
        assert row.is_anomalous == same.is_anomalous
        assert row.heatmap is not None
        assert same.heatmap is not None
        # Shards of another size make other batches: what is rounded differently may fall on the next of the 12 bits.
        step = float(np.ptp(same.heatmap)) / LEVELS
        np.testing.assert_allclose(row.heatmap, same.heatmap, rtol=0, atol=1.1 * step)
    assert verify_run(RunStore(plan.store, "night")).problems == []


def test_what_is_committed_is_not_done_again(
    plan: Plan, images: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked(plan, images, name)
    scored(first, tmp_path)
    monkeypatch.setattr(packing, "pack", lambda *_: pytest.fail("packed again"))
    monkeypatch.setattr(predict, "score", lambda *_: pytest.fail("scored again"))
    again = asked(plan, images, name)
    assert (again.unit, again.manifest) == (first.unit, first.manifest)
    assert scored(again, tmp_path) == []
    with pytest.raises(pytest.fail.Exception, match="scored again"):
        scored(asked(plan, images, name, plan.units[1]), tmp_path)
    with pytest.raises(pytest.fail.Exception, match="packed again"):
        asked(plan, images, f"{name}-2")


def test_it_goes_on_where_it_ended(plan: Plan, images: Path, name: str, tmp_path: Path) -> None:
    prediction = asked(plan, images, name)
    run, shard = prediction.run, prediction.manifest.shards[0]
    several = pack(open_store(str(images)), prediction.images, "strip", PackOptions("images", shard_rows=5))
    prediction = replace(prediction, manifest=several)
    score(prediction.unit, several, several.shards[1], WorkerContext(run, prediction.images, tmp_path, "cpu", 1))
    assert shard.rows == 12
    assert scored(prediction, tmp_path) == [several.shards[0].key, several.shards[2].key]


def test_other_images_never_meet_earlier_scores(plan: Plan, images: Path, name: str, tmp_path: Path) -> None:
    before = asked(plan, images, name)
    scored(before, tmp_path)
    path = sorted(images.rglob("*.png"))[0]
    image = cv2.imread(str(path))
    assert image is not None
    cv2.imwrite(str(path), 255 - image)
    after = asked(plan, images, name)
    assert after.unit.unit_id != before.unit.unit_id
    assert scored(after, tmp_path)
    kept = [rows(one.run, one.unit, after.manifest)[path.relative_to(images).as_posix()] for one in (before, after)]
    assert kept[0].score != kept[1].score


def test_several_models_score_the_same_images(plan: Plan, images: Path, name: str, tmp_path: Path) -> None:
    one, other = (asked(plan, images, name, unit) for unit in plan.units[:2])
    assert one.manifest == other.manifest
    assert one.unit.unit_id != other.unit.unit_id
    assert scored(one, tmp_path)
    assert scored(other, tmp_path)


def test_another_promise_at_the_same_threshold_is_another_prediction(plan: Plan, images: Path, name: str) -> None:
    run, source = RunStore.of(plan), open_store(str(images))

    def threshold_at(promised: float) -> Threshold:
        choice = ThresholdChoice(promised=promised)
        found = prepare(run, plan.units[0], plan.line("strip"), source, name, choice=choice)
        return found.trained.threshold

    first, second = threshold_at(0.3), threshold_at(0.301)
    assert first.value == second.value
    assert (first.budget, second.budget) == (0.3, 0.301)


def test_images_without_stamps_are_packed_again_and_not_scored_again(
    plan: Plan, images: Path, name: str, tmp_path: Path
) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(images), f"/{name}", recursive=True)
    run, source = RunStore(plan.store, "night"), open_store(f"memory://{name}")
    first = prepare(run, plan.units[0], plan.line("strip"), source, name)
    assert first.source.listing == ""
    assert scored(first, tmp_path)
    packed: list[int] = []
    again = prepare(run, plan.units[0], plan.line("strip"), source, name, lambda now: packed.append(now.done))
    assert len(packed) == 12
    assert again.unit == first.unit
    assert scored(again, tmp_path) == []


def test_a_name_is_not_taken_from_other_images(plan: Plan, images: Path, strips: Path, name: str) -> None:
    asked(plan, images, name)
    with pytest.raises(InputError, match="choose another name with --name"):
        asked(plan, strips / "test" / "good", name)


@pytest.mark.parametrize("bad", ["../x", "", "a/b", ".hidden", "x" * 101, "a\0b"])
def test_names_that_leave_their_place(plan: Plan, images: Path, bad: str) -> None:
    with pytest.raises(InputError, match="not a prediction's name"):
        asked(plan, images, bad)


def test_what_cannot_be_begun(plan: Plan, images: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not trained yet"):
        asked(plan, images, name, replace(plan.units[0], seed=7))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LineError, match="no image could be packed"):
        asked(plan, tmp_path / "empty", name)
    assert not list(plan.store.list(f"runs/night/predictions/{name}/"))


def test_rejects_have_their_reasons(plan: Plan, images: Path, name: str) -> None:
    (images / "empty.png").write_bytes(b"")
    (images / "movie.avi").write_bytes(b"x")
    cv2.imwrite(str(images / "deep.png"), np.full((20, 32), 4000, np.uint16))
    prediction = asked(plan, images, name)
    assert [(reject.path, reject.reason) for reject in prediction.manifest.rejects] == [
        ("deep.png", "too_deep"),
        ("empty.png", "empty_file"),
        ("movie.avi", "not_an_image"),
    ]


def test_an_image_that_breaks_the_model_keeps_no_other_from_its_score(
    plan: Plan, images: Path, name: str, tmp_path: Path
) -> None:
    cv2.imwrite(str(images / "zz-white.png"), np.full((200, 320, 3), 255, np.uint8))
    prediction = asked(plan, images, name, plan.units[2])
    several = pack(open_store(str(images)), prediction.images, "strip", PackOptions("images", shard_rows=4))
    prediction = replace(prediction, manifest=several)
    context = WorkerContext(prediction.run, prediction.images, tmp_path, "cpu", 1)
    failed = score_here(prediction, context, lambda shard: None)
    assert list(failed) == [several.shards[-1].key]
    assert failed[several.shards[-1].key].error_type == "BadScores"
    assert "zz-white.png" in failed[several.shards[-1].key].message
    assert [shard.key for shard in prediction.waiting()] == list(failed)


def test_a_store_in_trouble_ends_it(
    plan: Plan, images: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise StoreUnreachable("no answer")

    prediction = asked(plan, images, name)
    monkeypatch.setattr(predict, "score", gone)
    with pytest.raises(StoreUnreachable):
        score_here(prediction, WorkerContext(prediction.run, prediction.images, tmp_path, "cpu", 1), lambda shard: None)
