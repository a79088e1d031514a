"""What leaves a run on a line with a region of interest: files, predictions, annotations, pictures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from raybench import Run
from raybench.config.experiment import ModelChoice
from raybench.config.plan import Plan
from raybench.data.decode import encode_mask
from raybench.data.pack import pack
from raybench.detectors.onnx_file import onnx_scorer
from raybench.errors import InputError
from raybench.metrics.roi import Roi
from raybench.report.annotations.export import Outliner, items_of, tasks_of
from raybench.report.contact_sheet import write_contact_sheet
from raybench.report.gallery import hatched
from raybench.report.onnx_export import Exported, export
from raybench.report.predictions import PAGE
from raybench.report.publish import publish_again
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.worker.predict import prepare
from tests.support.commands import ROOT
from tests.support.made_run import finish, planned, site_of
from tests.support.pages import blocks

REGION = np.zeros((200, 320), bool)
cv2.ellipse(ellipse := np.zeros(REGION.shape, np.uint8), (160, 100), (140, 70), 0, 0, 360, 1, -1)
REGION |= ellipse.astype(bool)
HATCHED = "Hatched: outside of the region of interest"


@pytest.fixture(scope="module")
def images(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "strip"
    shutil.copytree(strips, folder)
    (folder / "roi.png").write_bytes(encode_mask(REGION))
    return folder


@pytest.fixture(scope="module")
def plan(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run of padim with its report."""
    plan = planned(tmp_path_factory.mktemp("store"), images, 5, ModelChoice(name="padim", config={"n_features": 16}))
    finish(plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path_factory.mktemp("cache")))
    publish_again(plan)
    return plan


@pytest.fixture(scope="module")
def exported(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(plan, "strip", "padim", tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("cache"))


def spoilt(path: Path, seed: int = 0) -> np.ndarray:
    """An image with other pixels outside the region, (H, W, 3) BGR."""
    image = np.asarray(cv2.imread(str(path)))
    image[~REGION] = np.random.default_rng(seed).integers(0, 256, image.shape, np.uint8)[~REGION]
    return image


def test_an_exported_file_has_the_region(plan: Plan, exported: Exported, images: Path) -> None:
    """Pixels outside change nothing, the scores are those of the run, and the heat map says nothing there."""
    assert exported.difference < 1e-3
    scorer, scores = onnx_scorer(exported.files[0]), Run(plan).images("strip")["score_padim"]
    for image_id in ("test/good/000.png", "test/scratch/000.png", "test/missing_hole/001.png"):
        original = np.ascontiguousarray(np.asarray(cv2.imread(str(images / image_id)))[..., ::-1])
        other = np.ascontiguousarray(spoilt(images / image_id)[..., ::-1])
        found, again = scorer.score(original), scorer.score(other)
        assert (found.score, found.is_anomalous) == (again.score, again.is_anomalous)
        assert found.score == pytest.approx(scores[image_id], rel=1e-3)
        assert found.heatmap is not None
        assert again.heatmap is not None
        assert np.array_equal(found.heatmap, again.heatmap)
        assert set(found.heatmap[~REGION].tolist()) == {float(found.heatmap[REGION].min())}


def test_the_example_of_the_docs_scores_as_the_run_did(
    plan: Plan, exported: Exported, images: Path, tmp_path: Path
) -> None:
    """With onnxruntime alone, on images that differ outside."""
    (example,) = (block.text for block in blocks(ROOT / "docs/predict-and-export.md") if block.language == "python")
    scores = Run(plan).images("strip")["score_padim"]
    for image_id in scores.index:
        (tmp_path / image_id).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / image_id), spoilt(images / image_id))
    command = [sys.executable, "-I", "-c", example, str(exported.files[0]), *scores.index]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = {row.split()[0]: float(row.split()[1]) for row in told.splitlines()}
    assert found == pytest.approx(scores.to_dict(), rel=1e-3)


