"""From a run's commits to what they mean. Nothing is written: `report.publish` does that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from raybench.analysis.board import Board, BoardContext, LineScores, build_board
from raybench.analysis.cost_report import CostReport, hours_of
from raybench.analysis.flags import Flag, ScoredImage, collect_scores, voting_models
from raybench.analysis.learning_curve import CurvePoint, curves_of
from raybench.analysis.queue_builder import QueueBuilder
from raybench.analysis.robustness import JudgedModel, RobustnessPoint, robustness_points
from raybench.analysis.rows import BoardRow
from raybench.analysis.slices import Slice, slices_of
from raybench.analysis.squash_baseline import SquashBaseline
from raybench.analysis.verdict import DecisionSettings, Verdict
from raybench.config.experiment import ThresholdChoice
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.inspection.inspection import Inspection, bad_images
from raybench.detectors import registry
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.intervals import group_numbers
from raybench.metrics.numbers import Threshold
from raybench.metrics.sampling import LEAST_SAMPLE
from raybench.metrics.threshold import excess_of
from raybench.runs.cost_model import read_forecast
from raybench.runs.ledger import with_ledger
from raybench.runs.records import FailedUnit, Failure, UnitResult
from raybench.runs.robustness import lines_with_robustness, read_robustness
from raybench.runs.run import RunStore, versions
from raybench.runs.thresholds import TEST_OK, judge_at
from raybench.worker.inspect import inspection_in, inspections_in

READERS = 16


@dataclass(frozen=True)
class FinishedUnit:
    """A unit that has numbers."""

    unit: Unit
    result: UnitResult
    images: ImageScores
    """Scores of all its images."""
    held_out: ImageScores
    """Scores of the OK images that set its threshold."""


@dataclass(frozen=True)
class HeldOut:
    """The held-back OK images of the first finished seed of a model."""

    seed: int
    threshold: Threshold
    excess: tuple[float, ...]
    """Excess over the threshold of each image."""
    groups: tuple[int, ...]
    """Number of each image's group."""
    from_test: bool = False
    """Whether these are the OK images of the test split."""


@dataclass(frozen=True)
class Findings:
    """What a run's commits mean: everything that its report shows but the pictures."""

    board: Board
    flags: tuple[Flag, ...]
    """Images to look at, grouped by line, by rank. Their anomaly types are not known yet."""
    images: tuple[ScoredImage, ...]
    """All scored images, grouped by line, the most anomalous first."""
    inspections: Mapping[str, Inspection | Failure | None]
    """By line: the inspection of its data, why it failed, or None if there was none."""
    held_out: Mapping[str, Mapping[str, HeldOut]]
    """Held-back OK images by line and model."""
    finished: tuple[FinishedUnit, ...]
    """All finished units, those of the squash baseline included."""
    asides: frozenset[str] = frozenset()
    """unit_ids of the squash baseline."""
    slices: Mapping[str, Sequence[Slice]] = field(default_factory=dict)
    """By line whose table has further columns: how the named model does on each of their values."""
    curves: Mapping[str, Sequence[CurvePoint]] = field(default_factory=dict)
    """By line whose models were trained on fewer images too: the points of their learning curves."""
    robustness: Mapping[str, Sequence[RobustnessPoint]] = field(default_factory=dict)
    """By line whose robustness was measured: how its models do on perturbed images."""


