"""`predict` and `--json`, on a store in a folder and without a cluster."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from raybench.analysis.board import Board, board_from_json
from raybench.cli import main, terminal
from raybench.cli import run as run_command
from raybench.config.plan import Plan, experiment_of, make_plan
from raybench.data.pack import PackOptions, pack
from raybench.data.source import name_of, plain_name
from raybench.report.console import RunSummary
from raybench.report.publish import cache_report, publish_again
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.store.server import HOST, free_ports
from raybench.worker import predict
from tests.support.made_run import begin, finish, site_of

EXPERIMENT = """
name: night
store: {store}
lines: [strip]
models: [fake, {{name: fake, label: two-words, config: {{grid: 4}}}}]
false_alarm_budget: 0.2
squashed_twins: false
input: {{pixels: 4096}}
annotation: {{signals: 0}}
"""


@pytest.fixture(scope="module")
def experiment(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an experiment that is done, its report published."""
    folder = tmp_path_factory.mktemp("night")
    file = folder / "night.yaml"
    store = open_store(str(folder / "store"))
    file.write_text(EXPERIMENT.format(store=store.uri()))
    pack(open_store(str(strips)), store.sub("lines"), "strip", PackOptions(shard_rows=8))
    plan = make_plan(experiment_of(str(file)))
    run, manifest = begin(plan), plan.manifests["strip"]
    site = site_of(plan, folder)
    for unit in plan.units:
        finish(unit, manifest, site)
    cache_report(plan, run, publish_again(plan))
    return file


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "cache"))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raybench", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON document on stdout."""
    return json.loads(capsys.readouterr().out)


