"""One run by the example of `raybench`'s docstring, with lighter models; all else reads it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import raybench as rb
from raybench.analysis.board import board_from_json
from raybench.cli import app
from raybench.data import source
from raybench.metrics.image import ImageScores
from raybench.report.notebook import BoardFrame
from raybench.runs.records import QualityRecord
from raybench.runs.run import RunStore
from raybench.scheduler import cluster as cluster_module
from tests.support.plugins import PLUGIN
from tests.support.report_units import EVIL
from tests.support.results import done

ROOT = Path(__file__).parents[2]
MODELS = ["padim", "fake"]
PIXELS = 128 * 128
BENT = "test/bent/013.png"
LIGHTER = {
    '["padim", "patchcore", "dfm"]': str(MODELS),
    'preset="cpu"': 'preset="cpu", resources={"measure_s": 0.05, "cpus": CPUS}, annotation={"signals": 0}, '
    f'input={{"pixels": {PIXELS}}}',
}
"""What runs in place of parts of the example. Tasks take all cores, so that only one worker imports torch."""


def docstring_example() -> str:
    rows = (rb.__doc__ or "").splitlines()
    code = textwrap.dedent("\n".join(row for row in rows if row.startswith("    ")))
    for heavy, light in LIGHTER.items():
        assert heavy in code
        code = code.replace(heavy, light)
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, strips: Path) -> Iterator[Path]:
    """The working folder of the module, with the images of the example."""
    path = tmp_path_factory.mktemp("api")
    images = path / "photos" / "bottle"
    shutil.copytree(strips, images)
    for part, name in (("test", "013.png"), ("ground_truth", "013_mask.png")):
        (images / part / "scratch").rename(images / part / "bent")
        (images / part / "bent" / name.replace("013", "000")).rename(images / part / "bent" / name)
    shutil.copy(images / "test" / "missing_hole" / "001.png", images / "test" / "good" / "mislabelled.png")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(path):
        patch.setenv("RAYBENCH_CACHE", str(path / "cache"))
        yield path


@pytest.fixture(scope="module")
def run(folder: Path, cluster: None) -> rb.Run:
    names: dict[str, Any] = {"CPUS": os.cpu_count()}
    exec(docstring_example(), names)  # noqa: S102
    found: rb.Run = names["run"]
    return found


@pytest.mark.cluster
def test_the_board(run: rb.Run) -> None:
    board = run.board()
    assert board.index.names == ["line", "model"]
    assert set(board.index) == {("bottle", "padim"), ("bottle", "fake")}
    stored = board_from_json(RunStore(run.plan.store, run.name).get_report("board.json"))
    for row in stored.rows:
        auroc, cells = done(row).quality.image_auroc, board.to_dict("index")[("bottle", row.model)]
        found = [cells["image_auroc"], cells["image_auroc_low"], cells["image_auroc_high"]]
        assert found == pytest.approx([auroc.value, auroc.low, auroc.high])
    (padim,) = (done(row) for row in stored.rows if row.model == "padim")
    assert padim.trained.provenance == "imagenet"
    assert (padim.quality.image_auroc.value or 0) > 0.85  # of the OK images one is not
    assert padim.quality.au_pro.value is not None
    assert padim.measured.size.disk_mb > 1
    html = board._repr_html_()  # type: ignore[operator]
    assert "padim" in html
    assert f"{board['image_auroc'].iloc[0]:.3f} (" in html
    assert "image_ap" not in html
    assert type(board[["image_auroc"]]) is pd.DataFrame


@pytest.mark.cluster
def test_a_report_from_before_labels_came_back_is_not_taken_for_the_present(run: rb.Run) -> None:
    other = {"manifests": {"bottle": replace(run.plan.manifests["bottle"], masks=1)}, "states": {"bottle": "another"}}
    with pytest.warns(UserWarning, match="images or labels of bottle have changed since the report of 20"):
        rb.Run(replace(run.plan, **other)).verdict("bottle")  # type: ignore[arg-type]


def test_a_notebook_shows_hostile_names_as_text() -> None:
    frame = BoardFrame({"conclusion": [f"run this one: {EVIL}"], "recall": [0.5]}, pd.Index([(EVIL, EVIL)]))
    html = frame._repr_html_()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 3


@pytest.mark.cluster
def test_the_verdict_reads_well(run: rb.Run) -> None:
    verdict = run.verdict("bottle")
    rows = str(verdict).splitlines()
    assert repr(verdict) == str(verdict)
    assert rows[0] == verdict.sentence
    assert rows[1 : 1 + len(verdict.notes)] == list(verdict.notes)
    assert len(rows) == 1 + len(verdict.notes) + 2
    assert any(row.startswith(f"  {verdict.run}") and "run this one" in row for row in rows[1:])


@pytest.mark.cluster
def test_every_image_with_what_models_say(run: rb.Run) -> None:
    images, flags = run.images("bottle"), run.flags("bottle")
    assert list(images.columns) == [
        "label",
        "score_padim",
        "score_fake",
        "excess",
        "flags",
        "reasons",
        "anomaly_type",
    ]
    assert images["label"].value_counts().to_dict() == {"ok": 7, "ng": 6}
    assert images["excess"].is_monotonic_decreasing
    store = RunStore(run.plan.store, run.name)
    unit = next(unit for unit in run.plan.compared if unit.model == "padim")
    record = store.read(unit.unit_id, "quality", QualityRecord)
    assert record is not None
    scores = ImageScores.from_bytes(store.get_blob(record.images))
    assert images["score_padim"].loc[scores.image_ids.tolist()].tolist() == scores.scores.tolist()
    kinds = {image_id: ", ".join(found) for image_id, found in zip(flags["image_id"], flags["kinds"], strict=True)}
    assert "test/good/mislabelled.png" in kinds
    assert images["flags"].to_dict() == {image_id: kinds.get(image_id, "") for image_id in images.index}
    assert (images["reasons"].astype(bool) == images["flags"].astype(bool)).all()


@pytest.mark.cluster
def test_how_many_images_a_line_needs(run: rb.Run, tmp_path: Path) -> None:
    run.report(tmp_path)
    frame = run.learning_curve("bottle", [8, 999], models=["fake"], progress=False)
    assert list(frame.index) == [("fake", 8), ("fake", 24)]
    assert frame["image_auroc"].between(0, 1).all()
    assert frame["more"].iloc[-1] == 0
    assert frame.attrs["conclusions"][0].startswith("fake: ")
    smaller = rb.open_run(f"{run.experiment.store}/runs/{run.name}.bottle-8-images")
    assert smaller.experiment.train_images == 8
    with pytest.raises(rb.errors.UnknownName, match="did you mean 'fake'"):
        run.learning_curve("bottle", models=["fak"])
    with pytest.raises(rb.errors.InputError, match="3 OK images are too few"):
        run.learning_curve("bottle", [25, 3])
    page = run.report(tmp_path).read_text()
    assert "How many OK images does it need?" in page
    assert frame.attrs["conclusions"][0] in page
    frame = smaller.learning_curve("bottle", [8, 24], progress=False)
    assert list(frame.index) == [("fake", 8)]  # it was trained on 8 images, though its line has 24


@pytest.mark.cluster
def test_how_robust_models_are(run: rb.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.report(tmp_path)
    frame = run.robustness("bottle", images=8, progress=False)
    assert len(frame) == 2 * 15
    assert (frame["failure"] == "").all()
    assert frame.loc[("padim", "as taken"), "lower"] == 0
    assert [text.partition(":")[0] for text in frame.attrs["conclusions"]] == MODELS
    page = run.report(tmp_path).read_text()
    assert "8 labelled test images, perturbed" in page
    assert f"{frame['image_auroc'].to_dict()['padim', 'blur 1 %']:.3f}" in page
    monkeypatch.setattr(cluster_module, "connected", None)  # all of it is committed: nothing is asked of Ray
    monkeypatch.setattr("raybench.scheduler.robustness.connected", None)
    again = run.robustness("bottle", images=8, models=["padim"], progress=False)
    assert again.equals(frame.loc[["padim"]])
    with pytest.raises(rb.errors.UnknownName, match="did you mean 'fake'"):
        run.robustness("bottle", models=["fak"])
    with pytest.raises(rb.errors.UnknownName, match="did you mean 'bottle'"):
        run.robustness("bottel")


@pytest.mark.cluster
def test_a_heat_map(run: rb.Run) -> None:
    found = run.heatmap("bottle", BENT, model="padim")
    assert found.image.shape == (200, 320, 3)
    assert found.values.shape == (200, 320)
    assert found.mask is not None
    assert found.values[found.mask].mean() > found.values[~found.mask].mean()
    assert found.score == pytest.approx(run.images("bottle").loc[BENT, "score_padim"])
    picture = found.plot()
    assert picture.size == (3 * 320 + 2 * 8, 218)
    with Image.open(io.BytesIO(found._repr_png_())) as png:
        assert np.array_equal(np.asarray(png), np.asarray(picture))
    assert run.heatmap("bottle", "test/good/000.png").mask is None
    assert run.heatmap("bottle", BENT).model == run.verdict("bottle").run


@pytest.mark.cluster
def test_names_that_do_not_exist(run: rb.Run) -> None:
    for call, text in (
        (lambda: run.heatmap("bottle", "test/bent/13.png"), "did you mean 'test/bent/013.png'"),
        (lambda: run.heatmap("bottle", BENT, model="padin"), "did you mean 'padim'"),
        (lambda: run.verdict("botle"), "did you mean 'bottle'"),
        (lambda: run.images("botle"), "did you mean 'bottle'"),
        (lambda: run.flags("botle"), "did you mean 'bottle'"),
    ):
        with pytest.raises(rb.errors.UnknownName, match=text):
            call()


@pytest.mark.cluster
def test_status_and_plan(run: rb.Run) -> None:
    status = run.status()
    assert set(status["state"]) == {"done"}
    assert (status["scored_shards"] == status["shards"]).all()
    assert status.index.equals(run.plan.to_frame().index)
    assert {("bottle", "padim", 0), ("bottle", "padim (squashed)", 0)} <= set(status.index)
    assert run.status("bottle").equals(status.loc[["bottle"]])


@pytest.mark.cluster
def test_again_nothing_is_packed_and_no_cluster_is_started(
    run: rb.Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_module, "connected", lambda *_: pytest.fail("connected"))
    monkeypatch.setattr(source, "pack", lambda *_: pytest.fail("packed again"))
    lighter = {"pixels": PIXELS}
    again = rb.run(
        "photos/bottle", models=MODELS, preset="cpu", annotation={"signals": 0}, input=lighter, progress=False
    )
    assert again.uri == run.uri
    assert capsys.readouterr() == ("", "")
    by_experiment = rb.run(run.experiment)
    assert "4 units: 0 done now, 4 done before, 0 failed" in capsys.readouterr().err
    assert by_experiment.board().equals(run.board())
    path = folder / "bottle.yaml"
    path.write_text(run.experiment.to_yaml())
    assert rb.run(path, progress=False).board().equals(run.board())


@pytest.mark.cluster
def test_a_run_is_opened_without_ray(run: rb.Run, folder: Path) -> None:
    code = f"""
