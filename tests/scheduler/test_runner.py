from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

from raybench.analysis.board import board_from_json
from raybench.analysis.run_summary import RunSummary
from raybench.config.experiment import Experiment, ModelChoice, Override, Resources
from raybench.config.plan import experiment_of, make_plan
from raybench.data.pack import PackOptions, pack
from raybench.errors import InputError
from raybench.report import cache
from raybench.runs.ledger import Ledger
from raybench.runs.records import UnitResult
from raybench.runs.run import Run
from raybench.scheduler import merging
from raybench.scheduler.aggregator import Aggregator
from raybench.scheduler.capacity import Cluster
from raybench.scheduler.cluster import cluster_capacity
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def with_models(experiment: Experiment, *models: ModelChoice) -> Experiment:
    return experiment.model_copy(update={"models": models})


def run(experiment: Experiment) -> RunSummary:
    return run_plan(make_plan(experiment))


def test_a_run_and_the_same_run_again(experiment: Experiment, packed: Store) -> None:
    first = run(experiment)
    assert (first.units, first.reused, first.failed) == (1, 0, {})
    before = {item.key: packed.get(item.key) for item in packed.list("runs/night/units/")}
    second = run(experiment)
    assert (second.units, second.reused, second.failed) == (1, 1, {})
    assert {item.key: packed.get(item.key) for item in packed.list("runs/night/units/")} == before
    assert second.board.rows == first.board.rows
    report = {item.key.rpartition("/")[2] for item in packed.list("runs/night/report/")}
    assert report == {"board.json", "board.csv", "board.md", "flags.parquet", "index.html"}
    assert board_from_json(packed.get("runs/night/report/board.json")) == second.board
    page = packed.get("runs/night/report/index.html").decode()
    assert page.count("<figure data-item") == 10
    assert page.count("<img") == 20
    flags = pd.read_parquet(io.BytesIO(packed.get("runs/night/report/flags.parquet")))
    assert set(flags["line"]) <= {"strip"}


def test_lines_of_two_stores_one_with_settings_of_its_own(experiment: Experiment, strips: Path, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "other"))
    pack(open_store(str(strips)), other, "far", PackOptions(shard_rows=4))
    before = list(other.list())
    overrides = {"fa?": Override(false_alarm_budget=0.25, seeds=(1,))}
    lines = ("strip", f"{other.uri()}/f*")
    summary = run(experiment.model_copy(update={"lines": lines, "overrides": overrides}))
    assert summary.failed == {}
    assert [(row.line, row.seeds, row.threshold and row.threshold.budget) for row in summary.board.rows] == [
        ("far", (1,), 0.25),
        ("strip", (0,), 0.2),
    ]
    page = open_store(experiment.store).get("runs/night/report/index.html").decode()
    assert page.count("<figure data-item") == 20  # pictures of both lines
    assert list(other.list()) == before
    assert experiment_of(f"{experiment.store}/runs/night").lines == lines


def test_a_failure_is_a_row_and_is_tried_again(experiment: Experiment) -> None:
    broken = ModelChoice(name="fake", label="broken", config={"fail_in": "score"})
    nan = ModelChoice(name="fake", label="nan", config={"nan_in_score": True})
    chosen = with_models(experiment, ModelChoice(name="fake"), broken, nan)
    for attempt in (1, 2):
        summary = run(chosen)
        assert len(summary.failed) == 2
        rows = {row.model: row for row in summary.board.rows}
        assert rows["fake"].quality is not None
        assert rows["broken"].failures[0].error_type == "ModelError"
        assert "told to fail in score" in rows["broken"].failures[0].message
        assert rows["broken"].failures[0].attempt == attempt
        assert "fake.py" in rows["broken"].failures[0].traceback
        assert rows["nan"].failures[0].error_type == "BadScores"


