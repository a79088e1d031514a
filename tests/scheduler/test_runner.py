from __future__ import annotations

import io
import os
import re
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

from raybench._api.execute import execute
from raybench.analysis.board import board_from_json
from raybench.config.experiment import Experiment, ModelChoice, Override, Resources
from raybench.config.plan import experiment_of, make_plan
from raybench.data.pack import PackOptions, pack
from raybench.detectors import weights
from raybench.errors import ExperimentError, InputError, RunStopped, StoreDenied
from raybench.report.annotations.read import import_labels
from raybench.report.console import RunSummary
from raybench.report.publish import cached_report
from raybench.runs.at_work import removing
from raybench.runs.ledger import Ledger
from raybench.runs.records import ImageCounts, ScoreRecord, UnitResult
from raybench.runs.run import RunStore, score_name
from raybench.scheduler import capacity, runner
from raybench.scheduler.aggregator import Aggregator
from raybench.scheduler.backlog import Backlog
from raybench.scheduler.cluster import cluster_capacity
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store
from tests.support.finished import FinishedRun
from tests.support.results import done

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def with_models(experiment: Experiment, *models: ModelChoice) -> Experiment:
    return experiment.model_copy(update={"models": models})


def run(experiment: Experiment) -> RunSummary:
    return run_plan(make_plan(experiment))


def test_a_run_and_the_same_run_again(finished: FinishedRun) -> None:
    first, packed = finished.summary, finished.store
    assert (first.units, first.reused, first.failed) == (1, 0, {})
    before = {item.key: packed.get(item.key) for item in packed.list("units/")}
    second = run(finished.experiment)
    assert (second.units, second.reused, second.failed) == (1, 1, {})
    assert {item.key: packed.get(item.key) for item in packed.list("units/")} == before
    assert second.board.rows == first.board.rows
    report = {item.key.rpartition("/")[2] for item in packed.list("runs/night/report/")}
    assert report == {"board.json", "board.csv", "board.md", "flags.parquet", "index.html"}
    assert board_from_json(packed.get("runs/night/report/board.json")) == second.board
    page = packed.get("runs/night/report/index.html").decode()
    assert page.count("<figure data-picture") == page.count("<img") == page.count("--maps:url(") == 12
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
    assert [(row.line, row.seeds, done(row).trained.threshold.budget) for row in summary.board.rows] == [
        ("far", (1,), 0.25),
        ("strip", (0,), 0.2),
    ]
    page = open_store(experiment.store).get("runs/night/report/index.html").decode()
    assert page.count("<figure data-picture") == 24  # pictures of both lines
    assert list(other.list()) == before
    assert experiment_of(f"{experiment.store}/runs/night").lines == lines


def test_a_failure_is_a_row_and_is_tried_again(experiment: Experiment, packed: Store) -> None:
    broken = ModelChoice(name="fake", label="broken", config={"fail_in": "score"})
    nan = ModelChoice(name="fake", label="nan", config={"nan_in_score": True})
    chosen = with_models(experiment, ModelChoice(name="fake"), broken, nan)
    for attempt in (1, 2):
        summary = run(chosen)
        assert len(summary.failed) == 2
        rows = {row.model: row for row in summary.board.rows}
        assert rows["fake"].finished
        assert rows["broken"].failures[0].error_type == "ModelError"
        assert "told to fail in score" in rows["broken"].failures[0].message
        assert rows["broken"].failures[0].attempt == attempt
        assert "fake_detector.py" in rows["broken"].failures[0].traceback
        assert rows["nan"].failures[0].error_type == "BadScores"
        assert cached_report(make_plan(chosen), RunStore(packed, "night")) is None  # it is not taken for finished


