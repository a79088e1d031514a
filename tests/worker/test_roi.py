"""A run on a line with a region of interest: what lies outside changes no number."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from raybench.config.experiment import ModelChoice
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.decode import decode_mask
from raybench.data.geometry import to_source
from raybench.data.shards import read_rows
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.pixel import PixelQuality, PixelSketch
from raybench.metrics.regions import Regions
from raybench.runs.records import QualityRecord, ScoreRecord, TrainRecord
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import read_scores
from raybench.worker.context import cached_detector, fit_of
from raybench.worker.merge import Partials, merge
from raybench.worker.score import score
from raybench.worker.train import split_train, train
from tests.support.made_maps import MadeMap
from tests.support.made_run import planned, site_of

MODELS = (
    ModelChoice(name="padim", config={"n_features": 8}),
    ModelChoice(name="patchcore", config={"pool_rows": 600, "coreset_ratio": 0.2}),
    ModelChoice(name="dfm"),
    ModelChoice(name="stfpm", config={"steps": 3, "batch": 2}),
    ModelChoice(name="fake"),
)
OUTSIDE = np.ones((200, 320), bool)
OUTSIDE[20:180, 15:290] = False
cv2.circle(hole := np.zeros(OUTSIDE.shape, np.uint8), (160, 60), 13, 1, -1)
OUTSIDE |= hole.astype(bool)
DEVICES = ("cpu", "cpu:0")


def with_region(strips: Path, folder: Path, seed: int | None) -> Path:
    """Copy images to a folder with `roi.png`; with a seed, other pixels outside the region in each of them."""
    shutil.copytree(strips, folder)
    rng = np.random.default_rng(seed)
    for path in (*folder.glob("train/*/*.png"), *folder.glob("test/*/*.png")) if seed is not None else ():
        image = cv2.imread(str(path))
        assert image is not None
        image[OUTSIDE] = rng.integers(0, 256, image.shape, np.uint8)[OUTSIDE]
        cv2.imwrite(str(path), image)
    cv2.imwrite(str(folder / "roi.png"), (~OUTSIDE).astype(np.uint8) * 255)
    return folder


@pytest.fixture(scope="module")
def plans(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Plan]:
    """The same run on images that differ outside of the region of interest, and in nothing else."""
    folder = tmp_path_factory.mktemp("roi")
    images = with_region(strips, folder / "a", None), with_region(strips, folder / "b", 5)
    found = [planned(folder / f"store-{at}", each, 5, *MODELS) for at, each in enumerate(images)]
    assert len({plan.manifests["strip"].training_digest for plan in found}) == 2
    return found[0], found[1]


def judged(plan: Plan, unit: Unit, cache: Path, device: str) -> tuple[TrainRecord, QualityRecord, RunStore]:
    context = replace(site_of(plan, cache), device=device, run=RunStore(plan.store, f"night-{device[-1]}"), batch=3)
    manifest = plan.manifests[unit.line]
    trained = train(unit, manifest, context)
    for shard in manifest.scored_shards:
        score(unit, manifest, shard, context)
    return trained, merge(unit, manifest, context.run, Partials()), context.run


def scored(plan: Plan, unit: Unit, run: RunStore) -> Iterator[tuple[ScoreRecord, list[npt.NDArray[np.float32]]]]:
    for shard in plan.manifests[unit.line].scored_shards:
        record = run.read(unit.unit_id, score_name(shard.key), ScoreRecord)
        assert record
        yield record, [row.heatmap for row in read_scores(run.get_blob(record.shard)) if row.heatmap is not None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", [choice.shown for choice in MODELS])
def test_pixels_outside_change_no_number(model: str, device: str, plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    """In no image of any split: thresholds, scores, heat maps, image, pixel and region metrics are the same bytes."""
    found = []
    for plan in plans:
        unit = next(unit for unit in plan.units if unit.model == model)
        found.append((plan, unit, *judged(plan, unit, tmp_path, device)))
    (plan, unit, trained, merged, run), (other, again, trained_again, merged_again, run_again) = found
    assert unit.detector_id != again.detector_id
    for name in ("threshold", "pixel_threshold", "heat_low", "heat_high"):
        assert getattr(trained, name) == getattr(trained_again, name)
    assert trained.held_out.sha256 == trained_again.held_out.sha256
    assert {name: blob.sha256 for name, blob in trained.model.items()} == {
        name: blob.sha256 for name, blob in trained_again.model.items()
    }
    assert (merged.quality, merged.regions) == (merged_again.quality, merged_again.regions)
    assert merged.images.sha256 == merged_again.images.sha256
    for (record, maps), (record_again, maps_again) in zip(
        scored(plan, unit, run), scored(other, again, run_again), strict=True
    ):
        for name in ("images", "pixels", "regions", "contrast", "traits"):
            assert getattr(record, name).sha256 == getattr(record_again, name).sha256
        for ours, theirs in zip(maps, maps_again, strict=True):
            assert np.array_equal(ours, theirs)


def of_held_out(plan: Plan, unit: Unit, trained: TrainRecord, cache: Path) -> Iterator[npt.NDArray[np.float32]]:
    """The heat of held-back images inside of the region, at the size of the images."""
    context, manifest = site_of(plan, cache), plan.manifests[unit.line]
    context = replace(context, run=RunStore(plan.store, "night-u" if trained.device == "cpu" else "night-0"))
    shards = [context.cached_shard(unit, manifest, shard) for shard in manifest.shards_of("train")]
    _, held_out = split_train(shards, unit.protocol)
    scored = cached_detector(unit, trained, context).score(held_out.batch(range(len(held_out))))
    assert scored.heatmaps is not None
    yield from (to_source(heat, fit_of(unit), *OUTSIDE.shape)[~OUTSIDE] for heat in scored.heatmaps)


@pytest.mark.parametrize("device", DEVICES)
def test_heat_maps_are_judged_inside_alone(device: str, plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    """From the stored maps, by hand: thresholds, counted pixels, peaks, defects and background."""
    plan = plans[0]
    unit = plan.units[0]
    trained, _, run = judged(plan, unit, tmp_path, device)
    held_out = list(of_held_out(plan, unit, trained, tmp_path))
    assert trained.heat_high == pytest.approx(max(heat.max() for heat in held_out), rel=1e-4)
    assert trained.heat_low == pytest.approx(np.median([np.median(heat) for heat in held_out]), rel=1e-4)
    rows = {
        row.image_id: row
        for shard in plan.manifests["strip"].shards
        for row in read_rows(site_of(plan, tmp_path).lines, shard)
    }
    expected, contrasts, regions, low = PixelSketch.empty(), {}, [], np.float32(trained.heat_low)
    for shard in plan.manifests["strip"].scored_shards:
        record = run.read(unit.unit_id, score_name(shard.key), ScoreRecord)
        assert record
        for scores in read_scores(run.get_blob(record.shard)):
            assert scores.heatmap is not None
            assert scores.score == pytest.approx(scores.heatmap.max(), rel=1e-6)  # of what is inside alone
            row = rows[scores.image_id]
            heat = to_source(scores.heatmap, fit_of(unit), row.height, row.width)
            mask = decode_mask(row.mask, row.height, row.width) if row.mask else np.zeros(OUTSIDE.shape, bool)
            made = MadeMap(row.image_id, heat, mask, ~OUTSIDE)
            expected.add([made.pixel_map])
            excess = np.maximum(heat - low, 0)
            defect, normal = mask & ~OUTSIDE, ~mask & ~OUTSIDE
            contrasts[row.image_id] = (
                excess[~OUTSIDE].max(),
                excess[defect].mean() if defect.any() else np.nan,
                excess[normal].mean(),
            )
            count, labels = cv2.connectedComponents(defect.astype(np.uint8), connectivity=8)
            regions += [heat[labels == number].max() for number in range(1, count)]
    found, contrast, peaks = PixelSketch.empty(), HeatmapContrast.empty(), Regions.empty()
    for record, _ in scored(plan, unit, run):
        found.merge(PixelSketch.from_bytes(run.get_blob(record.pixels)))
        contrast = contrast.merge(HeatmapContrast.from_bytes(run.get_blob(record.contrast)))
        peaks = peaks.merge(Regions.from_bytes(run.get_blob(record.regions)))
    ours, theirs = found.evaluate(intervals=False), expected.evaluate(intervals=False)
    for field in fields(PixelQuality):
        assert getattr(ours, field.name).value == pytest.approx(getattr(theirs, field.name).value, abs=1e-4)
    assert np.allclose(np.sort(peaks.peaks), np.sort(regions), rtol=1e-4)
    for at, image_id in enumerate(contrast.image_ids.tolist()):
        peak, inside, outside = contrasts[image_id]
        assert contrast.peaks[at] == pytest.approx(peak, rel=1e-4)
        assert contrast.inside[at] == pytest.approx(inside, rel=1e-4, nan_ok=True)
        if np.isfinite(inside):
            assert contrast.outside[at] == pytest.approx(outside, rel=1e-4)


def test_stored_scores_are_judged_as_new_ones(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    """Labels and masks that come back are cut to the region too."""
    plan = plans[0]
    unit, manifest = plan.units[0], plan.manifests["strip"]
    context = site_of(plan, tmp_path)
    train(unit, manifest, context)
    shard = manifest.scored_shards[0]
    new = score(unit, manifest, shard, context)
    key = context.run.key(unit.unit_id, score_name(shard.key))
    context.run.store.delete(key)
    assert score(unit, manifest, shard, context) == new


def test_a_serial_number_outside_the_region_raises_no_alarm(strips: Path, tmp_path: Path) -> None:
    """What only OK test images have, at their border, are false alarms without the region and none with it."""
    source, rng = tmp_path / "images", np.random.default_rng(0)
    shutil.copytree(strips, source)
    for path in source.glob("test/good/*.png"):  # as unremarkable as an image can be
        image = cv2.imread(str(source / "train" / "good" / f"0{path.stem[1:]}.png"))
        assert image is not None
        cv2.putText(image, str(rng.integers(10**6, 10**7)), (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
        cv2.imwrite(str(path), image)
    alarms, peaks = [], []
    for name in ("without", "with"):
        plan = planned(tmp_path / name, source, 100, ModelChoice(name="padim", config={"n_features": 16}))
        trained, merged, run = judged(plan, plan.units[0], tmp_path, "cpu")
        alarms.append(merged.quality.false_alarm_rate.value)
        [(record, _)] = scored(plan, plan.units[0], run)
        contrast = HeatmapContrast.from_bytes(run.get_blob(record.contrast))
        peaks.append(contrast.peaks[contrast.labels == "ok"].max() / (trained.heat_high or 0.0))
        region = np.zeros((200, 320), np.uint8)
        region[24:] = 255
        cv2.imwrite(str(source / "roi.png"), region)
    assert alarms == [1.0, 0.0]
    assert peaks[1] < 1 < peaks[0]