def analyze(plan: Plan, run: RunStore, created: str) -> Findings:
    """Compare everything committed so far, and rank the images that a person should look at.

    Args:
        plan: What was to be done.
        run: Where its commits are read from.
        created: Time of the comparison, ISO 8601.

    Raises:
        IntegrityError: A commit is damaged.
    """
    inspections = inspections_in(run, plan)
    choices = {line: plan.experiment.on(line).threshold for line in plan.manifests}
    with ThreadPoolExecutor(READERS) as pool:
        units = [unit for unit in pool.map(lambda unit: _read_unit(unit, run), plan.units) if unit is not None]
    finished = [
        _judged(unit, inspections.get(unit.unit.line), choices[unit.unit.line])
        for unit in units
        if isinstance(unit, FinishedUnit)
    ]
    compared_ids = {unit.unit_id for unit in plan.compared}
    compared = [unit for unit in finished if unit.unit.unit_id in compared_ids]
    failed = [unit for unit in units if isinstance(unit, FailedUnit) and unit.unit_id in compared_ids]
    results, scores = [unit.result for unit in compared], {unit.unit.unit_id: unit.images for unit in compared}
    board = build_board(
        [*results, *failed],
        scores,
        _context(plan, run, created, finished, {unit.unit_id for unit in plan.units} - _ids(units)),
        list(squash_baselines(plan, finished)),
        {line: _line_scores(line, compared, inspections.get(line), choice) for line, choice in choices.items()},
    )
    verdicts = tuple(
        _with_notes(verdict, board.rows_of(verdict.line), choices[verdict.line]) for verdict in board.verdicts
    )
    board = replace(board, verdicts=verdicts)
    images = collect_scores(results, scores, {verdict.line: voting_models(verdict) for verdict in verdicts})
    bad = {line: bad_images(found) for line, found in inspections.items() if isinstance(found, Inspection)}
    queues = QueueBuilder(plan, run, board, [unit.unit for unit in compared], lambda line: bad.get(line, {})).queues(
        images
    )
    return Findings(
        board=replace(board, payoffs=tuple(queue.evaluation for queue in queues)),
        flags=tuple(flag for queue in queues for flag in queue.flags),
        images=tuple(images),
        inspections=inspections,
        held_out=collect_held_out(((unit.result, unit.held_out) for unit in compared), choices),
        finished=tuple(finished),
        asides=plan.asides,
        slices={verdict.line: found for verdict in verdicts if (found := _slices(plan, verdict, finished))},
        curves=curves_of(plan),
        robustness=_robustness(plan, run, compared),
    )


def finished_on(plan: Plan, line: str) -> list[FinishedUnit]:
    """Return the finished units of a line, judged as the report judges them.

    Raises IntegrityError when a commit is damaged.
    """
    units = [unit for unit in plan.compared if unit.line == line]
    run = with_ledger(RunStore.of(plan), units)
    inspection = inspection_in(run, plan.lines_of(line), plan.manifests[line])
    choice = plan.experiment.on(line).threshold
    with ThreadPoolExecutor(READERS) as pool:
        found = [unit for unit in pool.map(lambda unit: _read_unit(unit, run), units) if isinstance(unit, FinishedUnit)]
    return [_judged(unit, inspection, choice) for unit in found]


def robustness_on(plan: Plan, line: str) -> list[RobustnessPoint]:
    """Return how the models of a line do on perturbed images, as the report shows it; empty if nothing was measured."""
    return _robustness(plan, RunStore.of(plan), finished_on(plan, line)).get(line, [])


def collect_held_out(
    units: Iterable[tuple[UnitResult, ImageScores]], choices: Mapping[str, ThresholdChoice]
) -> dict[str, dict[str, HeldOut]]:
    """Return the held-back images by line and model.

    Args:
        units: Results with the scores of their held-back images.
        choices: By line, what sets its thresholds.

    Returns:
        By line and model. Models without a threshold or held-back images are left out.
    """
    found: dict[str, dict[str, HeldOut]] = {}
    for result, images in sorted(units, key=lambda unit: unit[0].seed):
        threshold, of_line = result.trained.threshold, found.setdefault(result.line, {})
        if threshold.value is None or result.model in of_line:
            continue
        of_line[result.model] = HeldOut(
            result.seed,
            threshold,
            tuple(excess_of(score, threshold) for score in images.scores.tolist()),
            tuple(group_numbers(images.groups).tolist()),
            choices[result.line].source == TEST_OK,
        )
    return found


