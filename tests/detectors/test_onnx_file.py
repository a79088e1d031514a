"""Exported files score source pixels as the detectors do, in runtimes that know nothing of raybench."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from raybench.data.geometry import InputFit, box_of, padding_of, to_network, to_source
from raybench.detectors import onnx_file, registry
from raybench.detectors.onnx_graph import Source, write_onnx
from raybench.detectors.protocol import Detector, Scored
from raybench.detectors.registry import InputSize
from raybench.errors import InputError, ModelError
from tests.support.fitting import CONTEXT, REAL, Images, fitted_once


def fit_of(detector: Detector) -> InputFit:
    return InputFit("native", detector.height, detector.width)


def source_of(detector: Detector, height: int, width: int) -> Source:
    """RGB images of 8 bits."""
    fit = fit_of(detector)
    return Source(height, width, 3, None, astuple(box_of(fit, height, width)), padding_of(fit))


def scored(detector: Detector, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores, and heat maps at the size of the images (N, H, W, 3), as a run has them."""
    fit = fit_of(detector)
    found: Scored = detector.score(np.stack([to_network(image, fit) for image in images]))
    if found.heatmaps is None:
        return found.scores, None
    return found.scores, np.stack([to_source(heat, fit, *images.shape[1:3]) for heat in found.heatmaps])


SISTERS = {
    "cflow": "fastflow", "reverse_distillation": "stfpm", "dfm": "padim", "padim": "padim on tiles, below",
    "patchcore": "patchcore of a run, in tests/report/test_onnx_export.py",
    "anomaly_dino": "dinomaly", "inp_former": "dinomaly",
}  # fmt: skip
"""Models that `make test` does not export here, since one of their kind is: flows, students, Gaussians, memories,
transformers."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in SISTERS else []) for name in REAL]
)
def test_onnxruntime_and_openvino_agree_with_the_detector(name: str, tmp_path: Path) -> None:
    detector = fitted_once(name).detector
    height, width = detector.height * 5 // 4, detector.width * 5 // 4 - 3
    images = Images(2, height, width, seed=1).pixels
    scores, maps = scored(detector, images)
    onnx = tmp_path / "model.onnx"
    write_onnx(detector, source_of(detector, height, width), float(np.median(scores)), onnx)
    onnx_file.write_openvino(onnx, tmp_path / "model.xml")
    assert maps is not None
    for scorer in (onnx_file.onnx_scorer(onnx), onnx_file.openvino_scorer(tmp_path / "model.xml")):
        for image, score, heat in zip(images, scores, maps, strict=True):
            found = scorer.score(image)
            assert found.score == pytest.approx(score, rel=1e-3)
            assert found.heatmap is not None
            np.testing.assert_allclose(found.heatmap, heat, atol=1e-3 * np.abs(maps).max(), rtol=1e-3)


def test_tiles_and_threshold_are_in_the_file(tmp_path: Path) -> None:
    spec = registry.resolve("padim", {"n_features": 16}, "cpu")
    detector = registry.create(spec, InputSize(96, 160, 64), CONTEXT)
    detector.fit(Images(3, 96, 160), CONTEXT)
    images = Images(3, 200, 310, seed=2).pixels
    scores, maps = scored(detector, images)
    threshold = float(scores.min() + scores.max()) / 2
    write_onnx(detector, source_of(detector, 200, 310), threshold, tmp_path / "model.onnx")
    onnx_file.write_openvino(tmp_path / "model.onnx", tmp_path / "model.xml")
    assert maps is not None
    for load, name in ((onnx_file.onnx_scorer, "model.onnx"), (onnx_file.openvino_scorer, "model.xml")):
        scorer = load(tmp_path / name)
        found = [scorer.score(image) for image in images]
        assert [each.is_anomalous for each in found] == (scores > threshold).tolist()
        assert {each.is_anomalous for each in found} == {True, False}
        np.testing.assert_allclose([each.score for each in found], scores, rtol=1e-3)
        for each, heat in zip(found, maps, strict=True):
            assert each.heatmap is not None
            np.testing.assert_allclose(each.heatmap, heat, atol=1e-3 * np.abs(heat).max(), rtol=1e-3)


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    detector = fitted_once("fake").detector
    with pytest.raises(ModelError, match="no torch module"):
        write_onnx(detector, source_of(detector, 80, 90), 1.0, tmp_path / "model.onnx")


def test_a_model_without_heat_map_and_without_threshold(tmp_path: Path) -> None:
    detector = registry.create(registry.resolve("anomalib:Dfkde", {"batch": 8}, "cpu"), InputSize(64, 64), CONTEXT)
    detector.fit(Images(24, 64, 64), CONTEXT)
    images = Images(2, 80, 80, seed=1).pixels
    onnx = tmp_path / "model.onnx"
    write_onnx(detector, source_of(detector, 80, 80), None, onnx)
    found = [onnx_file.onnx_scorer(onnx).score(image) for image in images]
    assert [(each.heatmap, each.is_anomalous) for each in found] == [(None, None)] * 2
    np.testing.assert_allclose([each.score for each in found], scored(detector, images)[0], rtol=1e-3)


def test_files_and_providers_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    (tmp_path / "broken.xml").write_text("no model")
    with pytest.raises(InputError, match="onnxruntime cannot load"):
        onnx_file.onnx_scorer(tmp_path / "broken.onnx")
    with pytest.raises(InputError, match="OpenVINO cannot load"):
        onnx_file.openvino_scorer(tmp_path / "broken.xml")
    with pytest.raises(InputError, match=r"no TPU; it has .*CPUExecutionProvider"):
        onnx_file.onnx_scorer(tmp_path / "broken.onnx", "TPU")
