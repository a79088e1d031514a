"""A line's winner leaves as a file that scores as it did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from raybench.analysis.select import select_unit
from raybench.cli import app
from raybench.config.experiment import ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.line import Line
from raybench.data.pack import pack
from raybench.detectors.onnx_file import Outputs, Scorer, onnx_scorer, openvino_scorer
from raybench.detectors.onnx_graph import Source, write_onnx
from raybench.detectors.protocol import Detector
from raybench.detectors.torch_detector import TorchDetector
from raybench.errors import InputError, IntegrityError, ModelError, UnknownName
from raybench.metrics.image import ImageScores
from raybench.report import onnx_export
from raybench.report.export_check import CheckImages, check_export, largest_difference
from raybench.report.onnx_export import Exported, export, sample_images
from raybench.report.publish import publish_again
from raybench.runs.records import QualityRecord, TrainRecord
from raybench.runs.run import RunStore
from raybench.store import open_store
from tests.support.commands import ROOT
from tests.support.made_run import finish, planned, site_of
from tests.support.pages import blocks


@pytest.fixture(scope="module")
def camera(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The strips as a camera of 12 bits delivers them: grey, in 16 bits."""
    folder = tmp_path_factory.mktemp("camera") / "strip"
    shutil.copytree(strips, folder)
    for path in [*folder.glob("train/*/*.png"), *folder.glob("test/*/*.png")]:
        grey = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint16)
        cv2.imwrite(str(path), grey * 16)
    return folder