@pytest.fixture
def of_each(images: Path, plan: Plan, tmp_path: Path) -> Plan:
    """The run, with a line of which an image has another region."""
    folder = tmp_path / "own"
    shutil.copytree(images, folder)
    (folder / "roi" / "test" / "good").mkdir(parents=True)
    (folder / "roi" / "test" / "good" / "000.png").write_bytes(encode_mask(~REGION))
    lines = open_store(str(tmp_path / "store")).sub("lines")
    manifest = pack(open_store(str(folder)), lines, "strip")
    return replace(plan, manifests={"strip": manifest}, elsewhere={"strip": lines})


def test_regions_of_single_images_leave_no_line(of_each: Plan, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pack the images of each region as a line"):
        export(of_each, "strip", "padim", tmp_path / "out", tmp_path)
    with pytest.raises(InputError, match="pack the images of each region as a line"):
        prepare(RunStore.of(of_each), of_each.units[0], of_each.line("strip"), open_store(str(images)), "own")


def test_new_images_have_the_region_of_the_line(plan: Plan, images: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for index, path in enumerate(sorted(images.glob("test/*/*.png"))):
        cv2.imwrite(str(new / f"{path.parent.name}-{path.name}"), spoilt(path, index))
    cv2.imwrite(str(new / "small.png"), np.zeros((100, 160, 3), np.uint8))
    frame = Run(plan).predict(new, line="strip", model="padim", folder=tmp_path / "out", progress=False)
    scores = Run(plan).images("strip")["score_padim"]
    expected = {str(name).removeprefix("test/").replace("/", "-"): score for name, score in scores.items()}
    assert dict(zip(frame["image_id"], frame["score"], strict=True)) == pytest.approx(expected, rel=1e-4)
    page = Path(frame.attrs["page"])
    assert page.name == PAGE
    assert HATCHED in page.read_text()
    assert "roi_size" in page.read_text()


def test_no_outline_lies_outside(plan: Plan, images: Path) -> None:
    """Even where every pixel is anomalous."""
    run, unit = RunStore.of(plan), plan.units[0]
    tasks = tasks_of(run, "strip")
    items = list(items_of(plan, run, "strip", tasks, Outliner(unit, -np.inf)))
    assert [item.mask.sum() for item in items if item.model]
    assert all(np.array_equal(item.mask, REGION) for item in items if item.model)


def test_a_heat_map_says_nothing_outside(plan: Plan, images: Path) -> None:
    found = Run(plan).heatmap("strip", "test/scratch/000.png", "padim")
    assert found.roi is not None
    assert np.array_equal(found.roi, REGION)
    assert set(found.values[~REGION].tolist()) == {float(found.values[REGION].min())}
    assert np.array_equal(found.image, np.asarray(cv2.imread(str(images / "test/scratch/000.png")))[..., ::-1])
    drawn = np.asarray(found.plot())
    assert drawn.shape == np.asarray(replace(found, roi=None).plot()).shape
    assert not np.array_equal(drawn, np.asarray(replace(found, roi=None).plot()))


def test_the_report_hatches_what_is_outside(plan: Plan, strips: Path, tmp_path: Path) -> None:
    page = RunStore.of(plan).get_report("index.html").decode()
    assert page.count(HATCHED) == 2  # in the view of the line, and in that of the image
    other = planned(tmp_path, strips, 20)
    finish(other.units[0], other.manifests["strip"], site_of(other, tmp_path))
    publish_again(other)
    assert HATCHED not in RunStore.of(other).get_report("index.html").decode()


def test_the_contact_sheet_shows_the_region(plan: Plan, tmp_path: Path) -> None:
    page = write_contact_sheet(plan.line("strip"), tmp_path).read_text()
    assert HATCHED in page
    assert len(re.findall(f"{REGION.mean():.0%} looked at", page)) == page.count("<figure>")


@pytest.mark.parametrize("scale", [1, 2])
def test_only_what_lies_outside_is_hatched(scale: int) -> None:
    image = np.full((200 // scale, 320 // scale, 3), 200, np.uint8)
    found = hatched(image, Roi.of(REGION))
    inside = REGION[::scale, ::scale]
    sure = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert (found[sure] == 200).all()
    outside = cv2.erode((~inside).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert found[outside].max() < 150
    assert len(np.unique(found[outside])) == 2
    assert hatched(image, None) is image
