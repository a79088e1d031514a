"""The path of heat maps on a device, with tensors of the CPU: torch's "cpu:0" is another name than "cpu"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.geometry import MODES, InputFit
from raybench.metrics.heat import HostCounts
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.on_device import DeviceCounts
from raybench.metrics.pixel import PixelQuality, PixelSketch
from raybench.metrics.regions import Regions
from raybench.runs.records import TrainRecord
from raybench.runs.run import RunStore
from raybench.store import Store
from raybench.worker import heatmaps
from raybench.worker.context import WorkerContext
from raybench.worker.score import score
from raybench.worker.train import train

DEVICE = "cpu:0"
ROUNDING = 1e-5  # as torch computes the place of a pixel in float32


def maps_at_source(
    maps: npt.NDArray[np.float32] | torch.Tensor, fit: InputFit, device: str
) -> dict[int, npt.NDArray[np.float32]]:
    rows, sizes = [0, 1, 3, 4], [(50, 80), (30, 30), (50, 80), (90, 20)]
    found = dict[int, npt.NDArray[np.float32]]()
    for some, resized in heatmaps.at_source(maps, rows, sizes, fit, device):
        assert isinstance(resized, list if device == "cpu" else torch.Tensor)
        found |= dict(zip(some, map(np.asarray, resized), strict=True))
    assert [found[row].shape for row in rows] == sizes
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


def test_middles_and_peaks() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 6, 9)).astype(np.float32)
    for found in (
        heatmaps.middles_and_peaks(list(maps), "cpu"),
        heatmaps.middles_and_peaks(torch.from_numpy(maps), DEVICE),
    ):
        assert np.array_equal(found, [[np.median(each) for each in maps], [each.max() for each in maps]])


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
        assert_close(*(HeatmapContrast.from_bytes(run.get_blob(record.glow)) for run, record in pairs))
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
