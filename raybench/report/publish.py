"""From a run's commits to its report in the store: board, flags, pictures, page; and a local copy of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from raybench.analysis.anomaly_types.stored import with_anomaly_types
from raybench.analysis.board import Board, BoardContext, board_json, build_board
from raybench.analysis.cost_report import CostReport, hours_of
from raybench.analysis.flags import ScoredImage, collect_scores, top_images, voting_models
from raybench.analysis.queue_builder import QueueBuilder
from raybench.analysis.squash_baseline import SquashBaseline
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.decode import decode_image, decode_mask
from raybench.data.geometry import InputFit, to_source
from raybench.data.inspection.inspection import Inspection, bad_images
from raybench.data.manifest import Manifest
from raybench.data.shards import ImageRow, read_rows
from raybench.metrics.image import ImageScores
from raybench.report.gallery import Picture
from raybench.report.html import render
from raybench.report.inspection import section
from raybench.report.tables import board_csv, board_md, flags_parquet
from raybench.runs.costs import write_costs
from raybench.runs.forecast import read_forecast
from raybench.runs.ledger import Ledger
from raybench.runs.records import Failure, QualityRecord, ScoreRecord, TrainRecord, UnitResult
from raybench.runs.run import Run, score_name, versions
from raybench.runs.scores import ScoreRow, read_scores
from raybench.worker.inspect import inspections_in

PICTURES, PICTURES_PER_LINE = 400, 10  # at most: one page has to open in a browser
READERS = 16


@dataclass(frozen=True)
class Finished:
    """A unit that has numbers, with all its image scores."""

    unit: Unit
    result: UnitResult
    images: ImageScores


def publish(plan: Plan, run: Run, created: str) -> Board:
    """Build the comparison of everything committed so far and write it below `runs/<name>/report/`."""
    with ThreadPoolExecutor(READERS) as pool:
        rows = [row for row in pool.map(lambda unit: _row(unit, run), plan.units) if row is not None]
    finished = {row.unit.unit_id: row for row in rows if isinstance(row, Finished)}
    shown = {unit.unit_id for unit in plan.compared}
    results = [row.result if isinstance(row, Finished) else row for row in rows]
    results = [result for result in results if result.unit_id in shown]
    scores = {unit_id: row.images for unit_id, row in finished.items() if unit_id in shown}
    context = BoardContext(
        run=run.name,
        created=created,
        digest=plan.experiment.digest,
        versions=versions(),
        false_alarm_budget=plan.experiment.false_alarm_budget,
        pending=len(plan.units) - len(rows),
        weights=plan.experiment.verdict.model_dump(),
        spending=_spending(plan, run, list(finished.values())),
    )
    board = build_board(results, scores, context, list(_twins(plan, finished)))
    seen = collect_scores(results, scores, {verdict.line: voting_models(verdict) for verdict in board.verdicts})
    inspections = inspections_in(run, plan)
    bad = {line: bad_images(one) for line, one in inspections.items() if isinstance(one, Inspection)}
    units = [row.unit for row in finished.values() if row.unit.unit_id in shown]
    queues = QueueBuilder(plan, run, board, units, lambda line: bad.get(line, {})).queues(seen)
    board = replace(board, payoffs=tuple(queue.payoff for queue in queues))
    flags = with_anomaly_types(plan, run, [flag for queue in queues for flag in queue.flags])
    pictures = list(_pictures(plan, run, board, list(top_images(seen, pictures_per_line(len(board.lines))))))
    run.put_report("board.json", board_json(board))
    run.put_report("board.csv", board_csv(board))
    run.put_report("board.md", board_md(board).encode())
    run.put_report("flags.parquet", flags_parquet(flags))
    sections = {line: section(inspections[line], manifest) for line, manifest in plan.manifests.items()}
    run.put_report("index.html", render(board, flags, pictures, seen, sections).encode())
    return board


def _spending(plan: Plan, run: Run, finished: Sequence[Finished]) -> CostReport:
    """What the run has taken so far; put down, per kind of unit, for the predictions of other runs."""
    write_costs(run, ((row.unit, row.result) for row in finished))
    hours = hours_of(row.result for row in finished)
    return CostReport(hours, plan.experiment.resources.price_per_hour, read_forecast(run))


def pictures_per_line(lines: int) -> int:
    """Fewer with more lines, but always one."""
    return max(1, min(PICTURES_PER_LINE, PICTURES // max(1, lines)))


def publish_again(plan: Plan) -> Board:
    """The report of what is done by now."""
    run = Run(plan.store, plan.experiment.name)
    return publish(plan, Run(plan.store, run.name, Ledger.read(run)), datetime.now(UTC).isoformat(timespec="seconds"))


def download(run: Run, folder: Path) -> Path:
    """A local copy of the report; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{run.root}/report/"
    for item in run.store.list(prefix):
        (folder / Path(item.key).name).write_bytes(run.store.get(item.key))
    return folder