@pytest.fixture(scope="module")
def done(camera: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run of patchcore and fake, worked off without Ray."""
    models = (ModelChoice(name="patchcore", config={"pool_rows": 600}), ModelChoice(name="fake"))
    plan = planned(tmp_path_factory.mktemp("store"), camera, 4, *models)
    context = site_of(plan, tmp_path_factory.mktemp("cache"))
    for unit in plan.units:
        finish(unit, plan.manifests[unit.line], context)
    publish_again(plan)
    return plan


@pytest.fixture(scope="module")
def exported(done: Plan, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Patchcore's files."""
    return export(done, "strip", "patchcore", tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the ONNX file, with all files beside it, on the machine that runs it."""
    for path in exported.files:
        shutil.copy(path, tmp_path)
    return tmp_path / exported.files[0].name


@pytest.fixture
def graph_made(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patchcore's graph is the one that was exported before; to make it takes many seconds."""

    def write(detector: Detector, source: Source, threshold: float | None, path: Path) -> None:
        if isinstance(detector, TorchDetector):
            shutil.copy(exported.files[0], path)
        else:
            write_onnx(detector, source, threshold, path)

    monkeypatch.setattr(onnx_export, "write_onnx", write)


def test_the_winner_is_written_and_checked(done: Plan, exported: Exported) -> None:
    names = [path.name.removeprefix("strip-patchcore.") for path in exported.files]
    assert names == ["onnx", "xml", "bin", "check.npz", "md", "json"]
    assert all(path.is_file() for path in exported.files)
    assert 0 <= exported.difference < 1e-3
    assert exported.images == 8
    about = json.loads(exported.files[-1].read_text())
    assert about["input"] == {"name": "image", "shape": [1, 200, 320, 1], "dtype": "uint16", "channels": "grey"}
    assert about["levels"] == {"black": 0, "white": 4095}
    assert about["threshold"]["value"] > 0
    card = ModelCard(exported.files[-2].read_text(encoding="utf-8"))
    assert "image_auroc" in {each.metric_type for each in card.data.eval_results}


@pytest.mark.usefixtures("graph_made")
def test_without_a_model_it_is_the_winner(done: Plan, tmp_path: Path) -> None:
    winner = publish_again(done).verdict_on("strip").run
    if winner == "patchcore":
        assert export(done, "strip", None, tmp_path / "again", tmp_path).model == winner
    else:
        with pytest.raises(ModelError, match="no torch module"):
            export(done, "strip", None, tmp_path / "again", tmp_path)


def test_the_example_of_the_docs_scores_files_as_the_run_did(done: Plan, exported: Exported, camera: Path) -> None:
    (example,) = (block.text for block in blocks(ROOT / "docs/predict-and-export.md") if block.language == "python")
    assert len(example.splitlines()) <= 20
    assert "raybench" not in example
    run, unit = RunStore.of(done), select_unit(done, "strip", "patchcore")
    trained, merged = run.read(unit.detector_id, "train", TrainRecord), run.read(unit.unit_id, "quality", QualityRecord)
    assert trained is not None
    assert merged is not None
    scored = ImageScores.from_bytes(run.get_blob(merged.images))
    command = [sys.executable, "-I", "-c", example, str(exported.files[0]), *scored.image_ids]
    told = subprocess.run(command, cwd=camera, capture_output=True, text=True, check=True).stdout
    rows = [row.split() for row in told.splitlines()]
    assert [row[0] for row in rows] == scored.image_ids.tolist()
    np.testing.assert_allclose([float(row[1]) for row in rows], scored.scores, rtol=1e-3)
    assert [row[2] for row in rows] == [str(score > trained.threshold.value) for score in scored.scores]
    assert {row[2] for row in rows} == {"True", "False"}


def test_the_example_in_cpp_scores_as_the_run_did(exported: Exported, tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    folders = [Path(os.environ.get("ONNXRUNTIME_HOME", "/opt/onnxruntime")), Path("/usr/local"), Path("/usr")]
    headers = [path for folder in folders for path in folder.glob("include/**/onnxruntime_cxx_api.h")]
    if compiler is None or not headers:
        pytest.skip("no C++ compiler, or no C++ headers of onnxruntime (ONNXRUNTIME_HOME names its folder)")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)  # the name that the linker writes into the program
    program, source = tmp_path / "score", ROOT / "docs/examples/score.cpp"
    linked = [f"-I{headers[0].parent}", library, f"-Wl,-rpath,{tmp_path}"]
    command = [compiler, "-std=c++17", "-Wall", "-Werror", source, *linked, "-o", program]
    subprocess.run([*map(str, command)], check=True)
    stored = CheckImages.load(exported.files[0])
    for image, score in zip(stored.images, stored.scores, strict=True):
        image.tofile(tmp_path / "pixels")
        told = subprocess.run(
            [str(program), str(exported.files[0]), str(tmp_path / "pixels")], capture_output=True, text=True, check=True
        ).stdout.split()
        assert float(told[0]) == pytest.approx(score, rel=1e-3)
        assert told[1] == str(int(score > stored.threshold))


def test_the_file_is_checked_where_it_runs(copied: Path) -> None:
    for file in (copied, copied.with_suffix(".xml")):
        found = check_export(file)
        assert found.passed
        assert found.images == 4
        assert 0 <= found.difference < 1e-3
        assert found.milliseconds > 0
    told = CliRunner().invoke(app, ["export", "--check", str(copied)])
    assert told.exit_code == 0
    assert "CPUExecutionProvider: largest difference" in told.stdout


def test_a_file_that_scores_otherwise_fails_the_check(copied: Path) -> None:
    stored = CheckImages.load(copied)
    for change in (
        {"scores": stored.scores * 1.002},
        {"heatmaps": stored.heatmaps + 0.01 * stored.heatmaps.max()},
        {"images": stored.images // 2},
        {"scores": np.array([np.nan, *stored.scores[1:]])},
    ):
        replace(stored, **change).save(copied)
        assert check_export(copied).passed is False
    replace(stored, threshold=2 * float(stored.scores.max())).save(copied)
    found = check_export(copied)
    assert found.difference < 1e-3
    assert (found.decisions > 0, found.passed) == (True, False)
    told = CliRunner().invoke(app, ["export", "--check", str(copied)])
    assert told.exit_code == 1
    assert "images are decided otherwise" in told.stdout
    assert "does not score as the detector did" in told.stdout


@pytest.mark.parametrize("load", [onnx_scorer, openvino_scorer])
def test_an_image_of_another_type_or_size_is_refused(copied: Path, load: Callable[[Path], Scorer]) -> None:
    """OpenVINO's binding would cast the pixels without a word, and the score would be another."""
    scorer = load(copied if load is onnx_scorer else copied.with_suffix(".xml"))
    image = CheckImages.load(copied).images[0]
    assert np.isfinite(scorer.score(image).score)
    for other in ((image // 16).astype(np.uint8), image / np.float32(65535), image[1:], np.repeat(image, 3, 2)):
        with pytest.raises(InputError, match=r"the file takes images of \(200, 320, 1\) uint16, not of"):
            scorer.score(other)


def test_check_images_that_do_not_fit_each_other(copied: Path) -> None:
    stored = CheckImages.load(copied)
    for change in ({"images": stored.images[:0]}, {"step": 0}, {"scores": stored.scores[:1]}):
        replace(stored, **change).save(copied)
        with pytest.raises(IntegrityError, match="does not hold what it should"):
            check_export(copied)
    replace(stored, images=stored.images[:, 1:]).save(copied)
    with pytest.raises(InputError, match="the file takes images of"):
        check_export(copied)


@pytest.mark.usefixtures("graph_made")
def test_a_file_that_scores_otherwise_is_not_left_behind(
    done: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "largest_difference", lambda *pair: 0.01)
    with pytest.raises(ModelError, match=r"scores otherwise, by 0\.01"):
        export(done, "strip", "patchcore", tmp_path / "out", tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_differences_count_by_the_distance_to_the_threshold_too() -> None:
    one, other = Outputs(100.0, None, None), Outputs(100.05, None, None)
    assert largest_difference(other, one) == pytest.approx(0.0005)
    assert largest_difference(other, one, unit=1.0) == pytest.approx(0.005)


def test_a_check_without_its_images(copied: Path) -> None:
    path = CheckImages.path_of(copied)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match="not images of an exported file"):
        check_export(copied)
    path.unlink()
    with pytest.raises(InputError, match="copy it here with the exported file"):
        check_export(copied)
    with pytest.raises(InputError, match="there is no file"):
        check_export(copied.with_name("other.onnx"))


def test_a_line_of_several_sizes_says_what_to_do(done: Plan, tmp_path: Path) -> None:
    several = replace(done, manifests={"strip": replace(done.manifests["strip"], max_width=400)})
    with pytest.raises(InputError, match=r"several sizes, 200x320 to 200x400 .* --size HEIGHTxWIDTH"):
        export(several, "strip", "patchcore", tmp_path, tmp_path)
    with pytest.raises(InputError, match="no image of 200x400 pixels"):
        export(several, "strip", "patchcore", tmp_path, tmp_path, (200, 400))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs a run and --line, or --check FILE"),
        (["night.yaml"], "needs a run and --line, or --check FILE"),
        (["night.yaml", "--check", "strip.onnx"], "give no run and no --line"),
        (["night.yaml", "--line", "strip", "--size", "200"], "--size 200: write HEIGHTxWIDTH"),
    ],
)
def test_commands_that_lack_something(arguments: list[str], told: str) -> None:
    error = CliRunner().invoke(app, ["export", *arguments]).exception
    assert isinstance(error, InputError)
    assert told in str(error)


def line_of(folder: Path, *images: np.ndarray) -> Line:
    """A line of these OK images."""
    (folder / "images" / "ok").mkdir(parents=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / "images" / "ok" / f"{index}.png"), image)
    lines = open_store(str(folder / "lines"))
    return Line(lines, pack(open_store(str(folder / "images")), lines, "line"))


def test_a_file_takes_images_of_one_kind(tmp_path: Path) -> None:
    grey, colour = np.full((40, 60), 90, np.uint8), np.full((40, 60, 3), (30, 60, 90), np.uint8)
    (image,) = sample_images(line_of(tmp_path / "grey", grey), (40, 60))
    assert image.shape == (40, 60, 1)
    images = sample_images(line_of(tmp_path / "colour", grey, colour), (40, 60))
    assert sorted(image[0, 0].tolist() for image in images) == [[90, 60, 30], [90, 90, 90]]
    with pytest.raises(InputError, match="of 8 and of 16 bits, and an exported file takes one kind"):
        sample_images(line_of(tmp_path / "deep", grey, grey.astype(np.uint16) * 40), (40, 60))


def test_what_cannot_be_exported_stands_on_the_board(done: Plan) -> None:
    from raybench.report.conditions import conditions

    assert "fake cannot be exported: it has no torch module" in conditions(publish_again(done))


def test_names_that_do_not_exist(done: Plan, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'patchcore'"):
        export(done, "strip", "patchcor", tmp_path, tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'strip'"):
        export(done, "stripe", None, tmp_path, tmp_path)
    fresh = make_plan(done.experiment.model_copy(update={"seeds": (7,)}))
    with pytest.raises(InputError, match="not trained yet"):
        export(fresh, "strip", "patchcore", tmp_path, tmp_path)
