"""Learning curves: how a model's image AUROC on a line grows with the number of OK images to train on.

All points are measured on the same test images, so the difference to the model that is trained on all images has a
paired interval (resampled groups, see `metrics.ranking`). It is that of two trained detectors: seeds do not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raybench.analysis.select import first_finished, first_results
from raybench.config.experiment import LEAST_TRAIN_IMAGES, Experiment
from raybench.config.plan import Plan, make_plan
from raybench.errors import InputError, UnknownName
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import paired_difference
from raybench.runs.records import UnitResult
from raybench.runs.run import RunStore

if TYPE_CHECKING:
    import pandas as pd

SIZES = (10, 25, 50, 100)
"""Numbers of images of a curve whose sizes nobody chose; those from the line's own number on are left out."""
Finished = Mapping[str, tuple[UnitResult, ImageScores]]
"""By model: the result of the first finished seed, and its image scores."""


@dataclass(frozen=True)
class CurvePoint:
    """A model that was trained on some OK images of a line."""

    model: str
    """Label on the board."""
    images: int
    """Number of OK images, those that are held back for the threshold included."""
    image_auroc: Estimate
    """On the test images."""
    more: Estimate
    """Image AUROC of the model with all images minus this one, on the same test images."""
    has_threshold: bool
    """Whether so many images are enough for a threshold that keeps to the false-alarm budget."""


def plan_curve(plan: Plan, line: str, sizes: Sequence[int], models: Sequence[str]) -> dict[int, Plan]:
    """Plan a run on fewer images for each point of a line's learning curves.

    Args:
        plan: The run on all images.
        line: The product line.
        sizes: Numbers of OK images, those that are held back included; those from the run's own number on are left out.
        models: Labels of the models. Empty: all of the line's.

    Returns:
        The runs by their number of images, in ascending order; the last one is `plan` itself.

    Raises:
        UnknownName: There is no such model.
        InputError: No model is finished on the line, or a size is too small to train on.
    """
    experiment = plan.experiment.on(line)
    choices = {choice.shown: choice for choice in experiment.models}
    for model in models:
        if model not in choices:
            raise UnknownName("model", model, choices)
    if few := [size for size in sizes if size < LEAST_TRAIN_IMAGES]:
        raise InputError(f"{few[0]} OK images are too few to train on; the least is {LEAST_TRAIN_IMAGES}")
    finished = [model for model in first_finished(plan, line) if model in (models or choices)]
    if not finished:
        raise InputError(f"no model is finished on {line}; run the experiment first")
    total = experiment.protocol.of_train(plan.manifests[line].train_ok)
    plans = {}
    for size in sorted({size for size in sizes if size < total}):
        smaller = {
            "name": _name(plan, line, size),
            "lines": (plan.entry_of(line),),
            "models": tuple(choices[model] for model in finished),
            "train_images": size,
            "inspect": False,
            "together": {},
            "squashed_twins": False,
            "annotation": experiment.annotation.model_copy(update={"signals": 0}),
        }
        plans[size] = make_plan(Experiment.model_validate(experiment.model_dump() | smaller))
    return plans | {total: plan}


def curves_of(plan: Plan) -> dict[str, list[CurvePoint]]:
    """Return by line the learning curves that the run's store has, of models that were trained on fewer images."""
    names, curves = list(plan.store.folders("runs/")), dict[str, list[CurvePoint]]()
    for line in plan.manifests:
        pattern = re.compile(re.escape(f"{plan.experiment.name}.{line}-") + r"(\d+)-images")
        sizes = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
        points = read_curve(plan, line, sizes) if sizes else []
        count = Counter(point.model for point in points)
        if curved := [point for point in points if count[point.model] > 1]:
            curves[line] = curved
    return curves


def read_curve(plan: Plan, line: str, sizes: Sequence[int], models: Sequence[str] = ()) -> list[CurvePoint]:
    """Return the points of a line's learning curves so far, by model and number of images.

    Args:
        plan: The run on all images.
        line: The product line.
        sizes: Numbers of OK images; those from the run's own number on are left out.
        models: Labels of the models. Empty: all.
    """
    of_line = [unit for unit in plan.compared if unit.line == line and not unit.together]
    units = [unit for unit in of_line if not models or unit.model in models]
    total = plan.experiment.on(line).protocol.of_train(plan.manifests[line].train_ok)
    found = {
        size: first_results(
            RunStore(plan.store, _name(plan, line, size)),
            (replace(unit, protocol=replace(unit.protocol, train_images=size)) for unit in units),
        )
        for size in sizes
        if size < total
    }
    return curve_points(found | {total: first_results(RunStore.of(plan), units)})


def _name(plan: Plan, line: str, size: int) -> str:
    """Return the name of the run on so many images."""
    return f"{plan.experiment.name}.{line}-{size}-images"


def curve_points(sizes: Mapping[int, Finished]) -> list[CurvePoint]:
    """Return the points of a line's learning curves, by model and number of images.

    Args:
        sizes: Finished models by their number of images; the largest number are all images of the line.
    """
    whole = sizes[max(sizes)]
    points = []
    for model in whole:
        for images in sorted(sizes):
            if model in sizes[images]:
                result, scores = sizes[images][model]
                points.append(
                    CurvePoint(
                        model=model,
                        images=images,
                        image_auroc=result.judged.quality.image_auroc,
                        more=paired_difference([whole[model][1]], [scores]),
                        has_threshold=result.trained.threshold.value is not None,
                    )
                )
    return points


def conclude(points: Sequence[CurvePoint], margin: float) -> list[str]:
    """Say of each model from which number of images on more of them surely do not help.

    Args:
        points: The points of a line, as `curve_points` returns them.
        margin: Difference of image AUROC that does not count, `verdict.margin` of the experiment.
    """
    texts = []
    for model in dict.fromkeys(point.model for point in points):
        own = [point for point in points if point.model == model]
        total = own[-1].images
        enough = None
        for point in reversed(own[:-1]):
            if point.more.high is None or point.more.high > margin:
                break
            enough = point
        if enough is None:
            texts.append(f"{model}: it is open whether fewer than all {total} OK images are enough")
        else:
            limit = "" if enough.has_threshold else ", but too few for a threshold within the false-alarm budget"
            texts.append(
                f"{model}: {enough.images} OK images are enough: with all {total} the image AUROC is at most "
                f"{margin:g} higher (95 %){limit}"
            )
    return texts


def curve_frame(points: Sequence[CurvePoint]) -> pd.DataFrame:
    """Return points as a table with the index model, images; an interval's ends are in `<name>_low` and `_high`."""
    import pandas as pd  # takes half a second, and only notebooks need it

    rows = []
    for point in points:
        row: dict[str, object] = {"model": point.model, "images": point.images}
        for name, found in (("image_auroc", point.image_auroc), ("more", point.more)):
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row | {"has_threshold": point.has_threshold})
    numbers = [f"{name}{end}" for name in ("image_auroc", "more") for end in ("", "_low", "_high")]
    columns = ["model", "images", *numbers, "has_threshold"]
    return pd.DataFrame(rows, columns=columns).set_index(["model", "images"])
