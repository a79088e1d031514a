from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.config.experiment import ModelChoice, Together
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Unit
from raybench.data.cache import ImageSubset
from raybench.data.pack import PackOptions, pack
from raybench.detectors import registry
from raybench.detectors.protocol import Detector, FitContext
from raybench.errors import IntegrityError
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import FitRecord, TrainRecord
from raybench.runs.retention import waste_of
from raybench.runs.verify import verify_run
from raybench.store import open_store
from raybench.worker import predict
from raybench.worker.context import WorkerContext
from raybench.worker.train import fit_together, train
from tests.support.made_run import begin, finish, planned, site_of

LINES = ("other", "strip")


@pytest.fixture
def plan(strips: Path, tmp_path: Path) -> Plan:
    """Two lines with one detector for both, beside one for each. Of each, a training image is a copy of the other's."""
    images = Path(shutil.copytree(strips, tmp_path / "other"))
    for path in sorted((images / "train" / "good").iterdir())[12:]:
        path.unlink()
    alone = planned(tmp_path / "store", strips, 5, ModelChoice(name="fake"))
    for path in (images / "train" / "good").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")  # other files of the same pixels, so that none is a copy
    pack(open_store(str(images)), alone.store.sub("lines"), "other", PackOptions(shard_rows=5))
    together = {"both": Together(lines=("*",), models=("fake",))}
    return make_plan(alone.experiment.model_copy(update={"lines": ("*",), "together": together}))


@pytest.fixture
def context(plan: Plan, tmp_path: Path) -> WorkerContext:
    cache = tmp_path / "cache"
    cache.mkdir()
    return site_of(plan, cache)


def shared(plan: Plan) -> list[Unit]:
    return [unit for unit in plan.units if unit.together]


def fit(plan: Plan, context: WorkerContext) -> FitRecord:
    return fit_together(shared(plan)[0], [plan.line(name) for name in LINES], context)