def _ids(units: Iterable[FinishedUnit | FailedUnit]) -> set[str]:
    return {unit.unit.unit_id if isinstance(unit, FinishedUnit) else unit.unit_id for unit in units}


def _context(
    plan: Plan, run: RunStore, created: str, finished: Sequence[FinishedUnit], waiting: Collection[str]
) -> BoardContext:
    """Return the conditions of a comparison. waiting: IDs of units that have neither finished nor failed."""
    experiment, by_model, forecast = plan.experiment, {unit.model: unit for unit in plan.compared}, read_forecast(run)
    left_out = forecast.left_out if forecast and experiment.race else {}
    return BoardContext(
        run=run.name,
        created=created,
        digest=experiment.digest,
        versions=_versions(finished),
        false_alarm_budget=experiment.threshold.promised or experiment.false_alarm_budget,
        pending=sum(left_out.get(unit_id) != "race" for unit_id in waiting),
        lines={line: manifest.digest for line, manifest in plan.manifests.items()},
        decision=DecisionSettings(
            experiment.verdict,
            experiment.costs,
            experiment.limits,
            {model: registry.licences(unit.detector, unit.weights, unit.config) for model, unit in by_model.items()},
        ),
        spending=CostReport(hours_of(unit.result for unit in finished), experiment.resources.price_per_hour, forecast),
    )


def _versions(finished: Sequence[FinishedUnit]) -> Mapping[str, str]:
    """Return the versions of the packages that trained and judged some units; without any, those that are installed."""
    found: dict[str, set[str]] = {}
    for unit in finished:
        for made_by in (unit.result.trained.versions, unit.result.judged.versions):
            for name, version in made_by.items():
                found.setdefault(name, set()).add(version)
    return {name: " and ".join(sorted(each)) for name, each in found.items()} or versions()


def _line_scores(
    line: str, compared: Sequence[FinishedUnit], inspection: Inspection | Failure | None, choice: ThresholdChoice
) -> LineScores:
    of_line = [unit for unit in compared if unit.unit.line == line]
    held_out = {
        unit.unit.unit_id: _threshold_images(unit) if choice.promises_nothing else unit.held_out for unit in of_line
    }
    # Images that set no threshold, or set it by their own result, cannot say whether it holds.
    test = choice.source != TEST_OK and not choice.promises_nothing
    return LineScores(held_out, _drift(inspection), test_thresholds=test)


def _threshold_images(unit: FinishedUnit) -> ImageScores:
    """Return one image that sets a moved threshold in every resample, none for a unit without a threshold."""
    value = unit.result.trained.threshold.value
    return ImageScores.empty() if value is None else ImageScores.of(["moved"], ["ok"], [value])


def _slices(plan: Plan, verdict: Verdict, finished: Iterable[FinishedUnit]) -> list[Slice]:
    """Slice a line for the model that its verdict names, by the first seed; none for a line without further columns."""
    place = verdict.line, verdict.run
    unit = next((unit for unit in finished if (unit.unit.line, unit.unit.model) == place), None)
    if unit is None or not plan.manifests[verdict.line].attributes:
        return []
    attributes = plan.line(verdict.line).attributes()
    return slices_of(verdict.line, unit.unit.model, unit.images, unit.result.trained.threshold, attributes)


def _robustness(plan: Plan, run: RunStore, finished: Sequence[FinishedUnit]) -> dict[str, list[RobustnessPoint]]:
    """Return by line how the first finished seed of each model does on perturbed images."""
    found = {}
    for line in lines_with_robustness(run) & {unit.unit.line for unit in finished}:
        if measured := read_robustness(run, line):
            models: dict[str, JudgedModel] = {}
            for unit in (unit for unit in finished if unit.unit.line == line):
                judged = JudgedModel(unit.unit.detector_id, unit.images, unit.result.trained.threshold)
                models.setdefault(unit.unit.model, judged)
            today = measured.of_today(plan.line(line).digests(measured.images, with_roi=True))
            found[line] = robustness_points(models, today)
    return {line: points for line, points in found.items() if points}


