"""From a run's commits to its report in the store: board, flags, pictures, page; and a local copy of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raybench.findings.board import Board, BoardContext, build_board
from raybench.findings.flags import build_flags, top_images
from raybench.lines.decode import decode_image, decode_mask
from raybench.lines.fit import InputFit, to_source
from raybench.lines.scores import ScoreRow, read_scores
from raybench.lines.shards import Row, read_rows
from raybench.metrics.image import ImageScores
from raybench.plan import Plan
from raybench.reports.gallery import Picture
from raybench.reports.html import render
from raybench.reports.tables import board_csv, board_json, board_md, flags_parquet
from raybench.results import Failure, UnitResult
from raybench.runs import QualityRecord, Run, ScoreRecord, TrainRecord, score_name
from raybench.units import Unit

PICTURES_PER_LINE = 10
READERS = 16
PACKAGES = ("raybench", "anomalib", "torch", "timm", "ray", "pyarrow", "numpy")


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
    finished = [row for row in rows if isinstance(row, Finished)]
    results = [row.result if isinstance(row, Finished) else row for row in rows]
    scores = {row.unit.unit_id: row.images for row in finished}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    context = BoardContext(
        run=run.name,
        created=created,
        digest=plan.experiment.digest,
        versions=versions,
        false_alarm_budget=plan.experiment.false_alarm_budget,
    )
    board = build_board(results, scores, context)
    flags = build_flags(results, scores)
    pictures = list(_pictures(plan, run, board, finished))
    run.put_report("board.json", board_json(board))
    run.put_report("board.csv", board_csv(board))
    run.put_report("board.md", board_md(board).encode())
    run.put_report("flags.parquet", flags_parquet(flags))
    run.put_report("index.html", render(board, flags, pictures).encode())
    return board


def publish_again(plan: Plan) -> Board:
    """The report of what is done by now."""
    return publish(plan, Run(plan.store, plan.experiment.name), datetime.now(UTC).isoformat(timespec="seconds"))


def download(run: Run, folder: Path) -> Path:
    """A local copy of the report; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{run.root}/report/"
    for item in run.store.list(prefix):
        (folder / Path(item.key).name).write_bytes(run.store.get(item.key))
    return folder


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
