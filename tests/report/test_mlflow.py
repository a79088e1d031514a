"""A run in MLflow: its own server on loopback, a folder and a database without one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from raybench import Run
from raybench.analysis.findings import analyze
from raybench.analysis.rows import merge_seeds
from raybench.cli import app
from raybench.config.experiment import ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.errors import InputError, TrackerError
from raybench.report.columns import line_cells
from raybench.report.mlflow import (
    DEFAULTS,
    DIGEST,
    EXPERIMENT,
    OUTDATED,
    PARENT,
    SCORES,
    URI,
    Published,
    publish_to_mlflow,
)
from raybench.runs.run import RunStore
from raybench.store.server import free_ports
from tests.support.made_run import begin, finish, planned, site_of
from tests.support.results import FAILURE

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # by MLflow's models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's server with a database and a folder for artefacts."""
    try:
        importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("MLflow's server is not installed, only its client")
    (port,), folder = free_ports(1), tmp_path_factory.mktemp("mlflow")
    store = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "artefacts")]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(command, cwd=folder, env=os.environ | quiet, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/health", started, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        started.wait(30)


def _wait(url: str, started: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and started.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        time.sleep(0.2)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def plan(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run of two models, of which one has failed."""
    models = (ModelChoice(name="fake"), ModelChoice(name="fake", label="broken", config={"fail_in": "fit"}))
    plan = planned(tmp_path_factory.mktemp("store"), strips, 20, *models)
    context = site_of(plan, tmp_path_factory.mktemp("cache"))
    works, fails = plan.units
    begin(plan)
    finish(works, plan.manifests["strip"], context)
    RunStore.of(plan).record_failure(fails.unit_id, FAILURE)
    return plan


@pytest.fixture
def tracked(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Tracked:
    """An experiment of its own on the server."""
    return _tracked(server, request.node.name, monkeypatch)


class Tracked:
    """What is in an experiment of MLflow."""

    def __init__(self, experiment: str) -> None:
        self.client = mlflow.MlflowClient()
        self.experiment = experiment

    def runs(self, wanted: str = "") -> list[Any]:
        experiment_id = self.client.get_experiment_by_name(self.experiment).experiment_id
        return list(self.client.search_runs([experiment_id], wanted))

    def run(self, **tags: str) -> Any:
        (found,) = self.runs(" and ".join(f"tags.{name} = '{value}'" for name, value in tags.items()))
        return found

    def parent(self) -> Any:
        (found,) = [run for run in self.runs() if PARENT not in run.data.tags]
        return found

    def artefact(self, run: Any, name: str, folder: Path) -> bytes:
        return Path(self.client.download_artifacts(run.info.run_id, name, str(folder))).read_bytes()


def _tracked(uri: str, experiment: str, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    for name, value in {**DEFAULTS, URI: uri, EXPERIMENT: experiment}.items():
        monkeypatch.setenv(name, value)
    return Tracked(experiment)


def test_of_two_publishers_at_once_one_is_refused(plan: Plan, tracked: Tracked, tmp_path: Path) -> None:
    def publish(_: int) -> Published | InputError:
        try:
            return publish_to_mlflow(plan, None, tmp_path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(publish, range(2)))
    refused = [each for each in ended if isinstance(each, InputError)]
    assert refused, "or they came one after the other"
    assert all("is in use: raybench publish by" in str(each) for each in refused)
    publish_to_mlflow(plan, None, tmp_path)
    assert len(tracked.runs()) == 1 + len(plan.units)


def test_numbers_scores_and_files_of_a_run_are_on_the_server(plan: Plan, tracked: Tracked, tmp_path: Path) -> None:
    done = publish_to_mlflow(plan, None, tmp_path)
    assert (done.created, done.updated, done.unchanged, done.outdated) == (2, 0, 0, 0)
    unit, findings = plan.units[0], analyze(plan, RunStore.of(plan), "2026-01-01")
    found = tracked.run(unit_id=unit.unit_id)
    (finished,) = findings.finished
    cells = line_cells(findings.board, merge_seeds([finished.result]))
    assert {"image_auroc", "image_auroc_low", "image_auroc_high", "au_pro_low", "threshold"} <= set(found.data.metrics)
    assert {name: found.data.metrics[name] for name in found.data.metrics} == {
        name: value for name, value in cells.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    tags = {"line": "strip", "model": "fake", "seed": "0", "decision": "run", PARENT: tracked.parent().info.run_id}
    assert tags.items() <= found.data.tags.items()
    assert (found.data.params["detector"], found.data.params["input.height"]) == ("fake", str(unit.input.height))
    assert found.info.status == "FINISHED"
    table = json.loads(tracked.artefact(found, SCORES, tmp_path))
    frame = pd.DataFrame(table["data"], columns=table["columns"]).set_index("image_id")
    assert frame["score"].to_dict() == dict(zip(finished.images.image_ids, finished.images.scores, strict=True))
    pd.testing.assert_frame_equal(
        tracked.client.load_table(found.info.experiment_id, SCORES, [found.info.run_id]), frame.reset_index()
    )
    card = ModelCard(tracked.artefact(found, "README.md", tmp_path).decode())
    assert card.data.eval_results[0].metric_value == cells["image_auroc"]
    parent = tracked.parent()
    assert parent.info.run_name == "night"
    assert parent.data.metrics["strip/recall_low"] == cells["recall_low"]
    names = {each.path for each in tracked.client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/index.html", "report/board.csv"} <= names
    assert (
        pd.read_csv(io.BytesIO(tracked.artefact(parent, "report/board.csv", tmp_path)))["line"].tolist()
        == ["strip"] * 2
    )


def test_a_failed_unit_is_a_failed_run(plan: Plan, tracked: Tracked, tmp_path: Path) -> None:
    publish_to_mlflow(plan, None, tmp_path)
    found = tracked.run(model="broken")
    assert (found.info.status, found.data.tags["decision"]) == ("FAILED", "failed")
    assert found.data.tags["raybench.failure_message"] == FAILURE.message
    assert "image_auroc" not in found.data.metrics


def test_publishing_again_updates_and_doubles_nothing(plan: Plan, tracked: Tracked, tmp_path: Path) -> None:
    publish_to_mlflow(plan, None, tmp_path)
    before = {run.info.run_id for run in tracked.runs()}
    assert publish_to_mlflow(plan, None, tmp_path).unchanged == 2
    works = tracked.run(unit_id=plan.units[0].unit_id).info.run_id
    tracked.client.delete_tag(works, DIGEST)  # as if it had been stopped
    tracked.client.log_metric(works, "recall", 0.125)
    tracked.client.log_metric(works, "of_an_older_raybench", 1.0)
    tracked.client.set_tag(works, "raybench.of_an_older_raybench", "so it was")
    tracked.client.set_tag(works, "seen by", "mia")
    assert publish_to_mlflow(plan, None, tmp_path).updated == 1
    assert {run.info.run_id for run in tracked.runs()} == before
    found = tracked.client.get_run(works)
    (finished,) = analyze(plan, RunStore.of(plan), "2026-01-01").finished
    assert found.data.metrics["recall"] == finished.result.judged.quality.recall.value
    assert len(tracked.client.get_metric_history(works, "image_auroc")) == 1
    assert math.isnan(found.data.metrics["of_an_older_raybench"])
    assert "raybench.of_an_older_raybench" not in found.data.tags
    assert found.data.tags["seen by"] == "mia"


def test_units_that_the_experiment_has_no_more_are_marked(plan: Plan, tracked: Tracked, tmp_path: Path) -> None:
    publish_to_mlflow(plan, None, tmp_path)
    fewer = make_plan(plan.experiment.model_copy(update={"models": plan.experiment.models[:1]}))
    assert publish_to_mlflow(fewer, None, tmp_path).outdated == 1
    assert tracked.run(model="broken").data.tags[OUTDATED] == "true"
    again = publish_to_mlflow(plan, None, tmp_path)
    assert (again.updated, again.outdated, len(tracked.runs())) == (1, 0, 3)
    assert OUTDATED not in tracked.run(model="broken").data.tags


def test_files_that_were_exported_are_published(plan: Plan, tracked: Tracked, tmp_path: Path) -> None:
    unit, (finished,) = plan.units[0], analyze(plan, RunStore.of(plan), "2026-01-01").finished
    about = {"unit_id": unit.unit_id, "threshold": {"value": finished.result.trained.threshold.value}}
    for name, text in {"json": json.dumps(about), "onnx": "a graph", "md": "a card"}.items():
        (tmp_path / f"strip-fake.{name}").write_text(text)
    for name, text in {"json": json.dumps(about | {"unit_id": "another"}), "onnx": "of another unit"}.items():
        (tmp_path / f"strip-fake-64x64.{name}").write_text(text)
    assert publish_to_mlflow(plan, tmp_path, tmp_path).not_exported == {}
    run_id = tracked.run(unit_id=unit.unit_id).info.run_id
    names = [each.path for each in tracked.client.list_artifacts(run_id, "onnx")]
    assert names == [f"onnx/strip-fake.{name}" for name in ("json", "md", "onnx")]


def test_the_command_says_what_cannot_be_exported(plan: Plan, tracked: Tracked, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app, ["publish", RunStore.of(plan).store.uri("runs/night"), "--to", "mlflow", "--onnx", str(tmp_path)]
    )
    assert told.exit_code == 1
    assert "no exported file of strip: strip × fake × seed 0: " in told.output
    assert f"mlflow: experiment {tracked.experiment}, run {tracked.parent().info.run_id}" in told.output
    assert "runs of units: 2 new, 0 updated, 0 unchanged" in told.output


# A new database takes MLflow seconds; the server has one, and the folder shows that none is needed.
@pytest.mark.parametrize(
    "uri", ["file://{folder}/runs", pytest.param("sqlite:///{folder}/runs.db", marks=pytest.mark.long)]
)
def test_a_folder_and_a_database_need_no_server(
    plan: Plan, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracked = _tracked(uri.format(folder=tmp_path), "night", monkeypatch)
    assert publish_to_mlflow(plan, None, tmp_path).created == 2
    assert Run(plan).publish().unchanged == 2
    assert len(tracked.runs()) == 3


def test_without_an_address_nothing_is_written(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=URI):
        publish_to_mlflow(plan, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_one_message_without_the_password(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    _tracked(f"http://mia:secret@127.0.0.1:{port}", "night", monkeypatch)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackerError, match=f"MLflow fails: .*127.0.0.1:{port}") as raised:
        publish_to_mlflow(plan, None, tmp_path)
    assert "secret" not in str(raised.value)