import sys
import raybench as rb
run = rb.open_run({run.uri!r})
run.board(), run.verdict("bottle"), run.images("bottle"), run.flags(), run.status()
run.heatmap("bottle", {BENT!r}, model="padim").plot()
print(run.report("copy"), [name for name in ("ray", "torch", "anomalib") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": f"{ROOT}:{PLUGIN}", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    assert found.stdout == "copy/bottle/report/index.html []\n"
    assert rb.open_run("raybench-store/runs/bottle").uri == run.uri


@pytest.mark.cluster
def test_a_report_that_is_up_to_date_is_only_copied(run: rb.Run, folder: Path) -> None:
    page = run.report(folder / "out")
    assert page == folder / "out" / "bottle" / "report" / "index.html"
    created = json.loads(page.with_name("board.json").read_text())["context"]["created"]
    page.unlink()
    assert json.loads(run.report(folder / "out").with_name("board.json").read_text())["context"]["created"] == created
    assert page.is_file()


@pytest.mark.cluster
def test_new_images(run: rb.Run, folder: Path) -> None:
    shutil.copytree(folder / "photos" / "bottle" / "test" / "bent", folder / "monday")
    frame = run.predict("monday", line="bottle", model="padim", progress=False)
    known = run.images("bottle")["score_padim"]
    for row in frame.itertuples():
        assert row.score == pytest.approx(known[f"test/bent/{row.image_id}"], rel=1e-3)
    assert Path(frame.attrs["page"]) == Path("out/bottle/predictions/monday/padim/index.html")
    assert Path(frame.attrs["page"]).is_file()
    with pytest.raises(rb.errors.InputError, match="choose another name"):
        run.predict("photos", line="bottle", model="padim", name="monday", progress=False)


@pytest.mark.cluster
def test_a_model_that_cannot_be_exported(run: rb.Run, folder: Path) -> None:
    with pytest.raises(rb.errors.ModelError, match="fake"):
        run.export("bottle", folder / "export", model="fake")


def test_what_cannot_be_run_is_said_before_anything_is_packed(
    strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "pack", lambda *_: pytest.fail("packed"))
    store = tmp_path / "store"
    with pytest.raises(rb.errors.ExperimentError, match="presett: unknown key; did you mean 'preset'"):
        rb.run(strips, store=store, presett="cpu")
    with pytest.raises(rb.errors.ExperimentError, match="did you mean 'padim'"):
        rb.run(strips, store=store, models=["padin"])
    with pytest.raises(rb.errors.ExperimentError, match="there is no such file"):
        rb.run(tmp_path / "night.yaml")
    with pytest.raises(rb.errors.InputError, match="models, preset: only with a folder of images"):
        rb.run(tmp_path / "night.yaml", models=["padim"], preset="cpu")


def test_a_folder_without_a_layout(tmp_path: Path) -> None:
    with pytest.raises(rb.errors.LineError, match="no known layout"):
        rb.run(tmp_path, store=tmp_path / "store", models=["fake"])


def test_a_packed_line(strips: Path, tmp_path: Path) -> None:
    images = shutil.copytree(strips, tmp_path / "bottle")
    (images / "test" / "good" / "empty.png").write_bytes(b"")
    line = rb.pack(images, to=tmp_path / "store", progress=False)
    assert (line.name, line.uri) == ("bottle", f"file://{tmp_path}/store/lines/bottle")
    assert dict(line.counts) == {"train/ok": 24, "test/ok": 6, "test/ng": 6}
    assert [(reject.path, reject.reason) for reject in line.rejects] == [("test/good/empty.png", "empty_file")]
    assert str(line) == "bottle: test/ng 6, test/ok 6, train/ok 24; 1 files rejected"
    experiment = rb.Experiment(
        name="night", store=str(tmp_path / "store"), lines=("bottle",), models=(rb.ModelChoice(name="fake"),)
    )
    frame = rb.plan(experiment).to_frame()
    assert list(frame.loc[("bottle", "fake", 0), ["train_ok", "scored"]]) == [24, 12]
    with pytest.raises(rb.errors.InputError, match=r"has no report yet.*Run\.report"):
        rb.open_run(experiment).board()


def test_a_line_with_a_region_of_interest(strips: Path, tmp_path: Path) -> None:
    """In Python and by the command."""
    region, store = tmp_path / "region.png", str(tmp_path / "store")
    Image.fromarray(np.pad(np.full((100, 320), 255, np.uint8), ((100, 0), (0, 0)))).save(region)
    line = rb.pack(strips, to=store, name="strip", roi=region, progress=False)
    assert line.manifest.roi is not None
    assert line.manifest.roi.shared
    [sample] = line.images(ids=["test/good/000.png"])
    assert sample.roi is not None
    assert sample.roi.mean() == 0.5
    with pytest.raises(rb.errors.InputError, match="no region of interest"):
        rb.pack(strips, to=store, name="strip", roi=tmp_path / "gone.png", progress=False)
    command = ["pack", str(strips), "--line", "strip", "--to", store, "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, [*command, "--roi", str(region)])
    assert told.exit_code == 0
    assert "region of interest: all images, 50% of their pixels are looked at" in told.output
    assert "region of interest dropped" in CliRunner().invoke(app, command).output.replace("\n", " ")


def test_an_experiment_made_in_python_names_its_faults() -> None:
    with pytest.raises(rb.errors.ExperimentError, match="experiment: 2 problems") as caught:
        rb.Experiment(name="a b", store="s", lines=("x",), models=(rb.ModelChoice(name="fake"),), seed=1)  # type: ignore[call-arg]
    assert "did you mean 'seeds'" in str(caught.value)


@pytest.mark.long  # the same calls as those above
@pytest.mark.cluster
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "raybench-store" / "runs" / "strip" / "report" / "index.html").is_file()