def test_a_run_tells_what_happens(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [frozenset("a"), frozenset("ab"), frozenset("b")]
    there = property(lambda cluster: nodes.pop(0) if len(nodes) > 1 else nodes[0])
    monkeypatch.setattr(capacity.Cluster, "node_ids", there)
    monkeypatch.setattr(runner, "QUIET_S", 0.2)
    models = (
        ModelChoice(name="fake", config={"sleep_s": 0.6}),
        ModelChoice(name="fake", label="broken", config={"fail_in": "fit"}),
    )
    told = list[str]()
    run_plan(make_plan(experiment.model_copy(update={"models": models})), tell=told.append)
    assert [text for text in told if text.startswith("nodes")] == [
        "nodes gained: b; 2 take tasks now",
        "nodes lost: a; 1 take tasks now",
    ]
    assert "failed: strip × broken × seed 0: ModelError: fake was told to fail in fit" in told
    assert any(
        re.match(r"no task has ended for 0 s; submitted: \w+ of strip × fake × seed 0 \(", text) for text in told
    )


def test_a_run_waits_for_nobody_who_removes_its_objects(experiment: Experiment, packed: Store) -> None:
    in_the_way = pytest.raises(InputError, match=r"runs/night is in use: raybench gc by")
    with removing(packed, "raybench gc"), in_the_way:
        execute(make_plan(experiment), None, None)
    assert not list(packed.list("units/"))


def test_the_driver_builds_the_report_where_the_node_of_the_aggregator_cannot(
    finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Denied:
        """Stands for the actor's method on a node without credentials."""

        def __getattr__(self, name: str) -> Any:
            return deny.remote if name == "remote" else self

    @ray.remote
    def deny(*arguments: object) -> None:
        raise StoreDenied("no credentials found")

    monkeypatch.setattr(runner, "aggregator_on", lambda node: Denied())
    assert run(finished.experiment).board.rows == finished.summary.board.rows


def test_a_killed_worker_is_replaced(experiment: Experiment, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    fragile = ModelChoice(name="fake", label="fragile", config={"kill_in": "score", "kill_once_marker": str(marker)})
    summary = run(with_models(experiment, fragile))
    assert marker.exists()
    assert summary.failed == {}
    assert summary.board.rows[0].finished


def test_a_worker_that_always_dies_is_a_row(experiment: Experiment) -> None:
    deadly = ModelChoice(name="fake", label="deadly", config={"kill_in": "fit"})
    chosen = with_models(experiment, deadly, ModelChoice(name="fake"))
    summary = run(chosen.model_copy(update={"resources": Resources(measure_s=0.05, retries=0)}))
    rows = {row.model: row for row in summary.board.rows}
    assert rows["deadly"].failures[0].error_type == "WorkerCrashedError"
    assert rows["fake"].finished


def test_an_aggregator_that_comes_back_empty_loses_nothing(finished: FinishedRun) -> None:
    experiment, packed, reference = finished.experiment, finished.store, finished.summary.board
    for item in list(packed.list("runs/night/ledger/")):
        packed.delete(item.key)
    plan, night = make_plan(experiment), RunStore(packed, "night")
    unit_id = plan.units[0].unit_id
    actor = Aggregator.remote()  # type: ignore[attr-defined]
    killed = actor.append_to_ledger.remote(night, [])
    ray.kill(actor, no_restart=False)
    ray.get(killed)
    assert ray.get(actor.report.remote(night, plan, "2026-01-01T00:00:00+00:00")).rows == reference.rows
    assert Ledger.read(night).done == set()
    ray.kill(actor)
    assert run(experiment).board.rows == reference.rows
    assert Ledger.read(night).done == {unit_id}


def forget_quality(store: Store) -> None:
    """Leave the unit's shards scored and nothing merged."""
    for item in [*store.list("units/"), *store.list("runs/night/ledger/")]:
        if item.key.endswith(("quality.json", "finished.json")) or item.key.startswith("runs/night/ledger/"):
            store.delete(item.key)


def test_scored_shards_are_merged_by_the_next_run(finished: FinishedRun) -> None:
    """As after a driver that was killed; a damaged partial metric is a row, and merged once it is whole again."""
    experiment, packed, reference = finished.experiment, finished.store, finished.summary.board
    forget_quality(packed)
    plan, night = make_plan(experiment), RunStore(packed, "night")
    unit_id = plan.units[0].unit_id
    record = night.read(unit_id, score_name(plan.manifests["strip"].scored_shards[0].key), ScoreRecord)
    assert record is not None
    whole = packed.get(record.pixels.key)
    packed.put(record.pixels.key, b"damaged")
    failure = run(experiment).failed[unit_id]
    assert (failure.phase, failure.error_type, failure.attempt) == ("aggregate", "IntegrityError", 1)
    packed.put(record.pixels.key, whole)
    summary = run(experiment)
    assert (summary.failed, summary.board.rows) == ({}, reference.rows)


def test_runs_of_a_store_share_what_is_done(finished: FinishedRun) -> None:
    packed, before = finished.store, {item.key for item in finished.store.list("units/")}
    other = finished.experiment.model_copy(update={"name": "other"})
    summary = run(other)
    assert (summary.units, summary.reused, summary.failed) == (1, 1, {})
    assert summary.board.rows == finished.summary.board.rows
    assert {item.key for item in packed.list("units/")} == before
    timed = run(other.model_copy(update={"timed_on": "line-pc"}))
    assert (timed.reused, timed.failed) == (0, {})
    new = {item.key.rpartition("/")[2] for item in packed.list("units/") if item.key not in before}
    assert not any(name.startswith(("train", "scored")) for name in new), "only timed and judged"
    there, here = (done(board.rows[0]) for board in (timed.board, summary.board))
    assert there.measured != here.measured
    assert (there.trained, there.quality) == (here.trained, here.quality)


def test_a_result_of_an_older_form_is_made_again_from_its_records(finished: FinishedRun) -> None:
    experiment, packed, reference = finished.experiment, finished.store, finished.summary.board
    key = RunStore(packed, "night").key(make_plan(experiment).units[0].unit_id, "finished.json")
    packed.put(key.replace("finished", "result"), b'{"quality": "in another form"}')
    records = {item.key: item.modified for item in packed.list("units/") if item.key != key}
    for item in [*packed.list("runs/night/ledger/"), *packed.list("runs/night/report/")]:
        packed.delete(item.key)
    packed.delete(key)
    summary = run(experiment)
    assert (summary.failed, summary.board.rows) == ({}, reference.rows)
    assert {item.key: item.modified for item in packed.list("units/") if item.key != key} == records


def test_labels_that_come_back_are_judged_and_nothing_is_trained_or_scored(
    finished: FinishedRun, tmp_path: Path
) -> None:
    experiment, packed = finished.experiment, finished.store
    before = make_plan(experiment)
    of_detector = f"units/{before.units[0].detector_id}/"
    keys = {item.key for item in packed.list(of_detector)}
    file = tmp_path / "decisions.csv"
    file.write_text("image_id,decision\ntest/good/000.png,ng\ntest/scratch/000.png,ok\n")
    assert len(import_labels(before.line("strip"), file).changes) == 2
    summary = run(experiment)
    assert summary.failed == {}
    assert {item.key for item in packed.list(of_detector)} == keys
    old, new = (done(board.rows[0]) for board in (finished.summary.board, summary.board))
    assert new.quality.image_auroc.value != old.quality.image_auroc.value
    assert new.trained == old.trained
    assert old.test == ImageCounts(6, 6, 6, chosen=0)
    assert new.test == ImageCounts(6, 6, 5, chosen=0)  # the NG image that was OK has no mask


def test_sigterm_stops_a_run_and_the_next_one_does_the_rest(experiment: Experiment, packed: Store) -> None:
    def stop(backlog: Backlog) -> None:
        if backlog.tallies["train"].done and not stopped:
            stopped.append(backlog)
            os.kill(os.getpid(), signal.SIGTERM)

    stopped: list[Backlog] = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStopped, match="stopped by SIGTERM: 0 of 1 units are done"):
        run_plan(make_plan(experiment), stop)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not packed.exists("runs/night/report/index.html")
    assert run(experiment).failed == {}
    assert packed.exists("runs/night/report/index.html")


def test_results_do_not_depend_on_who_did_the_work(finished: FinishedRun) -> None:
    experiment, packed = finished.experiment, finished.store
    unit_id = make_plan(experiment).units[0].unit_id
    first = RunStore(packed, "night").read(unit_id, "finished", UnitResult)
    run(experiment.model_copy(update={"name": "other", "resources": Resources(measure_s=0.05, in_flight=1)}))
    second = RunStore(packed, "other").read(unit_id, "finished", UnitResult)
    assert first is not None
    assert second is not None
    assert first.judged.quality == second.judged.quality
    assert first.trained.threshold == second.trained.threshold


def test_too_much_is_asked_of_the_cluster() -> None:
    with pytest.raises(InputError, match="no node of the cluster has more than"):
        cluster_capacity(Resources(cpus=256))
    with pytest.raises(InputError, match="has a GPU"):
        cluster_capacity(Resources(gpus=1.0))


@pytest.mark.long  # test_api.py has padim alone
def test_a_network_that_cannot_be_used_is_told_before_anything_is_trained(
    experiment: Experiment, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "weights"))
    store.create()
    here = weights.add(store, "press", b"no network", own_file="press.pth")
    backbone = {"timm_name": "test_resnet", "weights": "press", "sha256": here.sha256}
    models = (ModelChoice(name="padim", config={"backbone": backbone}),)
    plan = make_plan(experiment.model_copy(update={"models": models, "weights": str(tmp_path / "weights")}))
    with pytest.raises(ExperimentError, match=r"models: padim: press\.pth is no file of tensors"):
        run_plan(plan)
    assert not RunStore.of(plan).failures()


def test_real_models_through_the_whole_way(experiment: Experiment) -> None:
    chosen = with_models(experiment, ModelChoice(name="padim"), ModelChoice(name="patchcore"))
    summary = run(chosen)
    assert summary.failed == {}
    for row in summary.board.rows:
        found = done(row)
        assert found.trained.provenance == "imagenet"
        assert (found.quality.image_auroc.value or 0.0) > 0.9
        assert found.quality.au_pro.value is not None
        assert found.measured.size.disk_mb > 1
    assert summary.board.verdicts[0].run in ("padim", "patchcore")


def test_a_finished_run_is_shown_without_a_cluster(finished: FinishedRun) -> None:
    experiment, packed, board = finished.experiment, finished.store, finished.summary.board
    plan = make_plan(experiment)
    here = RunStore(packed, "night")
    assert cached_report(plan, here) == board
    more = make_plan(experiment.model_copy(update={"seeds": (0, 1)}))
    assert cached_report(more, here) is None
    here.put_report("board.json", here.get_report("board.json") + b"\n")
    assert cached_report(plan, here) is None
    packed.put("runs/night/ledger/report.json", b"[]")
    assert cached_report(plan, here) is None


def test_finished_units_are_in_the_ledger(finished: FinishedRun) -> None:
    experiment, packed = finished.experiment, finished.store
    here = RunStore(packed, "night")
    unit_ids = [unit.unit_id for unit in make_plan(experiment).units]
    ledger = Ledger.read(here, whole=True)
    assert ledger.done == set(unit_ids)
    key = here.key(unit_ids[0], "finished.json")
    assert ledger.get(key) == packed.get(key)
