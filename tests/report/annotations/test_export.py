"""From what a run left in the store to annotation work."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from typer.testing import CliRunner

from raybench.analysis.board import Board, BoardContext, board_json
from raybench.analysis.rows import merge_seeds
from raybench.analysis.verdict import Verdict
from raybench.cli import app
from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Unit
from raybench.data.geometry import to_source
from raybench.data.pack import PackOptions, pack
from raybench.data.shards import read_rows
from raybench.errors import InputError, IntegrityError, UnknownName
from raybench.metrics.numbers import Threshold
from raybench.report.annotations.export import LineExport, Options, annotate
from raybench.runs.records import ScoreRecord, UnitResult
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import ScoreRow, write_scores
from raybench.store import open_store
from raybench.worker.context import fit_of
from tests.support.results import NOTHING_SPENT, made_unit

HEIGHT, WIDTH, THRESHOLD = 60, 90, 0.5
FLAGGED = ["test/scratch/b.png", "train/good/0.png", "gone.png", "test/scratch/a.png"]
MASKS = Options(["masks", "coco"])


def heat(height: int, width: int, number: int) -> npt.NDArray[np.float32]:
    found = np.zeros((height, width), np.float32)
    found[10 : 20 + number, 12:40] = 1.0
    return found


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A run of two models on four OK images to train on and six NG ones, of which the verdict's has no heat maps."""
    for folder, names in {"train/good": "0123", "test/scratch": "abcdef"}.items():
        (tmp_path / "images" / folder).mkdir(parents=True)
        for at, name in enumerate(names):
            pixels = np.full((HEIGHT, WIDTH, 3), 40 + at, np.uint8)
            cv2.imwrite(str(tmp_path / "images" / folder / f"{name}.png"), pixels)
    store = open_store(str(tmp_path / "store"))
    store.create()
    pack(open_store(str(tmp_path / "images")), store.sub("lines"), "strip", PackOptions(shard_rows=4))
    models = (ModelChoice(name="patchcore"), ModelChoice(name="fake"))
    choice = InputChoice(pixels=64 * 64)
    found = make_plan(
        Experiment(name="night", store=store.uri(), lines=("strip",), models=models, input=choice, squashed_twins=False)
    )
    leave_results(found)
    return found


def leave_results(plan: Plan) -> None:
    run = RunStore(plan.store, "night")
    results = [result_of(unit) for unit in plan.units]
    for unit, result in zip(plan.units, results, strict=True):
        run.commit(unit.unit_id, "finished", result)
    unit = next(unit for unit in plan.units if unit.model == "fake")
    for shard in plan.manifests["strip"].scored_shards:
        rows = list(read_rows(plan.store.sub("lines"), shard))
        data = write_scores((scored(unit, row.image_id, at) for at, row in enumerate(rows)), fit=unit.input.mode)
        blob = run.put_blob(unit.unit_id, "scores", data)
        run.commit(
            unit.unit_id,
            score_name(shard.key),
            ScoreRecord(unit.unit_id, shard.key, len(rows), 0, blob, blob, blob, blob, blob, blob, None, NOTHING_SPENT),
        )
    board = Board(
        context=BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {}, 0.05),
        rows=tuple(merge_seeds([result]) for result in results),
        overall=(),
        verdicts=(Verdict("strip", "patchcore", ("fake",), "strip: run patchcore."),),
        over_all=None,
    )
    run.put_report("board.json", board_json(board))
    leave_flags(run, ["strip"] * len(FLAGGED) + ["other"], [*FLAGGED, "test/scratch/c.png"])


def result_of(unit: Unit) -> UnitResult:
    limit = THRESHOLD if unit.model == "fake" else None
    return made_unit(unit.unit_id, "strip", unit.model, pixel_threshold=Threshold(limit, 20, 0.05, 0.05))


def scored(unit: Unit, image_id: str, at: int) -> ScoreRow:
    found = heat(unit.input.height, unit.input.width, at)
    return ScoreRow(image_id, "strip", unit.model, unit.detector_id, 1.0, True, found, HEIGHT, WIDTH)


