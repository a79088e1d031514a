"""The path of heat maps on a device, with tensors of the CPU: torch's "cpu:0" is another name than "cpu"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.geometry import MODES, InputFit, to_source
from raybench.data.roi import kept_in_network
from raybench.detectors.protocol import Detector, Scored
from raybench.metrics.heat import HostCounts
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.on_device import DeviceCounts
from raybench.metrics.pixel import PixelQuality, PixelSketch
from raybench.metrics.regions import Regions
from raybench.metrics.roi import Roi
from raybench.runs.records import TrainRecord
from raybench.runs.run import RunStore
from raybench.store import Store
from raybench.worker import heatmaps
from raybench.worker.batches import ScoredBatch
from raybench.worker.context import WorkerContext
from raybench.worker.score import score
from raybench.worker.train import train
from tests.support.made_masks import rois

DEVICE = "cpu:0"
ROUNDING = 1e-5  # as torch computes the place of a pixel in float32
REGION = np.random.default_rng(1).random((6, 9)) < 0.5
IMAGES = np.zeros((2, 48, 64, 3), np.uint8)


def maps_at_source(
    maps: npt.NDArray[np.float32] | torch.Tensor, fit: InputFit, device: str
) -> dict[int, npt.NDArray[np.float32]]:
    rows, frames = [0, 1, 3, 4], [heatmaps.Frame(*size) for size in ((50, 80), (30, 30), (50, 80), (90, 20))]
    found = dict[int, npt.NDArray[np.float32]]()
    for frame, some, resized in heatmaps.at_source(maps, rows, frames, fit, device):
        assert isinstance(resized, list if device == "cpu" else torch.Tensor)
        assert {frames[rows.index(row)] for row in some} == {frame}
        found |= dict(zip(some, map(np.asarray, resized), strict=True))
    assert [found[row].shape for row in rows] == [(frame.height, frame.width) for frame in frames]
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", [lambda maps: maps, torch.from_numpy])
def test_maps_on_a_device_are_resized_as_on_the_host(
    mode: str, where: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32] | torch.Tensor]
) -> None:
    fit = InputFit(mode, 64, 96)
    maps = np.random.default_rng(0).normal(size=(5, 64, 96)).astype(np.float32)
    found, expected = maps_at_source(where(maps), fit, DEVICE), maps_at_source(maps, fit, "cpu")
    for row, full in expected.items():
        assert np.abs(found[row] - full).max() <= ROUNDING * np.ptp(maps)


@pytest.mark.parametrize("roi", [None, Roi.of(REGION)])
def test_middles_and_peaks(roi: Roi | None) -> None:
    maps = np.random.default_rng(0).normal(size=(3, *REGION.shape)).astype(np.float32)
    counted = maps.reshape(3, -1) if roi is None else maps[:, REGION]
    for found in (
        heatmaps.middles_and_peaks(list(maps), roi, "cpu"),
        heatmaps.middles_and_peaks(torch.from_numpy(maps), roi, DEVICE),
    ):
        assert np.array_equal(found, [np.median(counted, axis=1), counted.max(axis=1)])


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_maps_are_filled_outside_the_region_of_interest(value: float) -> None:
    maps = np.random.default_rng(0).normal(size=(2, *REGION.shape)).astype(np.float32)
    for device, some in (("cpu", list(maps)), (DEVICE, torch.from_numpy(maps))):
        filled = np.stack([np.asarray(full) for full in heatmaps.filled(some, Roi.of(REGION), value, device)])
        assert filled.dtype == np.float32
        assert np.array_equal(filled, np.where(REGION, maps, np.float32(value)))
        assert heatmaps.filled(some, None, value, device) is some


@given(rois(), st.sampled_from(MODES), st.integers(0, 2**32 - 1), st.booleans())
def test_a_map_inside_does_not_depend_on_what_is_levelled_outside(
    inside: npt.NDArray[np.bool_], mode: str, seed: int, by_peak: bool
) -> None:
    """On the host and on a device: the same bytes, with the region as it was and the lowest value of it elsewhere."""
    fit, roi = InputFit(mode, 48, 64), Roi.of(inside)
    maps = np.random.default_rng(seed).normal(size=(2, 48, 64)).astype(np.float32)
    scored, detector = Scored.from_maps(maps), cast(Detector, SimpleNamespace(scores_by_peak=by_peak))
    rois_of_both = [roi, None]
    host = heatmaps.inside_only(ScoredBatch(range(2), IMAGES, maps, lambda: scored), rois_of_both, fit, detector)
    tensor = torch.from_numpy(maps)
    device = heatmaps.inside_only(ScoredBatch(range(2), IMAGES, tensor, lambda: scored), rois_of_both, fit, detector)
    levelled = host.scored().heatmaps
    assert levelled is not None
    for other in (host.heatmaps, device.heatmaps, device.scored().heatmaps):
        assert np.array_equal(np.asarray(other), levelled)
    assert np.array_equal(levelled[1], maps[1])
    before, after = (to_source(some[0], fit, *inside.shape) for some in (maps, levelled))
    assert np.array_equal(after[inside], before[inside])
    counted = maps[0][kept_in_network(roi, fit)]
    assert levelled[0].min() == counted.min()
    assert host.scored().scores.tolist() == [counted.max() if by_peak else maps[0].max(), maps[1].max()]
    assert device.scored().scores.tolist() == host.scored().scores.tolist()


def test_counts_are_made_where_the_maps_lie() -> None:
    assert isinstance(heatmaps.counts_on("cpu", 0.0, 1), HostCounts)
    assert isinstance(heatmaps.counts_on(DEVICE, 0.0, 1), DeviceCounts)


@pytest.fixture
def plan(packed_once: Store, tmp_path: Path) -> Plan:
    return make_plan(
        Experiment(
            name="night",
            store=str(tmp_path / "store"),
            lines=(f"{packed_once.uri()}/strip",),
            models=(ModelChoice(name="fake"), ModelChoice(name="padim")),
            input=InputChoice(pixels=64 * 64),
            squashed_twins=False,
        )
    )


@pytest.fixture
def contexts(plan: Plan, packed_once: Store, tmp_path: Path) -> tuple[WorkerContext, WorkerContext]:
    """A worker on the host, and one on a device with a run of its own."""
    host, device = (
        WorkerContext(RunStore(plan.store, name), packed_once, tmp_path, name, 1, batch=3) for name in ("cpu", DEVICE)
    )
    return host, device


@pytest.mark.parametrize("model", ["fake", "padim"])
def test_a_unit_is_trained_and_scored_alike_on_host_and_device(
    model: str, plan: Plan, contexts: tuple[WorkerContext, WorkerContext]
) -> None:
    """`fake` brings its heat maps to the host, `padim` leaves them on the device."""
    host, device = contexts
    unit = next(unit for unit in plan.units if unit.model == model)
    manifest = plan.manifests[unit.line]
    trained, again = (train(unit, manifest, context) for context in contexts)
    assert again.threshold == trained.threshold
    assert levels(again) == pytest.approx(levels(trained), rel=1e-4)

    scored = RunStore(plan.store, "scored with the host's levels")
    scored.commit(unit.detector_id, "train", trained)
    device = replace(device, run=scored)
    on_device, on_host = PixelSketch.empty(), PixelSketch.empty()
    for shard in manifest.scored_shards:
        found, expected = (score(unit, manifest, shard, context) for context in (device, host))
        assert (found.rows, found.masks) == (expected.rows, expected.masks)
        for name in ("shard", "images", "traits"):  # what is made of maps at the network's size
            assert getattr(found, name).sha256 == getattr(expected, name).sha256
        pairs = ((scored, found), (host.run, expected))
        assert_close(*(Regions.from_bytes(run.get_blob(record.regions)) for run, record in pairs))
        assert_close(*(HeatmapContrast.from_bytes(run.get_blob(record.contrast)) for run, record in pairs))
        for sketch, (run, record) in zip((on_device, on_host), pairs, strict=True):
            sketch.merge(PixelSketch.from_bytes(run.get_blob(record.pixels)))
    for field in fields(PixelQuality):
        ours, theirs = (getattr(sketch.evaluate(), field.name) for sketch in (on_device, on_host))
        assert ours.n == theirs.n
        assert ours.value == pytest.approx(theirs.value, abs=1e-5)


def levels(trained: TrainRecord) -> list[float | None]:
    of_pixels = trained.pixel_threshold
    assert of_pixels is not None
    return [trained.heat_low, trained.heat_high, of_pixels.value, of_pixels.typical]


def assert_close(found: Regions | HeatmapContrast, expected: Regions | HeatmapContrast) -> None:
    """Numbers within rounding, everything else equal."""
    highest = float(np.nanmax(expected.peaks, initial=0))
    for field in fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if theirs.dtype.kind == "f":
            assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * highest, equal_nan=True)
        else:
            assert np.array_equal(ours, theirs)