def test_an_unreachable_cluster_is_said_before_anything_is_packed(
    experiment: Path, strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{HOST}:{free_ports(1)[0]}"
    command = ("predict", experiment, strips, "--line", "strip", "--name", "unreachable", "--out", tmp_path)
    assert call(monkeypatch, *command, "--address", address) == terminal.BAD_INPUT
    assert f"error: no Ray cluster answers at {address}" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert call(monkeypatch, *command) == terminal.BAD_INPUT
    assert f"at {address} (from RAY_ADDRESS" in capsys.readouterr().err
    store = make_plan(experiment_of(str(experiment))).store
    assert not list(store.list("runs/night/predictions/unreachable/"))


def stored_board(plan: Plan) -> Board:
    return board_from_json(RunStore.of(plan).get_report("board.json"))


def test_new_images_by_the_chosen_model(
    experiment: Path, strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(shutil.copytree(strips / "test", tmp_path / "day one"))
    (images / "empty.png").write_bytes(b"")
    command = ("predict", experiment, images, "--line", "strip", "--out", tmp_path / "out")
    assert call(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert "of 12 images are anomalous at the threshold that promises at most" in out
    assert "rejected empty.png: empty_file" in out
    [page] = (tmp_path / "out").rglob("index.html")
    assert out.strip().endswith(str(page))
    assert page.parent.parent == tmp_path / "out" / "night" / "predictions" / "day-one"
    run = open_store(str(experiment.parent / "store")).uri("runs/night")
    again = ("predict", run, *command[2:], "--json")
    monkeypatch.setattr(predict, "score", lambda *_: pytest.fail("scored again"))
    assert call(monkeypatch, *again) == 0
    summary = told(capsys)
    assert summary == json.loads((page.parent / "summary.json").read_text())
    assert (summary["images"], summary["rejected"], summary["not_scored"]) == (12, {"empty_file": 1}, 0)
    assert len(pd.read_parquet(page.parent / "predictions.parquet")) == 12


def test_a_model_by_its_label_and_a_name(
    experiment: Path, strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("predict", experiment, strips / "test", "--line", "strip", "--out", tmp_path / "out", "--json")
    assert call(monkeypatch, *command, "--name", "mine", "--model", "two-words") == 0
    summary = told(capsys)
    assert (summary["model"], summary["prediction"]) == ("two-words", "mine")
    [page] = tmp_path.rglob("index.html")
    assert page.parent == tmp_path / "out" / "night" / "predictions" / "mine" / "two-words"
    assert call(monkeypatch, *command, "--name", "mine", "--model", "fake") == 0
    assert told(capsys)["model"] == "fake"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--line", "stripe"), "did you mean 'strip'"),
        (("--line", "strip", "--model", "fak"), "did you mean 'fake'"),
        (("--line", "strip", "--name", "../x"), "not a prediction's name"),
    ],
)
def test_what_does_not_exist_is_one_message(
    experiment: Path,
    strips: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "predict", experiment, strips / "test", "--json", *arguments) == terminal.BAD_INPUT
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_some_shards_fail(
    experiment: Path, strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        print("a detector of somebody's own")  # noqa: T201
        raise ValueError("no")

    monkeypatch.setattr(predict, "score", broken)
    command = ("predict", experiment, strips / "test", "--line", "strip", "--name", "bad", "--out", tmp_path, "--json")
    assert call(monkeypatch, *command) == 1
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert [failure["message"] for failure in summary["failed"].values()] == ["no"]
    assert (summary["images"], summary["not_scored"], summary["top"]) == (0, 12, [])
    assert "ValueError: no" in shown.err
    assert "somebody's own" in shown.err


def test_stopped_in_good_order(
    experiment: Path, strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "score", stopped)
    command = ("predict", experiment, strips / "test", "--line", "strip", "--name", "cut", "--out", tmp_path)
    assert call(monkeypatch, *command) == terminal.STOPPED
    assert "run the same command again" in capsys.readouterr().err


def test_report_and_run_print_the_reports_own_board(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("run", "report"):
        assert call(monkeypatch, command, experiment, "--out", tmp_path, "--json") == 0
        shown = capsys.readouterr()
        assert shown.out == (tmp_path / "night" / "report" / "board.json").read_text()
        assert str(tmp_path / "night" / "report" / "index.html") in shown.err
        assert [row["model"] for row in json.loads(shown.out)["rows"]] == ["fake", "two-words"]


def test_a_run_ends_with_what_to_do(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_command, "execute", lambda plan, *_: RunSummary(stored_board(plan), 2, 2))
    assert call(monkeypatch, "run", experiment, "--out", tmp_path) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if not row.startswith("Times were taken on a busy")]
    assert len(rows) <= 10
    assert rows[0].startswith("strip: ")
    assert "image AUROC" in rows[0]
    assert rows[1].startswith(("Annotate ", "Nothing to annotate"))
    assert rows[2:5] == [
        "2 units: 0 done now, 2 done before, 0 failed",
        f"report: {tmp_path}/night/report/index.html",
        "next:",
    ]
    commands = [row.partition("#")[0].split() for row in rows[5:]]
    assert commands[:2] == [
        ["raybench", "report", str(experiment)],
        ["raybench", "predict", str(experiment), "FOLDER", "--line", "strip"],
    ]


def test_what_failed_is_one_row(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(plan: Plan, *_: object) -> RunSummary:
        failed = {unit.unit_id: Failure("train", "Oops", f"no [red]\nno {'x' * 500}", "", 2) for unit in plan.units}
        uninspected = {"strip": Failure("inspect", "OSError", "full", "", 1)}
        return RunSummary(stored_board(plan), 2, 0, failed, uninspected, ("node 1: its GPU fails",))

    monkeypatch.setattr(run_command, "execute", failing)
    assert call(monkeypatch, "run", experiment, "--out", tmp_path) == 1
    out = capsys.readouterr().out
    start = "2 of 2 units failed (details: report; retry: the same command). First: strip × "
    [row] = [row for row in out.splitlines() if row.startswith(start)]
    assert "seed 0 in train, attempt 2: Oops: no [red] no xxx" in row
    assert len(row) < 350
    assert "\nThe data of 1 lines were not inspected. strip in inspect, attempt 1: OSError: full\n" in out
    assert "\nLeft out: node 1: its GPU fails\n" in out
    assert "\n2 units: 0 done now, 0 done before, 2 failed\n" in out


def test_check_status_models_and_verify(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(experiment_of(str(experiment)))
    ids = [unit.unit_id for unit in plan.units]
    assert call(monkeypatch, "check", experiment, "--json") == 0
    checked = told(capsys)
    assert (checked["run"], checked["digest"]) == ("night", plan.experiment.digest)
    assert [(unit["unit_id"], unit["train_ok"], unit["scored"]) for unit in checked["units"]] == [
        (unit_id, 24, 12) for unit_id in ids
    ]
    assert call(monkeypatch, "status", experiment, "--json") == 0
    status = told(capsys)
    assert status["done"] == 2
    assert [(unit["unit_id"], unit["state"], unit["scored_shards"]) for unit in status["units"]] == [
        (unit_id, "done", 2) for unit_id in ids
    ]
    assert call(monkeypatch, "models", "--json", "--preset", "cpu") == 0
    models = {model["name"]: model for model in told(capsys)["models"]}
    assert models["patchcore"]["settings"]["backbone"]
    assert models["efficient_ad"]["min_side"] == 256
    assert call(monkeypatch, "verify", experiment, "--json") == 0
    assert told(capsys)["problems"] == []


def test_verify_lists_problems_as_json(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(shutil.copytree(experiment.parent / "store", tmp_path / "store")))
    key = next(item.key for item in store.list("units/") if "/model/" in item.key)
    store.delete(key)
    assert call(monkeypatch, "verify", store.uri("runs/night"), "--json") == 1
    assert {(problem["uri"], problem["what"]) for problem in told(capsys)["problems"]} == {
        (store.uri(key), "is missing")
    }


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/days/2026-01-01/", "2026-01-01"),
        ("file:///photos/..hidden", "hidden"),
        ("s3://bucket", "bucket"),
        ("file:///photos/line%20ä", "line-"),
        ("s3://bucket/50%20", "50-20"),
        ("file:///", "images"),
        ("file:///" + "x" * 300, "x" * 100),
    ],
)
def test_names_after_sources(uri: str, name: str) -> None:
    assert name_of(uri) == name
    assert plain_name(name) == name


def test_names_after_folders(tmp_path: Path) -> None:
    (tmp_path / "line-7").mkdir()
    (tmp_path / "bottle").symlink_to(tmp_path / "line-7")
    assert name_of(tmp_path / "bottle") == "bottle"
    assert name_of(f"{tmp_path}/bottle/../line-7/") == "line-7"


def test_a_line_is_watched(
    experiment: Path, strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--line", "strip", "--model", "two-words")
    assert call(monkeypatch, "watch", experiment, *options, "--since", "2999-01-01") == 2
    assert "has scored no new images of strip" in capsys.readouterr().err
    for at in range(9):  # images that no other test has scored
        cv2.imwrite(str(tmp_path / f"{at}.png"), np.full((64, 256, 3), 140 + at, np.uint8))
    predict_day = ("predict", experiment, tmp_path, *options, "--out", tmp_path.parent / "out")
    assert call(monkeypatch, *predict_day, "--at", "someday") == 2
    for _ in range(2):
        assert call(monkeypatch, *predict_day, "--name", "day", "--at", "2026-03-01") == 0
    assert call(monkeypatch, *predict_day, "--name", "day", "--at", "2026-03-02") == 2
    assert "at 2026-03-01T00:00:00+00:00: that does not change" in " ".join(capsys.readouterr().err.split())
    file = tmp_path / "strip.prom"
    assert call(monkeypatch, "watch", experiment, *options, "--prometheus", file, "--json") in {0, terminal.CHANGED}
    found = told(capsys)
    batch = found["batches"][0]
    assert (batch["at"], batch["images"]) == ("2026-03-01T00:00:00+00:00", 9)
    assert set(batch["quantiles"]) == {"scores", "brightness", "contrast", "sharpness"}
    assert 'raybench_watch_batches{line="strip",model="two-words",run="night"}' in file.read_text()
    assert call(monkeypatch, "watch", experiment, *options) in {0, terminal.CHANGED}
    assert "2026-03-01 00:00" in capsys.readouterr().out
    assert call(monkeypatch, "verify", experiment) == 0
    assert "batch" in capsys.readouterr().out
