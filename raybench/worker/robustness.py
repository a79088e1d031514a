"""Score perturbed copies of some test images with one trained detector."""

from __future__ import annotations

from raybench.config.unit import Unit
from raybench.data.line import Line
from raybench.data.manifest import Manifest
from raybench.data.perturbations import PerturbedImages, open_perturbed
from raybench.errors import IntegrityError
from raybench.runs.records import PerturbedScores, TrainRecord
from raybench.runs.robustness import robustness_name
from raybench.worker import heatmaps
from raybench.worker.batches import score_all
from raybench.worker.context import UsageMeter, WorkerContext, cached_detector, fit_of


def score_perturbed(
    unit: Unit, manifest: Manifest, perturbed: PerturbedImages, context: WorkerContext
) -> PerturbedScores:
    """Score perturbed images and commit the record; return a record that is committed already.

    Raises IntegrityError when the unit is not trained, or the line does not hold the images any more.
    """
    line = Line(context.lines, manifest)
    name = robustness_name(line, perturbed)
    if done := context.run.read(unit.detector_id, name, PerturbedScores):
        return done
    meter = UsageMeter(context)
    trained = context.run.read(unit.detector_id, "train", TrainRecord)
    if trained is None:
        raise IntegrityError(f"{unit}: its robustness was measured before it was trained")
    images = open_perturbed(line, perturbed, fit_of(unit), context.cache_dir)
    detector = cached_detector(unit, trained, context)
    scores: list[float] = []
    for scored in score_all(detector, images, context.batch, context.counting_device):
        scores += heatmaps.inside_only(scored, images.rois, fit_of(unit), detector).scored().scores.tolist()
    record = PerturbedScores(
        detector_id=unit.detector_id,
        perturbation=perturbed.perturbation.name,
        image_ids=images.image_ids,
        scores=tuple(scores),
        spent=meter.read(len(images), detector),
    )
    return context.run.commit(unit.detector_id, name, record)
