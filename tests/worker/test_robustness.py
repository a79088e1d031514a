from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raybench.config.experiment import ModelChoice
from raybench.config.plan import Plan
from raybench.data import perturbations
from raybench.data.perturbations import Perturbation, PerturbedImages
from raybench.errors import BadScores, IntegrityError
from raybench.metrics.image import ImageScores
from raybench.runs.records import PerturbedScores, QualityRecord
from raybench.runs.robustness import robustness_name
from raybench.runs.verify import verify_run
from raybench.worker.context import WorkerContext
from raybench.worker.robustness import score_perturbed
from tests.support.made_run import begin, finish, planned, site_of
from tests.worker.test_roi import with_region

NOISE = Perturbation("noise", 0.06)


@pytest.fixture(scope="module")
def plan(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run in a folder."""
    poisoned = ModelChoice(name="fake", label="poisoned", config={"poison_above": 254})
    models = (ModelChoice(name="fake"), ModelChoice(name="padim"), poisoned)
    plan = planned(tmp_path_factory.mktemp("store"), strips, 5, *models)
    context = site_of(plan, tmp_path_factory.mktemp("cache"))
    begin(plan)
    for unit in plan.units:
        finish(unit, plan.manifests["strip"], context)
    return plan


@pytest.fixture
def context(plan: Plan, tmp_path: Path) -> WorkerContext:
    return site_of(plan, tmp_path)


@pytest.mark.parametrize("at", [0, 1], ids=["fake", "padim"])
def test_unperturbed_images_get_the_scores_of_the_run(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(perturbations, "KINDS", {"none": lambda image, strength, rng: image})
    line, unit = plan.line("strip"), plan.units[at]
    perturbed = PerturbedImages(line.digests(), Perturbation("none", 0.0))
    found = score_perturbed(unit, line.manifest, perturbed, context)
    judged = context.run.read(unit.unit_id, "quality", QualityRecord)
    assert judged
    images = ImageScores.from_bytes(context.run.get_blob(judged.images))
    scores = dict(zip(found.image_ids, found.scores, strict=True))
    assert [scores[image_id] for image_id in images.image_ids.tolist()] == pytest.approx(images.scores.tolist())


def test_what_lies_outside_of_the_region_of_interest_is_not_scored(
    strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perturbations, "KINDS", {**perturbations.KINDS, "none": lambda image, strength, rng: image})
    models = (ModelChoice(name="padim", config={"n_features": 8}), ModelChoice(name="fake"))
    found: list[list[dict[str, float]]] = []
    for at, seed in enumerate((None, 5)):  # the same images inside, others outside
        plan = planned(tmp_path / f"store-{at}", with_region(strips, tmp_path / f"{at}", seed), 5, *models)
        (tmp_path / f"cache-{at}").mkdir()
        line, context = plan.line("strip"), site_of(plan, tmp_path / f"cache-{at}")
        images, of_run = line.digests(with_roi=True), list[dict[str, float]]()
        assert all(len(digest) == 129 for digest in images.values())
        for unit in plan.units:
            finish(unit, line.manifest, context)
            judged = context.run.read(unit.unit_id, "quality", QualityRecord)
            assert judged
            scores = ImageScores.from_bytes(context.run.get_blob(judged.images))
            for perturbation in (Perturbation("none", 0.0), NOISE):
                record = score_perturbed(unit, line.manifest, PerturbedImages(images, perturbation), context)
                of_run.append(dict(zip(record.image_ids, record.scores, strict=True)))
            assert [of_run[-2][image_id] for image_id in scores.image_ids.tolist()] == pytest.approx(
                scores.scores.tolist()
            )
        found.append(of_run)
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other)


def test_what_is_committed_is_not_scored_again(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, unit = plan.line("strip"), plan.units[0]
    perturbed = PerturbedImages(line.digests(), NOISE)
    first = score_perturbed(unit, line.manifest, perturbed, context)
    assert np.isfinite(first.scores).all()
    assert len(first.scores) == 12
    monkeypatch.setattr(Perturbation, "apply", None)
    assert score_perturbed(unit, line.manifest, perturbed, context) == first
    name = robustness_name(line, perturbed)
    assert context.run.read(unit.detector_id, name, PerturbedScores) == first
    assert verify_run(context.run).problems == []


def test_models_of_one_size_share_the_perturbed_images(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = plan.line("strip")
    perturbed = PerturbedImages(line.digests(), Perturbation("shift", 0.05))
    score_perturbed(plan.units[0], line.manifest, perturbed, context)
    monkeypatch.setattr(Perturbation, "apply", None)
    score_perturbed(plan.units[2], line.manifest, perturbed, context)


def test_a_failure_names_the_image(plan: Plan, context: WorkerContext) -> None:
    line = plan.line("strip")
    perturbed = PerturbedImages(line.digests(), Perturbation("brighter", 4.0))
    with pytest.raises(BadScores, match=r"image '.+\.png'"):
        score_perturbed(plan.units[2], line.manifest, perturbed, context)
    assert context.run.read(plan.units[2].detector_id, robustness_name(line, perturbed), PerturbedScores) is None


def test_an_untrained_unit_is_refused(plan: Plan, context: WorkerContext) -> None:
    line = plan.line("strip")
    unit = replace(plan.units[0], seed=7)
    with pytest.raises(IntegrityError, match="before it was trained"):
        score_perturbed(unit, line.manifest, PerturbedImages(line.digests(), NOISE), context)