def leave_flags(run: RunStore, lines: list[str], ids: list[str]) -> None:
    table = pd.DataFrame({"line": lines, "image_id": ids})
    table = table.assign(label="ng", score=[1.5, np.nan, 1.0, 0.5, 0.5], reason="look")
    sink = io.BytesIO()
    told = pd.array(["layout", None, "defect", None, None], dtype="string")
    table.assign(picked=[True, False, False, True, True], signal=told).to_parquet(sink, index=False)
    run.put_report("flags.parquet", sink.getvalue())


@pytest.fixture
def done(plan: Plan, tmp_path: Path) -> LineExport:
    (found,) = annotate(plan, None, tmp_path / "out", MASKS)
    return found


def test_flags_become_images_with_outlines(plan: Plan, done: LineExport) -> None:
    assert str(done).startswith("strip: 3 flagged images, 2 regions by fake on 2 of them; 1 flagged images are not")
    assert done.written is not None
    folder = done.written.folder
    entries = {
        entry["image_id"]: entry for entry in map(json.loads, (folder / "images.jsonl").read_text().splitlines())
    }
    assert {image_id: entry["rank"] for image_id, entry in entries.items()} == {
        "test/scratch/b.png": 1,
        "train/good/0.png": 2,
        "test/scratch/a.png": 4,
    }
    assert [entries[image_id]["model"] for image_id in FLAGGED if image_id in entries] == ["fake", "", "fake"]
    assert [entry["signal"] for entry in sorted(entries.values(), key=lambda entry: entry["rank"])] == [
        "layout",
        "",
        "",
    ]
    assert entries["train/good/0.png"]["score"] is None
    unit = next(unit for unit in plan.units if unit.model == "fake")
    for image_id, number in (("test/scratch/a.png", 0), ("test/scratch/b.png", 1)):
        found = np.asarray(cv2.imread(str(folder / "masks" / entries[image_id]["file"]), cv2.IMREAD_UNCHANGED))
        full = to_source(heat(unit.input.height, unit.input.width, number), fit_of(unit), HEIGHT, WIDTH)
        np.testing.assert_array_equal(found > 0, full > THRESHOLD)


def test_images_are_the_packed_bytes(done: LineExport, tmp_path: Path) -> None:
    assert done.written is not None
    originals = {path.read_bytes() for path in (tmp_path / "images").rglob("*.png")}
    files = list((done.written.folder / "images").iterdir())
    assert len(files) == 3
    assert {path.read_bytes() for path in files} <= originals


def test_only_what_the_budget_picks(plan: Plan, tmp_path: Path) -> None:
    (found,) = annotate(plan, "strip", tmp_path / "out", Options(["coco"], images=False, picked=True))
    assert found.written is not None
    assert (found.written.images, found.missing) == (2, 0)


def test_the_command(plan: Plan, tmp_path: Path) -> None:
    RunStore(plan.store, "night").freeze(plan.experiment.to_yaml(), plan.experiment.digest)
    name = plan.store.uri("runs/night")
    found = CliRunner().invoke(app, ["annotate", name, "--to", str(tmp_path / "out"), "--format", "coco,cvat"])
    assert found.exit_code == 0, found.output
    assert "3 flagged images" in found.output
    assert sorted(path.name for path in (tmp_path / "out" / "strip").iterdir()) == [
        "coco.json",
        "cvat.xml",
        "images",
        "images.jsonl",
        "written.sha256",
    ]


def test_what_cannot_be_exported_is_said(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'strip'"):
        list(annotate(plan, "stripe", tmp_path, MASKS))
    run = RunStore(plan.store, "night")
    run.put_report("flags.parquet", b"PAR1 and no more")
    with pytest.raises(IntegrityError, match="raybench report"):
        list(annotate(plan, None, tmp_path, MASKS))
    fresh = make_plan(plan.experiment.model_copy(update={"name": "other"}))
    with pytest.raises(InputError, match="no report yet"):
        list(annotate(fresh, None, tmp_path, MASKS))