def seen_by(plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Fit the detector for both lines, and return the IDs of the images that it is given."""
    seen: list[str] = []
    create = registry.create

    def created(*arguments: Any) -> Detector:
        detector: Any = create(*arguments)
        fit_alone = detector.fit

        def noted(images: ImageSubset, given: FitContext) -> None:
            seen.extend(images.image_ids)
            del detector.fit  # attributes are saved
            fit_alone(images, given)

        detector.fit = noted
        return detector  # type: ignore[no-any-return]

    monkeypatch.setattr(registry, "create", created)
    fit(plan, context)
    return seen


def held_out_of(plan: Plan, unit: Unit, context: WorkerContext) -> ImageScores:
    record = context.run.read(unit.detector_id, "train", TrainRecord)
    assert record is not None
    return ImageScores.from_bytes(context.run.get_blob(record.held_out))


def test_it_is_trained_on_all_lines_and_on_no_held_back_image(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_by(plan, context, monkeypatch)
    assert len(seen) == len(set(seen))
    assert list(seen) == sorted(seen)
    held = set()
    for unit in shared(plan):
        train(unit, plan.manifests[unit.line], context)
        held |= {f"{unit.line}/{image_id}" for image_id in held_out_of(plan, unit, context).image_ids.tolist()}
    packed = {f"{name}/{image_id}" for name in LINES for image_id in plan.line(name).digests(splits={"train"})}
    assert set(seen) | held == packed
    assert not set(seen) & held


def test_each_line_has_the_threshold_of_its_own_held_back_images(plan: Plan, context: WorkerContext) -> None:
    fitted = fit(plan, context)
    assert fitted.together == LINES
    alone = {unit.line: unit for unit in plan.units if not unit.together}
    thresholds = set()
    for unit in shared(plan):
        manifest = plan.manifests[unit.line]
        record, ordinary = train(unit, manifest, context), train(alone[unit.line], manifest, context)
        assert record.model == fitted.model
        assert record.together == LINES
        assert record.train_ok == fitted.train_ok
        held_out = held_out_of(plan, unit, context)
        assert held_out.image_ids.tolist() == held_out_of(plan, alone[unit.line], context).image_ids.tolist()
        assert record.threshold == conformal_threshold(held_out.scores, 0.2, held_out.groups)
        assert record.held_out_ok == ordinary.held_out_ok
        thresholds.add(record.threshold.value)
    assert len(thresholds) == 2


def test_a_copy_of_a_held_back_image_is_not_trained_on(
    strips: Path, tmp_path: Path, plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images of `copy` are those of `strip`, under names of their own, so that others are held back."""
    images = tmp_path / "copy"
    (images / "train" / "good").mkdir(parents=True)
    shutil.copytree(strips / "test", images / "test")
    for path in (strips / "train" / "good").iterdir():
        shutil.copy(path, images / "train" / "good" / f"{hashlib.sha256(path.name.encode()).hexdigest()[:8]}.png")
    pack(open_store(str(images)), plan.store.sub("lines"), "copy", PackOptions())
    together = {"both": Together(lines=("copy", "strip"), models=("fake",))}
    plan = make_plan(plan.experiment.model_copy(update={"together": together}))
    monkeypatch.setattr("tests.worker.test_together.LINES", ("copy", "strip"))
    seen = seen_by(plan, context, monkeypatch)
    digests = {
        f"{name}/{key}": value for name in LINES for key, value in plan.line(name).digests(splits={"train"}).items()
    }
    held = set()
    for unit in shared(plan):
        train(unit, plan.manifests[unit.line], context)
        held |= {digests[f"{unit.line}/{key}"] for key in held_out_of(plan, unit, context).image_ids.tolist()}
    assert len(held) > 5  # not the same ones on both lines
    assert not {digests[image_id] for image_id in seen} & held
    assert len(seen) == 2 * (24 - len(held))


def test_it_is_fitted_once_and_its_cost_is_shared(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_by(plan, context, monkeypatch)
    images = len(seen)
    first = fit(plan, context)
    records = [train(unit, plan.manifests[unit.line], context) for unit in shared(plan)]
    assert len(seen) == images > 0
    assert sum(record.spent.seconds for record in records) > first.spent.seconds
    own = [record.spent.seconds - first.spent.seconds / 2 for record in records]
    assert all(seconds > 0 for seconds in own)
    models = [item for item in plan.store.list("units/") if "/model/" in item.key]
    assert {item.key.split("/")[1] for item in models} == {shared(plan)[0].fit_id}


def test_units_from_training_to_their_results(plan: Plan, context: WorkerContext) -> None:
    fit(plan, context)
    for unit in plan.units:
        finish(unit, plan.manifests[unit.line], context)
    results = {unit.line: context.run.result(unit) for unit in shared(plan)}
    assert {name: result and result.model for name, result in results.items()} == dict.fromkeys(LINES, "fake@both")
    begin(plan)
    assert verify_run(context.run).problems == []
    assert waste_of(plan.store, -1.0).units == set()
    time.sleep(0.01)  # the store's times tell the plans apart
    begin(make_plan(plan.experiment.model_copy(update={"together": {}})))
    assert waste_of(plan.store, -1.0).units == {folder for unit in shared(plan) for folder in unit.folders}


def test_new_images_are_scored_by_the_shared_detector(plan: Plan, context: WorkerContext, strips: Path) -> None:
    fit(plan, context)
    unit = shared(plan)[0]
    record = train(unit, plan.manifests[unit.line], context)
    found = predict.prepare(context.run, unit, plan.line(unit.line), open_store(str(strips / "test")), "new")
    assert found.trained.threshold == record.threshold
    site = replace(context, run=found.run, lines=found.images)
    assert predict.score_here(found, site, lambda shard: None) == {}


def test_thresholds_before_the_detector_and_other_lines_are_refused(plan: Plan, context: WorkerContext) -> None:
    unit = shared(plan)[0]
    with pytest.raises(IntegrityError, match="before its detector was fitted"):
        train(unit, plan.manifests[unit.line], context)
    with pytest.raises(IntegrityError, match="is trained on other, strip, not on these"):
        fit_together(unit, [plan.line("strip")], context)


def test_a_model_with_torch(strips: Path, plan: Plan, context: WorkerContext) -> None:
    """PaDiM for both lines separates each line's NG images, and it is not one of the detectors of a single line."""
    models = (ModelChoice(name="padim", config={"n_features": 20}),)
    together = {"both": Together(lines=("*",), models=("padim",))}
    plan = make_plan(plan.experiment.model_copy(update={"models": models, "together": together}))
    fit(plan, context)
    for unit in plan.units:
        finish(unit, plan.manifests[unit.line], context)
    for unit in shared(plan):
        result = context.run.result(unit)
        assert result is not None
        assert (result.judged.quality.image_auroc.value or 0) > 0.6
        alone = next(each for each in plan.units if each.line == unit.line and not each.together)
        others = context.run.result(alone)
        assert others is not None
        first, second = (ImageScores.from_bytes(context.run.get_blob(each.judged.images)) for each in (result, others))
        assert not np.allclose(first.scores, second.scores)
