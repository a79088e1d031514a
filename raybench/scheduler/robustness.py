"""Measure the robustness of a line's trained models on Ray: a task for each model and perturbation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from raybench.analysis.robustness import IMAGES, choose_images
from raybench.analysis.select import first_finished
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.line import Line
from raybench.data.perturbations import PERTURBATIONS, PerturbedImages
from raybench.errors import InputError, UnknownName
from raybench.report.progress import task_bar
from raybench.runs.at_work import working
from raybench.runs.records import Failure, PerturbedScores
from raybench.runs.robustness import MeasuredRobustness, robustness_name, write_robustness
from raybench.runs.run import RunStore
from raybench.scheduler.backlog import Job
from raybench.scheduler.cluster import connected
from raybench.scheduler.jobs import run_jobs
from raybench.scheduler.tasks import LineContext

Failures = dict[tuple[str, str], Failure]
"""By detector_id and name of the perturbation."""


@dataclass(frozen=True)
class RobustnessOptions:
    """What to measure of a line."""

    line: str
    """Name of the line."""
    models: Sequence[str] = ()
    """Labels of the models. Empty: all of the line's."""
    images: int = IMAGES
    """Test images to perturb, at most."""


def measure_robustness(
    plan: Plan, options: RobustnessOptions, address: str | None, console: Console | None
) -> MeasuredRobustness:
    """Score perturbed test images with a line's trained models, and store the scores for the report.

    Nothing is trained, and what is committed is not done again.

    Args:
        plan: The run, finished on the line.
        options: What to measure.
        address: Ray cluster, as in `ray.init`.
        console: Where a bar is drawn. None for nowhere.

    Returns:
        What was measured, failures included.

    Raises:
        UnknownName: There is no such model.
        InputError: No model is finished on the line, it has no labelled test images, or not one task fits the cluster.
        RunStopped: A signal ended the command; the same one does the rest.
    """
    run, line = RunStore.of(plan), plan.line(options.line)
    units, images = _chosen(plan, line, options)
    jobs = [
        Job("robustness", unit, len(images), perturbed=PerturbedImages(images, perturbation))
        for unit in units
        for perturbation in PERTURBATIONS
    ]
    waiting = [job for job in jobs if _committed(run, line, job) is None]
    failed: Failures = {}
    with working(run, "raybench robustness", plan), task_bar("perturbed images", jobs, waiting, console) as done:

        def ended(job: Job, failure: Failure | None) -> None:
            done()
            if failure and job.perturbed:
                failed[job.unit.detector_id, job.perturbed.perturbation.name] = failure

        if waiting:
            with connected(address):
                context = LineContext(run, line.store, line.manifest, device="cpu", weights=plan.weights)
                run_jobs(waiting, context, plan.experiment.resources, "robustness", ended)
        records = [record for job in jobs if (record := _committed(run, line, job))]
        measured = _measured(images, records, failed)
        write_robustness(run, line.name, measured)
    return measured


def _chosen(plan: Plan, line: Line, options: RobustnessOptions) -> tuple[list[Unit], dict[str, str]]:
    """Return the finished units to measure, one per model, and the sha256 of the images to perturb by ID."""
    finished = first_finished(plan, line.name)
    known = {unit.model for unit in plan.compared if unit.line == line.name}
    for model in options.models:
        if model not in known:
            raise UnknownName("model", model, known)
    units = {unit.unit_id: unit for unit in plan.compared}
    chosen = [units[result.unit_id] for model, (result, _) in finished.items() if model in (options.models or known)]
    if not chosen:
        raise InputError(f"no model is finished on {line.name}; run the experiment first")
    ids = choose_images(next(iter(finished.values()))[1], options.images)
    if not ids:
        raise InputError(f"{line.name} has no labelled test images to perturb")
    return chosen, line.digests(ids, with_roi=True)


def _committed(run: RunStore, line: Line, job: Job) -> PerturbedScores | None:
    if job.perturbed is None:
        return None
    return run.read(job.unit.detector_id, robustness_name(line, job.perturbed), PerturbedScores)


def _measured(images: Mapping[str, str], records: Sequence[PerturbedScores], failed: Failures) -> MeasuredRobustness:
    scores: defaultdict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    failures: defaultdict[str, dict[str, Failure]] = defaultdict(dict)
    for record in records:
        scores[record.detector_id][record.perturbation] = dict(zip(record.image_ids, record.scores, strict=True))
    for (detector_id, perturbation), failure in failed.items():
        failures[detector_id][perturbation] = failure
    return MeasuredRobustness(images, dict(scores), dict(failures))
