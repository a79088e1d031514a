"""What an earlier version has stored is read, and counts, in this one. A failure here orphans users' runs."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from raybench import Run
from raybench.analysis.board import Board, board_from_json, board_json
from raybench.analysis.findings import analyze
from raybench.analysis.flags import Flag, Kind
from raybench.config import unit as unit_module
from raybench.config.plan import Plan
from raybench.data.shards import read_rows
from raybench.report.gallery import THUMBNAIL_SIDE
from raybench.report.pictures import read_pictures
from raybench.report.publish import publish
from raybench.runs.ledger import Ledger
from raybench.runs.records import MeasureRecord, QualityRecord, ScoreRecord, TrainRecord, UnitResult
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import read_scores

from .make import CREATED, ID_VERSION, STORED, plan_of

UNIT_IDS = {"padim": "3b9aeb520b97e812ce28", "dfm": "93185260e4060239683a"}
LINE_DIGEST = "dcc467d8aaeb00e2cecdd274cdc7d1351975b258a9f8762301cd2f3ef65abcd8"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(STORED) as tar:
        tar.extractall(folder, filter="data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_module, "ID_VERSION", ID_VERSION)
        yield plan_of(folder / "store")


def test_nothing_is_left_to_do(plan: Plan) -> None:
    assert plan.manifests["strip"].digest == LINE_DIGEST
    assert {unit.model: unit.unit_id for unit in plan.units} == UNIT_IDS
    ledger = Ledger.read(RunStore(plan.store, "golden"))
    assert ledger.done == set(UNIT_IDS.values())


def test_every_record_is_read(plan: Plan) -> None:
    run = RunStore(plan.store, "golden")
    for unit in plan.units:
        for owner, name, kind in (
            (unit.detector_id, "train", TrainRecord),
            (unit.unit_id, "quality", QualityRecord),
            (unit.detector_id, "measure", MeasureRecord),
        ):
            assert run.read(owner, name, kind) is not None
        assert run.read(unit.unit_id, "finished", UnitResult) is not None
        for shard in plan.manifests["strip"].scored_shards:
            record = run.read(unit.unit_id, score_name(shard.key), ScoreRecord)
            assert record is not None
            assert len(read_scores(run.get_blob(record.shard))) == record.rows


def test_a_model_has_the_label_that_the_experiment_gives_it_now(plan: Plan) -> None:
    renamed = [replace(unit, model=f"{unit.model}, wide") for unit in plan.units]
    assert [unit.unit_id for unit in renamed] == [unit.unit_id for unit in plan.units]
    board = analyze(replace(plan, units=tuple(renamed)), RunStore(plan.store, "golden"), CREATED).board
    assert {row.model for row in board.rows} == {unit.model for unit in renamed}


def test_the_board_is_built_as_it_was(plan: Plan) -> None:
    run = RunStore(plan.store, "golden")
    stored = board_from_json(run.get_report("board.json"))
    built = publish(plan, RunStore(plan.store, "golden", Ledger.read(run)), CREATED)
    assert comparable(built) == comparable(stored)


def test_its_queue_is_shown_training_images_included(plan: Plan) -> None:
    run = RunStore(plan.store, "golden")
    findings = analyze(plan, run, CREATED)
    shards = (shard for shard in plan.manifests["strip"].shards if shard.split == "train")
    trained = next(row for shard in shards for row in read_rows(plan.lines_of("strip"), shard))
    kind: Kind = "suspicious training image"
    flag = Flag("strip", trained.image_id, "ok", ("padim",), 1, 1.0, kind, "odd", (kind,))
    pictures = {each.image_id: each for each in read_pictures(plan, run, findings.board, findings.images, [flag])}
    small = pictures.pop(trained.image_id)
    assert (small.is_thumbnail, small.sha256, max(small.image.shape[:2])) == (True, trained.sha256, THUMBNAIL_SIDE)
    assert pictures.keys() == {image.image_id for image in findings.images}
    assert all(each.maps and not each.is_thumbnail and len(each.sha256) == 64 for each in pictures.values())


def test_it_is_unchanged_against_itself(plan: Plan) -> None:
    comparison = Run(plan).compare(Run(plan))
    assert [(line.line, line.word, line.notes) for line in comparison.lines] == [("strip", "unchanged", ())]
    assert comparison.check("recall drops") == {"strip": ""}


def comparable(board: Board) -> Any:
    """Without what a machine or a place decides: versions, the last digits, the store in the digest."""
    context = replace(board.context, versions={}, digest="")
    text = board_json(replace(board, context=context))
    return json.loads(text, parse_float=lambda number: round(float(number), 9))
