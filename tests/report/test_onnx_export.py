"""A line's winner leaves as a file that scores as it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.errors import InputError, ModelError, UnknownName
from raybench.report.onnx_export import export
from raybench.report.publish import publish_again
from raybench.runs.run import Run
from raybench.worker.context import WorkerContext
from raybench.worker.measure import measure
from raybench.worker.merge import Partials, finalize, merge
from raybench.worker.score import score
from raybench.worker.train import train


@pytest.fixture
def done(experiment: Experiment, tmp_path: Path) -> Plan:
    """A run of patchcore and fake, worked off without Ray."""
    models = (ModelChoice(name="patchcore", config={"pool_rows": 600}), ModelChoice(name="fake"))
    plan = make_plan(experiment.model_copy(update={"models": models}))
    run = Run(plan.store, plan.experiment.name)
    site = WorkerContext(run, plan.store.sub("lines"), tmp_path, "cpu", 1)
    for unit in plan.units:
        manifest = plan.manifests[unit.line]
        train(unit, manifest, site)
        for shard in manifest.scored_shards:
            score(unit, manifest, shard, site)
        merge(unit, manifest, run, Partials())
        measure(unit, manifest, site)
        finalize(unit, manifest, run)
    publish_again(plan)
    return plan


def test_the_winner_is_written_and_checked(done: Plan, tmp_path: Path) -> None:
    found = export(done, "strip", "patchcore", tmp_path / "out", tmp_path)
    assert {path.suffix for path in found.files} == {".onnx", ".xml", ".bin", ".json"}
    assert all(path.is_file() for path in found.files)
    assert 0 <= found.difference < 1e-3
    about = json.loads((tmp_path / "out" / "strip-patchcore.json").read_text())
    assert about["input"]["shape"] == [1, 64, 96, 3]
    assert about["threshold"]["value"] > 0
    assert about["fit"]["mode"] == "native"
    winner = publish_again(done).verdict_on("strip").run
    if winner == "patchcore":
        assert export(done, "strip", None, tmp_path / "again", tmp_path).model == winner
    else:
        with pytest.raises(ModelError, match="no torch module"):
            export(done, "strip", None, tmp_path / "again", tmp_path)


def test_what_cannot_be_exported_stands_on_the_board(done: Plan) -> None:
    from raybench.report.conditions import conditions

    assert "fake cannot be exported: it has no torch module" in conditions(publish_again(done))


def test_names_that_do_not_exist(done: Plan, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'patchcore'"):
        export(done, "strip", "patchcor", tmp_path, tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'strip'"):
        export(done, "stripe", None, tmp_path, tmp_path)
    fresh = make_plan(done.experiment.model_copy(update={"name": "other"}))
    with pytest.raises(InputError, match="not trained yet"):
        export(fresh, "strip", "patchcore", tmp_path, tmp_path)