def test_a_killed_worker_is_replaced(experiment: Experiment, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    fragile = ModelChoice(name="fake", label="fragile", config={"kill_in": "score", "kill_once_marker": str(marker)})
    summary = run(with_models(experiment, fragile))
    assert marker.exists()
    assert summary.failed == {}
    assert summary.board.rows[0].quality is not None


def test_a_worker_that_always_dies_is_a_row(experiment: Experiment) -> None:
    deadly = ModelChoice(name="fake", label="deadly", config={"kill_in": "fit"})
    chosen = with_models(experiment, deadly, ModelChoice(name="fake"))
    summary = run(chosen.model_copy(update={"resources": Resources(retries=0)}))
    rows = {row.model: row for row in summary.board.rows}
    assert rows["deadly"].failures[0].error_type == "WorkerCrashedError"
    assert rows["fake"].quality is not None


def test_an_aggregator_that_comes_back_empty_loses_nothing(experiment: Experiment, packed: Store) -> None:
    reference = run(experiment).board
    for item in list(packed.list("runs/night/units/")):
        if item.key.endswith(("quality.json", "result.json")):
            packed.delete(item.key)
    for item in list(packed.list("runs/night/ledger/")):
        packed.delete(item.key)
    plan = make_plan(experiment)
    actor = Aggregator.remote(Run(packed, "night"))  # type: ignore[attr-defined]
    for shard in plan.manifests["strip"].scored_shards[:2]:
        ray.get(actor.add.remote(plan.units[0].unit_id, shard.key))
    ray.kill(actor, no_restart=False)
    assert run(experiment).board.rows == reference.rows


def test_results_do_not_depend_on_who_did_the_work(experiment: Experiment, packed: Store) -> None:
    run(experiment)
    unit_id = make_plan(experiment).units[0].unit_id
    first = Run(packed, "night").read(unit_id, "result", UnitResult)
    run(experiment.model_copy(update={"name": "other", "resources": Resources(in_flight=1)}))
    second = Run(packed, "other").read(unit_id, "result", UnitResult)
    assert first is not None
    assert second is not None
    assert first.quality == second.quality
    assert first.threshold == second.threshold


def test_a_tree_of_actors_merges_what_one_does(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = experiment.model_copy(update={"seeds": (0, 1, 2)})
    alone = run(chosen).board
    monkeypatch.setattr("raybench.scheduler.mergers.SLOTS_EACH", 1)
    started: list[int] = []
    beside = merging.beside

    def noted(cluster: Cluster, number: int = 0) -> dict[str, Any]:
        started.append(number)
        return beside(cluster, number)

    monkeypatch.setattr(merging, "beside", noted)
    together = run(chosen.model_copy(update={"name": "tree"})).board
    assert started == list(range(1 + cluster_capacity(chosen.resources).count))
    assert [row.quality for row in together.rows] == [row.quality for row in alone.rows]


def test_too_much_is_asked_of_the_cluster() -> None:
    with pytest.raises(InputError, match="no node of the cluster has more than"):
        cluster_capacity(Resources(cpus=256))
    with pytest.raises(InputError, match="has a GPU"):
        cluster_capacity(Resources(gpus=1.0))


def test_driver_and_aggregator_never_import_torch() -> None:
    code = (
        "import sys, raybench.cli\n"
        "from raybench.scheduler import aggregator, progress, runner\n"
        "print(sorted({'torch', 'anomalib', 'timm'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_real_models_through_the_whole_way(experiment: Experiment) -> None:
    chosen = with_models(experiment, ModelChoice(name="padim"), ModelChoice(name="patchcore"))
    summary = run(chosen)
    assert summary.failed == {}
    for row in summary.board.rows:
        assert row.provenance == "imagenet"
        assert row.quality is not None
        assert row.quality.image_auroc.value is not None
        assert row.quality.image_auroc.value > 0.9
        assert row.quality.au_pro.value is not None
        assert row.size is not None
        assert row.size.disk_mb > 1
    assert summary.board.verdicts[0].run in ("padim", "patchcore")


def test_a_finished_run_is_shown_without_a_cluster(experiment: Experiment, packed: Store) -> None:
    board = run(experiment).board
    plan = make_plan(experiment)
    here = Run(packed, "night")
    assert cache.load(plan, here) == board
    more = make_plan(experiment.model_copy(update={"seeds": (0, 1)}))
    assert cache.load(more, here) is None
    here.put_report("board.json", here.get_report("board.json") + b"\n")
    assert cache.load(plan, here) is None
    packed.put("runs/night/ledger/report.json", b"[]")
    assert cache.load(plan, here) is None


def test_finished_units_are_in_the_ledger(experiment: Experiment, packed: Store) -> None:
    run(experiment)
    here = Run(packed, "night")
    unit_ids = [unit.unit_id for unit in make_plan(experiment).units]
    ledger = Ledger.read(here)
    assert ledger.done == set(unit_ids)
    for key in (here.key(unit_ids[0], "result.json"), here.key(unit_ids[0], "quality.json")):
        assert ledger.get(key) == packed.get(key)


def test_a_run_with_failures_is_not_taken_for_finished(experiment: Experiment, packed: Store) -> None:
    broken = with_models(experiment, ModelChoice(name="fake", config={"fail_in": "fit"}))
    run(broken)
    assert cache.load(make_plan(broken), Run(packed, "night")) is None
