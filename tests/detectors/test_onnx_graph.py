"""The exported graph prepares source pixels as the evaluated detector's images were prepared, to the byte."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raybench.data.decode import Pixels, eight_bit, level_table
from raybench.data.geometry import GREY, InputFit, box_of, padding_of, to_network, to_source
from raybench.data.roi import fill_outside, kept_in_network, level_outside
from raybench.detectors import onnx_file
from raybench.detectors.onnx_graph import ExportedModel, Source, ToNetwork, ToSource, write_onnx
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.tiled import Tiled
from raybench.detectors.torch_detector import TorchDetector
from raybench.metrics.roi import Roi
from raybench.worker.batches import ScoredBatch
from raybench.worker.heatmaps import inside_only
from tests.support.fitting import CONTEXT, Images

BLACK, WHITE = 100, 4095


def source_of(image: Pixels, fit: InputFit, roi: Roi | None = None) -> Source:
    height, width, channels = image.shape
    levels = None if image.dtype == np.uint8 else level_table(WHITE, BLACK)
    box, inside = astuple(box_of(fit, height, width)), None if roi is None else roi.inside
    return Source(height, width, channels, levels, box, padding_of(fit), inside, GREY)


def region_of(image: Pixels, seed: int) -> Roi | None:
    """No region of interest, or a ragged one of at least one pixel."""
    inside = np.random.default_rng(seed).random(image.shape[:2]) < 0.6
    inside[0, 0] = True
    return Roi.of(inside) if seed % 3 else None


def noise(seed: int, height: int, width: int, channels: int, dtype: type[np.uint8] | type[np.uint16]) -> Pixels:
    values = np.random.default_rng(seed).integers(0, 256 if dtype is np.uint8 else 4200, (height, width, channels))
    return values.astype(dtype)


def prepared(image: Pixels, fit: InputFit, roi: Roi | None = None) -> np.ndarray:
    """The network's input, as the decode cache of a run holds it."""
    rgb = np.repeat(eight_bit(image, WHITE, BLACK), 3 // image.shape[2], axis=2)
    return to_network(fill_outside(rgb, roi), fit)


side = st.integers(1, 400)
factor = st.integers(1, 4)
images = st.builds(
    noise, st.integers(0, 99), side, side, st.sampled_from((1, 3)), st.sampled_from((np.uint8, np.uint16))
)
fits = st.builds(
    lambda mode, rows, columns: InputFit(mode, 32 * rows, 32 * columns),
    st.sampled_from(("native", "letterbox", "squash")), st.integers(1, 8), st.integers(1, 8),
)  # fmt: skip


@given(image=images, fit=fits, seed=st.integers(0, 99))
@settings(max_examples=60)
def test_the_network_gets_the_same_bytes(image: Pixels, fit: InputFit, seed: int) -> None:
    roi = region_of(image, seed)
    found = ToNetwork(source_of(image, fit, roi), fit.height, fit.width)(torch.from_numpy(image)[None])
    np.testing.assert_array_equal(found[0].numpy(), prepared(image, fit, roi))


@given(rows=factor, columns=factor, seed=st.integers(0, 99))
@settings(max_examples=16)
def test_the_network_gets_the_same_bytes_of_whole_blocks(rows: int, columns: int, seed: int) -> None:
    fit = InputFit("squash", 32, 64)
    image = noise(seed, 32 * rows, 64 * columns, 3, np.uint8)
    found = ToNetwork(source_of(image, fit), 32, 64)(torch.from_numpy(image)[None])
    np.testing.assert_array_equal(found[0].numpy(), prepared(image, fit))


@given(image=images, fit=fits, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_heat_maps_get_the_size_of_the_source(image: Pixels, fit: InputFit, seed: int) -> None:
    roi = region_of(image, seed)
    heat = np.random.default_rng(0).normal(0, 1, (fit.height, fit.width)).astype(np.float32)
    found = ToSource(source_of(image, fit, roi))(torch.from_numpy(heat)[None])[0].numpy()
    expected = level_outside(to_source(heat, fit, *image.shape[:2]), None if roi is None else roi.inside)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)  # positions of pixels are rounded to float32


class Mix(nn.Module):
    """A network whose heat map is a mix of the channels, and whose score is its mean."""

    def forward(self, images: Tensor) -> Any:
        heat = (images * torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)).sum(1)
        return SimpleNamespace(pred_score=heat.mean((1, 2)), anomaly_map=heat)


class MixDetector(TorchDetector[None]):
    def build(self) -> nn.Module:
        return Mix()

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        pass

    def card(self) -> Card:
        return Card("mix", "none", "none", "no weights", 0)


@pytest.mark.parametrize("by_peak", [True, False])
@pytest.mark.parametrize("tile", [0, 32])
def test_scores_are_those_of_the_region(tile: int, by_peak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a detector whose score is the peak of its heat map, whole or in tiles, the peak inside of the region."""
    monkeypatch.setattr(MixDetector, "scores_by_peak", by_peak)
    fit, image = InputFit("tile" if tile else "native", 64, 96), noise(3, 90, 130, 3, np.uint8)
    roi = Roi.of(np.indices((90, 130)).sum(0) < 90)
    inner = MixDetector(None, tile or 64, tile or 96, CONTEXT)
    inner.fit(Images(2, inner.height, inner.width), CONTEXT)
    tiled = Tiled(inner, 64, 96, tile) if tile else None
    detector, pixels = tiled or inner, prepared(image, fit, roi)[np.newaxis]
    assert detector.scores_by_peak == by_peak
    found = detector.score(pixels)
    scored = inside_only(ScoredBatch(range(1), pixels, found.heatmaps, lambda: found), [roi], fit, detector).scored()
    source = replace(source_of(image, fit, roi), scored=kept_in_network(roi, fit) if by_peak else None)
    outputs = ExportedModel(inner, tiled, source, 0.5)(torch.from_numpy(image)[None])
    assert outputs["score"].item() == pytest.approx(scored.scores[0], rel=1e-6)
    assert outputs["score"].shape == (1,)
    assert (scored.scores[0] == found.scores[0]) == (not by_peak)


@pytest.mark.parametrize(
    ("fit", "shape", "dtype"),
    [
        (InputFit("native", 64, 96), (200, 320, 1), np.uint16),
        (InputFit("letterbox", 64, 64), (30, 50, 3), np.uint8),
    ],
    ids=["grey 16 bit padded", "RGB enlarged letterbox"],
)
def test_runtimes_prepare_images_alike(
    fit: InputFit, shape: tuple[int, int, int], dtype: type[Any], tmp_path: Path
) -> None:
    image = noise(1, *shape, dtype)
    detector = MixDetector(None, fit.height, fit.width, CONTEXT)
    detector.fit(Images(2, fit.height, fit.width), CONTEXT)
    scored = detector.score(prepared(image, fit)[np.newaxis])
    assert scored.heatmaps is not None
    heat = to_source(scored.heatmaps[0], fit, *shape[:2])
    onnx, openvino = tmp_path / "model.onnx", tmp_path / "model.xml"
    write_onnx(detector, source_of(image, fit), 0.5, onnx)
    onnx_file.write_openvino(onnx, openvino)
    for scorer in (onnx_file.onnx_scorer(onnx), onnx_file.openvino_scorer(openvino)):
        found = scorer.score(image)
        assert found.score == pytest.approx(scored.scores[0], rel=1e-5)
        assert found.heatmap is not None
        np.testing.assert_allclose(found.heatmap, heat, atol=1e-4)  # one step of one pixel is 4e-3
        assert found.is_anomalous is True