def _with_notes(verdict: Verdict, rows: Iterable[BoardRow], choice: ThresholdChoice) -> Verdict:
    """Say that a person moved the thresholds, and how many labelled images do not count."""
    notes = [note for note in (_moved_note(choice), _chosen_note(rows)) if note]
    return replace(verdict, notes=(*verdict.notes, *notes))


def _moved_note(choice: ThresholdChoice) -> str:
    if not choice.promises_nothing:
        return ""
    return (
        f"The thresholds were {choice} by the experiment. They promise no false-alarm rate, and no test looks at them."
    )


def _chosen_note(rows: Iterable[BoardRow]) -> str:
    """Say how many labelled images do not count: those that were chosen for their looks or scores are no sample."""
    chosen = max((row.finished.test.chosen for row in rows if row.finished), default=0)
    if not chosen:
        return ""
    images = "1 labelled image does" if chosen == 1 else f"{chosen} labelled images do"
    return (
        f"{images} not count: chosen among unlabelled ones, as those are that models find suspicious, or random checks "
        f"while others before them have not been looked at, or fewer than {LEAST_SAMPLE} in all. Label the queue's "
        "random checks for a surer verdict."
    )


def _read_unit(unit: Unit, run: RunStore) -> FinishedUnit | FailedUnit | None:
    """A finished unit, a failed one, or None for a unit that is still to be done."""
    if result := run.result(unit):
        blobs = (result.judged.images, result.trained.held_out)
        return FinishedUnit(unit, result, *(ImageScores.from_bytes(run.get_blob(blob)) for blob in blobs))
    failure = run.failure(unit.unit_id)
    return FailedUnit(unit.unit_id, unit.line, unit.model, unit.seed, failure) if failure else None


def _judged(unit: FinishedUnit, inspection: Inspection | Failure | None, choice: ThresholdChoice) -> FinishedUnit:
    """Return a unit whose duplicates count as one image, with the threshold that the experiment asks for."""
    images, held_out = unit.images, unit.held_out
    result = judge_at(unit.result, choice, images, held_out)
    if choice.source == TEST_OK:
        held_out = images.only(images.image_ids[images.counted("ok")])  # they set the threshold
    if isinstance(inspection, Inspection):
        duplicates = [[copy.image_id for copy in group.copies] for group in inspection.groups]
        images = images.with_duplicates(duplicates)
        held_out = held_out.with_duplicates(duplicates)
    if images is not unit.images:
        found, quality = image_quality(images, result.trained.threshold), result.judged.quality
        if choice.source == TEST_OK:  # its rate is cross-fitted
            found = replace(found, false_alarm_rate=quality.false_alarm_rate)
        quality = replace(quality, **vars(found))
        result = replace(result, judged=replace(result.judged, quality=quality))
    return replace(unit, images=images, held_out=held_out, result=result)


def _drift(inspection: Inspection | Failure | None) -> str:
    """Return how OK test images differ from OK training images, the largest difference first."""
    if not isinstance(inspection, Inspection):
        return ""
    drifts = [drift for drift in inspection.drifts if drift.drifted and drift.split == "test"]
    drifts.sort(key=lambda drift: -drift.effect)
    return "; ".join(
        f"{drift.name} went from {drift.train_median:.3g} to {drift.median:.3g} (D = {drift.effect:.2f})"
        for drift in drifts
    )


def squash_baselines(plan: Plan, finished: Sequence[FinishedUnit]) -> Iterator[SquashBaseline]:
    """Yield the finished units that were also run on squashed images, with these."""
    by_id = {unit.unit.unit_id: unit for unit in finished}
    for unit_id, squashed_id in plan.squashed.items():
        if unit_id in by_id and squashed_id in by_id:
            chosen, squashed = by_id[unit_id], by_id[squashed_id]
            yield SquashBaseline(chosen.result, squashed.result, chosen.images, squashed.images)