def _twins(plan: Plan, finished: Mapping[str, Finished]) -> Iterator[SquashBaseline]:
    for unit_id, squashed_id in plan.squashed.items():
        if unit_id in finished and squashed_id in finished:
            chosen, squashed = finished[unit_id], finished[squashed_id]
            yield SquashBaseline(chosen.result, squashed.result, chosen.images, squashed.images)


def _row(unit: Unit, run: Run) -> Finished | UnitResult | None:
    """A finished unit, a failed one, or None for one that is still to be done."""
    result = run.read(unit.unit_id, "result", UnitResult)
    merged = run.read(unit.unit_id, "quality", QualityRecord) if result else None
    if result and merged:
        return Finished(unit, result, ImageScores.from_bytes(run.get_blob(merged.images)))
    failure = run.read(unit.unit_id, "failure", Failure)
    if failure is None:
        return None
    return UnitResult(unit.unit_id, unit.line, unit.model, unit.seed, input=unit.input, failure=failure)


def _pictures(plan: Plan, run: Run, board: Board, tops: Sequence[ScoredImage]) -> Iterator[Picture]:
    """The most anomalous images, with heat maps of the model that the verdict names (or of any that has some)."""
    for line in board.lines:
        models = [row.model for row in board.rows_of(line)]
        wanted = [seen for seen in tops if seen.line == line]
        unit = next((unit for name in models for unit in plan.units if _shows(unit, line, name, wanted)), None)
        if unit is not None:
            yield from _of_line(plan, run, unit, wanted)


def _shows(unit: Unit, line: str, model: str, wanted: Sequence[ScoredImage]) -> bool:
    return unit.line == line and unit.model == model and any(model in seen.excess for seen in wanted)


def _of_line(plan: Plan, run: Run, unit: Unit, wanted: Sequence[ScoredImage]) -> Iterator[Picture]:
    manifest = plan.manifests[unit.line]
    trained = run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        return
    ids = {seen.image_id for seen in wanted}
    found = {row.image_id: (row, scored) for row, scored in scored_images(plan, run, unit, manifest, ids)}
    for seen in wanted:
        if seen.image_id not in found:
            continue
        row, scored = found[seen.image_id]
        size = (row.height, row.width)
        fit = InputFit(unit.input.mode, unit.input.height, unit.input.width)
        yield Picture(
            line=unit.line,
            image_id=seen.image_id,
            label=seen.label,
            excess=seen.counted,
            flagged_by=seen.flagged_by,
            model=unit.model,
            image=decode_image(row.image, manifest.white_level),
            heatmap=None if scored.heatmap is None else to_source(scored.heatmap, fit, *size),
            mask=decode_mask(row.mask, *size) if row.mask else None,
            heat_low=trained.heat_low,
            heat_high=trained.heat_high,
            defect_type=row.defect_type,
        )


def scored_images(
    plan: Plan, run: Run, unit: Unit, manifest: Manifest, ids: set[str]
) -> Iterator[tuple[ImageRow, ScoreRow]]:
    """Images and their scores, from the few shards that hold them: the small score tables tell which."""
    lines = plan.lines_of(unit.line)
    for shard in manifest.scored_shards:
        record = run.read(unit.unit_id, score_name(shard.key), ScoreRecord)
        if record is None:
            continue
        here = ids & set(ImageScores.from_bytes(run.get_blob(record.images)).image_ids.tolist())
        if here:
            scored = {row.image_id: row for row in read_scores(run.get_blob(record.shard), only=here)}
            yield from ((row, scored[row.image_id]) for row in read_rows(lines, shard, only=here))
