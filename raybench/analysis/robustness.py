"""Robustness: how a model's image AUROC and false alarms change when light, sharpness, noise or position do.

Each perturbation is measured on the same images as they are, so the loss of image AUROC has a paired interval
(resampled groups, see `metrics.ranking`). It is that of one trained detector: seeds do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raybench.data.perturbations import PERTURBATIONS
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, Threshold
from raybench.metrics.ranking import paired_difference
from raybench.runs.records import Failure
from raybench.runs.robustness import MeasuredRobustness

if TYPE_CHECKING:
    import pandas as pd

IMAGES = 200
"""Test images to perturb, at most: half of them OK, half of them NG."""
AS_TAKEN = "as taken"
DRAWS = 500
"""Resamples of each number: a report has 15 of each model on each line."""
NUMBERS = ("image_auroc", "lower", "false_alarm_rate", "recall")


@dataclass(frozen=True)
class RobustnessPoint:
    """A model on perturbed images of a line."""

    model: str
    """Label on the board."""
    perturbation: str
    """Name of the perturbation; `AS_TAKEN` for the same images as they are."""
    image_auroc: Estimate
    """On the perturbed images."""
    lower: Estimate
    """Image AUROC on the images as they are minus that on the perturbed ones."""
    false_alarm_rate: Estimate
    """Share of OK images above the model's threshold."""
    recall: Estimate
    """Share of NG images above the model's threshold."""
    budget: float
    """False-alarm rate that the model's threshold may cause."""
    failure: Failure | None = None
    """Why there are no numbers. None if there are."""


@dataclass(frozen=True)
class JudgedModel:
    """A model's scores of the images as they are, and what judges scores."""

    detector_id: str
    """Identity of the trained detector."""
    images: ImageScores
    """Scores of all images of the line, with the labels of today."""
    threshold: Threshold
    """Threshold of image scores."""


def choose_images(images: ImageScores, most: int) -> list[str]:
    """Choose labelled images, at most half of `most` of each label, by the hash of their IDs.

    So every model gets the same images, and a larger number adds to those of a smaller one.
    """
    chosen: list[str] = []
    for label in ("ok", "ng"):
        ids = images.image_ids[images.counted(label)].tolist()
        chosen += sorted(ids, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())[: most // 2]
    return sorted(chosen)


def robustness_points(models: Mapping[str, JudgedModel], measured: MeasuredRobustness) -> list[RobustnessPoint]:
    """Return how models do on perturbed images, by model and perturbation; models without any are left out.

    Args:
        models: The line's models by label.
        measured: What was measured of the line and still holds, see `MeasuredRobustness.of_today`.
    """
    points: list[RobustnessPoint] = []
    if not measured.images:
        return points
    for name, model in models.items():
        scores = measured.scores.get(model.detector_id, {})
        failures = measured.failures.get(model.detector_id, {})
        if not (scores or failures):
            continue
        points.append(_point(name, AS_TAKEN, model, _only(model.images, measured.images)))
        for perturbation in (each.name for each in PERTURBATIONS):
            if perturbation in failures:
                nothing = Estimate(None, reason="failed")
                points.append(
                    RobustnessPoint(
                        name,
                        perturbation,
                        nothing,
                        nothing,
                        nothing,
                        nothing,
                        model.threshold.budget,
                        failures[perturbation],
                    )
                )
            elif perturbation in scores:
                points.append(_point(name, perturbation, model, _perturbed(model.images, scores[perturbation])))
    return points


def conclude(points: Sequence[RobustnessPoint], margin: float) -> list[str]:
    """Say of each model what it surely does not bear.

    Args:
        points: The points of a line, as `robustness_points` returns them.
        margin: Loss of image AUROC that does not count, `verdict.margin` of the experiment.

    False alarms count where they surely exceed both the budget and those on the same images as they are.
    """
    texts = []
    for model in dict.fromkeys(point.model for point in points):
        own = [point for point in points if point.model == model and point.perturbation != AS_TAKEN]
        budget = own[0].budget
        worse = [point.perturbation for point in own if _above(point.lower, margin)]
        as_taken = next(point.false_alarm_rate.value or 0.0 for point in points if point.model == model)
        alarms = [point.perturbation for point in own if _above(point.false_alarm_rate, max(budget, as_taken))]
        parts = []
        if worse:
            parts.append(f"image AUROC falls by more than {margin:g} ({_listed(worse, own)})")
        if alarms:
            share = f"{as_taken:.2g}, as on the images as taken," if as_taken > budget else f"{budget:.2g}"
            parts.append(f"more than {share} of OK images are false alarms ({_listed(alarms, own)})")
        if failed := [point.perturbation for point in own if point.failure]:
            parts.append(f"{len(failed)} of {len(own)} could not be measured")
        limits = f"lowers image AUROC by more than {margin:g} or lifts false alarms above {budget:.2g}"
        sure = "; ".join(parts) or f"no perturbation surely {limits}"
        texts.append(f"{model}: {sure}")
    return texts


def _listed(names: Sequence[str], of: Sequence[RobustnessPoint]) -> str:
    return f"all {len(of)} perturbations" if 1 < len(of) == len(names) else ", ".join(names)


def robustness_frame(points: Sequence[RobustnessPoint]) -> pd.DataFrame:
    """Return points as a table, index model and perturbation; an interval's ends are in `<name>_low` and `_high`."""
    import pandas as pd  # takes half a second, and only notebooks need it

    rows = []
    for point in points:
        row: dict[str, object] = {"model": point.model, "perturbation": point.perturbation}
        for name in NUMBERS:
            found: Estimate = getattr(point, name)
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        failure = point.failure
        rows.append(row | {"failure": f"{failure.error_type}: {failure.message}" if failure else ""})
    columns = ["model", "perturbation", *(f"{name}{end}" for name in NUMBERS for end in ("", "_low", "_high"))]
    return pd.DataFrame(rows, columns=[*columns, "failure"]).set_index(["model", "perturbation"])


def _point(name: str, perturbation: str, model: JudgedModel, perturbed: ImageScores) -> RobustnessPoint:
    quality = image_quality(perturbed, model.threshold, DRAWS)
    return RobustnessPoint(
        model=name,
        perturbation=perturbation,
        image_auroc=quality.image_auroc,
        lower=paired_difference([model.images.only(perturbed.image_ids)], [perturbed], DRAWS),
        false_alarm_rate=quality.false_alarm_rate,
        recall=quality.recall,
        budget=model.threshold.budget,
    )


def _only(images: ImageScores, image_ids: Mapping[str, object]) -> ImageScores:
    """Select the images among `image_ids`, in the order of `images`."""
    return images.only(np.array([name for name in images.image_ids.tolist() if name in image_ids], np.str_))


def _perturbed(images: ImageScores, scores: Mapping[str, float]) -> ImageScores:
    """Return images with the scores of their perturbed copies, and labels and groups as they are."""
    some = _only(images, scores)
    values = [scores[image_id] for image_id in some.image_ids.tolist()]
    return ImageScores(**vars(some) | {"scores": np.array(values, np.float64)})


def _above(number: Estimate, limit: float) -> bool:
    return number.low is not None and number.low > limit
