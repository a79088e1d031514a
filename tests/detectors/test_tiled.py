"""Tiles: every pixel seen, heat maps where the image is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raybench.data.geometry import plan_tiles, to_network, to_source
from raybench.detectors import registry
from raybench.detectors.protocol import Detector, DeviceScored, FitContext, OnDevice, Scored, TrainImages
from raybench.detectors.registry import InputSize
from raybench.detectors.tiled import DeviceTiled, Tiled, starts
from tests.support.fitting import CONTEXT, Images


class Brightness(Detector):
    """The heat map is the image's first channel."""

    def fit(self, images: TrainImages, context: FitContext) -> None:
        self.seen = images.batch(range(len(images)))

    def score(self, images: np.ndarray) -> Scored:
        return Scored.from_maps(images[..., 0])


class BrightnessOnDevice(Brightness):
    """The same, with tensors of the CPU for a device."""

    def __init__(self, has_maps: bool) -> None:
        super().__init__({}, 48, 48, CONTEXT)
        self.has_maps = has_maps

    def score(self, images: np.ndarray) -> Scored:
        scored = super().score(images)
        return scored if self.has_maps else replace(scored, heatmaps=None)

    def upload(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images)

    def score_on_device(self, images: Tensor) -> DeviceScored:
        scored = self.score(images.numpy())
        maps = None if scored.heatmaps is None else torch.from_numpy(scored.heatmaps)
        return DeviceScored(torch.from_numpy(scored.scores), maps)


@given(length=st.integers(32, 3000), tile=st.integers(8, 32))
def test_tiles_cover_a_side_and_overlap(length: int, tile: int) -> None:
    found = starts(length, tile)
    assert found[0] == 0
    assert found[-1] == length - tile
    assert all(here < there <= here + tile for here, there in itertools.pairwise(found))


@pytest.mark.parametrize("aspect", np.geomspace(0.25, 4, 25).tolist())
def test_a_blob_is_found_where_it_was_planted(aspect: float) -> None:
    height, width = round(900 * aspect**0.5), round(900 / aspect**0.5)
    fit, tile = plan_tiles(height, width, 128 * 128, 9, stride=32, min_side=64)
    detector = Tiled(Brightness({}, tile, tile, CONTEXT), fit.height, fit.width, tile)
    for y, x in ((0.15, 0.2), (0.5, 0.5), (0.8, 0.9)):
        image = np.zeros((height, width, 3), np.uint8)
        centre = (int(y * height), int(x * width))
        cv2.circle(image, centre[::-1], 12, (255, 255, 255), -1)
        found = detector.score(to_network(image, fit)[np.newaxis])
        assert found.heatmaps is not None
        assert found.scores[0] > 200
        heat = to_source(found.heatmaps[0], fit, height, width)
        at = np.unravel_index(cv2.GaussianBlur(heat, (0, 0), 4).argmax(), heat.shape)
        assert abs(at[0] - centre[0]) <= 5
        assert abs(at[1] - centre[1]) <= 5


def test_training_sees_every_tile_of_every_image() -> None:
    inner, images = Brightness({}, 48, 48, CONTEXT), Images(3, 64, 96)
    detector = Tiled(inner, 64, 96, 48)
    detector.fit(images, CONTEXT)
    assert inner.seen.shape == (3 * len(detector.places), 48, 48, 3)
    top, left = detector.places[1]
    assert np.array_equal(inner.seen[1], images.pixels[0, top : top + 48, left : left + 48])
    assert "tiles of 48x48 px" in detector.card().weights_note


@pytest.mark.parametrize("has_maps", [True, False])
def test_tiles_on_a_device_are_scored_and_joined_as_on_the_host(has_maps: bool) -> None:
    detector, images = DeviceTiled(BrightnessOnDevice(has_maps), 64, 96, 48), Images(5, 64, 96).pixels
    assert isinstance(detector, OnDevice)
    found, expected = detector.score_on_device(detector.upload(images)), detector.score(images)
    assert np.array_equal(found.scores.numpy(), expected.scores)
    assert (found.heatmaps is None) == (expected.heatmaps is None) == (not has_maps)
    if found.heatmaps is not None and expected.heatmaps is not None:
        assert found.heatmaps.dtype == torch.float32
        assert np.array_equal(found.heatmaps.numpy(), expected.heatmaps)


@pytest.mark.parametrize(("name", "kind"), [("padim", DeviceTiled), ("fake", Tiled)])
def test_results_stay_on_the_device_where_those_of_the_inner_detector_do(name: str, kind: type[Tiled]) -> None:
    assert type(registry.create(registry.resolve(name, {}), InputSize(96, 160, 64), CONTEXT)) is kind


def test_a_saved_tiled_detector_scores_the_same(tmp_path: Path) -> None:
    spec, size = registry.resolve("patchcore", {"pool_rows": 400}, "cpu"), InputSize(96, 160, 64)
    detector = registry.create(spec, size, CONTEXT)
    detector.fit(Images(3, 96, 160), CONTEXT)
    registry.save_detector(detector, spec, size, tmp_path)
    images = Images(2, 96, 160, seed=2).pixels
    before, after = detector.score(images), registry.load(tmp_path, "cpu", 1).score(images)
    assert np.array_equal(before.scores, after.scores)
    assert before.heatmaps is not None
    assert before.heatmaps.shape == (2, 96, 160)


def test_an_image_no_larger_than_a_tile_is_one_tile() -> None:
    fit, tile = plan_tiles(100, 100, 128 * 128, 9, stride=32, min_side=64)
    assert (fit.height, fit.width, tile) == (128, 128, 128)
    assert starts(128, 128) == [0]
